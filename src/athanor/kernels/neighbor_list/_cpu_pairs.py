"""What sums over a packed list need: vectors between atoms, and the totals of systems from those of atoms."""

from __future__ import annotations

from athanor.kernels._numba_options import inlined, jit
from athanor.kernels.neighbor_list._cpu_shift import unpack_shift


@jit
def wrapped_positions(positions, cell, segment_ptr, wrap_offsets, x, start, stop):
    """Write r - w h of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            w0, w1, w2 = wrap_offsets[i, 0], wrap_offsets[i, 1], wrap_offsets[i, 2]
            for c in range(3):
                x[i, c] = positions[i, c]
                if w0 != 0 or w1 != 0 or w2 != 0:
                    x[i, c] -= w0 * cell[b, 0, c] + w1 * cell[b, 1, c] + w2 * cell[b, 2, c]


@jit
def vectors(i, first, x, cell, row_ptr, neighbors, images, dx, dy, dz):
    """Write the vectors from atom i to its neighbours, in row order; return how many there are."""
    start = row_ptr[i]
    count = row_ptr[i + 1] - start
    xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
    for m in range(count):
        j = first + neighbors[start + m]
        vx, vy, vz = x[j, 0] - xi, x[j, 1] - yi, x[j, 2] - zi
        code = images[start + m]
        if code != 0:
            s0, s1, s2 = unpack_shift(code)
            vx += s0 * cell[0, 0] + s1 * cell[1, 0] + s2 * cell[2, 0]
            vy += s0 * cell[0, 1] + s1 * cell[1, 1] + s2 * cell[2, 1]
            vz += s0 * cell[0, 2] + s1 * cell[1, 2] + s2 * cell[2, 2]
        dx[m] = vx
        dy[m] = vy
        dz[m] = vz
    return count


@inlined
def add_row(i, first, count, dx, dy, dz, energies, slopes, row_ptr, neighbors, half, forces, sums):
    """Add up the row of atom i: its force, and its energy and virial in `sums`; a half list also pushes its neighbours.

    `slopes` are (dE/dr) / r of each pair.
    """
    fx = fy = fz = energy = xx = xy = xz = yy = yz = zz = 0.0
    for m in range(count):
        slope = slopes[m]
        gx, gy, gz = slope * dx[m], slope * dy[m], slope * dz[m]
        fx += gx
        fy += gy
        fz += gz
        energy += energies[m]
        xx += gx * dx[m]
        xy += gx * dy[m]
        xz += gx * dz[m]
        yy += gy * dy[m]
        yz += gy * dz[m]
        zz += gz * dz[m]
    if half:
        for m in range(count):
            j = first + neighbors[row_ptr[i] + m]
            forces[j, 0] -= slopes[m] * dx[m]
            forces[j, 1] -= slopes[m] * dy[m]
            forces[j, 2] -= slopes[m] * dz[m]
        forces[i, 0] += fx
        forces[i, 1] += fy
        forces[i, 2] += fz
    else:
        forces[i, 0] = fx
        forces[i, 1] = fy
        forces[i, 2] = fz
    sums[i, 0] = energy
    sums[i, 1] = xx
    sums[i, 2] = xy
    sums[i, 3] = xz
    sums[i, 4] = yy
    sums[i, 5] = yz
    sums[i, 6] = zz


@jit
def totals(sums, segment_ptr, weight, energy, virial, start, stop):
    """Add the atoms of systems ``start .. stop - 1`` in order; the virial is minus the sum of d (dE/dr / r) d."""
    for b in range(start, stop):
        e = xx = xy = xz = yy = yz = zz = 0.0
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            e += sums[i, 0]
            xx += sums[i, 1]
            xy += sums[i, 2]
            xz += sums[i, 3]
            yy += sums[i, 4]
            yz += sums[i, 5]
            zz += sums[i, 6]
        energy[b] = weight * e
        virial[b, 0, 0] = -weight * xx
        virial[b, 0, 1] = virial[b, 1, 0] = -weight * xy
        virial[b, 0, 2] = virial[b, 2, 0] = -weight * xz
        virial[b, 1, 1] = -weight * yy
        virial[b, 1, 2] = virial[b, 2, 1] = -weight * yz
        virial[b, 2, 2] = -weight * zz
