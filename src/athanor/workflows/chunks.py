"""Many systems in batches of bounded size: which go together, and how large a batch may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from athanor._memory import free_memory
from athanor.models.registry import find

if TYPE_CHECKING:
    import torch

_UNKNOWN_MODEL = 5000
"""kB an atom of a model that does not say: that of a large network."""
_SHARE = 0.5
"""Part of the free memory that a batch may take: some systems are denser than those that were measured."""
_FEWEST = 64


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
    rows = [find(name) for name in model_name.split("+")] if model_name.strip() else []
    needed = max((row.kilobytes_per_atom or _UNKNOWN_MODEL for row in rows), default=_UNKNOWN_MODEL)
    fits = int(_SHARE * free_memory(device) / (1000 * needed))
    return max(_FEWEST, min(fits, *(row.most_atoms or fits for row in rows)) if rows else fits)
