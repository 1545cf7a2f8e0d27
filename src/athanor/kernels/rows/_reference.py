"""Moving the rows of systems, in torch: any device, differentiable, the oracle and the explanation."""

from __future__ import annotations

import numpy as np
import torch


def arrange_rows(
    first: torch.Tensor, other: torch.Tensor | None, starts: np.ndarray, counts: np.ndarray, joining: np.ndarray | None
) -> torch.Tensor:
    """Number the rows of both tensors one behind the other, and take those of each system in turn."""
    ends = np.cumsum(counts)
    if other is not None and joining is not None:
        starts = starts + first.shape[0] * joining
        first = torch.cat((first, other))
    rows = np.repeat(starts - (ends - counts), counts) + np.arange(counts.sum())
    return first.index_select(0, torch.from_numpy(rows).to(first.device))
