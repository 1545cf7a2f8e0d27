"""Integrators of the equations of motion, one ensemble and method each."""

from athanor.dynamics.integrators.brownian import Brownian
from athanor.dynamics.integrators.nph import NPH
from athanor.dynamics.integrators.npt import NPT
from athanor.dynamics.integrators.npt_crescale import NPTCRescale
from athanor.dynamics.integrators.npt_langevin import NPTLangevin
from athanor.dynamics.integrators.nve import NVE
from athanor.dynamics.integrators.nvt_andersen import NVTAndersen
from athanor.dynamics.integrators.nvt_csvr import NVTCSVR
from athanor.dynamics.integrators.nvt_langevin import NVTLangevin
from athanor.dynamics.integrators.nvt_nose_hoover import NVTNoseHoover

__all__ = [
    "NPH",
    "NPT",
    "NVE",
    "NVTCSVR",
    "Brownian",
    "NPTCRescale",
    "NPTLangevin",
    "NVTAndersen",
    "NVTLangevin",
    "NVTNoseHoover",
]
