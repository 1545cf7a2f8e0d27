"""D4 through its library: numbers are the library's, derivatives those of its energy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import athanor.models
from athanor import units
from athanor._optional import OptionalDependency
from athanor.data import AtomicData, Batch
from athanor.errors import InputError, NotAvailableError, OptionalDependencyError
from athanor.models.dftd4 import DFTD4ModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing import check_model
from athanor.testing.model_contract import evaluate
from athanor.testing.systems import structure

needs_library = pytest.mark.skipif(not OptionalDependency.DFTD4.is_available(), reason="dftd4 has no wheel here")


def water(**fields: Any) -> AtomicData:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=3)
    atoms.info |= fields
    return AtomicData.from_atoms(atoms, dtype=torch.float64)


def salt() -> AtomicData:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.1, seed=3)
    return AtomicData.from_atoms(atoms, dtype=torch.float64)


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dftd4", "dftd4.interface"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionalDependencyError, match=r"pip install \"athanor-md\[d4\]\""):
        DFTD4ModelWrapper()


@needs_library
def test_numbers_are_those_of_the_library() -> None:
    from dftd4.interface import DampingParam, DispersionModel

    one, charged = water(), water(charge=1.0)
    for three_body in (True, False):
        model = DFTD4ModelWrapper("r2scan", three_body=three_body)
        found = evaluate(model, [one, charged], ["energy", "forces"])
        for system, charge, ours in zip((one, charged), (0.0, 1.0), found, strict=True):
            positions = system.positions.numpy() / units.BOHR
            theirs = DispersionModel(system.atomic_numbers.numpy(), positions, charge=charge).get_dispersion(
                DampingParam(method="r2scan", atm=three_body), grad=True
            )
            assert float(ours["energy"]) == pytest.approx(theirs["energy"] * units.HARTREE, rel=1e-14)
            expected = -theirs["gradient"] * (units.HARTREE / units.BOHR)
            np.testing.assert_allclose(ours["forces"].numpy(), expected, rtol=1e-12, atol=1e-18)
    assert float(found[0]["energy"]) != float(found[1]["energy"])


@needs_library
def test_derivatives_and_the_rest_of_the_contract() -> None:
    """Without triples, which take the library a second for each of the many calls."""
    model = DFTD4ModelWrapper(three_body=False)
    checks = ["outputs", "forces", "stress", "rotation", "companions", "bits in any batch", "inputs", "unknown element"]
    report = check_model(model, {"molecule": water(), "crystal": salt()}, checks=checks).raise_if_failed()
    assert {row.verdict.value for row in report.checks["stress"]} == {"passed"}


@needs_library
def test_what_it_refuses() -> None:
    model = athanor.models.get("d4")
    with pytest.raises(TypeError, match="requires a Batch input"):
        model(water())
    with pytest.raises(InputError, match="no parameters for the functional 'nonsense'"):
        DFTD4ModelWrapper("nonsense")
    with pytest.raises(InputError, match="no references for atomic number 118"):
        model(Batch.from_data_list([structure(3.0 * torch.eye(3).double(), [118, 6, 1])]))
    batch = Batch.from_data_list([water()])
    batch.positions = batch.positions.requires_grad_(True)
    with pytest.raises(NotAvailableError, match="can not be differentiated"):
        model(batch)


@needs_library
def test_a_sum_with_another_model() -> None:
    pairs, d4 = LennardJonesModelWrapper(0.01, 2.6, 6.0, switch_width=1.0), DFTD4ModelWrapper(three_body=False)
    (found,), (one,), (other,) = (evaluate(each, [salt()], ["energy", "stress"]) for each in (pairs + d4, pairs, d4))
    for name, value in found.items():
        torch.testing.assert_close(value, one[name] + other[name], rtol=1e-12, atol=1e-14)
