"""Buffers: batches with room for systems that are put in, taken out and thrown away in place.

The methods of `Batch` delegate here; the memory itself is in `_room`. What is to be copied where is decided once for a
call, on the host where sizes are known, and is the same for every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from athanor.data import _collate, _membership
from athanor.data._collate import Parts
from athanor.data._levels import Arrangement, LevelStorage, Rows
from athanor.data._pair_views import warn_dropped_edges
from athanor.data._room import ROOM_LEVELS, ColumnName, Copied, Room
from athanor.data._storage import BatchStorage
from athanor.data.fields import FIELDS, FieldSpec, Level
from athanor.data.pair_list import PairList
from athanor.errors import ArgumentError, DtypeError, InputError, ShapeError

AnyBatch = TypeVar("AnyBatch", bound=BatchStorage)


def reserve(batch: BatchStorage, systems: int, nodes: int, edges: int) -> None:
    """Make room in `batch` for at least so many rows in all; see `Batch.reserve`."""
    if min(systems, nodes, edges) < 0:
        raise InputError(
            f"Sizes must not be negative: num_systems={systems}, num_nodes={nodes}, num_edges={edges}. "
            f"Give the room that is needed, or 0."
        )
    if batch._room is None:
        batch._room = Room({"system": 0, "node": 0, "edge": 0})
    batch._room.enlarge({"system": systems, "node": nodes, "edge": edges})
    _room_of(batch)


def _room_of(batch: BatchStorage) -> Room:
    """Return the room of a batch, with everything that the batch holds in it; of its present size if it had none."""
    if batch._room is None:
        batch._room = Room({"system": 0, "node": 0, "edge": 0})
    room = batch._room
    room.enlarge({"system": len(batch), "node": batch._node.rows, "edge": batch.num_edges})
    with batch.keeping_results_fresh():
        for level in ROOM_LEVELS:
            if room.hold(level, batch._level(level)):
                batch._exchanged()
    return room


class _Plan(NamedTuple):
    """Which systems are copied, and where they and those that stay will be."""

    systems: np.ndarray
    places: np.ndarray
    arrangement: Arrangement
    is_behind: bool
    """Whether all of them come behind those that are there."""


def put(
    batch: BatchStorage,
    other: Any,
    mask: torch.Tensor,
    copied_mask: torch.Tensor | None,
    dest_mask: torch.Tensor | None,
) -> None:
    """Copy systems of `other` into free places of `batch`, as many as fit; see `Batch.put`."""
    if not isinstance(other, BatchStorage):
        raise ArgumentError(f"`src_batch` is a {type(other).__name__}; systems of a Batch are put into a buffer.")
    _membership.check_separate(batch, other)
    wanted = _on_host(mask, len(other), "mask", "`src_batch` has")
    if copied_mask is not None:
        _check_mask(copied_mask, len(other), "copied_mask", "`src_batch` has")
    room = _room_of(batch)
    taken = None
    if dest_mask is not None:
        taken = _on_host(dest_mask, room.rows["system"], "dest_mask", "the buffer has room for")
    plan = _planned(batch, other, room, wanted, taken)
    if len(plan.systems):
        _copy(batch, other, room, plan)
    copied = np.zeros(len(other), dtype=np.bool_)
    copied[plan.systems] = True
    if copied_mask is None:
        other._copied = Copied(other.membership, copied)
    else:
        copied_mask.copy_(torch.from_numpy(copied))
    if dest_mask is not None:
        dest_mask[torch.from_numpy(plan.places).to(dest_mask.device)] = True


def _check_mask(mask: Any, length: int, name: str, what: str) -> None:
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        raise InputError(f"`{name}` must be a bool tensor; {what} {length} systems. Give one entry for each.")
    if mask.shape != (length,):
        raise ShapeError(f"`{name}` has shape {tuple(mask.shape)}; {what} {length} systems. Give one entry for each.")


def _on_host(mask: Any, length: int, name: str, what: str) -> np.ndarray:
    _check_mask(mask, length, name, what)
    return np.asarray(mask.cpu().numpy())


def _planned(
    batch: BatchStorage, other: BatchStorage, room: Room, wanted: np.ndarray, taken: np.ndarray | None
) -> _Plan:
    """Give the wanted systems the free places in order, up to the first that does not fit."""
    systems = len(batch)
    if taken is None:
        free = np.arange(systems, min(room.rows["system"], systems + len(wanted)))
    elif taken[systems:].any():
        raise InputError(
            f"`dest_mask` says that place {systems + int(taken[systems:].argmax())} is taken; the buffer holds "
            f"{systems} systems, in the places before. Set it to False there."
        )
    else:
        free = np.flatnonzero(~taken)
    chosen = np.flatnonzero(wanted)
    count = min(len(chosen), len(free))
    chosen, free = chosen[:count], free[:count]
    levels: list[Level] = ["node", "edge"] if room.rows["edge"] else ["node"]
    for level in levels:
        mine, theirs = batch._level(level), other._level(level)
        needed = theirs.counts[chosen].copy()
        needed[free < systems] -= mine.counts[free[free < systems]]
        too_many = mine.rows + np.cumsum(needed) > room.rows[level]
        if too_many.any():
            count = int(too_many.argmax())
            chosen, free = chosen[:count], free[:count]
    order = np.arange(max(systems, int(free[-1]) + 1 if count else 0))
    joining = np.zeros(len(order), dtype=np.bool_)
    order[free], joining[free] = chosen, True
    return _Plan(chosen, free, Arrangement(order, joining), not count or bool(free[0] >= systems))


def _copy(batch: BatchStorage, other: BatchStorage, room: Room, plan: _Plan) -> None:
    """Write the systems of a plan; nothing is changed unless all of them can be written."""
    custom = _merged_fields(batch, other)
    columns = {level: _columns(batch, other, level, custom) for level in ROOM_LEVELS}
    groups = _membership.joined_groups(batch, other, plan.arrangement)
    edges, lists = _joined_pairs(batch, other, room, plan, custom)
    for level in ROOM_LEVELS:
        for name, (here, _) in columns[level].items():
            room.memory(level, name, here)
    levels: dict[Level, LevelStorage] = {"edge": edges}
    for level in ROOM_LEVELS:
        move = _Move.of(batch._level(level), other._level(level), plan)
        levels[level] = written = LevelStorage(move.counts)
        for name, (here, there) in columns[level].items():
            tensor = move.write(room.memory(level, name, here), here, there)
            if isinstance(name, str):
                written.tensors[name] = tensor
            else:
                written.state[name] = tensor
    _membership.replace_contents(batch, _membership.BatchParts(levels, custom, lists, groups), None)


_Column = tuple[torch.Tensor, torch.Tensor]
"""What both batches have of a column; what one of them lacks is filled."""


class _Move(NamedTuple):
    """Writes the rows of one level: all of them anew, or those that come behind the first `used` ones."""

    counts: np.ndarray
    rows: Rows
    used: int
    is_behind: bool
    is_whole: bool
    """Whether every row of the other batch is copied."""

    @classmethod
    def of(cls, mine: LevelStorage, theirs: LevelStorage, plan: _Plan) -> _Move:
        """Return how the rows of a level are moved by a plan."""
        if plan.is_behind:
            rows = Rows(theirs.starts[plan.systems], theirs.counts[plan.systems])
            counts = np.concatenate([mine.counts, rows.counts])
        else:
            rows = plan.arrangement.rows(mine, theirs)
            counts = rows.counts
        return cls(counts, rows, mine.rows, plan.is_behind, len(plan.systems) == len(theirs.counts))

    def write(self, memory: torch.Tensor, here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Write into `memory`, which begins with `here` already, what it shall hold, and return that part of it."""
        used = self.used
        there = there.detach()
        with torch.no_grad():
            if used and here.data_ptr() != memory.data_ptr():
                memory[:used].copy_(here)
            if not self.is_behind:
                found = self.rows.move(memory[:used], there.to(memory.device))
                return memory[: len(found)].copy_(found)
            found = there if self.is_whole else self.rows.move(there)
            memory[used : used + len(found)].copy_(found)
            return memory[: used + len(found)]


def _joined_pairs(
    batch: BatchStorage, other: BatchStorage, room: Room, plan: _Plan, custom: Mapping[str, FieldSpec]
) -> tuple[LevelStorage, tuple[PairList, ...]]:
    """Return edge fields and pair lists of both, in new memory; those of `other` only if there is room for pairs."""
    edges = LevelStorage.empty(len(plan.arrangement.systems))
    if not room.rows["edge"]:
        if other._edge.tensors:
            warn_dropped_edges(other._edge.tensors)
        return edges, ()
    mine, theirs = _membership.levels_of(batch), _membership.levels_of(other)
    rows = {level: plan.arrangement.rows(mine[level], theirs[level]) for level in mine}
    parts = Parts([mine["edge"].tensors, theirs["edge"].tensors], {"edge": [mine["edge"].rows, theirs["edge"].rows]})
    fields = _collate.join(parts, custom, _SIDES.__getitem__, lambda level, values: rows["edge"].move(*values))["edge"]
    nodes = (mine["node"], theirs["node"])
    lists = _membership.joined_lists(batch.pair_lists or other.pair_lists, batch, other, plan.arrangement, nodes, rows)
    return LevelStorage(rows["edge"].counts, fields), lists


_SIDES = ("the buffer", "the Batch that is put into it")


def _merged_fields(batch: BatchStorage, other: BatchStorage) -> dict[str, FieldSpec]:
    """Return the custom fields of both; raises unless their systems can be in one batch."""
    sides = [{**side._node.tensors, **side._system.tensors} for side in (batch, other)]
    _collate.check_cells_have_pbc(Parts(sides, {}), _SIDES.__getitem__)
    return _collate.merge_specs([batch._custom, other._custom], _SIDES.__getitem__)


def _columns(
    batch: BatchStorage, other: BatchStorage, level: Level, custom: Mapping[str, FieldSpec]
) -> dict[ColumnName, _Column]:
    """Return every field and what is remembered, of both sides; raises if one can not be written as it is."""
    mine, theirs = batch._level(level), other._level(level)
    found: dict[ColumnName, _Column] = {}
    for name in {**mine.tensors, **theirs.tensors}:
        spec = FIELDS.get(name) or custom[name]
        here, there = mine.tensors.get(name), theirs.tensors.get(name)
        like = there if here is None else here
        assert like is not None
        if here is None:
            here = _collate.filler(spec, like, mine.rows, partial(_SIDES.__getitem__, 0)).to(batch.device)
        if there is None:
            there = _collate.filler(spec, like, theirs.rows, partial(_SIDES.__getitem__, 1))
        found[name] = _checked(name, here, there)
    for key in {**mine.state, **theirs.state}:
        here, there = mine.state.get(key), theirs.state.get(key)
        like = there if here is None else here
        assert like is not None
        here = like.new_zeros(mine.rows, *like.shape[1:], device=batch.device) if here is None else here
        there = like.new_zeros(theirs.rows, *like.shape[1:]) if there is None else there.to(here.dtype)
        found[key] = _checked(key[1], here, there)
    return found


def _checked(name: str, here: torch.Tensor, there: torch.Tensor) -> _Column:
    if here.dtype != there.dtype:
        raise DtypeError(
            f"`{name}` has dtype {there.dtype}; the buffer holds {here.dtype}, and nothing is rounded. Convert it, or "
            f"make the buffer with a `template` of that dtype. Nothing was put."
        )
    if here.shape[1:] != there.shape[1:]:
        raise ShapeError(
            f"`{name}` has the trailing shape {tuple(there.shape[1:])}; the buffer holds {tuple(here.shape[1:])}. Make "
            f"them equal. Nothing was put."
        )
    return here, there


# ------------------------------------------------------------------------------------------- systems that leave
def copied_systems(batch: BatchStorage, copied_mask: torch.Tensor | None, caller: str) -> np.ndarray:
    """Return which systems of `batch` a mask names, bool [B] on the host; without one, those that a `put` copied."""
    if copied_mask is not None:
        return _on_host(copied_mask, len(batch), "copied_mask", "the Batch has")
    if batch._copied is None or batch._copied.membership != batch.membership:
        raise InputError(
            f"{caller} requires copied_mask or a prior put: the systems of this Batch were put nowhere since they are "
            f"its systems. Pass the mask that `put` filled."
        )
    return batch._copied.systems


def defragment(batch: BatchStorage, copied: np.ndarray) -> None:
    """Take the `copied` systems out of `batch` and close the gaps, in place and in its memory; see `Batch.defrag`."""
    room, fresh = _room_of(batch), batch.fresh_results()
    parts = _membership.arranged(batch, Arrangement(np.flatnonzero(~copied)))
    for level in ROOM_LEVELS:
        room.hold(level, parts.levels[level])
        room.clear(level, parts.levels[level].rows)
    _membership.replace_contents(batch, parts, fresh)
    batch._copied = None


def zero(batch: BatchStorage) -> None:
    """Throw all systems away, in place, and set the memory to zero; see `Batch.zero`."""
    room = _room_of(batch)
    levels: dict[Level, LevelStorage] = {"edge": LevelStorage.empty(0)}
    for level in ROOM_LEVELS:
        room.clear(level)
        levels[level] = LevelStorage.empty(0, batch._level(level).tensors)
    _membership.replace_contents(batch, _membership.BatchParts(levels, dict(batch._custom), (), {}), None)
    batch._copied = None
