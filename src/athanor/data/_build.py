"""How batches are made of structures and of each other, and how systems are read back.

The methods of `Batch` delegate here. Joining itself is in `_collate`, one policy for structures and for batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from athanor.data import _collate, _pairs_public
from athanor.data._checks import check_structures, system_name
from athanor.data._collate import PRESENT, Part
from athanor.data._levels import LevelStorage
from athanor.data._structure import custom_spec, kind_of
from athanor.data.atomic_data import AtomicData
from athanor.data.elements import standard_masses
from athanor.data.fields import FIELDS, LEVELS, PAIR_VIEWS, FieldSpec, Level
from athanor.data.pair_list import PairList
from athanor.errors import InputError, ShapeError

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_LEVEL_NAMES: dict[str, Level] = {
    "node": "node", "atom": "node", "atoms": "node", "edge": "edge", "edges": "edge", "system": "system",
}  # fmt: skip


def _level_of(name: str, given: str) -> Level:
    if given not in _LEVEL_NAMES:
        raise InputError(f"`{name}` is given the level {given!r}; levels are 'node' (or 'atom'), 'edge' and 'system'.")
    return _LEVEL_NAMES[given]


# ---------------------------------------------------------------------------------------------- from structures
def from_items(
    cls: type[Batch],
    items: Sequence[AtomicData],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    validate: bool,
    levels: Mapping[str, str],
    exclude: set[str],
) -> Batch:
    """Join structures; see `Batch.from_data_list`."""
    if not len(items):
        raise InputError(
            "Cannot create batch from empty data list. Pass at least one AtomicData, or use `Batch.empty`."
        )
    for number, item in enumerate(items):
        if not isinstance(item, AtomicData):
            raise InputError(f"Sample {number} is a {type(item).__name__}; a Batch is made of AtomicData.")
    custom = _collate.merge_specs([item._custom for item in items])
    dicts: list[Mapping[str, torch.Tensor]] = [item._fields for item in items]
    if levels:
        extras = _labels(items, levels)
        dicts = [{**fields, **extra} for fields, extra in zip(dicts, extras, strict=True)]
        custom.update(_specs_of(dicts, levels, custom))
    return _assemble(cls, dicts, custom, device, dtype, validate, exclude, type(items[0]))


def _labels(items: Sequence[AtomicData], levels: Mapping[str, str]) -> list[dict[str, torch.Tensor]]:
    return [{n: v for n, v in item._extras.items() if n in levels and isinstance(v, torch.Tensor)} for item in items]


def from_dicts(
    cls: type[Batch],
    items: Sequence[Mapping[str, torch.Tensor]],
    device: torch.device | str | None,
    levels: Mapping[str, str],
    exclude: set[str],
) -> Batch:
    """Join plain dictionaries; see `Batch.from_raw_dicts`."""
    if not len(items):
        raise InputError("Cannot create batch from empty data list. Pass at least one dictionary.")
    skip = {"batch_idx", "batch_ptr", "device", "dtype", "info"}
    dicts = [{n: v for n, v in item.items() if n not in skip and v is not None} for item in items]
    unknown = {n: "system" for item in dicts for n in item if n not in FIELDS and n not in PAIR_VIEWS}
    custom = _specs_of(dicts, {**unknown, **levels}, {})
    return _assemble(cls, dicts, custom, device, None, False, exclude, AtomicData)


def _specs_of(
    dicts: Sequence[Mapping[str, torch.Tensor]], levels: Mapping[str, str], known: Mapping[str, FieldSpec]
) -> dict[str, FieldSpec]:
    specs = {}
    for name, given in levels.items():
        first = next((item[name] for item in dicts if name in item), None)
        if first is not None and name not in known and name not in PAIR_VIEWS:
            specs[name] = custom_spec(AtomicData, name, first, _level_of(name, given), FIELDS.get(name))
    return {name: spec for name, spec in specs.items() if name not in FIELDS}


def _assemble(
    cls: type[Batch],
    dicts: Sequence[Mapping[str, torch.Tensor]],
    custom: dict[str, FieldSpec],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    validate: bool,
    exclude: set[str],
    item_class: type[AtomicData],
) -> Batch:
    def name_of(number: int) -> str:
        return f"sample {number}"

    if exclude:
        dicts = [{name: tensor for name, tensor in item.items() if name not in exclude} for item in dicts]
    atoms, edges = [], []
    parts = []
    for item in dicts:
        positions = item.get("positions")
        atoms.append(0 if positions is None else positions.shape[0])
        edges.append(_edge_rows(item, custom))
        parts.append(Part(item, {"node": atoms[-1], "edge": edges[-1], "system": 1}))
    state = _collate.common_state_dtype(parts, dtype, name_of)
    _collate.check_cells_have_pbc(parts, name_of)
    fields, schema = _collate.join(parts, custom, name_of)
    for level in LEVELS:
        for name, tensor in fields[level].items():
            _check_joined(name, tensor, schema, {"node": sum(atoms), "edge": sum(edges), "system": len(dicts)}[level])
    if state is not None:
        _collate.cast_state(fields, state, warn=dtype is None)
    counts = {"node": np.array(atoms), "edge": np.array(edges), "system": np.ones(len(dicts), dtype=np.int64)}
    storages = {level: LevelStorage(counts[level].astype(np.int64), fields[level]) for level in LEVELS}
    if validate:
        check_structures({**fields["node"], **fields["system"]}, storages["node"].starts)
    batch = cls._of(storages, schema, fields["node"]["positions"].device, item_class=item_class)
    _pack_items(batch, dicts)
    return batch if device is None else batch.to(device)


def _check_joined(name: str, tensor: torch.Tensor, schema: Mapping[str, FieldSpec], rows: int) -> None:
    spec = FIELDS.get(name) or schema[name]
    spec.check(tensor, rows, owner="the joined Batch")


def _edge_rows(item: Mapping[str, torch.Tensor], custom: Mapping[str, FieldSpec]) -> int:
    pairs = item.get("neighbor_list")
    if pairs is not None:
        return pairs.shape[0]
    if "edge_embeddings" in item:
        return item["edge_embeddings"].shape[0]
    if custom:
        for name, tensor in item.items():
            if name in custom and custom[name].level == "edge":
                return tensor.shape[0]
    return 0


def _pack_items(batch: Batch, dicts: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """Pack the neighbour lists or matrices of single structures into the pair list of the batch."""
    has_list = ["neighbor_list" in item or "neighbor_matrix" in item for item in dicts]
    if not any(has_list):
        return
    pairs, shifts = [], []
    for number, item in enumerate(dicts):
        if has_list[number]:
            found = _item_pairs(batch, number, item)
            pairs.append(found[0] + int(batch._node.starts[number]))
            shifts.append(found[1])
    edges, batch._edge = batch._edge, LevelStorage(np.zeros(len(batch), dtype=np.int64))
    packed = _pairs_public.pack(batch, torch.cat(pairs), torch.cat(shifts), keep_order=True)
    packed.valid = torch.tensor(has_list, device=batch.device)
    batch._pairs = packed
    if edges.tensors:
        batch._edge, batch._edge_rows_of = edges, packed.row_ptr


def _item_pairs(batch: Batch, number: int, item: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = item.get("neighbor_list")
    if pairs is None:
        dense = item["neighbor_matrix"].long()
        used = (dense >= 0) & (dense < dense.shape[0])
        if "num_neighbors" in item:
            used &= torch.arange(dense.shape[1], device=dense.device) < item["num_neighbors"].long().unsqueeze(1)
        i, slot = torch.nonzero(used, as_tuple=True)
        images = item.get("neighbor_matrix_shifts")
        shifts = torch.zeros((len(i), 3), device=i.device) if images is None else images[i, slot]
        return torch.stack((i, dense[i, slot]), dim=1), shifts
    pairs = pairs.long()
    atoms = int(batch._node.counts[number])
    if pairs.numel() and (int(pairs.min()) < 0 or int(pairs.max()) >= atoms):
        raise InputError(
            f"`neighbor_list` of sample {number} holds atom indices from {int(pairs.min())} to {int(pairs.max())}; "
            f"the structure has {atoms} atoms. Indices count inside the structure."
        )
    found = item.get("neighbor_list_shifts")
    if found is None and "shifts" in item:
        offset = pairs + int(batch._node.starts[number])
        found = _pairs_public.images_from_cartesian(item["shifts"], batch, offset)
    return pairs, torch.zeros((len(pairs), 3), device=pairs.device) if found is None else found


# ----------------------------------------------------------------------------------------------------- membership
def _part_of(batch: Batch) -> Part:
    edges = _canonical_edges(batch)
    tensors = {**batch._node.tensors, **edges.tensors, **batch._system.tensors}
    return Part(tensors, {"node": batch.num_nodes, "edge": edges.rows, "system": len(batch)})


def append(batch: Batch, other: Batch) -> None:
    """Add the systems of `other` to `batch` in place; see `Batch.append`."""
    mine, theirs = batch.get("positions"), other.get("positions")
    if other is batch or (mine is not None and theirs is not None and mine is theirs):
        raise InputError("The appended Batch shares storage with this one. Append `other.clone()` instead.")
    parts = [_part_of(batch), _part_of(other)]
    names = ("this Batch", "the appended Batch")
    filled = [part for part in parts if part.rows["system"]]
    if filled:
        _collate.common_state_dtype(filled, None, names.__getitem__)
    _collate.check_cells_have_pbc(parts, names.__getitem__)
    custom = _collate.merge_specs([batch._custom, other._custom])
    fields, schema = _collate.join(parts, custom, names.__getitem__)
    if filled:
        _collate.cast_state(fields, filled[0].tensors["positions"].dtype, warn=False)
    fresh = _common_stamp(batch, other)
    pairs = _joined_pairs(batch, other)
    for level, slot in (("node", "_node"), ("edge", "_edge"), ("system", "_system")):
        counts = np.concatenate([_counts(batch, level), _counts(other, level)])
        object.__setattr__(batch, slot, LevelStorage(counts, fields[level]))
    batch._custom = schema
    batch._pairs = pairs
    batch._edge_rows_of = None if pairs is None or not batch._edge.tensors else pairs.row_ptr
    batch._assigned.clear()
    batch._version += 1
    batch._stamp = None
    if fresh is not None:
        batch.mark_results_fresh(*fresh)


def _counts(batch: Batch, level: Any) -> np.ndarray:
    return batch._level(level).counts


def _common_stamp(batch: Batch, other: Batch) -> tuple[Any, frozenset[str]] | None:
    one, two = batch._stamp, other._stamp
    if one is None or two is None or not one.holds(batch) or not two.holds(other):
        return None
    model = one.model()
    return (model, one.keys & two.keys) if model is not None and model is two.model() else None


def _joined_pairs(batch: Batch, other: Batch) -> PairList | None:
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
            lists.append(PairList.blank(positions, cell, known.cutoff, known.radius, known.half))
    return lists[0].append(lists[1])


def _canonical_edges(batch: Batch) -> LevelStorage:
    """Edge fields in the stored order of pairs, whatever order a user assigned."""
    edges, pairs = batch._edges(), batch._pairs
    if pairs is None or pairs.order is None or not edges.tensors:
        return edges
    order = pairs.order
    return edges.map(lambda name, tensor: tensor[order])


def select(batch: Batch, systems: np.ndarray) -> Batch:
    """Return a new batch of `systems`, int64 on the host; see `Batch.index_select`."""
    device = batch.device
    node, edges = batch._node, _canonical_edges(batch)
    rows = torch.from_numpy(node.row_numbers(systems)).to(device)
    picked = torch.from_numpy(systems).to(device)
    levels = {
        "node": node.select(systems, rows),
        "system": batch._system.select(systems, picked),
        "edge": LevelStorage(np.zeros(len(systems), dtype=np.int64)),
    }
    if edges.tensors:
        levels["edge"] = edges.select(systems, torch.from_numpy(edges.row_numbers(systems)).to(device))
    pairs = None if batch._pairs is None else batch._pairs.select(systems, node.starts, node.counts)
    result = type(batch)._of(levels, dict(batch._custom), device, pairs, batch._item_class)
    if not levels["edge"].tensors:
        result._edge_rows_of = None
    return result


def item(batch: Batch, number: int) -> AtomicData:
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


def _add_edges(batch: Batch, number: int, fields: dict[str, torch.Tensor]) -> None:
    pairs, edges = batch._pairs, batch._edges()
    start, count = int(edges.starts[number]), int(edges.counts[number])
    if pairs is None:
        fields.update(edges.slice_of(number))
        return
    if not pairs._cache.get("grouped", pairs.order is None):
        batch = _with_sorted_edges(batch)
        pairs, edges = batch._pairs, batch._edges()
        assert pairs is not None
    if bool(pairs.valid[number]):
        neighbor_list, shifts = pairs.coo(batch)
        fields["neighbor_list"] = neighbor_list.narrow(0, start, count) - int(batch._node.starts[number])
        fields["neighbor_list_shifts"] = shifts.narrow(0, start, count)
    fields.update(edges.slice_of(number))


def _with_sorted_edges(batch: Batch) -> Batch:
    """The batch with pairs in the order of systems: itself if the user's order keeps systems together."""
    pairs = batch._pairs
    assert pairs is not None
    owner = batch.batch_idx[pairs.coo(batch)[0][:, 0].long()]
    if bool((owner[1:] >= owner[:-1]).all()):
        pairs._cache["grouped"] = True
        return batch
    found = pairs._cache.get("sorted")
    if found is None:
        found = pairs._cache["sorted"] = select(batch, np.arange(len(batch)))
    return found


# --------------------------------------------------------------------------------------------------- adding fields
def add_key(batch: Batch, key: str, values: Sequence[torch.Tensor], level: Any, overwrite: bool) -> None:
    """Add a field from one tensor per system; see `Batch.add_key`."""
    level = _level_of(key, level)
    if key in batch and not overwrite:
        raise InputError(f"Key '{key}' already exists in the Batch. Pass `overwrite=True` to replace it.")
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
        shapes = sorted({tuple(value.shape) for value in values})
        raise ShapeError(f"`{key}` has tensors of shapes {shapes[:3]}; trailing sizes must be equal.") from error


def _check_rows_per_system(key: str, values: Sequence[torch.Tensor], counts: np.ndarray) -> None:
    for number, value in enumerate(values):
        if value.ndim == 0 or value.shape[0] != counts[number]:
            raise ShapeError(
                f"`{key}` of system {number} has shape {tuple(value.shape)}; {int(counts[number])} rows are needed."
            )


def filled(batch: Batch, spec: FieldSpec) -> torch.Tensor:
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


# ----------------------------------------------------------------------------------------------------- empty, checks
def default_fields(device: torch.device) -> dict[Level, dict[str, torch.Tensor]]:
    """Fields of an empty batch without a template."""
    example = AtomicData(atomic_numbers=torch.ones(1, dtype=torch.int64), positions=torch.zeros(1, 3))
    node = {name: tensor[:0].to(device) for name, tensor in example._fields.items()}
    return {"node": node, "edge": {}, "system": {"energy": torch.zeros((0, 1), device=device)}}


def emptied(cls: type[Batch], template: Any, device: torch.device) -> Batch:
    """Return a batch without systems that has the fields of `template`."""
    if isinstance(template, AtomicData):
        template = cls.from_data_list([template])
    none = np.zeros(0, dtype=np.int64)
    levels = {
        level: LevelStorage(none, {n: t[:0].to(device) for n, t in template._level(level).tensors.items()})
        for level in LEVELS
    }
    return cls._of(levels, dict(template._custom), device, item_class=template._item_class)


def from_dump(cls: type[Batch], dump: Mapping[str, Any]) -> Batch:
    """Make a batch of what `Batch.model_dump` returned."""
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
                custom[name] = FieldSpec(name, level, tuple(tensor.shape[1:]), kind_of(tensor.dtype))
    return cls._of(levels, custom, torch.device(dump["device"]))


def check_batch(batch: Batch) -> None:
    """Check shapes, dtypes and values of everything stored."""
    for level in LEVELS:
        storage = batch._level(level)
        for name, tensor in storage.tensors.items():
            batch.field_spec(name).check(tensor, storage.rows, owner=f"a Batch of {len(batch)} systems")
    if len(batch):
        check_structures({**batch._node.tensors, **batch._system.tensors}, batch._node.starts)


def check_pair_list(batch: Batch, pairs: PairList | None) -> None:
    """Raise unless `pairs` has the atoms and systems of `batch`."""
    if pairs is None:
        return
    atoms, systems = pairs.row_ptr.shape[0] - 1, pairs.valid.shape[0]
    if (atoms, systems) != (batch.num_nodes, len(batch)):
        raise ShapeError(
            f"`pair_list` is for {atoms} atoms in {systems} systems; the Batch has {batch.num_nodes} in {len(batch)}."
        )


def warn_dropped_edges(tensors: Iterable[str]) -> None:
    """Warn that edge fields were dropped with the pairs that they belonged to."""
    names = ", ".join(f"`{name}`" for name in tensors)
    warnings.warn(
        f"{names} belonged to the pairs of an older neighbour list and was dropped. Compute it after the list is built.",
        UserWarning,
        stacklevel=4,
    )


__all__ = ["append", "from_items", "item", "select", "system_name"]
