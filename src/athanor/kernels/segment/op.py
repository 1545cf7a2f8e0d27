"""Per-system reductions over the rows of a batch: public calls and their registration with torch.

Systems own consecutive rows; ``segment_ptr`` holds each one's first row and, at the end, the number of rows.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import DtypeError, ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_gradient, register_op
from athanor.kernels._threads import even_bounds, num_parts, run_parts
from athanor.kernels.segment import _reference

_cpu = LazyModule("athanor.kernels.segment._cpu")

_FLOATS = (torch.float32, torch.float64)


def segment_sum(values: torch.Tensor, segment_ptr: torch.Tensor) -> torch.Tensor:
    r"""Add the rows of each system.

    .. math:: s_b = \sum_{i = p_b}^{p_{b+1} - 1} v_i

    Parameters
    ----------
    values
        [N, ...], any unit. Differentiable.
    segment_ptr
        int32 [B + 1], not decreasing, from 0 to N.

    Returns
    -------
    torch.Tensor
        [B, ...], dtype and unit of `values`; zero for a system without rows.

    Raises
    ------
    ShapeError
        If `values` has no rows dimension or `segment_ptr` is not one-dimensional.

    Notes
    -----
    Rows are added in order, in double precision, so the bits of a system's sum depend on its own rows only: not on
    other systems, the number of threads, or the place in the batch.
    """
    _check(values, segment_ptr)
    return _segment_sum(values, segment_ptr)


def segment_max(values: torch.Tensor, segment_ptr: torch.Tensor) -> torch.Tensor:
    """Take the largest value of each system.

    Parameters
    ----------
    values
        float [N], any unit.
    segment_ptr
        int32 [B + 1], not decreasing, from 0 to N.

    Returns
    -------
    torch.Tensor
        [B], dtype and unit of `values`; minus infinity for a system without rows, NaN where a row is NaN.
        Not differentiable.

    Raises
    ------
    ShapeError
        If `values` or `segment_ptr` is not one-dimensional.
    DtypeError
        If `values` is not a float tensor.
    """
    _check(values, segment_ptr)
    if values.ndim != 1:
        raise ShapeError(f"`values` has shape {tuple(values.shape)}; segment_max needs [N].")
    if not values.is_floating_point():
        raise DtypeError(f"`values` is {values.dtype}; segment_max needs a float dtype.")
    return _segment_max(values, segment_ptr)


def _check(values: torch.Tensor, segment_ptr: torch.Tensor) -> None:
    _runtime.ready()
    if values.ndim < 1 or segment_ptr.ndim != 1 or segment_ptr.shape[0] < 1:
        raise ShapeError(
            f"`values` has shape {tuple(values.shape)} and `segment_ptr` {tuple(segment_ptr.shape)}; "
            "segment reductions need [N, ...] and [B + 1]."
        )


def _sum_cpu(values, segment_ptr):
    if values.dtype not in _FLOATS:
        return _reference.segment_sum(values, segment_ptr)
    rows, ptr = as_doubles(values), as_array(segment_ptr)
    systems, columns, tail = len(ptr) - 1, prod(rows.shape[1:]), rows.shape[1:]
    sums = torch.empty((systems, *tail), dtype=torch.float64)
    parts = min(num_parts(0.5 * rows.size), max(systems, 1))
    arguments = (rows.reshape(len(rows), columns), ptr, sums.numpy().reshape(systems, columns))
    run_parts(_cpu.sum_rows, arguments, even_bounds(systems, parts))
    return sums if values.dtype == torch.float64 else sums.to(values.dtype)


def _max_cpu(values, segment_ptr):
    ptr = as_array(segment_ptr)
    largest = np.empty(len(ptr) - 1)
    _cpu.max_rows(as_doubles(values), ptr, largest, 0, len(largest))
    return as_tensor(largest, values.dtype)


def _fake(values: torch.Tensor, segment_ptr: torch.Tensor) -> torch.Tensor:
    return values.new_empty((segment_ptr.shape[0] - 1, *values.shape[1:]))


def _keep_pointer(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.num_rows = inputs[0].shape[0]


def _sum_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    (segment_ptr,) = ctx.saved_tensors
    return gradient.index_select(0, _reference.segment_index(segment_ptr, ctx.num_rows)), None


_segment_sum = register_op(segment_sum, cpu=_sum_cpu, reference=_reference.segment_sum, fake=_fake)
register_gradient("segment_sum", setup_context=_keep_pointer, backward=_sum_backward)
_segment_max = register_op(segment_max, cpu=_max_cpu, reference=_reference.segment_max, fake=_fake)
