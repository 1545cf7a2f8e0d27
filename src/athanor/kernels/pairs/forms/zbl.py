r"""Ziegler, Biersack and Littmark's screened repulsion of nuclei, ended by a polynomial.

.. math:: E = \frac{k}{r} \sum_n c_n e^{-d_n r/a} + C + \begin{cases} 0 & r < r_1 \\
              \tfrac{A}{3}(r - r_1)^3 + \tfrac{B}{4}(r - r_1)^4 & r \ge r_1 \end{cases}

A, B and C make energy, force and its slope vanish at the cutoff.
"""

from __future__ import annotations

import math

import torch

_WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
_DECAYS = (3.1998, 0.94229, 0.4029, 0.20162)
C1, C2, C3, C4 = _WEIGHTS
D1, D2, D3, D4 = _DECAYS


def coefficients(product, length, inner, outer):
    """Return k (eV Å), 1/a (1/Å), r_1 (Å), A/3, B/4 and C."""
    value, slope, curvature = (_derivative(product, length, outer, order) for order in (0, 1, 2))
    width = outer - inner
    third = (width * curvature - 3.0 * slope) / (width * width)
    fourth = (2.0 * slope - width * curvature) / (width * width * width)
    constant = -value + 0.5 * width * slope - width * width * curvature / 12.0
    return product, 1.0 / length, inner, third / 3.0, fourth / 4.0, constant


def _derivative(product, length, r, order):
    """Return a derivative, of order 0 to 2, of the part without the polynomial."""
    terms = list(zip(_WEIGHTS, _DECAYS, strict=True))
    sums = [sum(c * (-d / length) ** n * (-d * r / length).exp() for c, d in terms) for n in range(order + 1)]
    falling = (1.0 / r, -1.0 / r**2, 2.0 / r**3)
    return product * sum(math.comb(order, n) * sums[n] * falling[order - n] for n in range(order + 1))


def energy(square, product, inverse_length, inner, third, fourth, constant):
    """Return the energy of pairs at distances of these squares."""
    r = square.sqrt()
    x = r * inverse_length
    screening = torch.zeros_like(x)
    for weight, decay in zip(_WEIGHTS, _DECAYS, strict=True):
        screening = screening + weight * (-decay * x).exp()
    t = (r - inner).clamp(min=0.0)
    return product * screening / r + t**3 * (third + fourth * t) + constant


def pair(square, product, inverse_length, inner, third, fourth, constant, *_):
    """Return the energy of a pair and (dE/dr) / r."""
    r = math.sqrt(square)
    x = r * inverse_length
    e1, e2, e3, e4 = C1 * math.exp(-D1 * x), C2 * math.exp(-D2 * x), C3 * math.exp(-D3 * x), C4 * math.exp(-D4 * x)
    screening = e1 + e2 + e3 + e4
    decline = (D1 * e1 + D2 * e2 + D3 * e3 + D4 * e4) * inverse_length
    t = max(r - inner, 0.0)
    value = product * screening / r + t * t * t * (third + fourth * t) + constant
    slope = -product * (screening / r + decline) / r + t * t * (3.0 * third + 4.0 * fourth * t)
    return value, slope / r
