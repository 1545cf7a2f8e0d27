"""The nearest neighbours of each atom, for networks that read no more than a number of them."""

from __future__ import annotations

import torch


def nearest(centers: torch.Tensor, lengths: torch.Tensor, limit: int, num_atoms: int) -> torch.Tensor | None:
    """Return the places of the pairs to keep, in order; ``None`` if that is all of them.

    Parameters
    ----------
    centers
        int64 [E], sorted: the atom that counts its neighbours.
    lengths
        [E], Å. Of equal ones that the limit divides, those listed first are kept.
    limit
        How many neighbours an atom keeps at most.
    num_atoms
        Atoms, N.
    """
    degrees = torch.bincount(centers, minlength=num_atoms)
    if not bool((degrees > limit).any()):
        return None
    by_length = torch.argsort(lengths, stable=True)
    order = by_length[torch.argsort(centers[by_length], stable=True)]
    first = torch.cumsum(degrees, 0) - degrees
    rank = torch.arange(len(order), device=order.device) - first[centers]  # `centers[order]` is `centers`, sorted
    return torch.sort(order[rank < limit]).values
