"""Pair potentials with numba: one loop, compiled for each formula that is used.

An atom's row is added up in order, then the atoms of a system.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from athanor.kernels._numba_options import inlined, jit, specialized
from athanor.kernels.neighbor_list._cpu_pairs import add_row, vectors
from athanor.kernels.pairs.forms import FORMS

pair: Any = None
"""The formula of a form, in a copy of `evaluate`."""
is_costly = False
"""Whether it is better skipped than computed in vain, likewise."""


def rows(
    x, cell, segment_ptr, row_ptr, neighbors, images, types, num_types, half, form, forces, sums, start, stop
):  # fmt: skip
    """Evaluate the rows of atoms ``start .. stop - 1``: forces, and each atom's energy and virial in `sums`.

    `evaluate` is the formula: it writes energies and slopes (dE/dr) / r of a row from the squares of its distances and
    the numbers of its pairs of types, and gets `form` as it is. With a half list an atom of a system also changes the
    forces on others, so whole systems must be given.
    """
    longest = 0
    for i in range(start, stop):
        longest = max(longest, row_ptr[i + 1] - row_ptr[i])
        if half:
            forces[i, 0] = 0.0
            forces[i, 1] = 0.0
            forces[i, 2] = 0.0
    dx, dy, dz = np.empty(longest), np.empty(longest), np.empty(longest)
    square, energies, slopes = np.empty(longest), np.empty(longest), np.empty(longest)
    pair_types = np.zeros(longest, np.int64)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        first, row = segment_ptr[b], row_ptr[i]
        count = vectors(i, first, x, cell[b], row_ptr, neighbors, images, dx, dy, dz)
        squares(count, dx, dy, dz, square)
        if num_types > 1:
            for m in range(count):
                pair_types[m] = types[i] * num_types + types[first + neighbors[row + m]]
        evaluate(i, first, row, count, neighbors, square, pair_types, form, energies, slopes)
        add_row(i, first, count, dx, dy, dz, energies, slopes, row_ptr, neighbors, half, forces, sums)


@inlined
def numbers(table, k):
    """Return a row of the table."""
    return table[k, 0], table[k, 1], table[k, 2], table[k, 3], table[k, 4], table[k, 5], table[k, 6], table[k, 7]


@jit
def squares(count, dx, dy, dz, square):
    """Write the squares of the lengths of vectors."""
    for m in range(count):
        square[m] = dx[m] * dx[m] + dy[m] * dy[m] + dz[m] * dz[m]


def evaluate(i, first, row, count, neighbors, square, pair_types, form, energies, slopes):
    """Write energies and slopes of a pair potential, zero from the cutoff on.

    A cheap formula is computed for pairs of the skin and thrown away: loops without a branch run in vector registers.
    """
    table, cutoff, switch_start = form
    limit = cutoff * cutoff
    if is_costly or table.shape[0] > 1:
        for m in range(count):
            if is_costly and square[m] >= limit:
                energies[m] = slopes[m] = 0.0
                continue
            a, b, c, d, e, f, g, shift = numbers(table, pair_types[m])
            value, slopes[m] = pair(square[m], a, b, c, d, e, f, g)
            energies[m] = value - shift
    else:
        a, b, c, d, e, f, g, shift = numbers(table, 0)
        for m in range(count):
            value, slope = pair(square[m], a, b, c, d, e, f, g)
            energies[m] = value - shift
            slopes[m] = slope
    if switch_start < cutoff:
        width = cutoff - switch_start
        for m in range(count):
            r = math.sqrt(square[m])
            t = max(r - switch_start, 0.0) / width
            taper = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
            decline = -30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) / width
            slopes[m] = slopes[m] * taper + energies[m] * decline / r
            energies[m] = energies[m] * taper
    for m in range(count):
        outside = square[m] >= limit
        energies[m] = 0.0 if outside else energies[m]
        slopes[m] = 0.0 if outside else slopes[m]


@cache
def rows_of(form: str) -> Any:
    """Return the loop over rows for a form."""
    chosen, name = FORMS[form], form.replace("-", "_")
    parts = {"pair": jit(chosen.pair), "is_costly": chosen.IS_COSTLY}
    return loop(name, specialized(evaluate, f"{name}_of_row", **parts))


def loop(name: str, formula: Any) -> Any:
    """Return the loop over rows around a compiled formula."""
    return specialized(rows, f"{name}_rows", evaluate=formula)
