"""HostMemory: snapshots in the memory of the host."""

from __future__ import annotations

from typing import Any

import torch

from athanor._values import check_whole
from athanor.data.batch import Batch
from athanor.io.frames import FrameSchema, concatenate, copy_frame
from athanor.sinks.base import DataSink


class HostMemory(DataSink):
    """Keep copies of whole batches on the CPU. A system is never split off before somebody asks for it.

    Parameters
    ----------
    capacity
        Largest number of systems.

    Examples
    --------
    >>> from athanor.sinks import HostMemory
    >>> sink = HostMemory(capacity=100)
    >>> len(sink), sink.is_full
    (0, False)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = check_whole(capacity, "capacity", 1)
        self._batches: list[Batch] = []
        self._schema = FrameSchema()
        self._count = 0

    @property
    def capacity(self) -> int | None:
        """Largest number of systems."""
        return self._capacity

    def __len__(self) -> int:
        return self._count

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Store copies of the systems of `batch`, see `DataSink.write`."""
        with self._mutex:
            chosen = self._chosen_systems(batch, mask, full="Buffer is full")
            if chosen is None:
                return
            self._schema.add(chosen)
            self._batches.append(copy_frame(chosen, torch.device("cpu")))
            self._count += chosen.num_graphs

    def read(self) -> Batch:
        """Return all stored systems as one new batch, see `DataSink.read`."""
        with self._mutex:
            if not self._batches:
                raise self._refuse_empty()
            return concatenate(self._batches)

    def state_dict(self) -> dict[str, Any]:
        """Return all frames, see `DataSink.state_dict`."""
        with self._mutex:
            frames = concatenate(self._batches).state_dict() if self._batches else None
            return {"frames": len(self), "batch": frames}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold the frames of `state`, and nothing else."""
        with self._mutex:
            self.zero()
            if state["batch"] is not None:
                self.write(Batch.from_state_dict(state["batch"]))

    def zero(self) -> None:
        """Forget everything."""
        with self._mutex:
            self._batches = []
            self._schema = FrameSchema()
            self._count = 0
