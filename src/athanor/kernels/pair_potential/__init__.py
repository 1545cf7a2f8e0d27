"""Energy, forces and virial of pair potentials."""

from __future__ import annotations

from athanor.kernels.pair_potential.op import lennard_jones

__all__ = ["lennard_jones"]
