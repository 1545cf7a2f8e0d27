"""What sums over a packed list need: vectors between atoms, the sum of a row, and what those of a system add up to.

A row is gone through eight pairs at a time, in lanes.
"""

from __future__ import annotations

from athanor.kernels._lanes import (
    add_product,
    add_up,
    any_set,
    lane_of,
    load_indices,
    load_rows,
    spread,
    unpack_shifts,
)
from athanor.kernels._numba_options import inlined, jit
from athanor.kernels.neighbor_list._cpu_shift import unpack_shift


@jit
def wrapped_positions(positions, cell, segment_ptr, wrap_offsets, x, start, stop):
    """Write r - w h of systems ``start .. stop - 1``: three numbers and one left out, as `load_rows` reads them."""
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
def lane_vectors(i, b, first, m, count, x, cell, neighbors, images):
    """Return the vectors from atom i of system b to the neighbours at ``m .. m + 7`` of the list, and which these are.

    They are in lanes; from `count` on these hold nothing of use.
    """
    j = load_indices(neighbors, m, count)
    x0, x1, x2, _ = load_rows(x, first, j)
    dx, dy, dz = x0 - x[i, 0], x1 - x[i, 1], x2 - x[i, 2]
    codes = load_indices(images, m, count)
    if any_set(codes):
        s0, s1, s2 = unpack_shifts(codes, images)
        dx = dx + (s0 * cell[b, 0, 0] + s1 * cell[b, 1, 0] + s2 * cell[b, 2, 0])
        dy = dy + (s0 * cell[b, 0, 1] + s1 * cell[b, 1, 1] + s2 * cell[b, 2, 1])
        dz = dz + (s0 * cell[b, 0, 2] + s1 * cell[b, 1, 2] + s2 * cell[b, 2, 2])
    return dx, dy, dz, j


@inlined
def no_terms():
    """Return the sum of no pairs: energy, force and virial (xx, xy, xz, yy, yz, zz), each in lanes."""
    zero = spread(0.0)
    return zero, zero, zero, zero, zero, zero, zero, zero, zero, zero


@inlined
def add_terms(total, energy, slope, dx, dy, dz, with_virial):
    """Return `total` with eight more pairs; `slope` is their (dE/dr) / r."""
    sum_energy, fx, fy, fz, xx, xy, xz, yy, yz, zz = total
    if with_virial:
        gx, gy, gz = slope * dx, slope * dy, slope * dz
        xx, xy, xz = add_product(xx, gx, dx), add_product(xy, gx, dy), add_product(xz, gx, dz)
        yy, yz, zz = add_product(yy, gy, dy), add_product(yz, gy, dz), add_product(zz, gz, dz)
    fx, fy, fz = add_product(fx, slope, dx), add_product(fy, slope, dy), add_product(fz, slope, dz)
    return sum_energy + energy, fx, fy, fz, xx, xy, xz, yy, yz, zz


@inlined
def push_neighbors(first, m, count, neighbors, slope, dx, dy, dz, forces):
    """Take what an atom gets from its neighbours at ``m .. m + count - 1`` of a half list off the forces on these."""
    gx, gy, gz = slope * dx, slope * dy, slope * dz
    for lane in range(count):
        j = first + neighbors[m + lane]
        forces[j, 0] -= lane_of(gx, lane)
        forces[j, 1] -= lane_of(gy, lane)
        forces[j, 2] -= lane_of(gz, lane)


@inlined
def write_row(i, total, half, with_virial, forces, sums):
    """Write the force on atom i, and its energy and virial to `sums`; with a half list the force is added."""
    energy, fx, fy, fz, xx, xy, xz, yy, yz, zz = total
    if not half:
        forces[i, 0] = forces[i, 1] = forces[i, 2] = 0.0
    forces[i, 0] += add_up(fx)
    forces[i, 1] += add_up(fy)
    forces[i, 2] += add_up(fz)
    sums[i, 0] = add_up(energy)
    if with_virial:
        sums[i, 1], sums[i, 2], sums[i, 3] = add_up(xx), add_up(xy), add_up(xz)
        sums[i, 4], sums[i, 5], sums[i, 6] = add_up(yy), add_up(yz), add_up(zz)


@jit
def totals(sums, segment_ptr, weight, energy, virial, start, stop):
    """Add the atoms of systems ``start .. stop - 1`` in order; the virial is minus the sum of d (dE/dr / r) d.

    A `virial` of no systems is left alone.
    """
    for b in range(start, stop):
        e = 0.0
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            e += sums[i, 0]
        energy[b] = weight * e
    for b in range(start, min(stop, virial.shape[0])):
        xx = xy = xz = yy = yz = zz = 0.0
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            xx += sums[i, 1]
            xy += sums[i, 2]
            xz += sums[i, 3]
            yy += sums[i, 4]
            yz += sums[i, 5]
            zz += sums[i, 6]
        virial[b, 0, 0] = -weight * xx
        virial[b, 0, 1] = virial[b, 1, 0] = -weight * xy
        virial[b, 0, 2] = virial[b, 2, 0] = -weight * xz
        virial[b, 1, 1] = -weight * yy
        virial[b, 1, 2] = virial[b, 2, 1] = -weight * yz
        virial[b, 2, 2] = -weight * zz
