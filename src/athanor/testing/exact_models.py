"""Models whose ensembles have exact answers: wells about the origin, and a box of cosines that feels its cell.

Atoms do not act on each other. They feel places in space, so that no momentum is conserved, which their cards say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from athanor.data.batch import Batch
from athanor.dynamics.state import check_positive
from athanor.kernels.segment import segment_sum
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.stored_list import require_batch

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData


class Wells(AnalyticModel):
    r"""Every atom in a well of its own about the origin.

    .. math:: u(x, y, z) = \tfrac{k}{2}(x^2 + y^2 + z^2) + q\,(x^2 y^2 + y^2 z^2 + z^2 x^2)

    Parameters
    ----------
    k
        Force constant, eV/Å², positive.
    quartic
        q in eV/Å⁴, zero or more. It couples the axes, so that the motion is chaotic; without it they are oscillators.

    Raises
    ------
    InputError
        If a parameter is out of its range.
    """

    def __init__(self, k: float, quartic: float = 0.0) -> None:
        super().__init__()
        check_positive(k, "k", "eV/Å²")
        check_positive(quartic, "quartic", "eV/Å⁴", zero_allowed=True)
        self.k, self.quartic = k, quartic
        self.model_config = ModelConfig(outputs=frozenset({"energy", "forces"}))
        self.model_card = ModelCard(name="wells", conservative=True, equivariant=False, external_field=True)

    def energy_of(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the energy, eV, of atoms at `positions` [..., 3], Å."""
        x, y, z = positions.square().unbind(-1)
        return 0.5 * self.k * (x + y + z) + self.quartic * (x * y + y * z + z * x)

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return energy and forces."""
        batch = require_batch(self, data)
        positions = batch.positions.detach()
        x, y, z = positions.square().unbind(-1)
        others = torch.stack([y + z, z + x, x + y], dim=-1)
        energy = segment_sum(self.energy_of(positions)[:, None], batch.batch_ptr)
        return self.adapt_output(
            {"energy": energy, "forces": -positions * (self.k + 2.0 * self.quartic * others)}, batch
        )


class CosineBox(AnalyticModel):
    r"""Independent atoms in a field of cosines that is stretched with the cell.

    .. math:: U = \sum_i \sum_a \frac{k L_a^2}{4 \pi^2} \left(1 - \cos 2 \pi s_{ia}\right)

    with the fractional positions :math:`s_{ia}` and the lengths :math:`L_a` of the lattice vectors: k is the force
    constant at the bottom of an orthogonal cell of any size. The density of the volume is known exactly. With k = 0 it
    is the ideal gas.

    Parameters
    ----------
    k
        eV/Å², zero or more.

    Raises
    ------
    InputError
        If `k` is negative or not finite.
    """

    def __init__(self, k: float) -> None:
        super().__init__()
        check_positive(k, "k", "eV/Å²", zero_allowed=True)
        self.k = k
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            supports_pbc=True,
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name="cosine box",
            conservative=True,
            equivariant=False,
            external_field=True,
            stress_keeps_forces=True,
        )

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of periodic systems."""
        batch = require_batch(self, data)
        positions, cell = batch.positions.detach(), batch.cell_or_zeros.detach()
        inverse = torch.linalg.inv(cell)[batch.batch_idx]
        phase = 2.0 * math.pi * (positions[:, :, None] * inverse).sum(dim=1)
        squares = cell.square().sum(dim=2)
        height = self.k / (4.0 * math.pi**2) * squares
        energies = segment_sum(height[batch.batch_idx] * (1.0 - phase.cos()), batch.batch_ptr)
        slope = 2.0 * math.pi * height[batch.batch_idx] * phase.sin()
        forces = -(inverse * slope[:, None, :]).sum(dim=2)
        stretch = 2.0 * energies / squares  # of each lattice vector
        virial = -torch.einsum("ba,bai,baj->bij", stretch, cell, cell)
        return self.adapt_output({"energy": energies.sum(1, keepdim=True), "forces": forces, "virial": virial}, batch)
