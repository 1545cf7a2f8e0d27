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
from athanor.kernels._vectors import add_scaled, load, store, zeros
from athanor.kernels.coulomb._cpu_erfc import gaussian
from athanor.kernels.ewald._cpu import reciprocal_vectors

BLOCK = 16
"""Atoms whose splines are computed together."""


@jit
def layout(cell, included, mesh, size, padding, volumes, reciprocal, plane_ptr, mesh_ptr, half_ptr, padded_ptr):
    """Write volumes, 2 pi times inverse cells, and where planes, meshes, their spectra and padded copies begin."""
    for b in range(cell.shape[0]):
        planes = points = half = padded = 0
        if included[b]:
            volumes[b] = reciprocal_vectors(cell[b], reciprocal[b])
            planes = mesh[b, 0]
            rows = planes * mesh[b, 1]
            points = rows * mesh[b, 2]
            half = rows * (mesh[b, 2] // 2 + 1)
            padded = planes * (mesh[b, 1] + size) * (mesh[b, 2] + padding)
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
    flat = values.reshape(values.size)
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
                for c in range(0, width, 4):
                    points = load(flat, (3 * s + 2) * width + c)
                    at = base[i, 1] * stride + base[i, 2] + c
                    for r in range(size):
                        store(buffer, at, add_scaled(load(buffer, at), weight * values[s, 1, r], points))
                        at += stride
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
    totals, work = np.empty((4, most)), np.empty((3, most))
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
            if n1 == 0 and n2 == 0:
                amplitudes[begin, 0] = amplitudes[begin, 1] = 0.0
            multiply_row(
                half, x, y, z, g[2, 0], g[2, 1], g[2, 2], quarter, scale * second[row], float(n2), third,
                work, totals, amplitudes[begin : begin + half],
            )  # fmt: skip
        xx = xy = xz = yy = yz = zz = energy = 0.0
        for n3 in range(half):
            weight = 0.5 if n3 == 0 else 1.0  # for those at -n3, which are not in the spectrum
            energy += weight * totals[0, n3]
            s, s2, s22 = weight * totals[1, n3], weight * totals[2, n3], weight * totals[3, n3]
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
def multiply_row(half, x, y, z, gx, gy, gz, quarter, scale, n2, third, rows, totals, amplitudes):
    """Multiply a row of a spectrum; add its energies, and the slopes of these by half the square of k, to `totals`.

    Several loops, as LLVM puts none in vectors whose arrays are many.
    """
    green, slope, energy = rows[0], rows[1], rows[2]
    for n3 in range(half):
        kx, ky, kz = x + n3 * gx, y + n3 * gy, z + n3 * gz
        square = max(kx * kx + ky * ky + kz * kz, 1e-300)  # at k = 0 the amplitude is zero
        inverse = 1.0 / square
        green[n3] = scale * third[n3] * gaussian(min(square * quarter, 64.0)) * inverse
        slope[n3] = -2.0 * (inverse + quarter)
    for n3 in range(half):
        real, imaginary = amplitudes[n3, 0], amplitudes[n3, 1]
        energy[n3] = green[n3] * (real * real + imaginary * imaginary)
        amplitudes[n3, 0] = green[n3] * real
        amplitudes[n3, 1] = green[n3] * imaginary
    energies, slopes, moments, squares = totals[0], totals[1], totals[2], totals[3]
    for n3 in range(half):
        energies[n3] += energy[n3]
        slope[n3] *= energy[n3]
    for n3 in range(half):
        slopes[n3] += slope[n3]
        moments[n3] += slope[n3] * n2
        squares[n3] += slope[n3] * (n2 * n2)


@jit
def pad(mesh, plane_ptr, mesh_ptr, padded_ptr, size, padding, potentials, padded, start, stop):
    """Copy planes ``start .. stop - 1`` such that each goes on with its first rows, each row with its first points."""
    b = 0
    for place in range(start, stop):
        while place >= plane_ptr[b + 1]:
            b += 1
        rows, columns = mesh[b, 1], mesh[b, 2]
        plane = place - plane_ptr[b]
        for row in range(rows + size):
            source = mesh_ptr[b] + (plane * rows + row % rows) * columns
            target = padded_ptr[b] + (plane * (rows + size) + row) * (columns + padding)
            for c in range(columns):
                padded[target + c] = potentials[source + c]
            for c in range(padding):
                padded[target + columns + c] = potentials[source + c % columns]


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
        planes, stride = mesh[b, 0], mesh[b, 2] + width
        of_plane = (mesh[b, 1] + size) * stride
        value = along_first = along_second = along_third = 0.0
        for c in range(0, width, 4):
            plain, first, second = zeros(), zeros(), zeros()
            for j in range(size):
                plane = base[i, 0] + j
                if plane >= planes:
                    plane -= planes
                at = padded_ptr[b] + plane * of_plane + base[i, 1] * stride + base[i, 2] + c
                along, across = zeros(), zeros()
                for r in range(size):
                    points = load(padded, at)
                    along = add_scaled(along, values[s, 1, r], points)
                    across = add_scaled(across, slopes[s, 1, r], points)
                    at += stride
                plain = add_scaled(plain, values[s, 0, j], along)
                first = add_scaled(first, slopes[s, 0, j], along)
                second = add_scaled(second, values[s, 0, j], across)
            store(lanes, 0, plain)
            store(lanes, 4, first)
            store(lanes, 8, second)
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
