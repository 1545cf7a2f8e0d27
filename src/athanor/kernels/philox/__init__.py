"""Random numbers that are a function of their counter, not of a generator's state."""

from __future__ import annotations

from athanor.kernels.philox.op import philox_normal, philox_uniform
from athanor.kernels.philox.purposes import Purpose

__all__ = ["Purpose", "philox_normal", "philox_uniform"]
