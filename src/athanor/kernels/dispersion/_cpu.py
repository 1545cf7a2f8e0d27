"""The two-body part of D3 with numba: sums over tiles, in atomic units, and what lies between them.

Three sweeps over all pairs: coordination numbers; energies with C6 = 1 for each pair of atoms, summed over images, then
multiplied by its C6; slopes of the coordination numbers. Each pair is visited once. A chunk of rows adds to sums of its
own, which are added in order afterwards, so that bits do not depend on threads.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.dispersion._cpu_loops import (
    BY_I,
    BY_J,
    FACTOR,
    GX,
    GY,
    GZ,
    NUM_SUMS,
    NUM_TOTALS,
    SCRATCH,
    SQUARE,
    TOTALS,
    XX,
    E,
    add_slopes,
    add_values,
    clear,
    counting_constants,
    counts,
    rational,
    rational_constants,
    taper,
    vectors,
    zero,
    zero_constants,
)
from athanor.kernels.dispersion._cpu_tiles import MAX_TILE, TILE, USABLE, look_around, near_point, near_translations

COUNT, ENERGY, SLOPE = 0, 1, 2
"""What a sweep adds up: coordination numbers; the energy and its derivatives at fixed C6; those through C6."""


@jit
def fold(count, images, s):
    """Add up the sums of the images of each atom that are in the tile."""
    for row in range(NUM_SUMS):
        for j in range(count):
            total = 0.0
            for m in range(images):
                total += s[E + row * MAX_TILE + j * images + m]
            s[E + row * MAX_TILE + j] = total


@jit
def mix(zi, weights_i, slopes_i, reference_of, reference_c6, mixed):
    """Write C6 of an atom with each reference of the system, and its derivative by the number of the atom."""
    for r in range(reference_of.shape[0]):
        value = slope = 0.0
        for p in range(weights_i.shape[0]):
            value += weights_i[p] * reference_c6[zi, reference_of[r, 0], p, reference_of[r, 1]]
            slope += slopes_i[p] * reference_c6[zi, reference_of[r, 0], p, reference_of[r, 1]]
        mixed[r, 0] = value
        mixed[r, 1] = slope


@jit
def pair_c6(count, n, first, references, mixed, weights, slopes, s):
    """Write C6 of an atom with others and its derivatives by both coordination numbers."""
    clear(count, FACTOR, 3, s)
    for r in range(references):
        value, slope = mixed[r, 0], mixed[r, 1]
        near_weights = weights[r * n + first : r * n + first + count]
        near_slopes = slopes[r * n + first : r * n + first + count]
        for j in range(count):
            s[FACTOR + j] += near_weights[j] * value
            s[BY_I + j] += near_weights[j] * slope
            s[BY_J + j] += near_slopes[j] * value


@jit
def add_pairs(count, rows_j, force_x, force_y, force_z, s):
    """Add the sums of pairs of atoms times their factors to the atoms j and to the totals; return those of atom i."""
    for k in range(NUM_TOTALS):
        of_sum = E if k == 0 else XX + (k - 1) * MAX_TILE
        for j in range(count):
            s[TOTALS + k * MAX_TILE + j] += s[FACTOR + j] * s[of_sum + j]
    row = x = y = z = 0.0
    for j in range(count):
        row += s[BY_I + j] * s[E + j]
        x += s[FACTOR + j] * s[GX + j]
        y += s[FACTOR + j] * s[GY + j]
        z += s[FACTOR + j] * s[GZ + j]
    for j in range(count):
        rows_j[j] += s[BY_J + j] * s[E + j]
        force_x[j] -= s[FACTOR + j] * s[GX + j]
        force_y[j] -= s[FACTOR + j] * s[GY + j]
        force_z[j] -= s[FACTOR + j] * s[GZ + j]
    return row, x, y, z


@jit
def is_dealt(group, chunks, chunk):
    """Whether a group of rows is one of a chunk: forth and back, since the first rows are the longest."""
    turn = group % (2 * chunks)
    return min(turn, 2 * chunks - 1 - turn) == chunk


@jit
def sweep(
    kind, full, pbc, copies, segment_ptr, place_ptr, tile_ptr, places, corners, numbers, references, reference_ptr,
    units, r0ab, reference_c6, own_weights, own_slopes, weights, weight_slopes, weight_ptr, by_number, bj, s6, s8,
    first, second, alpha, k1, cutoff, switch_start, unit_rows, unit_forces, unit_sums, start, stop,
):  # fmt: skip
    """Sweep the units ``start .. stop - 1``: chunks of rows of tiles, each with the tiles from its own on.

    ``units[u]`` is system, chunk, chunks of the system, rows of a group (groups are dealt to chunks), and where its
    rows begin in `unit_rows` and `unit_forces`.
    `places` holds x, y, z, covalent radius and q of atoms and images. What belongs to atoms is in sorted order.
    """
    scratch = np.empty(SCRATCH)
    shifts, near = np.empty((1, 3)), np.empty((1, 3))
    reach = np.empty(3, np.int64)
    mixed = np.empty((1, 2))
    growth, limit = math.exp(k1), cutoff * cutoff
    before = -1
    for u in range(start, stop):
        b, chunk, chunks, group, offset = units[u, 0], units[u, 1], units[u, 2], units[u, 3], units[u, 4]
        begin, first_place = segment_ptr[b], place_ptr[b]
        n = segment_ptr[b + 1] - begin
        images = copies[b, 0] * copies[b, 1] * copies[b, 2]
        tiles = tile_ptr[b + 1] - tile_ptr[b]
        per_tile = max(1, TILE // images)
        own = references[reference_ptr[b] : reference_ptr[b + 1]]
        if b != before:
            translations = look_around(full[b], pbc[b], cutoff, reach)
            if translations > shifts.shape[0]:
                shifts, near = np.empty((translations, 3)), np.empty((translations, 3))
            if len(own) > len(mixed):
                mixed = np.empty((len(own), 2))
            before = b
        of_system = slice(begin, begin + n)
        of_unit = slice(offset, offset + n)
        system_numbers, system_by_number = numbers[of_system], by_number[of_system]
        of_references = slice(weight_ptr[b], weight_ptr[b + 1])
        system_weights, system_slopes = weights[of_references], weight_slopes[of_references]
        rows, force_x = unit_rows[of_unit], unit_forces[0, of_unit]
        force_y, force_z = unit_forces[1, of_unit], unit_forces[2, of_unit]
        if kind != SLOPE:
            for i in range(n):
                rows[i] = force_x[i] = force_y[i] = force_z[i] = 0.0
            for k in range(NUM_TOTALS):
                unit_sums[u, k] = 0.0
        clear(MAX_TILE, TOTALS, NUM_TOTALS, scratch)
        for row_tile in range(tiles):
            first_row, stop_row = row_tile * per_tile, min((row_tile + 1) * per_tile, n)
            if group >= per_tile and not is_dealt(first_row // group, chunks, chunk):
                continue
            row_bounds = corners[tile_ptr[b] + row_tile]
            for tile in range(row_tile, tiles):
                bounds = corners[tile_ptr[b] + tile]
                found = near_translations(
                    row_bounds[0:3], row_bounds[3:6], bounds[6:9], bounds[9:12], full[b], cutoff, reach, shifts
                )
                if found == 0:
                    continue
                tile_stop = min((tile + 1) * per_tile, n)
                for i in range(first_row, stop_row):
                    if not is_dealt(i // group, chunks, chunk):
                        continue
                    home = first_place + i * images
                    x, y, z = places[0, home], places[1, home], places[2, home]
                    count = near_point(x, y, z, bounds, limit, found, shifts, near)
                    if count == 0:
                        continue
                    first_atom = max(tile * per_tile, i)
                    atoms = tile_stop - first_atom
                    length = atoms * images
                    stretch = slice(first_place + first_atom * images, first_place + tile_stop * images)
                    near_x, near_y, near_z = places[0, stretch], places[1, stretch], places[2, stretch]
                    s = scratch[(first_atom - tile * per_tile) * images :]
                    if kind != ENERGY:
                        counting_constants(length, places[3, home], places[3, stretch], s)
                    elif bj:
                        rational_constants(length, places[4, home], places[4, stretch], s8, first, second, s)
                    else:
                        zero_constants(
                            length, places[4, home], places[4, stretch], s8, first, second, r0ab[system_numbers[i]],
                            system_numbers[first_atom:tile_stop], images, s,
                        )  # fmt: skip
                    clear(length, E, 1 if kind == COUNT else NUM_SUMS, s)
                    for t in range(count):
                        vectors(length, x - near[t, 0], y - near[t, 1], z - near[t, 2], near_x, near_y, near_z, s)
                        if first_atom == i and near[t, 0] == 0.0 and near[t, 1] == 0.0 and near[t, 2] == 0.0:
                            s[SQUARE] = np.inf  # the atom itself
                        if kind != ENERGY:
                            counts(length, k1, growth, s)
                        elif bj:
                            rational(length, s6, s)
                        else:
                            zero(length, s6, alpha, s)
                        taper(length, switch_start, cutoff, s)
                        if kind != SLOPE:
                            add_values(length, s)
                        if kind != COUNT:
                            add_slopes(length, s)
                    if images > 1:
                        fold(atoms, images, s)
                    if first_atom == i:  # each image of an atom and its opposite are the same pair
                        for row in range(NUM_SUMS):
                            s[E + row * MAX_TILE] *= 0.5
                        s[GX] = s[GY] = s[GZ] = 0.0
                    if kind == COUNT:
                        for j in range(atoms):
                            rows[i] += s[E + j]
                            rows[first_atom + j] += s[E + j]
                        continue
                    if kind == ENERGY:
                        mix(system_numbers[i], own_weights[begin + i], own_slopes[begin + i], own, reference_c6, mixed)
                        pair_c6(atoms, n, first_atom, len(own), mixed, system_weights, system_slopes, s)
                    else:
                        by = system_by_number[first_atom:tile_stop]
                        for j in range(atoms):
                            s[FACTOR + j] = system_by_number[i] + by[j]
                            s[BY_I + j] = s[BY_J + j] = s[E + j] = 0.0
                    near_atoms = slice(first_atom, tile_stop)
                    row, fx, fy, fz = add_pairs(
                        atoms, rows[near_atoms], force_x[near_atoms], force_y[near_atoms], force_z[near_atoms], s
                    )
                    rows[i] += row
                    force_x[i] += fx
                    force_y[i] += fy
                    force_z[i] += fz
        for k in range(NUM_TOTALS):
            for m in range(MAX_TILE):
                unit_sums[u, k] += scratch[TOTALS + k * MAX_TILE + m]


@jit
def coordination_weights(
    segment_ptr, status, units, unit_ptr, unit_rows, numbers, references, reference_ptr, reference_cn, k3, own_weights,
    own_slopes, weights, weight_slopes, weight_ptr, start, stop,
):  # fmt: skip
    """Add up coordination numbers of systems ``start .. stop - 1``; write the weights of the references of each atom.

    `weights` has a row over the atoms for each reference of the system, zero where an atom is another element.
    """
    most = reference_cn.shape[1]
    power = np.empty(most)
    for b in range(start, stop):
        if status[b] != USABLE:
            continue
        first = segment_ptr[b]
        n = segment_ptr[b + 1] - first
        for i in range(first, first + n):
            cn = 0.0
            for u in range(unit_ptr[b], unit_ptr[b + 1]):
                cn += unit_rows[units[u, 4] + i - first]
            largest = -np.inf
            for p in range(most):
                reference = reference_cn[numbers[i], p]
                power[p] = k3 * (cn - reference) * (cn - reference) if reference >= 0.0 else -np.inf
                largest = max(largest, power[p])
            norm = mean = 0.0
            for p in range(most):
                own_weights[i, p] = math.exp(power[p] - largest)
                norm += own_weights[i, p]
            for p in range(most):
                own_weights[i, p] /= norm
                mean += own_weights[i, p] * (2.0 * k3 * (cn - reference_cn[numbers[i], p]))
            for p in range(most):
                own_slopes[i, p] = own_weights[i, p] * (2.0 * k3 * (cn - reference_cn[numbers[i], p]) - mean)
        for r in range(reference_ptr[b + 1] - reference_ptr[b]):
            number, p = references[reference_ptr[b] + r, 0], references[reference_ptr[b] + r, 1]
            for i in range(n):
                is_its = numbers[first + i] == number
                weights[weight_ptr[b] + r * n + i] = own_weights[first + i, p] if is_its else 0.0
                weight_slopes[weight_ptr[b] + r * n + i] = own_slopes[first + i, p] if is_its else 0.0


@jit
def add_rows(segment_ptr, units, unit_ptr, unit_rows, by_number, start, stop):
    """Add up the derivatives by coordination number of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            total = 0.0
            for u in range(unit_ptr[b], unit_ptr[b + 1]):
                total += unit_rows[units[u, 4] + i - segment_ptr[b]]
            by_number[i] = total


@jit
def totals(
    segment_ptr, status, order, units, unit_ptr, unit_forces, unit_sums, hartree, bohr, energy, forces, virial, start,
    stop,
):  # fmt: skip
    """Add up energy, forces and virial of systems ``start .. stop - 1``, in eV and Å; NaN where they are unusable."""
    for b in range(start, stop):
        first = segment_ptr[b]
        added = np.zeros(7)
        if status[b] != USABLE:
            added[:] = np.nan
        for u in range(unit_ptr[b], unit_ptr[b + 1]):
            for k in range(7):
                added[k] += unit_sums[u, k]
        energy[b] = hartree * added[0]
        virial[b, 0, 0] = -hartree * added[1]
        virial[b, 0, 1] = virial[b, 1, 0] = -hartree * added[2]
        virial[b, 0, 2] = virial[b, 2, 0] = -hartree * added[3]
        virial[b, 1, 1] = -hartree * added[4]
        virial[b, 1, 2] = virial[b, 2, 1] = -hartree * added[5]
        virial[b, 2, 2] = -hartree * added[6]
        for i in range(segment_ptr[b + 1] - first):
            atom = first + (order[first + i] if status[b] == USABLE else i)
            for c in range(3):
                total = 0.0 if status[b] == USABLE else np.nan
                for u in range(unit_ptr[b], unit_ptr[b + 1]):
                    total += unit_forces[c, units[u, 4] + i]
                forces[atom, c] = total * (hartree / bohr)
