"""GPUBuffer: snapshots on the device of the run, so that a step does not wait for a copy to the host."""

from __future__ import annotations

import torch

from athanor._values import check_whole, usable_device
from athanor.data.batch import Batch
from athanor.errors import CapacityError
from athanor.sinks._batch_list import BatchListSink


class GPUBuffer(BatchListSink):
    """Keep copies of whole batches on one device.

    Works on every device; the name is that of the usual case. Memory is taken as frames come.

    Parameters
    ----------
    capacity
        Largest number of systems.
    max_atoms
        Largest number of atoms in one system; None for no bound.
    max_edges
        Accepted for compatibility: what is kept holds no pairs.
    device
        Where copies are kept; None takes the device of the first batch.

    Examples
    --------
    >>> from athanor.sinks import GPUBuffer
    >>> GPUBuffer(capacity=256).capacity
    256
    """

    def __init__(
        self,
        capacity: int,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(capacity)
        for name, value in (("max_atoms", max_atoms), ("max_edges", max_edges)):
            if value is not None:
                check_whole(value, name)
        self.max_atoms = max_atoms
        self.max_edges = max_edges
        self._device = None if device is None else usable_device(device)

    @property
    def device(self) -> torch.device | None:
        """Where copies are kept; None before the first write if none was named."""
        return self._device

    def _target_device(self, batch: Batch) -> torch.device:
        counts = batch.num_nodes_list
        most = max(counts)
        if self.max_atoms is not None and most > self.max_atoms:
            raise CapacityError(
                f"Atom capacity exceeded: the system at index {counts.index(most)} of the batch has {most}, more than "
                f"`max_atoms={self.max_atoms}`. Nothing was stored; raise `max_atoms` or leave it out."
            )
        if self._device is None:
            self._device = batch.device
        return self._device
