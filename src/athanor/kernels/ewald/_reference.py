"""Ewald sums in torch: any device, the oracle and the explanation. Energies, of which autograd makes the rest."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from athanor.kernels.segment._reference import segment_index, segment_sum


def ewald_reciprocal(positions, cell, segment_ptr, charges, included, screening, taper_start, radius, derivatives):
    """Sum over the vectors of the reciprocal lattice within `radius`, half of which say all."""
    energies = [positions.double().new_zeros(0)]
    for b, (first, last) in enumerate(pairwise(segment_ptr.tolist())):
        if not included[b]:
            energies.append(positions.double().new_zeros(1))
            continue
        h = cell[b].double()
        vectors = 2.0 * math.pi * torch.linalg.inv(h).mT
        reach = (radius * torch.linalg.vector_norm(h, dim=1) / (2.0 * math.pi)).floor().long().tolist()
        axes = [torch.arange(-n, n + 1, device=cell.device) for n in reach]
        indices = torch.cartesian_prod(*axes)
        indices = indices[len(indices) // 2 + 1 :].double()  # those before are their negatives
        k = indices @ vectors
        square = (k * k).sum(-1)
        inside = square < radius * radius
        k, square = k[inside], square[inside]
        t = ((square.sqrt() - taper_start) / (radius - taper_start)).clamp(min=0.0)
        taper = 1.0 + t**3 * (-10.0 + t * (15.0 - 6.0 * t))
        green = 4.0 * math.pi * taper * torch.exp(-square / (4.0 * screening**2)) / square
        angle = positions[first:last].double() @ k.mT
        q = charges[first:last].double()
        power = (q @ torch.cos(angle)) ** 2 + (q @ torch.sin(angle)) ** 2
        energies.append(((green * power).sum() / torch.linalg.det(h).abs())[None])
    return torch.cat(energies)


def charge_corrections(positions, cell, segment_ptr, charges, included, open_axis, self_term, background):
    """Self energy, uniform background, and slabs."""
    q = charges.double()
    squares = segment_sum(q * q, segment_ptr)
    total = segment_sum(q, segment_ptr)
    # systems that do not count have cells of no volume
    h = torch.where(included[:, None, None], cell.double(), torch.eye(3, dtype=torch.float64, device=cell.device))
    volume = torch.linalg.det(h).abs()
    energy = -self_term * squares - background * total**2 / volume
    vectors = torch.linalg.inv(h).mT
    axis = open_axis.clamp(min=0).long()
    rows = torch.arange(len(h), device=h.device)
    normal = torch.nn.functional.normalize(vectors[rows, axis], dim=-1)
    length = (h[rows, axis] * normal).sum(-1)
    z = (positions.double() * normal[segment_index(segment_ptr, len(positions))]).sum(-1)
    dipole, second = segment_sum(q * z, segment_ptr), segment_sum(q * z * z, segment_ptr)
    slab = (2.0 * math.pi / volume) * (dipole**2 - total * second - (total * length) ** 2 / 12.0)
    energy = energy + torch.where(open_axis >= 0, slab, 0.0)
    return torch.where(included, energy, 0.0)
