"""Neighbour lists by brute force over images, in torch: any device, the oracle and the explanation."""

from __future__ import annotations

from itertools import pairwise

import torch

from athanor.kernels.neighbor_list.packing import MAX_IMAGE, pack_images, unpack_images
from athanor.kernels.segment._reference import segment_index

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def complete_cell(cell: torch.Tensor, pbc: torch.Tensor) -> torch.Tensor:
    """Replace the vectors without periodicity by unit vectors at right angles to the others, float64 [3, 3]."""
    periodic = cell[pbc].double()
    basis = torch.linalg.svd(periodic, full_matrices=True).Vh if len(periodic) else torch.eye(3).to(cell).double()
    full = cell.double().clone()
    full[~pbc] = basis[len(periodic) :]
    return full


def one_system(
    x: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, radius: float, half: bool, dtype: torch.dtype
) -> Rows:
    """Return (pairs per row, neighbors, image codes of type `dtype`, wrap offsets) of one system."""
    n, device = len(x), x.device
    empty = torch.zeros(n, dtype=torch.int64, device=device)
    offsets = torch.zeros((n, 3), dtype=torch.int32, device=device)
    none, no_images = torch.zeros(0, dtype=torch.int32, device=device), torch.zeros(0, dtype=dtype, device=device)
    if n == 0 or not (torch.isfinite(x).all() and torch.isfinite(cell).all()):
        return empty, none, no_images, offsets
    x, full = x.double(), complete_cell(cell, pbc)
    inverse = torch.linalg.inv(full)
    offsets = torch.where(pbc, torch.floor(x @ inverse), 0.0)
    if offsets.abs().max() > 2**30:
        return empty, none, no_images, torch.zeros_like(offsets, dtype=torch.int32)
    x = x - offsets @ full
    again = torch.where(pbc, torch.floor(x @ inverse), 0.0)
    x, offsets = x - again @ full, offsets + again
    reach = torch.where(pbc, (radius * inverse.norm(dim=0) + 1.0 + 1e-9).floor(), 0.0).long()
    if reach.max() > MAX_IMAGE:
        raise OverflowError
    axes = [torch.arange(-int(m), int(m) + 1, device=device) for m in reach]
    images = torch.cartesian_prod(*axes)
    shift = images.double()
    vectors = shift[:, 0:1] * full[0] + shift[:, 1:2] * full[1] + shift[:, 2:3] * full[2]
    d = (x[None, :, None] - x[:, None, None]) + vectors  # row i, neighbour j, image S: order of the list
    close = (d[..., 0] ** 2 + d[..., 1] ** 2 + d[..., 2] ** 2) < radius * radius
    zero = len(images) // 2  # images are symmetric and sorted, so the zero shift is in the middle
    close[torch.arange(n), torch.arange(n), zero] = False
    if half:
        upper = torch.ones(n, n, dtype=torch.bool, device=device).triu(1)
        later = torch.arange(len(images), device=device) > zero
        close &= upper[..., None] | (torch.eye(n, dtype=torch.bool, device=device)[..., None] & later)
    i, j, s = close.nonzero(as_tuple=True)
    return torch.bincount(i, minlength=n), j.int(), pack_images(images[s], dtype), offsets.int()


def build_neighbor_list(
    positions, cell, pbc, segment_ptr, radius, half, rebuild, row_ptr, neighbors, images, wrap_offsets
):
    """Build or keep each system's rows and put them one after another."""
    parts: list[Rows] = []
    bounds = segment_ptr.tolist()
    for b, (first, last) in enumerate(pairwise(bounds)):
        if rebuild[b]:
            parts.append(one_system(positions[first:last], cell[b], pbc[b], radius, half, images.dtype))
        else:
            rows = row_ptr[first : last + 1]
            pairs = slice(int(rows[0]), int(rows[-1]))
            parts.append((torch.diff(rows), neighbors[pairs], images[pairs], wrap_offsets[first:last]))
    if not parts:
        return tuple(t.clone() for t in (row_ptr, neighbors[:0], images[:0], wrap_offsets))
    counts, all_neighbors, all_images, offsets = (torch.cat(column) for column in zip(*parts, strict=True))
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), all_neighbors, all_images, offsets


def minimum_distance(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets):
    """Take the smallest pair distance of each system."""
    system, _, d = pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)[:3]
    smallest = torch.full((len(cell),), torch.inf, dtype=torch.float64, device=cell.device)
    return smallest.scatter_reduce_(0, system, d.norm(dim=-1), "amin").to(positions.dtype)


def pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets):
    """Return each pair's system, atom i, vector from i to j in double precision, and atom j (both in the batch)."""
    atom_system = segment_index(segment_ptr, len(positions))
    i = segment_index(row_ptr, len(neighbors))
    system = atom_system[i]
    j = neighbors.long() + segment_ptr.long()[system]
    shift = (unpack_images(images) - wrap_offsets[j] + wrap_offsets[i]).double()
    d = positions.double()[j] - positions.double()[i] + torch.einsum("pa,pab->pb", shift, cell.double()[system])
    return system, i, d, j
