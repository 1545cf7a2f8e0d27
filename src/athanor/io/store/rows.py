"""Rows of some systems on the host, as they are handed over and as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from athanor.data._levels import gather_rows
from athanor.errors import StorageError
from athanor.io.store.layout import JOINS_LATER, StoredField


@dataclass(slots=True)
class Rows:
    """Rows of some systems on the host: one numpy array per field, and atoms per system."""

    node_counts: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.node_counts)

    @property
    def num_nodes(self) -> int:
        """Atoms of all systems."""
        return int(self.node_counts.sum())

    def count(self, level: str) -> int:
        """Rows of a level."""
        return self.num_nodes if level == "node" else len(self)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    def column(self, item: StoredField) -> np.ndarray:
        """Values of a field; the missing value where these rows lack it."""
        value = self.columns.get(item.name)
        return item.missing_rows(self.count(item.level)) if value is None else value

    def take(self, chosen: np.ndarray, fields: Iterable[StoredField]) -> Rows:
        """Rows of chosen systems, in their order."""
        counts = self.node_counts[chosen]
        ends = np.cumsum(self.node_counts)[chosen]
        atoms = gather_rows(ends - counts, counts)
        levels = {item.name: item.level for item in fields}
        columns = {name: value[atoms if levels[name] == "node" else chosen] for name, value in self.columns.items()}
        return Rows(counts, columns)


def merge_rows(parts: Sequence[Rows], fields: Iterable[StoredField]) -> Rows:
    """Put rows behind one another; what a part lacks is filled."""
    if len(parts) == 1:
        return parts[0]
    merged = Rows(np.concatenate([part.node_counts for part in parts]) if parts else np.empty(0, dtype=np.int64))
    for item in fields:
        if any(item.name in part.columns for part in parts):
            merged.columns[item.name] = np.concatenate([part.column(item) for part in parts])
    return merged


def expand(structures: Rows, number: np.ndarray, fields: Mapping[str, StoredField]) -> Rows:
    """Constants of systems: those of structure `number` [systems], for each."""
    return structures.take(number, fields.values())


def with_fields(stored: tuple[StoredField, ...], given: tuple[StoredField, ...], where: str) -> tuple[StoredField, ...]:
    """Return the fields of a store with those that rows handed over bring.

    Raises
    ------
    StorageError
        If one differs from that of the store, or may not come so late, or is missing and can not be filled.
    """
    known, names = {item.name: item for item in stored}, {item.name for item in given}
    for item in stored:
        if item.default is None and not item.is_float and item.name not in names:
            raise StorageError(
                f"`{item.name}` is missing from the frame and has been in {where} so far; it is "
                f"{item.dtype} and has no default to fill it with. Nothing was written; write it in every frame."
            )
    for item in given:
        before = known.get(item.name)
        if before is item:
            continue
        if before is None and known and item.name not in JOINS_LATER:
            raise StorageError(
                f"`{item.name}` is new to {where}, whose fields were fixed by the first write; nothing "
                f"was written. Drop the field, or write it from the first frame on. "
                f"Fields: {', '.join(sorted(known))}."
            )
        if before is not None:
            found, wanted = (item.level, item.dtype, item.shape), (before.level, before.dtype, before.shape)
            if found != wanted:
                raise StorageError(
                    f"`{item.name}` is {found[0]}-level {found[1]} with trailing shape {found[2]}; "
                    f"{where} holds {wanted[0]}-level {wanted[1]} with {wanted[2]}. "
                    f"Nothing was written; convert it first."
                )
    return (*stored, *(item for item in given if item.name not in known))
