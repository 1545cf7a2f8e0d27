"""What the sinks in memory share: copies of whole batches, joined when they are read."""

from __future__ import annotations

from abc import abstractmethod

import torch

from athanor._values import check_whole
from athanor.data.batch import Batch
from athanor.io.frames import FrameSchema, concatenate, copy_frame
from athanor.sinks.base import DataSink


class BatchListSink(DataSink):
    """A list of batches on one device. A system is never split off before somebody asks for it.

    Parameters
    ----------
    capacity
        Largest number of systems.
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

    @abstractmethod
    def _target_device(self, batch: Batch) -> torch.device:
        """Device that copies of `batch` go to; raises if the batch can not be taken."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Store copies of the systems of `batch`, see `DataSink.write`."""
        with self._mutex:
            chosen = self._chosen_systems(batch, mask, full="Buffer is full")
            if chosen is None:
                return
            device = self._target_device(chosen)
            self._schema.add(chosen)
            copy = copy_frame(chosen, device)
            self._batches.append(copy)
            self._count += copy.num_graphs

    def read(self) -> Batch:
        """Return all stored systems as one new batch, see `DataSink.read`."""
        with self._mutex:
            if not self._batches:
                raise self._refuse_empty()
            return concatenate(self._batches)

    def zero(self) -> None:
        """Forget everything."""
        with self._mutex:
            self._batches = []
            self._schema = FrameSchema()
            self._count = 0
