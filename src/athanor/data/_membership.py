"""How systems join and leave a batch, how one is read back, and how fields are added to it.

The methods of `Batch` delegate here. Joining itself is in `_collate`, one policy for structures and for batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from athanor.data import _collate
from athanor.data._collate import PRESENT, Parts
from athanor.data._levels import LevelStorage, level_of
from athanor.data._storage import BatchStorage
from athanor.data._structure import custom_spec, kind_of
from athanor.data.atomic_data import AtomicData
from athanor.data.elements import standard_masses
from athanor.data.fields import FIELDS, LEVELS, PAIR_VIEWS, FieldSpec, Level
from athanor.data.pair_list import PairList
from athanor.errors import ArgumentError, InputError, ShapeError

AnyBatch = TypeVar("AnyBatch", bound=BatchStorage)


def _parts_of(batches: Sequence[BatchStorage]) -> Parts:
    edges = [_canonical_edges(batch) for batch in batches]
    tensors = [{**b._node.tensors, **e.tensors, **b._system.tensors} for b, e in zip(batches, edges, strict=True)]
    rows: dict[Level, list[int]] = {
        "node": [batch.num_nodes for batch in batches],
        "edge": [storage.rows for storage in edges],
        "system": [len(batch) for batch in batches],
    }
    return Parts(tensors, rows)


def append(batch: BatchStorage, other: BatchStorage) -> None:
    """Add the systems of `other` to `batch` in place; see `Batch.append`."""
    if not isinstance(other, BatchStorage):
        raise ArgumentError(
            f"A {type(other).__name__} was appended; append a Batch, or use `append_data([...])` for AtomicData."
        )
    mine, theirs = batch.get("positions"), other.get("positions")
    if other is batch or (mine is not None and theirs is not None and mine is theirs):
        raise InputError("The appended Batch shares storage with this one. Append `other.clone()` instead.")
    parts = _parts_of((batch, other))
    names = ("this Batch", "the appended Batch")
    filled = [part for part, systems in zip(parts.tensors, parts.rows["system"], strict=True) if systems]
    if filled:
        _collate.common_state_dtype(filled, None, names.__getitem__)
    _collate.check_cells_have_pbc(parts, names.__getitem__)
    custom = _collate.merge_specs([batch._custom, other._custom], names.__getitem__)
    fields, schema = _collate.join(parts, custom, names.__getitem__)
    if filled:
        _collate.cast_state(fields, filled[0]["positions"].dtype, warn=False)
    fresh = _common_stamp(batch, other)
    pairs = _joined_pairs(batch, other)
    for level in LEVELS:
        counts = np.concatenate([_counts(batch, level), _counts(other, level)])
        setattr(batch, f"_{level}", LevelStorage(counts, fields[level]))
    batch._custom = schema
    batch._pairs = pairs
    batch._edge_rows_of = None if pairs is None or not batch._edge.tensors else pairs.row_ptr
    batch._assigned.clear()
    batch._version += 1
    batch._stamp = None
    if fresh is not None:
        batch.mark_results_fresh(*fresh)


def _counts(batch: BatchStorage, level: Any) -> np.ndarray:
    return batch._level(level).counts


def _common_stamp(batch: BatchStorage, other: BatchStorage) -> tuple[Any, frozenset[str]] | None:
    one, two = batch._stamp, other._stamp
    if one is None or two is None or not one.holds(batch) or not two.holds(other):
        return None
    model = one.model()
    return (model, one.keys & two.keys) if model is not None and model is two.model() else None


def _joined_pairs(batch: BatchStorage, other: BatchStorage) -> PairList | None:
    if batch._pairs is None and other._pairs is None:
        return None
    known = batch._pairs or other._pairs
    assert known is not None
    lists = []
    for one in (batch, other):
        if one._pairs is not None:
            lists.append(one._pairs)
        else:
            positions = one.get("positions", known.reference_positions[:0])
            cell = one.get("cell", positions.new_zeros((len(one), 3, 3)))
            lists.append(PairList.blank(positions, cell, one.pbc_or_false, known.cutoff, known.radius, known.half))
    return lists[0].append(lists[1])


def _canonical_edges(batch: BatchStorage) -> LevelStorage:
    """Edge fields in the stored order of pairs, whatever order a user assigned."""
    edges, pairs = batch._edges(), batch._pairs
    if pairs is None or pairs.order is None or not edges.tensors:
        return edges
    order = pairs.order
    return edges.map(lambda name, tensor: tensor[order])


def select(batch: AnyBatch, systems: np.ndarray) -> AnyBatch:
    """Return a new batch of `systems`, int64 on the host; see `Batch.index_select`."""
    device = batch.device
    node, edges = batch._node, _canonical_edges(batch)
    rows = torch.from_numpy(node.row_numbers(systems)).to(device)
    picked = torch.from_numpy(systems).to(device)
    levels = {
        "node": node.select(systems, rows),
        "system": batch._system.select(systems, picked),
        "edge": LevelStorage.empty(len(systems)),
    }
    if edges.tensors:
        levels["edge"] = edges.select(systems, torch.from_numpy(edges.row_numbers(systems)).to(device))
    pairs = None if batch._pairs is None else batch._pairs.select(systems, node.starts, node.counts)
    result = type(batch)._of(levels, dict(batch._custom), device, pairs, batch._item_class)
    if not levels["edge"].tensors:
        result._edge_rows_of = None
    return result


def item(batch: BatchStorage, number: int) -> AtomicData:
    """Return one system as a structure of views; see `Batch.get_data`."""
    custom = batch._custom
    fields = batch._node.slice_of(number)
    for name, tensor in batch._system.tensors.items():
        fields[name] = tensor.narrow(0, number, 1)
    if custom:
        custom = _drop_absent(fields, custom)
    if batch._pairs is not None or batch._edge.tensors:
        _add_edges(batch, number, fields)
    return batch._item_class._trusted(fields, custom)


def _drop_absent(fields: dict[str, torch.Tensor], custom: dict[str, FieldSpec]) -> dict[str, FieldSpec]:
    """Leave out fields that this system does not have, and the rows that say so."""
    markers = [name for name in fields if name.endswith(PRESENT) and name.removesuffix(PRESENT) in fields]
    for name in markers:
        if not bool(fields.pop(name)):
            del fields[name.removesuffix(PRESENT)]
    return {name: spec for name, spec in custom.items() if name in fields or spec.level == "edge"}


def _add_edges(batch: BatchStorage, number: int, fields: dict[str, torch.Tensor]) -> None:
    pairs, edges = batch._pairs, batch._edges()
    start, count = int(edges.starts[number]), int(edges.counts[number])
    if pairs is None:
        fields.update(edges.slice_of(number))
        return
    if _grouped_by_system(batch, pairs):
        neighbor_list, shifts = pairs.coo(batch)
    else:
        i, j, shifts = pairs.pair_index(batch)
        neighbor_list, edges = torch.stack((i, j), dim=1).to(torch.int32), _canonical_edges(batch)
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
    if level == "edge" and batch._pairs is None and not batch._edge.tensors:
        raise InputError(f"Group 'edges' not found: the Batch has no pairs that `{key}` could belong to.")
    if level == "system":
        rows = [v[0] if v.ndim and v.shape[0] == 1 else v for v in values]
        tensor = _join_values(torch.stack, key, rows)
    else:
        _check_rows_per_system(key, values, batch._level(level).counts)
        tensor = _join_values(torch.cat, key, list(values))
    if key in FIELDS or key in PAIR_VIEWS:
        custom_spec(type(batch), key, tensor, level, FIELDS.get(key) or PAIR_VIEWS.get(key))
    else:
        custom_spec(type(batch), key, tensor, level, None)
        if key in batch:
            del batch[key]
        batch.register_field(FieldSpec(key, level, tuple(tensor.shape[1:]), kind_of(tensor.dtype)))
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


def filled(batch: BatchStorage, spec: FieldSpec) -> torch.Tensor:
    """Return the tensor that `Batch.ensure_field` creates."""
    if spec.name == "atomic_masses":
        return standard_masses(batch.atomic_numbers, batch.positions.dtype)
    shape = tuple(size or 0 for size in spec.shape)
    if spec.name in ("time", "dof"):
        dtype = torch.float64
    elif spec.kind in ("state", "float", "any"):
        dtype = batch.dtype or torch.get_default_dtype()
    else:
        dtype = torch.bool if spec.kind == "boolean" else torch.int64
    value = 0 if spec.default is None else spec.default
    return torch.full((batch._level(spec.level).rows, *shape), value, dtype=dtype, device=batch.device)


def separate_memory(batch: BatchStorage) -> None:
    """Copy, in place, fields of the table that can not be written row by row; see `Batch.separate_memory`."""
    tensors = batch._items()
    if any(tensor.is_inference() for tensor in tensors.values()):
        batch.__setstate__(batch.clone().__getstate__())
        return
    seen = set()
    for name, tensor in tensors.items():
        if name in FIELDS and tensor.numel():
            repeats = any(size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            if repeats or tensor.data_ptr() in seen:
                batch.set_field(name, tensor.clone(memory_format=torch.contiguous_format))
            seen.add(tensor.data_ptr())
