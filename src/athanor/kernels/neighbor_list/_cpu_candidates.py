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

RANK_BITS, BITMAP, SEVERAL, CANDIDATES, IMAGES, ATOMS, WIDE = 0, 1, 2, 3, 4, 5, 6
"""What a search needs at most: bits of an image's rank, and of the bitmap; whether an atom may have several images in
reach, and then a bit for each; candidates of a bin, images in reach, atoms in a bin; and images along each axis."""

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
def measure(n, pbc, grid, reach, cube, bins, most):
    """Write what the search of a system of n atoms needs at most; return how long a row may be, and if it can be done.

    How long a row is comes from bins as full as atoms find them, in a sphere (`cube` is that of its radius) or a box.
    What `most` gets stands beside its names.
    """
    ranks, visited, several, length = 1, 1, 0, 0.6
    for a in range(3):
        away, size = bins_within(reach[a]), np.int64(grid[a])
        most[WIDE + a] = images_within(away, size, pbc[a])
        ranks *= most[WIDE + a]
        visited *= 2 * away + 1 if pbc[a] else min(2 * away + 1, size)
        length *= 2.0 * reach[a] if pbc[a] else min(2.0 * reach[a], float(size))
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
    most[RANK_BITS], most[SEVERAL], most[BITMAP] = rank_bits, several, n << (rank_bits if several else 0)
    most[CANDIDATES] = min(n * ranks, fullest * visited) + WIDTH
    most[IMAGES], most[ATOMS] = ranks, fullest
    length = min(length, 5.0 * cube)
    return min(length * squares / n + 8.0, float(n) * ranks), float(n) * (1 << rank_bits) < 2.0**31


@jit
def code_of_rank(rank, widths, bits):
    """Return the image of a rank, see `rank_of`, packed in `bits` for each number."""
    z = rank % widths[2] - widths[2] // 2
    y = rank // widths[2] % widths[1] - widths[1] // 2
    x = rank // widths[2] // widths[1] - widths[0] // 2
    mask = (1 << bits) - 1
    return (x & mask) | (y & mask) << bits | (z & mask) << 2 * bits


@jit_loop
def gather_candidates(
    k, first, pbc, h, grid, reach, rank_bits, several, my_bins, xs, ids, limit, words, touched, slots, parts, shifts,
    places, keys, own,
):  # fmt: skip
    """Gather the atoms that may be in reach of one in bin k, in the order of a row; return how many, and if any moved.

    Written are where they are and by what they are moved (`places`), their `keys`, and where among them the bin's `own`
    atoms stand. A bitmap, `words` of which groups are `touched`, puts them in order, and is left empty; `slots` says
    what a bit stands for. From a candidate to one at x the vector is ``(x - place) + shift``: from the other side it is
    the same with another sign, to the last bit.
    """
    shift = rank_bits if several else 0
    highest, center = mark_candidates(
        k, first, pbc, h, grid, reach, shift, my_bins, xs, ids, limit, words, touched, slots, parts, shifts
    )
    mine, end = first + my_bins[k], first + my_bins[k + 1]
    count, is_moved = 0, False
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
                if parts[part] != center:
                    is_moved = True
                elif mine <= place < end:
                    own[place - mine] = count
                count += 1
    return count, is_moved


@jit_loop
def mark_candidates(
    k, first, pbc, h, grid, reach, shift, my_bins, xs, ids, limit, words, touched, slots, parts, shifts
):
    """Mark the atoms that may be in reach of one in bin k; return the highest bit, and the rank of what is not moved.

    The atom of a bit is at ``slots[bit, 0]``, in the image of rank ``parts[slots[bit, 1]]``.
    """
    n0, n1, n2 = np.int64(grid[0]), np.int64(grid[1]), np.int64(grid[2])
    b0, b1, b2 = k // (n1 * n2), k // n2 % n1, k % n2
    away0, away1, away2 = bins_within(reach[0]), bins_within(reach[1]), bins_within(reach[2])
    wide0, wide1 = images_within(away0, n0, pbc[0]), images_within(away1, n1, pbc[1])
    wide2 = images_within(away2, n2, pbc[2])
    square = 1.0 if is_rectangular(h) else 0.0  # only then distances to two slabs add up in squares
    mine = first + my_bins[k]
    x0, y0, z0 = xs[0, mine], xs[1, mine], xs[2, mine]
    x1, y1, z1 = x0, y0, z0
    for m in range(mine + 1, first + my_bins[k + 1]):
        x0, x1 = min(x0, xs[0, m]), max(x1, xs[0, m])
        y0, y1 = min(y0, xs[1, m]), max(y1, xs[1, m])
        z0, z1 = min(z0, xs[2, m]), max(z1, xs[2, m])
    highest = part = 0
    for c0 in range((b0 - away0) // n0 if pbc[0] else 0, ((b0 + away0) // n0 if pbc[0] else 0) + 1):
        for c1 in range((b1 - away1) // n1 if pbc[1] else 0, ((b1 + away1) // n1 if pbc[1] else 0) + 1):
            for c2 in range((b2 - away2) // n2 if pbc[2] else 0, ((b2 + away2) // n2 if pbc[2] else 0) + 1):
                for c in range(3):
                    shifts[part, c] = -c0 * h[0, c] - c1 * h[1, c] - c2 * h[2, c]
                sx, sy, sz = shifts[part, 0], shifts[part, 1], shifts[part, 2]
                parts[part] = rank = rank_of(c0, c1, c2, wide0, wide1, wide2)
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
                        end = first + my_bins[line + high + 1]
                        for m in range(first + my_bins[line + low], end, 64):
                            word = near_box(
                                xs, m, end, x0 + sx, x1 + sx, y0 + sy, y1 + sy, z0 + sz, z1 + sz, limit * _WIDER
                            )
                            while word != 0:
                                place = m + lowest_bit(word)
                                word &= word - 1
                                bit = np.int64(ids[place]) << shift
                                bit |= rank if shift else 0
                                words[bit >> 6] |= np.int64(1) << (bit & 63)
                                touched[bit >> GROUP] = True
                                slots[bit, 0], slots[bit, 1] = place, part
                                highest = max(highest, bit)
                part += 1
    return highest, rank_of(0, 0, 0, wide0, wide1, wide2)


@inlined
def rank_of(c0, c1, c2, wide0, wide1, wide2):
    """Return the rank of an image: images are in the order of x, then y, then z."""
    return ((c0 + wide0 // 2) * wide1 + c1 + wide1 // 2) * wide2 + c2 + wide2 // 2


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
    """Return which of up to 64 candidates from `first` on are within the squared radius, as bits, the first lowest."""
    word, n = np.int64(0), places.shape[1]
    for k in range(first, min(last, first + 64), WIDTH):
        dx, dy, dz = x[0] - load(places, k), x[1] - load(places, n + k), x[2] - load(places, 2 * n + k)
        if is_moved:
            dx, dy, dz = dx + load(places, 3 * n + k), dy + load(places, 4 * n + k), dz + load(places, 5 * n + k)
        close = is_less(dx * dx + dy * dy + dz * dz, spread(limit))
        word |= bits_of(both(close, lanes_before(last - k))) << (k - first)
    return word
