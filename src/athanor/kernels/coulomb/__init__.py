"""Coulomb sums over pairs: screened within a cutoff, and bare over all pairs of a finite system."""

from __future__ import annotations

from athanor.kernels.coulomb.op import finite_coulomb, screened_coulomb

__all__ = ["finite_coulomb", "screened_coulomb"]
