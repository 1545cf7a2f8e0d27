"""The contract of models, applied to short-range potentials; twins whose derivatives are wrong fail it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import athanor.models
from athanor.kernels import _stored_pairs
from athanor.kernels.eam import op as embedded_atom
from athanor.models.pair_function import PairFunctionModelWrapper
from athanor.models.zbl import ZBLModelWrapper
from athanor.testing import Verdict, check_model
from athanor.testing.model_contract import evaluate
from athanor.testing.systems import fcc_crystal, standard_systems

POTENTIALS = Path(__file__).parents[1] / "data" / "potentials"
NICKEL_ALUMINIUM: dict[str, Any] = {
    "depth": {"Ni-Ni": 0.42, "Al-Ni": 0.38, ("Al", "Al"): 0.27}, "steepness": 1.4, "distance": 2.7, "cutoff": 6.5,
    "switch_width": 1.5,
}  # fmt: skip
OXIDE: dict[str, Any] = {
    "repulsion": {"Mg-O": 1428.5, "O-O": 2276.4, "Mg-Mg": 900.0}, "length": {"Mg-O": 0.2945, "O-O": 0.3, "Mg-Mg": 0.25},
    "dispersion": {"Mg-O": 1.0, "O-O": 27.88, "Mg-Mg": 0.0}, "cutoff": 6.5, "switch_width": 1.5,
}  # fmt: skip
MODELS: list[tuple[str, dict[str, Any], torch.dtype, set[str]]] = [
    ("morse", NICKEL_ALUMINIUM, torch.float64, {"units"}),
    ("buckingham", OXIDE | {"half_list": True}, torch.float64, {"units"}),
    ("zbl", {"inner": 1.0, "outer": 2.6}, torch.float32, {"units"}),
    ("eam", {"path": POTENTIALS / "CuAg.eam.alloy"}, torch.float64, {"units", "smoothness"}),
    ("eam", {"path": POTENTIALS / "CuAg.eam.fs", "half_list": True}, torch.float32, {"units", "smoothness"}),
    ("stillinger-weber", {"path": POTENTIALS / "SiGe.sw"}, torch.float64, {"units"}),
    ("sw", {"path": POTENTIALS / "Si_tol.sw"}, torch.float32, {"units", "smoothness"}),
]


def few(*elements: int, distance: float) -> dict[str, Any]:
    systems = standard_systems(distance=distance, elements=elements)
    return {name: systems[name] for name in ("cluster", "left-handed", "tiny cell")}


@pytest.mark.parametrize(("name", "options", "dtype", "unclaimed"), MODELS)
def test_short_range_potentials(name: str, options: dict[str, Any], dtype: torch.dtype, unclaimed: set[str]) -> None:
    model = athanor.models.get(name, **options)
    distance = {"zbl": 1.9, "buckingham": 2.1}.get(name)
    report = check_model(model, dtype=dtype, distance=distance).raise_if_failed()
    open_ones = {check for check in report.checks if report.verdict(check) is Verdict.NOT_CLAIMED}
    assert open_ones <= unclaimed
    assert report.verdict("bits in any batch") is Verdict.PASSED
    assert report.verdict("forces") is report.verdict("stress") is Verdict.PASSED


@pytest.mark.parametrize("half_list", [False, True])
def test_a_pair_function(half_list: bool) -> None:
    def spring(r: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return 0.01 * (first + second) * torch.exp(-2.0 * (r - 2.5)).add(-1.0).square()

    model = PairFunctionModelWrapper(spring, 5.0, 1.5, half_list=half_list, elements=["Al", "Cu"])
    report = check_model(model, few(13, 29, distance=2.6)).raise_if_failed()
    open_ones = {check for check in report.checks if report.verdict(check) is Verdict.NOT_CLAIMED}
    assert open_ones <= {"units", "smoothness", "bits in any batch", "bits beside stress"}


@pytest.mark.parametrize("column", [3, 4, 5])
def test_another_polynomial_at_the_end_of_zbl_is_not_smooth(column: int) -> None:
    systems, model = few(14, 14, distance=1.9), ZBLModelWrapper(1.0, 2.6)
    assert not check_model(model, systems, checks=["smoothness"]).failed
    model._tables.on(torch.device("cpu"))["table"][..., column] *= 1.05
    assert {row.check for row in check_model(model, systems, checks=["smoothness"]).failed} == {"smoothness"}


def test_a_wrong_slope_of_the_embedding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embedded_atom._cpu.rows

    def rows(*arguments: Any) -> None:
        form = arguments[9]
        whole(*arguments[:9], (*form[:2], 1.05 * form[2], *form[3:]), *arguments[10:])

    monkeypatch.setattr(embedded_atom._cpu, "rows", rows, raising=False)
    model = athanor.models.get("eam", path=POTENTIALS / "CuAg.eam.alloy")
    report = check_model(model, few(29, 47, distance=2.6), checks=["forces", "stress"])
    assert {row.check for row in report.failed} == {"forces", "stress"}


LARGE: list[tuple[str, dict[str, Any], int, float]] = [
    ("morse", {"depth": 0.3, "steepness": 1.4, "distance": 2.8, "cutoff": 6.0, "switch_width": 1.0}, 29, 2.55),
    ("eam", {"path": POTENTIALS / "CuAg.eam.alloy"}, 29, 2.55),
    ("eam", {"path": POTENTIALS / "CuAg.eam.alloy", "half_list": True}, 29, 2.55),
    ("sw", {"path": POTENTIALS / "Si.sw"}, 14, 2.7),
]


@pytest.mark.parametrize(("name", "options", "element", "distance"), LARGE)
def test_threads_and_companions_change_no_bit(
    name: str, options: dict[str, Any], element: int, distance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crystal large enough to be cut between threads, and beside it one in which two atoms are in one place."""
    model = athanor.models.get(name, **options)
    crystal = fcc_crystal(distance, element, (6, 6, 6), jitter=0.1)
    broken = fcc_crystal(distance, element)
    broken.positions[1] = broken.positions[0]
    parts: list[int] = []
    whole = _stored_pairs.run_parts

    def run_parts(kernel: Any, arguments: tuple[Any, ...], bounds: Any) -> None:
        parts.append(len(bounds) - 1)
        whole(kernel, arguments, bounds)

    monkeypatch.setattr(_stored_pairs, "run_parts", run_parts)
    found, threads = [], torch.get_num_threads()
    try:
        for count, systems in ((1, [crystal]), (2, [crystal]), (2, [broken, crystal, crystal])):
            torch.set_num_threads(count)
            found.append(evaluate(model, systems, ["energy", "forces", "stress"]))
    finally:
        torch.set_num_threads(threads)
    assert max(parts) == 2, "nothing was cut"
    assert not bool(torch.isfinite(found[2][0]["forces"]).all())
    for results in (found[1][0], found[2][1], found[2][2]):
        for key, value in found[0][0].items():
            assert torch.equal(results[key], value), key
