"""Moving the rows of systems, with numba: each system is one stretch of memory."""

from __future__ import annotations

import numpy as np

from athanor.kernels._numba_options import jit


@jit
def arrange(
    first: np.ndarray,
    other: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    joining: np.ndarray,
    arranged: np.ndarray,
    begin: int,
    stop: int,
) -> None:
    """Copy systems `begin` to `stop`; `starts` are in `first` or `other`, `ends` in `arranged`, all in words."""
    for system in range(begin, stop):
        target = ends[system - 1] if system > 0 else 0
        length, source = ends[system] - target, starts[system]
        if joining[system]:
            arranged[target : target + length] = other[source : source + length]
        else:
            arranged[target : target + length] = first[source : source + length]
