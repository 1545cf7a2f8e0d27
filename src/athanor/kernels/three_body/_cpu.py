"""The Stillinger-Weber potential with numba: an atom's pairs and angles in the order of its row."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._numba_options import inlined, jit
from athanor.kernels.neighbor_list._cpu_pairs import vectors


@inlined
def power(x, n):
    """Return x to the power n, which is 4 or 0 in almost all there is."""
    return x * x * (x * x) if n == 4.0 else 1.0 if n == 0.0 else x**n


@jit
def rows(
    x, cell, segment_ptr, row_ptr, neighbors, images, types, pair, triple, gradients, forces, sums, start, stop
):  # fmt: skip
    """Evaluate the terms that have an atom of ``start .. stop - 1`` in their middle.

    Written are its energy and virial, the `gradients` of its energy by the vectors to its neighbours, and of its force
    what comes from these; `push` adds the rest.
    """
    longest = 0
    for i in range(start, stop):
        longest = max(longest, row_ptr[i + 1] - row_ptr[i])
    dx, dy, dz = np.empty(longest), np.empty(longest), np.empty(longest)
    inverses, screens, slopes = np.empty(longest), np.empty(longest), np.empty(longest)
    kinds, inside = np.empty(longest, np.int64), np.empty(longest, np.int64)
    b = 0
    for i in range(start, stop):
        while i >= segment_ptr[b + 1]:
            b += 1
        first, row, own = segment_ptr[b], row_ptr[i], types[i]
        count = vectors(i, first, x, cell[b], row_ptr, neighbors, images, dx, dy, dz)
        energy, near = 0.0, 0
        for m in range(count):
            gradients[row + m, 0] = gradients[row + m, 1] = gradients[row + m, 2] = 0.0
            other = types[first + neighbors[row + m]]
            r = math.sqrt(dx[m] * dx[m] + dy[m] * dy[m] + dz[m] * dz[m])
            if r >= pair[own, other, 6]:
                continue
            strength, weight, p, q = pair[own, other, 0], pair[own, other, 1], pair[own, other, 2], pair[own, other, 3]
            sigma, end, decay = pair[own, other, 4], pair[own, other, 5], pair[own, other, 7]
            inverse, to_end = 1.0 / r, 1.0 / (r - end)
            ratio = sigma * inverse
            steep, flat, fade = weight * power(ratio, p), power(ratio, q), math.exp(sigma * to_end)
            bond = 0.5 * strength * fade
            energy += bond * (steep - flat)
            slope = -bond * ((p * steep - q * flat) * inverse + (steep - flat) * sigma * to_end * to_end)
            gradients[row + m, 0] = slope * dx[m] * inverse
            gradients[row + m, 1] = slope * dy[m] * inverse
            gradients[row + m, 2] = slope * dz[m] * inverse
            inverses[near], kinds[near], inside[near] = inverse, other, m
            screens[near] = math.exp(decay * to_end)
            slopes[near] = -decay * to_end * to_end * inverse  # of the logarithm of the screen, by r
            near += 1
        for u in range(near):
            m = inside[u]
            ax, ay, az = dx[m], dy[m], dz[m]
            gx = gy = gz = 0.0
            for v in range(u + 1, near):
                n = inside[v]
                strength, cosine = triple[own, kinds[u], kinds[v], 0], triple[own, kinds[u], kinds[v], 1]
                product = inverses[u] * inverses[v]
                angle = (ax * dx[n] + ay * dy[n] + az * dz[n]) * product
                bend = angle - cosine
                fade = strength * bend * screens[u] * screens[v]
                energy += fade * bend
                turn = 2.0 * fade
                along_first = fade * bend * slopes[u] - turn * angle * inverses[u] * inverses[u]
                along_second = fade * bend * slopes[v] - turn * angle * inverses[v] * inverses[v]
                across = turn * product
                gx += along_first * ax + across * dx[n]
                gy += along_first * ay + across * dy[n]
                gz += along_first * az + across * dz[n]
                gradients[row + n, 0] += along_second * dx[n] + across * ax
                gradients[row + n, 1] += along_second * dy[n] + across * ay
                gradients[row + n, 2] += along_second * dz[n] + across * az
            gradients[row + m, 0] += gx
            gradients[row + m, 1] += gy
            gradients[row + m, 2] += gz
        fx = fy = fz = xx = xy = xz = yy = yz = zz = 0.0
        for u in range(near):
            m = inside[u]
            gx, gy, gz = gradients[row + m, 0], gradients[row + m, 1], gradients[row + m, 2]
            fx += gx
            fy += gy
            fz += gz
            xx += gx * dx[m]
            xy += gx * dy[m]
            xz += gx * dz[m]
            yy += gy * dy[m]
            yz += gy * dz[m]
            zz += gz * dz[m]
        forces[i, 0], forces[i, 1], forces[i, 2] = fx, fy, fz
        sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3], sums[i, 4], sums[i, 5], sums[i, 6] = (
            energy,
            xx,
            xy,
            xz,
            yy,
            yz,
            zz,
        )


@jit
def push(gradients, segment_ptr, row_ptr, neighbors, forces, start, stop):
    """Add to the forces on neighbours what they get from the atoms in the middle, in systems ``start .. stop - 1``."""
    for b in range(start, stop):
        first = segment_ptr[b]
        for k in range(row_ptr[first], row_ptr[segment_ptr[b + 1]]):
            j = first + neighbors[k]
            forces[j, 0] -= gradients[k, 0]
            forces[j, 1] -= gradients[k, 1]
            forces[j, 2] -= gradients[k, 2]
