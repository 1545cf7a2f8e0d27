"""What models are asked for, and combining what they return."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

ADDITIVE_KEYS: frozenset[str] = frozenset({"energy", "forces", "stress"})
"""Outputs that add up when models are combined."""


def sum_outputs(
    *outputs: Mapping[str, torch.Tensor | None], additive_keys: Collection[str] | None = None
) -> OrderedDict[str, torch.Tensor]:
    """Add additive outputs element by element; of the others the last one wins.

    Parameters
    ----------
    *outputs
        Outputs of models for the same batch. ``None`` values count as absent.
    additive_keys
        Which keys add up; replaces the default energy, forces, stress.

    Returns
    -------
    OrderedDict
        Keys in order of first appearance. New tensors where something was added, else those handed in.
    """
    additive = ADDITIVE_KEYS if additive_keys is None else additive_keys
    total: OrderedDict[str, torch.Tensor] = OrderedDict()
    for output in outputs:
        for key, value in output.items():
            if value is None:
                continue
            present = total.get(key)
            total[key] = present + value if key in additive and present is not None else value
    return total


@contextmanager
def asking_for(model: Any, outputs: Collection[str]) -> Iterator[None]:
    """Ask `model` for `outputs` only, for the time of the block."""
    config = model.model_config
    asked_before = config.active_outputs
    if asked_before == set(outputs):
        yield
        return
    config.active_outputs = set(outputs)
    try:
        yield
    finally:
        config.active_outputs = asked_before
