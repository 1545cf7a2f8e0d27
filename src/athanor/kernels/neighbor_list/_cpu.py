"""Neighbor search with numba.

Every system is cut into bins along its (completed) cell vectors; a system of few atoms is one bin, which is all pairs.
The search goes over atoms j in ascending order and appends j to the row of each atom i that it finds, visiting images
in the order of the list. So rows come out sorted by (j, image) without sorting, and the choice of bins can not be seen.
What the counting pass finds is remembered where the expected room suffices; otherwise the filling pass searches again.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_list._cpu_bins import KEPT, SEARCHED
from athanor.kernels.neighbor_list._cpu_shift import shift

MOST_REMEMBERED = 50_000_000
"""Pairs that the counting pass may remember, 8 bytes each."""

_MARGIN = 1e-6


@jit
def plan(
    segment_ptr: np.ndarray,
    pbc: np.ndarray,
    grid: np.ndarray,
    reach: np.ndarray,
    status: np.ndarray,
    half: bool,
    threads: int,
) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    """Cut the batch into tasks; a large system becomes several.

    Returns rows (system, first j, last j, start of its counters, start and end of its memory), the running total of
    their work from 0, and how many counters and remembered pairs there are. Last comes the largest status.
    """
    systems = segment_ptr.shape[0] - 1
    count = 0
    worst = 0
    for b in range(systems):
        worst = max(worst, status[b])
        count += max(1, min(threads, (segment_ptr[b + 1] - segment_ptr[b]) // 1024))
    tasks = np.empty((count, 6), np.int64)
    elapsed = np.empty(count + 1)
    elapsed[0] = 0.0
    count = 0
    counters = 0
    memory = 0
    for b in range(systems):
        n = segment_ptr[b + 1] - segment_ptr[b]
        candidates = expected = 0.0
        if status[b] == SEARCHED:
            candidates = np.float64(n)
            expected = 1.3 * 4.19 * n
            for a in range(3):
                share = (2.0 * reach[b, a] + 1.0) / grid[b, a]
                candidates *= share if pbc[b, a] else min(share, 1.0)
                expected *= reach[b, a] / grid[b, a]
            expected = min(expected + 8.0, candidates) * (0.55 if half else 1.0)
        parts = max(1, min(threads, n // 1024))
        for part in range(parts):
            tasks[count, 0] = b
            tasks[count, 1] = n * part // parts
            tasks[count, 2] = n * (part + 1) // parts
            tasks[count, 3] = counters
            elapsed[count + 1] = elapsed[count] + 50.0 + (tasks[count, 2] - tasks[count, 1]) * (20.0 + 1.5 * candidates)
            tasks[count, 4] = memory
            room = np.int64(min(expected * (tasks[count, 2] - tasks[count, 1]) + 16.0, 1e9))
            if memory + room < MOST_REMEMBERED:
                memory += int(room)
            tasks[count, 5] = memory
            counters += n
            count += 1
    return tasks, elapsed, counters, memory, worst


@jit
def place_rows(tasks: np.ndarray, segment_ptr: np.ndarray, counters: np.ndarray, row_ptr: np.ndarray) -> int:
    """Turn counts into the place where each task starts in each row; return the number of pairs."""
    total = 0
    task = 0
    while task < tasks.shape[0]:
        b = tasks[task, 0]
        after = task + 1
        while after < tasks.shape[0] and tasks[after, 0] == b:
            after += 1
        first = segment_ptr[b]
        for i in range(segment_ptr[b + 1] - first):
            row_ptr[first + i] = total
            for t in range(task, after):
                place = tasks[t, 3] + i
                mine = counters[place]
                counters[place] = total
                total += mine
        task = after
    row_ptr[row_ptr.shape[0] - 1] = total
    return total


@jit
def near(
    xs: np.ndarray,
    first: int,
    last: int,
    x: np.ndarray,
    sx: float,
    sy: float,
    sz: float,
    limit: float,
    hits: np.ndarray,
) -> int:
    """Collect the places from `first` to `last` whose atom is within the squared radius; no branch to guess wrong."""
    found = 0
    x0, x1, x2 = x[0], x[1], x[2]
    for k in range(first, last):
        dx = (x0 - xs[0, k]) + sx
        dy = (x1 - xs[1, k]) + sy
        dz = (x2 - xs[2, k]) + sz
        hits[found] = k
        found += dx * dx + dy * dy + dz * dz < limit
    return found


@jit
def place_remembered(
    task: np.ndarray,
    first: int,
    mine: np.ndarray,
    remembered: np.ndarray,
    found_by: np.ndarray,
    neighbors: np.ndarray,
    images: np.ndarray,
) -> None:
    """Write the pairs that the counting pass of one task has remembered."""
    note = task[4]
    for j in range(task[1], task[2]):
        for _ in range(found_by[first + j]):
            i = remembered[note, 0]
            place = mine[i]
            neighbors[place] = j
            images[place] = remembered[note, 1]
            mine[i] = place + 1
            note += 1


@jit
def search(
    tasks: np.ndarray,
    segment_ptr: np.ndarray,
    status: np.ndarray,
    pbc: np.ndarray,
    full: np.ndarray,
    grid: np.ndarray,
    reach: np.ndarray,
    x: np.ndarray,
    g: np.ndarray,
    bins: np.ndarray,
    xs: np.ndarray,
    ids: np.ndarray,
    limit: float,
    half: bool,
    old_row_ptr: np.ndarray,
    old_neighbors: np.ndarray,
    old_images: np.ndarray,
    counters: np.ndarray,
    remembered: np.ndarray,
    found_by: np.ndarray,
    neighbors: np.ndarray,
    images: np.ndarray,
    filling: bool,
    start: int,
    stop: int,
) -> None:
    """Count the pairs of tasks ``start .. stop - 1`` row by row, or (`filling`) write them."""
    low = np.empty(3, np.int64)
    high = np.empty(3, np.int64)
    hits = np.empty(1, np.int32)
    for task in range(start, stop):
        b = tasks[task, 0]
        first, last = segment_ptr[b], segment_ptr[b + 1]
        mine = counters[tasks[task, 3] : tasks[task, 3] + (last - first)]
        if status[b] != SEARCHED:
            for i in range(last - first):
                if status[b] != KEPT:
                    mine[i] = mine[i] if filling else 0
                    continue
                old = old_row_ptr[first + i]
                length = old_row_ptr[first + i + 1] - old
                if filling:
                    for k in range(length):
                        neighbors[mine[i] + k] = old_neighbors[old + k]
                        images[mine[i] + k] = old_images[old + k]
                else:
                    mine[i] = length
            continue
        if hits.shape[0] < last - first + 1:
            hits = np.empty(last - first + 1, np.int32)
        if filling and found_by[tasks[task, 1] + first] >= 0:
            place_remembered(tasks[task], first, mine, remembered, found_by, neighbors, images)
            continue
        if not filling:
            for i in range(last - first):
                mine[i] = 0
        note, end = tasks[task, 4], tasks[task, 5]
        fits = True
        n0, n1, n2 = np.int64(grid[b, 0]), np.int64(grid[b, 1]), np.int64(grid[b, 2])
        h = full[b]
        my_bins = bins[2 * first + 2 * b :]
        for j in range(tasks[task, 1], tasks[task, 2]):
            before = note
            xj = x[first + j]
            for a in range(3):
                low[a] = math.floor(g[first + j, a] - reach[b, a] - _MARGIN)
                high[a] = math.floor(g[first + j, a] + reach[b, a] + _MARGIN)
                if not pbc[b, a]:
                    low[a] = max(low[a], 0)
                    high[a] = min(high[a], grid[b, a] - 1)
            for u0 in range(high[0], low[0] - 1, -1):
                s0 = -(u0 // n0)
                for u1 in range(high[1], low[1] - 1, -1):
                    s1 = -(u1 // n1)
                    line = ((u0 + s0 * n0) * n1 + (u1 + s1 * n1)) * n2
                    top = high[2]
                    while top >= low[2]:
                        s2 = -(top // n2)
                        bottom = max(low[2], -s2 * n2)
                        left = my_bins[line + bottom + s2 * n2]
                        right = my_bins[line + top + s2 * n2 + 1]
                        top = bottom - 1
                        if left == right:
                            continue
                        sx = s0 * h[0, 0] + s1 * h[1, 0] + s2 * h[2, 0]
                        sy = s0 * h[0, 1] + s1 * h[1, 1] + s2 * h[2, 1]
                        sz = s0 * h[0, 2] + s1 * h[1, 2] + s2 * h[2, 2]
                        found = near(xs, first + left, first + right, xj, sx, sy, sz, limit, hits)
                        code = np.int32((s0 & 1023) | (s1 & 1023) << 10 | (s2 & 1023) << 20)
                        forward = s0 > 0 or (s0 == 0 and (s1 > 0 or (s1 == 0 and s2 > 0)))
                        for m in range(found):
                            i = ids[hits[m]]
                            if i == j and (code == 0 or (half and not forward)):
                                continue
                            if half and i > j:
                                continue
                            if filling:
                                place = mine[i]
                                neighbors[place] = j
                                images[place] = code
                                mine[i] = place + 1
                            else:
                                mine[i] += 1
                                if note < end:
                                    remembered[note, 0] = i
                                    remembered[note, 1] = code
                                    note += 1
                                else:
                                    fits = False
            if not filling:
                found_by[first + j] = note - before
        if not filling and not fits:
            found_by[first + tasks[task, 1]] = -1


@jit
def smallest_distance(
    positions: np.ndarray,
    cell: np.ndarray,
    segment_ptr: np.ndarray,
    row_ptr: np.ndarray,
    neighbors: np.ndarray,
    images: np.ndarray,
    wrap_offsets: np.ndarray,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the smallest pair distance of systems ``start .. stop - 1``; infinity without pairs, NaN if one is NaN."""
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        smallest = np.inf
        for i in range(first, last):
            for k in range(row_ptr[i], row_ptr[i + 1]):
                j = first + neighbors[k]
                s0, s1, s2 = shift(images[k])
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
