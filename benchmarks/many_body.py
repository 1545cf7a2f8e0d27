"""Stillinger-Weber and embedded-atom NVE: hot silicon and copper, a skin of 1 Å, float64, beside LAMMPS.

As in `lennard_jones.py`, every program is a process of its own (`md_programs.py`), starts from the same state, and has
to have the same potential energy at the start and after five steps. The potentials are those of the tests.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from harness import ROOT, Row, main
from lennard_jones import compare, programs

POTENTIALS = ROOT / "tests" / "data" / "potentials"
FCC = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
#            symbol, mass, edge, basis, style of LAMMPS, file, temperature
SILICON = ("Si", 28.085, 5.431, np.concatenate((FCC, FCC + 0.25)), "sw", "Si.sw", 1500.0)
COPPER = ("Cu", 63.546, 3.61, FCC, "eam/alloy", "CuAg.eam.alloy", 900.0)


def write_state(path: Path, solid: tuple[str, float, float, np.ndarray, str, str, float], cells: int) -> Path:
    """Write a rattled hot crystal of `cells` cubes a side for `md_programs.py`."""
    symbol, mass, edge, basis, style, file, temperature = solid
    generator = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[range(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((corners + basis) * edge).reshape(1, -1, 3)
    positions = positions + generator.normal(0.0, 0.05, positions.shape)
    thermal = np.sqrt(8.617333e-5 * temperature / mass) / 10.1805  # Å/fs
    velocities = generator.normal(0.0, thermal, positions.shape)
    velocities -= velocities.mean(axis=1, keepdims=True)
    numbers = {"edge": edge * cells, "mass": mass, "dt": 1.0, "skin": 1.0}
    texts = {"symbol": symbol, "style": style, "tables": str(POTENTIALS / file)}
    np.savez(path, positions=positions, velocities=velocities, **numbers, **texts)
    return path


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for each potential and number of threads, in ms a step."""
    cases = [
        ("Stillinger-Weber, 4,096 atoms", SILICON, 8, 1),
        ("embedded atom, 4,000 atoms", COPPER, 10, 1),
    ]
    steps = (100, 3)
    if smoke:
        cases, steps = [("64 atoms", SILICON, 2, 1), ("108 atoms", COPPER, 3, 1)], (2, 1)
    names = [name for name in programs() if name in ("athanor", "lammps")]
    with tempfile.TemporaryDirectory() as folder:
        return [
            compare(names, case, write_state(Path(folder) / "state.npz", solid, cells), threads, steps, steps)
            for case, solid, cells, threads in cases
        ]


if __name__ == "__main__":
    main(measure)
