"""Neighbour search in batches: public calls and their registration with torch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import DtypeError, InputError, ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_op
from athanor.kernels._threads import balanced_bounds, num_parts, run_parts, system_bounds
from athanor.kernels.neighbor_list import _reference
from athanor.kernels.neighbor_list.packing import BITS, MAX_IMAGE, NarrowImagesError

WIDTH = 8
"""Of lanes, which are not imported before a kernel runs."""

_cpu = LazyModule("athanor.kernels.neighbor_list._cpu")
_cpu_bins = LazyModule("athanor.kernels.neighbor_list._cpu_bins")
_candidates = LazyModule("athanor.kernels.neighbor_list._cpu_candidates")

List = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def build_neighbor_list(
    positions: torch.Tensor,
    cell: torch.Tensor,
    pbc: torch.Tensor,
    segment_ptr: torch.Tensor,
    radius: float,
    half: bool,
    rebuild: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
) -> List:
    r"""Find every pair closer than a radius, in each system that asks for it.

    With atoms wrapped into the cell, :math:`x_i = r_i - w_i h`, a pair (i, j, S) is listed if

    .. math:: |x_j - x_i + S h| < R, \qquad x_j - x_i + S h = r_j - r_i + (S - w_j + w_i) h

    ============  ================
    symbol        variable
    ============  ================
    :math:`h`     ``cell``
    :math:`w`     ``wrap_offsets``
    :math:`S`     ``images``
    :math:`R`     ``radius``
    ============  ================

    Rows are sorted by (j, S), S by x, then y, then z. An atom is never its own neighbour with S = 0, but with other S.
    A half list keeps of each pair and its mirror image (j, i, -S) the one with i < j, and for i = j the one whose first
    component of S that is not zero is positive.

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å; may lie outside the cell. Distances are computed in double precision.
    cell
        [B, 3, 3], rows are lattice vectors, Å. Vectors without periodicity are ignored and may be zero.
    pbc
        bool [B, 3].
    segment_ptr
        int32 [B + 1], first atom of each system.
    radius
        Å, positive and finite.
    half
        List each pair once.
    rebuild
        bool [B]; the rows and offsets of the other systems are copied from the four tensors that follow.
    row_ptr
        int64 [N + 1], first entry of each atom's row.
    neighbors
        int32 [P], index j within the system of i.
    images
        [P], S as `pack_images` packs it; int8, or int32 if images may be more than one cell away. What is returned has
        the same type.
    wrap_offsets
        int32 [N, 3].

    Returns
    -------
    tuple of torch.Tensor
        New ``row_ptr``, ``neighbors``, ``images``, ``wrap_offsets``. A system with positions or periodic cell vectors
        that are not finite, or 2^30 cells away, gets no pairs and zero offsets.

    Raises
    ------
    InputError
        If `radius` is not positive and finite, a periodic cell is flat, or more than 511 images are within the radius.
    NarrowImagesError
        An `InputError`, if `images` are int8 and the radius reaches beyond the next cells.
    ShapeError, DtypeError
        If a tensor is not as above.

    Notes
    -----
    Waits for the device, as the number of pairs is not known before. A system's rows depend on that system only.
    """
    _runtime.ready()
    _check_shapes(positions, cell, pbc, segment_ptr, rebuild, row_ptr, wrap_offsets)
    if not (0.0 < radius < math.inf):
        raise InputError(f"`radius` is {radius}; it must be positive and finite (Å).")
    return _build(
        positions, cell, pbc, segment_ptr, float(radius), half, rebuild, row_ptr, neighbors, images, wrap_offsets
    )


def minimum_distance(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
) -> torch.Tensor:
    """Find the smallest distance among the listed pairs of each system.

    Parameters
    ----------
    positions
        [N, 3], Å, as they stand: the list may be older.
    cell
        [B, 3, 3], Å.
    segment_ptr, row_ptr, neighbors, images, wrap_offsets
        As `build_neighbor_list` takes and returns them.

    Returns
    -------
    torch.Tensor
        [B], Å, dtype of `positions`; infinity for a system without pairs.
    """
    _runtime.ready()
    return _minimum_distance(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)


def _check_shapes(positions, cell, pbc, segment_ptr, rebuild, row_ptr, wrap_offsets):
    atoms, systems = positions.shape[0], segment_ptr.shape[0] - 1
    for name, tensor, shape in (
        ("positions", positions, (atoms, 3)),
        ("cell", cell, (systems, 3, 3)),
        ("pbc", pbc, (systems, 3)),
        ("rebuild", rebuild, (systems,)),
        ("row_ptr", row_ptr, (atoms + 1,)),
        ("wrap_offsets", wrap_offsets, (atoms, 3)),
    ):
        if tensor.shape != shape:
            raise ShapeError(
                f"`{name}` has shape {tuple(tensor.shape)}; {atoms} atoms in {systems} systems need {shape}."
            )
    if pbc.dtype != torch.bool or rebuild.dtype != torch.bool:
        raise DtypeError(f"`pbc` is {pbc.dtype} and `rebuild` {rebuild.dtype}; both must be torch.bool.")


class _Found(NamedTuple):
    """Rows as the search leaves them, bin by bin, and what says where they belong; see ``_cpu.write``."""

    tasks: np.ndarray
    segment_ptr: np.ndarray
    status: np.ndarray
    most: np.ndarray
    bins: np.ndarray
    ids: np.ndarray
    memory: np.ndarray
    lengths: np.ndarray


def _build_cpu(positions, cell, pbc, segment_ptr, radius, half, rebuild, row_ptr, neighbors, images, wrap_offsets):
    old = (as_array(row_ptr), as_array(neighbors), as_array(images))
    offsets = np.empty((positions.shape[0], 3), np.int32)
    moved = (rebuild, wrap_offsets, images.dtype)
    rows, by_task = _search(positions, cell, pbc, segment_ptr, radius, half, moved, old[0], offsets)
    new_row_ptr = np.empty_like(old[0])
    total = _cpu.place_rows(rows.lengths, new_row_ptr)
    pairs, codes = np.empty(total, np.int32), np.empty(total, old[2].dtype)
    run_parts(_cpu.write, (*rows, *old, new_row_ptr, pairs, codes, BITS[images.dtype]), by_task)
    found = as_tensor(pairs, torch.int32), as_tensor(codes, images.dtype)
    return as_tensor(new_row_ptr, torch.int64), *found, as_tensor(offsets, torch.int32)


def _search(positions, cell, pbc, segment_ptr, radius, half, moved, old_rows, offsets):
    """Return the rows that were found, and how tasks are cut into parts; what the search needs is given back."""
    n, systems = positions.shape[0], cell.shape[0]
    rebuild, wrap_offsets, image_type = moved
    ptr, periodic = as_array(segment_ptr), as_array(pbc)
    x, g = np.empty((n, 3)), np.empty((n, 3))
    xs, ids = np.empty((3, n + WIDTH)), np.empty(n + WIDTH, np.int32)  # they are read eight at a time
    full, reach, grid = np.empty((systems, 3, 3)), np.empty((systems, 3)), np.ones((systems, 3), np.int32)
    bins, status = np.empty(2 * n + 2 * systems, np.int32), np.empty(systems, np.int8)
    row_lengths, most = np.empty(systems), np.empty((systems, 9), np.int64)
    ours = (as_doubles(positions), as_doubles(cell), periodic, ptr, radius, as_array(rebuild), as_array(wrap_offsets))
    run_parts(
        _cpu_bins.prepare,
        (*ours, x, g, offsets, full, grid, reach, bins, xs, ids, row_lengths, most, status),
        system_bounds(ptr, 100.0 * n),
    )
    tasks, work, worst = _cpu.plan(ptr, status, row_lengths, bins, grid, half, torch.get_num_threads())
    if worst >= _cpu_bins.FLAT_CELL:
        _refuse(int(np.argmax(status >= _cpu_bins.FLAT_CELL)), worst == _cpu_bins.FLAT_CELL, radius)
    if image_type == torch.int8 and (most[status == _cpu_bins.SEARCHED, _candidates.WIDE :] > 3).any():
        raise NarrowImagesError("Images may be more than 1 cell away; pass `images` as torch.int32.")
    by_task = balanced_bounds(work, min(num_parts(work[-1]), max(len(tasks), 1)))
    lengths, found = np.empty(n, np.int64), np.empty(len(tasks), np.int64)
    searched = (tasks, ptr, status, periodic, full, grid, reach, most, x, bins, xs, ids, radius * radius, half)
    is_short = True
    while is_short:  # twice at most: then it is known how much room there must be
        memory = np.empty(int(tasks[-1, 4]) if len(tasks) else 0, np.int32)
        run_parts(_cpu.search, (*searched, old_rows, lengths, memory, found), by_task)
        is_short = _cpu.make_room(tasks, found)
    return _Found(tasks, ptr, status, most, bins, ids, memory, lengths), by_task


def _refuse(index: int, flat: bool, radius: float) -> None:
    if flat:
        raise InputError(
            f"The periodic cell vectors of the system at index {index} lie in one plane or line. "
            "Set `cell` to vectors with a volume, or `pbc` to False."
        )
    raise InputError(
        f"The cell of the system at index {index} is so thin that more than {MAX_IMAGE} images are within "
        f"`radius` = {radius} Å. Use a larger cell or a smaller cutoff."
    )


def _minimum_distance_cpu(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets):
    smallest = np.empty(cell.shape[0])
    ptr = as_array(segment_ptr)
    lists = (as_array(row_ptr), as_array(neighbors), as_array(images), as_array(wrap_offsets))
    arguments = (as_doubles(positions), as_doubles(cell), ptr, *lists, smallest)
    run_parts(_cpu.smallest_distance, arguments, system_bounds(ptr, 3.0 * len(neighbors)))
    return as_tensor(smallest, positions.dtype)


def _build_fake(positions, cell, pbc, segment_ptr, radius, half, rebuild, row_ptr, neighbors, images, wrap_offsets):
    pairs = torch.library.get_ctx().new_dynamic_size()
    new_pairs = neighbors.new_empty((pairs,)), images.new_empty((pairs,))
    return torch.empty_like(row_ptr), *new_pairs, torch.empty_like(wrap_offsets)


def _minimum_distance_fake(positions: torch.Tensor, cell: torch.Tensor, *lists: torch.Tensor) -> torch.Tensor:
    return positions.new_empty((cell.shape[0],))


_build = register_op(build_neighbor_list, cpu=_build_cpu, reference=_reference.build_neighbor_list, fake=_build_fake)
_minimum_distance = register_op(
    minimum_distance, cpu=_minimum_distance_cpu, reference=_reference.minimum_distance, fake=_minimum_distance_fake
)
