"""Where snapshots go: the host's memory, the device's memory, or a Zarr store."""

from __future__ import annotations

from athanor.sinks.async_sink import AsyncSink
from athanor.sinks.base import DataSink
from athanor.sinks.gpu_buffer import GPUBuffer
from athanor.sinks.host_memory import HostMemory
from athanor.sinks.tee_sink import TeeSink
from athanor.sinks.zarr_data import ZarrData

__all__ = ["AsyncSink", "DataSink", "GPUBuffer", "HostMemory", "TeeSink", "ZarrData"]
