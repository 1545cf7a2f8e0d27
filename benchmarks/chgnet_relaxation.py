"""CHGNet: one evaluation of 32 crystals of 8 atoms, and their whole relaxation, against the chgnet package.

The package relaxes one crystal after the other with ASE's FIRE and Frechet cell filter. `SMAX` makes our criterion at
least as strict as its own, which divides the cell's forces by the number of atoms. Final energies are compared.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import ase
import numpy as np
import peak
import torch
from ase.build import bulk
from harness import Row, cpu, interleave, main, wall

import athanor
from athanor.data import AtomicData, Batch
from athanor.models.chgnet import CHGNetWrapper
from athanor.neighbors import compute_neighbors

KINDS = (("NaCl", "rocksalt", 5.64, (1, 1, 1)), ("Si", "diamond", 5.43, (1, 1, 1)), ("Cu", "fcc", 3.615, (2, 1, 1)))
FMAX, SMAX = 0.05, 0.2
"""eV/Å and GPa. Of these crystals NaCl has the most volume an atom, 22.4 Å³: 0.05 eV is 0.36 GPa, 0.2 per component."""


def crystals(count: int) -> list[ase.Atoms]:
    """Return `count` rattled and stretched crystals of eight atoms, of three kinds in turn."""
    systems = []
    for number in range(count):
        symbol, structure, constant, repeat = KINDS[number % len(KINDS)]
        atoms = bulk(symbol, structure, a=1.02 * constant, cubic=True) * repeat
        atoms.positions += np.random.default_rng(number).normal(0.0, 0.1, atoms.positions.shape)
        systems.append(atoms)
    return systems


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for an evaluation with forces and stress at one and two threads, and one for relaxations."""
    count, fast, slow = (1, 1, 1) if smoke else (32, 3, {"athanor": 2, "chgnet": 1})  # the package takes two minutes
    systems = crystals(count)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the package
        model, relaxer = load()
        for threads in (1,) if smoke else (1, 2):
            athanor.set_num_threads(threads)
            clock = cpu if threads == 1 else wall
            timed = {
                name: (lambda call=call, clock=clock: 1e3 * clock(call))
                for name, call in evaluations(model, relaxer.calculator.model, systems).items()
            }
            rows.append(interleave(f"evaluate {count} crystals", "ms", timed, fast, threads=threads))
        energies: dict[str, list[float]] = {}
        steps: dict[str, int] = {}
        ours, theirs = (partial(call, energies=energies, steps=steps) for call in (relax, relax_with_package))
        if not smoke:
            ours(model, systems[:1])
            theirs(relaxer, systems[:1])
        relaxations = {
            "athanor": lambda: wall(lambda: ours(model, systems)),
            "chgnet": lambda: wall(lambda: theirs(relaxer, systems)),
        }
        rows.append(interleave(f"relax {count} crystals", "s", relaxations, slow, threads=2))
    difference = max(abs(a - b) / 8 for a, b in zip(energies["athanor"], energies["chgnet"], strict=True))
    print(f"    steps {steps}, energies differ by at most {1e3 * difference:.2f} meV an atom", flush=True)
    if difference > 2e-3:
        raise AssertionError(f"relaxed energies differ: {energies}")
    return rows


def load() -> tuple[CHGNetWrapper, Any]:
    """Return the same weights in our wrapper and in the package's relaxer."""
    from chgnet.model.dynamics import StructOptimizer
    from chgnet.model.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):  # it says which device it takes
        relaxer = StructOptimizer(CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False), use_device="cpu")
    model = CHGNetWrapper.from_checkpoint("0.3.0")
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    return model, relaxer


def evaluations(model: CHGNetWrapper, package: Any, systems: list[ase.Atoms]) -> dict[str, Callable[[], Any]]:
    """Return one evaluation of all `systems` by each; graphs of the package and our list are there beforehand."""
    from pymatgen.io.ase import AseAtomsAdaptor

    graphs = [package.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in systems]
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    calls = {
        "athanor": lambda: model(batch),
        "chgnet, in a batch": lambda: package.predict_graph(graphs, task="efs", batch_size=len(graphs)),
        "chgnet, one by one": lambda: package.predict_graph(graphs, task="efs", batch_size=1),
    }
    for call in calls.values():
        call()
    return calls


def relax(model: Any, systems: list[ase.Atoms], energies: dict[str, list[float]], steps: dict[str, int]) -> None:
    """Relax `systems` in one batch."""
    result = athanor.relax(systems, model=model, fmax=FMAX, smax=SMAX)
    energies["athanor"], steps["athanor"] = list(result.energies), sum(result.steps)


def relax_with_package(
    relaxer: Any, systems: list[ase.Atoms], energies: dict[str, list[float]], steps: dict[str, int]
) -> None:
    """Relax `systems` one by one with the package's own relaxer."""
    paths = [relaxer.relax(atoms.copy(), fmax=FMAX, verbose=False)["trajectory"] for atoms in systems]
    energies["chgnet"], steps["chgnet"] = [path.energies[-1] for path in paths], sum(len(path) for path in paths)


def peak_bytes(count: int) -> int:
    """Return the peak resident size of this process after the first steps of a relaxation of `count` crystals."""
    athanor.relax(crystals(count), model="chgnet", fmax=FMAX, smax=SMAX, max_steps=3)
    return peak.peak_bytes()


if __name__ == "__main__":
    main(measure)
