r"""Lennard-Jones: :math:`4\epsilon[(\sigma/r)^{12} - (\sigma/r)^6]`."""

from __future__ import annotations


def coefficients(epsilon, sigma):
    """Return 4 epsilon (eV) and sigma squared (Å²)."""
    return 4.0 * epsilon, sigma * sigma


def energy(square, four_epsilon, sigma_squared):
    """Return the energy of pairs at distances of these squares."""
    ratio = sigma_squared / square
    sixth = ratio * ratio * ratio
    return four_epsilon * sixth * (sixth - 1.0)


def pair(square, four_epsilon, sigma_squared, *_):
    """Return the energy of a pair and (dE/dr) / r."""
    inverse = 1.0 / square
    ratio = sigma_squared * inverse
    sixth = ratio * ratio * ratio
    return four_epsilon * sixth * (sixth - 1.0), -6.0 * four_epsilon * sixth * (2.0 * sixth - 1.0) * inverse
