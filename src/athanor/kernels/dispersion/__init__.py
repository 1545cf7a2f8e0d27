"""Energy, forces and virial of the D3 dispersion correction."""

from __future__ import annotations

from athanor.kernels.dispersion.op import dftd3

__all__ = ["dftd3"]
