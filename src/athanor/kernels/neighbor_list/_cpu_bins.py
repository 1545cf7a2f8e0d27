"""Cells, wrapping and bins of the neighbour search, with numba: what is done once for each system."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_list._cpu_candidates import measure

KEPT, SEARCHED, NOT_FINITE, FLAT_CELL, TOO_MANY_IMAGES = 0, 1, 2, 3, 4
"""What became of a system; the last two are errors."""

ATOMS_IN_BIN = 8.0
"""How many are wished for: candidates are gathered once for all of them."""

_MAX_OFFSET = 2.0**30


@jit
def complete_cell(cell, pbc, full):
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
def _unit_normal(a, b, out):
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
def is_finite(h):
    """Whether all nine numbers of a matrix are finite."""
    finite = True
    for a in range(3):
        for c in range(3):
            finite = finite and math.isfinite(h[a, c])
    return finite


@jit
def invert(h, inverse):
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
def determinant(h):
    """Return the determinant of a 3x3 matrix."""
    return (
        h[0, 0] * (h[1, 1] * h[2, 2] - h[1, 2] * h[2, 1])
        + h[0, 1] * (h[1, 2] * h[2, 0] - h[1, 0] * h[2, 2])
        + h[0, 2] * (h[1, 0] * h[2, 1] - h[1, 1] * h[2, 0])
    )


@jit
def wrap(positions, full, inverse, pbc, x, f, w):
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
                cells = math.floor(f[i, a])
                if pbc[a] and cells != 0:
                    moved = True
                    w[i, a] += np.int32(cells)
                    f[i, a] -= cells
            if not moved:
                break
            for c in range(3):
                x[i, c] = positions[i, c] - (w[i, 0] * full[0, c] + w[i, 1] * full[1, c] + w[i, 2] * full[2, c])
    return True


@jit
def choose_bins(f, inverse, pbc, radius, grid, reach):
    """Choose the bins of one system, turn fractional coordinates into bin coordinates, set the radius in bins.

    Returns the cube of the radius, in bins.
    """
    n = f.shape[0]
    lowest = np.empty(3)
    height = np.empty(3)
    span = np.empty(3)
    for a in range(3):
        lowest[a] = 0.0
        span[a] = 1.0
        height[a] = 1.0 / math.sqrt(inverse[0, a] ** 2 + inverse[1, a] ** 2 + inverse[2, a] ** 2)
        if not pbc[a]:
            lowest[a] = f[0, a]
            highest = f[0, a]
            for i in range(n):
                lowest[a] = min(lowest[a], f[i, a])
                highest = max(highest, f[i, a])
            span[a] = max(highest - lowest[a], 1e-3 / height[a])
    volume = 1.0 / abs(determinant(inverse))
    for a in range(3):
        volume *= span[a]
    width = min(max((ATOMS_IN_BIN * volume / n) ** (1.0 / 3.0), 0.25 * radius), radius)
    for a in range(3):
        grid[a] = np.int32(min(max(math.floor(height[a] * span[a] / width), 1.0), 1e6))
    while np.int64(grid[0]) * grid[1] * grid[2] > 2 * n:
        largest = 0
        for a in range(1, 3):
            if grid[a] > grid[largest]:
                largest = a
        grid[largest] = max(1, grid[largest] * 3 // 4)
    for a in range(3):
        reach[a] = radius / height[a] / span[a] * grid[a]
        for i in range(n):
            f[i, a] = (f[i, a] - lowest[a]) / span[a] * grid[a]
    return radius * radius * radius / volume * grid[0] * grid[1] * grid[2]


@jit
def sort_into_bins(x, g, grid, bins, xs, ids):
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
    positions, cell, pbc, segment_ptr, radius, rebuild, old_offsets, x, g, w, full, grid, reach, bins, xs, ids,
    row_lengths, most, status, start, stop,
):  # fmt: skip
    """Wrap and bin systems ``start .. stop - 1``, measure what their search needs, and set their `status`."""
    inverse = np.empty((3, 3))
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        keep = not rebuild[b]
        for i in range(first, last):
            for c in range(3):
                w[i, c] = old_offsets[i, c] if keep else 0
        if keep:
            status[b] = KEPT
            continue
        status[b] = NOT_FINITE
        complete_cell(cell[b], pbc[b], full[b])
        if first == last or not is_finite(full[b]):
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
            for i in range(first, last):
                for c in range(3):
                    w[i, c] = 0
            continue
        cube = choose_bins(g[first:last], inverse, pbc[b], radius, grid[b], reach[b])
        first_places = bins[2 * first + 2 * b :]
        sort_into_bins(x[first:last], g[first:last], grid[b], first_places, xs[:, first:last], ids[first:last])
        row_lengths[b], fits = measure(last - first, pbc[b], grid[b], reach[b], cube, first_places, most[b])
        status[b] = SEARCHED if fits else TOO_MANY_IMAGES
