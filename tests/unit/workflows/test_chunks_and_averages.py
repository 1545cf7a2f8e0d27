"""Cutting many systems into batches, and means with honest errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from athanor import _memory as memory
from athanor.data import AtomicData, Batch
from athanor.models import registry
from athanor.models.entry import ModelEntry
from athanor.units import g_per_cm3
from athanor.workflows import chunks
from athanor.workflows.averages import BlockAverages
from athanor.workflows.chunks import split_into_chunks
from athanor.workflows.track import Tracker, _stride


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


ROWS = {
    "small": ModelEntry("small", "demo", "", kilobytes_per_atom=20, most_atoms=2000),
    "large": ModelEntry("large", "demo", "", kilobytes_per_atom=4000),
    "silent": ModelEntry("silent", "demo", ""),
}


@pytest.mark.parametrize(
    ("model", "free", "atoms"),
    [
        ("large", 1e9, 125),  # half of it
        ("large", 1e3, 64),
        ("small", 1e7, 250),
        ("small", 1e12, 2000),  # more is not faster
        ("small + large", 1e9, 125),
        ("large + small", 1e12, 2000),
        ("silent", 1e9, 100),  # as if it were a large network
        ("", 1e9, 100),
    ],
)
def test_a_batch_takes_half_of_what_is_free(
    model: str, free: float, atoms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "find", lambda name: ROWS[name.strip()])
    monkeypatch.setattr(chunks, "free_memory", lambda device: int(free))
    assert chunks.default_max_atoms(model) == atoms


@pytest.mark.parametrize("name", ["chgnet", "CHGNet", "chgnet-0.3.0", "lj", "so3lr + d3"])
def test_what_an_atom_needs_stands_in_the_list_of_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a row without the fact, or a name that is not looked up, counts as a large network."""
    monkeypatch.setattr(chunks, "free_memory", lambda device: int(1e9))
    assert chunks.default_max_atoms(name) > chunks.default_max_atoms("")


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


# ------------------------------------------------------------------------------------------------- a cell that moves
class Engine:
    """What a tracker asks of an engine; this one moves the cell."""

    __needs_keys__ = frozenset({"forces", "stress"})
    convergence_hook = None
    pressure = 0.0


class AtConstantVolume(Engine):
    __needs_keys__ = frozenset({"forces"})


def breathe(engine: type[Engine], steps: int = 120) -> tuple[dict[str, Any], list[float]]:
    """What the table says of a crystal whose cell breathes about 1.2 times its volume, after a long way there."""
    from athanor.workflows.outcomes import _averaged
    from athanor.workflows.spec import make_spec

    atoms = bulk("Ar", "fcc", a=5.4, cubic=True)
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64)])
    batch.ensure_field("step"), batch.ensure_field("status"), batch.ensure_field("failure_code")
    batch.energy, batch.velocities = torch.zeros(1, 1, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    first, volumes = batch.cell.clone(), []
    spec = make_spec({"stages": [{"md": {"steps": steps, "timestep": 2.0}}]})
    tracker = Tracker(spec.stages, [engine()], {})
    tracker.take_on(batch, torch.ones(1, dtype=torch.bool))
    for step in range(steps):
        volume = 1.2 + 0.1 * np.sin(2.0 * step) + 2.0 * np.exp(-step / 8)
        batch.cell = first * volume ** (1 / 3)
        batch.energy = torch.full((1, 1), float(np.cos(2.0 * step)), dtype=torch.float64)
        batch.step += 1
        tracker.look(batch)
        volumes.append(float(batch.volume[0]))
    return _averaged(tracker, batch, 0, spec, batch.to_atoms()[0]), volumes


def test_volume_and_density_are_averaged_where_the_cell_moves() -> None:
    row, volumes = breathe(Engine)
    first = round(row["settled_after_fs"] / 2.0)
    assert 20 <= first <= 70
    assert row["mean_volume"] == pytest.approx(np.mean(volumes[first:]))
    assert row["density_g_per_cm3"] == pytest.approx(
        4 * 39.948 / g_per_cm3 * np.mean(1.0 / np.array(volumes[first:])), rel=1e-4
    )
    assert 0.0 < row["mean_volume_error"] < 10.0
    assert row["mean_volume_samples"] == row["temperature_samples"] == 120 - first
    assert 0.0 < row["density_error_g_per_cm3"] < 0.1


def test_at_constant_volume_the_density_is_that_of_the_cell() -> None:
    row, volumes = breathe(AtConstantVolume)
    assert "mean_volume" not in row
    assert "density_error_g_per_cm3" not in row
    assert row["density_g_per_cm3"] == pytest.approx(4 * 39.948 / g_per_cm3 / volumes[-1], rel=1e-4)


@pytest.mark.parametrize(
    ("steps", "every", "stride"),
    [(20, 10, 1), (1000, 10, 5), (5000, 10, 10), (5000, 7, 7), (10**6, 10, 500), (10**6, 1, 500), (1000, 1000, 5)],
)
def test_samples_are_taken_where_rows_are_logged(steps: int, every: int, stride: int) -> None:
    assert _stride([steps], every) == stride
    assert stride % every == 0 or every % stride == 0


def test_the_shortest_stage_is_sampled_enough() -> None:
    assert _stride([10**6, 400], 10) == 2
    assert _stride([], 10) == 1
