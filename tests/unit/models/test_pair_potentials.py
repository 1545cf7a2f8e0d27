"""Morse, Buckingham, ZBL and pair functions: closed forms, parameters by pairs of elements, and their messages."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch

import athanor.models
from athanor import units
from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError, ModelOutputError
from athanor.models.buckingham import BuckinghamModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.morse import MorseModelWrapper
from athanor.models.pair_function import PairFunctionModelWrapper
from athanor.models.zbl import ZBLModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.model_contract import evaluate
from athanor.testing.systems import fcc_crystal, structure


def pair(distance: float, numbers: tuple[int, int] = (18, 18)) -> Any:
    return structure(torch.tensor([[0.0, 0.0, 0.0], [0.0, distance, 0.0]], dtype=torch.float64), numbers)


def energies(model: Any, *systems: Any) -> list[float]:
    return [float(found["energy"]) for found in evaluate(model, list(systems), ["energy"])]


def test_morse() -> None:
    def bare(r: float, depth: float = 0.3, steepness: float = 1.4, distance: float = 2.8) -> float:
        return depth * ((1.0 - math.exp(-steepness * (r - distance))) ** 2 - 1.0)

    distances = (1.5, 2.8, 4.0, 5.9, 6.0)
    model = MorseModelWrapper(0.3, 1.4, 2.8, 6.0, shift=True)
    assert energies(model, *map(pair, distances)) == pytest.approx(
        [bare(r) - bare(6.0) for r in distances], rel=1e-12, abs=1e-15
    )
    (at_minimum,) = evaluate(MorseModelWrapper(0.3, 1.4, 2.8, 6.0), [pair(2.8)], ["energy", "forces"])
    assert float(at_minimum["energy"]) == pytest.approx(-0.3, rel=1e-14)
    assert float(at_minimum["forces"].abs().max()) < 1e-15
    mixed = MorseModelWrapper({"Al-Ni": 0.4, "Ni-Ni": 0.5, (13, "Al"): 0.2}, 1.4, 2.8, 6.0)
    found = energies(mixed, pair(3.0, (13, 28)), pair(3.0, (28, 13)), pair(3.0, (28, 28)), pair(3.0, (13, 13)))
    assert found == pytest.approx([bare(3.0, depth=depth) for depth in (0.4, 0.4, 0.5, 0.2)], rel=1e-13)
    assert mixed.model_card.elements == {13, 28}


def test_buckingham() -> None:
    model = BuckinghamModelWrapper(1400.0, {"O-O": 0.3}, 28.0, 9.0, switch_width=2.0)
    bare = 1400.0 * math.exp(-8.0 / 0.3) - 28.0 / 8.0**6
    assert energies(model, pair(8.0, (8, 8))) == pytest.approx([0.5 * bare], rel=1e-12)
    assert energies(model, pair(2.0, (8, 8))) == pytest.approx([1400.0 * math.exp(-2.0 / 0.3) - 28.0 / 64.0], rel=1e-13)


def test_zbl_is_a_screened_coulomb_repulsion_and_ends_smoothly() -> None:
    model = ZBLModelWrapper(inner=1.0, outer=2.0)
    length = 0.4685 / (6**0.23 + 14**0.23)

    def bare(r: float) -> float:
        terms = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
        return units.COULOMB_CONSTANT * 84.0 / r * sum(c * math.exp(-d * r / length) for c, d in terms)

    near = energies(model, *(pair(r, (14, 6)) for r in (0.1, 0.4, 0.9)))
    constant = near[0] - bare(0.1)
    assert near == pytest.approx([bare(r) + constant for r in (0.1, 0.4, 0.9)], rel=1e-12)
    assert constant < 0.0
    last = energies(model, *(pair(2.0 - step, (14, 6)) for step in (0.0, 1e-3, 2e-3, 4e-3)))
    assert last[0] == 0.0
    # energy, slope and curvature vanish, so that the energy falls as the third power of what is left
    assert [last[2] / last[1], last[3] / last[2]] == pytest.approx([8.0, 8.0], rel=0.02)
    table = model._tables.on(torch.device("cpu"))["table"]
    table[..., 4] *= 1.01  # the mutant
    mutant = energies(model, pair(2.0 - 1e-3, (14, 6)), pair(2.0 - 2e-3, (14, 6)))
    assert mutant[1] / mutant[0] != pytest.approx(8.0, rel=0.02)


def test_at_short_distance_the_repulsion_is_that_of_bare_nuclei() -> None:
    (energy,) = energies(ZBLModelWrapper(1.0, 2.0), pair(1e-5, (2, 2)))
    assert energy == pytest.approx(4.0 * units.COULOMB_CONSTANT / 1e-5, rel=1e-3)


def lennard_jones(r: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    sixth = (3.4 / r) ** 6
    return 4.0 * 0.5 * sixth * (sixth - 1.0)


@pytest.mark.parametrize("half_list", [False, True])
def test_a_function_gives_what_a_kernel_gives_to_the_second_derivative(half_list: bool) -> None:
    crystal = fcc_crystal(3.8, jitter=0.1)
    ours = PairFunctionModelWrapper(lennard_jones, 7.0, 1.0, half_list=half_list)
    kernel = LennardJonesModelWrapper(0.5, 3.4, 7.0, 1.0)
    (one,), (other,) = (evaluate(model, [crystal], ["energy", "forces", "stress"]) for model in (ours, kernel))
    for key, value in other.items():
        torch.testing.assert_close(one[key], value, rtol=1e-11, atol=1e-12)
    (one,), (other,) = (athanor.models.hessian(model, crystal, step=None) for model in (ours, kernel))
    assert float(other.abs().max()) > 1.0
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_parameters_of_a_function_are_fitted_to_forces() -> None:
    class Depth(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depth = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

        def forward(self, r: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.depth / 0.5 * lennard_jones(r, first, second)

    model = PairFunctionModelWrapper(Depth(), 7.0, 1.0).train()
    assert [name for name, _ in model.named_parameters()] == ["function.depth"]
    batch = Batch.from_data_list([fcc_crystal(3.8, jitter=0.1)])
    compute_neighbors(batch, 7.0)
    target = LennardJonesModelWrapper(0.5, 3.4, 7.0, 1.0)(batch)["forces"]
    (model(batch)["forces"] - target).square().sum().backward()
    depth = model.function.depth
    assert depth.grad is not None
    expected = 2.0 * (0.2 / 0.5 - 1.0) / 0.5 * float(target.square().sum())
    assert float(depth.grad) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda r, a, b: r.sum(), r"`<lambda>`, returned a tensor of shape \(\) and dtype torch.float64 for 2 pairs"),
        (lambda r, a, b: None, "returned None for 2 pairs; return the energy of each pair, a float tensor"),
        (lambda r, a, b: a, r"a tensor of shape \(2,\) and dtype torch.int64"),
    ],
)
def test_what_a_function_returns_is_checked(returned: Any, text: str) -> None:
    with pytest.raises(ModelOutputError, match=text):
        energies(PairFunctionModelWrapper(returned, 5.0), pair(3.0))


def test_a_function_of_nothing_has_no_forces() -> None:
    model = PairFunctionModelWrapper(lambda r, a, b: torch.ones_like(r), 5.0)
    assert energies(model, pair(3.0)) == [1.0]
    with pytest.raises(ContractError, match="not attached"):
        evaluate(model, [pair(3.0)], ["forces"])
    with pytest.raises(ContractError, match="`function` is 3; pass a function"):
        PairFunctionModelWrapper(3, 5.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no parameters for Ar \(18\)"):
        energies(PairFunctionModelWrapper(lennard_jones, 5.0, elements=["Kr"]), pair(3.0))


@pytest.mark.parametrize(
    ("depth", "text"),
    [
        ({"Al-Ni": 1.0, "Ni-Ni": 1.0}, "`depth` has nothing for Al-Al. Give a number for each pair"),
        ({"Al-Ni": 1.0, "Ni-Al": 1.0}, "`depth` gives Al-Ni twice"),
        ({"AlNi": 1.0}, "`depth` has the key 'AlNi'; name two elements"),
        ({"Al-Nickel": 1.0}, "`Nickel` is not the symbol"),
        ({"Al-Al": "deep"}, r"`depth` for Al-Al is 'deep'; it must be a finite number, not negative \(eV\)"),
        ({}, "`depth` names no pair of elements"),
        (-1.0, "`depth` is -1.0; it must be a finite number, not negative"),
        (float("nan"), "`depth` is nan"),
        ({"Al-Al": 1.0}, "`depth` and `distance` name different elements"),
    ],
)
def test_wrong_parameters_of_pairs_are_refused(depth: Any, text: str) -> None:
    distance = {"Ni-Ni": 2.0} if text.endswith("different elements") else 2.0
    with pytest.raises(InputError, match=text):
        MorseModelWrapper(depth, 1.4, distance, 6.0)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: MorseModelWrapper(1.0, 0.0, 2.0, 6.0), "`steepness` is 0.0; it must be a finite number, positive"),
        (lambda: BuckinghamModelWrapper(1.0, 0.0, 2.0, 6.0), "`length` is 0.0; it must be a finite number, positive"),
        (lambda: BuckinghamModelWrapper(1.0, 1.0, 2.0, -6.0), "`cutoff` is -6.0 Å"),
        (lambda: ZBLModelWrapper(2.0, 1.0), "`inner` is 2.0 Å and `outer` 1.0 Å; they must be 0 <= inner < outer"),
        (lambda: ZBLModelWrapper(-1.0, 1.0), "`inner` is -1.0 Å"),
        (lambda: ZBLModelWrapper(1.0, 2.0, coulomb_constant=0.0), "`coulomb_constant` is 0.0; it must be a positive"),
        (lambda: PairFunctionModelWrapper(lennard_jones, 2.0, 3.0), "`switch_width` is 3.0 Å, more than `cutoff`"),
    ],
)
def test_numbers_out_of_range_are_refused(build: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()


def test_models_are_copied_and_their_parameters_stand() -> None:
    model = athanor.models.get("ZBL", inner=1, outer=2)
    reference = energies(model, pair(0.7))
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.float()):
        assert energies(clone, pair(0.7)) == reference
    for name in ("inner", "outer", "cutoff"):
        with pytest.raises(InputError, match=f"`{name}` of a ZBLModelWrapper can not be changed"):
            setattr(model, name, 1.5)
