"""Motion of cells with numba."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.barostat._reference import TERMS
from athanor.kernels.cell._cpu import multiply

SMALL, FEW = 0.01, 6
"""Below this size of the largest row, so many terms are exact to double precision, too."""


@jit
def kicks(momentum, flow, stress, volume, pressure, dof, mass, dt, coupling):
    """Kick every rate in place."""
    pull = np.empty((3, 3))
    for b in range(momentum.shape[0]):
        trace = flow[b, 0, 0] + flow[b, 1, 1] + flow[b, 2, 2]
        heat = trace / dof[b] if dof[b] > 0.0 else trace
        for a in range(3):
            for c in range(3):
                inner = 0.5 * (stress[b, a, c] + stress[b, c, a])
                pull[a, c] = flow[b, a, c] - volume[b] * (inner + pressure[b, a, c]) + (heat if a == c else 0.0)
        mean = (pull[0, 0] + pull[1, 1] + pull[2, 2]) / 3.0
        step = dt[b] / math.sqrt(mass[b])
        for a in range(3):
            for c in range(3):
                if a == c:
                    momentum[b, a, c] += step * (mean if coupling == 0 else pull[a, c])
                elif coupling == 2:
                    momentum[b, a, c] += step * pull[a, c]


@jit
def exponential_and_mean(x, product, whole, mean):
    """Write the exponential of a matrix, and its mean over the unit of time, by Horner's rule."""
    size = 0.0
    for a in range(3):
        size = max(size, abs(x[a, 0]) + abs(x[a, 1]) + abs(x[a, 2]))
    terms = FEW if size < SMALL else TERMS
    for shift in range(2):
        out = whole if shift == 0 else mean
        for a in range(3):
            for c in range(3):
                out[a, c] = 1.0 if a == c else 0.0
        for order in range(terms, 0, -1):
            multiply(x, out, product)
            scale = 1.0 / (order + shift)
            for a in range(3):
                for c in range(3):
                    out[a, c] = (1.0 if a == c else 0.0) + product[a, c] * scale


@jit
def maps(momentum, mass, dof, dt, dt_kick, kick, kick_push, drift, drift_push, mean):
    """Write the maps of every system."""
    x, product = np.empty((3, 3)), np.empty((3, 3))
    for b in range(momentum.shape[0]):
        root = math.sqrt(mass[b])
        trace = (momentum[b, 0, 0] + momentum[b, 1, 1] + momentum[b, 2, 2]) / root
        share = trace / dof[b] if dof[b] > 0.0 else trace
        for a in range(3):
            for c in range(3):
                x[a, c] = -dt_kick[b] * (momentum[b, a, c] / root + (share if a == c else 0.0))
        exponential_and_mean(x, product, kick[b], kick_push[b])
        for a in range(3):
            for c in range(3):
                x[a, c] = dt[b] * momentum[b, a, c] / root
        exponential_and_mean(x, product, drift[b], drift_push[b])
        volume = 1.0
        for order in range(TERMS, 0, -1):
            volume = 1.0 + trace * dt[b] * volume / (order + 1)
        mean[b] = dt[b] * volume
