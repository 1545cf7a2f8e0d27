"""Means of correlated samples: coverage on series whose mean and correlation time are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from athanor.analysis import Average, averages, equilibration, statistical_inefficiency


def correlated(length: int, memory: float, seed: int) -> np.ndarray:
    """An AR(1) series of mean 0 and variance 1, whose inefficiency is (1 + memory) / (1 - memory)."""
    noise = np.random.default_rng(seed).normal(size=length) * np.sqrt(1.0 - memory**2)
    series = np.empty(length)
    series[0] = np.random.default_rng(seed + 10_000).normal()
    for step in range(1, length):
        series[step] = memory * series[step - 1] + noise[step]
    return series


@pytest.mark.parametrize(("memory", "length"), [(0.0, 500), (0.5, 1000), (0.9, 4000)])
def test_inefficiency_of_a_known_series(memory: float, length: int) -> None:
    found = [statistical_inefficiency(correlated(length, memory, seed)) for seed in range(30)]
    assert np.mean(found) == pytest.approx((1.0 + memory) / (1.0 - memory), rel=0.15)


def naive(series: np.ndarray) -> Average:
    """Broken twin: takes every sample for independent."""
    return Average(float(series.mean()), float(series.std(ddof=1) / np.sqrt(len(series))), 0, len(series), 1.0)


def coverage(average: Callable[[np.ndarray], Average]) -> float:
    """Share of series whose mean, which is 0, lies within two errors."""
    found = [average(correlated(2000, 0.9, seed)) for seed in range(100)]
    return float(np.mean([abs(each.mean) < 2.0 * each.error for each in found]))


def test_two_standard_errors_hold_the_mean_as_often_as_they_should() -> None:
    assert coverage(lambda series: averages({"x": series})["x"]) >= 0.88
    assert coverage(naive) < 0.6


def cooling(seed: int, offset: float = 6.0) -> np.ndarray:
    return correlated(2000, 0.8, seed) + offset * np.exp(-np.arange(2000) / 80.0)


def test_the_way_to_equilibrium_is_found() -> None:
    """Four decay times leave 2 % of the offset; the broken twin that keeps all samples has a biased mean."""
    series = [cooling(seed) for seed in range(20)]
    starts = [equilibration(each) for each in series]
    assert 100 < np.median(starts) < 600
    settled = [averages({"x": each})["x"].mean for each in series]
    whole = [averages({"x": each}, start=0)["x"].mean for each in series]
    assert abs(np.mean(settled)) < 0.06
    assert np.mean(whole) > 0.2


def test_a_settled_series_is_kept() -> None:
    assert np.median([equilibration(correlated(2000, 0.5, seed)) for seed in range(20)]) < 200


def test_the_slowest_of_several_quantities_decides() -> None:
    quick, slow = correlated(2000, 0.2, 1), cooling(2)
    assert equilibration(quick, slow) > 100
    found = averages({"quick": quick, "slow": slow, "constant": np.full(2000, 7.0)})
    assert found["quick"].start == found["slow"].start == found["constant"].start > 100
    assert (found["constant"].mean, found["constant"].error) == (7.0, 0.0)


def test_a_long_series_is_looked_at_in_stretches() -> None:
    series = np.repeat(cooling(3), 10) + 0.01 * np.random.default_rng(0).normal(size=20_000)
    assert 1000 < equilibration(series) < 6000


def test_samples_that_are_missing_do_not_count() -> None:
    energy, pressure = correlated(100, 0.0, 0), np.full(100, np.nan)
    pressure[::10] = 3.0
    found = averages({"energy": energy, "pressure": pressure}, start=50)
    assert (found["pressure"].mean, found["pressure"].samples) == (3.0, 5)
    assert np.isnan(averages({"volume": np.full(100, np.nan)})["volume"].mean)


def test_one_sample_has_no_error() -> None:
    found = averages({"x": np.array([2.0])})["x"]
    assert found.mean == 2.0
    assert np.isnan(found.error)
