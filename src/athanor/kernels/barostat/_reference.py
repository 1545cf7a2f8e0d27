"""Motion of cells in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.flow._reference import momentum_flow, scaled
from athanor.kernels.segment._reference import segment_index
from athanor.kernels.thermostat._reference import Constant, chain_half_step

TERMS = 12
"""Terms of a series: exact to double precision for norms below 0.3."""
FREEDOMS = (1, 3, 6)
"""Degrees of freedom of a cell under each coupling."""


def barostat_half_step(
    velocities, forces, masses, momentum, chain, cell_chain, stress, cell, pressure, constants, segment_ptr, coupling,
    order, backward,
):  # fmt: skip
    """Chains, kick of the cell, kick of the atoms; or backward."""
    c = constants.T
    dof, dt, heat, glides = c[Constant.DOF], c[Constant.DT], c[Constant.HEAT], c[Constant.GLIDES] > 0
    root = _root_of_mass(constants)
    w, dtype = momentum.double(), velocities.dtype
    velocities, chain, cell_chain = velocities.double(), chain.double(), cell_chain.double()

    def thermostat(w, velocities, chain, cell_chain):
        _, square, center = momentum_flow(velocities, masses, glides, segment_ptr)
        factor, chain, first = chain_half_step(chain, square, dof, heat, c[Constant.THERMOSTAT_TIME], dt, order)
        freedoms, square = torch.full_like(dof, FREEDOMS[coupling]), (w * w).sum((1, 2))
        slow, cell_chain, second = chain_half_step(
            cell_chain, square, freedoms, heat, c[Constant.BAROSTAT_TIME], dt, order
        )
        scaled_ones = torch.where(masses[:, None] > 0, scaled(velocities, factor, center, segment_ptr), velocities)
        return w * slow[:, None, None], scaled_ones, chain, cell_chain, first + second

    def kick_cell(w, velocities):
        flow, square, _ = momentum_flow(velocities, masses, glides, segment_ptr)
        volume = torch.linalg.det(cell.double()).abs()[:, None, None]
        eye = torch.eye(3, dtype=torch.float64, device=w.device)
        inner = 0.5 * (stress + stress.mT).double() + pressure.double()
        pull = flow - volume * inner + (square / torch.where(dof > 0, dof, 1.0))[:, None, None] * eye
        if coupling == 0:
            pull = (_trace(pull) / 3.0)[:, None, None] * eye
        elif coupling == 1:
            pull = pull * eye
        return w + (0.5 * dt / root)[:, None, None] * pull

    def kick_atoms(w, velocities):
        _, _, center = momentum_flow(velocities, masses, glides, segment_ptr)
        rate = w / root[:, None, None]
        share = _trace(rate) / torch.where(dof > 0, dof, 1.0)
        drag = rate + share[:, None, None] * torch.eye(3, dtype=rate.dtype, device=rate.device)
        slowed, pushed = exponential_and_mean(-0.5 * dt[:, None, None] * drag)
        system = segment_index(segment_ptr, len(velocities))
        moves = masses[:, None] > 0
        push = 0.5 * dt[system, None] * forces.double() / torch.where(moves, masses[:, None].double(), 1.0)
        relative = velocities - center[system]
        moved = center[system] + _times(relative, slowed[system]) + _times(push, pushed[system])
        return torch.where(moves, moved, velocities)

    if not backward:
        w, velocities, chain, cell_chain, uptake = thermostat(w, velocities, chain, cell_chain)
        w = kick_cell(w, velocities)
        velocities = kick_atoms(w, velocities)
    else:
        velocities = kick_atoms(w, velocities)
        w = kick_cell(w, velocities)
        w, velocities, chain, cell_chain, uptake = thermostat(w, velocities, chain, cell_chain)
    return velocities.to(dtype), w, chain.clone(), cell_chain.clone(), uptake


def barostat_drift(positions, velocities, masses, cell, momentum, pressure, constants, segment_ptr, fraction):
    """Move atoms and cells by the exponential of the rate, and integrate the volume."""
    rate = momentum.double() / _root_of_mass(constants)[:, None, None]
    length = fraction * constants[:, Constant.DT]
    flow, push = exponential_and_mean(rate * length[:, None, None])
    system = segment_index(segment_ptr, len(positions))
    steps = torch.where(masses[:, None] > 0, velocities.double(), 0.0) * length[system, None]
    moved = _times(positions.double(), flow[system]) + _times(steps, push[system])
    strain, mean = _trace(rate) * length, torch.ones_like(length)
    for order in range(TERMS, 0, -1):
        mean = 1.0 + strain * mean / (order + 1)
    work = (pressure.double() * rate).sum((1, 2)) * torch.linalg.det(cell.double()).abs() * length * mean
    return moved.to(positions.dtype), torch.bmm(cell.double(), flow).to(cell.dtype), work


def exponential_and_mean(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exponential of matrices [B, 3, 3] and its mean over the unit of time, a series by Horner's rule.

    ``torch.linalg.matrix_exp`` gives a matrix other bits in another batch; this does not.
    """
    eye = torch.eye(3, dtype=x.dtype, device=x.device).expand_as(x)
    mean = eye
    for order in range(TERMS, 0, -1):
        mean = eye + torch.bmm(x, mean) / (order + 1)
    return eye + torch.bmm(x, mean), mean


def _root_of_mass(constants: torch.Tensor) -> torch.Tensor:
    mass = (constants[:, Constant.DOF] + 3.0) / 3.0 * constants[:, Constant.HEAT]
    return torch.sqrt(mass) * constants[:, Constant.BAROSTAT_TIME]


def _trace(matrices: torch.Tensor) -> torch.Tensor:
    return matrices[:, 0, 0] + matrices[:, 1, 1] + matrices[:, 2, 2]


def _times(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nc,ncd->nd", rows, matrices)
