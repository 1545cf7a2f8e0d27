"""FIRE's passes over the atoms of a batch: public calls and their registration with torch.

What is decided for each system in between stands in `athanor.dynamics.optimizers.fire`.
"""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_op
from athanor.kernels._threads import run_parts, system_bounds
from athanor.kernels.fire import _reference

_cpu = LazyModule("athanor.kernels.fire._cpu")

Moves = tuple[torch.Tensor, torch.Tensor]


def fire_sums(velocities: torch.Tensor, forces: torch.Tensor, segment_ptr: torch.Tensor) -> torch.Tensor:
    r"""Add :math:`F \cdot v`, :math:`v \cdot v` and :math:`F \cdot F` over the atoms of each system.

    Parameters
    ----------
    velocities, forces
        float32 or float64 [N, 3], any units.
    segment_ptr
        int32 [B + 1], first atom of each system.

    Returns
    -------
    torch.Tensor
        [B, 3], dtype of `velocities`. Not differentiable.

    Raises
    ------
    ShapeError
        If the first two differ in shape.

    Notes
    -----
    Atoms are added in order and in double precision, so a system's sums depend on its own rows only.
    """
    _runtime.ready()
    _check(velocities, forces)
    return _fire_sums(velocities, forces, segment_ptr)


def fire_moves(
    velocities: torch.Tensor,
    forces: torch.Tensor,
    inverse_masses: torch.Tensor,
    segment_ptr: torch.Tensor,
    downhill: torch.Tensor,
    keep: torch.Tensor,
    steer: torch.Tensor,
    dt: torch.Tensor,
    maxstep: torch.Tensor,
) -> Moves:
    r"""Compute the velocities and displacements of one FIRE step.

    .. math:: v' = \begin{cases} k\,v + s\,F & \text{downhill} \\ 0 & \text{else} \end{cases}
              \; + \Delta t\,F/m, \qquad
              d = \Delta t\,v' \min(1,\ d_\text{max} / |\Delta t\,v'|)

    ======================  ==================
    symbol                  variable
    ======================  ==================
    :math:`k`, :math:`s`    ``keep``, ``steer``
    :math:`d_\text{max}`    ``maxstep``
    ======================  ==================

    Parameters
    ----------
    velocities
        float32 or float64 [N, 3], √(eV/amu).
    forces
        [N, 3], eV/Å.
    inverse_masses
        [N], 1/amu; 0 for an atom without mass.
    segment_ptr
        int32 [B + 1], first atom of each system.
    downhill
        bool [B]; elsewhere the old velocities are not used, whatever they are.
    keep, steer
        [B], no unit, and Å/eV √(eV/amu).
    dt
        [B], internal time.
    maxstep
        [B], Å.

    Returns
    -------
    tuple of torch.Tensor
        New velocities and displacements, [N, 3], dtype of `velocities`. Not differentiable.

    Raises
    ------
    ShapeError
        If the first two differ in shape.

    References
    ----------
    .. [1] E. Bitzek, P. Koskinen, F. Gähler, M. Moseler, P. Gumbsch, Phys. Rev. Lett. 97, 170201 (2006).
       doi:10.1103/PhysRevLett.97.170201
    """
    _runtime.ready()
    _check(velocities, forces)
    return _fire_moves(velocities, forces, inverse_masses, segment_ptr, downhill, keep, steer, dt, maxstep)


def _check(velocities: torch.Tensor, forces: torch.Tensor) -> None:
    if velocities.shape != forces.shape or velocities.ndim != 2:
        raise ShapeError(
            f"`velocities` has shape {tuple(velocities.shape)} and `forces` {tuple(forces.shape)}; "
            "FIRE needs [N, 3] for both."
        )


def _sums_cpu(velocities, forces, segment_ptr):
    ptr = as_array(segment_ptr)
    sums = np.empty((len(ptr) - 1, 3))
    arguments = (as_doubles(velocities), as_doubles(forces), ptr, sums)
    run_parts(_cpu.sums, arguments, system_bounds(ptr, 4.0 * velocities.shape[0]))
    return as_tensor(sums, velocities.dtype)


def _moves_cpu(velocities, forces, inverse_masses, segment_ptr, downhill, keep, steer, dt, maxstep):
    ptr = as_array(segment_ptr)
    atoms = (as_doubles(velocities), as_doubles(forces), as_doubles(inverse_masses), ptr)
    systems = (as_array(downhill), as_doubles(keep), as_doubles(steer), as_doubles(dt), as_doubles(maxstep))
    new_velocities, displacements = np.empty(velocities.shape), np.empty(velocities.shape)
    bounds = system_bounds(ptr, 10.0 * velocities.shape[0])
    run_parts(_cpu.moves, (*atoms, *systems, new_velocities, displacements), bounds)
    return as_tensor(new_velocities, velocities.dtype), as_tensor(displacements, velocities.dtype)


def _sums_fake(velocities: torch.Tensor, forces: torch.Tensor, segment_ptr: torch.Tensor) -> torch.Tensor:
    return velocities.new_empty((segment_ptr.shape[0] - 1, 3))


def _moves_fake(velocities: torch.Tensor, *others: torch.Tensor) -> Moves:
    return torch.empty_like(velocities), torch.empty_like(velocities)


_fire_sums = register_op(fire_sums, cpu=_sums_cpu, reference=_reference.fire_sums, fake=_sums_fake)
_fire_moves = register_op(fire_moves, cpu=_moves_cpu, reference=_reference.fire_moves, fake=_moves_fake)
