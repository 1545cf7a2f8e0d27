"""Tiles for sums over all pairs of atoms and images: what is done once for each system.

A sum over images out to 60 bohr has thousands of terms for each atom, which a list would have to hold. Here the atoms
are sorted into tiles of neighbours instead, and a translation of a tile is left out as a whole where its bounds are
too far. Atoms of small cells bring some of their images into the tile, so that the loops over a tile are long.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_list._cpu_bins import complete_cell, determinant, invert, is_finite, wrap

TILE = 32
"""Places in a tile, aimed at."""
MAX_TILE = 64
"""Places in a tile at most; `CHUNKS` and this are part of what the bits of a sum depend on."""
CHUNKS = 32
"""Parts into which the rows of a system are cut at most, whatever the number of threads."""

USABLE, NOT_FINITE, FLAT_CELL, TOO_MANY_IMAGES = 0, 1, 2, 3
"""What became of a system."""
MAX_TRANSLATIONS = 1_000_000


@jit
def plan(positions, cell, pbc, segment_ptr, unit, reach, x, full, copies, status, neighbors, start, stop):
    """Wrap systems ``start .. stop - 1``, in bohr, and choose how many images of each atom a tile holds, [B, 3].

    `full` are the vectors of the cell so repeated, `neighbors` estimates how many an atom has. `unit` is a bohr in the
    unit of the input; `reach` is in bohr.
    """
    inverse = np.empty((3, 3))
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        n = last - first
        for a in range(3):
            copies[b, a] = 1
        status[b] = USABLE
        neighbors[b] = n
        if n == 0:
            continue
        complete_cell(cell[b], pbc[b], full[b])
        if not is_finite(full[b]):
            status[b] = NOT_FINITE
            continue
        if not invert(full[b], inverse):
            status[b] = FLAT_CELL
            continue
        fractional, offsets = np.empty((n, 3)), np.empty((n, 3), np.int32)
        if not wrap(positions[first:last], full[b], inverse, pbc[b], x[first:last], fractional, offsets):
            status[b] = NOT_FINITE
            continue
        for i in range(first, last):
            for c in range(3):
                x[i, c] /= unit
        for a in range(3):
            for c in range(3):
                full[b, a, c] /= unit
                inverse[a, c] *= unit
        translations = 1.0
        for a in range(3):
            if pbc[b, a]:
                translations *= 2.0 * reach * norm_of_column(inverse, a) + 3.0
        if not translations < MAX_TRANSLATIONS:
            status[b] = TOO_MANY_IMAGES
            continue
        if pbc[b, 0] and pbc[b, 1] and pbc[b, 2]:
            density = n * abs(determinant(inverse))
            neighbors[b] = 4.0 / 3.0 * math.pi * reach * reach * reach * density
        total = n
        while total < TILE:
            shortest = -1
            height, least = 0.0, reach
            for a in range(3):
                height = copies[b, a] / norm_of_column(inverse, a)
                if pbc[b, a] and height < least and total // copies[b, a] * (copies[b, a] + 1) <= MAX_TILE:
                    shortest, least = a, height
            if shortest < 0:
                break
            total = total // copies[b, shortest] * (copies[b, shortest] + 1)
            copies[b, shortest] += 1
        for a in range(3):
            for c in range(3):
                full[b, a, c] *= copies[b, a]


@jit
def norm_of_column(matrix, a):
    """Return the length of a column; of an inverse cell, one over the height along a vector."""
    return math.sqrt(matrix[0, a] * matrix[0, a] + matrix[1, a] * matrix[1, a] + matrix[2, a] * matrix[2, a])


@jit
def arrange(
    x, full, copies, status, all_numbers, rcov, r4r2, order, segment_ptr, place_ptr, tile_ptr, places, corners,
    numbers, start, stop,
):  # fmt: skip
    """Sort the atoms of systems ``start .. stop - 1`` into tiles, write places of atoms and images, and bounds.

    ``places`` are x, y, z, covalent radius and q; `numbers` are the atomic numbers in the order of the tiles.
    ``corners[t]`` is the lowest and highest corner of the atoms of tile t, and the same with their images.
    """
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        n = last - first
        if n == 0 or status[b] != USABLE:
            continue
        images = copies[b, 0] * copies[b, 1] * copies[b, 2]
        atoms = max(1, TILE // images)
        sort_into_tiles(x[first:last], atoms, order[first:last])
        place = place_ptr[b]
        for i in range(n):
            atom = first + order[first + i]
            number = all_numbers[atom]
            numbers[first + i] = number
            for s0 in range(copies[b, 0]):
                for s1 in range(copies[b, 1]):
                    for s2 in range(copies[b, 2]):
                        f0, f1, f2 = s0 / copies[b, 0], s1 / copies[b, 1], s2 / copies[b, 2]
                        for c in range(3):
                            shift = f0 * full[b, 0, c] + f1 * full[b, 1, c] + f2 * full[b, 2, c]
                            places[c, place] = x[atom, c] + shift
                        places[3, place] = rcov[number]
                        places[4, place] = r4r2[number]
                        place += 1
        for t in range(tile_ptr[b], tile_ptr[b + 1]):
            for c in range(3):
                corners[t, c] = corners[t, 6 + c] = np.inf
                corners[t, 3 + c] = corners[t, 9 + c] = -np.inf
            begin = (t - tile_ptr[b]) * atoms
            for i in range(begin, min(begin + atoms, n)):
                for image in range(images):
                    m = place_ptr[b] + i * images + image
                    for c in range(3):
                        value = places[c, m]
                        if image == 0:
                            corners[t, c] = min(corners[t, c], value)
                            corners[t, 3 + c] = max(corners[t, 3 + c], value)
                        corners[t, 6 + c] = min(corners[t, 6 + c], value)
                        corners[t, 9 + c] = max(corners[t, 9 + c], value)


@jit
def sort_into_tiles(x, atoms, order):
    """Write an order in which each `atoms` consecutive atoms are near each other: slabs, columns of slabs, tiles."""
    n = x.shape[0]
    for i in range(n):
        order[i] = i
    tiles = (n + atoms - 1) // atoms
    if tiles == 1:
        return
    extent = np.empty(3)
    for c in range(3):
        low = high = x[0, c]
        for i in range(1, n):
            low, high = min(low, x[i, c]), max(high, x[i, c])
        extent[c] = max(high - low, 1e-3)
    edge = (extent[0] * extent[1] * extent[2] / tiles) ** (1.0 / 3.0)
    slabs = min(max(1, round(extent[0] / edge)), tiles)
    columns = min(max(1, round(extent[1] / edge)), (tiles + slabs - 1) // slabs)
    slab = (tiles + slabs - 1) // slabs * atoms
    column = (slab // atoms + columns - 1) // columns * atoms
    sort_by(x, 0, order)
    for begin in range(0, n, slab):
        end = min(begin + slab, n)
        sort_by(x, 1, order[begin:end])
        for inner in range(begin, end, column):
            sort_by(x, 2, order[inner : min(inner + column, end)])


@jit
def sort_by(x, axis, order):
    """Sort `order` by a coordinate, merging ever longer runs; equal ones keep their order."""
    n = len(order)
    merged = np.empty(n, np.int64)
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            i, j = low, middle
            for k in range(low, high):
                if i < middle and (j >= high or x[order[i], axis] <= x[order[j], axis]):
                    merged[k] = order[i]
                    i += 1
                else:
                    merged[k] = order[j]
                    j += 1
        for k in range(n):
            order[k] = merged[k]
        width *= 2


@jit
def near_translations(low, high, other_low, other_high, full, reach, counts, shifts):
    """Write the translations that bring the other tile within `reach` of the first, [., 3]; return how many.

    ``counts`` [3] says how far to look along each vector of `full`.
    """
    count = 0
    limit = reach * reach
    for t0 in range(-counts[0], counts[0] + 1):
        for t1 in range(-counts[1], counts[1] + 1):
            for t2 in range(-counts[2], counts[2] + 1):
                square = 0.0
                for c in range(3):
                    shift = t0 * full[0, c] + t1 * full[1, c] + t2 * full[2, c]
                    gap = max(other_low[c] + shift - high[c], low[c] - other_high[c] - shift, 0.0)
                    square += gap * gap
                    shifts[count, c] = shift
                if square < limit:
                    count += 1
    return count


@jit
def look_around(full, pbc, reach, counts):
    """Write how many translations along each vector may bring an image within `reach`; return how many there are."""
    inverse = np.empty((3, 3))
    invert(full, inverse)
    total = 1
    for a in range(3):
        counts[a] = math.floor(reach * norm_of_column(inverse, a)) + 1 if pbc[a] else 0
        total *= 2 * counts[a] + 1
    return total


@jit
def near_point(x, y, z, bounds, limit, count, shifts, near):
    """Write those of the first `count` shifts that bring a tile as near to a point as the root of `limit`."""
    found = 0
    for t in range(count):
        gap_x = max(bounds[6] + shifts[t, 0] - x, x - bounds[9] - shifts[t, 0], 0.0)
        gap_y = max(bounds[7] + shifts[t, 1] - y, y - bounds[10] - shifts[t, 1], 0.0)
        gap_z = max(bounds[8] + shifts[t, 2] - z, z - bounds[11] - shifts[t, 2], 0.0)
        near[found, 0] = shifts[t, 0]
        near[found, 1] = shifts[t, 1]
        near[found, 2] = shifts[t, 2]
        if gap_x * gap_x + gap_y * gap_y + gap_z * gap_z < limit:
            found += 1
    return found


@jit
def list_references(all_numbers, segment_ptr, status, reference_cn, references, reference_ptr):
    """Write element and number of each reference that a system has, [., 2]; `references` empty only counts them."""
    present = np.empty(reference_cn.shape[0], np.bool_)
    total = 0
    reference_ptr[0] = 0
    for b in range(len(segment_ptr) - 1):
        if status[b] == USABLE:
            present[:] = False
            for i in range(segment_ptr[b], segment_ptr[b + 1]):
                present[all_numbers[i]] = True
            for number in range(reference_cn.shape[0]):
                for p in range(reference_cn.shape[1]):
                    if present[number] and reference_cn[number, p] >= 0.0:
                        if references.shape[0] > 0:
                            references[total, 0] = number
                            references[total, 1] = p
                        total += 1
        reference_ptr[b + 1] = total
