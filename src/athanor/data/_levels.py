"""Storage of one level of a batch: tensors by name, and how many rows belong to each system.

One class serves atoms, pairs and systems; for systems every count is 1. Counts are kept on the host as numpy
integers, so that reading sizes never waits for a device. Levels know nothing of single fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from athanor.data.fields import Level
from athanor.errors import InputError

_LEVEL_NAMES: dict[str, Level] = {
    "node": "node", "atom": "node", "atoms": "node", "edge": "edge", "edges": "edge", "system": "system",
}  # fmt: skip


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
    """

    __slots__ = ("_idx", "_ptr", "counts", "rows", "starts", "tensors")

    def __init__(self, counts: np.ndarray, tensors: dict[str, torch.Tensor] | None = None) -> None:
        self.counts = counts
        self.starts = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=self.starts[1:])
        self.rows = int(self.starts[-1])
        self.tensors: dict[str, torch.Tensor] = {} if tensors is None else tensors
        self._ptr: torch.Tensor | None = None
        self._idx: torch.Tensor | None = None

    @classmethod
    def empty(cls, systems: int) -> LevelStorage:
        """Storage of so many systems without rows or tensors."""
        return cls(np.zeros(systems, dtype=np.int64))

    def ptr(self, device: torch.device) -> torch.Tensor:
        """First row of each system and the total, int32 [B+1]; cached."""
        if self._ptr is None:
            self._ptr = torch.from_numpy(self.starts.astype(np.int32)).to(device)
        return self._ptr

    def idx(self, device: torch.device) -> torch.Tensor:
        """System of each row, int64 [rows]; cached."""
        if self._idx is None:
            owner = np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)
            self._idx = torch.from_numpy(owner).to(device)
        return self._idx

    def row_numbers(self, systems: np.ndarray) -> np.ndarray:
        """Rows of the given systems, in that order."""
        return gather_rows(self.starts[systems], self.counts[systems])

    def select(self, systems: np.ndarray, rows: torch.Tensor) -> LevelStorage:
        """New storage with the given systems; `rows` is `row_numbers` of them on the tensors' device."""
        picked = {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}
        return LevelStorage(self.counts[systems], picked)

    def slice_of(self, system: int) -> dict[str, torch.Tensor]:
        """Views of one system's rows."""
        start, count = int(self.starts[system]), int(self.counts[system])
        return {name: tensor.narrow(0, start, count) for name, tensor in self.tensors.items()}

    def map(self, function: Callable[[str, torch.Tensor], torch.Tensor]) -> LevelStorage:
        """New storage with `function(name, tensor)` in place of every tensor; pointers are made anew on demand."""
        return LevelStorage(self.counts, {name: function(name, tensor) for name, tensor in self.tensors.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {"counts": self.counts, "tensors": self.tensors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["counts"], state["tensors"])  # type: ignore[misc]
