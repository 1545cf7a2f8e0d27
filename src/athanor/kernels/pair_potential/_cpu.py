"""The Lennard-Jones potential with numba. An atom's row is added up in order, then the atoms of a system."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_list._cpu_pairs import add_row, vectors


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
        add_row(i, first, count, dx, dy, dz, energies, slopes, row_ptr, neighbors, half, forces, sums)
