"""Read a store of version 0 as of its commit record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from athanor.data._levels import gather_rows
from athanor.errors import StorageError
from athanor.io._replace import PARTIAL
from athanor.io.store.folder import Folder
from athanor.io.store.layout import StoredField
from athanor.io.store.medium import Medium
from athanor.io.store.objects import ZarrObjects
from athanor.io.store.rows import Rows, merge_rows
from athanor.io.version0.blocks import decode_block
from athanor.io.version0.schema import HEAD_KEY, NODE_END, Head

_ATTEMPTS = 10


class OldFrames:
    """The frames of a store of version 0; see `athanor.io.store.reader.StoredFrames`.

    Parameters
    ----------
    medium
        The store.

    Raises
    ------
    StorageError
        If it is damaged.
    """

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        for attempt in range(_ATTEMPTS):
            head = self._head()
            try:
                tail = [self._block(head, number) for number in range(len(head.tail))]
                break
            except StorageError:  # a writer may have dropped a block between two looks
                if attempt + 1 == _ATTEMPTS or self._head().commit == head.commit:
                    raise
        self._commit, self.fields = head, head.fields
        self._late = merge_rows(tail, head.fields)
        self._arrays: dict[str, Any] = {}
        self._chunks: dict[str, set[int]] = {}
        self._known_ends: np.ndarray | None = None

    def _head(self) -> Head:
        record = self._medium.read(HEAD_KEY)
        return Head() if record is None else Head.from_bytes(record, self._medium.where)

    def _block(self, head: Head, number: int) -> Rows:
        block = head.tail[number]
        found = self._medium.read(block.key)
        if found is None:
            raise StorageError(f"Block `{block.key}` of {self._medium.where} is missing; the commit record names it.")
        return decode_block(found, block, self._medium.where)

    def __len__(self) -> int:
        return self._commit.systems + len(self._late)

    def release(self) -> None:
        """See `athanor.io.store.reader.StoredFrames.release`; nothing is kept open."""

    @property
    def commit(self) -> tuple[int, int]:
        """What changes whenever there is something new to read."""
        return self._commit.commit, len(self)

    def node_counts(self, chosen: np.ndarray) -> np.ndarray:
        """Atoms of chosen frames."""
        return np.diff(self._ends(), prepend=0)[chosen]

    def rows(self, chosen: np.ndarray) -> Rows:
        """Rows of every field for chosen frames."""
        return Rows(self.node_counts(chosen), {item.name: self.column(item, chosen) for item in self.fields})

    def column(self, item: StoredField, chosen: np.ndarray) -> np.ndarray:
        """Rows of one field for chosen frames, from the arrays and from the blocks."""
        numbers, path = chosen, f"data/{item.name}"
        if item.level == "node":
            counts = self.node_counts(chosen)
            numbers = gather_rows(self._ends()[chosen] - counts, counts)
        base = self._commit.rows(item.level)
        old = numbers < base
        out = item.missing_rows(len(numbers))
        if path in self._commit.arrays and old.any():
            out[old] = self._from_array(path, numbers[old])
        if len(self._late):
            out[~old] = self._late.column(item)[numbers[~old] - base]
        return out

    def _ends(self) -> np.ndarray:
        """Row after the last atom of each frame, arrays and blocks together."""
        if self._known_ends is None:
            in_arrays = self._commit.systems
            ends = np.zeros(in_arrays, dtype=np.int64)
            if NODE_END in self._commit.arrays:
                ends = self._from_array(NODE_END, np.arange(in_arrays))
            ends = np.concatenate([ends, np.cumsum(self._late.node_counts) + self._commit.nodes])
            if (np.diff(ends, prepend=0) < 0).any():
                raise StorageError(f"The end pointers `{NODE_END}` of {self._medium.where} are damaged.")
            self._known_ends = ends
        return self._known_ends

    def _array(self, path: str) -> Any:
        if path not in self._arrays:
            self._arrays[path] = _open_array(self._medium, path)
        return self._arrays[path]

    def _from_array(self, path: str, numbers: np.ndarray) -> np.ndarray:
        """Gather rows; whole chunks are read, neighbouring ones together, and no chunk twice."""
        array = self._array(path)
        out = np.empty((len(numbers), *array.shape[1:]), dtype=array.dtype)
        if not len(numbers):
            return out
        if numbers.max() >= array.shape[0]:
            raise StorageError(f"Array `{path}` of {self._medium.where} is shorter than the commit record says.")
        chunks = numbers // array.chunks[0]
        needed = np.unique(chunks)
        self._check_chunks(path, needed)
        for run in np.split(needed, np.flatnonzero(np.diff(needed) > 1) + 1):
            inside = (chunks >= run[0]) & (chunks <= run[-1])
            start, stop = int(numbers[inside].min()), int(numbers[inside].max()) + 1
            out[inside] = self._read_slice(path, start, stop)[numbers[inside] - start]
        return out

    def _read_slice(self, path: str, start: int, stop: int) -> np.ndarray:
        """Neighbouring rows of an array."""
        try:
            return np.asarray(self._array(path)[start:stop])
        except (ValueError, RuntimeError, OSError) as error:
            raise StorageError(
                f"Array `{path}` of {self._medium.where} has a damaged chunk in rows {start} to {stop} ({error})."
            ) from error

    def _check_chunks(self, path: str, needed: np.ndarray) -> None:
        """A missing chunk would read as fill values: an error if the commit record says it was written."""
        if not self._commit.is_whole:
            return
        if path not in self._chunks:
            prefix = f"{path}/c/"
            self._chunks[path] = {int(key.removeprefix(prefix).split("/")[0]) for key in self._medium.list_keys(prefix)
                                  if not key.endswith(PARTIAL)}  # fmt: skip
        missing = set(needed.tolist()) - self._chunks[path]
        if missing:
            raise StorageError(f"Chunk {min(missing)} of array `{path}` of {self._medium.where} is missing.")


def _open_array(medium: Medium, path: str) -> Any:
    """Open an array with zarr.

    Raises
    ------
    StorageError
        If it is missing or damaged.
    """
    import zarr

    from athanor.io.version0.local_store import RegularFiles

    if isinstance(medium, Folder):
        store, prefix = RegularFiles(Path(medium.root)), ""
    else:
        assert isinstance(medium, ZarrObjects)
        store, prefix = medium.store, medium.prefix
    try:
        return zarr.open_array(store, path=prefix + path, mode="r", zarr_format=3)
    except (FileNotFoundError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StorageError(f"Array `{path}` of {medium.where} is missing or damaged ({error}).") from error
