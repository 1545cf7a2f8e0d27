"""Systems that break down are set aside with their reason; the others do not notice."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import (
    NVE,
    ConvergenceHook,
    DynamicsStage,
    FailureCode,
    FIREVariableCell,
    FusedStage,
    describe_failure,
    driver,
)
from athanor.dynamics.hooks import NaNDetectorHook
from athanor.dynamics.last_good import LastGood
from athanor.dynamics.quarantine import Quarantine
from athanor.errors import NonFiniteError, SimulationError
from athanor.testing.dynamics_contract import BlowUp, argon_cluster, argon_crystal, argon_model, with_neighbor_hooks


def two_systems():
    return Batch.from_data_list([argon_crystal(2, 3), argon_crystal(2, 4)])


def test_failed_system_returns_to_its_last_good_state():
    good = with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(two_systems(), 4)
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[BlowUp(4, 4)]))
    batch = engine.run(two_systems(), 9)
    for name in ("positions", "velocities", "forces", "energy", "cell"):
        assert torch.equal(batch.get_data(1)[name], good.get_data(1)[name]), name
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.POSITIONS_NOT_FINITE]
    assert batch.failure_step.flatten().tolist() == [-1, 5]
    assert batch.status.flatten().tolist() == [0, 1]
    assert batch.step.flatten().tolist() == [9, 4]
    assert "NaN" in describe_failure(int(batch.failure_code[1]))


def test_run_ends_when_every_system_failed():
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[BlowUp(3, 1), BlowUp(4, 2)]))
    engine.run(two_systems(), 50)
    assert engine.step_count == 3


def test_fused_stage_sets_aside_from_any_stage():
    model = argon_model()
    fused = FusedStage([(0, NVE(model, dt=2.0, n_steps=3)), (1, NVE(model, dt=2.0, n_steps=3))], hooks=[BlowUp(4, 4)])
    batch = with_neighbor_hooks(fused).run(two_systems())
    assert batch.status.flatten().tolist() == [2, 2]
    assert batch.failure_code.flatten().tolist() == [0, 1]


def test_atoms_that_fly_apart_symmetrically_are_found_although_their_sum_stays():
    class Apart:
        frequency, stage = 1, DynamicsStage.AFTER_PRE_UPDATE

        def __call__(self, ctx, stage):
            if ctx.step_count == 2:
                ctx.batch.positions[0] += 1e12
                ctx.batch.positions[1] -= 1e12

    model = argon_model()
    batch = Batch.from_data_list([argon_cluster(5, 1), argon_cluster(6, 2)])
    with_neighbor_hooks(NVE(model, dt=1.0, hooks=[Apart()])).run(batch, 5)
    assert batch.failure_code.flatten().tolist() == [FailureCode.POSITIONS_NOT_FINITE, 0]
    assert batch.step.flatten().tolist() == [2, 5]


def test_unknown_element_raises_on_request():
    model = with_card(argon_model(), elements=frozenset({18}))
    stranger = argon_cluster(4, 8)
    stranger.atomic_numbers[2] = 10
    engine = with_neighbor_hooks(NVE(model, dt=1.0, on_error="raise"))
    with pytest.raises(SimulationError, match=r"system_id 8 .* element"):
        engine.run(Batch.from_data_list([argon_cluster(5, 1), stranger]), 3)


def test_a_label_that_only_one_structure_brings_is_no_failure_of_the_other():
    labelled, plain = argon_crystal(2, 3), argon_crystal(2, 4)
    labelled.stress = torch.zeros(1, 3, 3, dtype=torch.float64)  # of another program; NaN for the other one in a batch
    batch = with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(Batch.from_data_list([labelled, plain]), 3)
    alone = with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(Batch.from_data_list([plain]), 3)
    assert batch.failure_code.flatten().tolist() == [0, 0]
    assert torch.equal(batch.get_data(1).positions, alone.positions)


@pytest.mark.parametrize("raising", ["on_error", "hook"])
def test_raising_names_system_and_step(raising):
    engine = NVE(argon_model(), dt=2.0, on_error="raise" if raising == "on_error" else "quarantine")
    with_neighbor_hooks(engine)
    engine.register_hook(BlowUp(4, 2))
    if raising == "hook":
        engine.register_hook(NaNDetectorHook(extra_keys=["positions"]))
    with pytest.raises(NonFiniteError, match="4"):
        engine.run(two_systems(), 5)


def with_card(model, **changes):
    model.model_card = dataclasses.replace(model.model_card, **changes)
    return model


def test_unknown_element_is_set_aside_before_the_first_forward():
    model = with_card(argon_model(), elements=frozenset({18}))
    stranger = argon_cluster(4, 8)
    stranger.atomic_numbers[2] = 10
    batch = Batch.from_data_list([argon_cluster(5, 1), stranger])
    with_neighbor_hooks(NVE(model, dt=1.0)).run(batch, 3)
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.ELEMENT_NOT_KNOWN]
    assert batch.step.flatten().tolist() == [3, 0]


def test_pair_below_the_floor():
    model = with_card(argon_model(), minimum_distance=2.5)
    close = argon_cluster(4, 8)
    close.positions[1] = close.positions[0] + torch.tensor([2.4, 0.0, 0.0], dtype=torch.float64)
    batch = Batch.from_data_list([argon_cluster(5, 1), close])
    with_neighbor_hooks(NVE(model, dt=1.0)).run(batch, 3)
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.ATOMS_TOO_CLOSE]
    with pytest.raises(SimulationError, match=r"closest pair 2\.40 Å"):
        with_neighbor_hooks(NVE(model, dt=1.0, on_error="raise")).run(Batch.from_data_list([close]), 3)


class LateBlowUp(BlowUp):
    """The damage comes after the engine has looked, so only the next step can find it."""

    stage = DynamicsStage.AFTER_STEP


def test_damage_at_the_end_of_a_step_is_undone_as_well():
    before = with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(two_systems(), 5)
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[LateBlowUp(4, 4)]))
    batch = engine.run(two_systems(), 9)
    for name in ("positions", "velocities", "forces", "energy", "cell"):
        assert torch.equal(batch.get_data(1)[name], before.get_data(1)[name]), name
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.POSITIONS_NOT_FINITE]
    assert torch.isfinite(batch.positions).all()


@pytest.mark.parametrize("name", ["positions", "velocities", "forces"])
@pytest.mark.parametrize("write", [lambda t: t.numpy(), lambda t: t.data, lambda t: t], ids=["numpy", "data", "torch"])
def test_what_a_hook_breaks_behind_the_back_of_torch_is_not_remembered(name, write):
    class Break:
        frequency, stage = 1, DynamicsStage.AFTER_STEP

        def __call__(self, ctx, stage):
            if ctx.step_count == 4:
                write(ctx.batch[name])[-1] = float("nan")

    before = with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(two_systems(), 5)
    batch = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Break()])).run(two_systems(), 9)
    for key in ("positions", "velocities", "forces", "energy"):
        assert torch.equal(batch.get_data(1)[key], before.get_data(1)[key]), key
    assert batch.status.flatten().tolist() == [0, 1]


class Credulous(Quarantine):
    """Broken twin: remembers whatever it sees."""

    def remember(self, newcomers=None):
        self._last_good._table.keep()


def test_last_good_state_test_can_fail(monkeypatch):
    monkeypatch.setattr(driver, "Quarantine", Credulous)
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[LateBlowUp(4, 4)]))
    assert not torch.isfinite(engine.run(two_systems(), 9).positions).all()


class Jump:
    """A hook that changes the cell or the positions of one system at one step."""

    frequency = 1
    stage = DynamicsStage.AFTER_PRE_UPDATE

    def __init__(self, what, factor):
        self.what, self.factor = what, factor

    def __call__(self, ctx, stage):
        if ctx.step_count == 2:
            rows = slice(0, 1) if self.what == "cell" else slice(0, 32)
            ctx.batch[self.what][rows] *= self.factor


@pytest.mark.parametrize(
    ("what", "factor", "code"),
    [
        ("cell", 1e-3, FailureCode.CELL_NOT_FINITE),
        ("cell", float("inf"), FailureCode.CELL_NOT_FINITE),
        ("positions", 1e9, FailureCode.POSITIONS_NOT_FINITE),
    ],
)
def test_collapse_and_explosion_are_found_although_numbers_are_finite(what, factor, code):
    engine = with_neighbor_hooks(FIREVariableCell(argon_model(), dt=0.1, hooks=[Jump(what, factor)]))
    batch = engine.run(two_systems(), 6)
    assert batch.failure_code.flatten().tolist() == [code, 0]
    assert batch.step.flatten().tolist() == [2, 6]
    alone = with_neighbor_hooks(FIREVariableCell(argon_model(), dt=0.1)).run(
        Batch.from_data_list([argon_crystal(2, 4)]), 6
    )
    assert torch.equal(batch.get_data(1).cell, alone.cell)


class Flatten(Jump):
    """Vectors in one line, whose volume is zero but for rounding."""

    def __call__(self, ctx, stage):
        if ctx.step_count == 2:
            line = torch.tensor([[1.0, 0.3, -0.7]], dtype=torch.float64)
            ctx.batch.cell[0] = self.factor * line * torch.tensor([[1.0], [1.25], [-1.5]], dtype=torch.float64)


@pytest.mark.parametrize("length", [10.0, 1e5, 1e39])
def test_a_cell_without_a_volume_is_set_aside_by_itself(length):
    engine = with_neighbor_hooks(FIREVariableCell(argon_model(), dt=0.1, hooks=[Flatten("cell", length)]))
    batch = engine.run(two_systems(), 6)
    assert batch.failure_code.flatten().tolist() == [FailureCode.CELL_NOT_FINITE, 0]
    assert batch.step.flatten().tolist() == [2, 6]


def broken_from_the_start(batch):
    """Two atoms of the second system too close to each other, and results of a script that allocated them as zeros."""
    positions = batch.positions.clone()
    first = int(batch.batch_ptr[1])
    positions[first + 1] = positions[first] + torch.tensor([0.0, 0.0, 0.8], dtype=torch.float64)
    batch.positions = positions
    batch.energy = torch.zeros(len(batch), 1, dtype=torch.float64)
    batch.forces = torch.zeros_like(positions)
    return batch


def shows_numbers_that_nobody_computed(make_engine) -> bool:
    batch = with_neighbor_hooks(make_engine()).run(broken_from_the_start(two_systems()), 3)
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.ATOMS_TOO_CLOSE]
    alone = with_neighbor_hooks(make_engine()).run(two_systems().index_select([0]), 3)
    assert torch.equal(batch.get_data(0).forces, alone.forces)
    failed = batch.batch_idx == 1
    return not (bool(batch.energy[1].isnan().all()) and bool(batch.forces[failed].isnan().all()))


def close_atoms_refused():
    return with_card(argon_model(), minimum_distance=1.0)


@pytest.mark.parametrize("custom_op", [None, lambda energy: energy[:, 0] > 1e9], ids=["part", "whole"])
@pytest.mark.parametrize("engine", [NVE, FIREVariableCell])
def test_what_was_never_computed_is_unknown(engine, custom_op, monkeypatch):
    def make():
        hook = None if custom_op is None else ConvergenceHook({"key": "energy", "custom_op": custom_op})
        return engine(close_atoms_refused(), dt=1.0, convergence_hook=hook)

    assert not shows_numbers_that_nobody_computed(make)
    monkeypatch.setattr(LastGood, "forget_results", lambda self, systems: None)  # mutant: what stood there stays
    assert shows_numbers_that_nobody_computed(make)


@pytest.mark.parametrize("allocated", [True, False])
@pytest.mark.parametrize("custom_op", [None, lambda energy: energy[:, 0] > 1e9], ids=["part", "whole"])
def test_results_of_a_system_with_an_unknown_element_are_unknown_and_given_fields_stay(custom_op, allocated):
    model = with_card(argon_model(), elements=frozenset({18}))
    stranger = argon_cluster(4, 8)
    stranger.atomic_numbers[2] = 10
    batch = Batch.from_data_list([argon_cluster(5, 1), stranger])
    if allocated:
        batch.energy, batch.forces = torch.ones(2, 1, dtype=torch.float64), torch.ones_like(batch.positions)
    hook = None if custom_op is None else ConvergenceHook({"key": "energy", "custom_op": custom_op})
    with_neighbor_hooks(NVE(model, dt=1.0, convergence_hook=hook)).run(batch, 3)
    assert batch.energy.isnan().flatten().tolist() == [False, True]
    assert batch.get_data(1).forces is None
    assert torch.equal(batch.get_data(1).positions, stranger.positions)


def test_a_system_that_fails_later_keeps_what_was_computed_for_it():
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[BlowUp(4, 4)]))
    batch = engine.run(broken_results(two_systems()), 9)
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.POSITIONS_NOT_FINITE]
    assert not batch.energy.isnan().any()
    assert not batch.forces.isnan().any()


def broken_results(batch):
    batch.energy = torch.zeros(len(batch), 1, dtype=torch.float64)
    return batch
