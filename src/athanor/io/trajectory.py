"""Read a trajectory: all of it, chosen rows, or all frames of one system; of every version of the format.

A reader sees the store as of one commit until `refresh`. Only rows that the commit counts exist for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from athanor.data.batch import Batch
from athanor.errors import InputError, MissingFieldError, OutOfRangeError, StorageError
from athanor.io.frames import rows_to_batch
from athanor.io.store.layout import COMMITS_KEY, FORMAT_KEY, StoredField, to_tensor, version_of
from athanor.io.store.medium import Medium
from athanor.io.store.places import open_medium
from athanor.io.store.reader import StoredFrames
from athanor.io.store.rows import Rows


def _frames_of(medium: Medium) -> Any:
    found = medium.read(FORMAT_KEY)
    if found is not None and version_of(found, medium.where) == 0:
        from athanor.io.version0.frames import OldFrames

        if medium.list_keys(COMMITS_KEY):
            raise StorageError(f"`{FORMAT_KEY}` of {medium.where} says version 0, and `{COMMITS_KEY}` version 1. It is "
                               f"damaged; copy the store again.")  # fmt: skip
        return OldFrames(medium)
    return StoredFrames(medium)


class TrajectoryReader:
    """Selective reading of a trajectory store.

    Parameters
    ----------
    store
        Path, dict or zarr store.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    StorageError
        If it is of another format, or damaged.

    Examples
    --------
    >>> from athanor.io.trajectory import TrajectoryReader
    >>> reader = TrajectoryReader("trajectory.zarr")  # doctest: +SKIP
    >>> reader.frames(system_id=3).positions  # doctest: +SKIP
    """

    def __init__(self, store: Any) -> None:
        self._medium = open_medium(store)
        self.refresh()

    def refresh(self) -> None:
        """Go to the newest commit."""
        self._frames = _frames_of(self._medium)

    def release(self) -> None:
        """Keep no file open; what is read later opens them again."""
        self._frames.release()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def commit(self) -> tuple[int, int]:
        """What is read: changes whenever there is something new."""
        commit: tuple[int, int] = self._frames.commit
        return commit

    @property
    def fields(self) -> tuple[StoredField, ...]:
        """Every stored field."""
        fields: tuple[StoredField, ...] = self._frames.fields
        return fields

    @property
    def num_atoms(self) -> np.ndarray:
        """Atoms of every row, int64 [rows]."""
        counts: np.ndarray = self._frames.node_counts(np.arange(len(self)))
        return counts

    def system_values(
        self, name: str, indices: Sequence[int] | slice | np.ndarray | torch.Tensor = slice(None)
    ) -> torch.Tensor:
        """One system-level field of chosen rows, by default of all, without touching any atom; shape [rows, ...].

        Raises
        ------
        MissingFieldError
            If the store has no such system-level field.
        InputError, IndexError
            As `read_rows`.
        """
        item = next((field for field in self.fields if field.name == name), None)
        if item is None or item.level != "system":
            names = ", ".join(field.name for field in self.fields if field.level == "system")
            raise MissingFieldError(f"{self._medium.where} has no system field `{name}`. It has: {names}.")
        return to_tensor(self._frames.column(item, self._row_indices(indices)), item)

    def frames(self, system_id: int) -> Batch:
        """All frames of one system, in the order in which they were written.

        Raises
        ------
        InputError
            If no row has this `system_id`.
        """
        ids = self.system_values("system_id").reshape(-1).numpy() if len(self) else np.empty(0, dtype=np.int64)
        rows = np.flatnonzero(ids == system_id)
        if rows.size == 0:
            some = ", ".join(str(value) for value in np.unique(ids)[:3])
            raise InputError(f"`system_id={system_id}` is not in {self._medium.where}; it holds {some} ...")
        return self.read_rows(rows)

    def read(self) -> Batch:
        """Every row, in the order of writing."""
        return self.read_rows(np.arange(len(self)))

    def read_rows(self, indices: Sequence[int] | slice | np.ndarray | torch.Tensor) -> Batch:
        """Chosen rows as a Batch on the CPU, in the order asked for; negative numbers count from the end.

        Raises
        ------
        InputError
            If `indices` are not integers.
        IndexError
            If one is out of range.
        StorageError
            If there are no rows, or a chunk is missing or damaged.
        """
        rows = self.rows(indices)
        if not len(rows):
            raise StorageError(f"Nothing to read: {self._medium.where} is empty, or no rows were asked for.")
        return rows_to_batch(rows, self.fields)

    def rows(self, indices: Sequence[int] | slice | np.ndarray | torch.Tensor) -> Rows:
        """Chosen rows as plain arrays; fields that none of them has are left out."""
        rows = self.all_rows(indices)
        for item in self.fields:
            if item.is_absent(rows.columns[item.name]):
                del rows.columns[item.name]
        return rows

    def all_rows(self, indices: Sequence[int] | slice | np.ndarray | torch.Tensor) -> Rows:
        """Chosen rows as plain arrays, with every field of the store."""
        rows: Rows = self._frames.rows(self._row_indices(indices))
        return rows

    def _row_indices(self, indices: Any) -> np.ndarray:
        if isinstance(indices, slice):
            return np.arange(len(self))[indices]
        array = np.asarray(indices)
        if array.size == 0:
            return np.empty(0, dtype=np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(f"`indices` have dtype {array.dtype} and shape {array.shape}; pass a list of integers.")
        bad = array[(array >= len(self)) | (array < -len(self))]
        if bad.size:
            raise OutOfRangeError(f"Row {bad[0]} is out of range; {self._medium.where} has {len(self)} rows.")
        return np.where(array < 0, array + len(self), array).astype(np.int64)
