"""When a stored neighbour list must be built again: public call and registration with torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_op
from athanor.kernels._threads import run_parts, system_bounds
from athanor.kernels.neighbor_displacement import _reference

_cpu = LazyModule("athanor.kernels.neighbor_displacement._cpu")
_NOTHING = np.empty(0)


def needs_rebuild(
    positions: torch.Tensor,
    reference_positions: torch.Tensor,
    cell: torch.Tensor,
    reference_cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    steps: torch.Tensor,
    radius: float,
    skin: float,
) -> torch.Tensor:
    r"""Say which systems have moved so far that their list may miss a pair.

    With :math:`F = h_0^{-1} h` and :math:`d_i = r_i - r_i^0 F`, a list of all pairs within :math:`R` holds all pairs
    within :math:`R - \text{skin}` as long as

    .. math:: 2 \max_i |d_i| + R\,(1 - \sigma_{\min}(F)) \le \text{skin}

    Parameters
    ----------
    positions, reference_positions
        [N, 3], Å, now and when the list was built.
    cell, reference_cell
        [B, 3, 3], Å, now and then. One that has not changed, also a zero one, has F = 1.
    segment_ptr
        int32 [B + 1], first atom of each system.
    steps
        int64 [B], how many steps each system has made; empty if that is not known. At each eighth one, 0.7 times the
        skin is the limit for a system of at most 500 atoms: those that began together are then searched together, and
        a list is written anew once for all of them.
    radius
        The searched radius R, skin included, Å.
    skin
        Å.

    Returns
    -------
    torch.Tensor
        bool [B]. False for a system with positions or a cell that are not finite: it is for others to stop it.

    Raises
    ------
    ShapeError
        If positions or cells differ in shape from their references.

    Notes
    -----
    Displacements are Cartesian, without the nearest-image rule. Whoever wraps atoms moves the reference along.
    """
    _runtime.ready()
    if positions.shape != reference_positions.shape or cell.shape != reference_cell.shape:
        raise ShapeError(
            f"`positions` {tuple(positions.shape)} and `cell` {tuple(cell.shape)} differ in shape from "
            f"their references, {tuple(reference_positions.shape)} and {tuple(reference_cell.shape)}."
        )
    if steps.numel() not in (0, cell.shape[0]):
        raise ShapeError(f"`steps` has shape {tuple(steps.shape)}; {cell.shape[0]} systems need one each, or none.")
    return _needs_rebuild(
        positions, reference_positions, cell, reference_cell, segment_ptr, steps, float(radius), float(skin)
    )


def _cpu_call(positions, reference_positions, cell, reference_cell, segment_ptr, steps, radius, skin):
    ptr, lattice, out = as_array(segment_ptr), as_doubles(cell), np.empty(cell.shape[0], np.bool_)
    strain, lost = lattice, _NOTHING
    if not torch.equal(cell, reference_cell):
        deformation, smallest = _reference.deformation(cell.detach(), reference_cell.detach())
        strain, lost = as_array(deformation), radius * (1.0 - as_array(smallest))
    geometry = (as_doubles(positions), as_doubles(reference_positions), lattice, ptr, strain, lost)
    arguments = (*geometry, as_array(steps).reshape(-1), skin, out)
    run_parts(_cpu.compare, arguments, system_bounds(ptr, 2.0 * len(positions)))
    return as_tensor(out, torch.bool)


def _fake(positions: torch.Tensor, reference_positions: torch.Tensor, cell: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty(cell.shape[0], dtype=torch.bool, device=cell.device)


_needs_rebuild = register_op(needs_rebuild, cpu=_cpu_call, reference=_reference.needs_rebuild, fake=_fake)
