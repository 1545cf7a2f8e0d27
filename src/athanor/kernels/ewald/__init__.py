"""Ewald sums: the reciprocal part, and what net charge and open boundaries add."""

from __future__ import annotations

from athanor.kernels.ewald.op import charge_corrections, ewald_reciprocal

__all__ = ["charge_corrections", "ewald_reciprocal"]
