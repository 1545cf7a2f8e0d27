"""Criteria: what they measure, how they combine, what they refuse."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.dynamics import FIRE, ConvergenceHook
from athanor.dynamics.arguments import as_convergence_hook
from athanor.dynamics.convergence import ConvergenceCriterion
from athanor.errors import InputError, MissingFieldError
from athanor.hooks.context import DynamicsContext
from athanor.hooks.stages import DynamicsStage
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks


def batch_with(forces_of_each, **system_fields):
    systems = []
    for forces in forces_of_each:
        forces = torch.tensor(forces, dtype=torch.float64)
        systems.append(
            AtomicData(
                positions=torch.arange(3.0 * len(forces), dtype=torch.float64).reshape(-1, 3),
                atomic_numbers=torch.ones(len(forces), dtype=torch.long),
                forces=forces,
            )
        )
    batch = Batch.from_data_list(systems)
    for name, value in system_fields.items():
        batch.set_field(name, value)
    return batch


def test_threshold_is_inclusive_and_single_atoms_are_systems():
    batch = batch_with([[[0.03, 0.04, 0.0]], [[0.0, 0.0, 0.06]]])
    assert ConvergenceHook.from_fmax(0.05).evaluate(batch).tolist() == [0]
    assert ConvergenceHook.from_fmax(0.01).evaluate(batch) is None


def test_largest_atom_counts_and_fixed_atoms_do_not():
    batch = batch_with([[[1.0, 0, 0], [0.01, 0, 0]], [[0.01, 0, 0], [0.02, 0, 0]]])
    assert ConvergenceHook().evaluate(batch).tolist() == [1]
    batch.set_field("fixed", torch.tensor([True, False, False, False]))
    assert ConvergenceHook().evaluate(batch).tolist() == [0, 1]


def test_stress_is_compared_with_the_target_pressure():
    stress = -0.01 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    cell = 5 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    batch = batch_with([[[0.0, 0, 0]]] * 2, cell=cell, pbc=torch.ones(2, 3, dtype=torch.bool), stress=stress)
    hook = ConvergenceHook.from_fmax_and_smax(0.05, 0.001)
    assert hook.evaluate(batch) is None
    assert hook.evaluate(batch, pressure=0.01).tolist() == [0, 1]
    assert hook.evaluate(batch, pressure=torch.tensor([0.01, 0.0])).tolist() == [0]


def test_a_slab_under_pressure_converges_without_the_direction_that_is_not_periodic():
    stress = torch.diag(torch.tensor([-0.01, -0.01, 0.0], dtype=torch.float64)).repeat(2, 1, 1)
    cell = 5 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    pbc = torch.tensor([[True, True, False], [True, True, True]])
    batch = batch_with([[[0.0, 0, 0]]] * 2, cell=cell, pbc=pbc, stress=stress)
    assert ConvergenceHook.from_fmax_and_smax(0.05, 0.001).evaluate(batch, pressure=0.01).tolist() == [0]


def test_all_criteria_must_hold_and_forms_are_equal():
    batch = batch_with([[[0.01, 0, 0]], [[0.01, 0, 0]]], energy=torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    both = ConvergenceHook(
        [ConvergenceCriterion("forces", 0.05, reduce_op="norm"), {"key": "energy", "threshold": 2.0}]
    )
    assert both.num_criteria == 2
    assert both.evaluate(batch).tolist() == [0]
    custom = ConvergenceHook({"key": "energy", "custom_op": lambda energy: energy[:, 0] > 2})
    assert custom.evaluate(batch).tolist() == [1]


def test_as_a_hook_it_migrates_status():
    batch = batch_with([[[0.01, 0, 0]], [[9.0, 0, 0]]], status=torch.zeros(2, 1, dtype=torch.long))
    ctx = DynamicsContext(batch=batch)
    ConvergenceHook.from_fmax(0.05)(ctx, DynamicsStage.AFTER_STEP)
    assert batch.status.flatten().tolist() == [0, 0]
    ConvergenceHook.from_fmax(0.05, source_status=0, target_status=3)(ctx, DynamicsStage.AFTER_STEP)
    assert batch.status.flatten().tolist() == [3, 0]


def test_refusals():
    with pytest.raises(TypeError, match="int"):
        ConvergenceHook(3)
    with pytest.raises(InputError, match="reduce_op"):
        ConvergenceCriterion("forces", 1.0, reduce_op="median")
    with pytest.raises(InputError, match="tolerance"):
        ConvergenceHook({"key": "forces", "tolerance": 1.0})
    with pytest.raises(MissingFieldError, match="`stress` is missing"):
        ConvergenceHook.from_fmax_and_smax(1.0, 1.0).evaluate(batch_with([[[0.0, 0, 0]]]))


def test_from_forces_is_from_fmax_with_a_threshold_of_your_own() -> None:
    batch = batch_with([[[0.3, 0.0, 0.4]], [[0.0, 0.0, 0.51]]])
    assert ConvergenceHook.from_forces(0.5).mask(batch).tolist() == [True, False]
    assert ConvergenceHook.from_forces(0.5).criteria == ConvergenceHook.from_fmax(0.5).criteria


@pytest.mark.parametrize(
    "verdict",
    [lambda f: f[:, 0] < 1, lambda f: f.norm() < 1, lambda f: torch.ones(2), lambda f: True],
    ids=["one per atom", "one for all", "numbers", "no tensor"],
)
def test_a_verdict_is_one_bool_for_each_system(verdict):
    batch = batch_with([[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [[0.5, 0.0, 0.0]]])
    with pytest.raises(InputError, match="one entry for each of 2 systems"):
        ConvergenceCriterion("forces", custom_op=verdict).evaluate(batch)


@pytest.mark.parametrize("dims", [0, -2, (0, 1)])
def test_a_reduction_that_joins_systems_is_refused(dims):
    batch = batch_with([[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [[0.5, 0.0, 0.0]]])
    with pytest.raises(InputError, match="joins systems"):
        ConvergenceCriterion("forces", 1.0, reduce_dims=dims, reduce_op="norm").evaluate(batch)


def test_when_a_system_is_judged_does_not_depend_on_when_it_joined():
    def relax():
        criteria = {"key": "forces", "threshold": 0.01, "reduce_op": "norm"}
        hook = ConvergenceHook(criteria, frequency=4)
        return with_neighbor_hooks(FIRE(argon_model(), 1.0, mass_scale="mean", convergence_hook=hook))

    def systems(*numbers):
        batch = Batch.from_data_list([argon_crystal(2, number) for number in numbers])
        batch.system_id = torch.tensor(numbers)[:, None]
        batch.velocities.zero_()
        return batch

    engine, batch, alone = relax(), systems(1), systems(2)
    engine.run(batch, 2)
    batch.append(systems(2))
    engine.run(batch, 100)
    relax().run(alone, 100)
    assert int(alone.step) % 4 == 1
    assert int(batch.step[1]) == int(alone.step)
    assert torch.equal(batch[1].positions, alone[0].positions)


class Judge:
    """A criterion of somebody else's class."""

    def __init__(self, verdict):
        self.verdict = verdict

    def evaluate(self, batch):
        return self.verdict


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (torch.tensor([True, False]), [True, False]),
        (torch.tensor([[False], [True]]), [False, True]),
        (torch.tensor([1]), [False, True]),
        (None, [False, False]),
    ],
)
def test_criteria_of_other_classes_are_taken_by_what_they_can_do(verdict, expected):
    batch = batch_with([[[0.01, 0, 0]], [[0.01, 0, 0]]])
    hook = ConvergenceHook([Judge(verdict), {"key": "forces", "threshold": 1.0, "reduce_op": "norm"}])
    assert hook.mask(batch).tolist() == expected
    assert not hook.works_on_part
    assert repr(hook) == "ConvergenceHook(Judge, forces:norm <= 1)"
    assert as_convergence_hook(Judge(verdict)).mask(batch).tolist() == expected


def test_a_criterion_may_be_any_object_with_the_attributes_of_one():
    batch = batch_with([[[0.1, 0, 0]], [[0.01, 0, 0]]])
    given = SimpleNamespace(key="forces", threshold=0.05, reduce_op="norm", note="mine")
    assert ConvergenceHook(given).criteria == ConvergenceHook.from_fmax(0.05).criteria
    assert ConvergenceHook(given).mask(batch).tolist() == [False, True]


def test_a_verdict_that_is_none_is_refused_by_name():
    batch = batch_with([[[0.1, 0, 0]], [[0.01, 0, 0]]])
    for verdict in (torch.tensor([0.5, 1.0]), torch.tensor([True]), "yes"):
        with pytest.raises(InputError, match=r"`evaluate` of Judge returned .* one entry for each of 2 systems"):
            ConvergenceHook(Judge(verdict)).mask(batch)
    with pytest.raises(TypeError, match="criteria hold a type"):
        ConvergenceHook(Judge)


def test_a_largest_force_in_short():
    batch = batch_with([[[0.03, 0.04, 0.0]], [[0.0, 0.0, 0.06]]], energy=torch.tensor([[1.0], [-1.0]]).double())
    assert ConvergenceHook(fmax=0.05).num_criteria == as_convergence_hook({"fmax": 0.05}).num_criteria == 1
    both = ConvergenceHook({"key": "energy", "threshold": 0.0}, fmax=0.06)
    assert both.num_criteria == 2
    assert both.evaluate_mask(batch).tolist() == [False, True]
    with pytest.raises(InputError, match="fmax"):
        ConvergenceHook(fmax=-1.0)


def test_among_the_hooks_it_is_the_criterion_of_its_engine():
    engine = with_neighbor_hooks(FIRE(argon_model(), dt=0.5, hooks=[ConvergenceHook(fmax=0.02)]))
    batch = engine.run(Batch.from_data_list([argon_crystal(2, k) for k in range(2)]), 300)
    assert int(batch.step.max()) < 300
    assert float(batch.forces.norm(dim=1).max()) <= 0.02
    with pytest.raises(InputError, match="the engine has others"):
        engine.register_hook(ConvergenceHook())
    other = FIRE(engine.model, dt=0.5, n_steps=3)
    with pytest.raises(InputError, match="a fused run takes them from its stages"):
        (engine + other).register_hook(ConvergenceHook())
    (engine + other).register_hook(ConvergenceHook(None, 0, 1))
