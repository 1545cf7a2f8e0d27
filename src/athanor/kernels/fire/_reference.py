"""FIRE's passes over the atoms in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.segment._reference import segment_index, segment_sum


def fire_sums(velocities: torch.Tensor, forces: torch.Tensor, segment_ptr: torch.Tensor) -> torch.Tensor:
    """Add F·v, v·v and F·F over the atoms of each system: x, y and z first, each over the atoms in order."""
    products = torch.stack((forces * velocities, velocities * velocities, forces * forces), dim=1)
    sums = segment_sum(products.double(), segment_ptr)
    return ((sums[:, :, 0] + sums[:, :, 1]) + sums[:, :, 2]).to(velocities.dtype)


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steer and accelerate; cut displacements that are too long."""
    system = segment_index(segment_ptr, velocities.shape[0])
    keep, steer, dt, maxstep = (value.double()[system][:, None] for value in (keep, steer, dt, maxstep))
    v, f = velocities.double(), forces.double()
    mixed = torch.where(downhill[system][:, None], keep * v + steer * f, 0.0)
    faster = mixed + dt * inverse_masses.double()[:, None] * f
    moves = dt * faster
    x, y, z = moves.unbind(1)
    length = torch.sqrt((x * x + y * y) + z * z)[:, None]
    moves = torch.where(length > maxstep, moves * (maxstep / length), moves)
    return faster.to(velocities.dtype), moves.to(velocities.dtype)
