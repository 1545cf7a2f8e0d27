"""When a stored neighbour list must be built again, with numba."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_displacement._reference import AHEAD_ATOMS, AHEAD_EVERY, AHEAD_SHARE


@jit
def compare(positions, reference_positions, cell, segment_ptr, strain, lost, steps, skin, out, start, stop):
    """Set `out` for systems ``start .. stop - 1``: is twice the largest displacement more than allowed.

    `lost` is what the strain takes from the skin of each system; it is empty if no cell has changed.
    """
    strained = lost.shape[0] > 0
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        allowed = skin
        if steps.shape[0] > 0 and steps[b] % AHEAD_EVERY == 0 and last - first <= AHEAD_ATOMS:
            allowed *= AHEAD_SHARE
        if strained:
            allowed -= lost[b]
        largest = 0.0
        finite = True
        for a in range(3):
            for c in range(3):
                finite = finite and math.isfinite(cell[b, a, c])
        for i in range(first, last):
            x, y, z = reference_positions[i, 0], reference_positions[i, 1], reference_positions[i, 2]
            if strained:
                f = strain[b]
                x, y, z = (
                    x * f[0, 0] + y * f[1, 0] + z * f[2, 0],
                    x * f[0, 1] + y * f[1, 1] + z * f[2, 1],
                    x * f[0, 2] + y * f[1, 2] + z * f[2, 2],
                )
            x, y, z = positions[i, 0] - x, positions[i, 1] - y, positions[i, 2] - z
            square = x * x + y * y + z * z
            finite = finite and square < np.inf
            largest = max(largest, square)
        out[b] = finite and 2.0 * math.sqrt(largest) > allowed
