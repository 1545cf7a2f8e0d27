"""How batches are made: of structures, of plain dictionaries, empty, and of what `Batch.model_dump` returned.

Joining itself is in `_collate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from athanor._values import check_state_dtype, usable_device
from athanor.data import _collate, _pair_views
from athanor.data._checks import check_structures
from athanor.data._collate import Parts
from athanor.data._levels import LevelStorage, level_of
from athanor.data._storage import BatchStorage
from athanor.data._structure import cast_state, first_size, spec_for, warn_of_cast
from athanor.data.atomic_data import AtomicData
from athanor.data.fields import FIELDS, KNOWN_FIELDS, LEVELS, PAIR_VIEWS, REQUIRED, FieldSpec, Level
from athanor.errors import ArgumentError, InputError, MissingFieldError

AnyBatch = TypeVar("AnyBatch", bound=BatchStorage)


def from_items(
    cls: type[AnyBatch],
    items: Sequence[AtomicData],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    validate: bool,
    levels: Mapping[str, str],
    exclude_keys: Iterable[str] | None = None,
) -> AnyBatch:
    """Join structures; see `Batch.from_data_list`."""
    items = _checked_list(items, AtomicData, "a Batch is made of AtomicData.")
    if dtype is not None:
        check_state_dtype(dtype)
    custom = _collate.merge_specs([item._custom for item in items], _name_of_sample)
    dicts: list[Mapping[str, torch.Tensor]] = [item._fields for item in items]
    for name, level in levels.items():
        level_of(name, level)
    if levels:
        labels = [{n: v for n, v in i._extras.items() if n in levels and isinstance(v, torch.Tensor)} for i in items]
        dicts = [{**fields, **extra} for fields, extra in zip(dicts, labels, strict=True)]
        custom.update(_specs_of(dicts, levels, custom))
    if device is not None:
        device = usable_device(device)
    exclude = {exclude_keys} if isinstance(exclude_keys, str) else set(exclude_keys or ())
    if exclude:
        if not exclude.isdisjoint(REQUIRED):
            raise InputError(f"`exclude_keys` names {sorted(exclude & {*REQUIRED})}; every system needs it.")
        dicts = [{name: tensor for name, tensor in item.items() if name not in exclude} for item in dicts]
    state = _collate.common_state_dtype(dicts, dtype, _name_of_sample)
    levels_of_batch = _joined_levels(dicts, custom)
    if state is not None:
        cast = [name for storage in levels_of_batch.values() for name in cast_state(storage.tensors, state)]
        warn_of_cast([] if dtype else cast, state, stacklevel=4)
    node = levels_of_batch["node"]
    if validate:
        check_structures({**node.tensors, **levels_of_batch["system"].tensors}, node.starts)
    batch = cls._of(levels_of_batch, custom, node.tensors["positions"].device, item_class=type(items[0]))
    _pack_items(batch, dicts)
    return batch if device is None else batch.to(device)


def _joined_levels(
    dicts: Sequence[Mapping[str, torch.Tensor]], custom: Mapping[str, FieldSpec]
) -> dict[Level, LevelStorage]:
    """Join the tensors of structures, and check what came out."""
    rows: dict[Level, list[int]] = {
        "node": [item["positions"].shape[0] for item in dicts],
        "edge": _edge_rows(dicts, custom),
        "system": [1] * len(dicts),
    }
    parts = Parts(dicts, rows)
    _collate.check_cells_have_pbc(parts, _name_of_sample)
    fields = _collate.join(parts, custom, _name_of_sample)
    levels = {level: LevelStorage(np.array(rows[level], dtype=np.int64), fields[level]) for level in LEVELS}
    for storage in levels.values():
        for name, tensor in storage.tensors.items():
            (FIELDS.get(name) or custom[name]).check(tensor, storage.rows, owner="the joined Batch")
    return levels


def _name_of_sample(number: int) -> str:
    return f"sample {number}"


def _checked_list(items: Any, kind: type, wanted: str) -> list[Any]:
    """Return the structures as a list of at least one `kind`."""
    if isinstance(items, AtomicData | BatchStorage):
        advice = "Pass a list: `[data]`." if isinstance(items, AtomicData) else "It is a batch already."
        raise ArgumentError(f"`data_list` is a {type(items).__name__}, not a list of structures. {advice}")
    try:
        listed = list(items)
    except TypeError as error:
        raise ArgumentError(f"`data_list` is a {type(items).__name__}; pass a list of AtomicData.") from error
    if not listed:
        raise InputError("Cannot create batch from empty data list. Pass at least one structure, or use `Batch.empty`.")
    for number, item in enumerate(listed):
        if not isinstance(item, kind):
            hint = " Use `AtomicData.from_atoms(...)`." if hasattr(item, "get_positions") else ""
            raise ArgumentError(f"Sample {number} is a {type(item).__name__}; {wanted}{hint}")
    return listed


def items_of_dicts(dicts: Sequence[Mapping[str, torch.Tensor]], levels: Mapping[str, str]) -> list[AtomicData]:
    """Return structures of plain dictionaries, with checks of rows and dtypes only; see `Batch.from_raw_dicts`."""
    given = _checked_list(dicts, Mapping, "pass dictionaries of tensors.")
    skip = {"batch_idx", "batch_ptr", "device", "dtype", "info"}
    given = [{n: v for n, v in item.items() if n not in skip and v is not None} for item in given]
    unknown = {n: "system" for item in given for n in item if n not in KNOWN_FIELDS}
    custom = _specs_of(given, {**unknown, **levels}, {})
    items = [{n: (KNOWN_FIELDS.get(n) or custom[n]).as_column(v) for n, v in item.items()} for item in given]
    for number, item in enumerate(items):
        _check_rows(item, custom, number)
    return [AtomicData._trusted(item, custom) for item in items]


def _check_rows(item: Mapping[str, torch.Tensor], custom: Mapping[str, FieldSpec], number: int) -> None:
    """Raise unless every tensor of a plain dictionary has the rows of its level."""
    if "positions" not in item:
        raise MissingFieldError(f"`positions` is missing from sample {number}; every system needs it.")
    rows: dict[Level, int] = {"node": first_size(item["positions"]), "edge": _edge_rows([item], custom)[0], "system": 1}
    for name, tensor in item.items():
        spec = KNOWN_FIELDS.get(name) or custom[name]
        spec.check(tensor, rows[spec.level], owner=f"sample {number}")


def _specs_of(
    dicts: Sequence[Mapping[str, torch.Tensor]], levels: Mapping[str, str], known: Mapping[str, FieldSpec]
) -> dict[str, FieldSpec]:
    specs = {}
    for name, given in levels.items():
        first = next((item[name] for item in dicts if name in item), None)
        if first is not None and name not in known and name not in PAIR_VIEWS:
            specs[name] = spec_for(AtomicData, name, first, level_of(name, given))
    return {name: spec for name, spec in specs.items() if name not in FIELDS}


def _edge_rows(dicts: Sequence[Mapping[str, torch.Tensor]], custom: Mapping[str, FieldSpec]) -> list[int]:
    """Return the number of pairs of each structure: that of the list, else of the first field of pairs."""
    names = ("neighbor_list", "edge_embeddings", *(name for name, spec in custom.items() if spec.level == "edge"))
    return [next((item[name].shape[0] for name in names if name in item), 0) for item in dicts]


def _pack_items(batch: BatchStorage, dicts: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """Pack the neighbour lists or matrices of single structures into the pair list of the batch."""
    has_list = ["neighbor_list" in item or "neighbor_matrix" in item for item in dicts]
    if not any(has_list):
        return
    pairs, shifts = [], []
    for number, item in enumerate(dicts):
        if has_list[number]:
            found = _item_pairs(batch, number, item)
            pairs.append(found[0])
            shifts.append(found[1])
    edges, batch._edge = batch._edge, LevelStorage.empty(len(batch))
    packed = _pair_views.pack(batch, torch.cat(pairs), torch.cat(shifts), keep_order=True)
    packed = packed.replace(valid=torch.tensor(has_list, device=batch.device))
    batch._pair_lists = (packed,)
    if edges.tensors:
        batch._edge, batch._edge_rows_of = edges, packed.row_ptr


def _item_pairs(
    batch: BatchStorage, number: int, item: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    first, atoms = int(batch._node.starts[number]), int(batch._node.counts[number])
    pairs = item.get("neighbor_list")
    if pairs is None:
        pairs, shifts = _pair_views.pairs_of_matrix(item)
        return pairs + first, shifts
    if pairs.numel() and (int(pairs.min()) < 0 or int(pairs.max()) >= atoms):
        raise InputError(
            f"`neighbor_list` of sample {number} holds atom indices from {int(pairs.min())} to {int(pairs.max())}; "
            f"the structure has {atoms} atoms. Indices count inside the structure."
        )
    return _pair_views.pairs_of_list(item, batch, first)


def one_atom() -> AtomicData:
    """Return the template of an empty batch for which none is given."""
    numbers = torch.ones(1, dtype=torch.int64)
    return AtomicData(atomic_numbers=numbers, positions=torch.zeros(1, 3), energy=torch.zeros(1, 1))


def emptied(cls: type[AnyBatch], template: Any, device: torch.device | str | None) -> AnyBatch:
    """Return a batch without systems that has the fields of `template`."""
    if not isinstance(template, AtomicData | BatchStorage):
        raise ArgumentError(f"The template is a {type(template).__name__}; pass a Batch or AtomicData.")
    if isinstance(template, AtomicData):
        template = from_items(cls, [template], None, None, False, {})
    device = template.device if device is None else usable_device(device)
    none = np.zeros(0, dtype=np.int64)
    levels = {
        level: LevelStorage(none, {n: t[:0].to(device) for n, t in template._level(level).tensors.items()})
        for level in LEVELS
    }
    return cls._of(levels, dict(template._custom), device, item_class=template._item_class)


def from_dump(cls: type[AnyBatch], dump: Mapping[str, Any]) -> AnyBatch:
    """Make a batch of what `Batch.model_dump` returned."""
    missing = [
        name for name in ("device", "keys", "num_graphs", "num_nodes_list", "num_edges_list") if name not in dump
    ]
    if missing:
        raise MissingFieldError(f"The dictionary has no {', '.join(missing)}. Pass what `Batch.model_dump` returned.")
    counts = {
        "node": np.array(dump["num_nodes_list"], dtype=np.int64),
        "edge": np.array(dump["num_edges_list"] or [0] * dump["num_graphs"], dtype=np.int64),
        "system": np.ones(dump["num_graphs"], dtype=np.int64),
    }
    levels: dict[Level, LevelStorage] = {}
    custom = {}
    for level in LEVELS:
        tensors = {name: dump[name] for name in dump if name in dump["keys"][level]}
        levels[level] = LevelStorage(counts[level], tensors)
        for name, tensor in tensors.items():
            if name not in FIELDS:
                custom[name] = FieldSpec.like(name, level, tensor)
    return cls._of(levels, custom, torch.device(dump["device"]))
