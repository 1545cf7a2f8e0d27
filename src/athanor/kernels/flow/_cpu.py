"""Momentum flow and linear moves with numba."""

from __future__ import annotations

from athanor.kernels._numba_options import jit


@jit
def flows(velocities, masses, glides, segment_ptr, flow, twice_kinetic, center, start, stop):
    """Write the sums of systems ``start .. stop - 1``; six sums in flight hide the add's latency."""
    for b in range(start, stop):
        first, last = segment_ptr[b], segment_ptr[b + 1]
        ux = uy = uz = 0.0
        if glides[b]:
            total = 0.0
            for i in range(first, last):
                m = masses[i]
                if m > 0.0:
                    total += m
                    ux += m * velocities[i, 0]
                    uy += m * velocities[i, 1]
                    uz += m * velocities[i, 2]
            if total > 0.0:
                ux /= total
                uy /= total
                uz /= total
        xx = yy = zz = xy = xz = yz = 0.0
        for i in range(first, last):
            m = masses[i]
            if m > 0.0:
                x, y, z = velocities[i, 0] - ux, velocities[i, 1] - uy, velocities[i, 2] - uz
                xx += m * x * x
                yy += m * y * y
                zz += m * z * z
                xy += m * x * y
                xz += m * x * z
                yz += m * y * z
        twice_kinetic[b] = xx + yy + zz
        center[b, 0], center[b, 1], center[b, 2] = ux, uy, uz
        flow[b, 0, 0], flow[b, 1, 1], flow[b, 2, 2] = xx, yy, zz
        flow[b, 0, 1] = flow[b, 1, 0] = xy
        flow[b, 0, 2] = flow[b, 2, 0] = xz
        flow[b, 1, 2] = flow[b, 2, 1] = yz


@jit
def move(vectors, matrices, pushes, push_matrices, coefficients, centers, segment_ptr, moved, start, stop):
    """Write the moved vectors of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        m, p = matrices[b], push_matrices[b]
        cx, cy, cz = centers[b, 0], centers[b, 1], centers[b, 2]
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            x, y, z = vectors[i, 0] - cx, vectors[i, 1] - cy, vectors[i, 2] - cz
            k = coefficients[i]
            for c in range(3):
                moved[i, c] = centers[b, c] + (x * m[0, c] + y * m[1, c] + z * m[2, c])
            if k != 0.0:
                x, y, z = pushes[i, 0], pushes[i, 1], pushes[i, 2]
                for c in range(3):
                    moved[i, c] += k * (x * p[0, c] + y * p[1, c] + z * p[2, c])


@jit
def scale(vectors, factors, centers, segment_ptr, moved, start, stop):
    """Write the scaled vectors of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        factor = factors[b]
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            for c in range(3):
                moved[i, c] = centers[b, c] + factor * (vectors[i, c] - centers[b, c])
