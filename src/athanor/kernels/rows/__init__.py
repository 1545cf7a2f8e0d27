"""Moving the rows of systems from one or two batches into a new arrangement."""

from __future__ import annotations

from athanor.kernels.rows.op import arrange_rows

__all__ = ["arrange_rows"]
