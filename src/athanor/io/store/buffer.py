"""Rows of one array that no full shard holds yet."""

from __future__ import annotations

from typing import Any

import numpy as np

from athanor.io.store.layout import Stored
from athanor.io.store.medium import Medium
from athanor.io.store.shards import ArraySpec


class ArrayBuffer:
    """The end of an array: what stands behind its last full shard.

    Parameters
    ----------
    spec
        The array.
    base
        Rows in full shards.
    """

    def __init__(self, spec: ArraySpec, base: int = 0) -> None:
        self.spec, self.base = spec, base
        self.stored = base
        """Rows in shards, the last of which may be part-filled."""
        self._parts: list[np.ndarray] = []

    def copy(self) -> ArrayBuffer:
        """Return one that can be written while this one stays."""
        other = ArrayBuffer(self.spec, self.base)
        other.stored, other._parts = self.stored, list(self._parts)
        return other

    def add(self, rows: np.ndarray) -> None:
        """Put rows behind the others."""
        if len(rows):
            self._parts.append(rows)

    @property
    def rows(self) -> np.ndarray:
        """What stands behind the last full shard."""
        if not self._parts:
            return np.empty((0, *self.spec.shape), dtype=self.spec.dtype)
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    @property
    def behind(self) -> np.ndarray:
        """What stands in no shard at all."""
        return self.rows[self.stored - self.base :]

    def write(self, medium: Medium, level: int, *, whole: bool) -> bool:
        """Write every shard that is full, and the last one if `whole`; whether there was one."""
        before = self.stored
        while sum(map(len, self._parts)) >= self.spec.shard_rows:
            self._put(medium, self._first(self.spec.shard_rows), level)
            self.base += self.spec.shard_rows
        if self.base > before:
            self._parts = [self.rows.copy()]  # what is kept must not keep all that it came with
        self.stored = max(self.base, before)
        if whole and self.stored < self.base + len(self.rows):
            self._put(medium, self.rows, level)
            self.stored = self.base + len(self.rows)
        return self.stored != before

    def _first(self, count: int) -> np.ndarray:
        """Take out the first so many rows."""
        taken = []
        while count:
            part = self._parts.pop(0)
            if len(part) > count:
                self._parts.insert(0, part[count:])
            taken.append(part[:count])
            count -= len(taken[-1])
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    def _put(self, medium: Medium, rows: np.ndarray, level: int) -> None:
        raw = self.spec.encode(rows, level, medium.mark().encode())
        medium.put_shard(self.spec.key(self.base // self.spec.shard_rows), raw)

    def metadata(self, level: int) -> dict[str, Any]:
        """Content of its ``zarr.json``."""
        return self.spec.document(self.stored, level)

    def to_commit(self) -> Stored:
        """What the commit record says of it."""
        return Stored(self.stored, self.spec.inner_rows, self.spec.shard_rows)
