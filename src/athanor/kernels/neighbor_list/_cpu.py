"""Neighbour search with numba.

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
from athanor.kernels.neighbor_list._cpu_shift import unpack_shift

MOST_REMEMBERED = 50_000_000
"""Pairs that the counting pass may remember, 8 bytes each."""

_MARGIN = 1e-6


@jit
def plan(segment_ptr, pbc, grid, reach, status, half, threads):
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
    work = np.empty(count + 1)
    work[0] = 0.0
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
            work[count + 1] = work[count] + 50.0 + (tasks[count, 2] - tasks[count, 1]) * (20.0 + 1.5 * candidates)
            tasks[count, 4] = memory
            room = np.int64(min(expected * (tasks[count, 2] - tasks[count, 1]) + 16.0, 1e9))
            if memory + room < MOST_REMEMBERED:
                memory += int(room)
            tasks[count, 5] = memory
            counters += n
            count += 1
    return tasks, work, counters, memory, worst


@jit
def place_rows(tasks, segment_ptr, counters, row_ptr):
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
                count = counters[place]
                counters[place] = total
                total += count
        task = after
    row_ptr[row_ptr.shape[0] - 1] = total
    return total


@jit
def find_close(xs, first, last, x, sx, sy, sz, limit, squares, hits):
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
def keep_listed(j, last, own_image, ids, hits, count):
    """Turn places into the atoms whose rows atom j enters: those up to `last`, and j itself for an own image."""
    kept = 0
    for m in range(count):
        i = ids[hits[m]]
        hits[kept] = i
        kept += i <= last and (i != j or own_image)
    return kept


@jit
def place_remembered(task, first, places, remembered, found_by, neighbors, images):
    """Write the pairs that the counting pass of one task has remembered."""
    next_pair = task[4]
    for j in range(task[1], task[2]):
        for _ in range(found_by[first + j]):
            i = remembered[next_pair, 0]
            place = places[i]
            neighbors[place] = j
            images[place] = remembered[next_pair, 1]
            places[i] = place + 1
            next_pair += 1


@jit
def is_rectangular(h):
    """Whether the rows of a matrix are at right angles."""
    right = True
    for a in range(3):
        c = (a + 1) % 3
        product = h[a, 0] * h[c, 0] + h[a, 1] * h[c, 1] + h[a, 2] * h[c, 2]
        size = (h[a, 0] ** 2 + h[a, 1] ** 2 + h[a, 2] ** 2) * (h[c, 0] ** 2 + h[c, 1] ** 2 + h[c, 2] ** 2)
        right = right and product * product <= 1e-24 * size
    return right


@jit
def tabulate_images(grid, reach, base, image_of):
    """Tabulate the image of each bin that the search may visit: ``-(u // grid)`` at ``u + base``, for three axes.

    Three divisions for every line of bins would cost more than the distances.
    """
    width = 0
    for a in range(3):
        base[a] = np.int64(reach[a]) + 3
        width = max(width, grid[a] + 2 * base[a])
    if image_of.shape[1] < width:
        image_of = np.empty((3, width), np.int64)
    for a in range(3):
        image, left = (base[a] + grid[a] - 1) // grid[a], (-base[a]) % grid[a]
        for k in range(grid[a] + 2 * base[a]):
            image_of[a, k] = image
            left += 1
            if left == grid[a]:
                left = 0
                image -= 1
    return image_of


@jit
def search(
    tasks, segment_ptr, status, pbc, full, grid, reach, x, g, bins, xs, ids, limit, half, old_row_ptr,
    old_neighbors, old_images, counters, remembered, found_by, neighbors, images, filling, start, stop,
):  # fmt: skip
    """Count the pairs of tasks ``start .. stop - 1`` row by row, or (`filling`) write them."""
    low = np.empty(3, np.int64)
    high = np.empty(3, np.int64)
    base = np.empty(3, np.int64)
    image_of = np.empty((3, 32), np.int64)
    hits, squares = np.empty(1, np.int32), np.empty(1)
    for task in range(start, stop):
        b = tasks[task, 0]
        first, last = segment_ptr[b], segment_ptr[b + 1]
        places = counters[tasks[task, 3] : tasks[task, 3] + (last - first)]  # counts first, then where to write
        if status[b] != SEARCHED:
            for i in range(last - first):
                if status[b] != KEPT:
                    places[i] = places[i] if filling else 0
                    continue
                old = old_row_ptr[first + i]
                length = old_row_ptr[first + i + 1] - old
                if filling:
                    for k in range(length):
                        neighbors[places[i] + k] = old_neighbors[old + k]
                        images[places[i] + k] = old_images[old + k]
                else:
                    places[i] = length
            continue
        if hits.shape[0] < last - first + 1:
            hits, squares = np.empty(last - first + 1, np.int32), np.empty(last - first + 1)
        if filling and found_by[tasks[task, 1] + first] >= 0:
            place_remembered(tasks[task], first, places, remembered, found_by, neighbors, images)
            continue
        if not filling:
            for i in range(last - first):
                places[i] = 0
        next_pair, end = tasks[task, 4], tasks[task, 5]
        fits = True
        n0, n1, n2 = np.int64(grid[b, 0]), np.int64(grid[b, 1]), np.int64(grid[b, 2])
        image_of = tabulate_images(grid[b], reach[b], base, image_of)
        h = full[b]
        square = 1.0 if is_rectangular(h) else 0.0  # only then distances to two slabs add up in squares
        my_bins = bins[2 * first + 2 * b :]
        for j in range(tasks[task, 1], tasks[task, 2]):
            before = next_pair
            xj = x[first + j]
            for a in range(3):
                low[a] = math.floor(g[first + j, a] - reach[b, a] - _MARGIN)
                high[a] = math.floor(g[first + j, a] + reach[b, a] + _MARGIN)
                if not pbc[b, a]:
                    low[a] = max(low[a], 0)
                    high[a] = min(high[a], grid[b, a] - 1)
            g0, g1, g2 = g[first + j, 0], g[first + j, 1], g[first + j, 2]
            for u0 in range(high[0], low[0] - 1, -1):
                s0 = image_of[0, u0 + base[0]]
                d0 = square * max(u0 - g0, g0 - u0 - 1.0, 0.0) / reach[b, 0]
                for u1 in range(high[1], low[1] - 1, -1):
                    d1 = square * max(u1 - g1, g1 - u1 - 1.0, 0.0) / reach[b, 1]
                    chord = 1.0 - d0 * d0 - d1 * d1
                    if chord < -_MARGIN:
                        continue
                    span = math.sqrt(max(chord, 0.0)) * reach[b, 2] + _MARGIN
                    end_of_line = max(low[2], np.int64(math.floor(g2 - span)))
                    top = min(high[2], np.int64(math.floor(g2 + span)))
                    s1 = image_of[1, u1 + base[1]]
                    line = ((u0 + s0 * n0) * n1 + (u1 + s1 * n1)) * n2
                    while top >= end_of_line:
                        s2 = image_of[2, top + base[2]]
                        bottom = max(end_of_line, -s2 * n2)
                        left = my_bins[line + bottom + s2 * n2]
                        right = my_bins[line + top + s2 * n2 + 1]
                        top = bottom - 1
                        if left == right:
                            continue
                        sx = s0 * h[0, 0] + s1 * h[1, 0] + s2 * h[2, 0]
                        sy = s0 * h[0, 1] + s1 * h[1, 1] + s2 * h[2, 1]
                        sz = s0 * h[0, 2] + s1 * h[1, 2] + s2 * h[2, 2]
                        found = find_close(xs, first + left, first + right, xj, sx, sy, sz, limit, squares, hits)
                        forward = s0 > 0 or (s0 == 0 and (s1 > 0 or (s1 == 0 and s2 > 0)))
                        last_atom = j if half else last - first
                        own_image = (s0 | s1 | s2) != 0 and (forward or not half)
                        found = keep_listed(j, last_atom, own_image, ids, hits, found)
                        code = np.int32((s0 & 1023) | (s1 & 1023) << 10 | (s2 & 1023) << 20)
                        if filling:
                            for m in range(found):
                                place = places[hits[m]]
                                neighbors[place] = j
                                images[place] = code
                                places[hits[m]] = place + 1
                        else:
                            for m in range(found):
                                places[hits[m]] += 1
                            if next_pair + found <= end:
                                for m in range(found):
                                    remembered[next_pair + m, 0] = hits[m]
                                    remembered[next_pair + m, 1] = code
                                next_pair += found
                            else:
                                fits = False
            if not filling:
                found_by[first + j] = next_pair - before
        if not filling and not fits:
            found_by[first + tasks[task, 1]] = -1


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
