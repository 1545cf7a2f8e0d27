"""What tells one model from another: a digest of its class, its settings and its parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import nn

_LEFT_OUT = ("training", "model_config", "model_card")
"""Attributes that change during a run, or follow from the others."""


def model_digest(model: Any) -> str:
    """Return a digest, sha256, of what a model computes: names of classes, public settings, parameters and buffers.

    Equal models have equal digests, in every process. What is private (``_name``) or an object of another program is
    left out, so equal digests do not prove that two models are equal.
    """
    found = hashlib.sha256()
    modules = list(model.named_modules()) if isinstance(model, nn.Module) else [("", model)]
    for path, module in modules:
        found.update(f"{path}:{type(module).__module__}.{type(module).__qualname__}\n".encode())
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and name not in _LEFT_OUT:
                _add(found, name, value)
    if isinstance(model, nn.Module):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            _add(found, name, tensor)
    card = getattr(model, "model_card", None)
    _add(found, "weights_digest", getattr(card, "weights_digest", ""))
    return found.hexdigest()


def _add(found: Any, name: str, value: Any) -> None:
    """Add a value to a digest, if it is plain."""
    if isinstance(value, torch.Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        found.update(f"{name}:{tensor.dtype}{tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, bool | int | float | complex | str | torch.dtype) or value is None:
        found.update(f"{name}={value!r}\n".encode())
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _add(found, f"{name}[{key!r}]", each)
    elif isinstance(value, Set):
        found.update(f"{name}={sorted(map(repr, value))}\n".encode())
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            _add(found, f"{name}[{place}]", each)
