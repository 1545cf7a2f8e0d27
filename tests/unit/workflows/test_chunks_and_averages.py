"""Cutting many systems into batches, and means with honest errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athanor.workflows import chunks, memory
from athanor.workflows.averages import BlockAverages
from athanor.workflows.chunks import split_into_chunks


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 60))
def test_chunks_keep_everything_in_order_and_are_small_enough(sizes: list[int], most: int) -> None:
    found = split_into_chunks(sizes, most)
    assert [index for chunk in found for index in chunk] == list(range(len(sizes)))
    for chunk in found:
        assert chunk
        assert len(chunk) == 1 or sum(sizes[index] for index in chunk) <= most


@pytest.mark.parametrize(
    ("available", "room", "free"),
    [(8e9, 3e9, 3e9), (2e9, 3e9, 2e9), (8e9, None, 8e9), (None, 3e9, 3e9), (None, None, 4e9)],
)
def test_what_is_free_is_what_machine_and_container_both_have(
    available: float | None, room: float | None, free: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_available", lambda: available)
    monkeypatch.setattr(memory, "_cgroup_room", lambda: room)
    assert memory.free_memory() == free


def test_kilobytes_of_a_file_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:     20 kB\n", encoding="ascii")
    assert memory._value_in_proc(str(tmp_path / "meminfo"), "MemAvailable") == 20 * 1024
    assert memory._value_in_proc(str(tmp_path / "meminfo"), "Mem") is None
    assert memory._value_in_proc(str(tmp_path / "nothing"), "MemAvailable") is None


@pytest.mark.parametrize(
    ("model", "free", "atoms"),
    [
        ("chgnet", 1e9, 200),  # half of it, 2.5 MB an atom
        ("chgnet", 1e12, 2048),  # more is not faster
        ("lennard-jones", 1e9, 20_000),
        ("lennard-jones", 1e3, 64),
        ("a new one", 1e9, 200),
    ],
)
def test_a_batch_takes_half_of_what_is_free(
    model: str, free: float, atoms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "free_memory", lambda device: int(free))
    assert chunks.default_max_atoms(model) == atoms


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
        averages.add(torch.tensor([[True]]), torch.tensor([[value]]))
    return averages


def test_mean_is_exact_after_merging() -> None:
    series = correlated(1000, 0.5, 0)
    averages = feed(series)
    assert averages.samples[0, 0] == 1000
    assert averages.mean_and_error(0)[0] == pytest.approx(series.mean(), rel=1e-12)


def naive_error(series: np.ndarray) -> float:
    """Broken twin: takes correlated samples for independent ones."""
    return float(series.std(ddof=1) / np.sqrt(series.size))


def covers(errors: list[float], means: list[float]) -> bool:
    """Whether the scatter of the means is about what the errors say."""
    return np.sqrt(np.mean(np.square(errors))) > 0.7 * np.std(means)


def test_errors_cover_the_scatter_of_correlated_means() -> None:
    runs = [correlated(2000, 0.95, seed) for seed in range(40)]
    measured = [feed(run).mean_and_error(0)[:2] for run in runs]
    means = [mean for mean, _ in measured]
    assert covers([error for _, error in measured], means)
    assert not covers([naive_error(run) for run in runs], means)


def test_systems_are_sampled_independently() -> None:
    averages = BlockAverages.empty(3, blocks=4)
    for step in range(9):
        averages.add(torch.tensor([step < 3, False, True])[:, None], torch.tensor([1.0, 7.0, 5.0])[:, None])
    assert averages.mean_and_error(0)[0] == 1.0
    assert averages.mean_and_error(2)[0] == 5.0
    assert np.isnan(averages.mean_and_error(1)[0])


def test_quantities_are_sampled_independently() -> None:
    averages = BlockAverages.empty(1, 2, blocks=4)
    for step in range(9):
        averages.add(torch.tensor([[True, step % 3 == 0]]), torch.tensor([[float(step), 10.0 * step]]))
    assert averages.mean_and_error(0, 0)[::2] == (4.0, 9)
    assert averages.mean_and_error(0, 1)[::2] == (30.0, 3)
    averages.forget(torch.tensor([True]))
    assert np.isnan(averages.mean_and_error(0, 0)[0])


def from_a_cold_start(seed: int) -> np.ndarray:
    return correlated(4000, 0.9, seed) + 8.0 * np.exp(-np.arange(4000) / 300)


def test_the_way_to_equilibrium_does_not_count() -> None:
    """The mean is 0. That of all samples, the broken twin, is off by six times what the settled part would err."""
    found = [feed(from_a_cold_start(seed)) for seed in range(10)]
    after = [averages.settled_after(0, [0]) for averages in found]
    assert all(0.1 < part < 0.5 for part in after)
    settled = [averages.mean_and_error(0, 0, part) for averages, part in zip(found, after, strict=True)]
    assert np.mean([abs(mean / error) for mean, error, _ in settled]) < 2.0
    assert max(abs(mean) for mean, _, _ in settled) < 0.4
    assert min(averages.mean_and_error(0)[0] for averages in found) > 0.5


def test_of_few_samples_the_first_half_is_left_out() -> None:
    averages = feed(np.array([5.0, 5.0, 1.0, 1.0]))
    assert averages.mean_and_error(0, 0, averages.settled_after(0, [0]))[::2] == (1.0, 2)
