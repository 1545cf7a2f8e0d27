"""Cells that move by the equations of Martyna, Tobias and Klein."""

from __future__ import annotations

from athanor.kernels.barostat.op import barostat_kick, barostat_maps

__all__ = ["barostat_kick", "barostat_maps"]
