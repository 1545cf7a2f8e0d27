"""The Axilrod-Teller-Muto term of D3 with numba, in atomic units.

For each atom of the cell the triples with two of its neighbours are summed; a triple is thus met from each of its three
atoms, which each take their own force, derivative by coordination number, and a third of the energy. Nothing is written
to another atom.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.dispersion._cpu_tiles import MAX_TILE, TILE, look_around, near_point, near_translations

SQUARE, ROOT, VALUE, SLOPE_A, SLOPE_B = 0, MAX_TILE, 2 * MAX_TILE, 3 * MAX_TILE, 4 * MAX_TILE
TAPER = 5 * MAX_TILE
SCRATCH = 6 * MAX_TILE

X, Y, Z, R2, THIRD, ROOT6, SWITCH, DECLINE, OF_PAIR, THIRD_OF_PAIR, SLOPES, ENERGIES = range(12)
"""Rows of what is kept of each neighbour: vector and square distance; cube root of (4/3 R0)^2 / r^2 and root of C6 with
the atom in the middle; its switch and (dS/dr)/r; the last two of the pair with another neighbour; and the sums."""
NUM_ROWS = 12


@jit
def switch_of(square, switch_start, cutoff):
    """Return the switch at a distance below the cutoff and its slope over the distance."""
    if not switch_start < cutoff:
        return 1.0, 0.0
    r = math.sqrt(square)
    width = cutoff - switch_start
    t = max(r - switch_start, 0.0) / width
    slope = -30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) / (width * r)
    return 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t)), slope


@jit
def find_neighbors(
    i, b, full, images, n, tiles, first_place, first_tile, places, corners, cutoff, reach, shifts, near, kept, atoms
):
    """Write vectors and squares of the neighbours of atom i, by atom, as far as there is room; return how many."""
    per_tile = max(1, TILE // images)
    home = first_place + i * images
    x, y, z = places[0, home], places[1, home], places[2, home]
    low = places[0:3, home]
    limit = cutoff * cutoff
    found = 0
    for tile in range(tiles):
        bounds = corners[first_tile + tile]
        count = near_translations(low, low, bounds[6:9], bounds[9:12], full[b], cutoff, reach, shifts)
        count = near_point(x, y, z, bounds, limit, count, shifts, near)
        for j in range(tile * per_tile, min((tile + 1) * per_tile, n)):
            for place in range(first_place + j * images, first_place + (j + 1) * images):
                for t in range(count):
                    dx, dy = places[0, place] + near[t, 0] - x, places[1, place] + near[t, 1] - y
                    dz = places[2, place] + near[t, 2] - z
                    square = dx * dx + dy * dy + dz * dz
                    itself = place == home and near[t, 0] == 0.0 and near[t, 1] == 0.0 and near[t, 2] == 0.0
                    if square < limit and not itself:
                        if found < len(atoms):
                            kept[X, found], kept[Y, found], kept[Z, found], kept[R2, found] = dx, dy, dz, square
                            atoms[found] = j
                        found += 1
    return found


@jit
def row_of_c6(zi, weights_i, numbers, own_weights, reference_c6, row):
    """Write C6 of an atom with each atom of its system."""
    references = len(weights_i)
    mixed = np.zeros((reference_c6.shape[0], references))
    known = np.zeros(reference_c6.shape[0], np.bool_)
    for j in range(len(numbers)):
        zj = numbers[j]
        if not known[zj]:
            known[zj] = True
            for p in range(references):
                for q in range(references):
                    mixed[zj, q] += weights_i[p] * reference_c6[zi, zj, p, q]
        total = 0.0
        for q in range(references):
            total += own_weights[j, q] * mixed[zj, q]
        row[j] = total


@jit
def distances(count, ax, ay, az, near_x, near_y, near_z, s):
    """Write the squares of the distances from a point."""
    for m in range(count):
        dx, dy, dz = near_x[m] - ax, near_y[m] - ay, near_z[m] - az
        s[SQUARE + m] = dx * dx + dy * dy + dz * dz


@jit
def cube_roots(count, s):
    """Write the cube roots of the squares: a first guess from square roots, then three steps of Halley's method."""
    for m in range(count):
        x = s[SQUARE + m]
        fourth = math.sqrt(math.sqrt(x))
        y = fourth * math.sqrt(math.sqrt(fourth))
        for _ in range(3):
            cube = y * y * y
            y = y * (cube + 2.0 * x) / (2.0 * cube + x)
        s[ROOT + m] = y


@jit
def tapers(count, switch_start, cutoff, s):
    """Write the switches of the distances; zero from the cutoff on."""
    limit = cutoff * cutoff
    for m in range(count):
        s[TAPER + m] = 1.0
    if switch_start < cutoff:
        inverse_width = 1.0 / (cutoff - switch_start)
        for m in range(count):
            t = max(math.sqrt(s[SQUARE + m]) - switch_start, 0.0) * inverse_width
            s[TAPER + m] = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
    for m in range(count):
        s[TAPER + m] = 0.0 if s[SQUARE + m] >= limit else s[TAPER + m]


@jit
def triples(count, exponent, x, third_a, near_square, near_third, third_of_pair, s):
    """Write value and slopes (dE/dr)/r by the sides to a and b of triples with C9 = 1; `exponent` is that of thirds."""
    for m in range(count):
        q = third_a * near_third[m] * (third_of_pair[m] / s[ROOT + m])
        power = q
        for _ in range(exponent - 1):
            power *= q
        damp = 1.0 / (1.0 + 6.0 * power)
        y, z = s[SQUARE + m], near_square[m]
        product = x * y * z
        inverse = 1.0 / product
        ninth = inverse / math.sqrt(product)
        one, two, three = x + y - z, x - y + z, y + z - x
        angular = 0.375 * (one * two * three) * inverse
        bracket = angular + 1.0
        value = ninth * bracket * damp
        # the derivative by x of what the angles make, and x times that of the damping and of the powers of the sides
        by_angle = 0.375 * inverse * ninth * damp
        by_power = 2.0 * exponent * power * damp * value - ninth * damp * (2.5 * angular + 1.5)
        by_x = by_angle * (two * three + one * three - one * two) + by_power * (y * z * inverse)
        by_z = by_angle * (one * three + one * two - two * three) + by_power * (x * y * inverse)
        s[VALUE + m] = value
        s[SLOPE_A + m] = 2.0 * by_x
        s[SLOPE_B + m] = 2.0 * by_z


@jit
def weigh(count, factor, switch_a, decline_a, near_root6, root6_of_pair, near_switch, near_decline, s):
    """Multiply triples by their C9 and their switches."""
    for m in range(count):
        c9 = factor * near_root6[m] * root6_of_pair[m] * s[TAPER + m]
        switch_b = near_switch[m]
        value = c9 * s[VALUE + m]
        s[SLOPE_A + m] = (c9 * s[SLOPE_A + m] * switch_a + value * decline_a) * switch_b
        s[SLOPE_B + m] = (c9 * s[SLOPE_B + m] * switch_b + value * near_decline[m]) * switch_a
        s[VALUE + m] = value * switch_a * switch_b


@jit
def sweep(
    full, pbc, copies, segment_ptr, place_ptr, tile_ptr, places, corners, numbers, units, r0ab, reference_c6,
    own_weights, own_slopes, s9, exponent, cutoff, switch_start, unit_rows, unit_forces, unit_sums, start, stop,
):  # fmt: skip
    """Add the triples of the atoms of units ``start .. stop - 1`` to rows, forces and sums; see the pair sweep."""
    s = np.empty(SCRATCH)
    shifts, near = np.empty((1, 3)), np.empty((1, 3))
    reach = np.empty(3, np.int64)
    kept, atoms = np.empty((NUM_ROWS, 256)), np.empty(256, np.int64)
    for u in range(start, stop):
        b, chunk, chunks, offset = units[u, 0], units[u, 1], units[u, 2], units[u, 4]
        begin = segment_ptr[b]
        n = segment_ptr[b + 1] - begin
        images = copies[b, 0] * copies[b, 1] * copies[b, 2]
        translations = look_around(full[b], pbc[b], cutoff, reach)
        if translations > shifts.shape[0]:
            shifts, near = np.empty((translations, 3)), np.empty((translations, 3))
        own_numbers, weights = numbers[begin : begin + n], own_weights[begin : begin + n]
        c6, c6_of_a, slope = np.empty(n), np.empty(n), np.empty(n)
        for i in range(chunk, n, chunks):
            place = (i, b, full, images, n, tile_ptr[b + 1] - tile_ptr[b], place_ptr[b], tile_ptr[b], places, corners)
            count = find_neighbors(*place, cutoff, reach, shifts, near, kept, atoms)
            if count > len(atoms):
                kept, atoms = np.empty((NUM_ROWS, count)), np.empty(count, np.int64)
                find_neighbors(*place, cutoff, reach, shifts, near, kept, atoms)
            zi = own_numbers[i]
            row_of_c6(zi, weights[i], own_numbers, weights, reference_c6, c6)
            row_of_c6(zi, own_slopes[begin + i], own_numbers, weights, reference_c6, slope)
            for m in range(count):
                j = atoms[m]
                kept[SLOPES, m] = kept[ENERGIES, m] = 0.0
                kept[ROOT6, m] = math.sqrt(c6[j])
                radius = 4.0 / 3.0 * r0ab[zi, own_numbers[j]]
                kept[THIRD, m] = (radius * radius / kept[R2, m]) ** (1.0 / 3.0)
                kept[SWITCH, m], kept[DECLINE, m] = switch_of(kept[R2, m], switch_start, cutoff)
            before = -1
            for a in range(count - 1):
                if atoms[a] != before:
                    before = atoms[a]
                    za = own_numbers[before]
                    row_of_c6(za, weights[before], own_numbers, weights, reference_c6, c6_of_a)
                    for m in range(a + 1, count):
                        j = atoms[m]
                        radius = 4.0 / 3.0 * r0ab[za, own_numbers[j]]
                        kept[OF_PAIR, m] = math.sqrt(c6_of_a[j])
                        kept[THIRD_OF_PAIR, m] = (radius * radius) ** (1.0 / 3.0)
                slope_a = energy_a = 0.0
                for first in range(a + 1, count, MAX_TILE):
                    last = min(first + MAX_TILE, count)
                    length = last - first
                    distances(
                        length, kept[X, a], kept[Y, a], kept[Z, a], kept[X, first:last], kept[Y, first:last],
                        kept[Z, first:last], s,
                    )  # fmt: skip
                    cube_roots(length, s)
                    tapers(length, switch_start, cutoff, s)
                    triples(
                        length, exponent, kept[R2, a], kept[THIRD, a], kept[R2, first:last], kept[THIRD, first:last],
                        kept[THIRD_OF_PAIR, first:last], s,
                    )  # fmt: skip
                    weigh(
                        length, s9 * kept[ROOT6, a], kept[SWITCH, a], kept[DECLINE, a], kept[ROOT6, first:last],
                        kept[OF_PAIR, first:last], kept[SWITCH, first:last], kept[DECLINE, first:last], s,
                    )  # fmt: skip
                    slopes, energies = kept[SLOPES, first:last], kept[ENERGIES, first:last]
                    for m in range(length):
                        slopes[m] += s[SLOPE_B + m]
                    for m in range(length):
                        energies[m] += s[VALUE + m]
                    for m in range(length):
                        slope_a += s[SLOPE_A + m]
                        energy_a += s[VALUE + m]
                kept[SLOPES, a] += slope_a
                kept[ENERGIES, a] += energy_a
            row = 0.0
            for m in range(count):
                x, y, z, pull = kept[X, m], kept[Y, m], kept[Z, m], kept[SLOPES, m]
                row += kept[ENERGIES, m] * (0.5 * slope[atoms[m]] / c6[atoms[m]])
                unit_forces[0, offset + i] += pull * x
                unit_forces[1, offset + i] += pull * y
                unit_forces[2, offset + i] += pull * z
                unit_sums[u, 0] += kept[ENERGIES, m] * (
                    1.0 / 6.0
                )  # met from three atoms, and at two neighbours of each
                unit_sums[u, 1] += 0.5 * pull * x * x
                unit_sums[u, 2] += 0.5 * pull * x * y
                unit_sums[u, 3] += 0.5 * pull * x * z
                unit_sums[u, 4] += 0.5 * pull * y * y
                unit_sums[u, 5] += 0.5 * pull * y * z
                unit_sums[u, 6] += 0.5 * pull * z * z
            unit_rows[offset + i] += row
