"""Hooks that only make sense with an engine: snapshots, scalars to a file, and the check for non-finite values."""

from __future__ import annotations

from athanor.dynamics.hooks.log_scalars import LoggingHook
from athanor.dynamics.hooks.nan_detector import NaNDetectorHook
from athanor.dynamics.hooks.snapshot import ConvergedSnapshotHook, SnapshotHook

__all__ = ["ConvergedSnapshotHook", "LoggingHook", "NaNDetectorHook", "SnapshotHook"]
