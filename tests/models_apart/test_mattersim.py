"""MatterSimWrapper on networks of mattersim's own class with random parameters, against the calculator of that package.

`make test-model-mattersim` runs this, in an environment with mattersim; nothing else collects it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

import athanor
from athanor._optional import process_left_alone
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError
from athanor.models.mattersim import MatterSimWrapper, network
from athanor.models.mattersim import wrapper as wrapper_module
from athanor.neighbors import compute_neighbors
from athanor.testing import Verdict, check_model

M3Gnet = network._package("forcefield.m3gnet.m3gnet").M3Gnet
package = network._package("forcefield.potential")

EVERYTHING = {"energy", "forces", "stress"}
BOUNDS = {torch.float64: (1e-8, 1e-8), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""


def random_network(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """Return a small network whose forces on rattled crystals are some eV/Å."""
    with process_left_alone():
        torch.manual_seed(0)
        model = M3Gnet(num_blocks=2, units=32, max_l=3, max_n=3, device="cpu").to(dtype).eval()
    model.normalizer.scale.fill_(600.0)
    return model.requires_grad_(False)


def wrapper(dtype: torch.dtype = torch.float64) -> MatterSimWrapper:
    model = MatterSimWrapper(random_network(dtype)).eval()
    model.model_config.active_outputs = set(EVERYTHING)
    return model


def structures() -> dict[str, Atoms]:
    """Crystals, of which one is below the cutoff, a slab, and molecules with and without a box."""
    found = {
        "silicon": bulk("Si", cubic=True),
        "rock salt": bulk("NaCl", "rocksalt", a=5.6),
        "ethanol": molecule("CH3CH2OH"),
        "slab": fcc111("Cu", (1, 1, 3), vacuum=4.0),
        "water in a box": molecule("H2O", vacuum=3.0),
    }
    for seed, atoms in enumerate(found.values()):
        atoms.rattle(0.1, seed=seed)
    return found


def batch_of(*systems: Atoms) -> Batch:
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
    compute_neighbors(batch, 5.5)
    return batch


def expected(dtype: torch.dtype, atoms: Atoms) -> Mapping[str, Any]:
    with process_left_alone():
        potential = package.Potential(random_network(dtype), device="cpu", model_name="m3gnet")
        calculator = package.MatterSimCalculator(potential=potential, device="cpu", dtype=str(dtype)[6:], direct_graph=True)
        periodic = bool(atoms.pbc.any())
        calculator.calculate(atoms.copy())  # it is put into a box if it has none
    xx, yy, zz, yz, xz, xy = calculator.results["stress"]
    stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) if periodic else np.zeros((3, 3))
    return {**calculator.results, "stress": stress}


def differences(model: MatterSimWrapper, dtype: torch.dtype) -> dict[str, tuple[float, ...]]:
    """By how much energy per atom, forces and stress differ from the calculator, alone and in one batch."""
    systems, found = structures(), {}
    together = model(batch_of(*systems.values()))
    starts = np.cumsum([0, *map(len, systems.values())])
    for place, (name, atoms) in enumerate(systems.items()):
        theirs, alone = expected(dtype, atoms), model(batch_of(atoms))
        rows = slice(starts[place], starts[place + 1])
        pairs = [
            (alone["energy"][0, 0], theirs["energy"], len(atoms)),
            (together["energy"][place, 0], theirs["energy"], len(atoms)),
            (alone["forces"], theirs["forces"], 1), (together["forces"][rows], theirs["forces"], 1),
            (alone["stress"][0], theirs["stress"], 1), (together["stress"][place], theirs["stress"], 1),
        ]  # fmt: skip
        errors = [float(np.abs(np.asarray(ours) - other).max()) / share for ours, other, share in pairs]
        found[name] = (max(errors[:2]), max(errors[2:4]), max(errors[4:]), float(np.abs(theirs["forces"]).max()))
    return found


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_agrees_with_the_calculator_of_the_package(dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals, a slab and molecules."""
    found = differences(wrapper(dtype), dtype)
    print(found)
    assert max(forces for *_, forces in found.values()) > 0.1
    for energy, forces, stress, _ in found.values():
        assert energy < BOUNDS[dtype][0]
        assert max(forces, stress) < BOUNDS[dtype][1]
