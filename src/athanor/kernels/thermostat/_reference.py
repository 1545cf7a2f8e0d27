"""Thermostats in torch: any device, the oracle and the explanation."""

from __future__ import annotations

from enum import IntEnum

import torch

from athanor.kernels.flow._reference import momentum_flow, scaled
from athanor.kernels.segment._reference import segment_index, segment_sum

_THREE = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
_FIVE = 1.0 / (4.0 - 4.0 ** (1.0 / 3.0))
WEIGHTS = {1: (1.0,), 3: (_THREE, 1.0 - 2.0 * _THREE, _THREE), 5: (_FIVE, _FIVE, 1.0 - 4.0 * _FIVE, _FIVE, _FIVE)}
"""Parts of a step, by their number: M. Suzuki, J. Math. Phys. 32, 400 (1991), doi:10.1063/1.529425; H. Yoshida,
Phys. Lett. A 150, 262 (1990), doi:10.1016/0375-9601(90)90092-3."""


class Constant(IntEnum):
    """Columns of the constants of systems, float64 [B, 6], that thermostats and barostats take.

    Degrees of freedom; 1 where the momentum of the centre is conserved, else 0; time step; temperature times
    Boltzmann's constant, eV; time constants of thermostat and barostat. Times are internal.
    """

    DOF = 0
    GLIDES = 1
    DT = 2
    HEAT = 3
    THERMOSTAT_TIME = 4
    BAROSTAT_TIME = 5


def nose_hoover_half_step(velocities, masses, speeds, constants, segment_ptr, order):
    """Measure the heat of each system, advance its chain, and scale its velocities about their mean."""
    c = constants.T
    _, twice_kinetic, center = momentum_flow(velocities, masses, c[Constant.GLIDES] > 0, segment_ptr)
    factor, advanced, uptake = chain_half_step(
        speeds, twice_kinetic, c[Constant.DOF], c[Constant.HEAT], c[Constant.THERMOSTAT_TIME], c[Constant.DT], order
    )
    return scaled(velocities, factor, center, segment_ptr), advanced, uptake


def chain_half_step(speeds, twice_kinetic, dof, heat, time_constant, dt, order):
    """Sweep a chain from its end to its head, scale, and sweep back, once for each weight.

    Returns the factor of the velocities [B], the new speeds [B, L] and what the bath took up [B].
    """
    w = list(speeds.double().unbind(1))
    square, n, kT, length = twice_kinetic, dof, heat, dt
    acts = n > 0
    root = torch.sqrt(kT) * time_constant  # of the masses of all links but the first
    roots = [torch.where(acts, root * torch.sqrt(torch.where(acts, n, 1.0)), 1.0)] + [root] * (len(w) - 1)
    factor, uptake = torch.ones_like(kT), torch.zeros_like(kT)

    def kick(k, step):
        pull = square - n * kT if k == 0 else w[k - 1] * w[k - 1] - kT
        if k + 1 < len(w):
            drag = torch.exp(-0.125 * step * w[k + 1] / roots[k + 1])
            w[k] = (w[k] * drag + 0.25 * step * pull / roots[k]) * drag
        else:
            w[k] = w[k] + 0.25 * step * pull / roots[k]

    for weight in WEIGHTS[order] if w else ():
        step = weight * length
        for k in reversed(range(len(w))):
            kick(k, step)
        scale = torch.exp(-0.5 * step * w[0] / roots[0])
        factor, square = factor * scale, square * (scale * scale)
        for k, rate in enumerate(w):
            uptake = uptake + 0.5 * step * (n if k == 0 else 1.0) * kT * rate / roots[k]
        for k in range(len(w)):
            kick(k, step)
    new = torch.where(acts[:, None], torch.stack(w, dim=1), speeds.double()) if w else speeds.double()
    return torch.where(acts, factor, 1.0), new, torch.where(acts, uptake, 0.0)


def rescaling_factor(noise, twice_kinetic, dof, heat, decay, segment_ptr):
    """Draw the new kinetic energy from the old one."""
    system = segment_index(segment_ptr, noise.shape[0])
    number = 3 * (torch.arange(len(noise), device=noise.device) - segment_ptr.long()[system])[:, None]
    number = number + torch.arange(3, device=noise.device)
    counts = number < dof[system, None]
    squares = segment_sum(torch.where(counts, noise.double() ** 2, 0.0), segment_ptr)
    squares = squares[:, 0] + squares[:, 1] + squares[:, 2]
    moves = (twice_kinetic > 0) & (dof > 0)
    first = noise.double()[segment_ptr[:-1].long().clamp(max=len(noise) - 1), 0]
    kinetic, c = torch.where(moves, twice_kinetic.double(), 1.0), decay.double()
    share = heat.double() / kinetic * (1.0 - c)
    square = c + share * squares + 2.0 * first * torch.sqrt(c * share)
    sign = torch.where(first * torch.sqrt(share) + torch.sqrt(c) < 0, -1.0, 1.0)
    return torch.where(moves, sign * torch.sqrt(square.clamp(min=0.0)), 1.0)


def ornstein_uhlenbeck(velocities, noise, decay, width, masses, segment_ptr):
    """Damp and kick atoms that have a mass, and sum the change of their kinetic energy."""
    system = segment_index(segment_ptr, velocities.shape[0])
    old, moves = velocities.double(), (masses > 0)[:, None]
    new = decay.double()[system, None] * old + width.double()[:, None] * noise.double()
    gained = torch.where(moves, masses.double()[:, None] * (new**2 - old**2), 0.0)
    sums = segment_sum(gained, segment_ptr)
    return torch.where(moves, new, old).to(velocities.dtype), 0.5 * (sums[:, 0] + sums[:, 1] + sums[:, 2])
