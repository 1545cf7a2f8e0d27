"""Angles of a pair list: the ordered pairs of short pairs that share their first atom."""

from __future__ import annotations

import torch


def triples(centers: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """Return the pairs ij and ik of each angle at i, j and k in both orders, int64 [T, 2].

    Parameters
    ----------
    centers
        int64 [E], sorted: atom i of each pair.
    short
        bool [E], which pairs take part.
    """
    places = short.nonzero().view(-1)
    atoms = centers[places]
    _, row, counts = torch.unique_consecutive(atoms, return_inverse=True, return_counts=True)
    first = torch.cumsum(counts, 0) - counts
    repeats = counts[row]  # each short pair meets all of its atom
    left = torch.arange(len(places), device=places.device).repeat_interleave(repeats)
    begin = (torch.cumsum(repeats, 0) - repeats).repeat_interleave(repeats)
    right = first[row].repeat_interleave(repeats) + torch.arange(len(left), device=left.device) - begin
    found = torch.stack((left, right), dim=1)[left != right]
    return places[found]
