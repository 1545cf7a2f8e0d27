"""Constants of systems, kept once: frames name the structure that they share with other frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from athanor.io.store.layout import StoredField
from athanor.io.store.rows import Rows


class StructureTable:
    """Numbers of the structures that one writer has met; the next one starts anew, and writes each once more.

    Parameters
    ----------
    count
        Structures that the store holds already.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._numbers: dict[bytes, int] = {}
        self._last: tuple[list[object], np.ndarray] | None = None

    def take(self, constants: Rows, fields: Sequence[StoredField]) -> tuple[np.ndarray, Rows | None]:
        """Number of each system's structure, and the rows of those that are new."""
        values = [(name, column.shape, column.tobytes()) for name, column in constants.columns.items()]
        given: list[object] = [constants.node_counts.tobytes(), *values]
        if self._last is not None and given == self._last[0]:
            return self._last[1], None
        known, count = dict[bytes, int](), self.count
        numbers, new = np.empty(len(constants), dtype=np.int64), []
        ends = np.cumsum(constants.node_counts).tolist()
        columns = [(name.encode(), constants.columns[name]) for name in sorted(constants.columns)]
        levels = {item.name.encode(): item.level for item in fields}
        for place, end in enumerate(ends):
            atoms = slice(end - int(constants.node_counts[place]), end)
            digest = hashlib.blake2b(str(constants.node_counts[place]).encode(), digest_size=16)
            for name, column in columns:
                rows = column[atoms] if levels[name] == "node" else column[place : place + 1]
                digest.update(name)
                digest.update(np.ascontiguousarray(rows).view(np.uint8).data if rows.size else b"")
            key = digest.digest()
            number = self._numbers.get(key, known.get(key))
            if number is None:
                number = known[key] = count
                count += 1
                new.append(place)
            numbers[place] = number
        self._numbers |= known
        self.count = count
        self._last = given, numbers
        return numbers, constants.take(np.array(new, dtype=np.int64), fields) if new else None
