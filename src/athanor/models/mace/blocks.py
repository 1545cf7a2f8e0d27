"""Whole systems of a batch, as many at a time as the caches of a processor hold the features of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

PAIRS_AT_A_TIME = 2500
"""What a network with 128 channels keeps of these fits the cache, and is not asked of the system anew each time."""
_OF_ATOMS = ("positions", "node_attrs", "charges")
_OF_PAIRS = ("shifts", "unit_shifts", "neighbor_list_shifts")
_OF_SYSTEMS = ("cell", "head", "total_charge", "total_spin")


def blocks(inputs: Mapping[str, Any], pairs: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the inputs of one group of systems after the other.

    Parameters
    ----------
    inputs
        As `MACEWrapper.adapt_input` returns them; pairs are sorted by system.
    pairs
        How many a group has at most, unless one system has more; `PAIRS_AT_A_TIME` by default.
    """
    pairs = PAIRS_AT_A_TIME if pairs is None else pairs
    ptr, batch, edge_index = inputs["ptr"], inputs["batch"], inputs["edge_index"]
    of_systems = torch.bincount(batch[edge_index[0]], minlength=len(ptr) - 1)
    last_pair = torch.cumsum(of_systems, 0).tolist()
    atoms = ptr.tolist()
    systems = len(last_pair)
    begin = 0
    while begin < systems:
        first_pair = last_pair[begin - 1] if begin else 0
        end = begin + 1
        while end < systems and last_pair[end] - first_pair <= pairs:
            end += 1
        rows, edges = slice(atoms[begin], atoms[end]), slice(first_pair, last_pair[end - 1])
        block = {name: inputs[name][rows] for name in _OF_ATOMS if name in inputs}
        block |= {name: inputs[name][edges] for name in _OF_PAIRS if name in inputs}
        block |= {name: inputs[name][begin:end] for name in _OF_SYSTEMS if name in inputs}
        block["ptr"], block["batch"] = ptr[begin : end + 1] - atoms[begin], batch[rows] - begin
        block["edge_index"] = edge_index[:, edges] - atoms[begin]
        yield block
        begin = end


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a network gave for the groups, as if it had been one."""
    if len(parts) == 1:
        return dict(parts[0])
    names = [name for name, value in parts[0].items() if isinstance(value, torch.Tensor) and value.ndim]
    return {name: torch.cat([part[name] for part in parts]) for name in names}
