"""Integrators, optimizers, fused stages, convergence and the hooks that watch them."""

from athanor._doors import door
from athanor.dynamics import hooks, integrators, optimizers
from athanor.dynamics.convergence import ConvergenceHook
from athanor.dynamics.demo import DemoDynamics
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.failures import FailureCode, describe_failure, explain_failure
from athanor.dynamics.fused import FusedStage
from athanor.dynamics.integrators import (
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    Brownian,
    NPTCRescale,
    NPTLangevin,
    NVTAndersen,
    NVTLangevin,
    NVTNoseHoover,
)
from athanor.dynamics.optimizers import FIRE, FIREVariableCell
from athanor.dynamics.schedules import Schedule, anneal, ramp, steps
from athanor.dynamics.velocities import initialize_velocities
from athanor.hooks.protocol import Hook
from athanor.hooks.stages import DynamicsStage

__all__ = [
    "FIRE",
    "NPH",
    "NPT",
    "NVE",
    "NVTCSVR",
    "BaseDynamics",
    "Brownian",
    "ConvergenceHook",
    "DemoDynamics",
    "DynamicsStage",
    "FIREVariableCell",
    "FailureCode",
    "FusedStage",
    "Hook",
    "NPTCRescale",
    "NPTLangevin",
    "NVTAndersen",
    "NVTLangevin",
    "NVTNoseHoover",
    "Schedule",
    "anneal",
    "describe_failure",
    "explain_failure",
    "hooks",
    "initialize_velocities",
    "integrators",
    "optimizers",
    "ramp",
    "steps",
]

__getattr__, __dir__ = door(__name__)
