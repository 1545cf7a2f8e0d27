"""Thermostats: public calls and their registration with torch. All energies are in eV, times in internal time."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError, ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_op
from athanor.kernels._threads import run_parts, system_bounds
from athanor.kernels.thermostat import _reference

_cpu = LazyModule("athanor.kernels.thermostat._cpu")

Pair = tuple[torch.Tensor, torch.Tensor]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def nose_hoover_half_step(
    velocities: torch.Tensor,
    masses: torch.Tensor,
    speeds: torch.Tensor,
    constants: torch.Tensor,
    segment_ptr: torch.Tensor,
    order: int,
) -> Triple:
    r"""Advance the Nosé-Hoover chain of each system by half a step, and scale the velocities that it controls.

    With mass-weighted speeds :math:`w_k = \sqrt{Q_k}\,\dot\eta_k`, and the masses :math:`Q_1 = n\,kT\,\tau^2` and
    :math:`Q_{k>1} = kT\,\tau^2`:

    .. math::
        \dot w_1 &= (2K - n\,kT)/\sqrt{Q_1} - \dot\eta_2 w_1, \qquad \dot v = -\dot\eta_1 v \\
        \dot w_k &= (w_{k-1}^2 - kT)/\sqrt{Q_k} - \dot\eta_{k+1} w_k

    by the symmetric splitting of [1]_, with the weights of Suzuki and Yoshida. The chain holds the energy
    :math:`\tfrac12 \sum w_k^2`, and its bath takes up :math:`n\,kT\,\Delta\eta_1 + kT \sum_{k>1} \Delta\eta_k`.

    Parameters
    ----------
    velocities
        float32 or float64 [N, 3], √(eV/amu).
    masses
        [N], amu; 0 for an atom that must not move.
    speeds
        :math:`w`, [B, L], √eV.
    constants
        float64 [B, 6], see `athanor.kernels.thermostat.Constant`.
    segment_ptr
        int32 [B + 1], first atom of each system.
    order
        How many parts the step has: 1, 3 or 5.

    Returns
    -------
    tuple of torch.Tensor
        New velocities [N, 3], dtype of `velocities`, new speeds [B, L], and energy that the bath took up [B], both
        float64. Not differentiable.

    Raises
    ------
    InputError
        If there are no weights of that order.
    ShapeError
        If `speeds` and `constants` are not of as many systems.

    References
    ----------
    .. [1] G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996).
       doi:10.1080/00268979600100761
    """
    _runtime.ready()
    check_chain(speeds, constants, order)
    return _nose_hoover_half_step(velocities, masses, speeds, constants, segment_ptr, order)


def check_chain(speeds: torch.Tensor, constants: torch.Tensor, order: int) -> None:
    """Raise InputError or ShapeError if a chain can not be advanced."""
    if order not in _reference.WEIGHTS:
        raise InputError(f"`order` is {order}; there are Suzuki-Yoshida weights of order 1, 3 and 5.")
    if speeds.ndim != 2 or constants.shape != (speeds.shape[0], len(_reference.Constant)):
        raise ShapeError(
            f"`speeds` has shape {tuple(speeds.shape)} and `constants` {tuple(constants.shape)}; they must be [B, L] "
            f"and [B, {len(_reference.Constant)}]."
        )


def rescaling_factor(
    noise: torch.Tensor,
    twice_kinetic: torch.Tensor,
    dof: torch.Tensor,
    heat: torch.Tensor,
    decay: torch.Tensor,
    segment_ptr: torch.Tensor,
) -> torch.Tensor:
    r"""Draw the factor by which stochastic velocity rescaling changes the velocities of each system.

    .. math:: \alpha^2 = c + \frac{kT}{2K}(1 - c) \sum_{i=1}^{n} R_i^2
              + 2 R_1 \sqrt{c\,(1 - c)\,\frac{kT}{2K}},\qquad c = e^{-\Delta t/\tau}

    with normal numbers :math:`R_i`, the first :math:`n` of the rows of the system. The sign of :math:`\alpha` is
    that of :math:`R_1 + \sqrt{c\,2K/((1 - c)\,kT)}`.

    Parameters
    ----------
    noise
        Normal numbers, [N, 3].
    twice_kinetic
        :math:`2K`, [B], eV.
    dof
        :math:`n`, [B], at most three for each atom.
    heat
        :math:`kT`, [B], eV.
    decay
        :math:`c`, [B].
    segment_ptr
        int32 [B + 1], first atom of each system.

    Returns
    -------
    torch.Tensor
        Factors [B], float64; 1 where nothing moves. Not differentiable.

    Raises
    ------
    ShapeError
        If `noise` is not [N, 3].

    References
    ----------
    .. [1] G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007). doi:10.1063/1.2408420
    """
    _runtime.ready()
    if noise.ndim != 2 or noise.shape[1] != 3:
        raise ShapeError(f"`noise` has shape {tuple(noise.shape)}; it must be [N, 3].")
    return _rescaling_factor(noise, twice_kinetic, dof, heat, decay, segment_ptr)


def ornstein_uhlenbeck(
    velocities: torch.Tensor,
    noise: torch.Tensor,
    decay: torch.Tensor,
    width: torch.Tensor,
    masses: torch.Tensor,
    segment_ptr: torch.Tensor,
) -> Pair:
    r"""Damp velocities and kick them at random: the exact solution of friction and noise over a step.

    .. math:: v_i' = c_s\,v_i + w_i\,\xi_i, \qquad q_s = \tfrac12 \sum_{i \in s} m_i\,(v_i'^2 - v_i^2)

    Parameters
    ----------
    velocities
        float32 or float64 [N, 3], √(eV/amu).
    noise
        Normal numbers :math:`\xi`, [N, 3].
    decay
        :math:`c`, [B].
    width
        :math:`w`, [N], √(eV/amu).
    masses
        [N], amu; an atom of mass 0, which must not move, keeps its velocity.
    segment_ptr
        int32 [B + 1], first atom of each system.

    Returns
    -------
    tuple of torch.Tensor
        New velocities [N, 3], dtype of `velocities`, and the heat :math:`q` that each system took up, eV, float64 [B].
        Not differentiable.

    Raises
    ------
    ShapeError
        If velocities and noise differ in shape.
    """
    _runtime.ready()
    if velocities.shape != noise.shape or velocities.ndim != 2:
        raise ShapeError(
            f"`velocities` has shape {tuple(velocities.shape)} and `noise` {tuple(noise.shape)}; both must be [N, 3]."
        )
    return _ornstein_uhlenbeck(velocities, noise, decay, width, masses, segment_ptr)


def _half_step_cpu(velocities, masses, speeds, constants, segment_ptr, order):
    ptr, moved = as_array(segment_ptr), np.empty(velocities.shape)
    advanced, uptake = as_doubles(speeds).copy(), np.empty(len(ptr) - 1)
    weights = np.array(_reference.WEIGHTS[order])
    arguments = (as_doubles(velocities), as_doubles(masses), advanced, as_array(constants), ptr, weights, moved, uptake)
    run_parts(_cpu.half_steps, arguments, system_bounds(ptr, 8.0 * len(moved) + 300.0 * len(ptr)))
    return as_tensor(moved, velocities.dtype), as_tensor(advanced, torch.float64), as_tensor(uptake, torch.float64)


def _factor_cpu(noise, twice_kinetic, dof, heat, decay, segment_ptr):
    ptr = as_array(segment_ptr)
    factor = np.empty(len(ptr) - 1)
    arguments = (*map(as_doubles, (noise, twice_kinetic, dof, heat, decay)), ptr, factor)
    run_parts(_cpu.factors, arguments, system_bounds(ptr, 3.0 * len(noise)))
    return as_tensor(factor, torch.float64)


def _ornstein_uhlenbeck_cpu(velocities, noise, decay, width, masses, segment_ptr):
    ptr, moved = as_array(segment_ptr), np.empty(velocities.shape)
    heat = np.empty(len(ptr) - 1)
    arguments = (*map(as_doubles, (velocities, noise, decay, width, masses)), ptr, moved, heat)
    run_parts(_cpu.ornstein_uhlenbeck, arguments, system_bounds(ptr, 5.0 * len(moved)))
    return as_tensor(moved, velocities.dtype), as_tensor(heat, torch.float64)


def _half_step_fake(velocities, masses, speeds, constants, *others):
    speeds_too = (speeds.new_empty(shape, dtype=torch.float64) for shape in (speeds.shape, speeds.shape[:1]))
    return (torch.empty_like(velocities), *speeds_too)


def _factor_fake(noise, twice_kinetic, *others):
    return twice_kinetic.new_empty(twice_kinetic.shape, dtype=torch.float64)


def _ornstein_uhlenbeck_fake(velocities, noise, decay, *others):
    return torch.empty_like(velocities), decay.new_empty(decay.shape, dtype=torch.float64)


_nose_hoover_half_step = register_op(
    nose_hoover_half_step, cpu=_half_step_cpu, reference=_reference.nose_hoover_half_step, fake=_half_step_fake
)
_rescaling_factor = register_op(
    rescaling_factor, cpu=_factor_cpu, reference=_reference.rescaling_factor, fake=_factor_fake
)
_ornstein_uhlenbeck = register_op(
    ornstein_uhlenbeck,
    cpu=_ornstein_uhlenbeck_cpu,
    reference=_reference.ornstein_uhlenbeck,
    fake=_ornstein_uhlenbeck_fake,
)
