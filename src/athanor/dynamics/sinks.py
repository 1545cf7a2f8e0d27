"""Door: the sinks, which live in `athanor.sinks`."""

from __future__ import annotations

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.sinks import AsyncSink, DataSink, GPUBuffer, HostMemory, TeeSink, ZarrData

__all__ = ["AsyncSink", "AtomicData", "Batch", "DataSink", "GPUBuffer", "HostMemory", "TeeSink", "ZarrData"]
