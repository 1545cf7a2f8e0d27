"""When a stored neighbour list must be built again, in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.segment._reference import segment_index

AHEAD_EVERY, AHEAD_SHARE, AHEAD_ATOMS = 8, 0.7, 500
"""At each such step of its own, a system of at most so many atoms is searched for this share of its skin already."""


def deformation(cell: torch.Tensor, reference_cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return F = inv(h0) h of each system and its smallest singular value, float64 [B, 3, 3] and [B].

    A cell that has not changed has F = 1; one that has, from a flat one, has the singular value 0.
    """
    h, h0 = cell.double(), reference_cell.double()
    one = torch.eye(3, dtype=torch.float64, device=cell.device)
    same = (h == h0).flatten(1).all(1) | ~torch.isfinite(h).flatten(1).all(1)
    flat = ~(torch.linalg.det(h0).abs() > 1e-12 * h0.norm(dim=-1).prod(-1))
    strain = torch.linalg.inv(torch.where((same | flat)[:, None, None], one, h0)) @ h
    strain = torch.where((same | flat)[:, None, None], one, strain)
    return strain, torch.where(flat & ~same, 0.0, torch.linalg.svdvals(strain)[:, -1].where(~same, 1.0))


def needs_rebuild(positions, reference_positions, cell, reference_cell, segment_ptr, steps, radius, skin):
    """Compare twice the largest non-affine displacement with what the strain has left of the skin."""
    strain, smallest = deformation(cell, reference_cell)
    system = segment_index(segment_ptr, len(positions))
    moved = positions.double() - torch.einsum("na,nab->nb", reference_positions.double(), strain[system])
    largest = torch.zeros(len(cell), dtype=torch.float64, device=cell.device)
    largest.scatter_reduce_(0, system, moved.norm(dim=-1), "amax")
    finite = torch.isfinite(largest) & torch.isfinite(cell).flatten(1).all(1)
    share = torch.ones_like(largest)
    if steps.numel():
        ahead = (steps.reshape(-1) % AHEAD_EVERY == 0) & (torch.diff(segment_ptr) <= AHEAD_ATOMS)
        share[ahead] = AHEAD_SHARE
    return finite & (2.0 * largest > skin * share - radius * (1.0 - smallest))
