"""The Lennard-Jones potential with numba. An atom's row is added up in order, then the atoms of a system."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_list._cpu_shift import shift


@jit
def wrapped_positions(
    positions: np.ndarray,
    cell: np.ndarray,
    segment_ptr: np.ndarray,
    wrap_offsets: np.ndarray,
    x: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write r - w h of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            w0, w1, w2 = wrap_offsets[i, 0], wrap_offsets[i, 1], wrap_offsets[i, 2]
            for c in range(3):
                x[i, c] = positions[i, c]
                if w0 != 0 or w1 != 0 or w2 != 0:
                    x[i, c] -= w0 * cell[b, 0, c] + w1 * cell[b, 1, c] + w2 * cell[b, 2, c]


@jit
def collect(
    i: int,
    first: int,
    x: np.ndarray,
    cell: np.ndarray,
    row_ptr: np.ndarray,
    neighbors: np.ndarray,
    images: np.ndarray,
    limit: float,
    d: np.ndarray,
    who: np.ndarray,
) -> int:
    """Collect the vectors, squares and indices of the neighbors of atom i inside the squared cutoff, in row order."""
    found = 0
    xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
    for k in range(row_ptr[i], row_ptr[i + 1]):
        j = first + neighbors[k]
        dx, dy, dz = x[j, 0] - xi, x[j, 1] - yi, x[j, 2] - zi
        code = images[k]
        if code != 0:
            s0, s1, s2 = shift(code)
            dx += s0 * cell[0, 0] + s1 * cell[1, 0] + s2 * cell[2, 0]
            dy += s0 * cell[0, 1] + s1 * cell[1, 1] + s2 * cell[2, 1]
            dz += s0 * cell[0, 2] + s1 * cell[1, 2] + s2 * cell[2, 2]
        square = dx * dx + dy * dy + dz * dz
        d[0, found] = dx
        d[1, found] = dy
        d[2, found] = dz
        d[3, found] = square
        who[found] = j
        found += not square >= limit
    return found


@jit
def evaluate(
    count: int,
    d: np.ndarray,
    kinds: np.ndarray,
    table: np.ndarray,
    cutoff: float,
    switch_start: float,
) -> None:
    """Turn squares into energies (row 4) and slopes (dE/dr)/r (row 5); `table` has 4 eps, sigma^2 and the shift."""
    if table.shape[1] == 1:
        well, size, lift = table[0, 0], table[1, 0], table[2, 0]
        for m in range(count):
            inverse = 1.0 / d[3, m]
            ratio = size * inverse
            sixth = ratio * ratio * ratio
            d[4, m] = well * sixth * (sixth - 1.0) - lift
            d[5, m] = -6.0 * well * sixth * (2.0 * sixth - 1.0) * inverse
    else:
        for m in range(count):
            kind = kinds[m]
            well, size, lift = table[0, kind], table[1, kind], table[2, kind]
            inverse = 1.0 / d[3, m]
            ratio = size * inverse
            sixth = ratio * ratio * ratio
            d[4, m] = well * sixth * (sixth - 1.0) - lift
            d[5, m] = -6.0 * well * sixth * (2.0 * sixth - 1.0) * inverse
    if switch_start < cutoff:
        width = cutoff - switch_start
        for m in range(count):
            r = math.sqrt(d[3, m])
            t = max(r - switch_start, 0.0) / width
            taper = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
            decline = -30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) / width
            d[5, m] = d[5, m] * taper + d[4, m] * decline / r
            d[4, m] = d[4, m] * taper


@jit
def pair_table(epsilon: np.ndarray, sigma: np.ndarray, cutoff: float, shift: bool) -> np.ndarray:
    """Return 4 eps, sigma^2 and the energy at the cutoff of each pair of types, [3, T * T]."""
    types = epsilon.shape[0]
    table = np.empty((3, types * types))
    for a in range(types):
        for b in range(types):
            kind = a * types + b
            table[0, kind] = 4.0 * epsilon[a, b]
            table[1, kind] = sigma[a, b] * sigma[a, b]
            ratio = table[1, kind] / (cutoff * cutoff)
            sixth = ratio * ratio * ratio
            table[2, kind] = table[0, kind] * sixth * (sixth - 1.0) if shift else 0.0
    return table


@jit
def rows(
    x: np.ndarray,
    cell: np.ndarray,
    segment_ptr: np.ndarray,
    row_ptr: np.ndarray,
    neighbors: np.ndarray,
    images: np.ndarray,
    types: np.ndarray,
    epsilon: np.ndarray,
    sigma: np.ndarray,
    cutoff: float,
    switch_width: float,
    shift: bool,
    half: bool,
    forces: np.ndarray,
    sums: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Evaluate the rows of atoms ``start .. stop - 1``: forces, and each atom's energy and virial in `sums`.

    With a half list an atom of a system also changes the forces on others, so whole systems must be given.
    """
    table = pair_table(epsilon, sigma, cutoff, shift)
    num_types = epsilon.shape[0]
    switch_start = max(cutoff - switch_width, 0.0)
    longest = 0
    for i in range(start, stop):
        longest = max(longest, row_ptr[i + 1] - row_ptr[i])
        if half:
            forces[i, 0] = 0.0
            forces[i, 1] = 0.0
            forces[i, 2] = 0.0
    d = np.empty((6, longest + 1))
    who = np.empty(longest + 1, np.int64)
    kinds = np.empty(longest + 1, np.int64)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        count = collect(i, segment_ptr[b], x, cell[b], row_ptr, neighbors, images, cutoff * cutoff, d, who)
        if num_types > 1:
            for m in range(count):
                kinds[m] = types[i] * num_types + types[who[m]]
        evaluate(count, d, kinds, table, cutoff, switch_start)
        fx = fy = fz = energy = xx = xy = xz = yy = yz = zz = 0.0
        for m in range(count):
            slope = d[5, m]
            gx, gy, gz = slope * d[0, m], slope * d[1, m], slope * d[2, m]
            fx += gx
            fy += gy
            fz += gz
            energy += d[4, m]
            xx += gx * d[0, m]
            xy += gx * d[1, m]
            xz += gx * d[2, m]
            yy += gy * d[1, m]
            yz += gy * d[2, m]
            zz += gz * d[2, m]
            if half:
                forces[who[m], 0] -= gx
                forces[who[m], 1] -= gy
                forces[who[m], 2] -= gz
        if half:
            forces[i, 0] += fx
            forces[i, 1] += fy
            forces[i, 2] += fz
        else:
            forces[i, 0] = fx
            forces[i, 1] = fy
            forces[i, 2] = fz
        sums[i, 0] = energy
        sums[i, 1] = xx
        sums[i, 2] = xy
        sums[i, 3] = xz
        sums[i, 4] = yy
        sums[i, 5] = yz
        sums[i, 6] = zz


@jit
def totals(
    sums: np.ndarray,
    segment_ptr: np.ndarray,
    weight: float,
    energy: np.ndarray,
    virial: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Add the atoms of systems ``start .. stop - 1`` in order; the virial is minus the sum of d (dE/dr / r) d."""
    for b in range(start, stop):
        e = xx = xy = xz = yy = yz = zz = 0.0
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            e += sums[i, 0]
            xx += sums[i, 1]
            xy += sums[i, 2]
            xz += sums[i, 3]
            yy += sums[i, 4]
            yz += sums[i, 5]
            zz += sums[i, 6]
        energy[b] = weight * e
        virial[b, 0, 0] = -weight * xx
        virial[b, 0, 1] = virial[b, 1, 0] = -weight * xy
        virial[b, 0, 2] = virial[b, 2, 0] = -weight * xz
        virial[b, 1, 1] = -weight * yy
        virial[b, 1, 2] = virial[b, 2, 1] = -weight * yz
        virial[b, 2, 2] = -weight * zz
