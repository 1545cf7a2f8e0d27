"""`athanor.models.hessian`: every model has one, by differences; where autograd can, both ways agree."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk

import athanor.models
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ArgumentError, InputError, ModelOutputError, NotAvailableError
from athanor.models import hessian, second_derivatives
from athanor.models.chgnet import CHGNetWrapper
from athanor.models.demo import build_demo_model
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.dynamics_contract import argon_crystal
from athanor.testing.systems import moved, standard_systems, structure

EPSILON, SIGMA = 0.0104, 3.4


def argon(**options) -> LennardJonesModelWrapper:
    return LennardJonesModelWrapper(epsilon=EPSILON, sigma=SIGMA, cutoff=8.5, **options)


def pair(distance: float, dtype: torch.dtype = torch.float64) -> AtomicData:
    return structure(torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=dtype), [18, 18])


def check_of_a_pair(found: torch.Tensor, distance: float) -> None:
    """Along the bond the curvature is that of the formula, across it the slope over the distance."""
    ratio = SIGMA / distance
    slope = 4 * EPSILON * (-12 * ratio**12 + 6 * ratio**6) / distance
    curvature = 4 * EPSILON * (156 * ratio**12 - 42 * ratio**6) / distance**2
    expected = torch.diag(torch.tensor([curvature, slope / distance, slope / distance], dtype=torch.float64))
    for i in range(2):
        for j in range(2):
            torch.testing.assert_close(found[i, :, j, :], expected if i == j else -expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("distance", [3.6, 3.9, 4.7])
def test_that_of_a_pair_is_the_formula(distance: float) -> None:
    check_of_a_pair(hessian(argon(), pair(distance), step=1e-3)[0], distance)


@pytest.mark.parametrize("broken", ["sign", "one-sided"])
def test_broken_twins_are_not_the_formula(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = second_derivatives._evaluate

    def wrong(model, batch, name):
        forces = evaluate(model, batch, name)
        if broken == "sign":
            return -forces
        forces[2:4] = evaluate(model, Batch.from_data_list([pair(3.6)]), name)  # not displaced the other way
        return forces

    monkeypatch.setattr(second_derivatives, "_evaluate", wrong)
    with pytest.raises(AssertionError):
        check_of_a_pair(hessian(argon(), pair(3.6), step=1e-3)[0], 3.6)


def test_each_system_has_its_own_and_none_depends_on_the_batches() -> None:
    crystal = AtomicData.from_atoms(bulk("Ar", "fcc", a=5.2, cubic=True), dtype=torch.float64)
    batch = Batch.from_data_list([pair(3.7), crystal, pair(3.9), structure(torch.zeros(1, 3).double(), [18])])
    before = {name: value.clone() for name, value in batch}
    together = hessian(argon(), batch)
    assert [tuple(each.shape) for each in together] == [(n, 3, n, 3) for n in (2, 4, 2, 1)]
    for max_atoms in (1, 7, 10**6):
        for one, other in zip(together, hessian(argon(), batch, max_atoms=max_atoms), strict=True):
            assert torch.equal(one, other)
    for number, one in enumerate(together):
        assert torch.equal(hessian(argon(), batch.get_data(number))[0], one)
    assert {name for name, _ in batch} == set(before)
    assert all(torch.equal(value, before[name]) for name, value in batch)
    assert batch.pair_list is None
    assert not together[3].any()
    torch.testing.assert_close(together[1].sum(2), torch.zeros(4, 3, 3).double(), rtol=0, atol=1e-9)


def test_the_model_is_left_as_it_was_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = argon()
    model.model_config.active_outputs = {"energy", "stress"}
    hessian(model, pair(3.8))
    monkeypatch.setattr(type(model), "adapt_output", lambda *_: {"energy": None})
    with pytest.raises(ModelOutputError, match="returned None for `energy`"):
        hessian(model, pair(3.8), step=None)
    assert model.model_config.active_outputs == {"energy", "stress"}


def test_lennard_jones_differentiated_twice_agrees_with_differences_of_its_forces() -> None:
    for system in (pair(3.8), argon_crystal(1, 3)):
        model = argon(switch_width=1.0)
        exact, differences = hessian(model, system, step=None)[0], hessian(model, system, step=1e-3)[0]
        torch.testing.assert_close(exact, differences, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_single_precision_stays_and_costs_no_digits() -> None:
    found = hessian(argon(), pair(3.8, torch.float32))[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), hessian(argon(), pair(3.8))[0], rtol=1e-5, atol=1e-7)


def test_both_ways_agree_for_a_network() -> None:
    model = build_demo_model(hidden_dim=8).double()
    cluster = standard_systems()["cluster"]  # away from the origin, where the model is all but singular
    away = torch.tensor([2.0, 3.0, 4.0])
    batch = Batch.from_data_list([moved(each, each.positions + away) for each in (cluster, pair(3.0))])
    exact, differences = hessian(model, batch, step=None), hessian(model, batch, step=1e-4)
    for one, other in zip(exact, differences, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(one.abs().max()))
        assert not one.requires_grad
    with torch.no_grad():
        assert torch.equal(hessian(model, batch, step=None)[0], exact[0])


@pytest.mark.chgnet
def test_both_ways_agree_for_chgnet_where_the_step_is_small_enough() -> None:
    """CHGNet is rough: over 0.01 Å, as phonons are computed, silicon curves half as strongly again as at its sites."""
    model = CHGNetWrapper.from_checkpoint(dtype=torch.float64)
    silicon = AtomicData.from_atoms(bulk("Si"), dtype=torch.float64)
    salt = AtomicData.from_atoms(bulk("NaCl", "rocksalt", a=5.64), dtype=torch.float64)
    batch = Batch.from_data_list([silicon, salt])
    exact = hessian(model, batch, step=None)
    for one, other in zip(exact, hessian(model, batch, step=1e-5), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5)
    assert float(exact[0][0, 0, 0, 0]) == pytest.approx(7.33, abs=0.01)
    assert float(hessian(model, batch)[0][0, 0, 0, 0]) == pytest.approx(9.98, abs=0.01)


@pytest.mark.parametrize("step", [0.0, -0.1, float("nan"), float("inf"), "0.1", True])
def test_a_step_that_is_none_is_refused(step) -> None:
    with pytest.raises(InputError, match="`step` is"):
        hessian(argon(), pair(3.8), step=step)


def test_what_can_not_work_says_so() -> None:
    model = build_demo_model(hidden_dim=8)
    model.model_config = athanor.models.ModelConfig(outputs={"energy"})
    with pytest.raises(NotAvailableError, match="computes no forces"):
        hessian(model, pair(3.8))
    with pytest.raises(ArgumentError, match="`data` is a list"):
        hessian(argon(), [pair(3.8)])
    with pytest.raises(InputError, match="max_atoms"):
        hessian(argon(), pair(3.8), max_atoms=0)
