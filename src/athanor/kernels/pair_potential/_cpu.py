"""The Lennard-Jones potential with numba. An atom's row is added up in order, then the atoms of a system."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_list._cpu_shift import unpack_shift


@jit
def wrapped_positions(positions, cell, segment_ptr, wrap_offsets, x, start, stop):
    """Write r - w h of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            w0, w1, w2 = wrap_offsets[i, 0], wrap_offsets[i, 1], wrap_offsets[i, 2]
            for c in range(3):
                x[i, c] = positions[i, c]
                if w0 != 0 or w1 != 0 or w2 != 0:
                    x[i, c] -= w0 * cell[b, 0, c] + w1 * cell[b, 1, c] + w2 * cell[b, 2, c]


@jit
def vectors(i, first, x, cell, row_ptr, neighbors, images, dx, dy, dz):
    """Write the vectors from atom i to its neighbours, in row order; return how many there are."""
    start = row_ptr[i]
    count = row_ptr[i + 1] - start
    xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
    for m in range(count):
        j = first + neighbors[start + m]
        vx, vy, vz = x[j, 0] - xi, x[j, 1] - yi, x[j, 2] - zi
        code = images[start + m]
        if code != 0:
            s0, s1, s2 = unpack_shift(code)
            vx += s0 * cell[0, 0] + s1 * cell[1, 0] + s2 * cell[2, 0]
            vy += s0 * cell[0, 1] + s1 * cell[1, 1] + s2 * cell[2, 1]
            vz += s0 * cell[0, 2] + s1 * cell[1, 2] + s2 * cell[2, 2]
        dx[m] = vx
        dy[m] = vy
        dz[m] = vz
    return count


@jit
def evaluate(count, dx, dy, dz, pair_types, table, cutoff, switch_start, square, energies, slopes):
    """Write pair energies and slopes (dE/dr)/r, zero from the cutoff on; `table` has 4 eps, sigma^2 and the shift.

    Pairs of the skin are computed and thrown away: loops without a branch run in vector registers.
    """
    for m in range(count):
        square[m] = dx[m] * dx[m] + dy[m] * dy[m] + dz[m] * dz[m]
    if table.shape[1] == 1:
        four_epsilon, sigma_squared, energy_shift = table[0, 0], table[1, 0], table[2, 0]
        for m in range(count):
            inverse = 1.0 / square[m]
            ratio = sigma_squared * inverse
            sixth = ratio * ratio * ratio
            energies[m] = four_epsilon * sixth * (sixth - 1.0) - energy_shift
            slopes[m] = -6.0 * four_epsilon * sixth * (2.0 * sixth - 1.0) * inverse
    else:
        for m in range(count):
            pair_type = pair_types[m]
            four_epsilon, sigma_squared, energy_shift = table[0, pair_type], table[1, pair_type], table[2, pair_type]
            inverse = 1.0 / square[m]
            ratio = sigma_squared * inverse
            sixth = ratio * ratio * ratio
            energies[m] = four_epsilon * sixth * (sixth - 1.0) - energy_shift
            slopes[m] = -6.0 * four_epsilon * sixth * (2.0 * sixth - 1.0) * inverse
    if switch_start < cutoff:
        width = cutoff - switch_start
        for m in range(count):
            r = math.sqrt(square[m])
            t = max(r - switch_start, 0.0) / width
            taper = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
            decline = -30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) / width
            slopes[m] = slopes[m] * taper + energies[m] * decline / r
            energies[m] = energies[m] * taper
    limit = cutoff * cutoff
    for m in range(count):
        outside = square[m] >= limit
        energies[m] = 0.0 if outside else energies[m]
        slopes[m] = 0.0 if outside else slopes[m]


@jit
def pair_table(epsilon, sigma, cutoff, shift):
    """Return 4 eps, sigma^2 and the energy at the cutoff of each pair of types, [3, T * T]."""
    types = epsilon.shape[0]
    table = np.empty((3, types * types))
    for a in range(types):
        for b in range(types):
            pair_type = a * types + b
            table[0, pair_type] = 4.0 * epsilon[a, b]
            table[1, pair_type] = sigma[a, b] * sigma[a, b]
            ratio = table[1, pair_type] / (cutoff * cutoff)
            sixth = ratio * ratio * ratio
            table[2, pair_type] = table[0, pair_type] * sixth * (sixth - 1.0) if shift else 0.0
    return table


@jit
def rows(
    x, cell, segment_ptr, row_ptr, neighbors, images, types, epsilon, sigma, cutoff, switch_width, shift, half,
    forces, sums, start, stop,
):  # fmt: skip
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
    dx, dy, dz = np.empty(longest), np.empty(longest), np.empty(longest)
    square, energies, slopes = np.empty(longest), np.empty(longest), np.empty(longest)
    pair_types = np.empty(longest, np.int64)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        first = segment_ptr[b]
        count = vectors(i, first, x, cell[b], row_ptr, neighbors, images, dx, dy, dz)
        if num_types > 1:
            for m in range(count):
                pair_types[m] = types[i] * num_types + types[first + neighbors[row_ptr[i] + m]]
        evaluate(count, dx, dy, dz, pair_types, table, cutoff, switch_start, square, energies, slopes)
        fx = fy = fz = energy = xx = xy = xz = yy = yz = zz = 0.0
        for m in range(count):
            slope = slopes[m]
            gx, gy, gz = slope * dx[m], slope * dy[m], slope * dz[m]
            fx += gx
            fy += gy
            fz += gz
            energy += energies[m]
            xx += gx * dx[m]
            xy += gx * dy[m]
            xz += gx * dz[m]
            yy += gy * dy[m]
            yz += gy * dz[m]
            zz += gz * dz[m]
        if half:
            for m in range(count):
                j = first + neighbors[row_ptr[i] + m]
                forces[j, 0] -= slopes[m] * dx[m]
                forces[j, 1] -= slopes[m] * dy[m]
                forces[j, 2] -= slopes[m] * dz[m]
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
def totals(sums, segment_ptr, weight, energy, virial, start, stop):
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
