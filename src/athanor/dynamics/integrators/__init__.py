"""Integrators of the equations of motion, one ensemble and method each."""

from athanor.dynamics.integrators.nve import NVE
from athanor.dynamics.integrators.nvt_langevin import NVTLangevin

__all__ = ["NVE", "NVTLangevin"]
