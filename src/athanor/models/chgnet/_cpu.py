"""The atom graph and the bond graph of CHGNet on CPU: numba loops over a sorted packed pair list."""

from __future__ import annotations

import numpy as np

from athanor.kernels._numba_options import jit
from athanor.kernels.neighbor_list._cpu_shift import unpack_shift


@jit
def _image_key(code: int, sign: int) -> int:
    """Return a key that sorts packed images by (x, y, z); ``sign=-1`` gives that of the opposite image."""
    x, y, z = unpack_shift(code)
    return ((sign * x + 1024) << 22) + ((sign * y + 1024) << 11) + (sign * z + 1024)


@jit
def _find_reverse(
    row_ptr: np.ndarray, neighbors: np.ndarray, images: np.ndarray, row: int, target: int, key: int
) -> int:
    """Return where row `row` holds neighbour `target` with image key `key`, or -1; rows are sorted by both."""
    low, high = row_ptr[row], row_ptr[row + 1]
    while low < high:
        middle = (low + high) // 2
        j = neighbors[middle]
        if j < target or (j == target and _image_key(images[middle], 1) < key):
            low = middle + 1
        else:
            high = middle
    if low < row_ptr[row + 1] and neighbors[low] == target and _image_key(images[low], 1) == key:
        return low
    return -1


@jit
def find_bonds(
    positions: np.ndarray,
    cell: np.ndarray,
    segment_ptr: np.ndarray,
    row_ptr: np.ndarray,
    neighbors: np.ndarray,
    images: np.ndarray,
    wrap_offsets: np.ndarray,
    cutoff: float,
    bond_cutoff: float,
    bond_of_pair: np.ndarray,
    ends: np.ndarray,
    vectors: np.ndarray,
) -> tuple[int, int, int]:
    """Number the undirected bonds, bonds of the bond graph from the front, the others from the back.

    A bond is taken from its canonical direction (i < j, or i = j with a positive image). `bond_of_pair` must hold -1;
    it receives 2 * bond, plus 1 in the opposite direction. Returns the counts of both kinds and the number of pairs
    whose opposite is not in the list.
    """
    short = 0
    back = ends.shape[0]
    unmatched = 0
    zero_key = _image_key(0, 1)
    for b in range(segment_ptr.shape[0] - 1):
        first = segment_ptr[b]
        for i in range(first, segment_ptr[b + 1]):
            for p in range(row_ptr[i], row_ptr[i + 1]):
                j = first + neighbors[p]
                if j < i or (j == i and _image_key(images[p], 1) <= zero_key):
                    continue
                s0, s1, s2 = unpack_shift(images[p])
                s0 += wrap_offsets[i, 0] - wrap_offsets[j, 0]
                s1 += wrap_offsets[i, 1] - wrap_offsets[j, 1]
                s2 += wrap_offsets[i, 2] - wrap_offsets[j, 2]
                x = positions[j, 0] - positions[i, 0] + s0 * cell[b, 0, 0] + s1 * cell[b, 1, 0] + s2 * cell[b, 2, 0]
                y = positions[j, 1] - positions[i, 1] + s0 * cell[b, 0, 1] + s1 * cell[b, 1, 1] + s2 * cell[b, 2, 1]
                z = positions[j, 2] - positions[i, 2] + s0 * cell[b, 0, 2] + s1 * cell[b, 1, 2] + s2 * cell[b, 2, 2]
                distance = np.sqrt(x * x + y * y + z * z)
                if not distance < cutoff:
                    continue
                reverse = _find_reverse(row_ptr, neighbors, images, j, i - first, _image_key(images[p], -1))
                if reverse < 0:
                    unmatched += 1
                    continue
                if distance < bond_cutoff:
                    bond = short
                    short += 1
                else:
                    back -= 1
                    bond = back
                bond_of_pair[p] = 2 * bond
                bond_of_pair[reverse] = 2 * bond + 1
                ends[bond, 0] = i
                ends[bond, 1] = j
                vectors[bond, 0] = x
                vectors[bond, 1] = y
                vectors[bond, 2] = z
    return short, ends.shape[0] - back, unmatched


@jit
def fill_pairs(
    segment_ptr: np.ndarray,
    row_ptr: np.ndarray,
    neighbors: np.ndarray,
    bond_of_pair: np.ndarray,
    num_short: int,
    last: int,
    center: np.ndarray,
    neighbor: np.ndarray,
    bond: np.ndarray,
    short_center: np.ndarray,
    short_bond: np.ndarray,
    short_sign: np.ndarray,
    short_ptr: np.ndarray,
) -> None:
    """Write the directed pairs in row order, and of those the ones in the bond graph.

    A bond counted from the back gets the number ``last`` minus its own.
    """
    e = 0
    d = 0
    for b in range(segment_ptr.shape[0] - 1):
        first = segment_ptr[b]
        for i in range(first, segment_ptr[b + 1]):
            short_ptr[i] = d
            for p in range(row_ptr[i], row_ptr[i + 1]):
                code = bond_of_pair[p]
                if code < 0:
                    continue
                u = code >> 1
                center[e] = i
                neighbor[e] = first + neighbors[p]
                if u < num_short:
                    bond[e] = u
                    short_center[d] = i
                    short_bond[d] = u
                    short_sign[d] = 1.0 - 2.0 * (code & 1)
                    d += 1
                else:
                    bond[e] = last - u
                e += 1
    short_ptr[segment_ptr[-1]] = d


@jit
def fill_angles(short_ptr: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Write every ordered couple of different bond-graph pairs that share their centre."""
    a = 0
    for i in range(short_ptr.shape[0] - 1):
        for d in range(short_ptr[i], short_ptr[i + 1]):
            for other in range(short_ptr[i], short_ptr[i + 1]):
                if other != d:
                    first[a] = d
                    second[a] = other
                    a += 1
