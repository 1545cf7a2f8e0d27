"""Coulomb sums in torch: any device, the oracle and the explanation. Energies, of which autograd makes the rest."""

from __future__ import annotations

from itertools import pairwise

import torch

from athanor.kernels.neighbor_list._reference import pair_vectors


def screened_coulomb(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, charges, included, screening, cutoff,
    taper_start, shift, tilt, half,
):  # fmt: skip
    """Sum over listed pairs inside the cutoff; a pair of a full list counts half."""
    system, i, d, j = pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    inside = ~((d * d).sum(-1) >= cutoff * cutoff) & included[system]
    system, i, j, d = system[inside], i[inside], j[inside], d[inside]
    r = torch.linalg.vector_norm(d, dim=-1)
    value = torch.erfc(screening * r) / r - shift + tilt * (r - cutoff)
    if taper_start < cutoff:
        t = ((r - taper_start) / (cutoff - taper_start)).clamp(min=0.0)
        value = value * (1.0 + t**3 * (-10.0 + t * (15.0 - 6.0 * t)))
    energy = charges.double()[i] * charges.double()[j] * value * (1.0 if half else 0.5)
    return energy.new_zeros(len(cell)).index_add(0, system, energy)


def finite_coulomb(positions, cell, segment_ptr, charges, included):
    """Sum over all pairs of each system."""
    energies = [positions.double().new_zeros(0)]
    for b, (first, last) in enumerate(pairwise(segment_ptr.tolist())):
        i, j = torch.triu_indices(last - first, last - first, 1, device=positions.device) + first
        if not included[b]:
            i, j = i[:0], j[:0]
        d = positions.double()[j] - positions.double()[i]
        q = charges.double()
        energies.append((q[i] * q[j] / torch.linalg.vector_norm(d, dim=-1)).sum()[None])
    return torch.cat(energies)
