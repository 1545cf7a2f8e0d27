"""The D3 dispersion correction in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor import units
from athanor.kernels.neighbor_list import build_neighbor_list
from athanor.kernels.neighbor_list._reference import pair_vectors


def dftd3(
    positions, cell, segment_ptr, pbc, atomic_numbers, rcov, r4r2, r0ab, reference_cn, reference_c6, rational, s6, s8,
    s9, first, second, alpha, k1, k3, cutoff, cn_cutoff, three_body_cutoff, smoothing_fraction,
):  # fmt: skip
    """Sum over a full list, in atomic units; each pair counts half."""
    system, i, j, d = _pairs(
        positions, cell, segment_ptr, pbc, max(cutoff, cn_cutoff, three_body_cutoff if s9 else 0.0)
    )
    r = torch.linalg.vector_norm(d, dim=-1)
    cutoff, cn_cutoff, three_body_cutoff = (each / units.BOHR for each in (cutoff, cn_cutoff, three_body_cutoff))
    z = atomic_numbers.long()

    near = r < cn_cutoff
    counted = _switch(r[near], cn_cutoff, smoothing_fraction) * torch.sigmoid(
        k1 * ((rcov[z[i[near]]] + rcov[z[j[near]]]) / r[near] - 1.0)
    )
    cn = r.new_zeros(len(z)).index_add(0, i[near], counted)
    references = reference_cn[z]
    powers = (k3 * (cn[:, None] - references) ** 2).masked_fill(references < 0.0, -torch.inf)
    weights = torch.softmax(powers, dim=1)

    def c6_of(a, b):
        mixed = torch.einsum("mp,mpq->mq", weights[a], reference_c6[z[a], z[b]])
        return (mixed * weights[b]).sum(1)

    near = r < cutoff
    zi, zj, x = z[i[near]], z[j[near]], r[near]
    ratio = 3.0 * r4r2[zi] * r4r2[zj]
    if rational:
        radius = first * ratio.sqrt() + second
        sixth, eighth = 1.0 / (x**6 + radius**6), 1.0 / (x**8 + radius**8)
    else:
        r0 = r0ab[zi, zj]
        sixth = x**-6 / (1.0 + 6.0 * (first * r0 / x) ** alpha)
        eighth = x**-8 / (1.0 + 6.0 * (second * r0 / x) ** (alpha + 2))
    pair_energy = -c6_of(i[near], j[near]) * (s6 * sixth + s8 * ratio * eighth)
    pair_energy = 0.5 * pair_energy * _switch(x, cutoff, smoothing_fraction)
    energy = r.new_zeros(len(cell)).index_add(0, system[near], pair_energy)
    if s9 != 0.0:
        near = r < three_body_cutoff
        a, b = _partners(i[near], len(z))
        i, j, d, system = i[near], j[near], d[near], system[near]
        sides = torch.stack([d[a], d[b], d[b] - d[a]])
        keep = (sides[2].detach() ** 2).sum(-1) < three_body_cutoff**2
        a, b = a[keep], b[keep]
        lengths = torch.linalg.vector_norm(sides[:, keep], dim=-1)
        pairs = ((i[a], j[a]), (i[a], j[b]), (j[a], j[b]))
        c9, zero_radius = 1.0, 1.0
        for p, q in pairs:
            c9 = c9 * c6_of(p, q).sqrt()
            zero_radius = zero_radius * (4.0 / 3.0 * r0ab[z[p], z[q]])
        x, y, w = lengths**2
        product = lengths.prod(0)
        angles = 0.375 * (x + y - w) * (x - y + w) * (y + w - x) / product**2 + 1.0
        damping = 1.0 + 6.0 * (zero_radius / product) ** ((alpha + 2) / 3.0)
        switches = _switch(lengths, three_body_cutoff, smoothing_fraction).prod(0)
        triple_energy = s9 * c9 * angles / (product**3 * damping) * switches / 3.0  # met from each of its atoms
        energy = energy.index_add(0, system[a], triple_energy)
    return energy * units.HARTREE


def _pairs(positions, cell, segment_ptr, pbc, radius):
    """Return system, atom i, atom j and vector in bohr of every pair within `radius` Å, in the order of i."""
    where = {"device": positions.device}
    none = torch.zeros(0, dtype=torch.int32, **where)
    rows = torch.zeros(len(positions) + 1, dtype=torch.int64, **where)
    wraps = torch.zeros((len(positions), 3), dtype=torch.int32, **where)
    every = torch.ones(len(cell), dtype=torch.bool, **where)
    arguments = (positions.detach(), cell.detach(), pbc, segment_ptr, radius, False, every, rows, none, none, wraps)
    system, i, d, j = pair_vectors(positions, cell, segment_ptr, *build_neighbor_list(*arguments))
    return system, i, j, d / units.BOHR


def _switch(r, cutoff, fraction):
    """Go from 1 to 0 in the last `fraction` of the cutoff, with two continuous derivatives."""
    if fraction == 0.0:
        return torch.ones_like(r)
    t = ((r - cutoff * (1.0 - fraction)) / (cutoff * fraction)).clamp(min=0.0)
    return 1.0 + t**3 * (-10.0 + t * (15.0 - 6.0 * t))


def _partners(i, atoms):
    """Return every two pairs of each atom, each two once; `i` is sorted."""
    ends = torch.bincount(i, minlength=atoms).cumsum(0)[i]
    places = torch.arange(len(i), device=i.device)
    later = ends - places - 1
    first = places.repeat_interleave(later)
    step = torch.arange(len(first), device=i.device) - (later.cumsum(0) - later).repeat_interleave(later)
    return first, first + 1 + step
