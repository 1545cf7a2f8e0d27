"""Hooks that only make sense with an engine: what it is kept from, what is watched, and what is written down."""

from athanor._doors import door
from athanor.dynamics.checkpoint import SavedCheckpoint
from athanor.dynamics.hooks.align_cell import AlignCellHook
from athanor.dynamics.hooks.checkpoint import Checkpoint
from athanor.dynamics.hooks.energy_drift import EnergyDriftMonitorHook
from athanor.dynamics.hooks.force_clamp import MaxForceClampHook
from athanor.dynamics.hooks.freeze import FreezeAtomsHook
from athanor.dynamics.hooks.log_scalars import LoggingHook
from athanor.dynamics.hooks.nan_detector import NaNDetectorHook
from athanor.dynamics.hooks.snapshot import ConvergedSnapshotHook, SnapshotHook
from athanor.dynamics.hooks.stop_above import StopAboveHook
from athanor.hooks.timing import StageTimingHook

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

__getattr__, __dir__ = door(__name__)
