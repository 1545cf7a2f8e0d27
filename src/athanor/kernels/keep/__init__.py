"""Looking at and keeping many tensors in one call: are all numbers finite, and a copy of what they hold."""

from __future__ import annotations

from athanor.kernels.keep.op import KeptTensors

__all__ = ["KeptTensors"]
