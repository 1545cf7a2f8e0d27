"""Paths, displacements and velocity correlations: closed forms, plain sums, and MDAnalysis on a liquid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from athanor.analysis import Motion, mean_square_displacement, motion_of, velocity_autocorrelation
from athanor.data import AtomicData, Batch
from athanor.errors import InputError
from athanor.units import FS_PER_INTERNAL_TIME

DATA = Path(__file__).parents[2] / "data"


def frames_of(
    positions: np.ndarray,
    cells: np.ndarray | float = 10.0,
    symbols: str = "",
    spacing: float = 2.0,
    velocities: np.ndarray | None = None,
    fixed: list[int] | None = None,
) -> Batch:
    """Frames of one system, as a run keeps them; velocities in Å/fs."""
    count, atoms = positions.shape[:2]
    cells = np.broadcast_to(np.eye(3) * cells if np.ndim(cells) == 0 else cells, (count, 3, 3))
    images = []
    for number in range(count):
        image = Atoms(symbols or f"Ar{atoms}", positions=positions[number], cell=cells[number], pbc=True)
        data = AtomicData.from_atoms(image, dtype=torch.float64)
        if velocities is not None:
            data.velocities = torch.from_numpy(velocities[number] * FS_PER_INTERNAL_TIME)
        images.append(data)
    batch = Batch.from_data_list(images)
    batch.time = torch.arange(count, dtype=torch.float64)[:, None] * spacing
    if fixed is not None:
        batch.fixed = torch.from_numpy(np.tile(np.isin(np.arange(atoms), fixed), count))
    return batch


def walk(frames: int = 40, atoms: int = 5, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(frames, atoms, 3)), axis=0)


def plain_sum(paths: np.ndarray, lag: int) -> float:
    return float(((paths[lag:] - paths[: len(paths) - lag]) ** 2).sum(axis=2).mean())


def test_displacement_is_the_plain_sum_over_all_starts() -> None:
    motion = motion_of(frames_of(walk() + 1e4))  # far from the origin, where squares are large
    found = mean_square_displacement(motion)
    assert found.values[0, 0] == 0.0
    np.testing.assert_allclose(found.values[0, 1:], [plain_sum(motion.paths, lag) for lag in range(1, 21)], rtol=1e-9)
    np.testing.assert_allclose(found.time, 2.0 * np.arange(21))


def test_displacement_of_a_liquid_against_mdanalysis() -> None:
    stored = np.load(DATA / "analysis_trajectory.npz")
    reference = json.loads((DATA / "analysis_reference.json").read_text(encoding="utf-8"))["msd_Kr"]
    symbols = "".join({18: "Ar", 36: "Kr"}[number] for number in stored["numbers"])
    frames = frames_of(stored["positions"].astype(float), stored["cell"], symbols, float(stored["spacing"]))
    motion = motion_of(frames)
    assert np.linalg.norm(motion.drift) < 0.01  # of NVE: nothing to take off
    found = mean_square_displacement(motion, longest=len(reference) - 1)
    np.testing.assert_allclose(found.values[found.names.index("Kr")], reference, rtol=1e-3, atol=2e-3)


def drifting() -> Batch:
    """Atoms that walk about a centre of mass which glides by 0.5 Å between frames."""
    own = walk(atoms=2)
    own = np.concatenate([own, -own], axis=1)  # equal masses: their centre of mass rests
    return frames_of(own + np.arange(40)[:, None, None] * np.array([0.5, 0.0, 0.0]))


def test_the_drift_of_the_centre_of_mass_is_taken_off_and_told() -> None:
    motion = motion_of(drifting())
    found = mean_square_displacement(motion)
    assert found.drift == pytest.approx(39 * 0.5)
    assert not found.is_held
    assert found.values[0, 20] == pytest.approx(plain_sum(motion.paths, 20))
    still = motion_of(frames_of(np.zeros((40, 4, 3)) + np.arange(40)[:, None, None] * 0.5))
    assert np.abs(mean_square_displacement(still).values).max() < 1e-12


def test_masses_count_in_the_drift() -> None:
    """A light atom goes to and fro against a heavy one; a twin that takes the mean of positions moves both."""
    swing = np.sin(np.arange(40))[:, None, None] * np.array([[83.798, 0, 0], [-39.948, 0, 0]])
    motion = motion_of(frames_of(swing / 100.0, symbols="ArKr"))
    np.testing.assert_allclose(motion.paths, (swing - swing[0]) / 100.0, atol=1e-12)


def test_fixed_atoms_are_left_out_and_hold_the_rest() -> None:
    positions = drifting().positions.reshape(40, 4, 3).numpy().copy()
    positions[:, 1] = positions[0, 1]
    motion = motion_of(frames_of(positions, fixed=[1]))
    assert motion.is_held
    assert motion.paths.shape == (40, 3, 3)
    np.testing.assert_allclose(motion.paths[:, 0], positions[:, 0] - positions[0, 0])
    with pytest.raises(InputError, match="all atoms"):
        motion_of(frames_of(positions, fixed=[0, 1, 2, 3]))


def breathing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fractional coordinates that rest, far from the origin, in a skewed cell that breathes; and the cells."""
    fractional = np.random.default_rng(2).uniform(20.0, 30.0, size=(4, 3))
    cells = np.array([[9.0, 0.0, 0.0], [3.0, 8.0, 0.0], [1.0, 2.0, 7.0]]) * (
        1.0 + 0.05 * np.sin(0.4 * np.arange(60))[:, None, None]
    )
    return fractional, cells, fractional @ cells


def kept_by_the_barostat(positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Broken twin: takes what a barostat does to all atoms alike for motion."""
    return positions - positions[0]


def test_what_a_barostat_does_to_all_atoms_is_no_motion() -> None:
    _, cells, positions = breathing()
    found = motion_of(frames_of(positions, cells)).paths
    assert np.abs(found).max() < 1e-10
    assert np.abs(kept_by_the_barostat(positions, cells)).max() > 5.0


def test_motion_in_a_breathing_cell_is_that_of_the_atoms() -> None:
    """Small steps in a cell that comes back to its first size end where they would in a cell that rests."""
    fractional, cells, _ = breathing()
    own = np.cumsum(np.random.default_rng(3).normal(scale=0.01, size=(60, 4, 3)), axis=0)
    found = motion_of(frames_of((fractional + own) @ cells, cells, "Ar4", fixed=[3])).paths
    wanted = (own - own[0])[:, :3] @ cells[0]
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def test_velocity_correlation_of_an_oscillator() -> None:
    phases = np.random.default_rng(4).uniform(0, 2 * np.pi, size=(1, 40, 3))
    velocities = 0.01 * np.cos(0.1 * 2.0 * np.arange(400)[:, None, None] + phases)
    velocities = np.concatenate([velocities, -velocities], axis=1)
    motion = motion_of(frames_of(np.zeros((400, 80, 3)), velocities=velocities))
    found = velocity_autocorrelation(motion, longest=50)
    np.testing.assert_allclose(found.normalised[0], np.cos(0.1 * found.time), atol=0.02)
    assert found.values[0, 0] == pytest.approx(3 * 0.5 * 0.01**2, rel=0.02)  # Å²/fs²


def test_velocities_lose_their_drift_and_must_be_there() -> None:
    gliding = motion_of(frames_of(walk(), velocities=np.full((40, 5, 3), 0.3)))
    assert gliding.velocities is not None
    assert np.abs(gliding.velocities).max() < 1e-12
    with pytest.raises(InputError, match="no velocities"):
        velocity_autocorrelation(motion_of(frames_of(walk())))


def off(change: Callable[[np.ndarray], None], frames: int = 40) -> Batch:
    batch = frames_of(walk(frames))
    times = batch.time.clone().numpy()
    change(times)
    batch.time = torch.from_numpy(times)
    return batch


def test_frames_that_are_not_even_are_refused_but_for_the_last() -> None:
    def last_comes_early(times: np.ndarray) -> None:
        times[-1] -= 1.0

    def one_is_missing(times: np.ndarray) -> None:
        times[20:] += 2.0

    assert motion_of(off(last_comes_early)).frames == 39
    with pytest.raises(InputError, match="not evenly spaced: 2 fs apart at first, 4 fs after 38 fs"):
        motion_of(off(one_is_missing))
    with pytest.raises(InputError, match="5 frames are too few"):
        motion_of(frames_of(walk(5)))


def test_elements_have_rows_of_their_own() -> None:
    motion = motion_of(frames_of(walk(atoms=5), symbols="ArKr4"))
    assert mean_square_displacement(motion).names == ("all", "Ar", "Kr")
    assert isinstance(motion, Motion)
