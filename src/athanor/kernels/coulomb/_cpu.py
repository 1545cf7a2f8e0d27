"""Coulomb sums with numba. An atom's row is added up in order, then the atoms of a system."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.coulomb._cpu_erfc import gaussian, scaled_erfc
from athanor.kernels.neighbor_list._cpu_pairs import add_row, vectors


@jit
def evaluate(count, dx, dy, dz, screening, cutoff, taper_start, shift, tilt, energies, slopes):
    """Write the energy of unit charges and (dE/dr) / r at each distance, zero from the cutoff on.

    Pairs of the skin are computed and thrown away: loops without a branch run in vector registers.
    """
    factor = 2.0 * screening / math.sqrt(math.pi)
    for m in range(count):
        square = dx[m] * dx[m] + dy[m] * dy[m] + dz[m] * dz[m]
        r = math.sqrt(square)
        inverse = 1.0 / r
        x = screening * r
        weight = gaussian(x * x)
        bare = weight * scaled_erfc(x) * inverse
        energies[m] = bare - shift + tilt * (r - cutoff)
        slopes[m] = (tilt - (bare + factor * weight) * inverse) * inverse
    width = cutoff - taper_start
    if width > 0.0:
        for m in range(count):
            r = math.sqrt(dx[m] * dx[m] + dy[m] * dy[m] + dz[m] * dz[m])
            t = max(r - taper_start, 0.0) / width
            taper = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
            decline = -30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) / width
            slopes[m] = slopes[m] * taper + energies[m] * decline / r
            energies[m] = energies[m] * taper
    limit = cutoff * cutoff
    for m in range(count):
        outside = dx[m] * dx[m] + dy[m] * dy[m] + dz[m] * dz[m] >= limit
        energies[m] = 0.0 if outside else energies[m]
        slopes[m] = 0.0 if outside else slopes[m]


@jit
def rows(
    x, cell, segment_ptr, row_ptr, neighbors, images, charges, included, screening, cutoff, taper_start, shift, tilt,
    half, forces, potential, sums, start, stop,
):  # fmt: skip
    """Evaluate the rows of atoms ``start .. stop - 1``: forces, potentials, and energy and virial in `sums`.

    With a half list an atom of a system also changes what others get, so whole systems must be given.
    """
    longest = 0
    for i in range(start, stop):
        longest = max(longest, row_ptr[i + 1] - row_ptr[i])
        potential[i] = 0.0
        for c in range(3):
            forces[i, c] = 0.0
        for c in range(7):
            sums[i, c] = 0.0
    dx, dy, dz = np.empty(longest), np.empty(longest), np.empty(longest)
    energies, slopes = np.empty(longest), np.empty(longest)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        if not included[b]:
            continue
        first = segment_ptr[b]
        count = vectors(i, first, x, cell[b], row_ptr, neighbors, images, dx, dy, dz)
        evaluate(count, dx, dy, dz, screening, cutoff, taper_start, shift, tilt, energies, slopes)
        own = charges[i]
        total = 0.0
        for m in range(count):
            j = first + neighbors[row_ptr[i] + m]
            other = charges[j]
            if half:
                potential[j] += own * energies[m]
            total += other * energies[m]
            energies[m] *= own * other
            slopes[m] *= own * other
        potential[i] += total
        add_row(i, first, count, dx, dy, dz, energies, slopes, row_ptr, neighbors, half, forces, sums)


@jit
def all_pairs(positions, segment_ptr, charges, included, forces, potential, sums, start, stop):
    """Evaluate 1/r between all atoms of a system for its atoms ``start .. stop - 1``, in order."""
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        fx = fy = fz = total = xx = xy = xz = yy = yz = zz = 0.0
        if included[b]:
            for j in range(segment_ptr[b], segment_ptr[b + 1]):
                if j == i:
                    continue
                dx = positions[j, 0] - positions[i, 0]
                dy = positions[j, 1] - positions[i, 1]
                dz = positions[j, 2] - positions[i, 2]
                inverse = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                value = charges[j] * inverse
                slope = -charges[i] * value * inverse * inverse
                total += value
                fx += slope * dx
                fy += slope * dy
                fz += slope * dz
                xx += slope * dx * dx
                xy += slope * dx * dy
                xz += slope * dx * dz
                yy += slope * dy * dy
                yz += slope * dy * dz
                zz += slope * dz * dz
        forces[i, 0], forces[i, 1], forces[i, 2] = fx, fy, fz
        potential[i] = total
        sums[i, 0] = charges[i] * total
        sums[i, 1], sums[i, 2], sums[i, 3] = xx, xy, xz
        sums[i, 4], sums[i, 5], sums[i, 6] = yy, yz, zz
