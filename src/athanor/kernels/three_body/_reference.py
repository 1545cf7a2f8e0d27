"""The Stillinger-Weber potential in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch

from athanor.kernels.neighbor_list._reference import pair_vectors
from athanor.kernels.segment._reference import segment_sum


def stillinger_weber(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, pair, triple
):  # fmt: skip
    """Sum over pairs of a full list, each of which counts half, and over pairs of neighbours of each atom."""
    _, i, d, j = pair_vectors(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    kinds = types.long()
    inside = (d * d).sum(-1).sqrt() < pair.double()[kinds[i], kinds[j], 6]
    i, j, d = i[inside], j[inside], d[inside]
    r = (d * d).sum(-1).sqrt()
    strength, weight, p, q, sigma, end, _, decay = pair.double()[kinds[i], kinds[j]].unbind(-1)
    ratio = sigma / r
    energy = strength * (weight * ratio**p - ratio**q) * (sigma / (r - end)).exp()
    of_atom = r.new_zeros(len(positions)).index_add(0, i, 0.5 * energy)
    first, second = neighbors_of_one_atom(i, len(positions))
    centre = i[first]
    strength, cosine = triple.double()[kinds[centre], kinds[j[first]], kinds[j[second]]].unbind(-1)
    screening = (decay / (r - end)).exp()
    bend = (d[first] * d[second]).sum(-1) / (r[first] * r[second]) - cosine
    angles = strength * bend * bend * screening[first] * screening[second]
    return segment_sum(of_atom.index_add(0, centre, angles), segment_ptr)


def neighbors_of_one_atom(centres: torch.Tensor, num_atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both places of every two pairs that have the same centre; centres do not decrease."""
    last = torch.bincount(centres, minlength=num_atoms).cumsum(0)[centres]
    place = torch.arange(len(centres), device=centres.device)
    later = last - place - 1
    first = place.repeat_interleave(later)
    start = later.cumsum(0) - later
    return first, first + 1 + torch.arange(len(first), device=centres.device) - start[first]
