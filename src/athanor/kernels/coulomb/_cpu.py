"""Coulomb sums with numba. An atom's row is added up in lanes, then the atoms of a system in order."""

from __future__ import annotations

import math

from athanor.kernels._lanes import (
    WIDTH,
    add_product,
    add_up,
    choose,
    gather,
    lane_of,
    lanes_before,
    spread,
)
from athanor.kernels._numba_options import inlined, jit, jit_loop
from athanor.kernels.coulomb._cpu_erfc import gaussian, scaled_erfc
from athanor.kernels.neighbor_list._cpu_pairs import add_terms, lane_vectors, no_terms, push_neighbors, write_row
from athanor.kernels.pairs._cpu import ended


@inlined
def evaluate(square, screening, cutoff, taper_start, shift, tilt):
    """Return the energy of unit charges and (dE/dr) / r, zero from the cutoff on.

    Pairs of the skin are computed and thrown away: a branch would cost more.
    """
    factor = 2.0 * screening / math.sqrt(math.pi)
    r = math.sqrt(square)
    inverse = 1.0 / r
    y = screening * r
    weight = gaussian(y * y)
    bare = weight * scaled_erfc(y) * inverse
    energy = bare - shift + tilt * (r - cutoff)
    slope = (tilt - (bare + factor * weight) * inverse) * inverse
    return ended(r, square, energy, slope, taper_start, cutoff)


@jit_loop
def rows(
    x, cell, segment_ptr, row_ptr, neighbors, images, charges, included, screening, cutoff, taper_start, shift, tilt,
    half, forces, potential, sums, start, stop,
):  # fmt: skip
    """Evaluate the rows of atoms ``start .. stop - 1``: forces, potentials, and energy and virial in `sums`.

    With a half list an atom of a system also changes what others get, so whole systems must be given.
    """
    potential[start:stop] = 0.0
    forces[start:stop] = 0.0
    sums[start:stop] = 0.0
    zero = spread(0.0)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        if not included[b]:
            continue
        first, end, own = segment_ptr[b], row_ptr[i + 1], charges[i]
        total, felt = no_terms(), spread(0.0)
        for m in range(row_ptr[i], end, WIDTH):
            within, count = lanes_before(end - m), min(end - m, WIDTH)
            dx, dy, dz, j = lane_vectors(i, b, first, m, end - m, x, cell, neighbors, images)
            square = add_product(add_product(dx * dx, dy, dy), dz, dz)
            unit, slope = evaluate(square, screening, cutoff, taper_start, shift, tilt)
            unit, slope = choose(within, unit, zero), choose(within, slope, zero)
            others = gather(charges, first, j)
            energy, slope = unit * others, slope * (others * own)
            felt = felt + energy
            total = add_terms(total, energy * own, slope, dx, dy, dz, True)
            if half:
                push_neighbors(first, m, count, neighbors, slope, dx, dy, dz, forces)
                given = unit * own
                for lane in range(count):
                    potential[first + neighbors[m + lane]] += lane_of(given, lane)
        potential[i] += add_up(felt)
        write_row(i, total, half, True, forces, sums)


@jit
def all_pairs(positions, segment_ptr, charges, included, forces, potential, sums, start, stop):
    """Evaluate 1/r between all atoms of a system for its atoms ``start .. stop - 1``, in order."""
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        fx = fy = fz = total = xx = xy = xz = yy = yz = zz = 0.0
        if included[b]:
            for j in range(segment_ptr[b], segment_ptr[b + 1]):
                if j == i:
                    continue
                dx = positions[j, 0] - positions[i, 0]
                dy = positions[j, 1] - positions[i, 1]
                dz = positions[j, 2] - positions[i, 2]
                inverse = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                value = charges[j] * inverse
                slope = -charges[i] * value * inverse * inverse
                total += value
                fx += slope * dx
                fy += slope * dy
                fz += slope * dz
                xx += slope * dx * dx
                xy += slope * dx * dy
                xz += slope * dx * dz
                yy += slope * dy * dy
                yz += slope * dy * dz
                zz += slope * dz * dz
        forces[i, 0], forces[i, 1], forces[i, 2] = fx, fy, fz
        potential[i] = total
        sums[i, 0] = charges[i] * total
        sums[i, 1], sums[i, 2], sums[i, 3] = xx, xy, xz
        sums[i, 4], sums[i, 5], sums[i, 6] = yy, yz, zz
