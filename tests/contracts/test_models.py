"""The contract of models, applied to ours; broken twins must fail it."""

from __future__ import annotations

import pytest
import torch

from athanor.data.atomic_data import AtomicData
from athanor.models.demo import build_demo_model
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.model_contract import CHECKS, check_companions, check_model, moved
from athanor.testing.systems import standard_systems

NOT_INVARIANT = {"translation", "rotation", "images", "supercell", "isolation", "stress"}


def argon(**changes) -> LennardJonesModelWrapper:
    """A strong Lennard-Jones potential, so that errors are not small beside 1 eV."""
    arguments = {"epsilon": 1.0, "sigma": 3.4, "cutoff": 8.5, "switch_width": 1.5, **changes}
    return LennardJonesModelWrapper(**arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"half_list": True},
        {"shift": True},
        {"epsilon": {"Ar": 1.0, "Kr": 1.3}, "sigma": {18: 3.4, 36: 3.6}},
        {"epsilon": {"Ar": 1.0, "Kr": 1.3}, "sigma": {18: 3.4, 36: 3.6}, "mixing": "geometric", "half_list": True},
    ],
    ids=["full", "half", "shift", "mixture", "geometric"],
)
def test_lennard_jones(changes) -> None:
    elements = (18, 36) if "mixing" in changes or isinstance(changes.get("epsilon"), dict) else (18,)
    figures = check_model(argon(**changes), standard_systems(elements=elements))
    assert {check for check, _ in figures} == {*CHECKS, "companions"}
    assert len(figures) > 60


def test_lennard_jones_in_float32() -> None:
    figures = check_model(argon(), standard_systems(dtype=torch.float32))
    assert len(figures) > 60


def off_the_origin() -> dict[str, AtomicData]:
    """Systems without an atom at the origin, where the normalization layer of the demo model is all but singular."""
    away = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    return {name: moved(system, system.positions + away) for name, system in standard_systems().items()}


def test_demo_keeps_what_it_claims() -> None:
    model = build_demo_model(hidden_dim=16).double()
    figures = check_model(model, off_the_origin(), skip=NOT_INVARIANT)
    assert {check for check, _ in figures} == {*CHECKS, "companions"} - NOT_INVARIANT


@pytest.mark.parametrize("check", ["translation", "rotation"])
def test_demo_does_not_claim_invariance(check: str) -> None:
    with pytest.raises(AssertionError, match=f"check '{check}'"):
        check_model(build_demo_model(hidden_dim=16).double(), off_the_origin(), skip=NOT_INVARIANT - {check})


# ------------------------------------------------------------------------------------------------------- broken twins


class WrongSignOfForces(LennardJonesModelWrapper):
    def adapt_output(self, model_output, data):
        return super().adapt_output({**model_output, "forces": -model_output["forces"]}, data)


class CompressiveStress(LennardJonesModelWrapper):
    def adapt_output(self, model_output, data):
        return super().adapt_output({**model_output, "virial": -model_output["virial"]}, data)


class HalfListTakenForFull(LennardJonesModelWrapper):
    def adapt_input(self, data, **kwargs):
        return {**super().adapt_input(data, **kwargs), "half": False}


class NoImages(LennardJonesModelWrapper):
    def adapt_input(self, data, **kwargs):
        inputs = super().adapt_input(data, **kwargs)
        return {**inputs, "images": torch.zeros_like(inputs["images"])}


class NoWrapOffsets(LennardJonesModelWrapper):
    def adapt_input(self, data, **kwargs):
        inputs = super().adapt_input(data, **kwargs)
        return {**inputs, "wrap_offsets": torch.zeros_like(inputs["wrap_offsets"])}


class SeesTheOrder(LennardJonesModelWrapper):
    def adapt_output(self, model_output, data):
        last = data.positions[data.batch_ptr[1:].long() - 1, 0]
        return super().adapt_output({**model_output, "energy": model_output["energy"] + 1e-6 * last}, data)


class PrefersTheXAxis(LennardJonesModelWrapper):
    def adapt_input(self, data, **kwargs):
        inputs = super().adapt_input(data, **kwargs)
        inputs["positions"] = inputs["positions"] * torch.tensor([1.0 + 1e-6, 1.0, 1.0])
        inputs["cell"] = inputs["cell"] * torch.tensor([1.0 + 1e-6, 1.0, 1.0])
        return inputs

    def adapt_output(self, model_output, data):
        forces = model_output["forces"] * torch.tensor([1.0 + 1e-6, 1.0, 1.0])
        return super().adapt_output({**model_output, "forces": forces}, data)


class HasAnOrigin(LennardJonesModelWrapper):
    def adapt_output(self, model_output, data):
        far = (
            torch.zeros(data.num_graphs).double().index_add(0, data.batch_idx, data.positions.double().square().sum(1))
        )
        return super().adapt_output({**model_output, "energy": model_output["energy"] + 1e-6 * far}, data)


class NotExtensive(LennardJonesModelWrapper):
    def adapt_output(self, model_output, data):
        return super().adapt_output({**model_output, "energy": model_output["energy"] + 1e-6}, data)


class SeesCompanions(LennardJonesModelWrapper):
    def adapt_output(self, model_output, data):
        return super().adapt_output({**model_output, "energy": model_output["energy"] * (1 + 1e-15 * len(data))}, data)


class MovesTheAtoms(LennardJonesModelWrapper):
    def adapt_input(self, data, **kwargs):
        data.positions += 1e-9
        return super().adapt_input(data, **kwargs)


class KeepsTheCallersBatch(LennardJonesModelWrapper):
    def __call__(self, data):
        data.positions.requires_grad_(True)
        return self.forward(data)


class WritesToTheBatch(LennardJonesModelWrapper):
    def __call__(self, data):
        data.charges = torch.zeros(data.num_nodes)
        return super().__call__(data)


class ReturnsTooMuch(LennardJonesModelWrapper):
    def adapt_output(self, model_output, data):
        return {**super().adapt_output(model_output, data), "forces": model_output["forces"]}


class SharesItsOutput(LennardJonesModelWrapper):
    _kept = None

    def adapt_output(self, model_output, data):
        outputs = super().adapt_output(model_output, data)
        if "energy" not in outputs:
            return outputs
        if self._kept is None or self._kept.shape != outputs["energy"].shape:
            self._kept = outputs["energy"].clone()
        outputs["energy"] = self._kept.copy_(outputs["energy"])
        return outputs


class ChangesItsConfig(LennardJonesModelWrapper):
    def adapt_input(self, data, **kwargs):
        self.model_config.gradient_keys = {"cell"}
        return super().adapt_input(data, **kwargs)


@pytest.mark.parametrize(
    ("twin", "complaint"),
    [
        (WrongSignOfForces, "'forces'"),
        (CompressiveStress, "'stress'"),
        (HalfListTakenForFull, "'forces'|'translation'"),
        (NoImages, "'forces'|'stress'"),
        (NoWrapOffsets, "'images'|'translation'|'forces'|'stress'"),
        (SeesTheOrder, "'permutation'|'forces'|'translation'"),
        (PrefersTheXAxis, "'rotation'"),
        (HasAnOrigin, "'forces'|'translation'"),
        (NotExtensive, "'isolation'|'supercell'"),
        (SeesCompanions, "'companions'"),
        (MovesTheAtoms, "'inputs unchanged'|'translation'|'forces'"),
        (KeepsTheCallersBatch, "`positions` of the batch requires grad"),
        (WritesToTheBatch, "The call adds or removes charges of the batch"),
        (ReturnsTooMuch, "'active outputs'"),
        (SharesItsOutput, "'detached'"),
        (ChangesItsConfig, "`model_config` was changed"),
    ],
)
def test_a_broken_twin_fails(twin, complaint: str) -> None:
    model = twin(epsilon=1.0, sigma=3.4, cutoff=8.5, switch_width=1.5, half_list=twin is HalfListTakenForFull)
    with pytest.raises(AssertionError, match=complaint):
        check_model(model)


def test_equal_bits_are_asked_of_those_who_claim_them_only() -> None:
    systems = list(standard_systems().values())
    twin = SeesCompanions(epsilon=1.0, sigma=3.4, cutoff=8.5, switch_width=1.5)
    with pytest.raises(AssertionError, match="energy of a system at place 0"):
        check_companions(twin, systems[1], systems[2:])
    twin.model_card = type(twin.model_card)(batch_invariance="not_verified")
    assert check_companions(twin, systems[1], systems[2:]) < 1e-12
