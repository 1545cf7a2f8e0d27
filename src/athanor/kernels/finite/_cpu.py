"""Whether all numbers of a tensor are finite, with numba."""

from __future__ import annotations

import numpy as np

from athanor.kernels._numba_options import jit


@jit
def all_below(values: np.ndarray, limit: float) -> bool:
    """Whether every magnitude of [M] is below `limit`; no early way out, so that the loop runs in vector registers."""
    above = 0
    for k in range(values.shape[0]):
        above += not abs(values[k]) < limit
    return above == 0
