"""How systems join and leave a batch, how one is read back, and how fields are added to it.

The methods of `Batch` delegate here. Joining itself is in `_collate`, one policy for structures and for batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from athanor.data import _collate
from athanor.data._collate import Parts
from athanor.data._levels import Arrangement, LevelStorage, Rows, StateName, level_of
from athanor.data._stamp import AbsentFields, ComputedFrom
from athanor.data._storage import BatchStorage
from athanor.data._structure import cast_state, spec_for
from athanor.data.atomic_data import AtomicData
from athanor.data.fields import FIELDS, KNOWN_FIELDS, LEVELS, FieldSpec, Level
from athanor.data.pair_list import Nodes, PairList
from athanor.errors import ArgumentError, InputError, ShapeError

AnyBatch = TypeVar("AnyBatch", bound=BatchStorage)


def append(batch: BatchStorage, other: BatchStorage) -> None:
    """Add the systems of `other` to `batch` in place; see `Batch.append`."""
    if not isinstance(other, BatchStorage):
        raise ArgumentError(
            f"A {type(other).__name__} was appended; append a Batch, or use `append_data([...])` for AtomicData."
        )
    _join(batch, other, Arrangement.appending(len(batch), len(other)))


def remove(batch: BatchStorage, places: np.ndarray) -> None:
    """Take the systems at `places` out of `batch` in place; see `Batch.remove_systems`."""
    staying = Arrangement(np.delete(np.arange(len(batch)), places))
    replace_contents(batch, arranged(batch, staying), batch.fresh_results())


def replace(batch: BatchStorage, places: np.ndarray, other: BatchStorage) -> None:
    """Put the systems of `other` in the place of those at `places`, in place; see `Batch.replace_systems`."""
    if not isinstance(other, BatchStorage):
        raise ArgumentError(f"`other` is a {type(other).__name__}; systems are replaced by those of a Batch.")
    if len(other) != len(places):
        raise InputError(f"{len(places)} systems are to be replaced by {len(other)}; give one for each.")
    if len(np.unique(places)) != len(places):
        raise InputError(f"The systems to be replaced are {places.tolist()}; name each once.")
    _join(batch, other, Arrangement.replacing(len(batch), places))


def exchange(batch: BatchStorage, leaving: np.ndarray, other: BatchStorage) -> None:
    """Take the systems at `leaving` out of `batch` and put those of `other` behind the ones that stay, in place."""
    _join(batch, other, Arrangement.exchanging(len(batch), leaving, len(other)))


def select(batch: AnyBatch, systems: np.ndarray) -> AnyBatch:
    """Return a new batch of `systems`, int64 on the host; see `Batch.index_select`."""
    parts = arranged(batch, Arrangement(systems))
    return type(batch)._of(parts.levels, parts.custom, batch.device, parts.pair_lists, batch._item_class, parts.groups)


def together(batches: Sequence[AnyBatch]) -> list[AnyBatch]:
    """Return the systems of many batches, in order and with all that rides on them, in few, in one pass.

    In one are those that follow each other and have the same fields, rows, groups and kinds of lists. Nothing is fresh
    then.
    """
    return [_in_one(list(alike)) for _, alike in itertools.groupby(batches, _kind_of)]


def _kind_of(batch: BatchStorage) -> tuple[Any, ...]:
    """Return what two batches have in common whose tensors need only be put one behind the other."""
    kinds = [
        (place, name, tensor.dtype, tensor.shape[1:])
        for place, level in (*levels_of(batch).items(), *batch._groups.items())
        for name, tensor in (*level.tensors.items(), *level.state.items())
    ]
    names = ("cutoff", "radius", "half", "min_width", "requests")
    lists = [[*(getattr(pairs, name) for name in names), pairs.images.dtype] for pairs in batch.pair_lists]
    return tuple(sorted(kinds, key=repr)), tuple(sorted(batch._custom)), repr(lists)  # repr: unknown radii are NaN


def _in_one(batches: Sequence[AnyBatch]) -> AnyBatch:
    first = batches[0]
    levels = {level: _behind([levels_of(batch)[level] for batch in batches]) for level in LEVELS}
    groups = {name: _behind([batch._groups[name] for batch in batches]) for name in first._groups}
    lists = tuple(PairList.behind(pairs) for pairs in zip(*(batch.pair_lists for batch in batches), strict=True))
    return type(first)._of(levels, dict(first._custom), first.device, lists, first._item_class, groups)


def _behind(levels: Sequence[LevelStorage]) -> LevelStorage:
    """Return the rows of several levels, one behind the other."""
    first = levels[0]
    fields = {name: torch.cat([level.tensors[name] for level in levels]) for name in first.tensors}
    state = {name: torch.cat([level.state[name] for level in levels]) for name in first.state}
    return LevelStorage(np.concatenate([level.counts for level in levels]), fields, state)


def _join(batch: BatchStorage, other: BatchStorage, arrangement: Arrangement) -> None:
    """Make `batch` hold the systems of an arrangement of both, in place."""
    check_separate(batch, other)
    mine, theirs = batch.fresh_results(), other.fresh_results()
    fresh = None
    if mine is not None and theirs is not None and mine[0] is theirs[0]:
        fresh = (mine[0], mine[1] & theirs[1])
    replace_contents(batch, arranged(batch, arrangement, other), fresh)


def check_separate(batch: BatchStorage, other: BatchStorage) -> None:
    """Raise InputError if both are one, or share their positions."""
    positions = batch.get("positions")
    if other is batch or (positions is not None and positions is other.get("positions")):
        raise InputError("The other Batch shares storage with this one. Give a copy of it: `other.clone()`.")


class BatchParts(NamedTuple):
    """What a batch is made of."""

    levels: dict[Level, LevelStorage]
    custom: dict[str, FieldSpec]
    pair_lists: tuple[PairList, ...]
    groups: dict[str, LevelStorage]


def arranged(batch: BatchStorage, arrangement: Arrangement, other: BatchStorage | None = None) -> BatchParts:
    """Move everything that belongs to a system, of one batch or of two, into an arrangement of systems."""
    mine = levels_of(batch)
    theirs: Mapping[Level, LevelStorage | None] = dict.fromkeys(LEVELS) if other is None else levels_of(other)
    rows = {level: arrangement.rows(mine[level], theirs[level]) for level in LEVELS}
    if other is None:
        fields = {
            level: {name: rows[level].move(tensor) for name, tensor in mine[level].tensors.items()} for level in LEVELS
        }
        custom = dict(batch._custom)
    else:
        fields, custom = _joined_fields(batch, other, rows)
    levels = {
        level: LevelStorage(rows[level].counts, fields[level], _joined_state(rows[level], mine[level], theirs[level]))
        for level in LEVELS
    }
    wanted = batch.pair_lists or (() if other is None else other.pair_lists)
    lists = joined_lists(wanted, batch, other, arrangement, (mine["node"], theirs["node"]), rows)
    return BatchParts(levels, custom, lists, joined_groups(batch, other, arrangement))


def levels_of(batch: BatchStorage) -> dict[Level, LevelStorage]:
    return {"node": batch._node, "edge": _edges_in_stored_order(batch), "system": batch._system}


def replace_contents(batch: BatchStorage, parts: BatchParts, fresh: tuple[Any, frozenset[str]] | None) -> None:
    """Make `batch` hold other systems, in place; `fresh` says whose results they have, and which."""
    batch._set_systems(*parts)
    batch._exchanged()
    batch._membership += 1
    if fresh is not None:
        batch.mark_results_fresh(*fresh)


def _joined_fields(
    batch: BatchStorage, other: BatchStorage, rows: Mapping[Level, Rows]
) -> tuple[dict[Level, dict[str, torch.Tensor]], dict[str, FieldSpec]]:
    """Move fields of two batches; those that one lacks follow the rule of `_collate`."""
    parts, custom = _parts_to_join(batch, other)
    fields = _collate.join(parts, custom, _NAMES, lambda level, values: rows[level].move(*_promoted(*values)))
    filled = [part for part, systems in zip(parts.tensors, parts.rows["system"], strict=True) if systems]
    if filled:
        for tensors in fields.values():
            cast_state(tensors, filled[0]["positions"].dtype)
    return fields, custom


def check_joinable(batch: BatchStorage, other: BatchStorage) -> None:
    """Raise, as joining them would, if two batches can not be in one."""
    check_separate(batch, other)
    parts, custom = _parts_to_join(batch, other)
    mine, theirs = parts.tensors
    for name in mine.keys() ^ theirs.keys():
        spec = FIELDS.get(name) or custom.get(name)
        if spec is not None:
            lacking = int(name in mine)
            rows = min(1, parts.rows[spec.level][lacking])
            _collate.filler(spec, parts.tensors[1 - lacking][name], rows, partial(_NAMES, lacking))


_NAMES = ("this Batch", "the appended Batch").__getitem__


def _parts_to_join(batch: BatchStorage, other: BatchStorage) -> tuple[Parts, dict[str, FieldSpec]]:
    """Return the fields of two batches, and the rows of their custom ones, if both may be in one batch."""
    sides = [levels_of(batch), levels_of(other)]
    parts = Parts(
        [{name: tensor for level in LEVELS for name, tensor in side[level].tensors.items()} for side in sides],
        {level: [side[level].rows for side in sides] for level in LEVELS},
    )
    filled = [part for part, systems in zip(parts.tensors, parts.rows["system"], strict=True) if systems]
    if filled:
        _collate.common_state_dtype(filled, None, _NAMES)
    _collate.check_cells_have_pbc(parts, _NAMES)
    return parts, _collate.merge_specs([batch._custom, other._custom], _NAMES)


def _promoted(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both in the wider of their dtypes."""
    wide = torch.promote_types(first.dtype, second.dtype)
    return first.to(wide), second.to(wide)


def _joined_state(rows: Rows, mine: LevelStorage, theirs: LevelStorage | None) -> dict[StateName, torch.Tensor]:
    """Move what engines and hooks remember; zeros where they do not know a system yet."""
    sides = [mine] if theirs is None else [mine, theirs]
    state = {}
    for name in dict.fromkeys(name for side in sides for name in side.state):
        like = next(side.state[name] for side in sides if name in side.state)
        state[name] = rows.move(
            *(
                side.state[name].to(like.dtype) if name in side.state else like.new_zeros(side.rows, *like.shape[1:])
                for side in sides
            )
        )
    return state


def joined_groups(batch: BatchStorage, other: BatchStorage | None, arrangement: Arrangement) -> dict[str, LevelStorage]:
    """Move groups of atoms; a batch without a group of a name has none of it in any system."""
    sides = [batch] if other is None else [batch, other]
    groups = {}
    for name in dict.fromkeys(name for side in sides for name in side._groups):
        like = next(side._groups[name] for side in sides if name in side._groups).tensors
        found = [side._groups.get(name) or LevelStorage.empty(len(side), like) for side in sides]
        rows = arrangement.rows(*found)
        groups[name] = LevelStorage(rows.counts, {key: rows.move(*(g.tensors[key] for g in found)) for key in like})
    return groups


def joined_lists(
    wanted: tuple[PairList, ...],
    batch: BatchStorage,
    other: BatchStorage | None,
    arrangement: Arrangement,
    nodes: Nodes,
    rows: Mapping[Level, Rows],
) -> tuple[PairList, ...]:
    """Return lists like those of `wanted`; systems that were not searched that way are still to be searched."""
    return tuple(
        _list_searched_as(pairs, batch).arranged(
            arrangement, nodes, rows, None if other is None else _list_searched_as(pairs, other)
        )
        for pairs in wanted
    )


def _list_searched_as(wanted: PairList, batch: BatchStorage) -> PairList:
    """Return the list of `batch` that was searched as `wanted` was, or one in which all is still to be searched."""
    found = next((pairs for pairs in batch.pair_lists if pairs.is_searched_as(wanted)), None)
    if found is not None:
        return found
    positions = batch.get("positions", wanted.reference_positions[:0])
    cell = batch.get("cell", positions.new_zeros((len(batch), 3, 3)))
    return wanted.blank_for(positions, cell, batch.pbc_or_false)


def _edges_in_stored_order(batch: BatchStorage) -> LevelStorage:
    """Edge fields in the stored order of pairs, whatever order a user assigned."""
    edges, pairs = batch._edges(), batch.pair_list
    if pairs is None or pairs.order is None or not edges.tensors:
        return edges
    order = pairs.order
    return edges.map(lambda name, tensor: tensor[order])


def item(batch: BatchStorage, number: int) -> AtomicData:
    """Return one system as a structure of views, without fields that it lacks; see `Batch.get_data`."""
    fields = batch._node.slice_of(number) | batch._system.slice_of(number)
    for name, systems in _absent_fields(batch).items():
        if systems[number]:
            del fields[name]
    custom = {name: spec for name, spec in batch._custom.items() if name in fields or spec.level == "edge"}
    if batch.pair_lists or batch._edge.tensors:
        _add_edges(batch, number, fields)
    return batch._item_class._trusted(fields, custom)


def _absent_fields(batch: BatchStorage) -> dict[str, list[bool]]:
    """Return in which systems a field is NaN throughout, which means absent; looked up anew only after a change."""
    known = batch._absent
    if known is not None and known.version == batch.version and known.tensors.is_unchanged():
        return known.systems
    looked_at, found = [], {}
    for level in (batch._node, batch._system):
        for name, tensor in level.tensors.items():
            if batch.field_spec(name).may_be_absent and not tensor.is_meta:
                looked_at.append(tensor)
                is_nan = tensor.isnan()
                if bool(is_nan.any()):
                    has_value = ~is_nan.reshape(level.rows, -1).all(dim=1)
                    absent = torch.ones(len(batch), dtype=torch.bool, device=batch.device)
                    absent[level.idx(batch.device)[has_value]] = False
                    found[name] = absent.tolist()
    batch._absent = AbsentFields(batch.version, ComputedFrom(*looked_at), found)
    return found


def _add_edges(batch: BatchStorage, number: int, fields: dict[str, torch.Tensor]) -> None:
    pairs, edges = batch.pair_list, batch._edges()
    start, count = int(edges.starts[number]), int(edges.counts[number])
    if pairs is None:
        fields.update(edges.slice_of(number))
        return
    if _grouped_by_system(batch, pairs):
        neighbor_list, shifts = pairs.coo(batch)
    else:
        i, j, shifts = pairs.pair_index(batch)
        neighbor_list, edges = torch.stack((i, j), dim=1).to(torch.int32), _edges_in_stored_order(batch)
    if bool(pairs.valid[number]):
        fields["neighbor_list"] = neighbor_list.narrow(0, start, count) - int(batch._node.starts[number])
        fields["neighbor_list_shifts"] = shifts.narrow(0, start, count)
    fields.update(edges.slice_of(number))


def _grouped_by_system(batch: BatchStorage, pairs: PairList) -> bool:
    """Whether the pairs as the user ordered them stand system by system; looked up once for a list."""
    if pairs.order is None:
        return True
    grouped = pairs._cache.get("grouped")
    if grouped is None:
        owner = batch.batch_idx[pairs.coo(batch)[0][:, 0].long()]
        grouped = pairs._cache["grouped"] = bool((owner[1:] >= owner[:-1]).all())
    return grouped


def add_key(batch: BatchStorage, key: str, values: Sequence[torch.Tensor], level: Any, overwrite: bool) -> None:
    """Add a field from one tensor per system; see `Batch.add_key`."""
    level = level_of(key, level)
    if key in batch and not overwrite:
        raise InputError(f"Key '{key}' already exists in the Batch. Pass `overwrite=True` to replace it.")
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise ArgumentError(f"`values` of `{key}` must be one tensor per system, for example `torch.tensor([1.0])`.")
    if len(values) != len(batch):
        raise InputError(f"`values` has {len(values)} tensors; the Batch has {len(batch)} systems. Pass one each.")
    if level == "edge" and not batch.pair_lists and not batch._edge.tensors:
        raise InputError(f"Group 'edges' not found: the Batch has no pairs that `{key}` could belong to.")
    if level == "system":
        rows = [v[0] if v.ndim and v.shape[0] == 1 else v for v in values]
        tensor = _join_values(torch.stack, key, rows)
    else:
        _check_rows_per_system(key, values, batch._level(level).counts)
        tensor = _join_values(torch.cat, key, list(values))
    spec = spec_for(type(batch), key, tensor, level)
    if key not in KNOWN_FIELDS:
        if key in batch:
            del batch[key]
        batch.register_field(spec)
    batch.set_field(key, tensor.to(batch.device))


def _join_values(function: Any, key: str, values: list[torch.Tensor]) -> torch.Tensor:
    try:
        return function(values)
    except RuntimeError as error:
        shapes, devices = ({str(getattr(value, what)) for value in values} for what in ("shape", "device"))
        if len(devices) > 1:
            raise InputError(
                f"`{key}` has tensors on {', '.join(sorted(devices))}. Move them to one device."
            ) from error
        raise ShapeError(
            f"`{key}` has tensors of shapes {', '.join(sorted(shapes)[:3])}; trailing sizes must be equal."
        ) from error


def _check_rows_per_system(key: str, values: Sequence[torch.Tensor], counts: np.ndarray) -> None:
    for number, value in enumerate(values):
        if value.ndim == 0 or value.shape[0] != counts[number]:
            raise ShapeError(
                f"`{key}` of system {number} has shape {tuple(value.shape)}; {int(counts[number])} rows are needed."
            )


def separate_memory(batch: BatchStorage) -> None:
    """Replace, in place, fields of the table that can not be written row by row; see `Batch.separate_memory`."""
    tensors = batch._items()
    if any(tensor.is_inference() for tensor in tensors.values()):
        batch.__setstate__(batch.clone().__getstate__())
        return
    seen = set()
    for name, tensor in tensors.items():
        if name in FIELDS and tensor.numel():
            if tensor.requires_grad:
                tensor = tensor.detach()
                batch.set_field(name, tensor)
            repeats = any(size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            if repeats or tensor.data_ptr() in seen:
                batch.set_field(name, tensor.clone(memory_format=torch.contiguous_format))
            seen.add(tensor.data_ptr())
