"""Terms of an Ewald sum that depend on a few moments of the charges, with numba."""

from __future__ import annotations

import math

from athanor.kernels._numba_options import jit
from athanor.kernels.ewald._cpu import reciprocal_vectors


@jit
def corrections(
    positions, cell, segment_ptr, charges, included, open_axis, self_term, background, vectors, energy, forces, virial,
    potential, start, stop,
):  # fmt: skip
    """Write the corrections of systems ``start .. stop - 1``; `vectors` [B, 3, 3] is scratch."""
    for b in range(start, stop):
        begin, end = segment_ptr[b], segment_ptr[b + 1]
        energy[b] = 0.0
        virial[b] = 0.0
        for i in range(begin, end):
            potential[i] = 0.0
            forces[i] = 0.0
        if not included[b]:
            continue
        charge = squares = 0.0
        for i in range(begin, end):
            charge += charges[i]
            squares += charges[i] * charges[i]
        energy[b] = -self_term * squares
        for i in range(begin, end):
            potential[i] = -2.0 * self_term * charges[i]
        if background == 0.0 and open_axis[b] < 0:
            continue
        volume = reciprocal_vectors(cell[b], vectors[b])
        neutralizing = -background * charge * charge / volume
        energy[b] += neutralizing
        for c in range(3):
            virial[b, c, c] += neutralizing
        for i in range(begin, end):
            potential[i] -= 2.0 * background * charge / volume
        axis = open_axis[b]
        if not 0 <= axis < 3:
            continue
        nx, ny, nz = vectors[b, axis, 0], vectors[b, axis, 1], vectors[b, axis, 2]
        norm = math.sqrt(nx * nx + ny * ny + nz * nz)
        nx, ny, nz = nx / norm, ny / norm, nz / norm
        length = cell[b, axis, 0] * nx + cell[b, axis, 1] * ny + cell[b, axis, 2] * nz
        dipole = second = 0.0
        for i in range(begin, end):
            z = positions[i, 0] * nx + positions[i, 1] * ny + positions[i, 2] * nz
            dipole += charges[i] * z
            second += charges[i] * z * z
        factor = 2.0 * math.pi / volume
        slab = factor * (dipole * dipole - charge * second - charge * charge * length * length / 12.0)
        energy[b] += slab
        for c in range(3):
            virial[b, c, c] += slab
        normal = (nx, ny, nz)
        for c in range(3):
            for d in range(3):
                virial[b, c, d] -= 2.0 * slab * normal[c] * normal[d]
        for i in range(begin, end):
            z = positions[i, 0] * nx + positions[i, 1] * ny + positions[i, 2] * nz
            potential[i] += factor * (2.0 * z * dipole - second - charge * z * z - charge * length * length / 6.0)
            push = -2.0 * factor * charges[i] * (dipole - charge * z)
            forces[i, 0] += push * nx
            forces[i, 1] += push * ny
            forces[i, 2] += push * nz
