"""Energy, forces and virial of the Stillinger-Weber potential."""

from __future__ import annotations

from athanor.kernels.stillinger_weber.op import stillinger_weber

__all__ = ["stillinger_weber"]
