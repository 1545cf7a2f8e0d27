"""Many systems in batches of bounded size: which go together, and how large a batch may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from athanor.workflows.memory import free_memory

if TYPE_CHECKING:
    import torch

_BYTES_PER_ATOM = {"chgnet": 2_500_000, "lennard-jones": 25_000, "demo": 25_000}
"""Memory that one step needs for each atom, with neighbours as dense as in a crystal; measured, rounded up."""
_UNKNOWN_MODEL = 2_500_000
_SHARE = 0.5
"""Part of the free memory that a batch may take."""
_LARGEST = {"chgnet": 2048}
"""Atoms beyond which a larger batch of this model is not faster."""


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
    """Return how many atoms a batch of this model, or sum of models, may have on this machine."""
    names = [name.strip() for name in model_name.split("+")]
    fits = int(_SHARE * free_memory(device) / max(_BYTES_PER_ATOM.get(name, _UNKNOWN_MODEL) for name in names))
    return max(64, min(fits, *(_LARGEST.get(name, fits) for name in names)))
