r"""Morse: :math:`D[e^{-2\alpha(r - r_0)} - 2e^{-\alpha(r - r_0)}]`."""

from __future__ import annotations

import math


def coefficients(depth, steepness, distance):
    """Return depth (eV), steepness (1/Å) and distance (Å) as they are."""
    return depth, steepness, distance


def energy(square, depth, steepness, distance):
    """Return the energy of pairs at distances of these squares."""
    decay = (-steepness * (square.sqrt() - distance)).exp()
    return depth * (decay - 2.0) * decay


def pair(square, depth, steepness, distance, *_):
    """Return the energy of a pair and (dE/dr) / r."""
    r = math.sqrt(square)
    decay = math.exp(-steepness * (r - distance))
    return depth * decay * (decay - 2.0), -2.0 * depth * steepness * decay * (decay - 1.0) / r
