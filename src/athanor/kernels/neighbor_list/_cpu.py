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
    squares: np.ndarray,
    hits: np.ndarray,
) -> int:
    """Collect the places from `first` to `last` whose atom is within the squared radius; no branch to guess wrong."""
    count = last - first
    xk, yk, zk = xs[0, first:last], xs[1, first:last], xs[2, first:last]
    x0, x1, x2 = x[0], x[1], x[2]
    for k in range(count):
        dx = (x0 - xk[k]) + sx
        dy = (x1 - yk[k]) + sy
        dz = (x2 - zk[k]) + sz
        squares[k] = dx * dx + dy * dy + dz * dz
    found = 0
    for k in range(count):
        hits[found] = first + k
        found += squares[k] < limit
    return found


@jit
def to_rows(j: int, last: int, own_image: bool, ids: np.ndarray, hits: np.ndarray, count: int) -> int:
    """Turn places into the atoms whose rows atom j enters: those up to `last`, and j itself for an own image."""
    kept = 0
    for m in range(count):
        i = ids[hits[m]]
        hits[kept] = i
        kept += i <= last and (i != j or own_image)
    return kept


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
def is_rectangular(h: np.ndarray) -> bool:
    """Whether the rows of a matrix are at right angles."""
    right = True
    for a in range(3):
        c = (a + 1) % 3
        product = h[a, 0] * h[c, 0] + h[a, 1] * h[c, 1] + h[a, 2] * h[c, 2]
        size = (h[a, 0] ** 2 + h[a, 1] ** 2 + h[a, 2] ** 2) * (h[c, 0] ** 2 + h[c, 1] ** 2 + h[c, 2] ** 2)
        right = right and product * product <= 1e-24 * size
    return right


@jit
def fill_turns(grid: np.ndarray, reach: np.ndarray, base: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Tabulate the image of each bin that the search may visit: ``-(u // grid)`` at ``u + base``, for three axes.

    Three divisions for every line of bins would cost more than the distances.
    """
    width = 0
    for a in range(3):
        base[a] = np.int64(reach[a]) + 3
        width = max(width, grid[a] + 2 * base[a])
    if turns.shape[1] < width:
        turns = np.empty((3, width), np.int64)
    for a in range(3):
        image, left = (base[a] + grid[a] - 1) // grid[a], (-base[a]) % grid[a]
        for k in range(grid[a] + 2 * base[a]):
            turns[a, k] = image
            left += 1
            if left == grid[a]:
                left = 0
                image -= 1
    return turns


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
    base = np.empty(3, np.int64)
    turns = np.empty((3, 32), np.int64)
    hits, squares = np.empty(1, np.int32), np.empty(1)
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
            hits, squares = np.empty(last - first + 1, np.int32), np.empty(last - first + 1)
        if filling and found_by[tasks[task, 1] + first] >= 0:
            place_remembered(tasks[task], first, mine, remembered, found_by, neighbors, images)
            continue
        if not filling:
            for i in range(last - first):
                mine[i] = 0
        note, end = tasks[task, 4], tasks[task, 5]
        fits = True
        n0, n1, n2 = np.int64(grid[b, 0]), np.int64(grid[b, 1]), np.int64(grid[b, 2])
        turns = fill_turns(grid[b], reach[b], base, turns)
        h = full[b]
        square = 1.0 if is_rectangular(h) else 0.0  # only then distances to two slabs add up in squares
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
            g0, g1, g2 = g[first + j, 0], g[first + j, 1], g[first + j, 2]
            for u0 in range(high[0], low[0] - 1, -1):
                s0 = turns[0, u0 + base[0]]
                d0 = square * max(u0 - g0, g0 - u0 - 1.0, 0.0) / reach[b, 0]
                for u1 in range(high[1], low[1] - 1, -1):
                    d1 = square * max(u1 - g1, g1 - u1 - 1.0, 0.0) / reach[b, 1]
                    chord = 1.0 - d0 * d0 - d1 * d1
                    if chord < -_MARGIN:
                        continue
                    span = math.sqrt(max(chord, 0.0)) * reach[b, 2] + _MARGIN
                    end_of_line = max(low[2], np.int64(math.floor(g2 - span)))
                    top = min(high[2], np.int64(math.floor(g2 + span)))
                    s1 = turns[1, u1 + base[1]]
                    line = ((u0 + s0 * n0) * n1 + (u1 + s1 * n1)) * n2
                    while top >= end_of_line:
                        s2 = turns[2, top + base[2]]
                        bottom = max(end_of_line, -s2 * n2)
                        left = my_bins[line + bottom + s2 * n2]
                        right = my_bins[line + top + s2 * n2 + 1]
                        top = bottom - 1
                        if left == right:
                            continue
                        sx = s0 * h[0, 0] + s1 * h[1, 0] + s2 * h[2, 0]
                        sy = s0 * h[0, 1] + s1 * h[1, 1] + s2 * h[2, 1]
                        sz = s0 * h[0, 2] + s1 * h[1, 2] + s2 * h[2, 2]
                        found = near(xs, first + left, first + right, xj, sx, sy, sz, limit, squares, hits)
                        forward = s0 > 0 or (s0 == 0 and (s1 > 0 or (s1 == 0 and s2 > 0)))
                        last_atom = j if half else last - first
                        own_image = (s0 | s1 | s2) != 0 and (forward or not half)
                        found = to_rows(j, last_atom, own_image, ids, hits, found)
                        code = np.int32((s0 & 1023) | (s1 & 1023) << 10 | (s2 & 1023) << 20)
                        if filling:
                            for m in range(found):
                                place = mine[hits[m]]
                                neighbors[place] = j
                                images[place] = code
                                mine[hits[m]] = place + 1
                        else:
                            for m in range(found):
                                mine[hits[m]] += 1
                            if note + found <= end:
                                for m in range(found):
                                    remembered[note + m, 0] = hits[m]
                                    remembered[note + m, 1] = code
                                note += found
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
