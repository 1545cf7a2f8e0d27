"""Running means with honest errors: block averages of correlated samples, in bounded memory."""

from __future__ import annotations

import numpy as np

_BLOCKS = 64
_FEWEST = 6
"""Blocks below which an error estimate means too little to be used."""


class BlockAverages:
    """Mean and standard error of a sampled quantity, for many systems that are sampled at different times.

    Samples are kept as sums of consecutive blocks. When the blocks of a system are used up, neighbours are merged and
    blocks become twice as long, so memory does not grow with the run.

    Parameters
    ----------
    count
        Number of systems.
    blocks
        Blocks kept for each system, an even number.
    """

    def __init__(self, count: int, blocks: int = _BLOCKS) -> None:
        self._sums = np.zeros((count, blocks))
        self._length = np.ones(count, dtype=np.int64)
        self._samples = np.zeros(count, dtype=np.int64)

    @property
    def samples(self) -> np.ndarray:
        """Samples taken of each system, [count]."""
        return self._samples

    def add(self, which: np.ndarray, values: np.ndarray) -> None:
        """Add one sample to each of the systems `which` (indices)."""
        blocks = self._sums.shape[1]
        full = which[self._samples[which] == blocks * self._length[which]]
        if full.size:
            self._sums[full, : blocks // 2] = self._sums[full, 0::2] + self._sums[full, 1::2]
            self._sums[full, blocks // 2 :] = 0.0
            self._length[full] *= 2
        self._sums[which, self._samples[which] // self._length[which]] += values
        self._samples[which] += 1

    def mean_and_error(self, index: int) -> tuple[float, float]:
        """Return mean and standard error of one system; NaN where there are too few samples.

        The error is the largest over block lengths that leave at least six whole blocks, so correlation between
        neighbouring samples does not make it look small.
        """
        samples, length = int(self._samples[index]), int(self._length[index])
        if samples == 0:
            return float("nan"), float("nan")
        mean = float(self._sums[index].sum() / samples)
        sums = self._sums[index, : samples // length]
        errors = []
        while sums.size >= _FEWEST:
            errors.append(float(np.std(sums / length, ddof=1) / np.sqrt(sums.size)))
            pairs = sums.size // 2
            sums, length = sums[: 2 * pairs].reshape(pairs, 2).sum(axis=1), 2 * length
        return mean, max(errors) if errors else float("nan")
