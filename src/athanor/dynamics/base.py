"""Door: the engine's public names at the address where scripts import them from."""

from athanor.dynamics.convergence import ConvergenceHook
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.fused import FusedStage
from athanor.hooks.protocol import Hook
from athanor.hooks.stages import DynamicsStage

__all__ = ["BaseDynamics", "ConvergenceHook", "DynamicsStage", "FusedStage", "Hook"]
