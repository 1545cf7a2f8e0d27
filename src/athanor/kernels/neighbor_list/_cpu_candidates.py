"""Which atoms may be close to those of a bin, with numba: gathered side by side, image by image."""

from __future__ import annotations

import math

import numpy as np

from athanor.kernels._lanes import (
    WIDTH,
    bits_of,
    both,
    is_less,
    lanes_before,
    load,
    lowest_bit,
    spread,
)
from athanor.kernels._numba_options import inlined, jit, jit_loop

GROUP = 9
"""A group of the bitmap is 2^9 bits, eight words; that there is something in it is written down."""

_MARGIN = 1e-6
_WIDER = 1.0 + 1e-6
"""Times which the square of the radius is looked through, against roundings."""


@inlined
def bins_within(reach):
    """Return how many bins away, along one axis, something may be in reach of any place in a bin."""
    return np.int64(math.floor(1.0 + reach + _MARGIN))


@inlined
def images_within(away, bins, periodic):
    """Return how many images, along one axis, may be in reach; there are as many on either side."""
    return 2 * ((away + bins - 1) // bins) + 1 if periodic else 1


@jit
def is_rectangular(h):
    """Whether the rows of a matrix are at right angles."""
    right = True
    for a in range(3):
        c = (a + 1) % 3
        product = h[a, 0] * h[c, 0] + h[a, 1] * h[c, 1] + h[a, 2] * h[c, 2]
        size = (h[a, 0] ** 2 + h[a, 1] ** 2 + h[a, 2] ** 2) * (h[c, 0] ** 2 + h[c, 1] ** 2 + h[c, 2] ** 2)
        right = right and product * product <= 1e-24 * size
    return right


@jit
def measure(n, pbc, grid, reach, bins, most):
    """Write what the search of a system of n atoms needs at most; return the crowding, and whether it can be done.

    `most` gets the bits of an image's rank, those of the bitmap, whether an atom may have several images in reach, the
    candidates of a bin, the images, how many of them there are along each axis, and the atoms in a bin. Crowding is how many atoms there are
    in the bin of an atom, on average.
    """
    ranks, visited, several = 1, 1, 0
    for a in range(3):
        away, size = bins_within(reach[a]), np.int64(grid[a])
        most[5 + a] = images_within(away, size, pbc[a])
        ranks *= most[5 + a]
        visited *= 2 * away + 1 if pbc[a] else min(2 * away + 1, size)
        if pbc[a] and 2 * away + 1 > size:
            several = 1
    rank_bits = 0
    while (1 << rank_bits) < ranks:
        rank_bits += 1
    fullest, squares = 0, 0.0
    for k in range(np.int64(grid[0]) * grid[1] * grid[2]):
        inside = bins[k + 1] - bins[k]
        fullest = max(fullest, inside)
        squares += float(inside) * inside
    most[0] = rank_bits
    most[1] = n << (rank_bits if several else 0)
    most[2] = several
    most[3] = min(n * ranks, fullest * visited) + WIDTH
    most[4], most[8] = ranks, fullest
    return squares / n, float(n) * (1 << rank_bits) < 2.0**31


@jit
def code_of_rank(rank, widths):
    """Return the packed image of a rank; ranks go through images by x, then y, then z."""
    z = rank % widths[2] - widths[2] // 2
    y = rank // widths[2] % widths[1] - widths[1] // 2
    x = rank // widths[2] // widths[1] - widths[0] // 2
    return np.int32((x & 1023) | (y & 1023) << 10 | (z & 1023) << 20)


@jit_loop
def gather_candidates(
    k, first, pbc, h, grid, reach, rank_bits, several, my_bins, xs, ids, limit, words, touched, slots, parts, shifts,
    places, keys, own
):  # fmt: skip
    """Gather the atoms that may be in reach of one in bin k, in the order of their rows; return how many, and if moved.

    Written are where they are and by what they are moved (`places`), their `keys`, and where the bin's own atoms stand
    among them. The bitmap of `words`, groups of which are `touched`, puts them in order; it is left empty. From a candidate
    to one at x the vector is ``(x - place) + shift``: what it is from the other side, with another sign, to the last bit.
    """
    n0, n1, n2 = np.int64(grid[0]), np.int64(grid[1]), np.int64(grid[2])
    b0, b1, b2 = k // (n1 * n2), k // n2 % n1, k % n2
    away0, away1, away2 = bins_within(reach[0]), bins_within(reach[1]), bins_within(reach[2])
    wide0, wide1, wide2 = images_within(away0, n0, pbc[0]), images_within(away1, n1, pbc[1]), images_within(away2, n2, pbc[2])
    square = 1.0 if is_rectangular(h) else 0.0  # only then distances to two slabs add up in squares
    mine, end = first + my_bins[k], first + my_bins[k + 1]
    x0 = x1 = xs[0, mine]
    y0 = y1 = xs[1, mine]
    z0 = z1 = xs[2, mine]
    for m in range(mine + 1, end):
        x0, x1 = min(x0, xs[0, m]), max(x1, xs[0, m])
        y0, y1 = min(y0, xs[1, m]), max(y1, xs[1, m])
        z0, z1 = min(z0, xs[2, m]), max(z1, xs[2, m])
    shift = rank_bits if several else 0
    highest, part, is_moved = 0, 0, False
    for c0 in range((b0 - away0) // n0 if pbc[0] else 0, ((b0 + away0) // n0 if pbc[0] else 0) + 1):
        for c1 in range((b1 - away1) // n1 if pbc[1] else 0, ((b1 + away1) // n1 if pbc[1] else 0) + 1):
            for c2 in range((b2 - away2) // n2 if pbc[2] else 0, ((b2 + away2) // n2 if pbc[2] else 0) + 1):
                rank = ((c0 + wide0 // 2) * wide1 + c1 + wide1 // 2) * wide2 + c2 + wide2 // 2
                for c in range(3):
                    shifts[part, c] = -c0 * h[0, c] - c1 * h[1, c] - c2 * h[2, c]
                sx, sy, sz = shifts[part, 0], shifts[part, 1], shifts[part, 2]
                parts[part] = rank
                low_bits = rank if several else 0
                for u0 in range(max(b0 - away0 - c0 * n0, 0), min(b0 + away0 - c0 * n0, n0 - 1) + 1):
                    d0 = square * max(abs(u0 + c0 * n0 - b0) - 1.0, 0.0) / reach[0]
                    for u1 in range(max(b1 - away1 - c1 * n1, 0), min(b1 + away1 - c1 * n1, n1 - 1) + 1):
                        d1 = square * max(abs(u1 + c1 * n1 - b1) - 1.0, 0.0) / reach[1]
                        chord = 1.0 - d0 * d0 - d1 * d1
                        if chord < -_MARGIN:
                            continue
                        along = bins_within(math.sqrt(max(chord, 0.0)) * reach[2])
                        low, high = max(b2 - along - c2 * n2, 0), min(b2 + along - c2 * n2, n2 - 1)
                        if low > high:
                            continue
                        line = (u0 * n1 + u1) * n2
                        right = first + my_bins[line + high + 1]
                        for m in range(first + my_bins[line + low], right, 64):
                            word = near_box(
                                xs, m, right, x0 + sx, x1 + sx, y0 + sy, y1 + sy, z0 + sz, z1 + sz, limit * _WIDER
                            )
                            while word != 0:
                                place = m + lowest_bit(word)
                                word &= word - 1
                                bit = (np.int64(ids[place]) << shift) + low_bits
                                words[bit >> 6] |= np.int64(1) << (bit & 63)
                                touched[bit >> GROUP] = True
                                slots[bit, 0], slots[bit, 1] = place, part
                                highest = max(highest, bit)
                                is_moved = is_moved or rank != center_rank(wide0, wide1, wide2)
                part += 1
    count = 0
    for group in range((highest >> GROUP) + 1):
        if not touched[group]:
            continue
        touched[group] = False
        for w in range(group << (GROUP - 6), (group + 1) << (GROUP - 6)):
            word = words[w]
            words[w] = 0
            while word != 0:
                bit = (w << 6) + lowest_bit(word)
                word &= word - 1
                place, part = slots[bit, 0], slots[bit, 1]
                for c in range(3):
                    places[c, count] = xs[c, place]
                    places[3 + c, count] = shifts[part, c]
                keys[count] = ((bit >> shift) << rank_bits) | parts[part]
                if mine <= place < end and parts[part] == center_rank(wide0, wide1, wide2):
                    own[place - mine] = count
                count += 1
    return count, is_moved


@inlined
def center_rank(wide0, wide1, wide2):
    """Return the rank of an atom that is not moved."""
    return ((wide0 // 2) * wide1 + wide1 // 2) * wide2 + wide2 // 2


@inlined
def near_box(xs, first, last, x0, x1, y0, y1, z0, z1, limit):
    """Return which of up to 64 atoms from `first` on are within the squared radius of a box, as bits."""
    word, n = np.int64(0), xs.shape[1]
    for k in range(first, min(last, first + 64), WIDTH):
        x, y, z = load(xs, k), load(xs, n + k), load(xs, 2 * n + k)
        dx, dy, dz = max(max(x0 - x, x - x1), 0.0), max(max(y0 - y, y - y1), 0.0), max(max(z0 - z, z - z1), 0.0)
        close = is_less(dx * dx + dy * dy + dz * dz, spread(limit))
        word |= bits_of(both(close, lanes_before(last - k))) << (k - first)
    return word


@inlined
def close_ones(places, first, last, x, is_moved, limit):
    """Return which of up to 64 candidates from `first` on are within the squared radius, as bits, the first one lowest."""
    word, n = np.int64(0), places.shape[1]
    for k in range(first, min(last, first + 64), WIDTH):
        dx, dy, dz = x[0] - load(places, k), x[1] - load(places, n + k), x[2] - load(places, 2 * n + k)
        if is_moved:
            dx, dy, dz = dx + load(places, 3 * n + k), dy + load(places, 4 * n + k), dz + load(places, 5 * n + k)
        close = is_less(dx * dx + dy * dy + dz * dz, spread(limit))
        word |= bits_of(both(close, lanes_before(last - k))) << (k - first)
    return word
