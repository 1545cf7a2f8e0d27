"""What tests of wrappers share: structures, batches, the comparison with a package, and what loading leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import all_changes

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.neighbors import compute_neighbors
from athanor.testing import Verdict, check_model
from athanor.testing.model_contract import ModelReport

MAKERS: dict[str, Callable[[], Atoms]] = {
    "silicon": lambda: bulk("Si", cubic=True),
    "rock salt": lambda: bulk("NaCl", "rocksalt", a=5.6),
    "SiC": lambda: bulk("SiC", "zincblende", a=4.36),
    "copper": lambda: bulk("Cu") * (1, 1, 2),
    "slab": lambda: _surface(bulk("Si", cubic=True)),
    "ethanol": lambda: molecule("CH3CH2OH"),
    "water": lambda: molecule("H2O"),
    "water in a box": lambda: molecule("H2O", vacuum=3.0),
    "hydroxide": lambda: molecule("OH", info={"charge": -1, "spin": 1}),
    "water cation in a box": lambda: molecule("H2O", vacuum=3.0, info={"charge": 1, "spin": 2}),
}
"""Crystals of which some are below the cutoff of any network, a slab, molecules with and without a box, and ions."""
OF_SYSTEMS = ("energy", "stress")
ALWAYS = ("forces", "stress", "companions", "autograd group")
"""Checks of the kit that every wrapper of a network passes."""


def _surface(crystal: Atoms) -> Atoms:
    crystal.center(vacuum=4.0, axis=2)
    crystal.pbc = [True, True, False]
    return crystal


def rattled(*names: str, by: float = 0.05, **others: Atoms) -> dict[str, Atoms]:
    """Return structures by name, and others, each rattled with its place as the seed."""
    found = {name: MAKERS[name]() for name in names} | others
    for seed, atoms in enumerate(found.values()):
        atoms.rattle(by, seed=seed)
    return found


def crystals_and_molecules() -> dict[str, Atoms]:
    """Return structures whose energies tests have written down: crystals, a molecule, and one in a periodic box."""
    silicon, salt = bulk("Si", cubic=True, a=5.43), bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    silicon.positions += np.random.default_rng(0).normal(0, 0.05, (8, 3))
    found = {"silicon": silicon, "rock salt": salt, "iron": bulk("Fe"), "ethanol": molecule("CH3CH2OH")}
    found["water in a box"] = molecule("H2O", vacuum=3.0, pbc=True)
    for seed, name in enumerate(("ethanol", "water in a box")):
        found[name].rattle(0.05, seed=seed)
    return found


def batch_of(*systems: Atoms, cutoff: float = 5.5) -> Batch:
    """Return a batch in float64 with its neighbour list."""
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
    compute_neighbors(batch, cutoff)
    return batch


def asking_for(model: Any, outputs: set[str]) -> Any:
    """Return `model` in eval mode, active in `outputs`."""
    model.model_config.active_outputs = set(outputs)
    return model.eval()


def calculated(calculator: Any, atoms: Atoms) -> dict[str, Any]:
    """Return what a calculator says, with stress [3, 3]: zero without a cell, where that of packages is arbitrary."""
    periodic = ["stress"] if atoms.pbc.all() else []  # not all packages have one of slabs
    calculator.results = {}
    calculator.calculate(atoms, ["energy", "forces", *periodic], all_changes)
    found = dict(calculator.results)
    if not atoms.pbc.any():
        found["stress"] = np.zeros((3, 3))
    elif "stress" in found:
        found["stress"] = matrix(found["stress"])
    return found


def matrix(stress: Any) -> np.ndarray:
    """Return a stress as a matrix that may be in the order of Voigt."""
    stress = np.asarray(stress)
    return stress if stress.shape == (3, 3) else stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def differences(
    model: Any,
    expected: Mapping[str, Mapping[str, Any]],
    systems: Mapping[str, Atoms],
    make_batch: Callable[..., Batch] = batch_of,
) -> dict[str, dict[str, float]]:
    """Return by how much each output of each system differs from `expected`, alone or in one batch; energy per atom."""
    together = model(make_batch(*systems.values()))
    starts = np.cumsum([0, *map(len, systems.values())])
    found: dict[str, dict[str, float]] = {}
    for place, (name, atoms) in enumerate(systems.items()):
        alone, theirs, found[name] = model(make_batch(atoms)), expected[name], {}
        for key in [key for key in together if key in theirs]:
            rows = slice(place, place + 1) if key in OF_SYSTEMS else slice(starts[place], starts[place + 1])
            both = alone[key], together[key][rows]
            error = max(float(np.abs(np.asarray(each).squeeze() - np.squeeze(theirs[key])).max()) for each in both)
            found[name][key] = error / len(atoms) if key == "energy" else error
    print(found)
    return found


def assert_within(found: Mapping[str, Mapping[str, float]], energy: float, others: float) -> None:
    """Assert that energies per atom, and what else there is, differ by less."""
    for name, errors in found.items():
        assert errors["energy"] < energy, name
        assert max(errors.values()) < max(energy, others), name


def keeps_the_contract(model: Any, *passed: str, **options: Any) -> ModelReport:
    """Return the report of the kit: nothing fails, and what every network does and `passed` is claimed and holds."""
    report = check_model(model, **options).raise_if_failed()
    print(report)
    for check in (*ALWAYS, *passed):
        assert report.verdict(check) is Verdict.PASSED, check
    return report


_STATE = """
import logging, os, random, sys, warnings, numpy, torch
from athanor import AtomicData, Batch, models
from athanor.neighbors import compute_neighbors
assert {package!r} not in sys.modules
def state():
    return {{
        "environment": dict(os.environ), "filters of warnings": list(warnings.filters),
        "handlers": list(logging.root.handlers), "level of the log": logging.root.level,
        "random": random.getstate(), "seed of numpy": numpy.random.get_state()[1].tolist(),
        "seed": torch.get_rng_state().tolist(), "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(), "precision of products": torch.get_float32_matmul_precision(),
        "TF32": torch.backends.cuda.matmul.allow_tf32, "printing": dict(torch._tensor_str.get_printoptions()),
        "gradients": torch.is_grad_enabled(), "sharing": torch.multiprocessing.get_sharing_strategy(),
    }}
before = state()
{program}
assert {package!r} in sys.modules
print([name for name, value in state().items() if value != before[name]])
"""


def left_behind(package: str, program: str, without: str = "") -> str:
    """Return what a new process prints: what `program`, which imports `package` through us, changes there.

    `without` names a variable of the environment that is not set there.
    """
    environment = {key: value for key, value in os.environ.items() if key != without}
    text = _STATE.format(package=package, program=program)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
