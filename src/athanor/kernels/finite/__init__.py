"""Whether all numbers of a tensor are finite."""

from __future__ import annotations

from athanor.kernels.finite.op import all_below

__all__ = ["all_below"]
