"""Random numbers of integrators: functions of seed, purpose, system, step and atom, see `athanor.kernels.philox`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from athanor.data._stamp import ComputedFrom
from athanor.kernels import ornstein_uhlenbeck, philox_normal, philox_uniform
from athanor.kernels.philox import Purpose
from athanor.units import BOLTZMANN

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def normals_of_atoms(batch: Batch, seed: int, purpose: Purpose, *, ahead: int = 0) -> Tensor:
    """Draw three normal numbers for each atom, [N, 3] in the state dtype, of this step or one `ahead` of it."""
    step = batch.step.view(-1) + ahead if ahead else batch.step.view(-1)
    ids, dtype = batch.system_id.view(-1), batch.positions.dtype
    return philox_normal(batch.batch_ptr, ids, step, seed, int(purpose), 3, dtype)


def uniforms_of_atoms(batch: Batch, seed: int, purpose: Purpose) -> Tensor:
    """Draw a number inside (0, 1) for each atom, float64 [N]."""
    return philox_uniform(batch.batch_ptr, batch.system_id.view(-1), batch.step.view(-1), seed, int(purpose), 1)[:, 0]


def normals_of_cells(batch: Batch, seed: int, purpose: Purpose) -> Tensor:
    """Draw a symmetric matrix for each system, float64 [B, 3, 3]: variance 1 on the diagonal and 1/2 beside it.

    No direction stands out: turned in space, it is the same matrix of normal numbers.
    """
    one_each = torch.arange(len(batch) + 1, dtype=torch.int32, device=batch.device)
    drawn = philox_normal(one_each, batch.system_id.view(-1), batch.step.view(-1), seed, int(purpose), 9)
    square = drawn.view(-1, 3, 3)
    return 0.5 * (square + square.mT)


class LangevinNoise:
    """Friction and noise of each atom over one step, kept until a time step, mass or parameter changes.

    Attributes
    ----------
    decay
        Factor of the old velocities, float64 [B].
    width
        Size of the noise, √(eV/amu), float64 [N]; 0 for atoms without mass.
    """

    def __init__(self) -> None:
        self._source: ComputedFrom | None = None
        self.decay: Tensor
        self.width: Tensor

    def refresh(self, batch: Batch, masses: Tensor, dt: Tensor, temperature: Tensor, friction: Tensor) -> LangevinNoise:
        """Recompute unless these are the tensors of the last call, unchanged; return self.

        Parameters
        ----------
        batch
            Source of the atom-to-system index.
        masses
            amu, [N].
        dt
            Internal time, [B].
        temperature
            K, [B].
        friction
            1/(internal time), [B].
        """
        source = (masses, dt, temperature, friction)
        if self._source is None or not self._source.holds(*source):
            self.decay = torch.exp(-(friction.double() * dt.double()))
            spread = (BOLTZMANN * temperature.double() * (1.0 - self.decay * self.decay))[batch.batch_idx]
            self.width = torch.where(
                masses > 0, torch.sqrt(spread / torch.where(masses > 0, masses.double(), 1.0)), 0.0
            )
            self._source = ComputedFrom(*source)
        return self

    def applied(self, batch: Batch, masses: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return the velocities after a step of friction and noise, [N, 3], and the heat this gave, eV float64 [B]."""
        noise = normals_of_atoms(batch, seed, Purpose.LANGEVIN)
        return ornstein_uhlenbeck(batch.velocities, noise, self.decay, self.width, masses, batch.batch_ptr)
