"""The two-body part of D3 with numba: sums over tiles, in atomic units, and what lies between them.

Three sweeps over all pairs: coordination numbers; energies with C6 = 1 for each pair of atoms, summed over images, then
multiplied by its C6; slopes of the coordination numbers. Each pair is visited once. A chunk of rows adds to sums of its
own, which are added in order afterwards, so that bits do not depend on threads.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.coulomb._cpu_erfc import gaussian
from athanor.kernels.dispersion._cpu_tiles import MAX_TILE, TILE, USABLE, look_around, near_translations

COUNT, ENERGY, SLOPE = 0, 1, 2
"""What a sweep adds up: coordination numbers; the energy and its derivatives at fixed C6; those through C6."""

# Rows of the scratch, which is one array so that loops over it need no checks whether arrays overlap.
DX, DY, DZ = 0, MAX_TILE, 2 * MAX_TILE
SQUARE, VALUE, SLOPES = 3 * MAX_TILE, 4 * MAX_TILE, 5 * MAX_TILE
FIRST, SECOND, THIRD = 6 * MAX_TILE, 7 * MAX_TILE, 8 * MAX_TILE
E, GX, GY, GZ = 9 * MAX_TILE, 10 * MAX_TILE, 11 * MAX_TILE, 12 * MAX_TILE
XX, XY, XZ = 13 * MAX_TILE, 14 * MAX_TILE, 15 * MAX_TILE
YY, YZ, ZZ = 16 * MAX_TILE, 17 * MAX_TILE, 18 * MAX_TILE
INVERSE, SIXTH, EIGHTH = 19 * MAX_TILE, 20 * MAX_TILE, 21 * MAX_TILE
SCRATCH = 22 * MAX_TILE


@jit
def vectors(count, px, py, pz, place_x, place_y, place_z, s):
    """Write vectors from a point to places."""
    for m in range(count):
        dx, dy, dz = place_x[m] - px, place_y[m] - py, place_z[m] - pz
        s[DX + m] = dx
        s[DY + m] = dy
        s[DZ + m] = dz
        s[SQUARE + m] = dx * dx + dy * dy + dz * dz


@jit
def rational(count, s6, s):
    """Becke-Johnson damping: FIRST and SECOND are f^6 and f^8, THIRD is s8 C8/C6."""
    for m in range(count):
        r2 = s[SQUARE + m]
        r4 = r2 * r2
        r6 = r4 * r2
        below6, below8 = r6 + s[FIRST + m], r4 * r4 + s[SECOND + m]
        both = 1.0 / (below6 * below8)
        sixth, eighth = s6 * (below8 * both), s[THIRD + m] * (below6 * both)
        s[VALUE + m] = -(sixth + eighth)
        s[SLOPES + m] = (6.0 * sixth * (below8 * both)) * r4 + (8.0 * eighth * (below6 * both)) * r6


@jit
def zero(count, s6, alpha, s):
    """Zero damping: FIRST and SECOND are (rs6 R0)^2 and (rs8 R0)^2, THIRD is s8 C8/C6; alpha is even."""
    for m in range(count):
        inverse = 1.0 / s[SQUARE + m]
        s[SIXTH + m] = 6.0
        s[EIGHTH + m] = 6.0 * (s[SECOND + m] * inverse)
        s[INVERSE + m] = inverse
    for _ in range(alpha // 2):
        for m in range(count):
            s[SIXTH + m] *= s[FIRST + m] * s[INVERSE + m]
            s[EIGHTH + m] *= s[SECOND + m] * s[INVERSE + m]
    for m in range(count):
        inverse = s[INVERSE + m]
        damp6, damp8 = 1.0 / (1.0 + s[SIXTH + m]), 1.0 / (1.0 + s[EIGHTH + m])
        cube = inverse * inverse * inverse
        sixth, eighth = s6 * cube * damp6, s[THIRD + m] * cube * inverse * damp8
        s[VALUE + m] = -(sixth + eighth)
        s[SLOPES + m] = inverse * (
            sixth * (6.0 - alpha * (1.0 - damp6)) + eighth * (8.0 - (alpha + 2) * (1.0 - damp8))
        )


@jit
def counts(count, k1, growth, s):
    """Counting function of coordination; FIRST is the sum of radii, `growth` is exp(k1)."""
    for m in range(count):
        inverse = 1.0 / math.sqrt(s[SQUARE + m])
        nearness = k1 * (s[FIRST + m] * inverse)
        power = growth * gaussian(min(nearness, 64.0))
        value = 1.0 / (1.0 + power)
        s[VALUE + m] = value
        s[SLOPES + m] = -(value * value) * power * nearness * inverse * inverse


@jit
def taper(count, switch_start, cutoff, s):
    """Multiply values by a switch that goes from 1 to 0 with two continuous derivatives; zero from the cutoff on."""
    if switch_start < cutoff:
        inverse_width = 1.0 / (cutoff - switch_start)
        for m in range(count):
            r = math.sqrt(s[SQUARE + m])
            t = max(r - switch_start, 0.0) * inverse_width
            switch = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
            decline = -30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) * inverse_width
            s[SLOPES + m] = s[SLOPES + m] * switch + s[VALUE + m] * decline / r
            s[VALUE + m] = s[VALUE + m] * switch
    limit = cutoff * cutoff
    for m in range(count):
        outside = s[SQUARE + m] >= limit
        s[VALUE + m] = 0.0 if outside else s[VALUE + m]
        s[SLOPES + m] = 0.0 if outside else s[SLOPES + m]


@jit
def add_values(count, s):
    """Add the values of each place to its sum."""
    for m in range(count):
        s[E + m] += s[VALUE + m]


@jit
def add_slopes(count, s):
    """Add gradient and virial of each place to its sums."""
    for m in range(count):
        dx, dy, dz, slope = s[DX + m], s[DY + m], s[DZ + m], s[SLOPES + m]
        gx, gy, gz = slope * dx, slope * dy, slope * dz
        s[GX + m] += gx
        s[GY + m] += gy
        s[GZ + m] += gz
        s[XX + m] += gx * dx
        s[XY + m] += gx * dy
        s[XZ + m] += gx * dz
        s[YY + m] += gy * dy
        s[YZ + m] += gy * dz
        s[ZZ + m] += gz * dz


@jit
def constants(kind, bj, numbers, i, j, rcov, r4r2, r0ab, s8, first, second, place, images, s):
    """Write the constants of a pair of atoms for the places of the images of j."""
    zi, zj = numbers[i], numbers[j]
    if kind != ENERGY:
        one = rcov[zi] + rcov[zj]
        two = three = 0.0
    else:
        ratio = 3.0 * r4r2[zi] * r4r2[zj]
        three = s8 * ratio
        if bj:
            radius = first * math.sqrt(ratio) + second
            square = radius * radius
            one = square * square * square
            two = one * square
        else:
            one = (first * r0ab[zi, zj]) * (first * r0ab[zi, zj])
            two = (second * r0ab[zi, zj]) * (second * r0ab[zi, zj])
    for m in range(place, place + images):
        s[FIRST + m] = one
        s[SECOND + m] = two
        s[THIRD + m] = three


@jit
def sweep(
    kind, x, full, pbc, copies, segment_ptr, place_ptr, tile_ptr, order, place_x, place_y, place_z, boxes, numbers,
    units, rcov, r4r2, r0ab, reference_c6, weights, weight_slopes, by_number, bj, s6, s8, first, second, alpha, k1,
    cutoff, switch_start, unit_rows, unit_forces, unit_sums, start, stop,
):  # fmt: skip
    """Sweep the units ``start .. stop - 1``: chunks of rows of tiles, each with the tiles from its own on.

    ``units[u]`` is system, chunk, chunks of the system, and where its rows begin in `unit_rows` and `unit_forces`.
    `numbers`, `weights` and `by_number`, the derivative of the energy by coordination number, are in sorted order.
    """
    scratch = np.empty(SCRATCH)
    shifts = np.empty((1, 3))
    reach = np.empty(3, np.int64)
    present = np.empty(0, np.int64)
    mixed = np.empty((rcov.shape[0], 2, weights.shape[1]))
    growth = math.exp(k1)
    before = -1
    for u in range(start, stop):
        b, chunk, chunks, offset = units[u, 0], units[u, 1], units[u, 2], units[u, 3]
        begin = segment_ptr[b]
        n = segment_ptr[b + 1] - begin
        images = copies[b, 0] * copies[b, 1] * copies[b, 2]
        tiles = tile_ptr[b + 1] - tile_ptr[b]
        per_tile = max(1, TILE // images)
        if b != before:
            translations = look_around(full[b], pbc[b], cutoff, reach)
            if translations > shifts.shape[0]:
                shifts = np.empty((translations, 3))
            if kind == ENERGY:
                present = np.unique(numbers[begin : begin + n])
            before = b
        rows, forces, sums = unit_rows[offset : offset + n], unit_forces[offset : offset + n], unit_sums[u]
        if kind != SLOPE:
            rows[:] = 0.0
            forces[:] = 0.0
            sums[:] = 0.0
        for row_tile in range(tiles):
            turn = row_tile % (2 * chunks)
            if min(turn, 2 * chunks - 1 - turn) != chunk:  # long rows and short ones in turn
                continue
            row_box = boxes[tile_ptr[b] + row_tile]
            for tile in range(row_tile, tiles):
                box = boxes[tile_ptr[b] + tile]
                count = near_translations(
                    row_box[0:3], row_box[3:6], box[6:9], box[9:12], full[b], cutoff, reach, shifts
                )
                if count == 0:
                    continue
                tile_atom = tile * per_tile
                tile_stop = min(tile_atom + per_tile, n)
                places = (tile_stop - tile_atom) * images
                tile_place = place_ptr[b] + tile_atom * images
                for i in range(row_tile * per_tile, min((row_tile + 1) * per_tile, n)):
                    first_atom = max(tile_atom, i)
                    low = (first_atom - tile_atom) * images
                    home = place_ptr[b] + i * images
                    for j in range(first_atom, tile_stop):
                        constants(
                            kind, bj, numbers, begin + i, begin + j, rcov, r4r2, r0ab, s8, first, second,
                            (j - tile_atom) * images, images, scratch,
                        )  # fmt: skip
                    scratch[E : ZZ + MAX_TILE] = 0.0
                    begin_place, end_place, s = tile_place + low, tile_place + places, scratch[low:]
                    near_x, near_y = place_x[begin_place:end_place], place_y[begin_place:end_place]
                    near_z, length = place_z[begin_place:end_place], places - low
                    xi, yi, zi = place_x[home], place_y[home], place_z[home]
                    limit = cutoff * cutoff
                    for t in range(count):
                        px, py, pz = xi - shifts[t, 0], yi - shifts[t, 1], zi - shifts[t, 2]
                        gap_x = max(box[6] - px, px - box[9], 0.0)
                        gap_y = max(box[7] - py, py - box[10], 0.0)
                        gap_z = max(box[8] - pz, pz - box[11], 0.0)
                        if gap_x * gap_x + gap_y * gap_y + gap_z * gap_z >= limit:
                            continue
                        vectors(length, px, py, pz, near_x, near_y, near_z, s)
                        if tile == row_tile and shifts[t, 0] == 0.0 and shifts[t, 1] == 0.0 and shifts[t, 2] == 0.0:
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
                    if kind == COUNT:
                        for j in range(first_atom, tile_stop):
                            total = 0.0
                            for m in range((j - tile_atom) * images, (j - tile_atom + 1) * images):
                                total += scratch[E + m]
                            rows[i] += total
                            if j != i:
                                rows[j] += total
                    else:
                        if kind == ENERGY:
                            mix(begin + i, numbers, present, weights, weight_slopes, reference_c6, mixed)
                        finish(
                            kind, i, begin, first_atom, tile_stop, tile_atom, images, numbers, weights, weight_slopes,
                            mixed, by_number, scratch, rows, forces, sums,
                        )  # fmt: skip


@jit
def mix(i, numbers, present, weights, weight_slopes, reference_c6, mixed):
    """Write C6 of atom i with each reference of each element present, and its derivative by the number of i."""
    zi = numbers[i]
    for zj in present:
        for q in range(weights.shape[1]):
            value = slope = 0.0
            for p in range(weights.shape[1]):
                value += weights[i, p] * reference_c6[zi, zj, p, q]
                slope += weight_slopes[i, p] * reference_c6[zi, zj, p, q]
            mixed[zj, 0, q] = value
            mixed[zj, 1, q] = slope


@jit
def finish(
    kind, i, begin, first_atom, stop_atom, tile_atom, images, numbers, weights, weight_slopes, mixed, by_number, s,
    rows, forces, sums,
):  # fmt: skip
    """Add the sums of the places of a tile, times the factor of each pair of atoms, to rows, forces and totals."""
    for j in range(first_atom, stop_atom):
        factor = by_i = by_j = 0.0
        if kind == ENERGY:
            for q in range(weights.shape[1]):
                factor += weights[begin + j, q] * mixed[numbers[begin + j], 0, q]
                by_i += weights[begin + j, q] * mixed[numbers[begin + j], 1, q]
                by_j += weight_slopes[begin + j, q] * mixed[numbers[begin + j], 0, q]
        else:
            factor = by_number[begin + i] + by_number[begin + j]
        if i == j:  # each image and its opposite are the same pair
            factor, by_i, by_j = 0.5 * factor, 0.5 * by_i, 0.5 * by_j
        e = gx = gy = gz = 0.0
        for m in range((j - tile_atom) * images, (j - tile_atom + 1) * images):
            e += s[E + m]
            gx += s[GX + m]
            gy += s[GY + m]
            gz += s[GZ + m]
            sums[1] += factor * s[XX + m]
            sums[2] += factor * s[XY + m]
            sums[3] += factor * s[XZ + m]
            sums[4] += factor * s[YY + m]
            sums[5] += factor * s[YZ + m]
            sums[6] += factor * s[ZZ + m]
        sums[0] += factor * e
        rows[i] += by_i * e
        rows[j] += by_j * e
        if i != j:
            forces[i, 0] += factor * gx
            forces[i, 1] += factor * gy
            forces[i, 2] += factor * gz
            forces[j, 0] -= factor * gx
            forces[j, 1] -= factor * gy
            forces[j, 2] -= factor * gz


@jit
def coordination_weights(
    segment_ptr, units, unit_ptr, unit_rows, numbers, reference_cn, k3, cn, weights, weight_slopes, status, start, stop
):
    """Add up coordination numbers of systems ``start .. stop - 1``; write the weights of the references."""
    references = reference_cn.shape[1]
    power = np.empty(references)
    for b in range(start, stop):
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            total = 0.0
            for u in range(unit_ptr[b], unit_ptr[b + 1]):
                total += unit_rows[units[u, 3] + i - segment_ptr[b]]
            cn[i] = total
            largest = -np.inf
            for p in range(references):
                reference = reference_cn[numbers[i], p]
                power[p] = k3 * (total - reference) * (total - reference) if reference >= 0.0 else -np.inf
                largest = max(largest, power[p])
            norm = mean = 0.0
            for p in range(references):
                weight = math.exp(power[p] - largest)
                norm += weight
                weights[i, p] = weight
            for p in range(references):
                weights[i, p] /= norm
                if weights[i, p] > 0.0:
                    mean += weights[i, p] * (2.0 * k3 * (total - reference_cn[numbers[i], p]))
            for p in range(references):
                slope = 2.0 * k3 * (total - reference_cn[numbers[i], p]) - mean
                weight_slopes[i, p] = weights[i, p] * slope if weights[i, p] > 0.0 else 0.0


@jit
def add_rows(segment_ptr, units, unit_ptr, unit_rows, by_number, start, stop):
    """Add up the derivatives by coordination number of systems ``start .. stop - 1``."""
    for b in range(start, stop):
        for i in range(segment_ptr[b], segment_ptr[b + 1]):
            total = 0.0
            for u in range(unit_ptr[b], unit_ptr[b + 1]):
                total += unit_rows[units[u, 3] + i - segment_ptr[b]]
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
                    total += unit_forces[units[u, 3] + i, c]
                forces[atom, c] = total * (hartree / bohr)
