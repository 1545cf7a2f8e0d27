"""Thermostats with numba."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.flow._cpu import flow_of, scale_about
from athanor.kernels.thermostat._reference import Constant

DOF, GLIDES, DT, HEAT, TAU = (
    int(column) for column in (Constant.DOF, Constant.GLIDES, Constant.DT, Constant.HEAT, Constant.THERMOSTAT_TIME)
)


@jit
def kick(w, k, square, n, kT, root_first, root, step):
    """Kick link `k` of a chain, between two halves of the drag of the next one."""
    pull = square - n * kT if k == 0 else w[k - 1] * w[k - 1] - kT
    push = 0.25 * step * pull / (root_first if k == 0 else root)
    if k + 1 < len(w):
        drag = math.exp(-0.125 * step * w[k + 1] / root)
        w[k] = (w[k] * drag + push) * drag
    else:
        w[k] += push


@jit
def chain_half_step(w, square, n, kT, time_constant, dt, weights):
    """Advance a chain in place; return the factor of the velocities, and what the bath took up."""
    factor = 1.0
    uptake = 0.0
    if n > 0.0 and len(w) > 0:
        root = math.sqrt(kT) * time_constant
        root_first = root * math.sqrt(n)
        for weight in weights:
            step = weight * dt
            for k in range(len(w) - 1, -1, -1):
                kick(w, k, square, n, kT, root_first, root, step)
            scale = math.exp(-0.5 * step * w[0] / root_first)
            factor *= scale
            square *= scale * scale
            uptake += 0.5 * step * n * kT * w[0] / root_first
            for k in range(1, len(w)):
                uptake += 0.5 * step * kT * w[k] / root
            for k in range(len(w)):
                kick(w, k, square, n, kT, root_first, root, step)
    return factor, uptake


@jit
def half_steps(velocities, masses, speeds, constants, segment_ptr, weights, moved, uptake, start, stop):
    """Advance the chains of systems ``start .. stop - 1`` in place; write velocities and what baths took up."""
    flow, center = np.empty((3, 3)), np.empty(3)
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        c = constants[b]
        square = flow_of(velocities, masses, first, last, c[GLIDES] > 0.0, flow, center)
        factor, uptake[b] = chain_half_step(speeds[b], square, c[DOF], c[HEAT], c[TAU], c[DT], weights)
        scale_about(velocities, center, factor, first, last, moved)


@jit
def factors(noise, twice_kinetic, dof, heat, decay, segment_ptr, factor, start, stop):
    """Write the rescaling factors of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        factor[b] = 1.0
        if not (twice_kinetic[b] > 0.0 and dof[b] > 0.0):
            continue
        first, left = segment_ptr[b], int(dof[b])
        x = y = z = 0.0
        for i in range(first, segment_ptr[b + 1]):
            if left > 0:
                x += noise[i, 0] * noise[i, 0]
            if left > 1:
                y += noise[i, 1] * noise[i, 1]
            if left > 2:
                z += noise[i, 2] * noise[i, 2]
            left -= 3
        c = decay[b]
        share = heat[b] / twice_kinetic[b] * (1.0 - c)
        square = c + share * (x + y + z) + 2.0 * noise[first, 0] * math.sqrt(c * share)
        alpha = math.sqrt(max(square, 0.0))
        factor[b] = -alpha if noise[first, 0] * math.sqrt(share) + math.sqrt(c) < 0.0 else alpha


@jit
def ornstein_uhlenbeck(velocities, noise, decay, width, masses, segment_ptr, moved, heat, start, stop):
    """Write the new velocities and the heat of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        c = decay[b]
        x = y = z = 0.0
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            m, w = masses[i], width[i]
            if m > 0.0:
                vx, vy, vz = velocities[i, 0], velocities[i, 1], velocities[i, 2]
                nx, ny, nz = c * vx + w * noise[i, 0], c * vy + w * noise[i, 1], c * vz + w * noise[i, 2]
                x += m * (nx * nx - vx * vx)
                y += m * (ny * ny - vy * vy)
                z += m * (nz * nz - vz * vz)
                moved[i, 0], moved[i, 1], moved[i, 2] = nx, ny, nz
            else:
                for k in range(3):
                    moved[i, k] = velocities[i, k]
        heat[b] = 0.5 * (x + y + z)
