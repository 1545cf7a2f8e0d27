"""When a stored neighbour list must be built again."""

from __future__ import annotations

from athanor.kernels.neighbor_displacement.op import needs_rebuild

__all__ = ["needs_rebuild"]
