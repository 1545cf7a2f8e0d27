"""What a wrapper returns by mistake is told by name, with what came and what was expected, wherever it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ase.build import bulk
from torch import nn

import athanor
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics import NVE, evaluate
from athanor.errors import AthanorWarning, InputError, ModelOutputError, ShapeError
from athanor.models import BaseModelMixin, ModelConfig, hessian

Outputs = dict[str, Any]


class Spring(nn.Module, BaseModelMixin):
    """Springs to the origin; `change` makes a mistake of what it returns."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}

    def __init__(self, change: Callable[[Outputs], Any] = lambda outputs: outputs) -> None:
        super().__init__()
        self.change = change
        self.model_config = ModelConfig(
            outputs={"energy", "forces", "uncertainty"}, output_levels={"uncertainty": "system"}, supports_pbc=True
        )

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def forward(self, data, **kwargs):
        squares = data.positions.square().sum(1)
        energy = squares.new_zeros(data.num_graphs).index_add(0, data.batch_idx, 0.005 * squares)
        outputs = {"energy": energy.unsqueeze(1), "forces": -0.01 * data.positions, "uncertainty": energy.square()}
        return self.change(outputs)


def crystals() -> list[Any]:
    return [bulk("Ar", "fcc", a=5.2, cubic=True) * (1, 1, repeats) for repeats in (1, 2)]


def batch() -> Batch:
    made = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in crystals()])
    made.velocities = torch.zeros_like(made.positions)
    made.ensure_field("step")
    return made


@dataclass(frozen=True)
class Mistake:
    name: str
    change: Callable[[Outputs], Any]
    words: str


def of(key: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Outputs], Outputs]:
    return lambda outputs: {**outputs, key: change(outputs[key])}


MISTAKES = [
    Mistake("a tuple", lambda o: (o["energy"], o["forces"]), r"Spring returned a tuple; return a dictionary such as"),
    Mistake("a tensor", lambda o: o["energy"], "Spring returned a Tensor; return a dictionary"),
    Mistake("nothing", lambda o: None, "Spring returned a NoneType; return a dictionary"),
    Mistake(
        "no forces", lambda o: {"energy": o["energy"]}, r"did not return `forces`, .*It returned: energy\. Ask for"
    ),
    Mistake("another name", lambda o: {"energy": o["energy"], "force": o["forces"]}, "Did you mean `force`?"),
    Mistake("None", of("forces", lambda v: None), r"returned None for `forces`, which this run needs"),
    Mistake(
        "transposed", of("forces", lambda v: v.T), r"\(3, 12\); expected \(12, 3\). It is transposed: return `forc"
    ),
    Mistake("a row less", of("forces", lambda v: v[1:]), r"\(11, 3\); expected \(12, 3\). Return one row per atom\."),
    Mistake("per atom", of("energy", lambda v: torch.ones(12)), r"\(12,\); expected \(2, 1\).*summed over its atoms"),
    Mistake("one for all", of("energy", lambda v: v.sum()), r"shape \(\); expected \(2, 1\). Return one row per syst"),
    Mistake("a column more", of("energy", lambda v: v.expand(2, 2)), r"\(2, 2\); expected \(2, 1\)"),
    Mistake(
        "integers", of("energy", lambda v: v.long()), "`energy` from Spring has dtype torch.int64; expected a float"
    ),
    Mistake("bools", of("energy", lambda v: v > 0), "dtype torch.bool; expected a floating-point dtype"),
    Mistake("complex", of("forces", lambda v: v * 1j), "`forces` from Spring has dtype torch.complex128"),
    Mistake("a list", of("energy", lambda v: v.tolist()), r"`energy` from Spring is a list, \[\[.*`torch.as_tensor"),
    Mistake("an array", of("forces", lambda v: v.numpy()), "`forces` from Spring is a ndarray"),
    Mistake(
        "a device", of("forces", lambda v: v.to("meta")), "`forces` from Spring is on meta; the batch is on cpu. C"
    ),
    Mistake("of another", of("uncertainty", lambda v: v.to("meta")), "`uncertainty` from Spring is on meta"),
    Mistake(
        "its rows", of("uncertainty", lambda v: v[:1]), r"`uncertainty` from Spring has shape \(1,\); expected \(2,"
    ),
]
every_mistake = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)


def check_run(mistake: Mistake) -> None:
    start = batch()
    before = {name: start[name].clone() for name in ("positions", "cell", "velocities", "step")}
    with pytest.raises(ModelOutputError, match=mistake.words):
        NVE(Spring(mistake.change), dt=1.0, n_steps=1).run(start)
    for name, tensor in before.items():
        assert torch.equal(start[name], tensor), name


@every_mistake
def test_a_run_says_it_and_moves_nothing(mistake: Mistake) -> None:
    check_run(mistake)


@every_mistake
def test_evaluate_says_it_for_every_structure(mistake: Mistake) -> None:
    words = mistake.words if "12" not in mistake.words else "expected"
    with pytest.raises((InputError, ModelOutputError), match=words):
        athanor.evaluate(crystals(), model=Spring(mistake.change))


@pytest.mark.parametrize("name", ["transposed", "integers", "None", "a tuple", "a device"])
def test_the_broken_twin_that_takes_what_comes_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "checked_outputs", lambda model, batch, raw, needs: raw)
    monkeypatch.setattr(evaluate, "fitting", lambda spec, value, batch, name: value)
    with pytest.raises((AssertionError, AttributeError, RuntimeError, TypeError, ShapeError, pytest.fail.Exception)):
        check_run(next(mistake for mistake in MISTAKES if mistake.name == name))


def test_a_hessian_says_it_too() -> None:
    with pytest.raises(ModelOutputError, match=r"`forces` from Spring has shape \(3, .*It is transposed"):
        hessian(Spring(of("forces", lambda v: v.T)), batch())
    single = Batch.from_data_list([AtomicData.from_atoms(crystals()[0], dtype=torch.float64)])
    torch.testing.assert_close(hessian(Spring(), single)[0].reshape(12, 12), 0.01 * torch.eye(12).double())


def test_an_active_output_that_is_none_is_warned_about_once() -> None:
    model, start = Spring(of("uncertainty", lambda v: None)), batch()
    with pytest.warns(AthanorWarning, match="Spring returned None for `uncertainty`, which it is asked for") as caught:
        NVE(model, dt=1.0, n_steps=3).run(start)
    assert len([each for each in caught if "None for" in str(each.message)]) == 1
    assert "uncertainty" not in start
    model = Spring(of("uncertainty", lambda v: None))
    model.model_config.active_outputs = {"energy", "forces"}
    NVE(model, dt=1.0, n_steps=1).run(batch())


@pytest.mark.parametrize("key", ["energy", "forces"])
def test_nan_in_one_system_sets_that_one_aside_and_leaves_the_others_their_bits(key: str) -> None:
    def spoilt(outputs: Outputs) -> Outputs:
        value = outputs[key].clone()
        value[-1] = float("nan")
        return {**outputs, key: value}

    result = athanor.evaluate(crystals(), model=Spring(spoilt))
    assert result.reasons[0] == "done"
    assert result.reasons[1].endswith(f"{key} became NaN or infinite")
    assert result.energies[0] == athanor.evaluate(crystals(), model=Spring()).energies[0]


def test_sizes_of_one_may_be_missing_and_narrow_floats_are_widened() -> None:
    expected = athanor.evaluate(crystals(), model=Spring()).energies
    for change in (lambda v: v.flatten(), lambda v: v.unsqueeze(-1)):
        assert athanor.evaluate(crystals(), model=Spring(of("energy", change))).energies == expected
    single = athanor.evaluate(crystals(), model=Spring(of("energy", lambda v: v.float()))).energies
    assert single == pytest.approx(expected, rel=1e-6)
