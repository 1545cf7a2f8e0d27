"""The embedded-atom potential with numba: densities, then the loop of pair potentials with what they give."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._lanes import WIDTH, load, store
from athanor.kernels._numba_options import inlined, jit
from athanor.kernels.neighbor_list._cpu_pairs import vectors
from athanor.kernels.pairs._cpu import loop


@inlined
def value(table, kind, piece, p):
    """Return the value of a cubic piece."""
    return table[kind, piece, 0] + p * (table[kind, piece, 1] + p * (table[kind, piece, 2] + p * table[kind, piece, 3]))


@inlined
def slope(table, kind, piece, p):
    """Return the slope of a cubic piece, by its width."""
    return table[kind, piece, 1] + p * (2.0 * table[kind, piece, 2] + 3.0 * p * table[kind, piece, 3])


@jit
def embed(
    x, cell, segment_ptr, row_ptr, neighbors, images, types, half, opposite, embedding, density, density_step,
    distance_step, cutoff, totals, energies, slopes, start, stop,
):  # fmt: skip
    """Write density, energy and its slope of atoms ``start .. stop - 1``; whole systems with a half list."""
    num_types, limit = embedding.shape[0], cutoff * cutoff
    scale, last = 1.0 / distance_step, density.shape[1] - 2
    longest = 0
    for i in range(start, stop):
        longest = max(longest, row_ptr[i + 1] - row_ptr[i])
        totals[i] = 0.0
    dx, dy, dz = np.empty(longest), np.empty(longest), np.empty(longest)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        first, row, own = segment_ptr[b], row_ptr[i], types[i] * num_types
        count = vectors(i, first, x, cell[b], row_ptr, neighbors, images, dx, dy, dz)
        total = 0.0
        for m in range(count):
            square = dx[m] * dx[m] + dy[m] * dy[m] + dz[m] * dz[m]
            if square >= limit:
                continue
            j = first + neighbors[row + m]
            kind = own + types[j]
            place = math.sqrt(square) * scale
            if not place >= 0.0:  # atoms that are nowhere
                total += place
                continue
            piece = min(int(place), last)
            p = min(place - piece, 1.0)
            total += value(density, kind, piece, p)
            if half:
                totals[j] += value(density, opposite[kind], piece, p)
        totals[i] += total
    scale, last = 1.0 / density_step, embedding.shape[1] - 2
    largest = (embedding.shape[1] - 1) * density_step
    for i in range(start, stop):
        place, kind = totals[i] * scale, types[i]
        if not math.isfinite(place):
            energies[i] = slopes[i] = np.nan
            continue
        piece = min(max(int(place), 0), last)
        p = min(place - piece, 1.0)
        slopes[i] = slope(embedding, kind, piece, p) * scale
        energies[i] = value(embedding, kind, piece, p)
        if totals[i] > largest:
            energies[i] += slopes[i] * (totals[i] - largest)


@jit
def pairs_of_row(i, first, m, count, j, neighbors, square, types, form, buffer):
    """Return the energy of eight pairs of a row, and what it and the densities change with the distance, (dE/dr) / r."""
    opposite, density, pair, embedding_slopes, num_types, distance_step, cutoff = form
    scale, last, limit = 1.0 / distance_step, density.shape[1] - 2, cutoff * cutoff
    own = embedding_slopes[i]
    r = math.sqrt(square)
    store(buffer, 0, r)
    store(buffer, WIDTH, 1.0 / r)
    store(buffer, 2 * WIDTH, square)
    for lane in range(count):
        inverse, place = buffer[WIDTH + lane], buffer[lane] * scale
        if buffer[2 * WIDTH + lane] >= limit:
            buffer[lane] = buffer[WIDTH + lane] = 0.0
            continue
        if not place >= 0.0:
            buffer[lane] = buffer[WIDTH + lane] = np.nan
            continue
        other = first + neighbors[m + lane]
        kind = types[i] * num_types + types[other]
        piece = min(int(place), last)
        p = min(place - piece, 1.0)
        energy = value(pair, kind, piece, p) * inverse
        buffer[lane] = energy
        decline = (slope(pair, kind, piece, p) * scale - energy) * inverse
        here = there = slope(density, kind, piece, p)
        if opposite[kind] != kind:
            there = slope(density, opposite[kind], piece, p)
        towards = own * here + embedding_slopes[other] * there
        buffer[WIDTH + lane] = (towards * scale + decline) * inverse
    return load(buffer, 0), load(buffer, WIDTH)


rows = loop("embedded_atom", pairs_of_row)
