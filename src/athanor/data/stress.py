r"""How far a system is from mechanical equilibrium: one definition for criteria, tables and optimizers.

What is compared with a threshold must depend neither on how a system is turned in space nor on the empty space around
it. So tensors are measured by their principal values, not by their entries, and the stress of a slab or a wire refers
to the space that its atoms take, not to the vacuum in its cell.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from athanor.data.observables import periodic_projector
from athanor.kernels.segment import segment_max, segment_sum

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_MARGIN = 3.0
"""Å. Atoms take this much space beyond their centres along an open direction, half of it on either side."""


def spectral_norm(tensors: torch.Tensor) -> torch.Tensor:
    """Return the largest absolute principal value of each tensor, which no rotation changes.

    Parameters
    ----------
    tensors
        [..., 3, 3]; their symmetric part counts.

    Returns
    -------
    torch.Tensor
        [...], in the unit of `tensors`; NaN where a number is not finite.
    """
    symmetric = 0.5 * (tensors + tensors.transpose(-1, -2))
    if bool(symmetric.isfinite().all()):
        return torch.linalg.eigvalsh(symmetric).abs().amax(dim=-1)
    finite = symmetric.isfinite().all(dim=-1).all(dim=-1)  # LAPACK refuses the others
    return torch.where(finite, spectral_norm(torch.where(finite[..., None, None], symmetric, 0.0)), torch.nan)


def is_partly_periodic(batch: Batch) -> torch.Tensor:
    """Return which systems are slabs or wires: periodic along one or two of three lattice vectors, bool [B]."""
    count = batch.pbc_or_false.sum(dim=1)
    return batch.has_cell & (count > 0) & (count < 3)


def occupied_volume(batch: Batch) -> torch.Tensor:
    r"""Return the volume that stress refers to in each system.

    That of the cell in a crystal. In a slab, the area of its cell times the extent of its atoms along the normal plus
    3 Å. In a wire, its length times the area of a circle around its atoms, whose radius is their largest distance from
    the line through their mean, plus 1.5 Å.

    Returns
    -------
    torch.Tensor
        Å³, [B]; 0 for a system that is not periodic.
    """
    cell, pbc = batch.cell_or_zeros.detach(), batch.pbc_or_false
    count = pbc.sum(dim=1)
    volume = torch.where(count == 3, torch.linalg.det(cell).abs(), 0.0)
    is_slab, is_wire = count == 2, count == 1
    if not bool((is_slab | is_wire).any()):
        return volume
    normals = torch.linalg.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]])  # row k: to the other two vectors
    axis = torch.where(is_slab[:, None], (~pbc[:, :, None] * normals).sum(1), (pbc[:, :, None] * cell).sum(1))
    size = torch.linalg.vector_norm(axis, dim=1)  # area of a slab, length of a wire
    axis = axis / torch.where(size > 0, size, 1.0)[:, None]
    ptr, system, positions = batch.batch_ptr, batch.batch_idx, batch.positions.detach()
    mean = segment_sum(positions, ptr) / batch.num_nodes_per_graph[:, None]
    away = positions - mean[system]
    height = (away * axis[system]).sum(dim=1)
    extent = segment_max(height, ptr) + segment_max(-height, ptr)
    radius = segment_max(torch.linalg.vector_norm(away - height[:, None] * axis[system], dim=1), ptr)
    slab, wire = size * (extent + _MARGIN), size * math.pi * (radius + 0.5 * _MARGIN) ** 2
    return torch.where(is_slab, slab, torch.where(is_wire, wire, volume))


def residual_stress(batch: Batch, pressure: float | torch.Tensor = 0.0) -> torch.Tensor:
    r"""Return what is left of the stress against a target pressure, along periodic directions.

    .. math:: \frac{V}{V_\text{occupied}}\, P (\sigma + p I) P

    with the projector :math:`P` on the periodic directions, and `occupied_volume`. Zero means mechanical equilibrium.

    Parameters
    ----------
    batch
        Needs ``stress``.
    pressure
        Target, compression positive, eV/Å³; a number, one per system, or tensors [B, 3, 3].

    Returns
    -------
    torch.Tensor
        eV/Å³, [B, 3, 3]; zero for a system without a cell.
    """
    stress = batch.stress.detach()
    target = torch.as_tensor(pressure, dtype=stress.dtype, device=stress.device)
    if target.ndim < 3:
        target = target.reshape(-1, 1, 1) * torch.eye(3, dtype=stress.dtype, device=stress.device)
    stress = stress + target
    stress = torch.where(batch.has_cell[:, None, None], stress, 0.0)
    if "pbc" not in batch or bool(batch.pbc.all()):
        return stress
    projector, partly = periodic_projector(batch), is_partly_periodic(batch)
    share = torch.where(partly, batch.volume.detach() / torch.where(partly, occupied_volume(batch), 1.0), 1.0)
    return share.to(stress.dtype)[:, None, None] * torch.bmm(projector, torch.bmm(stress, projector))
