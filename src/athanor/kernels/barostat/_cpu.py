"""Motion of cells with numba."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.barostat._reference import FREEDOMS, TERMS
from athanor.kernels.cell._cpu import multiply
from athanor.kernels.flow._cpu import flow_of
from athanor.kernels.thermostat._cpu import DOF, DT, GLIDES, HEAT, TAU, chain_half_step
from athanor.kernels.thermostat._reference import Constant

TAU_P = int(Constant.BAROSTAT_TIME)
SMALL, FEW = 0.01, 6
"""Below this size of the largest row, so many terms are exact to double precision, too."""


@jit
def root_of_mass(constants):
    """Return the square root of the mass of each degree of freedom of a cell."""
    return math.sqrt((constants[DOF] + 3.0) / 3.0 * constants[HEAT]) * constants[TAU_P]


@jit
def volume_of(h):
    """Return the volume of a cell."""
    x = h[1, 1] * h[2, 2] - h[1, 2] * h[2, 1]
    y = h[1, 2] * h[2, 0] - h[1, 0] * h[2, 2]
    z = h[1, 0] * h[2, 1] - h[1, 1] * h[2, 0]
    return abs(h[0, 0] * x + h[0, 1] * y + h[0, 2] * z)


@jit
def exponential_and_mean(x, product, whole, mean):
    """Write the exponential of a matrix and its mean over the unit of time, a series by Horner's rule."""
    size = 0.0
    for a in range(3):
        size = max(size, abs(x[a, 0]) + abs(x[a, 1]) + abs(x[a, 2]))
    terms = FEW if size < SMALL else TERMS
    for a in range(3):
        for c in range(3):
            mean[a, c] = 1.0 if a == c else 0.0
    for order in range(terms, 0, -1):
        multiply(x, mean, product)
        scale = 1.0 / (order + 1)
        for a in range(3):
            for c in range(3):
                mean[a, c] = (1.0 if a == c else 0.0) + product[a, c] * scale
    multiply(x, mean, whole)
    for a in range(3):
        whole[a, a] += 1.0


@jit
def move(vectors, center, matrix, pushes, matrix_of_pushes, length, masses, per_mass, first, last):
    """Transform ``first .. last - 1`` about a centre and push them, in place; without a mass nothing is pushed."""
    m, p = matrix, matrix_of_pushes
    for i in range(first, last):
        x, y, z = vectors[i, 0] - center[0], vectors[i, 1] - center[1], vectors[i, 2] - center[2]
        k = 0.0
        if masses[i] > 0.0:
            k = length / masses[i] if per_mass else length
        elif per_mass:
            continue
        for c in range(3):
            vectors[i, c] = center[c] + (x * m[0, c] + y * m[1, c] + z * m[2, c])
        if k != 0.0:
            x, y, z = pushes[i, 0], pushes[i, 1], pushes[i, 2]
            for c in range(3):
                vectors[i, c] += k * (x * p[0, c] + y * p[1, c] + z * p[2, c])


@jit
def kick_cell(w, flow, square, stress, cell, pressure, c, coupling):
    """Kick the rate of a cell for half a step, in place."""
    heat = square / c[DOF] if c[DOF] > 0.0 else square
    volume = volume_of(cell)
    step = 0.5 * c[DT] / root_of_mass(c)
    mean = 0.0
    for a in range(3):
        mean += flow[a, a] - volume * (stress[a, a] + pressure[a, a]) + heat
    for a in range(3):
        for b in range(3):
            inner = 0.5 * (stress[a, b] + stress[b, a]) + pressure[a, b]
            if a == b:
                w[a, a] += step * (mean / 3.0 if coupling == 0 else flow[a, a] - volume * inner + heat)
            elif coupling == 2:
                w[a, b] += step * (flow[a, b] - volume * inner)


@jit
def kick_atoms(velocities, forces, masses, center, w, c, x, product, slowed, pushed, first, last):
    """Kick the velocities of a system for half a step in the flow of its cell, in place."""
    root = root_of_mass(c)
    trace = (w[0, 0] + w[1, 1] + w[2, 2]) / root
    share = trace / c[DOF] if c[DOF] > 0.0 else trace
    half = 0.5 * c[DT]
    for a in range(3):
        for b in range(3):
            x[a, b] = -half * (w[a, b] / root + (share if a == b else 0.0))
    exponential_and_mean(x, product, slowed, pushed)
    move(velocities, center, slowed, forces, pushed, half, masses, True, first, last)


@jit
def thermostat(velocities, masses, center, square, w, chain, cell_chain, c, freedoms, weights, first, last):
    """Advance both chains of a system for half a step, in place; return the factor of velocities, and the uptake."""
    factor, uptake = chain_half_step(chain, square, c[DOF], c[HEAT], c[TAU], c[DT], weights)
    of_cell = 0.0
    for a in range(3):
        for b in range(3):
            of_cell += w[a, b] * w[a, b]
    slow, more = chain_half_step(cell_chain, of_cell, freedoms, c[HEAT], c[TAU_P], c[DT], weights)
    for a in range(3):
        for b in range(3):
            w[a, b] *= slow
    if len(chain) > 0:
        for i in range(first, last):
            if masses[i] > 0.0:
                for a in range(3):
                    velocities[i, a] = center[a] + factor * (velocities[i, a] - center[a])
    return factor, uptake + more


@jit
def half_steps(
    velocities, forces, masses, momentum, chain, cell_chain, stress, cell, pressure, constants, segment_ptr, coupling,
    weights, backward, uptake, start, stop,
):  # fmt: skip
    """Advance systems ``start .. stop - 1`` by half a step, in place, and write what their baths took up."""
    flow, center = np.empty((3, 3)), np.empty(3)
    x, product, slowed, pushed = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    freedoms = float(FREEDOMS[coupling])
    for b in range(start, stop):
        first, last, w, c = segment_ptr[b], segment_ptr[b + 1], momentum[b], constants[b]
        glides = c[GLIDES] > 0.0
        square = flow_of(velocities, masses, first, last, glides, flow, center)
        if backward:
            kick_atoms(velocities, forces, masses, center, w, c, x, product, slowed, pushed, first, last)
            square = flow_of(velocities, masses, first, last, glides, flow, center)
            kick_cell(w, flow, square, stress[b], cell[b], pressure[b], c, coupling)
        factor, uptake[b] = thermostat(
            velocities, masses, center, square, w, chain[b], cell_chain[b], c, freedoms, weights, first, last
        )
        if not backward:
            for k in range(3):
                for m in range(3):
                    flow[k, m] *= factor * factor
            kick_cell(w, flow, factor * factor * square, stress[b], cell[b], pressure[b], c, coupling)
            kick_atoms(velocities, forces, masses, center, w, c, x, product, slowed, pushed, first, last)


@jit
def drifts(
    positions, velocities, masses, cell, momentum, pressure, constants, segment_ptr, fraction, moved, new_cell, work,
    start, stop,
):  # fmt: skip
    """Write positions, cells and work of systems ``start .. stop - 1``."""
    x, product, flow, push = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    origin = np.zeros(3)
    for b in range(start, stop):
        first, last, length = segment_ptr[b], segment_ptr[b + 1], fraction * constants[b, DT]
        root = root_of_mass(constants[b])
        pull = 0.0
        for a in range(3):
            for c in range(3):
                pull += pressure[b, a, c] * momentum[b, a, c] / root
                x[a, c] = length * (momentum[b, a, c] / root)
        exponential_and_mean(x, product, flow, push)
        multiply(cell[b], flow, new_cell[b])
        mean = 1.0
        strain = x[0, 0] + x[1, 1] + x[2, 2]
        for order in range(TERMS, 0, -1):
            mean = 1.0 + strain * mean / (order + 1)
        work[b] = pull * volume_of(cell[b]) * length * mean
        for i in range(first, last):
            for a in range(3):
                moved[i, a] = positions[i, a]
        move(moved, origin, flow, velocities, push, length, masses, False, first, last)
