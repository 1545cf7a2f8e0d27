"""Running means with honest errors: block averages of correlated samples, in bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCKS = 64
_FEWEST = 6
"""Blocks below which an error estimate means too little to be used."""


class BlockAverages:
    """Mean and standard error of a sampled quantity, for many systems that are sampled at different times.

    Samples are kept as sums of consecutive blocks. When the blocks of a system are used up, neighbours are merged and
    blocks become twice as long, so memory does not grow with the run.

    Parameters
    ----------
    sums
        float64 [B, blocks]; sum of the samples of each block. Changed in place, as are the others.
    length
        int64 [B]; samples in a block.
    samples
        int64 [B]; samples taken.
    """

    def __init__(self, sums: Tensor, length: Tensor, samples: Tensor) -> None:
        self.sums, self.length, self.samples = sums, length, samples

    @classmethod
    def empty(cls, count: int, device: torch.device | None = None, blocks: int = _BLOCKS) -> BlockAverages:
        """Return averages without samples of `count` systems, with an even number of blocks each."""
        ones = torch.ones(count, dtype=torch.int64, device=device)
        sums = torch.zeros(count, blocks, dtype=torch.float64, device=device)
        return cls(sums, ones, torch.zeros_like(ones))

    def add(self, sampled: Tensor, values: Tensor) -> None:
        """Add one sample, of `values` [B], to each of the systems that are `sampled`, bool [B]; in place."""
        blocks = self.sums.shape[1]
        full = sampled & (self.samples == blocks * self.length)
        if bool(full.any()):
            pairs = self.sums[:, 0::2] + self.sums[:, 1::2]
            merged = torch.cat((pairs, torch.zeros_like(pairs)), dim=1)
            self.sums.copy_(torch.where(full[:, None], merged, self.sums))
            self.length.mul_(1 + full.long())
        block = torch.where(sampled, self.samples // self.length, 0)
        self.sums.scatter_add_(1, block[:, None], torch.where(sampled, values.to(self.sums.dtype), 0.0)[:, None])
        self.samples.add_(sampled)

    def mean_and_error(self, index: int) -> tuple[float, float]:
        """Return mean and standard error of one system; NaN where there are too few samples.

        The error is the largest over block lengths that leave at least six whole blocks, so correlation between
        neighbouring samples does not make it look small.
        """
        samples, length = int(self.samples[index]), int(self.length[index])
        if samples == 0:
            return float("nan"), float("nan")
        sums = self.sums[index].cpu().numpy()
        mean = float(sums.sum() / samples)
        sums = sums[: samples // length]
        errors = []
        while sums.size >= _FEWEST:
            errors.append(float(np.std(sums / length, ddof=1) / np.sqrt(sums.size)))
            pairs = sums.size // 2
            sums, length = sums[: 2 * pairs].reshape(pairs, 2).sum(axis=1), 2 * length
        return mean, max(errors) if errors else float("nan")
