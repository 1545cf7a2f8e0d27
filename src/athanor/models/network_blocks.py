"""Whole systems of a batch, as many at a time as the caches of a processor hold what a network makes of them.

A large batch of a large network is bound by memory, which is asked of the system anew in every call. Systems know
nothing of each other, so a block of them is a batch: its forces and stress are made before the next one is evaluated,
and what that needed is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from athanor.data._view import view_of_systems

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.pair_list import PairList


PAIRS_AT_A_TIME = 4000
"""What networks of 64 to 128 channels keep of these fits the cache, and is not asked of the system anew each time."""


def evaluated_in_blocks(
    evaluate: Callable[[Batch], Mapping[str, torch.Tensor]], batch: Batch, pairs: PairList, most: int
) -> Mapping[str, torch.Tensor]:
    """Return what `evaluate` gives for a batch, called for one block after the other.

    Parameters
    ----------
    evaluate
        Returns tensors with a row for each atom or system, without a graph.
    batch, pairs, most
        As `blocks`.
    """
    parts = [evaluate(block) for block in blocks(batch, pairs, most)]
    return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def blocks(batch: Batch, pairs: PairList, most: int) -> Iterator[Batch]:
    """Yield the systems of a batch in order, some at a time; the batch itself if it is one block.

    Parameters
    ----------
    batch
        What a model is called with.
    pairs
        The list that the model reads; of the lists, blocks have this one alone.
    most
        How many pairs of it a block has at most, unless one system has more. These stay the same while the list does,
        so a system keeps its block while atoms move.
    """
    first_pair, *last_pair = pairs.row_ptr[batch.batch_ptr.long()].tolist()
    begins = [0]
    for system, last in enumerate(last_pair):
        if last - first_pair > most and system > begins[-1]:
            begins.append(system)
            first_pair = last_pair[system - 1]
    if len(begins) == 1:
        yield batch
        return
    for begin, end in pairwise((*begins, len(last_pair))):
        yield view_of_systems(batch, begin, end, pairs)
