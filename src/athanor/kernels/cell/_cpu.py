"""Shape and strain of cells with numba."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.cell._reference import TERMS


@jit
def shapes(cell, volume, height):
    """Write volume and smallest height of every cell; a NaN makes both NaN."""
    for b in range(cell.shape[0]):
        h = cell[b]
        widest = 0.0
        signed = 0.0
        for a in range(3):
            c, d = (a + 1) % 3, (a + 2) % 3
            x = h[c, 1] * h[d, 2] - h[c, 2] * h[d, 1]
            y = h[c, 2] * h[d, 0] - h[c, 0] * h[d, 2]
            z = h[c, 0] * h[d, 1] - h[c, 1] * h[d, 0]
            area = math.sqrt(x * x + y * y + z * z)
            if area > widest or area != area:
                widest = area
            if a == 0:
                signed = h[0, 0] * x + h[0, 1] * y + h[0, 2] * z
        volume[b] = abs(signed)
        height[b] = volume[b] / widest


@jit
def multiply(left, right, out):
    """Write the product of two 3x3 matrices."""
    for a in range(3):
        for c in range(3):
            out[a, c] = left[a, 0] * right[0, c] + left[a, 1] * right[1, c] + left[a, 2] * right[2, c]


@jit
def strain(positions, cell, log_strain, segment_ptr, moved, new_cell, start, stop):
    """Strain systems ``start .. stop - 1``."""
    m, product = np.empty((3, 3)), np.empty((3, 3))
    for b in range(start, stop):
        for a in range(3):
            for c in range(3):
                m[a, c] = 1.0 if a == c else 0.0
        for order in range(TERMS, 0, -1):
            multiply(log_strain[b], m, product)
            for a in range(3):
                for c in range(3):
                    m[a, c] = (1.0 if a == c else 0.0) + product[a, c] / order
        multiply(cell[b], m, new_cell[b])
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
            for c in range(3):
                moved[i, c] = x * m[0, c] + y * m[1, c] + z * m[2, c]
