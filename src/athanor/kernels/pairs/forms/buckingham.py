r"""Buckingham: :math:`A e^{-r/\rho} - C / r^6`."""

from __future__ import annotations

import math


def coefficients(repulsion, length, dispersion):
    """Return the repulsion (eV), its inverse length (1/Å) and the dispersion (eV Å⁶)."""
    return repulsion, 1.0 / length, dispersion


def energy(square, repulsion, inverse_length, dispersion):
    """Return the energy of pairs at distances of these squares."""
    return repulsion * (-square.sqrt() * inverse_length).exp() - dispersion / square**3


def pair(square, repulsion, inverse_length, dispersion, *_):
    """Return the energy of a pair and (dE/dr) / r."""
    r = math.sqrt(square)
    inverse = 1.0 / square
    wall = repulsion * math.exp(-r * inverse_length)
    attraction = dispersion * inverse * inverse * inverse
    return wall - attraction, 6.0 * attraction * inverse - wall * inverse_length / r
