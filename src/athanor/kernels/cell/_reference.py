"""Shape and strain of cells in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.segment._reference import segment_index, segment_sum

TERMS = 12
"""Terms of the exponential's series: exact to double precision for norms below 0.3."""


def cell_shape(cell):
    """Volume, and the smallest height: volume over the area of the largest face."""
    h = cell.double()
    faces = torch.linalg.cross(h[:, [1, 2, 0]], h[:, [2, 0, 1]])
    volume = (h[:, 0] * faces[:, 0]).sum(dim=1).abs()
    height = volume / torch.linalg.vector_norm(faces, dim=2).amax(dim=1)
    return volume.to(cell.dtype), height.to(cell.dtype)


def strained(positions, cell, log_strain, segment_ptr):
    """Multiply rows by the exponential of the strain, by Horner's rule.

    ``torch.linalg.matrix_exp`` gives a matrix other bits in another batch; this does not.
    """
    e = log_strain.double()
    eye = torch.eye(3, dtype=e.dtype, device=e.device).expand_as(e)
    matrices = eye
    for order in range(TERMS, 0, -1):
        matrices = eye + torch.bmm(e, matrices) / order
    system = segment_index(segment_ptr, positions.shape[0])
    moved = torch.einsum("nc,ncd->nd", positions.double(), matrices[system])
    return moved.to(positions.dtype), torch.bmm(cell.double(), matrices).to(cell.dtype)


def gradient_by_cell(
    by_strain: torch.Tensor,
    by_positions: torch.Tensor,
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
) -> torch.Tensor:
    """Return dE/dcell [B, 3, 3] from h^T dE/dh + sum of r^T dE/dr = dE/dstrain; zero along vectors that are zero."""
    moments = (positions[:, :, None] * by_positions[:, None, :]).flatten(1)
    rest = by_strain - segment_sum(moments, segment_ptr).unflatten(1, (3, 3))
    return torch.linalg.pinv(cell.mT).to(rest.dtype) @ rest
