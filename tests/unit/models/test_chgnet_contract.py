"""CHGNet keeps the contract of models in float64; broken twins do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor.data.atomic_data import AtomicData
from athanor.models.chgnet import CHGNetWrapper
from athanor.testing.model_contract import CHECKS, check_model
from athanor.testing.systems import standard_systems

pytestmark = [pytest.mark.chgnet, pytest.mark.filterwarnings("ignore:Atoms of the system")]


def systems(*names: str) -> dict[str, AtomicData]:
    """Return some of the standard systems, made of sodium and chlorine."""
    every = standard_systems(distance=2.9, elements=(11, 17))
    return {name: every[name] for name in names}


def test_chgnet_keeps_the_contract() -> None:
    model = CHGNetWrapper.from_checkpoint(dtype=torch.float64)
    figures = check_model(model, systems("cluster", "atom", "left-handed", "slab", "tiny cell"))
    assert {check for check, _ in figures} == {*CHECKS, "companions"}


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
    ("twin", "check"),
    [(CompressiveStress, "stress"), (ForcesUphill, "forces"), (SeesTheFirstSystem, "companions")],
)
def test_the_contract_sees_a_broken_twin(twin: type[CHGNetWrapper], check: str) -> None:
    skipped = {*CHECKS, "companions"} - {check}
    with pytest.raises(AssertionError, match=f"check '{check}'"):
        check_model(twin.from_checkpoint(dtype=torch.float64), systems("tiny cell", "left-handed"), skip=skipped)
