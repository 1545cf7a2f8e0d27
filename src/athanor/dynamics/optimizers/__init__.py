"""Optimizers: engines that move systems to a minimum of their energy."""

from athanor.dynamics.optimizers.fire import FIRE, FIREVariableCell

__all__ = ["FIRE", "FIREVariableCell"]
