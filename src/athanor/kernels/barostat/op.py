r"""Motion of cells: public calls and their registration with torch. Energies are in eV, times in internal time.

The cell of a system flows at the symmetric rate :math:`E`, and its atoms with it: :math:`\dot h = h E`. What is
advanced is the mass-weighted rate :math:`w = \sqrt W E`, [B, 3, 3], √eV, so that the energy of the motion is
:math:`\tfrac12 \\sum_{ab} w_{ab}^2` whatever the mass :math:`W`.
"""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError, ShapeError
from athanor.kernels._library import LazyModule, as_doubles, as_tensor, register_op
from athanor.kernels.barostat import _reference

_cpu = LazyModule("athanor.kernels.barostat._cpu")

Five = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def barostat_kick(
    momentum: torch.Tensor,
    flow: torch.Tensor,
    stress: torch.Tensor,
    volume: torch.Tensor,
    pressure: torch.Tensor,
    dof: torch.Tensor,
    mass: torch.Tensor,
    dt: torch.Tensor,
    coupling: int,
) -> torch.Tensor:
    r"""Advance the rate of each cell under the difference of its pressure and the target.

    .. math:: w \leftarrow w + \frac{\Delta t}{\sqrt W}\,\mathcal P\!\left[
              \Pi - V\sigma - V p + \frac{\operatorname{tr} \Pi}{n}\,I \right]

    The projection :math:`\mathcal P` keeps the mean of the diagonal (coupling 0), the diagonal (1), or all (2).

    ==================================  ===========================================
    symbol                              variable
    ==================================  ===========================================
    :math:`w, W`                        ``momentum``, ``mass``
    :math:`\Pi, \sigma, V`              ``flow``, ``stress``, ``volume``
    :math:`p, n`                        ``pressure``, ``dof``
    ==================================  ===========================================

    Parameters
    ----------
    momentum
        [B, 3, 3], √eV.
    flow
        Of momentum, [B, 3, 3], eV, from `momentum_flow`.
    stress, pressure
        [B, 3, 3], eV/Å³; stress is tensile positive, and the target compression positive.
    volume
        [B], Å³.
    dof
        [B], degrees of freedom of the atoms.
    mass
        [B], eV times internal time squared, positive.
    dt
        [B], length of the kick.
    coupling
        0, 1 or 2.

    Returns
    -------
    torch.Tensor
        [B, 3, 3], float64, symmetric. Not differentiable.

    Raises
    ------
    InputError
        If `coupling` is none of these.
    ShapeError
        If `momentum` is not [B, 3, 3].

    References
    ----------
    .. [1] G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994). doi:10.1063/1.467468
    """
    _runtime.ready()
    _check(momentum)
    if coupling not in (0, 1, 2):
        raise InputError(f"`coupling` is {coupling}; use 0 (isotropic), 1 (three diagonal rates) or 2 (all).")
    return _barostat_kick(momentum, flow, stress, volume, pressure, dof, mass, dt, coupling)


def barostat_maps(
    momentum: torch.Tensor, mass: torch.Tensor, dof: torch.Tensor, dt: torch.Tensor, dt_kick: torch.Tensor
) -> Five:
    r"""Compute what the flow of each cell does to velocities in a kick, to positions in a drift, and to the volume.

    The exact solutions under constant forces, velocities and rate are, with :math:`A = E + \operatorname{tr} E / n`,

    .. math::
        v &\leftarrow v\,e^{-A \tau} + \tau\,\frac{F}{m}\,\varphi(-A \tau) \\
        r &\leftarrow r\,e^{E \Delta t} + \Delta t\,v\,\varphi(E \Delta t), \qquad h \leftarrow h\,e^{E \Delta t} \\
        \int V dt &= V\,\Delta t\,\varphi(\operatorname{tr} E\,\Delta t),
        \qquad \varphi(X) = \int_0^1 e^{sX} ds

    Parameters
    ----------
    momentum, mass, dof
        As in `barostat_kick`.
    dt
        Length of the drift :math:`\Delta t`, [B].
    dt_kick
        Length of the kick :math:`\tau`, [B].

    Returns
    -------
    tuple of torch.Tensor
        :math:`e^{-A\tau}`, :math:`\varphi(-A\tau)`, :math:`e^{E\Delta t}`, :math:`\varphi(E\Delta t)`, each [B, 3, 3],
        and :math:`\Delta t\,\varphi(\operatorname{tr} E\,\Delta t)`, [B]; all float64. Not differentiable.

    Raises
    ------
    ShapeError
        If `momentum` is not [B, 3, 3].

    Notes
    -----
    Functions of matrices are series in double precision, right for norms below 0.3, so a system gets the same bits in
    any batch.
    """
    _runtime.ready()
    _check(momentum)
    return _barostat_maps(momentum, mass, dof, dt, dt_kick)


def _check(momentum: torch.Tensor) -> None:
    if momentum.ndim != 3 or momentum.shape[1:] != (3, 3):
        raise ShapeError(f"`momentum` has shape {tuple(momentum.shape)}; it must be [B, 3, 3].")


def _kick_cpu(momentum, flow, stress, volume, pressure, dof, mass, dt, coupling):
    kicked = as_doubles(momentum).copy()
    _cpu.kicks(kicked, *map(as_doubles, (flow, stress, volume, pressure, dof, mass, dt)), coupling)
    return as_tensor(kicked, torch.float64)


def _maps_cpu(momentum, mass, dof, dt, dt_kick):
    maps = tuple(np.empty(momentum.shape) for _ in range(4))
    mean = np.empty(momentum.shape[0])
    _cpu.maps(*map(as_doubles, (momentum, mass, dof, dt, dt_kick)), *maps, mean)
    return tuple(as_tensor(array, torch.float64) for array in (*maps, mean))


def _kick_fake(momentum, *others):
    return momentum.new_empty(momentum.shape, dtype=torch.float64)


def _maps_fake(momentum, *others):
    maps = tuple(momentum.new_empty(momentum.shape, dtype=torch.float64) for _ in range(4))
    return (*maps, momentum.new_empty(momentum.shape[:1], dtype=torch.float64))


_barostat_kick = register_op(barostat_kick, cpu=_kick_cpu, reference=_reference.barostat_kick, fake=_kick_fake)
_barostat_maps = register_op(barostat_maps, cpu=_maps_cpu, reference=_reference.barostat_maps, fake=_maps_fake)
