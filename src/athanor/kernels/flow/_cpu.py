"""Momentum flow and scaling with numba."""

from __future__ import annotations

from athanor.kernels._numba_options import jit


@jit
def flow_of(velocities, masses, first, last, glides, flow, center):
    """Write flow and centre of the atoms ``first .. last - 1``, and return twice their kinetic energy.

    Six sums in flight hide the add's latency.
    """
    ux = uy = uz = 0.0
    if glides:
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
    center[0], center[1], center[2] = ux, uy, uz
    flow[0, 0], flow[1, 1], flow[2, 2] = xx, yy, zz
    flow[0, 1] = flow[1, 0] = xy
    flow[0, 2] = flow[2, 0] = xz
    flow[1, 2] = flow[2, 1] = yz
    return xx + yy + zz


@jit
def flows(velocities, masses, glides, segment_ptr, flow, twice_kinetic, center, start, stop):
    """Write the sums of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        twice_kinetic[b] = flow_of(
            velocities, masses, segment_ptr[b], segment_ptr[b + 1], glides[b], flow[b], center[b]
        )


@jit
def scale_about(vectors, center, factor, first, last, moved):
    """Write the scaled vectors ``first .. last - 1``; `moved` may be `vectors`."""
    for i in range(first, last):
        for c in range(3):
            moved[i, c] = center[c] + factor * (vectors[i, c] - center[c])


@jit
def scale(vectors, factors, centers, segment_ptr, moved, start, stop):
    """Write the scaled vectors of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        scale_about(vectors, centers[b], factors[b], segment_ptr[b], segment_ptr[b + 1], moved)
