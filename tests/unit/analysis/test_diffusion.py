"""Diffusion coefficients: coverage on walks whose coefficient is known, particles with memory, and what is none."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from athanor.analysis import Diffusion, Motion, diffusion, einstein_diffusion, green_kubo_diffusion
from athanor.errors import InputError


def moving(paths: np.ndarray, velocities: np.ndarray | None = None, spacing: float = 10.0) -> Motion:
    symbols = np.array(["Ar"] * paths.shape[1])
    return Motion(spacing, paths, velocities, symbols, np.zeros(3), is_held=True)


def walk(frames: int, atoms: int, seed: int, together: int = 1) -> Motion:
    """Steps of variance 1 Å² on each axis, 10 fs apart: D is 0.05 Å²/fs. `together`: so many atoms move as one."""
    steps = np.random.default_rng(seed).normal(size=(frames, atoms, 3))
    return moving(np.repeat(np.cumsum(steps, axis=0), together, axis=1))


def coverage(
    estimate: Callable[[Motion], tuple[float, float]], frames: int = 400, atoms: int = 16, together: int = 1
) -> float:
    """Share of walks whose coefficient lies within two errors."""
    found = [estimate(walk(frames, atoms, seed, together)) for seed in range(60)]
    return float(np.mean([abs(value - 0.05) < 2.0 * error for value, error in found]))


def ours(motion: Motion) -> tuple[float, float]:
    found = einstein_diffusion(motion)
    return float(found.values[0]), float(found.error[0])


def plain_fit(motion: Motion) -> tuple[float, float]:
    """Broken twin: a line by least squares, with the error that it has if every lag were measured apart."""
    lags = np.arange(motion.frames // 40, motion.frames // 10 + 1)
    displacement = diffusion.displacement_of_atoms(motion.paths, lags).sum(axis=2).mean(axis=0)
    (slope, _), covariance = np.polyfit(lags * motion.spacing, displacement, 1, cov=True)
    return slope / 6.0, float(np.sqrt(covariance[0, 0])) / 6.0


def test_two_standard_errors_hold_the_coefficient_of_a_walk() -> None:
    assert coverage(ours) >= 0.85
    assert coverage(ours, frames=200, atoms=1) >= 0.8
    assert coverage(plain_fit) < 0.6


def test_atoms_that_move_together_are_no_independent_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    assert coverage(ours, atoms=3, together=8) >= 0.8

    def between_atoms_only(self, number: int, atoms: np.ndarray, less: int | None = None) -> float:
        of_atoms = self._of_atoms[number, atoms] - (0.0 if less is None else self._of_atoms[less, atoms])
        return float(of_atoms.sum(axis=1).std(ddof=1) / np.sqrt(atoms.sum()))

    monkeypatch.setattr(diffusion._Estimates, "error", between_atoms_only)
    assert coverage(ours, atoms=3, together=8) < 0.75


def test_the_covariance_of_a_walk_is_the_one_that_is_seen() -> None:
    lags = np.array([2, 5, 9])
    seen = np.array([
        diffusion.displacement_of_atoms(walk(60, 1, seed).paths, lags)[0, :, 0] for seed in range(4000)
    ])  # fmt: skip
    np.testing.assert_allclose(np.cov(seen.T), 2.0 * diffusion.walk_covariance(lags, 59), rtol=0.12)


@functools.cache
def langevin(frames: int, atoms: int, seed: int, friction: float = 0.02, spacing: float = 10.0) -> Motion:
    """Free particles with <v²> = 1e-4 Å²/fs² on each axis: D is 1e-4 / friction = 5e-3 Å²/fs, and memory 50 fs."""
    rng, decay, spread = np.random.default_rng(seed), np.exp(-friction * spacing / 20), 1e-2
    velocity = spread * rng.normal(size=(atoms, 3))
    position, positions, velocities = np.zeros((atoms, 3)), [], []
    for _ in range(frames):
        for _ in range(20):
            new = decay * velocity + spread * np.sqrt(1 - decay**2) * rng.normal(size=(atoms, 3))
            position = position + 0.5 * (velocity + new) * spacing / 20
            velocity = new
        positions.append(position)
        velocities.append(velocity)
    return moving(np.array(positions), np.array(velocities), spacing)


@pytest.mark.parametrize("estimate", [einstein_diffusion, green_kubo_diffusion])
def test_particles_with_memory(estimate: Callable[[Motion], Diffusion]) -> None:
    """Before the velocities are forgotten the displacement bends, and the integral is too small: both are found out."""
    found = [estimate(langevin(800, 40, seed)) for seed in range(12)]
    values, errors = np.array([each.values[0] for each in found]), np.array([each.error[0] for each in found])
    assert np.mean(values) == pytest.approx(5e-3, rel=0.03)
    assert np.mean(np.abs(values - 5e-3) < 2.0 * errors) >= 0.75
    assert np.median([each.range[-1] for each in found]) >= 100.0


@pytest.mark.parametrize("estimate", [einstein_diffusion, green_kubo_diffusion])
def test_the_first_lags_that_come_would_be_noticed(
    estimate: Callable[[Motion], Diffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion._Estimates, "choose", lambda self, lags, atoms: 0)
    with pytest.raises(AssertionError):
        test_particles_with_memory(estimate)


def test_units() -> None:
    found = einstein_diffusion(walk(400, 16, 0))
    assert found.values_cm2_per_s == pytest.approx(found.values * 1e-16 / 1e-15)
    assert found.error_cm2_per_s == pytest.approx(found.error * 0.1)


def test_the_exponent_tells_what_is_no_diffusion() -> None:
    steps = np.arange(400)[:, None, None]
    flying = moving(steps * np.random.default_rng(0).normal(size=(1, 8, 3)))
    shaking = moving(np.random.default_rng(1).normal(size=(400, 8, 3)))
    assert einstein_diffusion(walk(400, 16, 1)).is_diffusive().all()
    assert einstein_diffusion(flying).exponent[0] == pytest.approx(2.0)
    assert not einstein_diffusion(flying).is_diffusive().any()
    slow = moving(walk(400, 16, 1).paths * 1e-3)
    assert abs(einstein_diffusion(slow).exponent[0] - 1.0) < 0.2
    assert not einstein_diffusion(slow).is_diffusive().any()
    still = einstein_diffusion(shaking)
    assert abs(still.exponent[0]) < 0.1
    assert abs(still.values[0]) < 3.0 * still.error[0]


def test_ranges_that_can_not_be_used() -> None:
    motion = langevin(100, 3, 0)
    assert einstein_diffusion(motion, (30.0, 90.0)).range == (30.0, 90.0)
    assert green_kubo_diffusion(motion, 90.0).range == (0.0, 90.0)
    with pytest.raises(InputError, match=r"from 100 to 500 fs .* eighth of the time, 120 fs"):
        einstein_diffusion(motion, (100.0, 500.0))
    with pytest.raises(InputError, match=r"up to 500 fs .* eighth of the time, 120 fs"):
        green_kubo_diffusion(motion, 500.0)
    with pytest.raises(InputError, match="run longer"):
        einstein_diffusion(langevin(10, 3, 0))
