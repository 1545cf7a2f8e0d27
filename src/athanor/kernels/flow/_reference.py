"""Momentum flow and scaling in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.segment._reference import segment_index, segment_sum


def momentum_flow(velocities, masses, glides, segment_ptr):
    """Sum m (v - u) x (v - u) over the atoms of each system."""
    v, m = velocities.double(), masses.double()[:, None]
    v = torch.where(m > 0, v, 0.0)
    sums = segment_sum(torch.cat([m * v, m], dim=1), segment_ptr)
    mass = sums[:, 3:]
    center = torch.where(glides[:, None], sums[:, :3] / torch.where(mass > 0, mass, 1.0), 0.0)
    relative = torch.where(m > 0, v - center[segment_index(segment_ptr, len(v))], 0.0)
    products = (m * relative)[:, :, None] * relative[:, None, :]
    flow = segment_sum(products.flatten(1), segment_ptr).unflatten(1, (3, 3))
    return flow, flow[:, 0, 0] + flow[:, 1, 1] + flow[:, 2, 2], center


def scaled(vectors, factors, centers, segment_ptr):
    """Scale rows about the centre of their system."""
    system = segment_index(segment_ptr, vectors.shape[0])
    center = centers.double()[system]
    return (center + factors.double()[system, None] * (vectors.double() - center)).to(vectors.dtype)
