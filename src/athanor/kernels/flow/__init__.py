"""Heat and flow of the systems of a batch: the sums that ensembles read, and moves that are linear in each system."""

from __future__ import annotations

from athanor.kernels.flow.op import momentum_flow, moved_by_flow, scaled

__all__ = ["momentum_flow", "moved_by_flow", "scaled"]
