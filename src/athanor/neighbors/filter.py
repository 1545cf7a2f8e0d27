"""A smaller cutoff out of a larger list, in the format a model wants; plain torch on the views of the stored list.

A pair (i, j) with integer cell shift S has the vector r_j - r_i + S · cell and counts if its length is strictly below
the cutoff. Built-in models read the stored list and need none of this.
"""

from __future__ import annotations

from typing import Any

import torch

from athanor.data.pair_request import TOLERANCE
from athanor.errors import InputError, SimulationError
from athanor.neighbors.config import NeighborListFormat


def _shift_vectors(
    shifts: torch.Tensor, cell: torch.Tensor, systems: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Return S · cell for `shifts` [M, ..., 3] of atoms in `systems` [M]."""
    if cell.ndim == 3 and cell.shape[0] == 1:
        cell = cell[0]
    if cell.ndim == 2:
        return shifts.to(dtype) @ cell.to(dtype)
    if systems is None:
        raise InputError(f"`cell` has shape {tuple(cell.shape)}; pass `batch_idx` to say which cell each atom is in.")
    per_atom = cell.to(dtype)[systems]
    flat = shifts.to(dtype).reshape(shifts.shape[0], -1, 3)
    return torch.bmm(flat, per_atom).reshape(shifts.shape)


@torch.no_grad()
def filter_neighbor_matrix(
    positions: torch.Tensor,
    cutoff: float,
    neighbor_matrix: torch.Tensor,
    num_neighbors: torch.Tensor,
    fill_value: int,
    cell: torch.Tensor | None = None,
    neighbor_matrix_shifts: torch.Tensor | None = None,
    batch_idx: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Keep the entries of a neighbour matrix that are closer than `cutoff`, packed to the left in their order.

    Parameters
    ----------
    positions
        [N, 3], Å.
    cutoff
        Å.
    neighbor_matrix, num_neighbors
        [N, K] and [N].
    fill_value
        Written to empty entries.
    cell
        [3, 3], or [B, 3, 3] together with `batch_idx`; Å.
    neighbor_matrix_shifts
        [N, K, 3], integer cell shifts.
    batch_idx
        [N], system of each atom.

    Returns
    -------
    tuple
        Matrix [N, K] of the same width, counts [N], and shifts [N, K, 3] or ``None``.
    """
    width = neighbor_matrix.shape[1]
    valid = torch.arange(width, device=positions.device) < num_neighbors.unsqueeze(1)
    target = torch.where(valid, neighbor_matrix, 0).long()
    vectors = positions[target] - positions.unsqueeze(1)
    if neighbor_matrix_shifts is not None and cell is not None:
        vectors = vectors + _shift_vectors(neighbor_matrix_shifts, cell, batch_idx, positions.dtype)
    keep = valid & (vectors.norm(dim=-1) < cutoff)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    kept = keep.gather(1, order)
    matrix = torch.where(kept, neighbor_matrix.gather(1, order), fill_value).to(neighbor_matrix.dtype)
    shifts = None
    if neighbor_matrix_shifts is not None:
        packed = neighbor_matrix_shifts.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
        shifts = torch.where(kept.unsqueeze(-1), packed, 0).to(neighbor_matrix_shifts.dtype)
    return matrix, keep.sum(dim=1).to(num_neighbors.dtype), shifts


@torch.no_grad()
def filter_neighbor_list(
    positions: torch.Tensor,
    cutoff: float,
    neighbor_list: torch.Tensor,
    neighbor_ptr: torch.Tensor,
    cell: torch.Tensor | None = None,
    neighbor_list_shifts: torch.Tensor | None = None,
    batch_idx: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Keep the pairs of a list that are closer than `cutoff`.

    Parameters
    ----------
    positions
        [N, 3], Å.
    cutoff
        Å.
    neighbor_list, neighbor_ptr
        [E, 2] sorted by the first atom, and its offsets [N + 1].
    cell, batch_idx
        As in `filter_neighbor_matrix`.
    neighbor_list_shifts
        [E, 3], integer cell shifts.

    Returns
    -------
    tuple
        List [E', 2], offsets [N + 1], and shifts [E', 3] or ``None``.
    """
    source, target = neighbor_list[:, 0].long(), neighbor_list[:, 1].long()
    vectors = positions[target] - positions[source]
    if neighbor_list_shifts is not None and cell is not None:
        systems = None if batch_idx is None else batch_idx[source]
        vectors = vectors + _shift_vectors(neighbor_list_shifts, cell, systems, positions.dtype)
    keep = vectors.norm(dim=-1) < cutoff
    pointer = _pointer(source[keep], len(neighbor_ptr) - 1).to(neighbor_ptr.dtype)
    shifts = None if neighbor_list_shifts is None else neighbor_list_shifts[keep]
    return neighbor_list[keep], pointer, shifts


def _pointer(source: torch.Tensor, num_atoms: int) -> torch.Tensor:
    pointer = torch.zeros(num_atoms + 1, dtype=torch.int32, device=source.device)
    pointer[1:] = torch.bincount(source, minlength=num_atoms).cumsum(0)
    return pointer


@torch.no_grad()
def neighbor_matrix_to_list(
    neighbor_matrix: torch.Tensor,
    num_neighbors: torch.Tensor,
    fill_value: int,
    neighbor_matrix_shifts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Turn a neighbour matrix into a list of pairs.

    Returns
    -------
    tuple
        List [E, 2] int32 sorted by the first atom, offsets [N + 1] int32, and shifts [E, 3] or ``None``.
    """
    num_atoms, width = neighbor_matrix.shape
    valid = torch.arange(width, device=neighbor_matrix.device) < num_neighbors.unsqueeze(1)
    valid &= neighbor_matrix != fill_value
    source, column = valid.nonzero(as_tuple=True)
    pairs = torch.stack([source, neighbor_matrix[source, column].long()], dim=1).to(torch.int32)
    shifts = None if neighbor_matrix_shifts is None else neighbor_matrix_shifts[source, column]
    return pairs, _pointer(source, num_atoms), shifts


def prepare_neighbors_for_model(
    data: Any, model_cutoff: float, target_format: NeighborListFormat | str, fill_value: int
) -> dict[str, torch.Tensor]:
    """Return the neighbours of `data` within `model_cutoff` in the format a model reads.

    Parameters
    ----------
    data
        A batch with a neighbour list, or anything with the same attributes.
    model_cutoff
        Å. A list searched to a larger radius is filtered; one without a recorded radius is taken as it is.
    target_format
        ``"coo"`` or ``"matrix"``.
    fill_value
        Content of empty entries of the matrix.

    Returns
    -------
    dict
        ``neighbor_matrix``, ``num_neighbors`` and, if there are shifts, ``neighbor_matrix_shifts``; or
        ``neighbor_list``, ``edge_ptr`` and ``neighbor_list_shifts``.

    Raises
    ------
    SimulationError
        A `RuntimeError`, if `data` has no neighbours, or has only pairs where a matrix is wanted.
    """
    matrix = getattr(data, "neighbor_matrix", None)
    pairs = getattr(data, "neighbor_list", None)
    if matrix is None and pairs is None:
        raise SimulationError(
            "The data has neither 'neighbor_matrix' nor 'neighbor_list'. Register the hooks of "
            "`model.make_neighbor_hooks()`, or call `compute_neighbors(batch, config=...)` first."
        )
    wants_matrix = NeighborListFormat(target_format) == NeighborListFormat.MATRIX
    if wants_matrix and matrix is None:
        raise SimulationError("The target format is MATRIX and the data has pairs only. Build the list as a matrix.")
    radius = getattr(data, "neighbor_list_radius", None) or getattr(data, "_neighbor_list_cutoff", None)
    is_larger = radius is not None and radius - model_cutoff > TOLERANCE
    place = {"cell": getattr(data, "cell", None), "batch_idx": getattr(data, "batch_idx", None)}
    if wants_matrix or pairs is None:
        assert matrix is not None
        counts, shifts = data.num_neighbors, getattr(data, "neighbor_matrix_shifts", None)
        if is_larger:
            matrix, counts, shifts = filter_neighbor_matrix(
                data.positions, model_cutoff, matrix, counts, fill_value, neighbor_matrix_shifts=shifts, **place
            )
        if wants_matrix:
            found = {"neighbor_matrix": matrix, "num_neighbors": counts}
            return found if shifts is None else {**found, "neighbor_matrix_shifts": shifts}
        pairs, pointer, shifts = neighbor_matrix_to_list(matrix, counts, fill_value, shifts)
    else:
        shifts = getattr(data, "neighbor_list_shifts", None)
        given = getattr(data, "edge_ptr", None)
        pointer = _pointer(pairs[:, 0].long(), data.positions.shape[0]) if given is None else given
        if is_larger:
            pairs, pointer, shifts = filter_neighbor_list(
                data.positions, model_cutoff, pairs, pointer, neighbor_list_shifts=shifts, **place
            )
    found = {"neighbor_list": pairs, "edge_ptr": pointer}
    return found if shifts is None else {**found, "neighbor_list_shifts": shifts}
