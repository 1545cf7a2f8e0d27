"""Trajectories: frames written and read, beside ASE and h5py, what safety costs, and what a step pays for its frames.

Each program is a process of its own; what is written is at hand before its clock starts. ASE writes its own trajectory
files; h5py writes one dataset per field and flushes after every frame. Where h5py is not installed, `make bench-peers`
sets it up.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

from harness import Row, interleave, main, run_json
from lennard_jones import PEERS

PROGRAM = str(Path(__file__).with_name("storage_programs.py"))


def _h5py() -> str | None:
    """An interpreter that has h5py."""
    if importlib.util.find_spec("h5py") is not None:
        return sys.executable
    return str(PEERS) if PEERS.exists() else None


class Case:
    """Files of one size, in a folder that goes."""

    def __init__(self, folder: Path, frames: int, atoms: int) -> None:
        self.folder, self.frames, self.atoms = folder, frames, atoms
        self.found: dict[str, dict[str, Any]] = {}
        folder.mkdir()

    def run(
        self, program: str, file: str, *more: str, python: str = sys.executable, fresh: bool = False
    ) -> dict[str, Any]:
        path = self.folder / file
        if fresh:
            shutil.rmtree(path, ignore_errors=True)
        found = run_json([python, PROGRAM, program, str(path), str(self.frames), str(self.atoms), *more])
        self.found[file] = found
        return found

    def seconds(self, program: str, file: str, *more: str, python: str = sys.executable) -> Callable[[], float]:
        """A call that runs a program and returns its seconds of CPU time."""
        fresh = program.startswith("write")
        return lambda: float(self.run(program, file, *more, python=python, fresh=fresh)["cpu"])


def compared(case: Case, title: str, python: str | None, rounds: int) -> list[Row]:
    """Rows of writing, reading and size."""
    rows = []
    for verb in ("write", "read"):
        contestants = {
            "athanor": case.seconds(f"{verb}_athanor", "a.zarr"),
            "ase": case.seconds(f"{verb}_ase", "a.traj"),
        }
        if python is not None:
            contestants["h5py"] = case.seconds(f"{verb}_h5py", "a.h5", python=python)
        rows.append(interleave(f"{verb} {title}", "s", contestants, rounds))
    if python is not None:
        case.run("write_h5py", "c.h5", "compressed", python=python)
        sizes = {"athanor": "a.zarr", "h5py, gzip": "c.h5"}
        made = {name: partial(_megabytes, case, file) for name, file in sizes.items()}
        rows.append(interleave(f"size of {title}", "MB", made, 1))
    return rows


def _megabytes(case: Case, file: str) -> float:
    return case.found[file]["bytes"] / 1e6


def alone(case: Case, rounds: int) -> list[Row]:
    """Rows of one frame, of growth, of files, and of what safety costs."""

    def one() -> float:
        return 1e3 * median(case.run("one_athanor", "a.zarr")["times"])

    def written(file: str, durability: str) -> float:
        return float(case.run("write_athanor", file, durability, fresh=True)["wall"])

    wrote = case.run("write_athanor", "b.zarr", fresh=True)
    part = max(1, case.frames // 50)
    last, first = (1e3 * median(wrote["times"][which]) for which in (slice(-part, None), slice(part, 2 * part)))
    return [
        interleave("one frame at random", "ms", {"athanor": one}, rounds),
        interleave("append, last frames", "ms", {"athanor": lambda: last, "first frames": lambda: first}, 1),
        interleave("files per 1,000 frames", "", {"athanor": lambda: 1000.0 * wrote["files"] / case.frames}, 1),
        interleave(
            "write, synced every 10 frames, wall time",
            "s",
            {"athanor": lambda: written("d.zarr", "every:10"), "unsynced": lambda: written("e.zarr", "none")},
            rounds,
        ),
    ]


def beside(folder: Path, turns: int, systems: int, rounds: int) -> Row:
    """The row of what frames cost the step of a run."""
    case = Case(folder, turns, 32)

    def steps() -> list[float]:
        times: list[float] = case.run("steps_athanor", "steps", str(systems), fresh=True)["times"]
        return times

    figures = [steps() for _ in range(rounds)]
    names = ("athanor", "no frames", "stored in the step")
    contestants = {name: map(itemgetter(place), figures).__next__ for place, name in enumerate(names)}
    return interleave(f"step of {systems} systems of 32 atoms, a frame every 10 steps", "ms", contestants, rounds)


def measure(smoke: bool = False) -> list[Row]:
    """Return rows of seconds, milliseconds, megabytes and counts."""
    sizes = [("5,000 frames of 216 atoms", 5000, 216), ("10,000 systems of 2 to 60 atoms", 10_000, -30)]
    rounds, turns, systems = 3, 6, 64
    if smoke:
        sizes, rounds = [("20 frames of 8 atoms", 20, 8), ("20 systems", 20, -5)], 1
        turns, systems = 1, 2
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        cases = [Case(Path(folder) / str(number), frames, atoms) for number, (_, frames, atoms) in enumerate(sizes)]
        for case, (title, _, _) in zip(cases, sizes, strict=True):
            rows += compared(case, title, _h5py(), rounds)
        rows += alone(cases[0], rounds)
        return [*rows, beside(Path(folder) / "steps", turns, systems, rounds)]


if __name__ == "__main__":
    main(measure)
