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

KEPT, SEARCHED, NOT_FINITE, FLAT_CELL, TOO_MANY_IMAGES = 0, 1, 2, 3, 4
"""What became of a system; the last two are errors."""

ONE_BIN_ATOMS = 48
"""A smaller system is one bin."""

MOST_REMEMBERED = 50_000_000
"""Pairs that the counting pass may remember, 8 bytes each."""

_MAX_OFFSET = 2.0**30
_MARGIN = 1e-6


@jit
def complete_cell(cell: np.ndarray, pbc: np.ndarray, full: np.ndarray) -> None:
    """Copy the periodic vectors; put unit vectors at right angles in place of the others."""
    periodic = 0
    for a in range(3):
        if pbc[a]:
            periodic += 1
        for c in range(3):
            full[a, c] = cell[a, c] if pbc[a] else (1.0 if a == c else 0.0)
    if periodic == 2:
        for a in range(3):
            if not pbc[a]:
                _unit_normal(full[(a + 1) % 3], full[(a + 2) % 3], full[a])
    elif periodic == 1:
        for a in range(3):
            if pbc[a]:
                b, c = (a + 1) % 3, (a + 2) % 3
                flattest = 0
                for d in range(1, 3):
                    if abs(full[a, d]) < abs(full[a, flattest]):
                        flattest = d
                for d in range(3):
                    full[c, d] = 1.0 if d == flattest else 0.0
                _unit_normal(full[c], full[a], full[b])
                _unit_normal(full[a], full[b], full[c])


@jit
def _unit_normal(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    x = a[1] * b[2] - a[2] * b[1]
    y = a[2] * b[0] - a[0] * b[2]
    z = a[0] * b[1] - a[1] * b[0]
    norm = math.sqrt(x * x + y * y + z * z)
    if norm == 0.0:
        norm = 1.0
    out[0] = x / norm
    out[1] = y / norm
    out[2] = z / norm


@jit
def invert(h: np.ndarray, inverse: np.ndarray) -> bool:
    """Invert a 3x3 matrix; False if its rows are as good as in one plane."""
    scale = 1.0
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        for d in range(3):
            e, f = (d + 1) % 3, (d + 2) % 3
            inverse[d, a] = h[b, e] * h[c, f] - h[b, f] * h[c, e]
        scale *= math.sqrt(h[a, 0] * h[a, 0] + h[a, 1] * h[a, 1] + h[a, 2] * h[a, 2])
    determinant = h[0, 0] * inverse[0, 0] + h[0, 1] * inverse[1, 0] + h[0, 2] * inverse[2, 0]
    if not abs(determinant) > 1e-12 * scale:
        return False
    for a in range(3):
        for d in range(3):
            inverse[a, d] /= determinant
    return True


@jit
def wrap(
    positions: np.ndarray,
    full: np.ndarray,
    inverse: np.ndarray,
    pbc: np.ndarray,
    x: np.ndarray,
    f: np.ndarray,
    w: np.ndarray,
) -> bool:
    """Bring the atoms of one system into the cell along periodic vectors; False if that can not be done."""
    for i in range(positions.shape[0]):
        for c in range(3):
            x[i, c] = positions[i, c]
            w[i, c] = 0
        for _ in range(2):  # the second time mends rounding in the first
            moved = False
            for a in range(3):
                f[i, a] = x[i, 0] * inverse[0, a] + x[i, 1] * inverse[1, a] + x[i, 2] * inverse[2, a]
                if not abs(f[i, a]) < (_MAX_OFFSET if pbc[a] else 1e15):
                    return False
                turns = math.floor(f[i, a])
                if pbc[a] and turns != 0:
                    moved = True
                    w[i, a] += np.int32(turns)
                    f[i, a] -= turns
            if not moved:
                break
            for c in range(3):
                x[i, c] = positions[i, c] - (w[i, 0] * full[0, c] + w[i, 1] * full[1, c] + w[i, 2] * full[2, c])
    return True


@jit
def choose_bins(
    f: np.ndarray, inverse: np.ndarray, pbc: np.ndarray, radius: float, grid: np.ndarray, reach: np.ndarray
) -> None:
    """Choose the bins of one system, turn fractional coordinates into bin coordinates, set the radius in bins."""
    n = f.shape[0]
    lowest = np.zeros(3)
    height = np.empty(3)
    span = np.ones(3)
    for a in range(3):
        height[a] = 1.0 / math.sqrt(inverse[0, a] ** 2 + inverse[1, a] ** 2 + inverse[2, a] ** 2)
        if not pbc[a]:
            lowest[a] = f[0, a]
            highest = f[0, a]
            for i in range(n):
                lowest[a] = min(lowest[a], f[i, a])
                highest = max(highest, f[i, a])
            span[a] = max(highest - lowest[a], 1e-3 / height[a])
        grid[a] = 1
        if n >= ONE_BIN_ATOMS:
            width = radius * (0.3 if a == 2 else 0.7)
            grid[a] = np.int32(min(max(math.floor(height[a] * span[a] / width), 1.0), 1e6))
    while np.int64(grid[0]) * grid[1] * grid[2] > 2 * n and n >= ONE_BIN_ATOMS:
        largest = 0
        for a in range(1, 3):
            if grid[a] > grid[largest]:
                largest = a
        grid[largest] = max(1, grid[largest] * 3 // 4)
    for a in range(3):
        reach[a] = radius / height[a] / span[a] * grid[a]
        for i in range(n):
            f[i, a] = (f[i, a] - lowest[a]) / span[a] * grid[a]


@jit
def sort_into_bins(
    x: np.ndarray, g: np.ndarray, grid: np.ndarray, bins: np.ndarray, xs: np.ndarray, ids: np.ndarray
) -> None:
    """Sort the atoms of one system by bin, stable; `bins` gets each bin's first place."""
    n = x.shape[0]
    total = grid[0] * grid[1] * grid[2]
    home = np.empty(n, np.int32)
    for k in range(total + 1):
        bins[k] = 0
    for i in range(n):
        k = 0
        for a in range(3):
            k = k * grid[a] + min(max(np.int64(math.floor(g[i, a])), 0), grid[a] - 1)
        home[i] = k
        bins[k + 1] += 1
    for k in range(total):
        bins[k + 1] += bins[k]
    for i in range(n):
        place = bins[home[i]]
        bins[home[i]] = place + 1
        ids[place] = i
        for c in range(3):
            xs[c, place] = x[i, c]
    for k in range(total, 0, -1):
        bins[k] = bins[k - 1]
    bins[0] = 0


@jit
def prepare(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    segment_ptr: np.ndarray,
    radius: float,
    rebuild: np.ndarray,
    old_offsets: np.ndarray,
    x: np.ndarray,
    g: np.ndarray,
    w: np.ndarray,
    full: np.ndarray,
    grid: np.ndarray,
    reach: np.ndarray,
    bins: np.ndarray,
    xs: np.ndarray,
    ids: np.ndarray,
    status: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Wrap and bin systems ``start .. stop - 1`` and set their `status`."""
    inverse = np.empty((3, 3))
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        if not rebuild[b]:
            status[b] = KEPT
            w[first:last] = old_offsets[first:last]
            continue
        status[b] = NOT_FINITE
        w[first:last] = 0
        complete_cell(cell[b], pbc[b], full[b])
        if first == last or not np.all(np.isfinite(full[b])):
            continue
        if not invert(full[b], inverse):
            status[b] = FLAT_CELL
            continue
        for a in range(3):
            ratio = radius * math.sqrt(inverse[0, a] ** 2 + inverse[1, a] ** 2 + inverse[2, a] ** 2)
            if pbc[b, a] and not ratio + 1.0 + 1e-9 < 512.0:
                status[b] = TOO_MANY_IMAGES
        if status[b] != NOT_FINITE:
            continue
        if not wrap(positions[first:last], full[b], inverse, pbc[b], x[first:last], g[first:last], w[first:last]):
            w[first:last] = 0
            continue
        choose_bins(g[first:last], inverse, pbc[b], radius, grid[b], reach[b])
        mine = bins[2 * first + 2 * b :]
        sort_into_bins(x[first:last], g[first:last], grid[b], mine, xs[:, first:last], ids[first:last])
        status[b] = SEARCHED


@jit
def plan(
    segment_ptr: np.ndarray,
    pbc: np.ndarray,
    grid: np.ndarray,
    reach: np.ndarray,
    status: np.ndarray,
    half: bool,
    threads: int,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Cut the batch into tasks; a large system becomes several.

    Returns rows (system, first j, last j, start of its counters, start and end of its memory), the work of each, and
    how many counters and remembered pairs there are.
    """
    systems = segment_ptr.shape[0] - 1
    count = 0
    for b in range(systems):
        count += max(1, min(threads, (segment_ptr[b + 1] - segment_ptr[b]) // 1024))
    tasks = np.empty((count, 6), np.int64)
    work = np.empty(count)
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
            work[count] = 50.0 + (tasks[count, 2] - tasks[count, 1]) * (20.0 + 1.5 * candidates)
            tasks[count, 4] = memory
            room = np.int64(min(expected * (tasks[count, 2] - tasks[count, 1]) + 16.0, 1e9))
            if memory + room < MOST_REMEMBERED:
                memory += int(room)
            tasks[count, 5] = memory
            counters += n
            count += 1
    return tasks, work, counters, memory


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
            mine[:] = 0
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
def image(code: int, first_bit: int) -> int:
    """Read one signed ten-bit number out of a packed shift."""
    bits = (code >> first_bit) & 1023
    return bits - ((bits & 512) << 1)


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
                s0 = image(images[k], 0) - wrap_offsets[j, 0] + wrap_offsets[i, 0]
                s1 = image(images[k], 10) - wrap_offsets[j, 1] + wrap_offsets[i, 1]
                s2 = image(images[k], 20) - wrap_offsets[j, 2] + wrap_offsets[i, 2]
                square = 0.0
                for c in range(3):
                    d = (positions[j, c] - positions[i, c]) + (
                        s0 * cell[b, 0, c] + s1 * cell[b, 1, c] + s2 * cell[b, 2, c]
                    )
                    square += d * d
                if square < smallest or square != square:
                    smallest = square
        out[b] = math.sqrt(smallest)
