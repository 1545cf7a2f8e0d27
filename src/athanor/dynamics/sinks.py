"""Door: the sinks, which live in `athanor.sinks`."""

from __future__ import annotations

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.sinks import DataSink, GPUBuffer, HostMemory, ZarrData

__all__ = ["AtomicData", "Batch", "DataSink", "GPUBuffer", "HostMemory", "ZarrData"]
