"""Where snapshots go: the host's memory, the device's memory, or a Zarr store."""

from __future__ import annotations

from athanor.sinks.base import DataSink
from athanor.sinks.gpu_buffer import GPUBuffer
from athanor.sinks.host_memory import HostMemory
from athanor.sinks.zarr_data import ZarrData

__all__ = ["DataSink", "GPUBuffer", "HostMemory", "ZarrData"]
