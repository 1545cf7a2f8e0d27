"""MetatomicWrapper on PET, a network of metatrain, with random parameters, against the calculator of metatomic.

`make test-model-metatomic` runs this beside `test_metatomic.py`.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metatomic_ase import MetatomicCalculator
from metatrain.pet import __model__ as PET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info

from athanor.models import MetatomicWrapper, hessian

from . import shared
from .shared import assert_within, calculated, differences, keeps_the_contract, rattled

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


structures = partial(rattled, "silicon", "rock salt", "ethanol", "water cation in a box")
batch_of = partial(shared.batch_of, cutoff=5.0)


@pytest.mark.filterwarnings("ignore")  # of the calculator, where nothing is periodic
@pytest.mark.parametrize(
    ("dtype", "changes"),
    [(torch.float64, {}), (torch.float32, {}), (torch.float64, {"system_conditioning": True, "zbl": True})],
)
def test_it_agrees_with_the_calculator_of_the_package(tmp_path: Path, dtype: torch.dtype, changes: Any) -> None:
    """Alone and in one batch; also a network that reads charge and spin, and has a repulsion of its own."""
    file = written(tmp_path / "pet.pt", dtype, **changes)
    model, calculator = wrapper(file), MetatomicCalculator(file)
    theirs = {name: calculated(calculator, atoms) for name, atoms in structures().items()}
    assert_within(differences(model, theirs, structures(), batch_of), *BOUNDS[dtype])
    assert max(np.abs(each["forces"]).max() for each in theirs.values()) > 0.1
    if changes:
        assert model.model_config.optional_inputs == {"charge", "spin"}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_keeps_the_contract(tmp_path: Path, dtype: torch.dtype) -> None:
    model = wrapper(written(tmp_path / "pet.pt", dtype))
    keeps_the_contract(model, elements=[11, 17], distance=2.8)


def test_second_derivatives(tmp_path: Path) -> None:
    model, batch = wrapper(written(tmp_path / "pet.pt")), batch_of(*list(structures().values())[:2])
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-4)


def test_it_is_copied_and_runs_in_inference_mode(tmp_path: Path) -> None:
    """Mutants: the wrapper keeps a module of the package; flags that a batch of inference mode holds are read."""
    model = wrapper(written(tmp_path / "pet.pt"))
    expected = model(batch_of(*structures().values()))["forces"]
    again = copy.deepcopy(model)
    with torch.inference_mode():
        batch = batch_of(*structures().values())
        torch.testing.assert_close(again(batch)["forces"], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again(batch)["forces"], expected, rtol=1e-9, atol=1e-9)
