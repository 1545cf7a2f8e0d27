"""Jobs that are stopped at chosen steps and go on, and what is compared with a run that nothing disturbed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write
from ase.units import fs

import athanor
from athanor.cli.main import call
from athanor.workflows.folder import CHECKPOINTS, FINAL, LOG, SUMMARY_CSV, SUMMARY_JSON
from athanor.workflows.progress import StopFlag

ARGON = "{name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}"
COMMITTEE = f"{{name: committee, members: [{ARGON}, {ARGON.replace('3.4,', '3.42,')}]}}"
HEAD = """\
structures: [structures.extxyz]
threads: 1
silence: [small-cell, start, velocities, non-periodic]
checkpoint: 1h
"""
"""Nobody waits for the clock: checkpoints are written at the start, and when a run is stopped."""
TABLES = (LOG, SUMMARY_CSV, SUMMARY_JSON, FINAL)


def crystals(count: int = 6) -> list[Atoms]:
    found = []
    for number in range(count):
        atoms = bulk("Ar", "fcc", a=5.1 + 0.06 * number, cubic=True) * (1, 1, 1 + number % 3)
        atoms.rattle(0.08, seed=number)
        found.append(atoms)
    return found


def clusters(count: int = 9) -> list[Atoms]:
    rng = np.random.default_rng(2)
    corners = 3.8 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=float)
    return [Atoms(f"Ar{2 + n % 4}", corners[: 2 + n % 4] + rng.normal(0, 0.1, (2 + n % 4, 3))) for n in range(count)]


def mixed() -> list[Atoms]:
    """Clusters, one that can not start, and one whose atoms fly into each other in the sixth step of 2 fs."""
    found = clusters()
    found.insert(2, Atoms("Ar2", [[0, 0, 0], [0, 0, 0.0]]))
    colliding = Atoms("Ar2", [[0, 0, 0], [0, 0, 17.5]])
    colliding.set_velocities(np.array([[0, 0, 0.725], [0, 0, -0.725]]) / fs)
    found.insert(4, colliding)
    return found


def _md(ensemble: str, steps: int, more: str = "") -> str:
    return f"{{md: {{ensemble: {ensemble}, steps: {steps}, timestep: 2 fs{more}}}}}"


HOT = ", temperature: 40"
JOBS: dict[str, tuple[list[Atoms], str]] = {
    "relax, refills": (crystals(), f"model: {ARGON}\nmax_atoms: 16\nevery: 3\nstages: [{{relax: {{fmax: 0.003}}}}]"),
    "relax, one batch": (
        clusters(), f"model: {ARGON}\nevery: 1\nstages: [{{relax: {{fmax: 0.003, fixed_cell: true, steps: 30}}}}]"),
    "langevin": (mixed(), f"model: {ARGON}\nmax_atoms: 9\nevery: 20\nstages: [{_md('nvt', 45, HOT)}]"),
    "nose-hoover": (
        clusters(), f"model: {ARGON}\nmax_atoms: 9\nevery: 12\nstages: [{_md('nvt-nose-hoover', 40, HOT)}]"),
    "npt": (crystals(), f"model: {ARGON}\nmax_atoms: 24\nevery: 4\n"
            f"stages: [{_md('npt', 24, HOT + ', pressure: 0.1 GPa')}]"),
    "both": (crystals(), f"model: {ARGON}\nmax_atoms: 16\nevery: 5\n"
             f"stages: [{{relax: {{fmax: 0.01}}}}, {_md('nvt', 30, HOT)}]"),
    "both, float32": (mixed(), f"model: {ARGON}\nmax_atoms: 9\nevery: 14\ndtype: float32\n"
                      f"stages: [{{relax: {{fmax: 0.02}}}}, {_md('nvt', 30, HOT)}]"),
    "stopped above": (clusters(), f"model: {COMMITTEE}\nmax_atoms: 9\nevery: 4\nproperties: [force_deviation]\n"
                      f"stop_above: {{max_force_deviation: 0.002}}\nstages: [{_md('nvt', 30, ', temperature: 90')}]"),
    "failing": (mixed(), f"model: {ARGON}\nevery: 20\nstages: [{_md('nve', 40)}]"),
}  # fmt: skip


def write_job(name: str, place: Path) -> Path:
    """Write the structures and the job of a case into a folder; return the job."""
    return write_case(*JOBS[name], place)


def write_case(structures: list[Atoms], text: str, place: Path) -> Path:
    """Write structures and a job, which begins as all do, into a folder; return the job."""
    write(place / "structures.extxyz", structures)
    job = place / "job.yaml"
    job.write_text(HEAD + text + "\n")
    return job


def run(*arguments: Any, quiet: bool = True) -> tuple[int, str]:
    """Call the command line; return the exit code, and what it says on stderr."""
    screen = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(screen):
        code = call(["run", *map(str, arguments), *["-q"] * quiet])
    return code, screen.getvalue()


@contextmanager
def stopping_after(steps: int, how: str = "SIGTERM") -> Iterator[None]:
    """Have runs stop after so many of their steps: as a signal or time limit does, or ``"at once"``, in its midst."""
    done = 0

    def look(flag: StopFlag) -> None:
        nonlocal done
        done += 1
        if done >= steps and not flag.is_set:
            if how == "at once":
                raise KeyboardInterrupt
            flag.set(how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopFlag, "look_at_the_clock", look)
        yield


def live(job: Path, out: Path, *stops: int | tuple[int, str]) -> int:
    """Start a job, stop it each time after so many steps, and let it go on; return how often it was stopped."""
    stopped, arguments = 0, [job, "-o", out]
    for stop in stops:
        steps, how = (stop, "SIGTERM") if isinstance(stop, int) else stop
        with stopping_after(steps, how):
            code, told = run(*arguments)
        if code not in (75, 130):
            assert code in (0, 69), told
            return stopped
        assert code == (75 if how == "SIGTERM" else 130), told
        stopped += 1
        arguments = ["--resume", out]
    code, told = run(*arguments)
    assert code in (0, 69), told
    return stopped


def compare(whole: Path, other: Path, *, log_in_order: bool = True) -> None:
    """Raise AssertionError unless two runs say the same, in every bit of every frame and every row.

    The rows of the log need not be in order, if its systems were not beside the same ones.
    """
    first, second = athanor.open(whole), athanor.open(other)
    assert second.state == "finished"
    assert first.num_frames == second.num_frames, "number of frames"
    assert first.record["outcome"] == second.record["outcome"]
    assert first.record["frames"] == second.record["frames"]
    for number in range(len(first)):
        one, two = first.frames(number), second.frames(number)
        assert one.keys == two.keys, f"fields of system {number}"
        for name, values in one:
            assert values.dtype == two[name].dtype, name
            assert values.shape == two[name].shape, f"`{name}` of system {number} has another shape"
            assert _bytes(values) == _bytes(two[name]), f"`{name}` of system {number}"
    for name in TABLES:
        if name == LOG and not log_in_order:
            assert _by_system(whole / name) == _by_system(other / name), name
        else:
            assert (whole / name).read_bytes() == (other / name).read_bytes(), name
    assert {path.name for path in whole.iterdir()} == {path.name for path in other.iterdir()}, "other files"
    assert (other / CHECKPOINTS).exists() == (first.stages[-1][0] == "md")


def _by_system(log: Path) -> list[dict[str, str]]:
    """Return the rows of a log in the order of systems and steps, without the place of each in its batch."""
    with log.open() as file:
        rows = list(csv.DictReader(file))
    rows = [{name: value for name, value in row.items() if name != "graph_idx"} for row in rows]
    return sorted(rows, key=lambda row: (int(row["system_id"]), int(row["step"])))


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().numpy().tobytes()
