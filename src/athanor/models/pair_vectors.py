"""Pair vectors of a kernel, attached to the positions, cells and strain that they follow from.

A network that reads a pair list is a function of the vectors between atoms. A kernel computes those without a graph;
here they get one, so that the energy of the network can be differentiated like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from athanor.errors import NotAvailableError
from athanor.kernels._library import no_second_derivative
from athanor.kernels.cell._reference import gradient_by_cell

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def attached_vectors(
    vectors: torch.Tensor, ends: torch.Tensor, batch: Batch, strain: torch.Tensor | None, *, model_name: str
) -> torch.Tensor:
    r"""Return `vectors`, differentiable once with respect to positions, cells and a strain of zero.

    With :math:`v_u = r_j - r_i + S_u h` and :math:`g_u = \partial E/\partial v_u`,

    .. math:: \frac{\partial E}{\partial r_i} = \sum_{u=(j,i)} g_u - \sum_{u=(i,j)} g_u, \qquad
              \frac{\partial E}{\partial\varepsilon} = \sum_u \tfrac{1}{2}(v_u \otimes g_u + g_u \otimes v_u)

    summed in the dtype of `vectors`.

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
    model_name
        Named by the error that a second derivative raises.
    """
    geometry = (batch.positions, batch.cell_or_zeros, strain)
    return _PairVectors.apply(vectors, *geometry, ends, batch.batch_idx, batch.batch_ptr, model_name)


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
        segment_ptr: torch.Tensor,
        model_name: str,
    ) -> torch.Tensor:
        ctx.save_for_backward(vectors, positions, cell, ends, batch_idx, segment_ptr)
        ctx.model_name = model_name
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        positions = ctx.saved_tensors[1]
        with torch.no_grad():
            by_geometry = _gradients_by_geometry(gradient, ctx.saved_tensors, ctx.needs_input_grad[1:4])
        if torch.is_grad_enabled():
            error = NotAvailableError(
                f"{ctx.model_name} gives first derivatives only; second ones, such as a Hessian or the derivative of "
                f"forces, are not part of this version. Take differences of its `forces` instead."
            )
            by_geometry = [g if g is None else no_second_derivative(g, error, gradient, positions) for g in by_geometry]
        return None, *by_geometry, None, None, None, None


def _gradients_by_geometry(
    gradient: torch.Tensor, saved: tuple[torch.Tensor, ...], needed: tuple[bool, bool, bool]
) -> list[torch.Tensor | None]:
    """Return the gradients by positions, cell and strain from that by vectors [U, 3]; of the last two those needed."""
    vectors, positions, cell, ends, batch_idx, segment_ptr = saved
    first, second = ends.unbind(1)
    forces = gradient.new_zeros(positions.shape)
    forces.index_add_(0, first, gradient).index_add_(0, second, gradient, alpha=-1)
    by_cell = by_strain = None
    if needed[1] or needed[2]:
        products = vectors.unsqueeze(2) * gradient.unsqueeze(1)
        system, zeros = batch_idx[first], gradient.new_zeros(cell.shape)
        if needed[2]:
            by_strain = zeros.index_add(0, system, 0.5 * (products + products.transpose(1, 2)))
        if needed[1]:
            whole = zeros.index_add_(0, system, products)
            by_cell = gradient_by_cell(whole, -forces, positions.to(whole.dtype), cell, segment_ptr).to(cell.dtype)
    return [-forces.to(positions.dtype), by_cell, by_strain]
