"""Many systems in batches of bounded size: which go together, and how large a batch may be."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from athanor._memory import free_memory
from athanor.dynamics import AutoBatcher
from athanor.models.registry import memory_of_an_atom

if TYPE_CHECKING:
    import torch

    from athanor.data.batch import Batch

_UNKNOWN_MODEL = 5000
"""kB an atom of a model that does not say: that of a large network."""
_SHARE = 0.5
"""Part of the free memory that a batch may take: some systems are denser than those that were measured."""
_FEWEST = 64
_ROOM = 4
"""Times the size from which on a model is not faster: what a step and a refill cost beside it is shared by more."""


def split_into_chunks(sizes: Sequence[int], max_atoms: int) -> list[list[int]]:
    """Cut systems into consecutive chunks of at most `max_atoms`; a larger system is a chunk of its own.

    Parameters
    ----------
    sizes
        Atoms of each system.
    max_atoms
        Largest number of atoms of a chunk.

    Returns
    -------
    list of list of int
        Indices into `sizes`; concatenated they are 0, 1, 2, ...
    """
    chunks: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not chunks or size > room:
            chunks.append([])
            room = max_atoms
        chunks[-1].append(index)
        room -= size
    return chunks


def default_max_atoms(model_name: str, device: torch.device | None = None) -> int:
    """Return how many atoms a batch of this model, or sum of models, may have on this machine.

    What an atom needs stands in the list of models, `athanor.models.catalogue`.
    """
    needed, most = memory_of_an_atom(model_name)
    fits = int(_SHARE * free_memory(device) / (1000 * (needed or _UNKNOWN_MODEL)))
    return max(_FEWEST, min(fits, most or fits))


def suitable_max_atoms(model: Any, name: str, systems: Batch, device: torch.device | None = None) -> int:
    """Return how many atoms a batch of `systems` may have: measured with the model, unless all of them fit anyway.

    Parameters
    ----------
    model
        A wrapped model, on `device`.
    name
        What it is called in the list of models; empty if it is in none.
    systems
        All that are to be computed.
    device
        Where.
    """
    expected = default_max_atoms(name, device)
    if systems.num_nodes <= expected:
        return expected
    outputs = {"energy", "forces"} | ({"stress"} & model.model_config.outputs if "cell" in systems else set())
    batcher = AutoBatcher(model, systems, outputs=outputs, name=name, memory_fraction=_SHARE)
    per_atom, per_pair = batcher.bytes_of_atom_and_pair
    probes = (*batcher.probes.probes, *batcher.probes.others)
    densest = max((probe.pairs / probe.atoms for probe in probes), default=0.0)
    fits = _SHARE * free_memory(device) / (per_atom + per_pair * densest)
    fast = _ROOM * batcher.best_atoms
    if fast == inf:  # it was not seen, and the list may know
        fast = memory_of_an_atom(name)[1] or inf
    return max(_FEWEST, int(min(fits, fast)))
