"""HostMemory: snapshots in the memory of the host."""

from __future__ import annotations

import torch

from athanor.data.batch import Batch
from athanor.sinks._batch_list import BatchListSink


class HostMemory(BatchListSink):
    """Keep copies of whole batches on the CPU.

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

    def _target_device(self, batch: Batch) -> torch.device:
        return torch.device("cpu")
