"""Electrostatics: energy and forces of charges, and steps of a molten salt, in three programs at equal accuracy.

Each program is given the fastest of its own parameters (cutoff, splitting, mesh, order) whose forces are within the
accuracy that is named, relative and root mean square, of exact ones: those of our Ewald sum at 1e-12 for up to 2,000
charges, of our mesh at 1e-8 beyond; the errors are told. For meshes they are chosen at 1,728 charges of the same
density, whose cell is a half and a quarter of the larger ones, so that spacings of meshes stay.
Every program is a process of its own, each round (`charge_programs.py`); LAMMPS and
torch-pme come from the environment that ``make bench-peers`` sets up. Lists of neighbours are given, in steps searched.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import lennard_jones
import numpy as np
from harness import Row, interleave, main, run_json

LATTICE = 6.3
"""Edge of a cube of eight ions at about the density of molten rock salt, Å."""
SCRIPT = Path(__file__).with_name("charge_programs.py")
CALLS = {"ewald": ("athanor-ewald", "torch-pme-ewald"), "mesh": ("athanor-pme", "torch-pme-pme", "torch-pme-p3m")}
STEPS = {"ewald": ("athanor-ewald", "lammps-ewald"), "mesh": ("athanor-pme", "lammps-pppm")}
CALLED = {"torch-pme-ewald": "torch-pme", "torch-pme-pme": "torch-pme, PME", "torch-pme-p3m": "torch-pme, P3M"}


def write_state(path: Path, cells: int) -> Path:
    """Write ``8 cells^3`` ions, displaced as in a melt at 1,200 K, with their exact forces."""
    import torch

    from athanor.data import AtomicData, Batch
    from athanor.models import EwaldModelWrapper, PMEModelWrapper
    from athanor.neighbors import compute_neighbors

    generator = np.random.default_rng(1)
    corners = np.stack(np.meshgrid(*[range(2 * cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    charges = 1.0 - 2.0 * (corners.sum(1) % 2)
    positions = corners * (LATTICE / 2.0) + generator.normal(0.0, 0.2, corners.shape)
    masses = np.where(charges > 0, 22.99, 35.45)[:, None]
    velocities = generator.normal(0.0, 1.0, corners.shape) * np.sqrt(8.617333e-5 * 1200.0 / masses) / 10.1805
    velocities -= (masses * velocities).sum(0) / masses.sum()
    edge = LATTICE * cells
    data = AtomicData(
        positions=torch.from_numpy(positions),
        atomic_numbers=torch.full((len(positions),), 11),
        cell=edge * torch.eye(3, dtype=torch.float64)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    data.charges = torch.from_numpy(charges)
    batch = Batch.from_data_list([data])
    wrapper, accuracy = (EwaldModelWrapper, 1e-12) if cells <= 6 else (PMEModelWrapper, 1e-8)
    exact = wrapper(9.0, accuracy=accuracy, coulomb_constant=1.0)
    compute_neighbors(batch, config=exact.model_config.neighbor_config)
    forces = exact(batch)["forces"].numpy()
    np.savez(path, positions=positions, velocities=velocities, charges=charges, edge=edge, forces=forces)
    return path


def python_of(program: str) -> str:
    return sys.executable if program.startswith("athanor") else str(lennard_jones.PEERS)


def run_program(program: str, state: Path, threads: int, *options: str) -> dict[str, Any]:
    """Run one program on `state` and return what it printed."""
    return run_json([python_of(program), str(SCRIPT), program, str(state), "--threads", str(threads), *options])


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for each size and number of threads, in ms."""
    #  case, kind, cubes along an edge, reach, steps (0: a call), rounds of ours and of theirs
    cases = [
        ("1,000 charges, Ewald, 1e-6", "ewald", 5, 1e-6, 0, 5, 3),
        ("1,728 charges, mesh, 1e-5", "mesh", 6, 1e-5, 0, 5, 3),
        ("13,824 charges, mesh, 1e-5", "mesh", 12, 1e-5, 0, 5, 2),
        ("110,592 charges, mesh, 1e-5", "mesh", 24, 1e-5, 0, 3, 1),
        ("1,728 ions, a step, Ewald, 1e-4", "ewald", 6, 1e-4, 50, 3, 3),
        ("1,728 ions, a step, mesh, 1e-4", "mesh", 6, 1e-4, 200, 3, 3),
        ("13,824 ions, a step, mesh, 1e-4", "mesh", 12, 1e-4, 50, 3, 3),
    ]
    if smoke:
        cases = [("64 charges, mesh", "mesh", 2, 1e-4, 0, 1, 1), ("64 ions, a step, mesh", "mesh", 2, 1e-4, 2, 1, 1)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        states = {
            cells: write_state(Path(folder) / f"{cells}.npz", cells)
            for cells in {6 if not smoke else 2, *(case[2] for case in cases)}
        }
        for case, kind, cells, reach, steps, mine, others in cases:
            tune = states[cells if kind == "ewald" or smoke else 6]
            common = (case, kind, states[cells], tune, reach, steps)
            rows += [compare(*common, threads, mine, others, smoke) for threads in ((1,) if smoke else (1, 2))]
    return rows


@cache
def parameters_of(program: str, tune: Path, reach: float, moving: bool, smoke: bool) -> dict[str, Any]:
    """Return the fastest parameters of a program that come within `reach`, on one thread."""
    if program.startswith("athanor") and smoke:
        return {"cutoff": 5.0, "accuracy": 10.0 * reach}
    options = ["--tune", str(tune), "--reach", str(reach), "--repeat", "1", *(["--steps", "2"] if moving else [])]
    return run_program(program, tune, 1, *options)["parameters"]


def compare(
    case: str, kind: str, state: Path, tune: Path, reach: float, steps: int, threads: int, mine: int, others: int,
    smoke: bool,
) -> Row:  # fmt: skip
    """Choose parameters of each program, then time it on `state`."""
    chosen = {}
    for program in (STEPS if steps else CALLS)[kind]:
        try:
            chosen[program] = parameters_of(program, tune, reach, steps > 0, smoke)
        except (RuntimeError, FileNotFoundError) as error:
            print(f"  {program} is left out: {error}", flush=True)
    errors: dict[str, float] = {}
    energies: dict[str, list[float]] = {}

    def figure(program: str) -> float:
        options = ["--parameters", json.dumps(chosen[program]), "--steps", str(steps)]
        result = run_program(program, state, threads, *options)
        errors[program], energies[program] = result["error"], result.get("energies", [])
        return 1e3 * result["cpu" if threads == 1 else "wall"]

    contestants: dict[str, Callable[[], float]] = {}
    rounds = {}
    for number, program in enumerate(chosen):
        name = "athanor" if number == 0 else CALLED.get(program, "lammps")
        contestants[name], rounds[name] = partial(figure, program), mine if number == 0 else others
    row = interleave(case, "ms", contestants, rounds, threads=threads)
    for program, error in errors.items():
        print(f"    {program}: error of forces {error:.1e} with {chosen[program]}", flush=True)
        if error > 1.5 * reach and not smoke:
            raise AssertionError(f"{case}: {program} was to come within {reach:g}")
    ours = next(iter(energies.values()))
    if not all(abs(a - b) < 1e-4 * abs(b) for each in energies.values() for a, b in zip(each, ours, strict=True)):
        raise AssertionError(f"{case}: programs do not compute the same energy: {energies}")
    return row


if __name__ == "__main__":
    main(measure)
