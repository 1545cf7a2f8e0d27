"""D3 dispersion: energy, forces and stress of periodic silicon, against the Fortran library s-dftd3.

Becke-Johnson damping of PBE without three-body term, with the cutoffs of the library for both: 60 bohr for pairs and 40
for coordination numbers, no smoothing. Ours finds its pairs in each call, as the library does. That both compute the
same is checked. Without the package dftd3 its column is missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from ase.build import bulk
from harness import Row, cpu, interleave, main, wall

import athanor
from athanor import units
from athanor.data import AtomicData, Batch
from athanor.models.dftd3 import DFTD3ModelWrapper


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for each size and number of threads, in ms an evaluation."""
    #        case         cubes along an edge, systems, rounds
    cases = [("64 atoms", 2, 1, 15), ("512 atoms", 4, 1, 7), ("32 x 8 atoms", 1, 32, 7)]
    if smoke:
        cases = [("2 x 8 atoms", 1, 2, 1)]
    rows = []
    for case, cells, systems, rounds in cases:
        structures = [bulk("Si", cubic=True).repeat(cells) for _ in range(systems)]
        for seed, atoms in enumerate(structures):
            atoms.rattle(0.05, seed=seed)
        energies: dict[str, list[float]] = {}
        for threads in (1, 2):
            athanor.set_num_threads(threads)
            clock = cpu if threads == 1 else wall
            calls = {"athanor": ours(structures, energies), **theirs(structures, energies)}
            timed = {name: (lambda call=call, clock=clock: 1e3 * clock(call)) for name, call in calls.items()}
            rows.append(interleave(case, "ms", timed, rounds, threads=threads))
        for name, found in energies.items():
            if not np.allclose(found, energies["athanor"], rtol=1e-8, atol=0.0):
                raise AssertionError(f"{case}: {name} computes other energies: {energies}")
    return rows


def ours(structures: list, energies: dict[str, list[float]]) -> Callable[[], None]:
    """Return the evaluation of all structures as one batch."""
    model = DFTD3ModelWrapper.from_functional(
        "pbe", cutoff=60.0 * units.BOHR, cn_cutoff=40.0 * units.BOHR, smoothing_fraction=0.0
    )
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])

    def evaluate() -> None:
        energies["athanor"] = (model(batch)["energy"].flatten() / units.HARTREE).tolist()

    evaluate()
    return evaluate


def theirs(structures: list, energies: dict[str, list[float]]) -> dict[str, Callable[[], None]]:
    """Return the evaluation of one structure after the other, if the library is there."""
    if importlib.util.find_spec("dftd3") is None:
        print("  dftd3: absent: not installed; run `pip install dftd3`", flush=True)
        return {}
    from dftd3.interface import DispersionModel, RationalDampingParam

    damping, models = RationalDampingParam(method="pbe", atm=False), []
    for atoms in structures:
        lattice = atoms.cell.array / units.BOHR
        models.append(DispersionModel(atoms.numbers, atoms.positions / units.BOHR, lattice, atoms.pbc))
        models[-1].set_realspace_cutoff(disp2=60.0, disp3=40.0, cn=40.0)

    def evaluate() -> None:
        energies["dftd3"] = [float(each.get_dispersion(damping, grad=True)["energy"]) for each in models]

    evaluate()
    return {"dftd3": evaluate}


if __name__ == "__main__":
    main(measure)
