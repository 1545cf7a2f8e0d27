# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor.dynamics import hooks as hooks
from athanor.dynamics import integrators as integrators
from athanor.dynamics import optimizers as optimizers
from athanor.dynamics.auto_batcher import AutoBatcher as AutoBatcher
from athanor.dynamics.convergence import ConvergenceHook as ConvergenceHook
from athanor.dynamics.demo import DemoDynamics as DemoDynamics
from athanor.dynamics.engine import BaseDynamics as BaseDynamics
from athanor.dynamics.failures import FailureCode as FailureCode
from athanor.dynamics.failures import describe_failure as describe_failure
from athanor.dynamics.failures import explain_failure as explain_failure
from athanor.dynamics.fused import FusedStage as FusedStage
from athanor.dynamics.integrators import NPH as NPH
from athanor.dynamics.integrators import NPT as NPT
from athanor.dynamics.integrators import NVE as NVE
from athanor.dynamics.integrators import NVTCSVR as NVTCSVR
from athanor.dynamics.integrators import Brownian as Brownian
from athanor.dynamics.integrators import NPTCRescale as NPTCRescale
from athanor.dynamics.integrators import NPTLangevin as NPTLangevin
from athanor.dynamics.integrators import NVTAndersen as NVTAndersen
from athanor.dynamics.integrators import NVTLangevin as NVTLangevin
from athanor.dynamics.integrators import NVTNoseHoover as NVTNoseHoover
from athanor.dynamics.optimizers import FIRE as FIRE
from athanor.dynamics.optimizers import FIREVariableCell as FIREVariableCell
from athanor.dynamics.sampler import SizeAwareSampler as SizeAwareSampler
from athanor.dynamics.schedules import Schedule as Schedule
from athanor.dynamics.schedules import anneal as anneal
from athanor.dynamics.schedules import ramp as ramp
from athanor.dynamics.schedules import steps as steps
from athanor.dynamics.velocities import initialize_velocities as initialize_velocities
from athanor.hooks.protocol import Hook as Hook
from athanor.hooks.stages import DynamicsStage as DynamicsStage
from athanor.sinks import AsyncSink as AsyncSink
from athanor.sinks import DataSink as DataSink
from athanor.sinks import GPUBuffer as GPUBuffer
from athanor.sinks import HostMemory as HostMemory
from athanor.sinks import TeeSink as TeeSink
from athanor.sinks import ZarrData as ZarrData

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
