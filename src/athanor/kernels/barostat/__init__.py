"""Cells that move by the equations of Martyna, Tobias and Klein."""

from __future__ import annotations

from athanor.kernels.barostat.op import barostat_drift, barostat_half_step

__all__ = ["barostat_drift", "barostat_half_step"]
