"""Trajectories: frames written and read, beside ASE and h5py, and what safety costs.

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
        fresh = program.startswith("write")
        return lambda: float(self.run(program, file, *more, python=python, fresh=fresh)["cpu"])


def measure(smoke: bool = False) -> list[Row]:
    """Return rows of seconds, milliseconds, bytes and ratios."""
    sizes = [("5,000 frames of 216 atoms", 5000, 216), ("10,000 systems of 2 to 60 atoms", 10_000, -30)]
    rounds = 3
    if smoke:
        sizes, rounds = [("20 frames of 8 atoms", 20, 8), ("20 systems", 20, -5)], 1
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[Row] = []
    python = _h5py()
    with tempfile.TemporaryDirectory() as name:
        for number, (title, frames, atoms) in enumerate(sizes):
            case = Case(Path(name) / str(number), frames, atoms)
            case.folder.mkdir()
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
                size = {file: case.found[file]["bytes"] / 1e6 for file in ("a.zarr", "c.h5")}
                made = {"athanor": lambda size=size: size["a.zarr"], "h5py, gzip": lambda size=size: size["c.h5"]}
                rows.append(interleave(f"size of {title}", "MB", made, 1))
            if number:
                continue
            one = lambda: 1e3 * median(case.run("one_athanor", "a.zarr")["times"])  # noqa: E731
            rows.append(interleave("one frame at random", "ms", {"athanor": one}, rounds))
            wrote = case.run("write_athanor", "b.zarr", fresh=True)
            part = max(1, frames // 50)
            growth = [1e3 * median(wrote["times"][slice_]) for slice_ in (slice(part, 2 * part), slice(-part, None))]
            last = {"last frames": lambda: growth[1], "first frames": lambda: growth[0]}
            rows.append(interleave("append, first and last frames", "ms", last, 1))
            count = {"athanor": lambda: 1000.0 * wrote["files"] / frames}
            rows.append(interleave("files per 1,000 frames", "", count, 1))
            safe = {
                "every:10": lambda: float(case.run("write_athanor", "d.zarr", "every:10", fresh=True)["wall"]),
                "unsynced": lambda: float(case.run("write_athanor", "e.zarr", "none", fresh=True)["wall"]),
            }
            rows.append(interleave("write, synced every 10 frames, wall time", "s", safe, rounds))
    return rows


if __name__ == "__main__":
    main(measure)
