"""Read a trajectory store: all of it, chosen rows, or all frames of one system.

A reader sees the store as of one commit record until `refresh`. Only rows that the record counts exist for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from athanor.data._levels import gather_rows
from athanor.data.batch import Batch
from athanor.errors import InputError, MissingFieldError, OutOfRangeError, StorageError
from athanor.io._replace import PARTIAL
from athanor.io._zarr_store import RawStore
from athanor.io.frames import rows_to_batch
from athanor.io.zarr_rows import Rows, decode_block, merge_rows
from athanor.io.zarr_schema import (
    FORMAT_KEY,
    HEAD_KEY,
    Head,
    StoredField,
    StoreNotFoundError,
    check_format,
    end_path,
    field_path,
    to_tensor,
)

_ATTEMPTS = 10


def load_head(raw: RawStore) -> Head:
    """Read the commit record; an empty one if nothing was committed yet.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    StorageError
        If the format is another one, or the record is damaged.
    """
    found = raw.get(FORMAT_KEY)
    if found is None:
        raise StoreNotFoundError(f"{raw.where} holds no trajectory (no `{FORMAT_KEY}` there). Check the path.")
    check_format(found, raw.where)
    record = raw.get(HEAD_KEY)
    return Head() if record is None else Head.from_bytes(record, raw.where)


def load_tail(raw: RawStore, head: Head) -> list[Rows]:
    """Read the committed blocks that are not in the arrays yet.

    Raises
    ------
    StorageError
        If one is missing or damaged.
    """
    parts = []
    for block in head.tail:
        found = raw.get(block.key)
        if found is None:
            raise StorageError(f"Block `{block.key}` of {raw.where} is missing; the commit record names it.")
        parts.append(decode_block(found, block, raw.where))
    return parts


class TrajectoryReader:
    """Selective reading of a trajectory store.

    Parameters
    ----------
    store
        Path, dict or zarr store; or an opened `RawStore`.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    StorageError
        If it is of another format, or damaged.

    Examples
    --------
    >>> from athanor.io.zarr_reader import TrajectoryReader
    >>> reader = TrajectoryReader("trajectory.zarr")  # doctest: +SKIP
    >>> reader.frames(system_id=3).positions  # doctest: +SKIP
    """

    def __init__(self, store: Any) -> None:
        self._raw = store if isinstance(store, RawStore) else RawStore(store, read_only=True)
        self.refresh()

    def refresh(self) -> None:
        """Go to the newest commit.

        A writer may drop blocks between our two reads; then the record is newer, and we start again.
        """
        for attempt in range(_ATTEMPTS):
            self._head = load_head(self._raw)
            try:
                tail = load_tail(self._raw, self._head)
                break
            except StorageError:
                if attempt + 1 == _ATTEMPTS or load_head(self._raw).commit == self._head.commit:
                    raise
        self._tail = merge_rows(tail, self._head.fields) if tail else None
        self._arrays: dict[str, Any] = {}
        self._chunks: dict[str, set[int]] = {}
        self._ends: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._head.total_systems

    @property
    def commit(self) -> int:
        """Number of the commit that is read."""
        return self._head.commit

    @property
    def fields(self) -> tuple[StoredField, ...]:
        """Every stored field."""
        return self._head.fields

    @property
    def num_atoms(self) -> np.ndarray:
        """Atoms of every row, int64 [rows]."""
        return self._counts("node", np.arange(len(self)))

    def system_values(self, name: str) -> torch.Tensor:
        """One system-level field of every row, without touching any atom; shape [rows, ...].

        Raises
        ------
        MissingFieldError
            If the store has no such system-level field.
        """
        item = self._head.field(name)
        if item is None or item.level != "system":
            names = ", ".join(field.name for field in self.fields if field.level == "system")
            raise MissingFieldError(f"{self._raw.where} has no system field `{name}`. It has: {names}.")
        return to_tensor(self._column(item, np.arange(len(self))), item)

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
            raise InputError(f"`system_id={system_id}` is not in {self._raw.where}; it holds {some} ...")
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
        if rows.counts["system"] == 0:
            raise StorageError(f"Nothing to read: {self._raw.where} is empty, or no rows were asked for.")
        return rows_to_batch(rows, self.fields)

    def rows(self, indices: Sequence[int] | slice | np.ndarray | torch.Tensor) -> Rows:
        """Chosen rows as plain arrays; fields that none of them has are left out."""
        chosen = self._row_indices(indices)
        rows = Rows(self._counts("node", chosen), self._counts("edge", chosen))
        for item in self.fields:
            column = self._column(item, chosen)
            if not item.is_absent(column):
                rows.columns[item.name] = column
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
            raise OutOfRangeError(f"Row {bad[0]} is out of range; {self._raw.where} has {len(self)} rows.")
        return np.where(array < 0, array + len(self), array).astype(np.int64)

    def _level_ends(self, level: Any) -> np.ndarray:
        """End of each system's rows, arrays and blocks together."""
        if level not in self._ends:
            in_arrays = self._head.systems
            path = end_path(level)
            if path in self._head.arrays:
                ends = self._from_array(path, np.arange(in_arrays))
            else:
                ends = np.zeros(in_arrays, dtype=np.int64)
            if self._tail is not None:
                counts = self._tail.node_counts if level == "node" else self._tail.edge_counts
                ends = np.concatenate([ends, np.cumsum(counts) + self._head.rows(level)])
            if ends.size and (np.diff(ends, prepend=0) < 0).any():
                raise StorageError(f"The end pointers `{path}` of {self._raw.where} are damaged.")
            self._ends[level] = ends
        return self._ends[level]

    def _counts(self, level: Any, chosen: np.ndarray) -> np.ndarray:
        return np.diff(self._level_ends(level), prepend=0)[chosen]

    def _row_numbers(self, level: str, chosen: np.ndarray) -> np.ndarray:
        if level == "system":
            return chosen
        ends, counts = self._level_ends(level)[chosen], self._counts(level, chosen)
        return gather_rows(ends - counts, counts)

    def _column(self, item: StoredField, chosen: np.ndarray) -> np.ndarray:
        """Rows of one field for chosen systems, from the arrays and from the blocks."""
        numbers, path = self._row_numbers(item.level, chosen), field_path(item.name)
        base = self._head.rows(item.level)
        old = numbers < base
        if old.all() and path in self._head.arrays:
            return self._from_array(path, numbers)
        out = item.missing_rows(len(numbers))
        if path in self._head.arrays:
            out[old] = self._from_array(path, numbers[old])
        if self._tail is not None:
            out[~old] = self._tail.column(item)[numbers[~old] - base]
        return out

    def _from_array(self, path: str, numbers: np.ndarray) -> np.ndarray:
        """Gather rows; whole chunks are read, neighbouring ones together, and no chunk twice."""
        if path not in self._arrays:
            self._arrays[path] = self._raw.open_array(path)
        array = self._arrays[path]
        out = np.empty((len(numbers), *array.shape[1:]), dtype=array.dtype)
        if not len(numbers):
            return out
        if numbers.max() >= array.shape[0]:
            raise StorageError(f"Array `{path}` of {self._raw.where} is shorter than the commit record says.")
        chunks = numbers // array.chunks[0]
        needed = np.unique(chunks)
        self._check_chunks(path, needed)
        if (np.diff(numbers) == 1).all():
            return self._read_slice(path, int(numbers[0]), int(numbers[-1]) + 1)
        for run in np.split(needed, np.flatnonzero(np.diff(needed) > 1) + 1):
            inside = (chunks >= run[0]) & (chunks <= run[-1])
            start, stop = int(numbers[inside].min()), int(numbers[inside].max()) + 1
            out[inside] = self._read_slice(path, start, stop)[numbers[inside] - start]
        return out

    def _read_slice(self, path: str, start: int, stop: int) -> np.ndarray:
        """Neighbouring rows of an array."""
        try:
            return np.asarray(self._arrays[path][start:stop])
        except (ValueError, RuntimeError, OSError) as error:
            raise StorageError(
                f"Array `{path}` of {self._raw.where} has a damaged chunk in rows {start} to {stop} ({error})."
            ) from error

    def _check_chunks(self, path: str, needed: np.ndarray) -> None:
        """A missing chunk would read as fill values: an error if the commit record says it was written."""
        if not self._head.is_whole:
            return
        if path not in self._chunks:
            prefix = f"{path}/c/"
            self._chunks[path] = {int(key.removeprefix(prefix).split("/")[0]) for key in self._raw.keys(prefix)
                                  if not key.endswith(PARTIAL)}  # fmt: skip
        missing = set(needed.tolist()) - self._chunks[path]
        if missing:
            raise StorageError(f"Chunk {min(missing)} of array `{path}` of {self._raw.where} is missing.")
