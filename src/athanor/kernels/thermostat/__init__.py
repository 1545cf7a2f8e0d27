"""What thermostats do to the velocities of a batch."""

from __future__ import annotations

from athanor.kernels.thermostat.op import nose_hoover_chain, ornstein_uhlenbeck, rescaling_factor

__all__ = ["nose_hoover_chain", "ornstein_uhlenbeck", "rescaling_factor"]
