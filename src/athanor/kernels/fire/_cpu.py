"""FIRE's passes over the atoms with numba."""

from __future__ import annotations

import math

from athanor.kernels._numba_options import jit


@jit
def sums(velocities, forces, segment_ptr, out, start, stop):
    """Write F·v, v·v and F·F of systems ``start .. stop - 1``; nine sums in flight hide the add's latency."""
    for b in range(start, stop):
        px = py = pz = vx = vy = vz = fx = fy = fz = 0.0
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            v0, v1, v2 = velocities[i, 0], velocities[i, 1], velocities[i, 2]
            f0, f1, f2 = forces[i, 0], forces[i, 1], forces[i, 2]
            px += f0 * v0
            py += f1 * v1
            pz += f2 * v2
            vx += v0 * v0
            vy += v1 * v1
            vz += v2 * v2
            fx += f0 * f0
            fy += f1 * f1
            fz += f2 * f2
        out[b, 0] = (px + py) + pz
        out[b, 1] = (vx + vy) + vz
        out[b, 2] = (fx + fy) + fz


@jit
def moves(
    velocities, forces, inverse_masses, segment_ptr, downhill, keep, steer, dt, maxstep, new_velocities, displacements,
    start, stop,
):  # fmt: skip
    """Write new velocities and displacements of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        step, longest = dt[b], maxstep[b]
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            push = step * inverse_masses[i]
            square = 0.0
            for c in range(3):
                mixed = keep[b] * velocities[i, c] + steer[b] * forces[i, c] if downhill[b] else 0.0
                new_velocities[i, c] = mixed + push * forces[i, c]
                displacements[i, c] = step * new_velocities[i, c]
                square += displacements[i, c] * displacements[i, c]
            length = math.sqrt(square)
            if length > longest:
                for c in range(3):
                    displacements[i, c] = displacements[i, c] * (longest / length)
