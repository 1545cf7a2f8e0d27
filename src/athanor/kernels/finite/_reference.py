"""Whether all numbers of a tensor are finite, in torch: any device, the oracle and the explanation."""

from __future__ import annotations

import torch


def all_below(values: torch.Tensor, limit: float) -> bool:
    """Compare every magnitude with `limit`; a comparison with NaN is false."""
    return bool((values.abs() < limit).all())
