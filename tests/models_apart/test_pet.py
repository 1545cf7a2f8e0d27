"""MetatomicWrapper on PET, a network of metatrain, with random parameters, against the calculator of metatomic.

`make test-model-metatomic` runs this beside `test_metatomic.py`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from metatomic_ase import MetatomicCalculator
from metatrain.pet import __model__ as PET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.models import MetatomicWrapper, hessian
from athanor.neighbors import compute_neighbors
from athanor.testing import Verdict, check_model

BOUNDS = {torch.float64: (1e-11, 1e-10), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""
SMALL = {
    "cutoff": 4.5, "d_pet": 16, "d_head": 16, "d_node": 16, "d_feedforward": 16, "num_heads": 2,
    "num_attention_layers": 1, "num_gnn_layers": 2,
}  # fmt: skip


def written(path: Path, dtype: torch.dtype = torch.float64, **changes: Any) -> Path:
    """Export a small network, and return its file."""
    torch.manual_seed(0)
    hypers = copy.deepcopy(get_default_hypers("pet")["model"]) | SMALL | changes
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})
    about = DatasetInfo(length_unit="angstrom", atomic_types=[1, 6, 8, 11, 14, 17], targets={"energy": energy})
    PET(hypers, about).to(dtype).eval().export().save(path)
    return path


def wrapper(file: Path) -> MetatomicWrapper:
    model = MetatomicWrapper.from_checkpoint(file, trust=True)
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    return model


def structures() -> list[Any]:
    found = [bulk("Si", cubic=True), bulk("NaCl", "rocksalt", a=5.6), molecule("CH3CH2OH"), molecule("H2O", vacuum=3.0)]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    found[3].info |= {"charge": 1, "spin": 2}
    return found


def batch_of(*structures: Any) -> Batch:
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])
    compute_neighbors(batch, 5.0)
    return batch


@pytest.mark.filterwarnings("ignore")  # of the calculator, where nothing is periodic
@pytest.mark.parametrize(
    ("dtype", "changes"),
    [(torch.float64, {}), (torch.float32, {}), (torch.float64, {"system_conditioning": True, "zbl": True})],
)
def test_it_agrees_with_the_calculator_of_the_package(tmp_path: Path, dtype: torch.dtype, changes: Any) -> None:
    """Alone and in one batch; also a network that reads charge and spin, and has a repulsion of its own."""
    file = written(tmp_path / "pet.pt", dtype, **changes)
    model, calculator = wrapper(file), MetatomicCalculator(file)
    together = model(batch_of(*structures()))
    starts = np.cumsum([0, *map(len, structures())])
    for place, atoms in enumerate(structures()):
        alone = model(batch_of(atoms))
        atoms.calc = calculator
        for outputs, system, first in ((alone, 0, 0), (together, place, starts[place])):
            energy = abs(outputs["energy"][system, 0].item() - atoms.get_potential_energy()) / len(atoms)
            forces = np.abs(outputs["forces"][first : first + len(atoms)].numpy() - atoms.get_forces()).max()
            assert energy < BOUNDS[dtype][0]
            assert forces < BOUNDS[dtype][1]
            if atoms.pbc.all():
                stress = np.abs(outputs["stress"][system].numpy() - atoms.get_stress(voigt=False)).max()
                assert stress < BOUNDS[dtype][1]
    assert together["forces"].abs().max() > 0.1
    if changes:
        assert model.model_config.optional_inputs == {"charge", "spin"}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_keeps_the_contract(tmp_path: Path, dtype: torch.dtype) -> None:
    model = wrapper(written(tmp_path / "pet.pt", dtype))
    report = check_model(model, elements=[11, 17], distance=2.8).raise_if_failed()
    print(report)
    for check in ("forces", "stress", "companions", "autograd group"):
        assert report.verdict(check) is Verdict.PASSED, check


def test_second_derivatives(tmp_path: Path) -> None:
    model, batch = wrapper(written(tmp_path / "pet.pt")), batch_of(*structures()[:2])
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-4)
