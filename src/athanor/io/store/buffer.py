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
        rows, before = self.rows, self.stored
        start = 0
        while len(rows) - start >= self.spec.shard_rows:
            medium.put(
                self.spec.key(self.base // self.spec.shard_rows),
                self.spec.encode(rows[start : start + self.spec.shard_rows], level),
            )
            start += self.spec.shard_rows
            self.base += self.spec.shard_rows
        if start:
            self._parts = [rows[start:].copy()]
        self.stored = max(self.base, before)
        if whole and self.stored < self.base + len(self.rows):
            medium.put(self.spec.key(self.base // self.spec.shard_rows), self.spec.encode(self.rows, level))
            self.stored = self.base + len(self.rows)
        return self.stored != before

    def metadata(self, level: int) -> dict[str, Any]:
        """Content of its ``zarr.json``."""
        return self.spec.document(self.stored, level)

    def to_commit(self) -> Stored:
        """What the commit record says of it."""
        return Stored(self.stored, self.spec.inner_rows, self.spec.shard_rows)
