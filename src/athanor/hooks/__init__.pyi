# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor.dynamics.hooks.bias import BiasedPotentialHook as BiasedPotentialHook
from athanor.hooks.context import DynamicsContext as DynamicsContext
from athanor.hooks.context import HookContext as HookContext
from athanor.hooks.context import TrainContext as TrainContext
from athanor.hooks.neighbor_list import NeighborListHook as NeighborListHook
from athanor.hooks.periodic import WrapPeriodicHook as WrapPeriodicHook
from athanor.hooks.protocol import CheckpointableHook as CheckpointableHook
from athanor.hooks.protocol import Hook as Hook
from athanor.hooks.registry import HookRegistryMixin as HookRegistryMixin
from athanor.hooks.reporting import BaseRichLayout as BaseRichLayout
from athanor.hooks.reporting import CSVReporter as CSVReporter
from athanor.hooks.reporting import DynamicsRichLayout as DynamicsRichLayout
from athanor.hooks.reporting import Reporter as Reporter
from athanor.hooks.reporting import ReporterMessage as ReporterMessage
from athanor.hooks.reporting import ReportingErrorPolicy as ReportingErrorPolicy
from athanor.hooks.reporting import ReportingOrchestrator as ReportingOrchestrator
from athanor.hooks.reporting import ReportingState as ReportingState
from athanor.hooks.reporting import RichLayout as RichLayout
from athanor.hooks.reporting import RichReporter as RichReporter
from athanor.hooks.reporting import ScalarCallback as ScalarCallback
from athanor.hooks.reporting import ScalarSnapshot as ScalarSnapshot
from athanor.hooks.reporting import TensorBoardReporter as TensorBoardReporter
from athanor.hooks.reporting import TensorBoardWriter as TensorBoardWriter
from athanor.hooks.reporting import TrainingRichLayout as TrainingRichLayout
from athanor.hooks.reporting import collect_scalars as collect_scalars
from athanor.hooks.reporting import extract_dynamics_scalars as extract_dynamics_scalars
from athanor.hooks.reporting import extract_loss_scalars as extract_loss_scalars
from athanor.hooks.reporting import extract_optimizer_lr_scalars as extract_optimizer_lr_scalars
from athanor.hooks.reporting import extract_scalars as extract_scalars
from athanor.hooks.stages import DynamicsStage as DynamicsStage
from athanor.hooks.stages import HookStageEnum as HookStageEnum
from athanor.hooks.timing import StageTimingHook as StageTimingHook
from athanor.hooks.torch_profiler import TorchProfilerHook as TorchProfilerHook

__all__ = [
    "CheckpointableHook",
    "DynamicsContext",
    "DynamicsStage",
    "Hook",
    "HookContext",
    "HookRegistryMixin",
    "HookStageEnum",
    "NeighborListHook",
    "StageTimingHook",
    "TrainContext",
    "WrapPeriodicHook",
]
