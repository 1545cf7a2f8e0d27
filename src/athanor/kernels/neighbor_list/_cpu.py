"""Neighbour search with numba.

Every system is cut into bins along its (completed) cell vectors. For each bin the atoms that may be close to one of its
own are gathered once, and put in order by a bitmap; then each of its atoms is held against them, eight at a time. So
rows come out sorted by (j, image), and the choice of bins can not be seen. Rows are kept bin by bin, as one number for
each pair, and written to their places when the length of each is known.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._lanes import lowest_bit
from athanor.kernels._numba_options import jit, jit_loop
from athanor.kernels.neighbor_list._cpu_bins import KEPT, SEARCHED
from athanor.kernels.neighbor_list._cpu_candidates import (
    ATOMS,
    BITMAP,
    CANDIDATES,
    GROUP,
    IMAGES,
    RANK_BITS,
    SEVERAL,
    WIDE,
    close_ones,
    code_of_rank,
    gather_candidates,
)
from athanor.kernels.neighbor_list._cpu_shift import unpack_shift


@jit
def plan(segment_ptr, status, row_lengths, bins, grid, half, threads):
    """Cut the batch into tasks; a large system becomes several.

    Returns rows (system, first bin, last bin, start and end of its memory), the running total of their work from 0, and
    the largest status.
    """
    systems = segment_ptr.shape[0] - 1
    count = 0
    worst = 0
    for b in range(systems):
        worst = max(worst, status[b])
        count += max(1, min(threads, (segment_ptr[b + 1] - segment_ptr[b]) // 1024))
    tasks = np.zeros((count, 5), np.int64)
    work = np.empty(count + 1)
    work[0] = 0.0
    count = 0
    memory = 0
    for b in range(systems):
        first = segment_ptr[b]
        n = segment_ptr[b + 1] - first
        parts = max(1, min(threads, n // 1024))
        total, expected = 0, 0.0
        if status[b] == SEARCHED:
            total = np.int64(grid[b, 0]) * grid[b, 1] * grid[b, 2]
            expected = row_lengths[b] * (0.55 if half else 1.0)
        cut = 0
        for part in range(parts):
            tasks[count, 0], tasks[count, 1] = b, cut
            atoms = 0
            while cut < total and (part + 1 == parts or atoms < n // parts):
                atoms += bins[2 * first + 2 * b + cut + 1] - bins[2 * first + 2 * b + cut]
                cut += 1
            tasks[count, 2], tasks[count, 3] = cut, memory
            memory += int(min(expected * atoms, 1e9) + 64.0)
            tasks[count, 4] = memory
            work[count + 1] = work[count] + 100.0 + atoms * (100.0 + 5.0 * expected)
            count += 1
    return tasks, work, worst


@jit
def make_room(tasks, found):
    """Give each task as much memory as it has found to need, if one had too little; return whether that is so."""
    is_short = False
    for t in range(tasks.shape[0]):
        is_short = is_short or found[t] > tasks[t, 4] - tasks[t, 3]
    memory = 0
    for t in range(tasks.shape[0] if is_short else 0):
        tasks[t, 3] = memory
        memory += found[t]
        tasks[t, 4] = memory
    return is_short


@jit
def place_rows(lengths, row_ptr):
    """Write where each row starts; return the number of pairs."""
    total = 0
    for i in range(lengths.shape[0]):
        row_ptr[i] = total
        total += lengths[i]
    row_ptr[lengths.shape[0]] = total
    return total


@jit
def search(
    tasks, segment_ptr, status, pbc, full, grid, reach, most, x, bins, xs, ids, limit, half, old_row_ptr, lengths,
    memory, found, start, stop,
):  # fmt: skip
    """Search the rows of tasks ``start .. stop - 1``: their lengths, and as far as there is room, their pairs."""
    words, touched, slots = np.zeros(0, np.int64), np.zeros(0, np.bool_), np.empty((0, 2), np.int32)
    places, keys, own = np.empty((6, 0)), np.empty(0, np.int32), np.empty(0, np.int64)
    parts, shifts = np.empty(0, np.int64), np.empty((0, 3))
    for t in range(start, stop):
        b = tasks[t, 0]
        first, last = segment_ptr[b], segment_ptr[b + 1]
        found[t] = 0
        if status[b] != SEARCHED:
            for i in range(first, last):
                lengths[i] = old_row_ptr[i + 1] - old_row_ptr[i] if status[b] == KEPT else 0
            continue
        rank_bits, bits, several = most[b, RANK_BITS], most[b, BITMAP], most[b, SEVERAL] != 0
        if slots.shape[0] < bits:
            words, touched = np.zeros((bits >> 6) + 8, np.int64), np.zeros((bits >> GROUP) + 1, np.bool_)
            slots = np.empty((bits, 2), np.int32)
        if keys.shape[0] < most[b, CANDIDATES]:
            places, keys = np.empty((6, most[b, CANDIDATES])), np.empty(most[b, CANDIDATES], np.int32)
        if parts.shape[0] < most[b, IMAGES]:
            parts, shifts = np.empty(most[b, IMAGES], np.int64), np.empty((most[b, IMAGES], 3))
        if own.shape[0] < most[b, ATOMS]:
            own = np.empty(most[b, ATOMS], np.int64)
        found[t] = find_rows(
            tasks[t], first, pbc[b], full[b], grid[b], reach[b], rank_bits, several, x, bins[2 * first + 2 * b :], xs,
            ids, limit, half, lengths, memory, words, touched, slots, parts, shifts, places, keys, own,
        )  # fmt: skip


@jit_loop
def find_rows(
    task, first, pbc, h, grid, reach, rank_bits, several, x, my_bins, xs, ids, limit, half, lengths, memory, words,
    touched, slots, parts, shifts, places, keys, own,
):  # fmt: skip
    """Search the rows of the atoms in a task's bins, one after the other; return how many pairs there are.

    `several` says that two images of one atom may be close to another atom; then each has a bit of its own.
    """
    at, end = task[3], task[4]
    for k in range(task[1], task[2]):
        if my_bins[k] == my_bins[k + 1]:
            continue
        count, is_moved = gather_candidates(
            k, first, pbc, h, grid, reach, rank_bits, several, my_bins, xs, ids, limit, words, touched, slots, parts,
            shifts, places, keys, own,
        )  # fmt: skip
        for member in range(my_bins[k + 1] - my_bins[k]):
            i = first + ids[first + my_bins[k] + member]
            row = at
            for m in range(own[member] if half else 0, count, 64):
                word = close_ones(places, m, count, x[i], is_moved, limit)
                if 0 <= own[member] - m < 64:
                    word &= ~(np.int64(1) << (own[member] - m))
                while word != 0:
                    if at < end:
                        memory[at] = keys[m + lowest_bit(word)]
                    word &= word - 1
                    at += 1
            lengths[i] = at - row
    return at - task[3]


@jit
def write(
    tasks, segment_ptr, status, most, bins, ids, memory, lengths, old_row_ptr, old_neighbors, old_images, row_ptr,
    neighbors, images, image_bits, start, stop,
):  # fmt: skip
    """Write the pairs of tasks ``start .. stop - 1``, found or kept, to their places."""
    for t in range(start, stop):
        b, at = tasks[t, 0], tasks[t, 3]
        first, last = segment_ptr[b], segment_ptr[b + 1]
        if status[b] == KEPT and row_ptr[last] > row_ptr[first]:
            neighbors[row_ptr[first] : row_ptr[last]] = old_neighbors[old_row_ptr[first] : old_row_ptr[last]]
            images[row_ptr[first] : row_ptr[last]] = old_images[old_row_ptr[first] : old_row_ptr[last]]
        if status[b] != SEARCHED:
            continue
        rank_bits, widths = most[b, RANK_BITS], most[b, WIDE:]
        codes = np.empty(most[b, IMAGES], images.dtype)
        for rank in range(codes.shape[0]):
            codes[rank] = code_of_rank(rank, widths, image_bits)
        mask = (np.int64(1) << rank_bits) - 1
        my_bins = bins[2 * first + 2 * b :]
        for place in range(first + my_bins[tasks[t, 1]], first + my_bins[tasks[t, 2]]):
            i = first + ids[place]
            row = row_ptr[i]
            for m in range(lengths[i]):
                neighbors[row + m] = memory[at + m] >> rank_bits
                images[row + m] = codes[memory[at + m] & mask]
            at += lengths[i]


@jit
def smallest_distance(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, out, start, stop):
    """Write the smallest pair distance of systems ``start .. stop - 1``; infinity without pairs, NaN if one is NaN."""
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        smallest = np.inf
        for i in range(first, last):
            for k in range(row_ptr[i], row_ptr[i + 1]):
                j = first + neighbors[k]
                s0, s1, s2 = unpack_shift(images[k])
                s0 += wrap_offsets[i, 0] - wrap_offsets[j, 0]
                s1 += wrap_offsets[i, 1] - wrap_offsets[j, 1]
                s2 += wrap_offsets[i, 2] - wrap_offsets[j, 2]
                square = 0.0
                for c in range(3):
                    d = (positions[j, c] - positions[i, c]) + (
                        s0 * cell[b, 0, c] + s1 * cell[b, 1, c] + s2 * cell[b, 2, c]
                    )
                    square += d * d
                if square < smallest or square != square:
                    smallest = square
        out[b] = math.sqrt(smallest)
