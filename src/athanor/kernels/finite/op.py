"""Whether all numbers of a tensor are finite: the public call.

It answers with a plain bool, which torch can neither trace nor differentiate, so it is not registered with torch.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from athanor.kernels._library import LazyModule, as_array
from athanor.kernels.finite import _reference

_cpu = LazyModule("athanor.kernels.finite._cpu")
_COMPILED = (torch.float64, torch.float32)


def all_below(values: torch.Tensor | np.ndarray, limit: float = math.inf) -> bool:
    r"""Say whether :math:`|v| < L` for every number of a tensor.

    Parameters
    ----------
    values
        Floating, any shape and unit; or a flat array, for callers that keep a view of a tensor's memory.
    limit
        L, in the unit of `values`; infinity asks whether all are finite.

    Returns
    -------
    bool
        False also if one is NaN; True for an empty tensor.

    Notes
    -----
    Waits for the device.
    """
    if isinstance(values, np.ndarray):
        return _cpu.all_below(values, limit)
    if values.is_cpu and values.dtype in _COMPILED:
        return _cpu.all_below(as_array(values).reshape(-1), limit)
    return _reference.all_below(values.detach(), limit)
