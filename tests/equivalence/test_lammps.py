"""Short-range potentials against LAMMPS, by numbers that it gave; mutants of each must be told from it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import athanor.models
from athanor.data.elements import number_of_symbol
from athanor.kernels.eam import op as embedded_atom
from athanor.kernels.three_body import op as stillinger_weber
from athanor.models.stillinger_weber import StillingerWeberModelWrapper
from athanor.testing.model_contract import evaluate
from athanor.testing.systems import structure

DATA = Path(__file__).parents[1] / "data"
CASES = json.loads((DATA / "lammps_reference.json").read_text(encoding="utf-8"))["cases"]
OUTPUTS = ["energy", "forces", "stress"]
BOUND = 1e-10
"""Relative to the largest value; room for rounding, as the two add in another order."""


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def build(case: dict[str, Any], **options: Any) -> Any:
    description = dict(case["model"]) | options
    if "path" in description:
        description["path"] = DATA / "potentials" / description["path"]
    return athanor.models.get(description.pop("name"), **description)


@cache
def system(name: str) -> Any:
    case = CASES[name]
    numbers = [number_of_symbol(symbol) for symbol in case["symbols"]]
    return structure(tensor(case["positions"]), numbers, tensor(case["cell"]), case["pbc"])


def deviation(name: str, model: Any) -> float:
    """Return the largest difference from LAMMPS in energy, forces or stress, relative to the largest value."""
    (found,) = evaluate(model, [system(name)], OUTPUTS)
    worst = 0.0
    for key in OUTPUTS:
        expected = tensor(CASES[name][key])
        difference = (found[key].reshape(expected.shape) - expected).abs().max()
        worst = max(worst, float(difference / expected.abs().max().clamp(min=1e-3)))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_lammps(name: str) -> None:
    case = CASES[name]
    assert deviation(name, build(case)) < BOUND
    if case["model"]["name"] != "stillinger-weber":
        assert deviation(name, build(case, half_list=True)) < BOUND


def test_a_batch_of_all_cases_of_a_potential_gives_the_bits_of_each_alone() -> None:
    for potential in ("eam", "stillinger-weber"):
        names = [name for name, case in CASES.items() if case["model"] == {"name": potential, **_first_file(potential)}]
        model = build(CASES[names[0]])
        for name, together in zip(names, evaluate(model, [system(name) for name in names], OUTPUTS), strict=True):
            (alone,) = evaluate(model, [system(name)], OUTPUTS)
            assert all(torch.equal(alone[key], together[key]) for key in OUTPUTS), name


def _first_file(potential: str) -> dict[str, str]:
    return {"path": {"eam": "CuAg.eam.alloy", "stillinger-weber": "Si.sw"}[potential]}


# -------------------------------------------------------------------------------------------------------------- mutants


class Changed:
    """A module of kernels with one function wrapped."""

    def __init__(self, module: Any, **changes: Any) -> None:
        self._module, self._changes = module, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes.get(name) or getattr(self._module, name)


def test_a_wrong_derivative_of_the_embedding_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embedded_atom._cpu

    def embed(*arguments: Any) -> None:
        whole.embed(*arguments)
        slopes, start, stop = arguments[-3:]
        slopes[start:stop] *= 1.0 + 1e-6

    monkeypatch.setattr(embedded_atom, "_cpu", Changed(whole, embed=embed))
    assert deviation("EAM, rattled", build(CASES["EAM, rattled"])) > BOUND


def test_densities_of_the_wrong_element_are_found() -> None:
    model = build(CASES["EAM by pairs, alloy"])
    tables = model._functions.on(torch.device("cpu"))
    tables["density"] = tables["density"].transpose(0, 1).contiguous()
    assert deviation("EAM by pairs, alloy", model) > 1e-4


@pytest.mark.parametrize("column", range(6))
def test_a_wrong_coefficient_of_the_zbl_repulsion_is_found(column: int) -> None:
    """Its last three are those of the polynomial that ends it."""
    model = build(CASES["ZBL, collision"])
    model._tables.on(torch.device("cpu"))["table"][..., column] *= 1.0 + 1e-6
    assert deviation("ZBL, collision", model) > BOUND


@pytest.mark.parametrize("name", ["Lennard-Jones, tapered, alloy", "Buckingham, tapered, alloy"])
def test_another_taper_is_found(name: str) -> None:
    """One a little wider, none, and an energy that is shifted besides."""
    width = CASES[name]["model"]["switch_width"]
    for other in ({"switch_width": width * (1.0 + 1e-5)}, {"switch_width": 0.0}, {"shift": True}):
        assert deviation(name, build(CASES[name], **other)) > 10 * BOUND


def test_angles_across_a_boundary_without_their_shift_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoImages(StillingerWeberModelWrapper):
        def adapt_input(self, data: Any, **kwargs: Any) -> dict[str, Any]:
            inputs = super().adapt_input(data, **kwargs)
            return {**inputs, "images": torch.zeros_like(inputs["images"])}

    assert deviation("Stillinger-Weber, rattled", NoImages.from_file(DATA / "potentials" / "Si.sw")) > 1e-3
    whole = stillinger_weber._cpu
    monkeypatch.setattr(stillinger_weber, "_cpu", Changed(whole, push=lambda *_: None))
    assert deviation("Stillinger-Weber, rattled", build(CASES["Stillinger-Weber, rattled"])) > 1e-3


def test_parameters_of_other_neighbours_are_found() -> None:
    name = "Stillinger-Weber, two elements, alloy"
    model = build(CASES[name])
    tables = model._tables.on(torch.device("cpu"))
    tables["triple"] = tables["triple"].flip(1)
    assert deviation(name, model) > 1e-4


def test_another_coulomb_constant_is_found() -> None:
    """LAMMPS has its own, which differs in the eighth digit."""
    model = build(CASES["ZBL, collision"], coulomb_constant=None)
    assert 1e-8 < deviation("ZBL, collision", model) < 1e-7
