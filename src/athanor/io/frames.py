"""Frames: batches as they are stored, without pair list and edge fields. Copying, joining, to rows and back.

The only module of sinks and stores that takes a batch apart and puts one together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from athanor.data import _collate
from athanor.data._levels import LevelStorage
from athanor.data.batch import Batch
from athanor.data.fields import FIELDS, FieldSpec, Level
from athanor.errors import StorageError
from athanor.io.store.layout import StoredField, to_numpy, to_tensor
from athanor.io.store.rows import Rows

STAMPS = ("system_id", "step", "time")
"""System fields that every stored frame carries, filled with their defaults if the batch has none."""
_FieldType = tuple[FieldSpec, torch.dtype, torch.Size]
_Values = tuple[tuple[str, FieldSpec | None, torch.dtype, tuple[int, ...]], ...]
"""Names, rows of custom fields, dtypes and shapes."""
_FRAME_LEVELS: tuple[Level, ...] = ("node", "system")


def fields_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Node and system fields of a batch by name; no copies."""
    return {name: batch[name] for level in _FRAME_LEVELS for name in batch.field_names(level)}


def copy_frame(batch: Batch, device: torch.device) -> Batch:
    """Copy node and system fields to `device`, detached from any graph."""
    return map_frame(batch, device, lambda value: value.to(device, copy=True))


def map_frame(batch: Batch, device: torch.device, copy: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """Return a frame on `device` with ``copy(tensor)`` of every node and system field, detached from any graph."""
    tensors = {name: copy(value.detach()) for name, value in fields_of(batch).items()}
    specs = {name: batch.field_spec(name) for name in tensors}
    return _assemble(tensors, specs, np.array(batch.num_nodes_list, dtype=np.int64), device)


def _types_of(batch: Batch) -> dict[str, _FieldType]:
    return {name: (batch.field_spec(name), value.dtype, value.shape[1:]) for name, value in fields_of(batch).items()}


class FrameSchema:
    """Fields seen so far, so that a frame that could not be joined with earlier ones is refused when it comes."""

    def __init__(self) -> None:
        self._seen: dict[str, _FieldType] = {}

    def add(self, batch: Batch) -> None:
        """Check `batch` against earlier frames and remember its fields.

        Raises
        ------
        StorageError
            If a field has another level, dtype or trailing shape than before, or is there in some frames only and is
            neither a float nor has a default. Nothing is remembered then.
        """
        found = _types_of(batch)
        if self._seen:
            for name in {**self._seen, **found}:
                self._check(name, self._seen.get(name), found.get(name))
        self._seen = {**self._seen, **found}

    def is_that_of(self, batch: Batch) -> bool:
        """Whether `batch` has the very fields that were seen."""
        return self._seen == _types_of(batch)

    @staticmethod
    def _check(name: str, seen: _FieldType | None, found: _FieldType | None) -> None:
        if seen is not None and found is not None:
            if (seen[0].level, *seen[1:]) != (found[0].level, *found[1:]):
                raise StorageError(
                    f"`{name}` is {found[0].level}-level {found[1]} with trailing shape {tuple(found[2])}; "
                    f"earlier frames hold {seen[0].level}-level {seen[1]} with {tuple(seen[2])}. Nothing was stored; "
                    f"convert it first."
                )
            return
        spec, dtype, _ = seen or found  # type: ignore[misc]
        if spec.default is None and not dtype.is_floating_point:
            raise StorageError(
                f"`{name}` is in some frames only; it is {dtype} and has no default, so the others can not be filled. "
                f"Nothing was stored; write it in every frame, or in none."
            )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Join frames into a new batch; what some lack is filled as `Batch.from_data_list` does."""
    fields = [fields_of(batch) for batch in batches]
    rows: dict[Level, list[int]] = {
        "node": [batch.num_nodes for batch in batches],
        "edge": [0] * len(batches),
        "system": [batch.num_graphs for batch in batches],
    }
    specs = [
        {name: batch.field_spec(name) for name in one if name not in FIELDS}
        for batch, one in zip(batches, fields, strict=True)
    ]
    parts, custom = _collate.Parts(fields, rows), _collate.merge_specs(specs, _frame)
    levels = _collate.join(parts, custom, _frame)
    tensors = {**levels["node"], **levels["system"]}
    counts = np.concatenate([np.array(batch.num_nodes_list, dtype=np.int64) for batch in batches])
    return _assemble(tensors, {name: FIELDS.get(name) or custom[name] for name in tensors}, counts, batches[0].device)


def _frame(number: int) -> str:
    return f"frame {number}"


def _assemble(
    tensors: dict[str, torch.Tensor], specs: dict[str, FieldSpec], node_counts: np.ndarray, device: torch.device
) -> Batch:
    """Make a batch of whole fields; values are taken as they are, also if they are not finite."""
    systems = len(node_counts)
    by_level: dict[Level, dict[str, torch.Tensor]] = {"node": {}, "edge": {}, "system": {}}
    for name, tensor in tensors.items():
        by_level[specs[name].level][name] = tensor
    counts = {
        "node": node_counts,
        "edge": np.zeros(systems, dtype=np.int64),
        "system": np.ones(systems, dtype=np.int64),
    }
    for level, fields in by_level.items():
        rows = int(counts[level].sum())
        for name, tensor in fields.items():
            specs[name].check(tensor, rows, owner=f"a frame of {systems} systems")
    storages = {level: LevelStorage(counts[level], by_level[level]) for level in by_level}
    custom = {name: spec for name, spec in specs.items() if name not in FIELDS}
    return Batch._of(storages, custom, device)


def batch_to_rows(batch: Batch) -> tuple[Rows, tuple[StoredField, ...]]:
    """Rows of a batch on the host, with identity fields in any case; views of its memory where that is on the host."""
    names = [name for level in _FRAME_LEVELS for name in batch.field_names(level)]
    values: dict[str, torch.Tensor] = dict(zip(names, batch.tensors_of(names), strict=True))  # type: ignore[arg-type]
    for name in STAMPS:
        if name not in values:
            values[name] = _stamp(name, batch.num_graphs, batch.dtype)
    custom = batch.custom_fields
    fields = _describe(tuple([(name, custom.get(name), value.dtype, value.shape) for name, value in values.items()]))
    counts = np.array(batch.num_nodes_list, dtype=np.int64)
    return Rows(counts, {name: to_numpy(value) for name, value in values.items()}), fields


@functools.lru_cache(maxsize=16)
def _stamp(name: str, systems: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((systems, 1), FIELDS[name].default or 0, dtype=FIELDS[name].dtype_to_make(dtype))


@functools.lru_cache(maxsize=1024)
def _describe(values: _Values) -> tuple[StoredField, ...]:
    return _fields_of(tuple((name, spec, dtype, tuple(shape[1:])) for name, spec, dtype, shape in values))


@functools.lru_cache(maxsize=64)
def _fields_of(values: _Values) -> tuple[StoredField, ...]:
    return tuple(StoredField.of(spec or FIELDS[name], dtype, shape) for name, spec, dtype, shape in values)


def rows_to_batch(rows: Rows, fields: Sequence[StoredField]) -> Batch:
    """Make a CPU batch of rows; what some rows lack is NaN there."""
    tensors: dict[str, torch.Tensor] = {}
    specs: dict[str, FieldSpec] = {}
    for item in fields:
        if item.name not in rows.columns:
            continue
        tensors[item.name] = to_tensor(rows.columns[item.name], item)
        specs[item.name] = FIELDS.get(item.name) or item.spec()
    return _assemble(tensors, specs, rows.node_counts, torch.device("cpu"))
