"""Cutting many systems into batches, and means with honest errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athanor.workflows.averages import BlockAverages
from athanor.workflows.chunks import default_max_atoms, split_into_chunks
from athanor.workflows.memory import free_memory


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60))
def test_chunks_keep_everything_in_order_and_are_small_enough(sizes: list[int], most: int) -> None:
    chunks = split_into_chunks(sizes, most)
    assert [index for chunk in chunks for index in chunk] == list(range(len(sizes)))
    for chunk in chunks:
        assert chunk
        assert len(chunk) == 1 or sum(sizes[index] for index in chunk) <= most


def test_memory_gives_a_sensible_batch() -> None:
    assert free_memory() > 0
    assert 64 <= default_max_atoms("chgnet") <= default_max_atoms("lennard-jones")


def correlated(length: int, memory: float, seed: int) -> np.ndarray:
    """A series with variance 1 and correlation time 1 / (1 - memory), roughly."""
    noise = np.random.default_rng(seed).normal(size=length)
    series = np.empty(length)
    series[0] = noise[0]
    for step in range(1, length):
        series[step] = memory * series[step - 1] + np.sqrt(1 - memory**2) * noise[step]
    return series


def feed(series: np.ndarray) -> BlockAverages:
    averages = BlockAverages.empty(1)
    for value in series:
        averages.add(torch.tensor([True]), torch.tensor([value]))
    return averages


def test_mean_is_exact_after_merging() -> None:
    series = correlated(1000, 0.5, 0)
    averages = feed(series)
    assert averages.samples[0] == 1000
    assert averages.mean_and_error(0)[0] == pytest.approx(series.mean(), rel=1e-12)


def naive_error(series: np.ndarray) -> float:
    """Broken twin: takes correlated samples for independent ones."""
    return float(series.std(ddof=1) / np.sqrt(series.size))


def covers(errors: list[float], means: list[float]) -> bool:
    """Whether the scatter of the means is about what the errors say."""
    return np.sqrt(np.mean(np.square(errors))) > 0.7 * np.std(means)


def test_errors_cover_the_scatter_of_correlated_means() -> None:
    runs = [correlated(2000, 0.95, seed) for seed in range(40)]
    measured = [feed(run).mean_and_error(0) for run in runs]
    means = [mean for mean, _ in measured]
    assert covers([error for _, error in measured], means)
    assert not covers([naive_error(run) for run in runs], means)


def test_systems_are_sampled_independently() -> None:
    averages = BlockAverages.empty(3, blocks=4)
    for step in range(9):
        averages.add(torch.tensor([step < 3, False, True]), torch.tensor([1.0, 7.0, 5.0]))
    assert averages.mean_and_error(0)[0] == 1.0
    assert averages.mean_and_error(2)[0] == 5.0
    assert np.isnan(averages.mean_and_error(1)[0])
