"""Shape and strain of the cells of a batch: public calls and their registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_op
from athanor.kernels._threads import run_parts, system_bounds
from athanor.kernels.cell import _reference

_cpu = LazyModule("athanor.kernels.cell._cpu")

Pair = tuple[torch.Tensor, torch.Tensor]


def cell_shape(cell: torch.Tensor) -> Pair:
    r"""Compute volume and smallest height of each cell.

    .. math:: V = |a \cdot (b \times c)|, \qquad
              d = V / \max(|a \times b|,\ |b \times c|,\ |c \times a|)

    Parameters
    ----------
    cell
        float32 or float64 [B, 3, 3], rows are lattice vectors, Å.

    Returns
    -------
    tuple of torch.Tensor
        Volume, Å³, and height, Å, [B]; height is NaN where the cell is zero. Not differentiable.

    Raises
    ------
    ShapeError
        If `cell` is not [B, 3, 3].
    """
    _runtime.ready()
    if cell.ndim != 3 or cell.shape[1:] != (3, 3):
        raise ShapeError(f"`cell` has shape {tuple(cell.shape)}; it must be [B, 3, 3].")
    return _cell_shape(cell)


def strained(positions: torch.Tensor, cell: torch.Tensor, log_strain: torch.Tensor, segment_ptr: torch.Tensor) -> Pair:
    r"""Strain cells and the atoms in them: :math:`h e^{\epsilon}` and :math:`r e^{\epsilon}`.

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å.
    cell
        [B, 3, 3], rows are lattice vectors, Å.
    log_strain
        :math:`\epsilon`, [B, 3, 3], norms below 0.3.
    segment_ptr
        int32 [B + 1], first atom of each system.

    Returns
    -------
    tuple of torch.Tensor
        New positions and cells, in their dtypes. Not differentiable.

    Raises
    ------
    ShapeError
        If `cell` and `log_strain` differ in shape.

    Notes
    -----
    The exponential is its series, in double precision, so a system gets the same bits in any batch.
    """
    _runtime.ready()
    if cell.shape != log_strain.shape or cell.shape[1:] != (3, 3):
        raise ShapeError(
            f"`cell` has shape {tuple(cell.shape)} and `log_strain` {tuple(log_strain.shape)}; both must be [B, 3, 3]."
        )
    return _strained(positions, cell, log_strain, segment_ptr)


def _shape_cpu(cell):
    volume, height = np.empty(cell.shape[0]), np.empty(cell.shape[0])
    _cpu.shapes(as_doubles(cell), volume, height)
    return as_tensor(volume, cell.dtype), as_tensor(height, cell.dtype)


def _strained_cpu(positions, cell, log_strain, segment_ptr):
    ptr = as_array(segment_ptr)
    moved, new_cell = np.empty(positions.shape), np.empty(cell.shape)
    arguments = (as_doubles(positions), as_doubles(cell), as_doubles(log_strain), ptr, moved, new_cell)
    run_parts(_cpu.strain, arguments, system_bounds(ptr, 5.0 * len(moved) + 400.0 * len(ptr)))
    return as_tensor(moved, positions.dtype), as_tensor(new_cell, cell.dtype)


def _shape_fake(cell: torch.Tensor) -> Pair:
    return cell.new_empty(cell.shape[:1]), cell.new_empty(cell.shape[:1])


def _strained_fake(positions: torch.Tensor, cell: torch.Tensor, *others: torch.Tensor) -> Pair:
    return torch.empty_like(positions), torch.empty_like(cell)


_cell_shape = register_op(cell_shape, cpu=_shape_cpu, reference=_reference.cell_shape, fake=_shape_fake)
_strained = register_op(strained, cpu=_strained_cpu, reference=_reference.strained, fake=_strained_fake)
