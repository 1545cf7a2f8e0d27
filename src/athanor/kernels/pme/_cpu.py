"""Charges on a mesh and back, with numba.

The atoms of a system are sorted by the plane of the mesh, and the row in it, where their splines begin. A plane is
summed by whoever has it, over the atoms in that order, in an array of its own that has room for what reaches beyond
its ends; an atom's force by whoever has the atom. The bits depend on the system only. Splines are padded with zeros to
a multiple of four points, four of which fill a vector register.
"""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.coulomb._cpu_erfc import gaussian
from athanor.kernels.ewald._cpu import reciprocal_vectors

BLOCK = 16
"""Atoms whose splines are computed together."""


@jit
def layout(cell, included, mesh, padding, volumes, reciprocal, plane_ptr, mesh_ptr, half_ptr, padded_ptr):
    """Write volumes, 2 pi times inverse cells, and where planes, meshes, their spectra and padded copies begin."""
    for b in range(cell.shape[0]):
        planes = points = half = padded = 0
        if included[b]:
            volumes[b] = reciprocal_vectors(cell[b], reciprocal[b])
            planes = mesh[b, 0]
            rows = planes * mesh[b, 1]
            points = rows * mesh[b, 2]
            half = rows * (mesh[b, 2] // 2 + 1)
            padded = rows * (mesh[b, 2] + padding)
        plane_ptr[b + 1] = plane_ptr[b] + planes
        mesh_ptr[b + 1] = mesh_ptr[b] + points
        half_ptr[b + 1] = half_ptr[b] + half
        padded_ptr[b + 1] = padded_ptr[b] + padded


@jit
def locate(positions, segment_ptr, included, reciprocal, mesh, base, offset, start, stop):
    """Write the mesh point below each of atoms ``start .. stop - 1``, and how far beyond it the atom is."""
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        if not included[b]:
            continue
        for a in range(3):
            g = reciprocal[b, a]
            turns = positions[i, 0] * g[0] + positions[i, 1] * g[1] + positions[i, 2] * g[2]
            turns /= 2.0 * math.pi
            scaled = (turns - math.floor(turns)) * mesh[b, a]
            below = math.floor(scaled)
            offset[i, a] = scaled - below
            base[i, a] = below if below < mesh[b, a] else 0


@jit
def sort(segment_ptr, included, mesh, plane_ptr, base, plane_start, order, start, stop):
    """Sort the atoms of systems ``start .. stop - 1`` by plane and row; write where each plane's begin."""
    for b in range(start, stop):
        begin, end = segment_ptr[b], segment_ptr[b + 1]
        if not included[b]:
            for i in range(begin, end):
                order[i] = i
            continue
        planes, rows = mesh[b, 0], mesh[b, 1]
        count = np.zeros(planes * rows + 1, np.int64)
        for i in range(begin, end):
            count[base[i, 0] * rows + base[i, 1] + 1] += 1
        count[0] = begin
        for k in range(planes * rows):
            count[k + 1] += count[k]
        for plane in range(planes):
            plane_start[plane_ptr[b] + b + plane] = count[plane * rows]
        plane_start[plane_ptr[b] + b + planes] = end
        for i in range(begin, end):
            k = base[i, 0] * rows + base[i, 1]
            order[count[k]] = i
            count[k] += 1


@jit
def splines(offset, order, size, values, slopes, start, stop):
    """Write the weights of the mesh points of places ``start .. stop - 1`` and their slopes, [place, axis, point]."""
    lanes = 3 * BLOCK
    t, old, new = np.empty(lanes), np.zeros((size + 1, lanes)), np.zeros((size + 1, lanes))
    for first in range(start, stop, BLOCK):
        atoms = min(BLOCK, stop - first)
        for m in range(atoms):
            for a in range(3):
                t[3 * m + a] = offset[order[first + m], a]
        for m in range(3 * atoms, lanes):
            t[m] = 0.0
        old[:] = 0.0
        new[:] = 0.0
        for m in range(lanes):  # row j + 1 of an array is point j
            old[1, m] = 1.0 - t[m]
            old[2, m] = t[m]
        for n in range(3, size):
            raise_order(n, lanes, t, old, new)
            old, new = new, old
        for m in range(atoms):
            for a in range(3):
                for j in range(size):
                    slopes[first + m, a, j] = old[j, 3 * m + a] - old[j + 1, 3 * m + a]
        raise_order(size, lanes, t, old, new)
        for m in range(atoms):
            for a in range(3):
                for j in range(size):
                    values[first + m, a, j] = new[j + 1, 3 * m + a]
        for m in range(atoms):
            for a in range(3):
                for j in range(size, values.shape[2]):
                    values[first + m, a, j] = 0.0
                    slopes[first + m, a, j] = 0.0


@jit
def raise_order(n, lanes, t, old, new):
    """Write splines of order n from those of order n - 1."""
    scale = 1.0 / (n - 1)
    for j in range(n):
        left, right = n - 1 - j, 1 + j
        for m in range(lanes):
            new[j + 1, m] = ((t[m] + left) * old[j, m] + (right - t[m]) * old[j + 1, m]) * scale


@jit
def spread(mesh, plane_ptr, mesh_ptr, plane_start, order, base, charges, size, values, density, start, stop):
    """Sum the charges of planes ``start .. stop - 1``."""
    width = values.shape[2]
    most = 0
    for b in range(mesh.shape[0]):
        if plane_ptr[b + 1] > start and plane_ptr[b] < stop:
            most = max(most, (mesh[b, 1] + size) * (mesh[b, 2] + width))
    buffer = np.empty(most)
    b = 0
    for place in range(start, stop):
        while place >= plane_ptr[b + 1]:
            b += 1
        planes, rows, columns = mesh[b, 0], mesh[b, 1], mesh[b, 2]
        stride = columns + width
        buffer[: (rows + size) * stride] = 0.0
        plane = place - plane_ptr[b]
        for j in range(size - 1, -1, -1):
            source = plane - j
            if source < 0:
                source += planes
            source += plane_ptr[b] + b
            for s in range(plane_start[source], plane_start[source + 1]):
                i = order[s]
                weight = charges[i] * values[s, 0, j]
                at = base[i, 1] * stride + base[i, 2]
                for c in range(0, width, 4):
                    v0, v1, v2, v3 = values[s, 2, c], values[s, 2, c + 1], values[s, 2, c + 2], values[s, 2, c + 3]
                    k = at + c
                    for r in range(size):
                        w = weight * values[s, 1, r]
                        buffer[k] += w * v0
                        buffer[k + 1] += w * v1
                        buffer[k + 2] += w * v2
                        buffer[k + 3] += w * v3
                        k += stride
        for r in range(size):
            for c in range(stride):
                buffer[r * stride + c] += buffer[(rows + r) * stride + c]
        to = mesh_ptr[b] + plane * rows * columns
        for r in range(rows):
            for c in range(size):
                buffer[r * stride + c] += buffer[r * stride + columns + c]
            for c in range(columns):
                density[to + r * columns + c] = buffer[r * stride + c]


@jit
def spline_weights(count, size, spline, weights):
    """Write 1 / |sum of M(j + 1) exp(2 pi i m j / count)|^2; 0 where m and -m are one point of the mesh."""
    for m in range(count):
        real = imaginary = 0.0
        for j in range(size):
            angle = 2.0 * math.pi * ((m * j) % count) / count
            real += spline[j] * math.cos(angle)
            imaginary += spline[j] * math.sin(angle)
        weights[m] = 0.0 if 2 * m == count else 1.0 / (real * real + imaginary * imaginary)


@jit
def convolve(
    mesh, plane_ptr, half_ptr, volumes, reciprocal, screening, size, spline, amplitudes, sums, start, stop
):  # fmt: skip
    """Multiply planes ``start .. stop - 1`` of the spectra by Green's function; write their energies and virials."""
    longest = np.zeros(3, np.int64)
    for b in range(mesh.shape[0]):
        if plane_ptr[b + 1] > start and plane_ptr[b] < stop:
            for a in range(3):
                longest[a] = max(longest[a], mesh[b, a])
    first, second, third = np.empty(longest[0]), np.empty(longest[1]), np.empty(longest[2])
    most = longest[2] // 2 + 1
    totals = np.empty((4, most))
    moments = np.empty((3, 3))
    b, known = 0, -1
    quarter = 0.25 / (screening * screening)
    for place in range(start, stop):
        while place >= plane_ptr[b + 1]:
            b += 1
        rows, half = mesh[b, 1], mesh[b, 2] // 2 + 1
        if known != b:
            spline_weights(mesh[b, 0], size, spline, first)
            spline_weights(mesh[b, 1], size, spline, second)
            spline_weights(mesh[b, 2], size, spline, third)
            known = b
        plane = place - plane_ptr[b]
        n1 = plane if 2 * plane <= mesh[b, 0] else plane - mesh[b, 0]
        g = reciprocal[b]
        scale = first[plane] * 4.0 * math.pi / volumes[b]
        totals[:] = 0.0
        for row in range(rows):
            n2 = row if 2 * row <= rows else row - rows
            x = n1 * g[0, 0] + n2 * g[1, 0]
            y = n1 * g[0, 1] + n2 * g[1, 1]
            z = n1 * g[0, 2] + n2 * g[1, 2]
            begin = half_ptr[b] + (plane * rows + row) * half
            alone = n1 == 0 and n2 == 0
            multiply_row(
                begin, half, x, y, z, g[2], quarter, scale * second[row], third, float(n2), totals, amplitudes, alone
            )
        xx = xy = xz = yy = yz = zz = energy = 0.0
        for n3 in range(half):
            energy += totals[0, n3]
            s, s2, s22 = totals[1, n3], totals[2, n3], totals[3, n3]
            xx += s
            xy += s2
            xz += n3 * s
            yy += s22
            yz += n3 * s2
            zz += n3 * n3 * s
        moments[0, 0] = n1 * n1 * xx
        moments[0, 1] = moments[1, 0] = n1 * xy
        moments[0, 2] = moments[2, 0] = n1 * xz
        moments[1, 1], moments[1, 2], moments[2, 1], moments[2, 2] = yy, yz, yz, zz
        sums[place, 0] = energy
        at = 1
        for c in range(3):
            for d in range(c, 3):
                total = 0.0
                for a in range(3):
                    for e in range(3):
                        total += g[a, c] * moments[a, e] * g[e, d]
                sums[place, at] = -(total + (energy if c == d else 0.0))
                at += 1


@jit
def multiply_row(begin, half, x, y, z, g, quarter, scale, third, n2, totals, amplitudes, alone):
    """Multiply a row of a spectrum; add its energies, and the slopes of these by half the square of k, to `totals`."""
    first = 1 if alone else 0
    for n3 in range(first, half):
        kx, ky, kz = x + n3 * g[0], y + n3 * g[1], z + n3 * g[2]
        square = kx * kx + ky * ky + kz * kz
        inverse = 1.0 / square
        green = scale * third[n3] * gaussian(min(square * quarter, 64.0)) * inverse
        real, imaginary = amplitudes[begin + n3, 0], amplitudes[begin + n3, 1]
        energy = green * (real * real + imaginary * imaginary)
        if n3 == 0:
            energy *= 0.5
        slope = -2.0 * energy * (inverse + quarter)
        totals[0, n3] += energy
        totals[1, n3] += slope
        totals[2, n3] += slope * n2
        totals[3, n3] += slope * n2 * n2
        amplitudes[begin + n3, 0] = green * real
        amplitudes[begin + n3, 1] = green * imaginary
    if alone:
        amplitudes[begin, 0] = amplitudes[begin, 1] = 0.0


@jit
def pad(mesh, plane_ptr, mesh_ptr, padded_ptr, padding, potentials, padded, start, stop):
    """Copy planes ``start .. stop - 1`` such that each row goes on with its first points."""
    b = 0
    for place in range(start, stop):
        while place >= plane_ptr[b + 1]:
            b += 1
        rows, columns = mesh[b, 1], mesh[b, 2]
        row = (place - plane_ptr[b]) * rows
        for _ in range(rows):
            source, target = mesh_ptr[b] + row * columns, padded_ptr[b] + row * (columns + padding)
            for c in range(columns):
                padded[target + c] = potentials[source + c]
            for c in range(padding):
                padded[target + columns + c] = potentials[source + c % columns]
            row += 1


@jit
def gather(
    mesh, segment_ptr, included, reciprocal, padded_ptr, order, base, charges, size, values, slopes, padded, forces,
    potential, start, stop,
):  # fmt: skip
    """Interpolate forces and potentials of the atoms in places ``start .. stop - 1``."""
    width = values.shape[2]
    lanes = np.empty(12)
    b = 0
    for s in range(start, stop):
        while s >= segment_ptr[b + 1]:
            b += 1
        i = order[s]
        if not included[b]:
            forces[i, 0] = forces[i, 1] = forces[i, 2] = 0.0
            potential[i] = 0.0
            continue
        planes, rows, stride = mesh[b, 0], mesh[b, 1], mesh[b, 2] + width
        value = along_first = along_second = along_third = 0.0
        for c in range(0, width, 4):
            a0 = a1 = a2 = a3 = 0.0
            b0 = b1 = b2 = b3 = 0.0
            c0 = c1 = c2 = c3 = 0.0
            for j in range(size):
                plane = base[i, 0] + j
                if plane >= planes:
                    plane -= planes
                at = padded_ptr[b] + plane * rows * stride + base[i, 2] + c
                p0 = p1 = p2 = p3 = 0.0
                q0 = q1 = q2 = q3 = 0.0
                for r in range(size):
                    row = base[i, 1] + r
                    if row >= rows:
                        row -= rows
                    k = at + row * stride
                    v, d = values[s, 1, r], slopes[s, 1, r]
                    f0, f1, f2, f3 = padded[k], padded[k + 1], padded[k + 2], padded[k + 3]
                    p0 += v * f0
                    p1 += v * f1
                    p2 += v * f2
                    p3 += v * f3
                    q0 += d * f0
                    q1 += d * f1
                    q2 += d * f2
                    q3 += d * f3
                v, d = values[s, 0, j], slopes[s, 0, j]
                a0 += v * p0
                a1 += v * p1
                a2 += v * p2
                a3 += v * p3
                b0 += d * p0
                b1 += d * p1
                b2 += d * p2
                b3 += d * p3
                c0 += v * q0
                c1 += v * q1
                c2 += v * q2
                c3 += v * q3
            lanes[0], lanes[1], lanes[2], lanes[3] = a0, a1, a2, a3
            lanes[4], lanes[5], lanes[6], lanes[7] = b0, b1, b2, b3
            lanes[8], lanes[9], lanes[10], lanes[11] = c0, c1, c2, c3
            for m in range(4):
                v, d = values[s, 2, c + m], slopes[s, 2, c + m]
                value += v * lanes[m]
                along_first += v * lanes[4 + m]
                along_second += v * lanes[8 + m]
                along_third += d * lanes[m]
        g = reciprocal[b]
        potential[i] = value
        along_first *= mesh[b, 0]
        along_second *= mesh[b, 1]
        along_third *= mesh[b, 2]
        factor = -charges[i] / (2.0 * math.pi)
        for x in range(3):
            forces[i, x] = factor * (along_first * g[0, x] + along_second * g[1, x] + along_third * g[2, x])
