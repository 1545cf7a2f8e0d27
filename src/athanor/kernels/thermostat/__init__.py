"""What thermostats do to the velocities of a batch."""

from __future__ import annotations

from athanor.kernels.thermostat._reference import Constant
from athanor.kernels.thermostat.op import nose_hoover_half_step, ornstein_uhlenbeck, rescaling_factor

__all__ = ["Constant", "nose_hoover_half_step", "ornstein_uhlenbeck", "rescaling_factor"]
