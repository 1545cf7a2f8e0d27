"""Pair vectors of a kernel, attached to the positions, cells and strain that they follow from.

A network that reads a pair list is a function of the vectors between atoms. A kernel computes those without a graph;
here they get one, so that the energy of the network can be differentiated like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def attached_vectors(
    vectors: torch.Tensor, ends: torch.Tensor, batch: Batch, strain: torch.Tensor | None
) -> torch.Tensor:
    r"""Return `vectors`, differentiable with respect to positions, cells and a strain of zero.

    With :math:`v_u = r_j - r_i + S_u h` and :math:`g_u = \partial E/\partial v_u`,

    .. math:: \frac{\partial E}{\partial r_i} = \sum_{u=(j,i)} g_u - \sum_{u=(i,j)} g_u, \qquad
              \frac{\partial E}{\partial\varepsilon} = \sum_u \tfrac{1}{2}(v_u \otimes g_u + g_u \otimes v_u)

    summed in the dtype of `vectors`. A gradient that is kept attached can be differentiated again, to any order.

    Parameters
    ----------
    vectors
        [U, 3], :math:`v_u` for the geometry of `batch` as it stands, Å.
    ends
        int64 [U, 2], atoms i and j of each.
    batch
        Holds positions and cells.
    strain
        [B, 3, 3], zeros that positions and cells are not yet multiplied by; ``None`` for none.
    """
    return _PairVectors.apply(vectors, batch.positions, batch.cell_or_zeros, strain, ends, batch.batch_idx)


class _PairVectors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vectors: torch.Tensor,
        positions: torch.Tensor,
        cell: torch.Tensor,
        strain: torch.Tensor | None,
        ends: torch.Tensor,
        batch_idx: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(vectors, positions, cell, ends, batch_idx)
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        """Every gradient is linear in `gradient`, and that by strain also in the vectors: torch differentiates both."""
        vectors, positions, cell, ends, batch_idx = ctx.saved_tensors
        first, second = ends.unbind(1)
        forces = gradient.new_zeros(positions.shape)
        forces = forces.index_add(0, first, gradient).index_add(0, second, gradient, alpha=-1)
        by_cell = by_strain = None
        if any(ctx.needs_input_grad[2:4]):
            system, zeros = batch_idx[first], gradient.new_zeros(cell.shape)
            again = torch.is_grad_enabled()  # somebody may differentiate by what the vectors follow from
            if ctx.needs_input_grad[2] or again:
                between = (positions[second] - positions[first]).to(vectors.dtype)
                images = _images(vectors - between, cell.to(vectors.dtype), system).unsqueeze(2)
            if ctx.needs_input_grad[2]:
                by_cell = zeros.index_add(0, system, images * gradient.unsqueeze(1)).to(cell.dtype)
            if ctx.needs_input_grad[3]:
                if again:
                    attached = between + (images * cell[system]).sum(1)
                    vectors = vectors + (attached - attached.detach())
                products = vectors.unsqueeze(2) * gradient.unsqueeze(1)
                by_strain = zeros.index_add(0, system, 0.5 * (products + products.transpose(1, 2)))
        return None, -forces.to(positions.dtype), by_cell, by_strain, None, None


@torch.no_grad()
def _images(shift_vectors: torch.Tensor, cell: torch.Tensor, system: torch.Tensor) -> torch.Tensor:
    """Return the integers S of vectors S h [U, 3], h the cell of each; zero along lattice vectors that are zero."""
    inverse = torch.linalg.pinv(cell).index_select(0, system)
    return torch.bmm(shift_vectors.unsqueeze(1), inverse).squeeze(1).round()
