"""Energy, forces and virial of pair potentials."""

from __future__ import annotations

from athanor.kernels.pairs.forms import FORMS, pair_table
from athanor.kernels.pairs.op import pair_potential

__all__ = ["FORMS", "pair_potential", "pair_table"]
