"""What random numbers are drawn for. Each purpose has a number of its own, so two uses never share noise."""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Purpose(IntEnum):
    """The registry of purposes: 8 bits of the counter. A number, once used, keeps its meaning for ever."""

    INITIAL_VELOCITIES = 1
    LANGEVIN = 2
    VELOCITY_RESCALING = 3
    COLLISIONS = 4
    BAROSTAT = 5
    BROWNIAN = 6
