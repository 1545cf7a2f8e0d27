"""Looking at and keeping many tensors, in torch: any device, the oracle and the explanation."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def all_below(tensors: Sequence[torch.Tensor], limits: Sequence[float]) -> bool:
    """Compare every magnitude with its limit; a comparison with NaN is false."""
    return all(bool((tensor.detach().abs() < limit).all()) for tensor, limit in zip(tensors, limits, strict=True))


def keep(tensors: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]) -> None:
    """Copy each tensor, in place."""
    for tensor, copy in zip(tensors, kept, strict=True):
        copy.copy_(tensor.detach())
