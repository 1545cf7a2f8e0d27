"""Per-system sums and maxima."""

from __future__ import annotations

from athanor.kernels.segment.op import segment_max, segment_sum

__all__ = ["segment_max", "segment_sum"]
