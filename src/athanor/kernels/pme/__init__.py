"""Smooth particle-mesh Ewald: the reciprocal part of Ewald sums on a mesh."""

from __future__ import annotations

from athanor.kernels.pme.op import pme_reciprocal

__all__ = ["pme_reciprocal"]
