r"""Charges of least energy at a fixed total, and the matrices of one system that they follow from.

With :math:`E(q) = \chi \cdot q + \frac{1}{2} q A q`, changes of charge that add up to nothing are the combinations
:math:`Z y` of n - 1 columns, and the least energy is where :math:`Z^T (\chi + A q) = 0`. The columns are those of a
reflection that turns equal charges into the first axis, which costs no more than the matrix has elements.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from athanor.kernels.coulomb._reference import taper
from athanor.kernels.ewald._reference import reciprocal_vectors

if TYPE_CHECKING:
    from athanor.models.splitting import Splitting

_SMALLEST_PIVOT = 1e-12
"""Of the largest one: below it, rounding decides about the charges."""
_MOST_PHASES = 4e8
"""Of atoms and reciprocal vectors of one system, a quarter of which is kept; only cells that explode ask for more."""


def least_energy(
    matrix: torch.Tensor, chi: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the least energy [], its charges [n], and whether there is one, bool [].

    Parameters
    ----------
    matrix
        [n, n], symmetric, float64; the results are attached to it, and can be differentiated as often as wanted.
    chi
        [n], energy of a unit charge.
    total
        [], sum of the charges.
    """
    count = len(matrix)
    with torch.no_grad():
        inner = _reflect(_reflect(matrix).mT)[1:, 1:]
        factor, info = torch.linalg.cholesky_ex(inner)
        found = info == 0
        if count > 1:
            pivots = factor.diagonal().square()
            found = found & (pivots.amin() > _SMALLEST_PIVOT * pivots.amax())
        found = found | ~matrix.isfinite().all()  # others say what is wrong with such positions
    equal = (total / count).expand(count)
    charges = equal + _Response.apply(matrix, -chi - matrix @ equal, factor)
    return _LeastEnergy.apply(matrix, chi, charges), charges, found


def _reflect(values: torch.Tensor) -> torch.Tensor:
    """Reflect along the first dimension, [n] or [n, m], such that equal numbers become a first one and zeros."""
    count = len(values)
    axis = torch.full((count,), 1.0 / math.sqrt(count), dtype=values.dtype, device=values.device)
    axis[0] += 1.0
    return values - torch.tensordot(axis, (axis @ values) / (1.0 + 1.0 / math.sqrt(count)), 0)


class _Response(torch.autograd.Function):
    """Change of the charges under a field: Z (Zᵀ A Z)⁻¹ Zᵀ field, of the Cholesky factor of Zᵀ A Z."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, field: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        inner = torch.cholesky_solve(_reflect(field)[1:, None], factor)[:, 0]
        change = _reflect(torch.cat((inner.new_zeros(1), inner)))
        ctx.save_for_backward(matrix, factor, change)
        return change

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        matrix, factor, change = ctx.saved_tensors
        back = _Response.apply(matrix, gradient, factor)
        return -torch.outer(back, change), back, None


class _LeastEnergy(torch.autograd.Function):
    """Energy of charges at which it is least: its slope does not ask how they change (Hellmann, Feynman)."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, chi: torch.Tensor, charges: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(charges)
        return energy_of(matrix, chi, charges)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        (charges,) = ctx.saved_tensors
        return 0.5 * gradient * torch.outer(charges, charges), None, None


def energy_of(matrix: torch.Tensor, chi: torch.Tensor, charges: torch.Tensor) -> torch.Tensor:
    """Return the energy [] of any charges [n]."""
    return charges @ (chi + 0.5 * (matrix @ charges))


# ----------------------------------------------------------------------------------------------------------- matrices


def finite_matrices(positions: torch.Tensor, width: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the energy of unit point charges [n, n], 1/Å, and what widths add to it: all pairs of a finite system."""
    i, j = torch.triu_indices(len(positions), len(positions), 1, device=positions.device)
    r = torch.linalg.vector_norm(positions[j] - positions[i], dim=-1)
    zeros = r.new_zeros(len(positions), len(positions))
    point, smear = (zeros.index_put((i, j), values) for values in (1.0 / r, -_screened(r, width, i, j)))
    return point + point.mT, smear + smear.mT


def periodic_matrices(
    positions: torch.Tensor,
    cell: torch.Tensor,
    pairs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    half: bool,
    width: torch.Tensor,
    split: Splitting,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `finite_matrices` does for a periodic system, with a uniform background as in an Ewald sum.

    Parameters
    ----------
    positions, cell
        [n, 3] and [3, 3], Å, float64.
    pairs
        Atoms i and j, int64 [P], and vectors [P, 3] between them, Å.
    half
        Whether each pair stands once.
    width
        [n], Å.
    split
        Of the sum of point charges.
    """
    i, j, vectors = pairs
    r = torch.linalg.vector_norm(vectors, dim=-1)
    inside = r < split.cutoff
    i, j, r = i[inside], j[inside], r[inside]
    weight = taper(r, split.taper_start, split.cutoff)
    zeros = r.new_zeros(len(positions), len(positions))
    values = torch.erfc(split.screening * r) / r, -_screened(r, width, i, j)
    point, smear = (zeros.index_put((i, j), weight * each, accumulate=True) for each in values)
    if half:
        point, smear = point + point.mT, smear + smear.mT
    most = _MOST_PHASES / len(positions)
    k, green = reciprocal_vectors(cell, split.screening, split.radius_start, split.radius, most)
    angle = positions @ k.mT
    cosines, sines = torch.cos(angle), torch.sin(angle)
    waves = (cosines * green) @ cosines.mT + (sines * green) @ sines.mT
    background = 2.0 * split.background / torch.linalg.det(cell).abs()
    own = 2.0 * split.self_term * torch.eye(len(positions), dtype=r.dtype, device=r.device)
    return point + 2.0 * waves - background - own, smear


def _screened(r: torch.Tensor, width: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return by how much the energy of two Gaussian charges is below that of points."""
    return torch.erfc(r / torch.sqrt(2.0 * (width[i].square() + width[j].square()))) / r
