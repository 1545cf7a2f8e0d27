"""The two passes over all atoms that FIRE makes in a step."""

from __future__ import annotations

from athanor.kernels.fire.op import fire_moves, fire_sums

__all__ = ["fire_moves", "fire_sums"]
