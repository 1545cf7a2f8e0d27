"""Running means with honest errors: block averages of correlated samples, in bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from athanor.analysis.statistics import equilibration

_BLOCKS = 256
_FEWEST = 6
"""Blocks below which an error estimate means too little to be used."""
_FEWEST_TO_DETECT = 50
"""Blocks below which nothing is said of when a system has settled, and the first half is left out."""


class BlockAverages:
    """Means and standard errors of sampled quantities, for many systems that are sampled at different times.

    Samples are kept as sums of consecutive blocks. When the blocks of a quantity are used up, neighbours are merged and
    blocks become twice as long, so memory does not grow with the run.

    Parameters
    ----------
    sums
        float64 [B, Q, blocks]; sum of the samples of each block. Changed in place, as are the others.
    length
        int64 [B, Q]; samples in a block.
    samples
        int64 [B, Q]; samples taken.
    """

    def __init__(self, sums: Tensor, length: Tensor, samples: Tensor) -> None:
        self.sums, self.length, self.samples = sums, length, samples

    @classmethod
    def empty(
        cls, count: int, quantities: int = 1, device: torch.device | None = None, blocks: int = _BLOCKS
    ) -> BlockAverages:
        """Return averages without samples of `count` systems, with an even number of blocks each."""
        ones = torch.ones(count, quantities, dtype=torch.int64, device=device)
        sums = torch.zeros(count, quantities, blocks, dtype=torch.float64, device=device)
        return cls(sums, ones, torch.zeros_like(ones))

    def add(self, sampled: Tensor, values: Tensor) -> None:
        """Add one sample, of `values` [B, Q], to each quantity that is `sampled`, bool [B, Q]; in place."""
        blocks = self.sums.shape[2]
        full = sampled & (self.samples == blocks * self.length)
        if bool(full.any()):
            pairs = self.sums[:, :, 0::2] + self.sums[:, :, 1::2]
            merged = torch.cat((pairs, torch.zeros_like(pairs)), dim=2)
            self.sums.copy_(torch.where(full[:, :, None], merged, self.sums))
            self.length.mul_(1 + full.long())
        block = torch.where(sampled, self.samples // self.length, 0)
        self.sums.scatter_add_(2, block[:, :, None], torch.where(sampled, values.to(self.sums.dtype), 0.0)[:, :, None])
        self.samples.add_(sampled)

    def forget(self, which: Tensor) -> None:
        """Drop the samples of the systems `which`, bool [B]; in place."""
        self.sums.masked_fill_(which[:, None, None], 0.0)
        self.length.masked_fill_(which[:, None], 1)
        self.samples.masked_fill_(which[:, None], 0)

    def settled_after(self, index: int, quantities: list[int]) -> float:
        """Return the part of the samples of one system that is the way to equilibrium, from 0 to 1.

        It is found by `athanor.analysis.equilibration` in the means of the blocks of `quantities`, which are sampled
        together; of few samples it is the first half.
        """
        length = int(self.length[index, quantities[0]])
        whole = int(self.samples[index, quantities[0]]) // length
        if whole < _FEWEST_TO_DETECT:
            return 0.5
        sums = self.sums[index, quantities].cpu().numpy()[:, :whole]
        return equilibration(*sums) / whole

    def mean_and_error(self, index: int, quantity: int = 0, after: float = 0.0) -> tuple[float, float, int]:
        """Return mean and standard error of one system, and how many samples they are of; NaN where there are too few.

        `after` is the part of the samples that is left out at the start, in whole blocks. The error is the largest over
        block lengths that leave at least six whole blocks, so correlation between neighbouring samples does not make
        it look small.
        """
        samples, length = int(self.samples[index, quantity]), int(self.length[index, quantity])
        first = int(np.ceil(after * (samples // length) - 1e-9))
        samples -= first * length
        if samples <= 0:
            return float("nan"), float("nan"), 0
        sums = self.sums[index, quantity].cpu().numpy()[first:]
        mean = float(sums.sum() / samples)
        sums = sums[: samples // length]
        errors = []
        while sums.size >= _FEWEST:
            errors.append(float(np.std(sums / length, ddof=1) / np.sqrt(sums.size)))
            pairs = sums.size // 2
            sums, length = sums[: 2 * pairs].reshape(pairs, 2).sum(axis=1), 2 * length
        return mean, max(errors) if errors else float("nan"), samples
