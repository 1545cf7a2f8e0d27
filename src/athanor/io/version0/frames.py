"""Read a store of version 0 as of its commit record."""

from __future__ import annotations

import numpy as np

from athanor.data._levels import gather_rows
from athanor.errors import StorageError
from athanor.io.store.layout import StoredField
from athanor.io.store.medium import Medium
from athanor.io.store.rows import Rows, merge_rows
from athanor.io.version0.arrays import OldArray
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
        self._arrays: dict[str, OldArray] = {}
        self._known_ends: np.ndarray | None = None
        self._check_room()

    def _head(self) -> Head:
        record = self._medium.read(HEAD_KEY)
        return Head() if record is None else Head.from_bytes(record, self._medium.where)

    def _block(self, head: Head, number: int) -> Rows:
        block = head.tail[number]
        found = self._medium.read(block.key)
        if found is None:
            raise StorageError(f"Block `{block.key}` of {self._medium.where} is missing; the commit record names it.")
        return decode_block(found, block, head.fields, self._medium.where)

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
            out[old] = self._array(path, item.numpy_dtype, item.shape).read(numbers[old])
        if len(self._late):
            out[~old] = self._late.column(item)[numbers[~old] - base]
        return out

    def _ends(self) -> np.ndarray:
        """Row after the last atom of each frame, arrays and blocks together."""
        if self._known_ends is None:
            systems, nodes = self._commit.systems, self._commit.nodes
            ends = self._pointers().read(np.arange(systems)) if systems else np.zeros(0, dtype=np.int64)
            last = ends[-1] if systems else 0
            ends = np.concatenate([ends, np.cumsum(self._late.node_counts) + nodes])
            if last != nodes or (np.diff(ends, prepend=0) < 0).any():
                raise StorageError(f"The end pointers `{NODE_END}` of {self._medium.where} are damaged.")
            self._known_ends = ends
        return self._known_ends

    def _array(self, path: str, dtype: np.dtype, shape: tuple[int, ...]) -> OldArray:
        if path not in self._arrays:
            self._arrays[path] = OldArray(self._medium, path, dtype, shape, is_whole=self._commit.is_whole)
        return self._arrays[path]

    def _check_room(self) -> None:
        """Refuse more rows than the chunks that are there can hold, before anything is made in their size.

        A chunk of pointers or of positions never holds fill values only, so it was always written.
        """
        head = self._commit
        bounds = {"system": head.systems and self._pointers().most_rows(), "node": 0}
        for item in self.fields:
            path = f"data/{item.name}"
            if item.level == "node" and path in head.arrays:
                bounds["node"] = max(bounds["node"], self._array(path, item.numpy_dtype, item.shape).most_rows())
        for level, most in bounds.items():
            if head.rows(level) > most:
                raise StorageError(
                    f"{self._medium.where} has no files for the {head.rows(level)} {level} rows that its commit record "
                    f"counts. It is damaged; do not use it."
                )

    def _pointers(self) -> OldArray:
        if NODE_END not in self._commit.arrays:
            raise StorageError(f"The commit record `{HEAD_KEY}` of {self._medium.where} counts frames and no pointers.")
        return self._array(NODE_END, np.dtype("int64"), ())
