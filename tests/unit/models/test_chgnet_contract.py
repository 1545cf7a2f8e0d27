"""CHGNet keeps the contract of models; broken twins do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor.models.chgnet import CHGNetWrapper
from athanor.testing import Verdict, check_model
from athanor.testing.model_contract import CHECKS
from athanor.testing.model_kit.bench import ModelBench
from athanor.testing.model_kit.cutoffs import jumps
from athanor.testing.systems import standard_systems

pytestmark = pytest.mark.chgnet
SYSTEMS = standard_systems(distance=2.9, elements=(11, 17))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_chgnet_keeps_the_contract(dtype: torch.dtype) -> None:
    report = check_model(CHGNetWrapper.from_checkpoint(dtype=dtype)).raise_if_failed()
    open_ones = {"units", "bits in any batch"}
    assert {check for check in report.checks if report.verdict(check) is Verdict.PASSED} == CHECKS.keys() - open_ones
    assert not all(row.holds for row in report.checks["bits in any batch"])  # as the card says
    assert any("CHGNet was not fitted to isolated atoms" in text for text in report.warnings)


@pytest.mark.filterwarnings("ignore:Atoms of the system")
@pytest.mark.parametrize("cutoff", ["cutoff", "bond_cutoff"])
def test_it_is_smooth_where_bonds_and_angles_end(cutoff: str) -> None:
    """Not measured better than 3e-5 eV/Å² at the end of the angles, where energies bend within 0.01 Å."""
    model = CHGNetWrapper.from_checkpoint(dtype=torch.float64)
    bench = ModelBench(model, torch.float64)
    bench.put_on(list(SYSTEMS.values()))
    found = {jump.what: jump.error for jump in jumps(bench, getattr(model.model, cutoff))}
    allowed = {"cutoff": 1e-8, "bond_cutoff": 1e-4}[cutoff]
    assert max(found.values()) < allowed, found
    assert max(error for what, error in found.items() if "slope" not in what) < 1e-8


class CompressiveStress(CHGNetWrapper):
    def adapt_output(self, model_output: Any, data: Any) -> Any:
        turned = {"stress": -model_output["stress"]} if "stress" in model_output else {}
        return super().adapt_output({**model_output, **turned}, data)


class ForcesUphill(CHGNetWrapper):
    def adapt_output(self, model_output: Any, data: Any) -> Any:
        turned = {"forces": -model_output["forces"]} if "forces" in model_output else {}
        return super().adapt_output({**model_output, **turned}, data)


class SeesTheFirstSystem(CHGNetWrapper):
    def adapt_output(self, model_output: Any, data: Any) -> Any:
        shifted = model_output["energy"] + 1e-6 * data.positions[0, 0]
        return super().adapt_output({**model_output, "energy": shifted}, data)


@pytest.mark.parametrize(
    ("twin", "failing"),
    [
        (CompressiveStress, {"stress", "sign of stress"}),
        (ForcesUphill, {"forces", "sign of forces"}),
        (SeesTheFirstSystem, {"companions"}),
    ],
)
def test_the_contract_sees_a_broken_twin(twin: type[CHGNetWrapper], failing: set[str]) -> None:
    systems = {name: SYSTEMS[name] for name in ("cluster", "tiny cell", "left-handed")}
    checks = ["forces", "sign of forces", "stress", "sign of stress", "companions", "inputs"]
    report = check_model(twin.from_checkpoint(dtype=torch.float64), systems, checks=checks)
    assert {row.check for row in report.failed} == failing
