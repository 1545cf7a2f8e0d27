r"""Verlet skin: when the list of a system is rebuilt.

Lists are searched to ``cutoff + skin``. Each system keeps the positions and the cell at which its list was built;
with :math:`F = h_0^{-1} h` the list stays complete for the cutoff while
:math:`2 \max_i |r_i - r^0_i F| + r_{search}\,(1 - \sigma_{min}(F))` does not exceed the skin. Only a system's own
motion or strain rebuilds its list, never that of a neighbour in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from athanor.data.pair_list import PairList
from athanor.kernels.neighbor_displacement import needs_rebuild
from athanor.kernels.neighbor_list import build_neighbor_list

if TYPE_CHECKING:
    from athanor.data.batch import Batch


@torch.no_grad()
def update_pair_list(batch: Batch, cutoff: float, skin: float, half: bool, max_neighbors: int | None = None) -> None:
    """Bring ``batch.pair_list`` up to date, in place: build it, rebuild some systems, or leave it.

    Parameters
    ----------
    batch
        The batch.
    cutoff
        Å; the list will be complete for it.
    skin
        Å; 0 rebuilds every system at every call.
    half
        Whether each pair is stored once.
    max_neighbors
        Smallest width of the matrix view; the list itself is always complete.

    Notes
    -----
    A list for another cutoff, skin or kind is built anew for all systems. A system whose positions are not finite
    keeps its old list, so that the engine can set it aside.
    """
    radius = cutoff + skin
    old = batch.pair_list
    if skin <= 0.0 or old is None or old.cutoff != cutoff or old.radius != radius or old.half != half:
        build_pair_list(batch, cutoff, radius, half, max_neighbors)
        return
    cell, pbc = batch.cell_or_zeros.detach(), batch.pbc_or_false
    rebuild = needs_rebuild(
        batch.positions, old.reference_positions, cell, old.reference_cell, batch.batch_ptr, radius, skin
    )
    rebuild = rebuild | ~old.valid | (pbc != old.reference_pbc).any(dim=1)
    if bool(rebuild.any()):
        build_pair_list(batch, cutoff, radius, half, max_neighbors, rebuild)


@torch.no_grad()
def build_pair_list(
    batch: Batch,
    cutoff: float,
    radius: float,
    half: bool,
    max_neighbors: int | None = None,
    rebuild: torch.Tensor | None = None,
) -> None:
    """Search the pairs of `batch` within `radius` and store them as ``batch.pair_list``.

    Parameters
    ----------
    batch
        The batch.
    cutoff, radius
        Å; what the list is for, and how far it is searched.
    half
        Whether each pair is stored once.
    max_neighbors
        Smallest width of the matrix view.
    rebuild
        bool [B]: systems to search; the others keep their present pairs. All of them by default.
    """
    positions = batch.positions.detach()
    cell, pbc = batch.cell_or_zeros.detach(), batch.pbc_or_false
    old = batch.pair_list
    if rebuild is None or old is None:
        rebuild = torch.ones(batch.num_graphs, dtype=torch.bool, device=positions.device)
        empty = torch.zeros(0, dtype=torch.int32, device=positions.device)
        row_ptr = torch.zeros(batch.num_nodes + 1, dtype=torch.int64, device=positions.device)
        wrap_offsets = torch.zeros(batch.num_nodes, 3, dtype=torch.int32, device=positions.device)
        parts = (row_ptr, empty, empty, wrap_offsets)
        reference_positions, reference_cell, reference_pbc = positions.clone(), cell.clone(), pbc.clone()
    else:
        parts = (old.row_ptr, old.neighbors, old.images, old.wrap_offsets)
        of_atoms = rebuild[batch.batch_idx].unsqueeze(1)
        reference_positions = torch.where(of_atoms, positions, old.reference_positions)
        reference_cell = torch.where(rebuild.view(-1, 1, 1), cell, old.reference_cell)
        reference_pbc = torch.where(rebuild.view(-1, 1), pbc, old.reference_pbc)
    row_ptr, neighbors, images, wrap_offsets = build_neighbor_list(
        positions, cell, pbc, batch.batch_ptr, radius, half, rebuild, *parts
    )
    pair_list = PairList(
        row_ptr=row_ptr,
        neighbors=neighbors,
        images=images,
        wrap_offsets=wrap_offsets,
        reference_positions=reference_positions,
        reference_cell=reference_cell,
        reference_pbc=reference_pbc,
        valid=torch.ones_like(rebuild),
        cutoff=cutoff,
        radius=radius,
        half=half,
    )
    pair_list.min_width = max_neighbors or 0
    batch.pair_list = pair_list
