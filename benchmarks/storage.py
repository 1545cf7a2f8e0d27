"""Trajectories: frames written and read, beside ASE and h5py.

Each program is a process of its own; what is written is at hand before its clock starts. ASE writes its own trajectory
files; h5py writes one dataset per field and flushes after every frame. Where h5py is not installed, `make bench-peers`
sets it up.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
        if python is not None and verb == "read":
            case.run("write_h5py", "c.h5", "compressed", python=python)
            contestants["h5py, gzip"] = case.seconds("read_h5py", "c.h5", python=python)
        rows.append(interleave(f"{verb} {title}", "s", contestants, rounds))
    sizes = {"athanor": "a.zarr", "ase": "a.traj", "h5py": "a.h5", "h5py, gzip": "c.h5"}
    made = {name: partial(_megabytes, case, file) for name, file in sizes.items() if file in case.found}
    return [*rows, interleave(f"size of {title}", "MB", made, 1)]


def _megabytes(case: Case, file: str) -> float:
    return case.found[file]["bytes"] / 1e6


def sizes_of(smoke: bool) -> tuple[list[tuple[str, int, int]], int]:
    """What is written: how it is called, frames, atoms (see `storage_programs.frames`); and rounds."""
    if smoke:
        return [("20 frames of 8 atoms", 20, 8), ("20 systems", 20, -5)], 1
    return [("5,000 frames of 216 atoms", 5000, 216), ("10,000 systems of 2 to 60 atoms", 10_000, -30)], 3


def measure(smoke: bool = False) -> list[Row]:
    """Return rows of seconds and megabytes."""
    sizes, rounds = sizes_of(smoke)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (title, frames, atoms) in enumerate(sizes):
            rows += compared(Case(Path(folder) / str(number), frames, atoms), title, _h5py(), rounds)
    return rows


if __name__ == "__main__":
    main(measure)
