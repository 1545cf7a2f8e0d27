"""D3 against its Fortran library, stored and live, against differences of its energy; and each check on twins."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athanor import units
from athanor.data import AtomicData, Batch
from athanor.errors import InputError
from athanor.kernels.dispersion import op
from athanor.models.dftd3 import DFTD3ModelWrapper, wrapper
from athanor.testing import check_model
from athanor.testing.model_contract import evaluate
from athanor.testing.systems import structure

DATA = Path(__file__).parent.parent / "data"
STORED = json.loads((DATA / "dftd3_reference.json").read_text(encoding="utf-8"))
FUNCTIONALS = ("pbe", "pbesol", "revpbe", "b3lyp", "tpss")
AS_LIBRARY = {"cutoff": 60.0 * units.BOHR, "cn_cutoff": 40.0 * units.BOHR, "smoothing_fraction": 0.0}
"""Cutoffs of the reference numbers."""
EVERYTHING = {"energy", "forces", "stress"}


def data_of(row: dict[str, Any]) -> AtomicData:
    keywords = {}
    positions, cell = (torch.tensor(row[name], dtype=torch.float64) * units.BOHR for name in ("positions", "cell"))
    if any(row["pbc"]):
        keywords = {"cell": cell[None], "pbc": torch.tensor([row["pbc"]])}
    return AtomicData(positions=positions, atomic_numbers=torch.tensor(row["numbers"]), **keywords)


def in_atomic_units(row: dict[str, Any], model: DFTD3ModelWrapper, call: Callable[..., Any] = wrapper.dftd3) -> Any:
    """Return energy, gradient and virial (dE/dstrain) of the operation that the model calls."""
    cell = torch.tensor(row["cell"], dtype=torch.float64)[None] * units.BOHR
    arguments = model.adapt_input(Batch.from_data_list([data_of(row)]))
    arguments |= {"cell": cell, "pbc": torch.tensor([row["pbc"]])}
    energy, forces, virial = call(*arguments.values())
    return (
        float(energy) / units.HARTREE,
        -forces.numpy() * (units.BOHR / units.HARTREE),
        -virial[0].numpy() / units.HARTREE,
    )


def check_equal(found: Any, expected: dict[str, Any]) -> None:
    """Each agrees to 1e-8 of its largest number."""
    for name, value in zip(("energy", "gradient", "virial"), found, strict=True):
        reference = np.asarray(expected[name])
        error = np.abs(value - reference).max() / np.abs(reference).max()
        assert error <= 1e-8, f"{name} is off by {error:.2e}"


# ------------------------------------------------------------------------------------------------------ stored numbers


@pytest.mark.parametrize("case", STORED["results"])
def test_stored_numbers_of_the_library(case: str) -> None:
    name, damping, terms = case.split()
    model = DFTD3ModelWrapper.from_functional("pbe", damping, three_body=terms == "ATM", **AS_LIBRARY)
    check_equal(in_atomic_units(STORED["structures"][name], model), STORED["results"][case])


def without_chain_rule(*arguments: Any) -> Any:
    """C6 as if it did not depend on where the atoms are."""
    softmax = torch.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "softmax", lambda *a, **k: softmax(*a, **k).detach())
        return op._dftd3.reference(*arguments)


def changed(**changes: Any) -> Callable[..., Any]:
    def call(row: dict[str, Any], **options: Any) -> Any:
        return in_atomic_units(row, DFTD3ModelWrapper(**{**PBE, **AS_LIBRARY, **changes, **options}))

    return call


def with_table(name: str, factor: float) -> Callable[..., Any]:
    def call(row: dict[str, Any], **options: Any) -> Any:
        model = DFTD3ModelWrapper(**PBE, **AS_LIBRARY, **options)
        getattr(model, name).mul_(factor)
        return in_atomic_units(row, model)

    return call


def without_images(row: dict[str, Any], **options: Any) -> Any:
    return in_atomic_units({**row, "pbc": [False] * 3}, DFTD3ModelWrapper(**PBE, **AS_LIBRARY, **options))


def with_constant_c6(row: dict[str, Any], **options: Any) -> Any:
    return in_atomic_units(row, DFTD3ModelWrapper(**PBE, **AS_LIBRARY, **options), without_chain_rule)


PBE = {"a1": 0.4289, "a2": 4.4407, "s8": 0.7875}
TWINS: dict[str, tuple[Callable[..., Any], str]] = {
    "s6 and s8 are exchanged": (changed(s6=0.7875, s8=1.0), "triclinic bj pairs"),
    "a1 and a2 are exchanged": (changed(a1=4.4407, a2=0.4289), "triclinic bj pairs"),
    "a2 is taken in Å": (changed(a2=4.4407 * units.BOHR), "triclinic bj pairs"),
    "the cutoff is taken in Å": (changed(cutoff=60.0), "salt bj pairs"),
    "the cutoff is converted twice": (changed(cutoff=60.0 * units.BOHR**2), "salt bj pairs"),
    "coordination sees pairs to the cutoff of energies": (changed(cn_cutoff=60.0 * units.BOHR), "triclinic bj pairs"),
    "the switch is on": (changed(smoothing_fraction=0.2), "salt bj pairs"),
    "radii lack their 4/3": (with_table("rcov", 0.75), "ethanol bj pairs"),
    "r4r2 lacks its root": (with_table("r4r2", 1.5), "ethanol bj pairs"),
    "coordination numbers have no chain rule": (with_constant_c6, "ethanol bj pairs"),
    "images are missing": (without_images, "salt bj pairs"),
    "damping is the other one": (changed(damping="zero", rs6=1.217), "ethanol bj pairs"),
    "rs8 is rs6": (changed(damping="zero", s8=0.722, rs6=1.217, rs8=1.217), "ethanol zero pairs"),
    "alpha is 12": (changed(damping="zero", s8=0.722, rs6=1.217, alpha=12), "ethanol zero pairs"),
    "three-body term is missing": (changed(), "salt bj ATM"),
    "three-body radii lack their 4/3": (
        lambda row: with_table("r0ab", 0.75)(row, three_body=True), "salt bj ATM",
    ),
}  # fmt: skip


@pytest.mark.parametrize("twin", TWINS)
def test_broken_twins_differ_from_the_library(twin: str) -> None:
    broken, case = TWINS[twin]
    with pytest.raises(AssertionError, match="is off by"):
        check_equal(broken(STORED["structures"][case.split()[0]]), STORED["results"][case])


def test_the_whole_one_does_not() -> None:
    check_equal(changed()(STORED["structures"]["salt"]), STORED["results"]["salt bj pairs"])


# ------------------------------------------------------------------------------------------------------- live library


def library() -> Any:
    pytest.importorskip("dftd3.interface", reason="the library s-dftd3 has no wheel here")
    spec = importlib.util.spec_from_file_location("make_dftd3_reference", DATA / "make_dftd3_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("damping", ["bj", "zero"])
@pytest.mark.parametrize("functional", FUNCTIONALS)
def test_functionals_against_the_library(functional: str, damping: str) -> None:
    by_library = library().by_library
    for three_body in (False, True):
        model = DFTD3ModelWrapper.from_functional(functional, damping, three_body=three_body, **AS_LIBRARY)
        for name in ("ethanol", "thiophene", "salt", "layer"):
            row = STORED["structures"][name]
            check_equal(in_atomic_units(row, model), by_library(row, functional, damping, three_body))


@pytest.mark.parametrize("damping", ["bj", "zero"])
def test_every_published_parameter_is_that_of_the_library(damping: str) -> None:
    by_library, row = library().by_library, STORED["structures"]["ethanol"]
    from athanor.models.dftd3.functionals import BECKE_JOHNSON, ZERO

    for functional in {"bj": BECKE_JOHNSON, "zero": ZERO}[damping]:
        model = DFTD3ModelWrapper.from_functional(functional, damping, **AS_LIBRARY)
        check_equal(in_atomic_units(row, model), by_library(row, functional, damping, False))


@pytest.mark.parametrize("damping", ["bj", "zero"])
def test_every_element_up_to_radon_against_the_library(damping: str) -> None:
    """On a grid, so that each meets others at many distances."""
    grid = torch.cartesian_prod(*[torch.arange(5.0, dtype=torch.float64)] * 3)[:86]
    places = 4.7 * grid + 0.4 * torch.sin(7.0 * grid.sum(1, keepdim=True) + torch.arange(3.0))
    row = {"numbers": list(range(1, 87)), "positions": places.tolist(), "cell": np.zeros((3, 3)), "pbc": [False] * 3}
    model = DFTD3ModelWrapper.from_functional("pbe", damping, three_body=True, **AS_LIBRARY)
    check_equal(in_atomic_units(row, model), library().by_library(row, "pbe", damping, True))


# ------------------------------------------------------------------------------------------- smoothness and derivatives

SHORT = {"cutoff": 8.0, "three_body_cutoff": 5.5}


@pytest.mark.parametrize("options", [{}, {"damping": "zero"}, {"three_body": True}], ids=["bj", "zero", "three-body"])
def test_the_card_holds(options: dict[str, Any]) -> None:
    """Forces and stress by differences, smoothness, symmetries, equal bits in any batch, and the rest of it."""
    report = check_model(DFTD3ModelWrapper.from_functional("pbe", **SHORT, **options)).raise_if_failed()
    for check in ("forces", "stress", "smoothness", "bits in any batch", "bits beside stress", "autograd group"):
        assert {row.verdict.value for row in report.checks[check]} == {"passed"}


@pytest.mark.parametrize("cutoff", ["cutoff", "cn_cutoff", "three_body_cutoff"])
def test_energy_goes_on_smoothly_at_each_cutoff(cutoff: str) -> None:
    """Of three atoms; a sharp cutoff makes a jump that the same check sees."""

    def energies(smoothing_fraction: float) -> torch.Tensor:
        options = {"cutoff": 7.0, "cn_cutoff": 6.0, "three_body_cutoff": 5.0, "smoothing_fraction": smoothing_fraction}
        at = options[cutoff]
        model = DFTD3ModelWrapper.from_functional("pbe", three_body=True, **options)
        steps = at + 1e-4 * torch.arange(-3.0, 4.0, dtype=torch.float64)
        systems = [
            structure(torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.3, 0.0], [x, 0.0, 0.0]], dtype=torch.float64), [6, 8, 11])
            for x in steps.tolist()
        ]
        return torch.stack([each["energy"].flatten()[0] for each in evaluate(model, systems, ["energy"])])

    def jump(values: torch.Tensor) -> float:
        return float(values.diff(n=3).abs().max())

    assert jump(energies(0.2)) < 1e-3 * jump(energies(0.0))


def test_second_derivatives_are_those_of_the_forces() -> None:
    from athanor.models import hessian

    model = DFTD3ModelWrapper.from_functional("pbe", three_body=True, **SHORT)
    batch = Batch.from_data_list([data_of(STORED["structures"]["thiophene"])])
    by_differences = hessian(model, batch, step=1e-4)[0]
    batch.positions = batch.positions.detach().requires_grad_(True)
    model.model_config.active_outputs = {"energy"}
    (gradient,) = torch.autograd.grad(model(batch)["energy"].sum(), batch.positions, create_graph=True)
    row = torch.autograd.grad(gradient[3, 1], batch.positions)[0]
    torch.testing.assert_close(row, by_differences[3, 1], rtol=0, atol=1e-7)


# ------------------------------------------------------------------------------------------------------- what is given


def test_a_system_that_is_not_finite_leaves_the_others_alone() -> None:
    model = DFTD3ModelWrapper.from_functional("pbe", **SHORT)
    good, bad = (data_of(STORED["structures"]["salt"]) for _ in range(2))
    alone = evaluate(model, [good], EVERYTHING)[0]
    batch = Batch.from_data_list([bad, good, bad])
    batch.positions[[0, 5], 1] = torch.nan
    outputs = model(batch)
    assert torch.equal(outputs["energy"][1], alone["energy"].flatten())
    assert torch.equal(outputs["forces"][2:4], alone["forces"])
    assert outputs["energy"][[0, 2]].isnan().all()
    assert outputs["forces"][[0, 1, 4, 5]].isnan().all()


def test_atoms_far_outside_of_the_cell_and_large_systems_are_the_same() -> None:
    """More tiles than one, and images in every direction."""
    model = DFTD3ModelWrapper.from_functional("pbe", **SHORT)
    small = data_of(STORED["structures"]["triclinic"])
    shift = torch.tensor([[3.0, -2.0, 1.0]], dtype=torch.float64) @ small.cell[0]
    moved = small.clone()
    moved.positions[1] += shift[0]
    cells = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3) @ small.cell[0]
    many = AtomicData(
        positions=(small.positions[None] + cells[:, None]).reshape(-1, 3),
        atomic_numbers=small.atomic_numbers.repeat(64), cell=4.0 * small.cell, pbc=small.pbc,
    )  # fmt: skip
    expected, same, copies = evaluate(model, [small, moved, many], EVERYTHING)
    torch.testing.assert_close(same["energy"], expected["energy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(copies["energy"], 64 * expected["energy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(copies["stress"], expected["stress"], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(copies["forces"][:3], expected["forces"], rtol=1e-9, atol=1e-13)


def test_cells_that_can_not_be_summed_are_refused() -> None:
    model = DFTD3ModelWrapper.from_functional("pbe")
    batch = Batch.from_data_list([data_of(STORED["structures"][name]) for name in ("triclinic", "salt")])
    batch.cell[1, 2] = batch.cell[1, 0] + batch.cell[1, 1]
    with pytest.raises(InputError, match="System 1 has periodic cell vectors that lie in one plane"):
        model(batch)
    batch.cell[1] = 0.02 * batch.cell[0]
    with pytest.raises(InputError, match="System 1 has more than a million images"):
        model(batch)
