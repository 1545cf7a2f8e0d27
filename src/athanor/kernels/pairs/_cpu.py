"""Pair potentials with numba: one loop, compiled for each formula that is used.

An atom's row is added up in lanes, then the atoms of a system in order.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from athanor.kernels._lanes import (
    WIDTH,
    add_product,
    choose,
    gather,
    gather_indices,
    is_at_least,
    lanes_before,
    scale_indices,
    spread,
)
from athanor.kernels._numba_options import inlined, jit, jit_loop, renamed
from athanor.kernels.neighbor_list._cpu_pairs import add_terms, lane_vectors, no_terms, push_neighbors, write_row
from athanor.kernels.pairs.forms import FORMS

pair: Any = None
"""The formula of a form, in a copy of `evaluate`."""


def rows(
    x, cell, segment_ptr, row_ptr, neighbors, images, types, half, with_virial, form, forces, sums, start, stop
):  # fmt: skip
    """Evaluate the rows of atoms ``start .. stop - 1``: forces, and each atom's energy and virial in `sums`.

    `evaluate` is the formula: it returns energies and slopes, (dE/dr) / r, of eight pairs of a row from the squares of
    their distances, and gets `form` as it is. With a half list an atom of a system also changes the forces on others,
    so whole systems must be given.
    """
    if half:
        forces[start:stop] = 0.0
    zero = spread(0.0)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        first, end = segment_ptr[b], row_ptr[i + 1]
        total = no_terms()
        for m in range(row_ptr[i], end, WIDTH):
            within = lanes_before(end - m)
            dx, dy, dz, j = lane_vectors(i, b, first, m, end - m, x, cell, neighbors, images)
            square = add_product(add_product(dx * dx, dy, dy), dz, dz)
            energy, slope = evaluate(i, first, j, square, types, form)
            energy, slope = choose(within, energy, zero), choose(within, slope, zero)
            total = add_terms(total, energy, slope, dx, dy, dz, with_virial)
            if half:
                push_neighbors(first, m, min(end - m, WIDTH), neighbors, slope, dx, dy, dz, forces)
        write_row(i, total, half, with_virial, forces, sums)


@inlined
def numbers(table, k):
    """Return a row of the table."""
    return table[k, 0], table[k, 1], table[k, 2], table[k, 3], table[k, 4], table[k, 5], table[k, 6], table[k, 7]


@inlined
def ended(r, square, energy, slope, taper_start, cutoff):
    """Return energies and slopes, tapered from one distance on if it is below the cutoff, and zero from that on."""
    if taper_start < cutoff:
        width = cutoff - taper_start
        t = max(r - taper_start, 0.0) / width
        part = t * t * t * (t * (15.0 - 6.0 * t) - 10.0) + 1.0
        slope = slope * part - energy * (30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) / width) / r
        energy = energy * part
    outside, zero = is_at_least(square, spread(cutoff * cutoff)), spread(0.0)
    return choose(outside, zero, energy), choose(outside, zero, slope)


def evaluate(i, first, j, square, types, form):
    """Return energies and slopes of a pair potential, zero from the cutoff on.

    Pairs of the skin are computed and thrown away: a branch would cost more.
    """
    table, num_types, cutoff, switch_start = form
    if num_types > 1:
        k = scale_indices(8, gather_indices(types, first, j), 8 * num_types * types[i])
        value, slope = pair(
            square, gather(table, 0, k), gather(table, 1, k), gather(table, 2, k), gather(table, 3, k),
            gather(table, 4, k), gather(table, 5, k), gather(table, 6, k),
        )  # fmt: skip
        energy = value - gather(table, 7, k)
    else:
        a, b, c, d, e, f, g, shift = numbers(table, 0)
        value, slope = pair(square, a, b, c, d, e, f, g)
        energy = value - shift
    return ended(math.sqrt(square), square, energy, slope, switch_start, cutoff)


@cache
def rows_of(form: str) -> Any:
    """Return the loop over rows for a form."""
    name = form.replace("-", "_")
    return loop(name, inlined(renamed(evaluate, f"{name}_of_row", pair=jit(FORMS[form].pair))))


def loop(name: str, formula: Any) -> Any:
    """Return the loop over rows around a compiled formula."""
    return jit_loop(renamed(rows, f"{name}_rows", evaluate=formula))
