"""Energy, forces and virial of the Stillinger-Weber potential."""

from __future__ import annotations

from athanor.kernels.three_body.op import stillinger_weber

__all__ = ["stillinger_weber"]
