r"""Verlet skin: when the lists of a system are rebuilt, and which lists a batch keeps.

Lists are searched to ``cutoff + skin``. Each list keeps, for each system, the positions and the cell at which it was
searched; with :math:`F = h_0^{-1} h` it stays complete for the cutoff while
:math:`2 \max_i |r_i - r^0_i F| + r_{search}\,(1 - \sigma_{min}(F))` does not exceed the skin. Only a system's own
motion or strain rebuilds its rows, never that of a neighbour in the batch, and never the age of another list. At
every eighth step of its own a small system is searched somewhat ahead of need, so that those that began together are
searched together.

Whoever needs pairs says so at every step (`update_pair_list`). The batch keeps the lists that serve all requests, and
each call brings all of them up to date, so that no list on the batch is ever incomplete. A list that would have to be
searched again is dropped instead if nobody asked for it since its last search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from athanor._runtime import in_parts
from athanor.data.pair_list import PairList
from athanor.data.pair_request import PairRequest, PairUsage
from athanor.kernels.neighbor_displacement import needs_rebuild
from athanor.kernels.neighbor_list import build_neighbor_list
from athanor.kernels.neighbor_list.packing import NarrowImagesError
from athanor.neighbors.plan import PlannedList, plan_lists

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_NO_STEPS = torch.empty(0, dtype=torch.int64)


@torch.no_grad()
def update_pair_list(batch: Batch, cutoff: float, skin: float, half: bool, max_neighbors: int | None = None) -> None:
    """Bring the pair lists of `batch` up to date, in place, and show one that is complete for `cutoff`.

    Parameters
    ----------
    batch
        Its ``pair_list`` serves this request afterwards; lists that others asked for stand behind it.
    cutoff
        Å; the list will be complete for it.
    skin
        Å; 0 searches every system again whenever atoms have moved.
    half
        Whether each pair is stored once.
    max_neighbors
        Smallest width of the matrix view; the list itself is always complete.

    Notes
    -----
    The list may reach a little further, if another request is nearly equal to this one; see `athanor.neighbors.plan`.
    A system whose positions are not finite keeps its old list, so that the engine can set it aside.
    """
    request = PairRequest(cutoff, skin, half, max_neighbors or 0)
    before = batch.pair_lists
    # in most runs there is one hook, which asks for the same at every step
    is_planned = len(before) == 1 and before[0].requests == (request,) and not before[0].usage.shorter_requests
    lists = []
    for pairs in before if is_planned else _lists_for(batch, request):
        rebuild = _systems_to_search(batch, pairs)
        lists.append(pairs if rebuild is None else _searched(batch, pairs, request, rebuild))
    if lists != [*before]:
        batch.pair_lists = tuple(lists)


@torch.no_grad()
def build_pair_list(batch: Batch, cutoff: float, radius: float, half: bool, max_neighbors: int | None = None) -> None:
    """Search the pairs of `batch` within `radius` and store them as its only list.

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
    """
    batch.pair_list = _new_list(batch, PlannedList(cutoff, radius, half, max_neighbors or 0, ()))


def _lists_for(batch: Batch, request: PairRequest) -> tuple[PairList, ...]:
    """Return the lists that serve `request` and whatever else is asked for, that of `request` first.

    Stored lists keep their age where the plan has a place for them; new ones are searched; the others are left out.
    """
    stored = batch.pair_lists
    known: set[PairRequest] = set()
    wanted = {request}
    for pairs in stored:
        usage = pairs.usage
        usage.unrepeated.discard(request)
        known.update(pairs.requests)
        wanted.update(pairs.requests, usage.shorter_requests)
        usage.shorter_requests.clear()
        if usage.unrepeated and _systems_to_search(batch, pairs) is not None:
            wanted -= usage.unrepeated
    if wanted == known:
        lists = [pairs for pairs in stored if pairs.requests]
    else:
        lists = [_stored_list(batch, plan) or _new_list(batch, plan, request) for plan in plan_lists(wanted)]
    return tuple(sorted(lists, key=lambda pairs: request not in pairs.requests))


def _stored_list(batch: Batch, plan: PlannedList) -> PairList | None:
    """Return the list of `batch` that was searched as planned, for the requests of the plan; None without one."""
    for pairs in batch.pair_lists:
        is_same = (pairs.cutoff, pairs.radius, pairs.half) == (plan.cutoff, plan.radius, plan.half)
        if is_same and (pairs.requests or plan.radius > plan.cutoff):
            return pairs.replace(requests=plan.requests, min_width=plan.min_width)
    return None


def _new_list(batch: Batch, plan: PlannedList, request: PairRequest | None = None) -> PairList:
    blank = PairList.blank(batch.positions, batch.cell_or_zeros, batch.pbc_or_false, *plan)
    return _searched(batch, blank, request, ~blank.valid)


def _systems_to_search(batch: Batch, pairs: PairList) -> torch.Tensor | None:
    """Return which systems have to be searched again, bool [B]; None if none has."""
    positions, cell, pbc = batch.positions.detach(), batch.cell_or_zeros.detach(), batch.pbc_or_false
    old_positions, old_cell, old_pbc = pairs.reference_positions, pairs.reference_cell, pairs.reference_pbc
    skin = pairs.skin
    if skin <= 0.0:
        moved = not (torch.equal(positions, old_positions) and torch.equal(cell, old_cell))
        return torch.ones_like(pairs.valid) if moved or not pairs.all_valid or not torch.equal(pbc, old_pbc) else None
    steps = batch.get("step", _NO_STEPS)
    rebuild = needs_rebuild(positions, old_positions, cell, old_cell, batch.batch_ptr, steps, pairs.radius, skin)
    if not torch.equal(pbc, old_pbc):
        rebuild |= (pbc != old_pbc).any(dim=1)
    if not pairs.all_valid:
        rebuild |= ~pairs.valid
    return rebuild if bool(rebuild.any()) else None


def _searched(batch: Batch, old: PairList, request: PairRequest | None, rebuild: torch.Tensor) -> PairList:
    """Return `old` with the systems of `rebuild`, bool [B], searched for the present positions.

    Without a skin those are all systems. `request` is the one that is being made; the others that the list serves have
    yet to be repeated.
    """
    positions, cell, pbc = batch.positions.detach(), batch.cell_or_zeros.detach(), batch.pbc_or_false
    if old.skin > 0.0 and not bool(rebuild.all()):
        of_atoms = _of_atoms(rebuild, batch).unsqueeze(1)
        reference_positions = torch.where(of_atoms, positions, old.reference_positions)
        reference_cell = torch.where(rebuild.view(-1, 1, 1), cell, old.reference_cell)
        reference_pbc = torch.where(rebuild.view(-1, 1), pbc, old.reference_pbc)
    else:
        reference_positions, reference_cell, reference_pbc = torch.empty_like(positions), cell.clone(), pbc.clone()
        for mine, new in in_parts(reference_positions, positions):
            mine.copy_(new)
    try:
        row_ptr, neighbors, images, wrap_offsets = _built(batch, old, rebuild)
    except NarrowImagesError:  # a system is smaller than the radius: they are kept in four times the memory
        row_ptr, neighbors, images, wrap_offsets = _built(batch, old.widened(), rebuild)
    return old.replace(
        row_ptr=row_ptr,
        neighbors=neighbors,
        images=images,
        wrap_offsets=wrap_offsets,
        reference_positions=reference_positions,
        reference_cell=reference_cell,
        reference_pbc=reference_pbc,
        valid=torch.ones_like(old.valid),
        order=None,
        usage=PairUsage(other for other in old.requests if other != request),
    )


def _of_atoms(systems: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return for each atom what `systems` [B] says of its system; on a CPU without waking torch's threads."""
    if not systems.is_cpu:
        return systems[batch.batch_idx]
    return torch.from_numpy(np.repeat(systems.numpy(), np.diff(batch.batch_ptr.numpy())))


def _built(batch: Batch, old: PairList, rebuild: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return build_neighbor_list(
        batch.positions.detach(),
        batch.cell_or_zeros.detach(),
        batch.pbc_or_false,
        batch.batch_ptr,
        old.radius,
        old.half,
        rebuild,
        old.row_ptr,
        old.neighbors,
        old.images,
        old.wrap_offsets,
    )
