"""Cell degrees of freedom that optimizers share: the force on the cell, and straining a system.

The coordinate is ``u = N log(strain)`` measured from the present cell; see `FIREVariableCell`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.state import check_finite, shortened
from athanor.errors import InputError
from athanor.kernels import cell_shape, strained
from athanor.units import GPa

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.dynamics.active import ActiveSet


MOST_PRESSURE = 1000.0 * GPa
"""eV/Å³. A target beyond it, positive or negative, is taken for a number in another unit and refused."""


def check_pressure(value: Any, name: str, unit: str) -> None:
    """Raise InputError unless `value` is finite and a pressure that makes sense in eV/Å³; the text helps with GPa."""
    largest = float(check_finite(value, name, unit).abs().max())
    if largest > MOST_PRESSURE:
        raise InputError(
            f"`{name}` is {shortened(value)} eV/Å³, which is {largest / GPa:,.4g} GPa; it must be at most "
            f"{MOST_PRESSURE / GPa:,.4g} GPa. If the number is in GPa, multiply it by `athanor.units.GPa`."
        )


def cell_force(batch: Batch, pressure: Tensor, projector: Tensor) -> Tensor:
    r"""Return the force on the cell coordinate, :math:`f_u = -(V/N)\,P(\sigma + p I)P`, symmetric.

    Parameters
    ----------
    batch
        Holds `stress` [B, 3, 3] in eV/Å³ and `cell`.
    pressure
        Target pressure [B], eV/Å³.
    projector
        Orthogonal projector on the periodic directions, [B, 3, 3]; zero for systems without a cell.

    Returns
    -------
    Tensor
        [B, 3, 3], eV/Å in the unit of u (Å is nominal: u has no unit, and counts like a length).
    """
    stress = 0.5 * (batch.stress + batch.stress.transpose(1, 2))
    stress.diagonal(dim1=1, dim2=2).add_(pressure[:, None])
    volume, _ = cell_shape(batch.cell)
    pull = torch.bmm(projector, torch.bmm(stress, projector))
    return pull.mul_((-volume / batch.num_nodes_per_graph)[:, None, None])


def strain_(batch: Batch, log_strain: Tensor, active: ActiveSet) -> None:
    r"""Strain cells and what is in them, in place: :math:`h \leftarrow h e^{\epsilon},\ r \leftarrow r e^{\epsilon}`.

    Parameters
    ----------
    batch
        `cell` and `positions` of active systems change; fixed atoms keep their fractional positions.
    log_strain
        Symmetric [B, 3, 3], at most a few tenths.
    active
        Which systems.
    """
    moved, cell = strained(batch.positions, batch.cell, log_strain, batch.batch_ptr)
    if active.all:
        batch.positions.copy_(moved)
        batch.cell.copy_(cell)
    else:
        batch.positions.copy_(torch.where(active.systems[batch.batch_idx][:, None], moved, batch.positions))
        batch.cell.copy_(torch.where(active.systems[:, None, None], cell, batch.cell))
