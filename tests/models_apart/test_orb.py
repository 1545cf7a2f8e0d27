"""OrbWrapper on networks of orb-models' own classes with random parameters, against the calculator of that package.

`make test-model-orb` runs this, in an environment with orb-models; nothing else collects it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import athanor
from athanor._optional import process_left_alone
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import AthanorWarning, ContractError, InputError, NotAvailableError
from athanor.models import LennardJonesModelWrapper, PipelineGroup, PipelineModelWrapper
from athanor.models.orb import OrbWrapper, network
from athanor.neighbors import compute_neighbors
from athanor.testing import Verdict, check_model

pretrained = network.package("forcefield.pretrained")
ORBCalculator = network.package("forcefield.inference.calculator").ORBCalculator
Adapter = network.package("forcefield.forcefield_adapter").ForcefieldAtomsAdapter

EVERYTHING = {"energy", "forces", "stress"}
BOUNDS = {torch.float64: (1e-8, 1e-8), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""
KINDS = {
    "conservative": pretrained.orb_v3_conservative_architecture,
    "direct": pretrained.orb_v3_direct_architecture,
    "v2": pretrained.orb_v2_architecture,
}


def random_network(kind: str = "conservative", dtype: torch.dtype = torch.float64, **changes: Any) -> torch.nn.Module:
    """Return a small network; one that the package compares is made in its dtype, which is then the default."""
    small = {"latent_dim": 32, "base_mlp_hidden_dim": 64, "head_mlp_hidden_dim": 32, "num_message_passing_steps": 2}
    options = {"num_message_passing_steps": 1} if kind == "v2" else small
    with process_left_alone():
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        model = KINDS[kind](device="cpu", **options | changes).to(dtype).eval()
    model.heads["energy"].normalizer.bn.running_var[:] = 100.0  # forces of some eV/Å
    return model.requires_grad_(False)


def wrapper(kind: str = "conservative", dtype: torch.dtype = torch.float64, limit: int = 120, **options: Any) -> OrbWrapper:
    model = OrbWrapper(random_network(kind, dtype, **options), max_num_neighbors=limit).eval()
    model.model_config.active_outputs = set(EVERYTHING)
    return model


def structures() -> dict[str, Atoms]:
    """Crystals, of which one is below the cutoff, and molecules."""
    found = {
        "silicon": bulk("Si", cubic=True),
        "rock salt": bulk("NaCl", "rocksalt", a=5.6),
        "ethanol": molecule("CH3CH2OH"),
        "copper": bulk("Cu") * (1, 1, 2),
        "water": molecule("H2O"),
    }
    for seed, atoms in enumerate(found.values()):
        atoms.rattle(0.1, seed=seed)
    return found


def batch_of(*systems: Atoms) -> Batch:
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
    compute_neighbors(batch, 6.5)
    return batch


def expected(kind: str, dtype: torch.dtype, limit: int, atoms: Atoms, **options: Any) -> Mapping[str, Any]:
    with process_left_alone():
        torch.set_default_dtype(dtype)
        model = random_network(kind, dtype, **options)
        calculator = ORBCalculator(model, Adapter(6.0, limit), device="cpu")
        calculator.calculate(atoms)
    found = calculator.results
    xx, yy, zz, yz, xz, xy = np.asarray(found["stress"])
    stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) if atoms.pbc.any() else np.zeros((3, 3))
    return {"energy": found["energy"], "forces": found["forces"], "stress": stress}


def differences(model: OrbWrapper, kind: str, dtype: torch.dtype, **options: Any) -> dict[str, tuple[float, ...]]:
    """By how much energy per atom, forces and stress differ from the calculator, alone and in one batch."""
    systems, found = structures(), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AthanorWarning)
        together = model(batch_of(*systems.values()))
        starts = np.cumsum([0, *map(len, systems.values())])
        for place, (name, atoms) in enumerate(systems.items()):
            theirs = expected(kind, dtype, model.max_num_neighbors, atoms, **options)
            alone = model(batch_of(atoms))
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
@pytest.mark.parametrize("limit", [120, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_calculator_of_the_package(kind: str, limit: int, dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals and molecules, which the package can not mix."""
    found = differences(wrapper(kind, dtype, limit), kind, dtype)
    print(found)
    assert max(forces for *_, forces in found.values()) > 0.1
    for energy, forces, stress, _ in found.values():
        assert energy < BOUNDS[dtype][0]
        assert max(forces, stress) < BOUNDS[dtype][1]


class ReadsEveryNeighbor(OrbWrapper):
    """A broken twin: the limit is not kept."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        limit, self.max_num_neighbors = self.max_num_neighbors, 10**6
        try:
            return super().network_outputs(graph, wanted)
        finally:
            self.max_num_neighbors = limit


class ReadsTheOtherEnd(OrbWrapper):
    """A broken twin: atoms of a pair are exchanged, its vector is not."""

    def _atom_graphs(self, graph: Any) -> Any:
        atoms = super()._atom_graphs(graph)
        atoms.senders, atoms.receivers = atoms.receivers, atoms.senders
        return atoms


class SwapsShears(OrbWrapper):
    """A broken twin: yz and xy of a predicted stress are exchanged."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        found = dict(super().network_outputs(graph, wanted))
        found["stress"] = found["stress"].flip(1, 2)
        return found


@pytest.mark.parametrize(("twin", "kind", "limit"), [(ReadsEveryNeighbor, "conservative", 20), (ReadsTheOtherEnd, "conservative", 120), (SwapsShears, "direct", 120)])  # fmt: skip
def test_the_comparison_notices_a_broken_twin(twin: type[OrbWrapper], kind: str, limit: int) -> None:
    model = twin(random_network(kind), max_num_neighbors=limit).eval()
    model.model_config.active_outputs = set(EVERYTHING)
    assert max(differences(model, kind, torch.float64)["silicon"][:3]) > 1e-5
