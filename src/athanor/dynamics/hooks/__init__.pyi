# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor.dynamics.checkpoint import SavedCheckpoint as SavedCheckpoint
from athanor.dynamics.hooks.align_cell import AlignCellHook as AlignCellHook
from athanor.dynamics.hooks.checkpoint import Checkpoint as Checkpoint
from athanor.dynamics.hooks.energy_drift import EnergyDriftMonitorHook as EnergyDriftMonitorHook
from athanor.dynamics.hooks.force_clamp import MaxForceClampHook as MaxForceClampHook
from athanor.dynamics.hooks.freeze import FreezeAtomsHook as FreezeAtomsHook
from athanor.dynamics.hooks.log_scalars import LoggingHook as LoggingHook
from athanor.dynamics.hooks.nan_detector import NaNDetectorHook as NaNDetectorHook
from athanor.dynamics.hooks.snapshot import ConvergedSnapshotHook as ConvergedSnapshotHook
from athanor.dynamics.hooks.snapshot import SnapshotHook as SnapshotHook
from athanor.dynamics.hooks.stop_above import StopAboveHook as StopAboveHook
from athanor.hooks.timing import StageTimingHook as StageTimingHook
from athanor.hooks.torch_profiler import TorchProfilerHook as TorchProfilerHook

__all__ = [
    "AlignCellHook",
    "Checkpoint",
    "ConvergedSnapshotHook",
    "EnergyDriftMonitorHook",
    "FreezeAtomsHook",
    "LoggingHook",
    "MaxForceClampHook",
    "NaNDetectorHook",
    "SavedCheckpoint",
    "SnapshotHook",
    "StageTimingHook",
    "StopAboveHook",
]
