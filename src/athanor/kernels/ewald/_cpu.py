"""The reciprocal part of Ewald sums with numba.

Vectors k = n1 b1 + n2 b2 + n3 b3 of half the sphere are arranged in columns of equal (n1, n2), in which n3 and -n3
share their sines and cosines. A structure factor is summed over the atoms in order, by whoever has the column; an
atom's force over the columns in order, by whoever has the atom: the bits depend on the system only. Loops over n3, or
over a block of atoms, have no branches and few arrays, so that they run in vector registers.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit

MOST_TERMS = 1e8
"""Vectors of one system; a cell that has exploded asks for more, and would keep the others waiting."""
BLOCK = 32
"""Atoms whose phases are kept at hand while forces are summed."""


@jit
def reciprocal_vectors(cell, vectors):
    """Write 2 pi times the inverse of the transposed cell; return the volume."""
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        for x in range(3):
            y, z = (x + 1) % 3, (x + 2) % 3
            vectors[a, x] = cell[b, y] * cell[c, z] - cell[b, z] * cell[c, y]
    volume = cell[0, 0] * vectors[0, 0] + cell[0, 1] * vectors[0, 1] + cell[0, 2] * vectors[0, 2]
    vectors *= 2.0 * math.pi / volume
    return abs(volume)


@jit
def largest_indices(cell, radius, reach):
    """Write the largest |n| along each lattice vector of k within `radius`; return whether they are not too many."""
    terms = 1.0
    for a in range(3):
        length = math.sqrt(cell[a, 0] ** 2 + cell[a, 1] ** 2 + cell[a, 2] ** 2)
        most = radius * length / (2.0 * math.pi)
        terms *= 2.0 * most + 1.0
        if not terms < MOST_TERMS:
            reach[:] = 0
            return False
        reach[a] = math.floor(most)
    return True


@jit
def columns(cell, included, radius, reach, volumes, reciprocal, column_ptr, table, fill):
    """Count the columns of each system, and, if `fill`, write (system, n1, n2, largest |n3|, first term) of each.

    A system with too many vectors gets none, and a volume that is not a number.

    `column_ptr` and the last entry of `table` are running totals.
    """
    count, terms = 0, 0
    for b in range(cell.shape[0]):
        column_ptr[b] = count
        for a in range(3):
            reach[b, a] = 0
        if not included[b]:
            continue
        volumes[b] = reciprocal_vectors(cell[b], reciprocal[b])
        if not largest_indices(cell[b], radius, reach[b]):
            volumes[b] = math.nan
            continue
        g = reciprocal[b]
        square = g[2, 0] ** 2 + g[2, 1] ** 2 + g[2, 2] ** 2
        for n1 in range(reach[b, 0] + 1):
            for n2 in range(-reach[b, 1] if n1 > 0 else 0, reach[b, 1] + 1):
                x = n1 * g[0, 0] + n2 * g[1, 0]
                y = n1 * g[0, 1] + n2 * g[1, 1]
                z = n1 * g[0, 2] + n2 * g[1, 2]
                middle = (x * g[2, 0] + y * g[2, 1] + z * g[2, 2]) / square
                inside = middle * middle - (x * x + y * y + z * z - radius * radius) / square
                if inside < 0.0:
                    continue
                longest = math.floor(abs(middle) + math.sqrt(inside))
                if n1 == 0 and n2 == 0 and longest == 0:
                    continue
                if fill:
                    table[count, 0] = b
                    table[count, 1] = n1
                    table[count, 2] = n2
                    table[count, 3] = longest
                    table[count, 4] = terms
                count += 1
                terms += longest + 1
    column_ptr[cell.shape[0]] = count
    if fill:
        table[count, 4] = terms
    return count


@jit
def phase(angle, count, cosines, sines):
    """Write cos and sin of n angle for n = 0 .. count - 1."""
    c, s = math.cos(angle), math.sin(angle)
    a, b = 1.0, 0.0
    for n in range(count):
        cosines[n] = a
        sines[n] = b
        a, b = a * c - b * s, a * s + b * c


@jit
def angle_along(reciprocal, axis, positions, i):
    """Return the phase of atom i for n = 1 along an axis, between 0 and 2 pi."""
    turns = positions[i, 0] * reciprocal[axis, 0]
    turns += positions[i, 1] * reciprocal[axis, 1]
    turns += positions[i, 2] * reciprocal[axis, 2]
    turns /= 2.0 * math.pi
    return 2.0 * math.pi * (turns - math.floor(turns))


@jit
def phases(positions, charges, segment_ptr, included, reach, reciprocal, first, second, third, start, stop):
    """Write e1 q and e2 as [2, n, atom] and e3 as [atom, n, 2] of atoms ``start .. stop - 1``."""
    longest = max(first.shape[1], second.shape[1], third.shape[1])
    cosines, sines = np.empty(longest), np.empty(longest)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        if not included[b]:
            continue
        phase(angle_along(reciprocal[b], 0, positions, i), reach[b, 0] + 1, cosines, sines)
        for n in range(reach[b, 0] + 1):
            first[0, n, i] = charges[i] * cosines[n]
            first[1, n, i] = charges[i] * sines[n]
        phase(angle_along(reciprocal[b], 1, positions, i), reach[b, 1] + 1, cosines, sines)
        for n in range(reach[b, 1] + 1):
            second[0, n, i] = cosines[n]
            second[1, n, i] = sines[n]
        phase(angle_along(reciprocal[b], 2, positions, i), reach[b, 2] + 1, cosines, sines)
        for n in range(reach[b, 2] + 1):
            third[i, n, 0] = cosines[n]
            third[i, n, 1] = sines[n]


@jit
def accumulate(target, rows, i, weights, w, count):
    """Add ``weights[w .. w + 7]`` times eight rows from i on."""
    w0, w1, w2, w3 = weights[w], weights[w + 1], weights[w + 2], weights[w + 3]
    w4, w5, w6, w7 = weights[w + 4], weights[w + 5], weights[w + 6], weights[w + 7]
    r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
    r4, r5, r6, r7 = rows[i + 4], rows[i + 5], rows[i + 6], rows[i + 7]
    for k in range(count):
        target[k] += ((w0 * r0[k] + w1 * r1[k]) + (w2 * r2[k] + w3 * r3[k])) + (
            (w4 * r4[k] + w5 * r5[k]) + (w6 * r6[k] + w7 * r7[k])
        )


@jit
def structure_factors(
    table, segment_ptr, volumes, reciprocal, first, second, third, screening, taper_start, radius, coefficients, sums,
    start, stop,
):  # fmt: skip
    """Sum the structure factors of columns ``start .. stop - 1``.

    Writes energy and virial of each column to `sums`, and to `coefficients` for each n3 what an atom's cosine and sine
    are multiplied by in `forces_of_atoms`.
    """
    longest, most = 0, 0
    for column in range(start, stop):
        longest = max(longest, table[column, 3])
        b = table[column, 0]
        most = max(most, segment_ptr[b + 1] - segment_ptr[b])
    by_real, by_imaginary = np.empty(2 * longest + 2), np.empty(2 * longest + 2)
    real, imaginary = np.empty(most), np.empty(most)
    flat = third.reshape(third.shape[0], 2 * third.shape[1])
    for column in range(start, stop):
        b, n1, n2, last = table[column, 0], table[column, 1], table[column, 2], table[column, 3]
        begin, atoms = segment_ptr[b], segment_ptr[b + 1] - segment_ptr[b]
        sign = -1.0 if n2 < 0 else 1.0
        c1, s1, c2, s2 = first[0, n1], first[1, n1], second[0, abs(n2)], second[1, abs(n2)]
        for i in range(atoms):
            j = begin + i
            real[i] = c1[j] * c2[j] - s1[j] * (sign * s2[j])
            imaginary[i] = s1[j] * c2[j] + c1[j] * (sign * s2[j])
        count = 2 * (last + 1)
        by_real[:count] = 0.0
        by_imaginary[:count] = 0.0
        whole = atoms - atoms % 8
        for i in range(0, whole, 8):
            accumulate(by_real, flat, begin + i, real, i, count)
            accumulate(by_imaginary, flat, begin + i, imaginary, i, count)
        for i in range(whole, atoms):
            row = flat[begin + i]
            for k in range(count):
                by_real[k] += real[i] * row[k]
            for k in range(count):
                by_imaginary[k] += imaginary[i] * row[k]
        finish_column(
            b, n1, n2, last, table[column, 4], by_real, by_imaginary, volumes[b], reciprocal[b], screening,
            taper_start, radius, coefficients, sums[column],
        )  # fmt: skip


@jit
def finish_column(
    b, n1, n2, last, place, by_real, by_imaginary, volume, g, screening, taper_start, radius, coefficients, sums
):
    """Turn the sums over atoms of a column into its energy, virial and coefficients."""
    energy = xx = xy = xz = yy = yz = zz = 0.0
    width = radius - taper_start
    for n3 in range(last + 1):
        a, b_, c, d = by_real[2 * n3], by_imaginary[2 * n3 + 1], by_real[2 * n3 + 1], by_imaginary[2 * n3]
        w_real, w_imaginary = 0.0, 0.0  # of the sum of n3 and -n3, and of their difference
        v_real, v_imaginary = 0.0, 0.0
        for side in range(2):
            if side == 1 and (n3 == 0 or (n1 == 0 and n2 == 0)):
                continue
            if n1 == 0 and n2 == 0 and n3 == 0:
                continue
            n = n3 if side == 0 else -n3
            x = n1 * g[0, 0] + n2 * g[1, 0] + n * g[2, 0]
            y = n1 * g[0, 1] + n2 * g[1, 1] + n * g[2, 1]
            z = n1 * g[0, 2] + n2 * g[1, 2] + n * g[2, 2]
            square = x * x + y * y + z * z
            k = math.sqrt(square)
            if k >= radius:
                continue
            t = max(k - taper_start, 0.0) / width
            taper = 1.0 + t * t * t * (-10.0 + t * (15.0 - 6.0 * t))
            decline = -30.0 * (t * t) * ((1.0 - t) * (1.0 - t)) / width
            green = 8.0 * math.pi / (volume * square) * math.exp(-square / (4.0 * screening * screening))
            slope = green * taper * (-1.0 / square - 0.25 / (screening * screening)) + green * decline / (2.0 * k)
            green *= taper
            if side == 0:
                real, imaginary = a - b_, c + d
            else:
                real, imaginary = a + b_, d - c
            power = 0.5 * (real * real + imaginary * imaginary)
            energy += green * power
            slope *= 2.0 * power
            xx += green * power + slope * x * x
            yy += green * power + slope * y * y
            zz += green * power + slope * z * z
            xy += slope * x * y
            xz += slope * x * z
            yz += slope * y * z
            w_real += green * real
            w_imaginary -= green * imaginary
            if side == 0:
                v_real += green * real
                v_imaginary -= green * imaginary
            else:
                v_real -= green * real
                v_imaginary += green * imaginary
        coefficients[place + n3, 0] = w_real
        coefficients[place + n3, 1] = v_imaginary
        coefficients[place + n3, 2] = w_imaginary
        coefficients[place + n3, 3] = v_real
    sums[0] = energy
    sums[1], sums[2], sums[3] = -xx, -xy, -xz
    sums[4], sums[5], sums[6] = -yy, -yz, -zz


@jit
def forces_of_atoms(
    positions, charges, segment_ptr, included, reach, reciprocal, column_ptr, table, coefficients, forces, potential,
    start, stop,
):  # fmt: skip
    """Sum forces and potentials of atoms ``start .. stop - 1`` over the columns of their system."""
    longest = np.zeros(3, np.int64)
    for b in range(segment_ptr.shape[0] - 1):
        if segment_ptr[b + 1] > start and segment_ptr[b] < stop:
            for a in range(3):
                longest[a] = max(longest[a], reach[b, a])
    first = np.zeros((2, longest[0] + 1, BLOCK))
    second = np.zeros((2, longest[1] + 1, BLOCK))
    third = np.zeros((2, longest[2] + 1, BLOCK))
    most = max(longest[0], longest[1], longest[2]) + 1
    cosines, sines = np.empty(most), np.empty(most)
    real, imaginary, slope_real, slope_imaginary = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    total, along = np.empty(BLOCK), np.empty((3, BLOCK))
    b, i = 0, start
    while i < stop:
        while i >= segment_ptr[b + 1]:
            b += 1
        atoms = min(BLOCK, stop - i, segment_ptr[b + 1] - i)
        if not included[b]:
            for m in range(atoms):
                forces[i + m, 0] = forces[i + m, 1] = forces[i + m, 2] = 0.0
                potential[i + m] = 0.0
            i += atoms
            continue
        for m in range(atoms):
            phase(angle_along(reciprocal[b], 0, positions, i + m), reach[b, 0] + 1, cosines, sines)
            for n in range(reach[b, 0] + 1):
                first[0, n, m], first[1, n, m] = cosines[n], sines[n]
            phase(angle_along(reciprocal[b], 1, positions, i + m), reach[b, 1] + 1, cosines, sines)
            for n in range(reach[b, 1] + 1):
                second[0, n, m], second[1, n, m] = cosines[n], sines[n]
            phase(angle_along(reciprocal[b], 2, positions, i + m), reach[b, 2] + 1, cosines, sines)
            for n in range(reach[b, 2] + 1):
                third[0, n, m], third[1, n, m] = cosines[n], sines[n]
        total[:] = 0.0
        along[:] = 0.0
        for column in range(column_ptr[b], column_ptr[b + 1]):
            n1, n2, last, place = table[column, 1], table[column, 2], table[column, 3], table[column, 4]
            real[:] = 0.0
            imaginary[:] = 0.0
            slope_real[:] = 0.0
            slope_imaginary[:] = 0.0
            for n in range(last + 1):
                c, s = third[0, n], third[1, n]
                w_real, v_imaginary = coefficients[place + n, 0], coefficients[place + n, 1]
                w_imaginary, v_real = coefficients[place + n, 2], coefficients[place + n, 3]
                for m in range(BLOCK):
                    real[m] += w_real * c[m] - v_imaginary * s[m]
                for m in range(BLOCK):
                    imaginary[m] += w_imaginary * c[m] + v_real * s[m]
                v_real, w_imaginary = n * v_real, n * w_imaginary
                for m in range(BLOCK):
                    slope_real[m] += v_real * c[m] - w_imaginary * s[m]
                v_imaginary, w_real = n * v_imaginary, n * w_real
                for m in range(BLOCK):
                    slope_imaginary[m] += v_imaginary * c[m] + w_real * s[m]
            sign = -1.0 if n2 < 0 else 1.0
            for m in range(atoms):
                c1, s1 = first[0, n1, m], first[1, n1, m]
                c2, s2 = second[0, abs(n2), m], sign * second[1, abs(n2), m]
                p_real, p_imaginary = c1 * c2 - s1 * s2, s1 * c2 + c1 * s2
                total[m] += p_real * real[m] - p_imaginary * imaginary[m]
                turned = p_real * imaginary[m] + p_imaginary * real[m]
                along[0, m] += n1 * turned
                along[1, m] += n2 * turned
                along[2, m] += p_real * slope_imaginary[m] + p_imaginary * slope_real[m]
        g = reciprocal[b]
        for m in range(atoms):
            q = charges[i + m]
            potential[i + m] = total[m]
            for x in range(3):
                forces[i + m, x] = q * (along[0, m] * g[0, x] + along[1, m] * g[1, x] + along[2, m] * g[2, x])
        i += atoms
