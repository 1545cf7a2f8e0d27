"""Per-system sums and maxima with numba. A system's rows are added one after another in double precision."""

from __future__ import annotations

import numpy as np

from athanor.kernels._numba_options import jit


@jit
def sum_rows(values, segment_ptr, out, start, stop):
    """Write the sums of systems ``start .. stop - 1`` to `out`; three columns at a time hide the add's latency."""
    columns = values.shape[1]
    in_threes = columns - columns % 3
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        for k in range(0, in_threes, 3):
            s0 = 0.0
            s1 = 0.0
            s2 = 0.0
            for i in range(first, last):
                s0 += values[i, k]
                s1 += values[i, k + 1]
                s2 += values[i, k + 2]
            out[b, k] = s0
            out[b, k + 1] = s1
            out[b, k + 2] = s2
        for k in range(in_threes, columns):
            s0 = 0.0
            for i in range(first, last):
                s0 += values[i, k]
            out[b, k] = s0


@jit
def max_rows(values, segment_ptr, out, start, stop):
    """Write the largest value of systems ``start .. stop - 1`` to `out`; NaN wins over every number."""
    for b in range(start, stop):
        largest = -np.inf
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            value = values[i]
            if value > largest or value != value:
                largest = value
            if largest != largest:
                break
        out[b] = largest
