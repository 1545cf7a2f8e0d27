"""Storage of one level of a batch: tensors by name, and how many rows belong to each system.

One class serves atoms, pairs, systems and groups of atoms; for systems every count is 1. Counts are kept on the host as
numpy integers, so that reading sizes never waits for a device. Levels know nothing of single fields.

Beside fields, a level holds the rows that engines and hooks remember (`state`). They are selected, joined and copied
with the systems, and are not fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from athanor.data.fields import Level
from athanor.errors import InputError
from athanor.kernels.rows import arrange_rows

_LEVEL_NAMES: dict[str, Level] = {
    "node": "node", "atom": "node", "atoms": "node", "edge": "edge", "edges": "edge", "system": "system",
}  # fmt: skip

StateName = tuple[str, str]
"""Key of the engine or hook that owns a state row, and name of the row."""


def level_of(name: str, given: str) -> Level:
    """Return the level that a caller calls `given` for the field `name`."""
    if given not in _LEVEL_NAMES:
        raise InputError(f"`{name}` is given the level {given!r}; levels are 'node' (or 'atom'), 'edge' and 'system'.")
    return _LEVEL_NAMES[given]


def gather_rows(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Row numbers of the segments that begin at `starts` and hold `counts` rows, one segment after the other."""
    total = int(counts.sum())
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)


class LevelStorage:
    """Tensors of one level and the number of rows of each system.

    Parameters
    ----------
    counts
        int64 [B] on the host; rows of each system.
    tensors
        Name -> tensor with ``counts.sum()`` leading rows.
    state
        (key, name) -> tensor with as many rows; what engines and hooks remember.
    """

    __slots__ = ("_idx", "_ptr", "counts", "rows", "starts", "state", "tensors")

    def __init__(
        self,
        counts: np.ndarray,
        tensors: dict[str, torch.Tensor] | None = None,
        state: dict[StateName, torch.Tensor] | None = None,
    ) -> None:
        self.counts = counts
        self.starts = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=self.starts[1:])
        self.rows = int(self.starts[-1])
        self.tensors: dict[str, torch.Tensor] = {} if tensors is None else tensors
        self.state: dict[StateName, torch.Tensor] = {} if state is None else state
        self._ptr: torch.Tensor | None = None
        self._idx: torch.Tensor | None = None

    @classmethod
    def empty(cls, systems: int, like: Mapping[str, torch.Tensor] | None = None) -> LevelStorage:
        """Storage of so many systems without rows, and with tensors like those of `like`."""
        return cls(np.zeros(systems, dtype=np.int64), {name: tensor[:0] for name, tensor in (like or {}).items()})

    def ptr(self, device: torch.device) -> torch.Tensor:
        """First row of each system and the total, int32 [B+1]; cached."""
        if self._ptr is None:
            with torch.inference_mode(False):  # it is kept, and may be needed in a graph later
                self._ptr = torch.from_numpy(self.starts.astype(np.int32)).to(device)
        return self._ptr

    def idx(self, device: torch.device) -> torch.Tensor:
        """System of each row, int64 [rows]; cached."""
        if self._idx is None:
            owner = np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)
            with torch.inference_mode(False):
                self._idx = torch.from_numpy(owner).to(device)
        return self._idx

    def slice_of(self, system: int) -> dict[str, torch.Tensor]:
        """Views of one system's rows."""
        start, count = int(self.starts[system]), int(self.counts[system])
        return {name: tensor.narrow(0, start, count) for name, tensor in self.tensors.items()}

    def between(self, begin: int, end: int) -> LevelStorage:
        """Storage of views of the systems from `begin` to before `end`; without what has other rows, as in a view."""
        first, rows = int(self.starts[begin]), int(self.starts[end] - self.starts[begin])
        fields = {
            name: tensor.narrow(0, first, rows)
            for name, tensor in self.tensors.items()
            if tensor.ndim and tensor.shape[0] == self.rows
        }
        return LevelStorage(self.counts[begin:end], fields)

    def map(self, function: Callable[[str, torch.Tensor], torch.Tensor]) -> LevelStorage:
        """New storage with `function(name, tensor)` in place of every tensor; pointers are made anew on demand."""
        tensors = {name: function(name, tensor) for name, tensor in self.tensors.items()}
        state = {name: function(name[1], tensor) for name, tensor in self.state.items()}
        return LevelStorage(self.counts, tensors, state)

    def with_own_names(self) -> LevelStorage:
        """Storage of the same tensors, counts and cached pointers, with tables of names of its own."""
        result = LevelStorage.__new__(LevelStorage)
        result.counts, result.starts, result.rows = self.counts, self.starts, self.rows
        result._ptr, result._idx = self._ptr, self._idx
        result.tensors, result.state = self.tensors.copy(), self.state.copy()
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return LevelStorage, (self.counts, self.tensors, self.state)


class Arrangement:
    """Which systems a batch is to hold, and where each of them is now: in that batch, or in another one that joins it.

    Selecting, appending, removing and replacing systems are arrangements; `rows` says what each does to a level, in one
    pass and without a loop over systems.

    Parameters
    ----------
    systems
        int64 [B'] on the host; index of each system where it is now.
    joining
        bool [B'] on the host; whether it is in the other batch. None: all are in the first.
    """

    __slots__ = ("joining", "systems")

    def __init__(self, systems: np.ndarray, joining: np.ndarray | None = None) -> None:
        self.systems, self.joining = systems, joining

    @classmethod
    def appending(cls, systems: int, others: int) -> Arrangement:
        """All systems of the first batch, then all of the other."""
        return cls(np.concatenate([np.arange(systems), np.arange(others)]), np.arange(systems + others) >= systems)

    @classmethod
    def replacing(cls, systems: int, places: np.ndarray) -> Arrangement:
        """The systems at `places` give way to those of the other batch, one for one and in order."""
        order, joining = np.arange(systems), np.zeros(systems, dtype=bool)
        order[places], joining[places] = np.arange(len(places)), True
        return cls(order, joining)

    @classmethod
    def exchanging(cls, systems: int, leaving: np.ndarray, others: int) -> Arrangement:
        """The systems without those at `leaving`, then all of the other batch."""
        staying = np.delete(np.arange(systems), leaving)
        order = np.concatenate([staying, np.arange(others)])
        return cls(order, np.arange(len(order)) >= len(staying))

    def rows(self, first: LevelStorage, other: LevelStorage | None = None) -> Rows:
        """Return how the rows of a level are moved."""
        if self.joining is None or other is None:
            return Rows(first.starts[self.systems], first.counts[self.systems])
        starts, counts = np.empty_like(self.systems), np.empty_like(self.systems)
        for level, here in ((first, ~self.joining), (other, self.joining)):
            starts[here], counts[here] = level.starts[self.systems[here]], level.counts[self.systems[here]]
        return Rows(starts, counts, self.joining)


class Rows:
    """How the rows of one level are moved by an `Arrangement`.

    Parameters
    ----------
    starts, counts
        int64 [B'] on the host; first row and number of rows of each system where it is now.
    joining
        bool [B'] on the host; whether that is in the other batch. None: it never is.
    """

    __slots__ = ("_numbers", "counts", "joining", "starts")

    def __init__(self, starts: np.ndarray, counts: np.ndarray, joining: np.ndarray | None = None) -> None:
        self.starts, self.counts, self.joining = starts, counts, joining
        self._numbers: torch.Tensor | None = None

    def move(self, first: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Return the rows of `first`, and of `other` where systems join."""
        if other is None or self.joining is None:
            source = first
        elif first.numel() + other.numel() > _MANY:
            source = None
        else:
            source = torch.cat((first, other))
        if source is None or source.numel() > _MANY:
            return arrange_rows(first, other, self.starts, self.counts, self.joining)
        if self._numbers is None:
            starts = self.starts if self.joining is None else self.starts + first.shape[0] * self.joining
            self._numbers = torch.from_numpy(gather_rows(starts, self.counts)).to(first.device)
        return source.index_select(0, self._numbers)


_MANY = 20_000
"""Numbers in a tensor above which its rows are copied system by system: below, torch's own selection costs less."""
