"""FIRE's passes over the atoms in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.segment._reference import segment_index, segment_sum


def fire_sums(velocities, forces, segment_ptr):
    """Add F·v, v·v and F·F over the atoms of each system: x, y and z first, each over the atoms in order."""
    products = torch.stack((forces * velocities, velocities * velocities, forces * forces), dim=1)
    sums = segment_sum(products.double(), segment_ptr)
    return ((sums[:, :, 0] + sums[:, :, 1]) + sums[:, :, 2]).to(velocities.dtype)


def fire_moves(velocities, forces, inverse_masses, segment_ptr, downhill, keep, steer, dt, maxstep):
    """Steer and accelerate; cut displacements that are too long."""
    system = segment_index(segment_ptr, velocities.shape[0])
    keep, steer, dt, maxstep = (value.double()[system][:, None] for value in (keep, steer, dt, maxstep))
    v, f = velocities.double(), forces.double()
    mixed = torch.where(downhill[system][:, None], keep * v + steer * f, 0.0)
    new_velocities = mixed + dt * inverse_masses.double()[:, None] * f
    displacements = dt * new_velocities
    x, y, z = displacements.unbind(1)
    length = torch.sqrt((x * x + y * y) + z * z)[:, None]
    displacements = torch.where(length > maxstep, displacements * (maxstep / length), displacements)
    return new_velocities.to(velocities.dtype), displacements.to(velocities.dtype)
