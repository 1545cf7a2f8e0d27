"""The elementary moves that integrators are made of: kick (velocities) and drift (positions).

Everything here works on plain tensors, in internal time, and changes its first argument in place. Coefficients are
kept expanded to [N, 3]; a mask of None means that every coordinate moves, with the same bits as an all-true mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from athanor._runtime import in_parts
from athanor.data._stamp import ComputedFrom

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def kick_(velocities: Tensor, forces: Tensor, dt_over_mass: Tensor, movable: Tensor | None = None) -> None:
    r"""Advance velocities under constant forces (operator B): :math:`v \leftarrow v + (\Delta t/m)\,F`.

    Parameters
    ----------
    velocities
        [N, 3], √(eV/amu). Changed in place.
    forces
        [N, 3], eV/Å.
    dt_over_mass
        [N, 3], internal time per amu; pass half of it for a half step.
    movable
        bool [N, 3] or None for all.
    """
    if movable is None:
        for v, f, over_mass in in_parts(velocities, forces, dt_over_mass):
            v.addcmul_(f, over_mass)
    else:
        put_(velocities, torch.addcmul(velocities, forces, dt_over_mass), movable)


def put_(target: Tensor, values: Tensor, movable: Tensor | None = None) -> None:
    """Write `values` into `target`, both [N, 3], in place, where `movable` (bool [N, 3], or None for all) allows it."""
    target.copy_(values if movable is None else torch.where(movable, values, target))


def drift_(positions: Tensor, velocities: Tensor, dt: Tensor, movable: Tensor | None = None) -> None:
    r"""Advance positions under constant velocities (operator A): :math:`r \leftarrow r + \Delta t\,v`.

    Parameters
    ----------
    positions
        [N, 3], Å. Changed in place.
    velocities
        [N, 3], √(eV/amu).
    dt
        [N, 3], internal time.
    movable
        bool [N, 3] or None for all.
    """
    kick_(positions, velocities, dt, movable)


class AtomSteps:
    """Time steps of a batch expanded to atoms, kept until something changes: dt and dt/m, whole and half, all [N, 3].

    Massless atoms are immobile (1/m is taken as 0).
    """

    def __init__(self) -> None:
        self._source: ComputedFrom | None = None
        self.dt: Tensor
        self.half_dt: Tensor
        self.dt_over_mass: Tensor
        self.half_dt_over_mass: Tensor

    def refresh(self, batch: Batch, dt: Tensor) -> AtomSteps:
        """Recompute unless `batch` masses and `dt` [B] are the tensors of the last call, unchanged; return self."""
        masses = batch.atomic_masses
        if self._source is None or not self._source.holds(masses, dt):
            per_atom = dt[batch.batch_idx]
            inverse = torch.where(masses > 0, 1.0 / masses, torch.zeros_like(masses))
            self.dt = per_atom[:, None].expand(-1, 3).contiguous()
            self.half_dt = 0.5 * self.dt
            self.dt_over_mass = (per_atom * inverse)[:, None].expand(-1, 3).contiguous()
            self.half_dt_over_mass = 0.5 * self.dt_over_mass
            self._source = ComputedFrom(masses, dt)
        return self


def sum_last(values: Tensor) -> Tensor:
    """Sum a tensor over its last dimension in order; unlike ``sum`` this does not depend on the other dimensions."""
    first, *others = values.unbind(-1)
    total = first.clone()
    for value in others:
        total += value
    return total
