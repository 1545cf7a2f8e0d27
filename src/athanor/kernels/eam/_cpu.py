"""The embedded-atom potential with numba: densities, then the loop of pair potentials with what they give."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._lanes import (
    WIDTH,
    add_product,
    add_up,
    as_doubles,
    choose,
    gather,
    gather_indices,
    is_at_least,
    is_less,
    lane_of,
    lanes_before,
    load_rows,
    scale_indices,
    spread,
    truncate,
)
from athanor.kernels._numba_options import inlined, jit_loop
from athanor.kernels.neighbor_list._cpu_pairs import lane_vectors
from athanor.kernels.pairs._cpu import ended, loop


@inlined
def locate(r, scale, count):
    """Return which of `count` cubic pieces distances lie in, and how far along them; NaN stays NaN."""
    place, zero, last = r * scale, spread(0.0), spread(float(count - 2))
    low = choose(is_at_least(place, zero), place, zero)
    piece = truncate(choose(is_less(low, last), low, last))
    p = place - as_doubles(piece)
    return piece, choose(is_less(spread(1.0), p), spread(1.0), p)


@inlined
def cubic(table, kinds, piece, p):
    """Return the value of cubic pieces, and the slope by their width."""
    c0, c1, c2, c3 = load_rows(table, 0, scale_indices(table.shape[1], kinds, piece))
    value = add_product(c0, p, add_product(c1, p, add_product(c2, p, c3)))
    return value, add_product(c1, p, 2.0 * c2 + 3.0 * (p * c3))


@inlined
def kinds_of_pairs(own, others, num_types):
    """Return the rows of tables that are for pairs of `own` and `others`, and of these and `own`."""
    return scale_indices(1, others, own * num_types), scale_indices(num_types, others, own)


@jit_loop
def embed(
    x, cell, segment_ptr, row_ptr, neighbors, images, types, half, embedding, density, density_step, distance_step,
    cutoff, totals, energies, slopes, start, stop,
):  # fmt: skip
    """Write density, energy and its slope of atoms ``start .. stop - 1``; whole systems with a half list."""
    limit, zero = spread(cutoff * cutoff), spread(0.0)
    scale = 1.0 / distance_step
    totals[start:stop] = 0.0
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        first, end = segment_ptr[b], row_ptr[i + 1]
        total = spread(0.0)
        for m in range(row_ptr[i], end, WIDTH):
            within = lanes_before(end - m)
            dx, dy, dz, j = lane_vectors(i, b, first, m, end - m, x, cell, neighbors, images)
            square = add_product(add_product(dx * dx, dy, dy), dz, dz)
            piece, p = locate(math.sqrt(square), scale, density.shape[1])
            here, there = kinds_of_pairs(types[i], gather_indices(types, first, j), embedding.shape[0])
            outside = is_at_least(square, limit)
            value, _ = cubic(density, here, piece, p)
            total = total + choose(within, choose(outside, zero, value), zero)
            if half:
                value, _ = cubic(density, there, piece, p)
                value = choose(outside, zero, value)
                for lane in range(min(end - m, WIDTH)):
                    totals[first + neighbors[m + lane]] += lane_of(value, lane)
        totals[i] += add_up(total)
    scale, last = 1.0 / density_step, embedding.shape[1] - 2
    largest = (embedding.shape[1] - 1) * density_step
    for i in range(start, stop):
        place, kind = totals[i] * scale, types[i]
        if not math.isfinite(place):
            energies[i] = slopes[i] = np.nan
            continue
        k = min(max(int(place), 0), last)
        q = min(place - k, 1.0)
        c0, c1, c2, c3 = embedding[kind, k, 0], embedding[kind, k, 1], embedding[kind, k, 2], embedding[kind, k, 3]
        slopes[i] = (c1 + q * (2.0 * c2 + 3.0 * q * c3)) * scale
        energies[i] = c0 + q * (c1 + q * (c2 + q * c3))
        if totals[i] > largest:
            energies[i] += slopes[i] * (totals[i] - largest)


@inlined
def pairs_of_row(i, first, j, square, types, form):
    """Return the energy of eight pairs of a row, and what it and the densities change with distance, (dE/dr) / r."""
    density, pair, embedding_slopes, num_types, distance_step, cutoff = form
    scale = 1.0 / distance_step
    r = math.sqrt(square)
    inverse = 1.0 / r
    piece, p = locate(r, scale, density.shape[1])
    here, there = kinds_of_pairs(types[i], gather_indices(types, first, j), num_types)
    product, product_slope = cubic(pair, here, piece, p)
    energy = product * inverse
    decline = (product_slope * scale - energy) * inverse
    _, slope_here = cubic(density, here, piece, p)
    slope_there = slope_here
    if num_types > 1:
        _, slope_there = cubic(density, there, piece, p)
    towards = slope_here * embedding_slopes[i] + slope_there * gather(embedding_slopes, first, j)
    slope = (towards * scale + decline) * inverse
    return ended(r, square, energy, slope, cutoff, cutoff)


rows = loop("embedded_atom", pairs_of_row)
