"""Hooks: code that an engine calls at a stage of its step."""

from athanor._doors import door
from athanor.hooks.context import DynamicsContext, HookContext, TrainContext
from athanor.hooks.neighbor_list import NeighborListHook
from athanor.hooks.periodic import WrapPeriodicHook
from athanor.hooks.protocol import CheckpointableHook, Hook
from athanor.hooks.registry import HookRegistryMixin
from athanor.hooks.stages import DynamicsStage, HookStageEnum
from athanor.hooks.timing import StageTimingHook

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

__getattr__, __dir__ = door(__name__)
