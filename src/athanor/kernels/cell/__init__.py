"""Cells of a batch: their shape, and straining them with what is in them."""

from __future__ import annotations

from athanor.kernels.cell.op import cell_shape, strained

__all__ = ["cell_shape", "strained"]
