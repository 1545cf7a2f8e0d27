"""Memory of a batch that systems join and leave without new allocations.

The tensors that such a batch shows are the beginning of its memory, so that sizes, selections, models and engines need
not know of it. Whatever else is assigned to the batch is moved into the memory when it is next needed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from athanor.data._levels import LevelStorage, StateName
from athanor.data.fields import Level

ROOM_LEVELS: tuple[Level, ...] = ("node", "system")
"""Levels whose rows have memory of their own. Pairs come and go with their list, which is a value."""

ColumnName = str | StateName
"""Name of a field, or of what an engine or a hook remembers."""


class Copied(NamedTuple):
    """Which systems of a batch a `put` copied, and the membership of the batch at that time."""

    membership: int
    systems: np.ndarray


class Room:
    """How many rows there is memory for, and the memory.

    Parameters
    ----------
    rows
        Level -> rows; of pairs a bound only.
    """

    __slots__ = ("_memory", "rows")

    def __init__(self, rows: Mapping[Level, int]) -> None:
        self.rows = dict(rows)
        self._memory: dict[tuple[Level, ColumnName], torch.Tensor] = {}

    def enlarge(self, rows: Mapping[Level, int]) -> None:
        """Make room for at least so many rows."""
        for level, count in rows.items():
            self.rows[level] = max(self.rows[level], count)

    def memory(self, level: Level, name: ColumnName, like: torch.Tensor) -> torch.Tensor:
        """Return the memory of a column, as many rows as there is room for; new zeros if there is none that fits.

        What the old one held is in the tensors that show it.
        """
        found, rows = self._memory.get((level, name)), self.rows[level]
        fits = found is not None and (found.dtype, found.shape[1:]) == (like.dtype, like.shape[1:])
        if found is None or not fits or found.shape[0] != rows or found.device != like.device:
            with torch.inference_mode(False):  # it is written to in any mode
                found = torch.zeros((rows, *like.shape[1:]), dtype=like.dtype, device=like.device)
            self._memory[level, name] = found
        return found

    def hold(self, level: Level, storage: LevelStorage) -> bool:
        """Move every column of `storage` to the beginning of its memory, and return whether one was elsewhere."""
        moved = [self._hold_in(level, storage.tensors), self._hold_in(level, storage.state)]
        return any(moved)

    def _hold_in(self, level: Level, columns: dict[Any, torch.Tensor]) -> bool:
        moved = False
        for name, tensor in columns.items():
            memory, rows = self.memory(level, name, tensor), tensor.shape[0]
            if tensor.data_ptr() != memory.data_ptr() or tensor.stride() != memory.stride():
                with torch.no_grad():
                    columns[name] = memory[:rows].copy_(tensor)
                moved = moved or rows > 0
        return moved

    def clear(self, level: Level, used: int = 0) -> None:
        """Set the rows of a level behind the first `used` ones to zero."""
        for (where, _), memory in self._memory.items():
            if where == level:
                memory[used:].zero_()
