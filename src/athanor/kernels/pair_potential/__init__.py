"""Energy, forces and virial of pair potentials."""

from __future__ import annotations

from athanor.kernels.pair_potential.forms import FORMS, pair_table
from athanor.kernels.pair_potential.op import pair_potential

__all__ = ["FORMS", "pair_potential", "pair_table"]
