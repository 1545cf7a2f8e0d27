"""The innermost loops of D3 with numba, in atomic units: over the places of a tile, without branches.

They run in vector registers. All of them work on one array, the scratch, whose rows have fixed places.
"""

from __future__ import annotations

import math

from athanor.kernels._numba_options import jit
from athanor.kernels.coulomb._cpu_erfc import gaussian
from athanor.kernels.dispersion._cpu_tiles import MAX_TILE

# Rows of the scratch, which is one array so that loops over it need no checks whether arrays overlap.
DX, DY, DZ = 0, MAX_TILE, 2 * MAX_TILE
SQUARE, VALUE, SLOPES = 3 * MAX_TILE, 4 * MAX_TILE, 5 * MAX_TILE
INVERSE, SIXTH, EIGHTH = 6 * MAX_TILE, 7 * MAX_TILE, 8 * MAX_TILE
FIRST, SECOND, THIRD = 9 * MAX_TILE, 10 * MAX_TILE, 11 * MAX_TILE
"""Constants of the pairs of a row."""
FACTOR, BY_I, BY_J = 9 * MAX_TILE, 10 * MAX_TILE, 11 * MAX_TILE
"""What the sums of each pair of atoms are multiplied with, and its derivatives, when the constants have done."""
E, GX, GY, GZ = 12 * MAX_TILE, 13 * MAX_TILE, 14 * MAX_TILE, 15 * MAX_TILE
XX, XY, XZ = 16 * MAX_TILE, 17 * MAX_TILE, 18 * MAX_TILE
YY, YZ, ZZ = 19 * MAX_TILE, 20 * MAX_TILE, 21 * MAX_TILE
"""Sums over the images of each place of a tile: value, gradient, virial."""
NUM_SUMS = 10
TOTALS = 22 * MAX_TILE
"""Energy and virial of a unit of work, seven rows."""
NUM_TOTALS = 7
SCRATCH = TOTALS + NUM_TOTALS * MAX_TILE


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
        s[SLOPES + m] = inverse * (sixth * (6.0 - alpha * (1.0 - damp6)) + eighth * (8.0 - (alpha + 2) * (1.0 - damp8)))


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
def clear(count, first_row, rows, s):
    """Set sums to zero."""
    for row in range(rows):
        for m in range(count):
            s[first_row + row * MAX_TILE + m] = 0.0


@jit
def rational_constants(count, q, near_q, s8, a1, a2, s):
    """Write f^6, f^8 and s8 C8/C6 of the pairs of an atom."""
    for m in range(count):
        ratio = 3.0 * q * near_q[m]
        radius = a1 * math.sqrt(ratio) + a2
        square = radius * radius
        sixth = square * square * square
        s[FIRST + m] = sixth
        s[SECOND + m] = sixth * square
        s[THIRD + m] = s8 * ratio


@jit
def zero_constants(count, q, near_q, s8, rs6, rs8, radii, near_numbers, images, s):
    """Write (rs6 R0)^2, (rs8 R0)^2 and s8 C8/C6 of the pairs of an atom."""
    for m in range(count):
        radius = radii[near_numbers[m // images]]
        s[FIRST + m] = (rs6 * radius) * (rs6 * radius)
        s[SECOND + m] = (rs8 * radius) * (rs8 * radius)
        s[THIRD + m] = s8 * (3.0 * q * near_q[m])


@jit
def counting_constants(count, radius, near_radii, s):
    """Write the sum of the covalent radii of the pairs of an atom."""
    for m in range(count):
        s[FIRST + m] = radius + near_radii[m]
