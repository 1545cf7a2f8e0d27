"""Many systems in batches of bounded size: which go together, and how large a batch may be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

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


def bytes_per_atom(model_name: str) -> int:
    """Return the memory that a step of this model needs for each atom."""
    return _BYTES_PER_ATOM.get(model_name, _UNKNOWN_MODEL)


def default_max_atoms(model_name: str, device: torch.device | None = None) -> int:
    """Return how many atoms a batch of this model may have on this machine."""
    fits = int(_SHARE * free_memory(device) / bytes_per_atom(model_name))
    return max(64, min(fits, _LARGEST.get(model_name, fits)))


def free_memory(device: torch.device | None = None) -> int:
    """Return the bytes that can be had without swapping, on the host or a GPU; 4 GB where the system does not say."""
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_meminfo(), _cgroup_room()]
    known = [value for value in limits if value is not None]
    return min(known) if known else 4_000_000_000


def _meminfo() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup_room() -> int | None:
    """Room left in the memory limit of a container, if there is one."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:
            text = limit.read().strip()
        if text == "max":
            return None
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as used:
            return max(0, int(text) - int(used.read()))
    except (OSError, ValueError):
        return None
