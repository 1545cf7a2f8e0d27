"""Hooks: code that an engine calls at a stage of its step."""

from athanor.hooks.context import DynamicsContext, HookContext
from athanor.hooks.neighbor_list import NeighborListHook
from athanor.hooks.periodic import WrapPeriodicHook
from athanor.hooks.protocol import CheckpointableHook, Hook
from athanor.hooks.registry import HookRegistryMixin
from athanor.hooks.stages import DynamicsStage, HookStageEnum

__all__ = [
    "CheckpointableHook",
    "DynamicsContext",
    "DynamicsStage",
    "Hook",
    "HookContext",
    "HookRegistryMixin",
    "HookStageEnum",
    "NeighborListHook",
    "WrapPeriodicHook",
]
