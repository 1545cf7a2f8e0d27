"""Heat and flow of the systems of a batch: the sums that ensembles read, and scaling velocities."""

from __future__ import annotations

from athanor.kernels.flow.op import momentum_flow, scaled

__all__ = ["momentum_flow", "scaled"]
