"""Finished systems cost nothing: the others are worked on in a batch of their own, and nobody sees a difference."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import (
    FIRE,
    NVE,
    BaseDynamics,
    ConvergenceHook,
    FIREVariableCell,
    NPTCRescale,
    NPTLangevin,
    NVTLangevin,
    NVTNoseHoover,
    working_set,
)
from athanor.dynamics.convergence import ConvergenceCriterion
from athanor.dynamics.hooks import SnapshotHook
from athanor.dynamics.state import StateVariable
from athanor.errors import InputError, NonFiniteError
from athanor.hooks import DynamicsStage
from athanor.sinks import HostMemory
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

ENGINES = {
    "NVE": lambda model, dt: NVE(model, dt=dt),
    "NVTLangevin": lambda model, dt: NVTLangevin(model, dt=dt, temperature=dt * 10.0, friction=0.02),
    "FIRE": lambda model, dt: FIRE(model, dt=dt / 20.0),
    "NVTNoseHoover": lambda model, dt: NVTNoseHoover(model, dt, dt * 10.0, thermostat_time=dt * 20.0),
    "NPTLangevin": lambda model, dt: NPTLangevin(model, dt, dt * 10.0, dt * 1e-5, 0.02, barostat_time=dt * 90.0),
    "NPTCRescale": lambda model, dt: NPTCRescale(model, dt, dt * 10.0, dt * 1e-5, dt * 90.0, dt * 20.0),
    "FIREVariableCell": lambda model, dt: FIREVariableCell(model, dt=dt / 20.0, pressure=dt * 1e-5),
}
DT = torch.tensor([3.0, 4.0, 5.0, 6.0], dtype=torch.float64)


def systems(*chosen: int) -> Batch:
    every = [argon_crystal(2, 3), argon_crystal(1, 4), argon_cluster(9, 1), argon_crystal(2, 8, strain=0.02)]
    return Batch.from_data_list([every[number].clone() for number in chosen])


class Looks:
    """A hook of the user, who has never heard of parts: it sees the whole batch, in its order."""

    stage = DynamicsStage.AFTER_STEP

    def __init__(self, frequency: int) -> None:
        self.frequency, self.seen = frequency, []

    def __call__(self, ctx: Any, stage: Any) -> None:
        self.seen.append((ctx.batch.system_id.flatten().tolist(), ctx.batch.step.flatten().tolist()))


@pytest.mark.parametrize("frequency", [1, 4, 100])
@pytest.mark.parametrize("name", ENGINES)
def test_a_system_takes_the_same_path_beside_finished_ones(name: str, frequency: int) -> None:
    """With parameters of its own, in every place, however often a hook looks."""
    batch, looks = systems(0, 1, 2, 3), Looks(frequency)
    batch.status = torch.tensor([[5], [0], [5], [0]])
    before = batch.clone()
    engine = with_neighbor_hooks(ENGINES[name](argon_model(), DT))
    engine.register_hook(looks)
    engine.run(batch, 9)
    assert looks.seen[0] == ([3, 4, 1, 8], [0, 1, 0, 1])
    for row in (1, 3):
        alone = systems(row)
        with_neighbor_hooks(ENGINES[name](argon_model(), DT[row : row + 1])).run(alone, 9)
        for field in ("positions", "velocities", "forces", "energy", "cell", "step", "time"):
            if field in alone:
                assert torch.equal(batch.get_data(row)[field], alone.get_data(0)[field]), field
    for row in (0, 2):
        for field in ("positions", "velocities", "step"):
            assert torch.equal(batch.get_data(row)[field], before.get_data(row).get(field, batch.get_data(row)[field]))


def test_the_part_is_made_when_the_active_systems_change(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(working_set.Part):
        def __init__(self, whole: Batch, chosen: torch.Tensor) -> None:
            super().__init__(whole, chosen)
            made.append(chosen.tolist())

    monkeypatch.setattr(working_set, "Part", Counted)
    model, batch = argon_model(), systems(0, 1, 2, 3)
    batch.status = torch.tensor([[5], [0], [0], [0]])
    engine = FIRE(model, dt=0.3, convergence_hook=ConvergenceHook.from_fmax(0.02), hooks=[Looks(1)])
    with_neighbor_hooks(engine).run(batch, 300)
    assert all(one != two for one, two in itertools.pairwise(made))
    assert len(made) <= 4


def test_hooks_that_treat_each_system_for_itself_get_the_active_ones() -> None:
    class ForEach(Looks):
        on_active = True

    batch, looks = systems(0, 1, 2, 3), ForEach(1)
    batch.status = torch.tensor([[5], [0], [0], [5]])
    with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[looks])).run(batch, 2)
    assert looks.seen == [([4, 1], [1, 1]), ([4, 1], [2, 2])]


class Kicks:
    """A hook that changes the batch: fields in place, a new one, and who is finished."""

    frequency, stage = 1, DynamicsStage.AFTER_STEP

    def __call__(self, ctx: Any, stage: Any) -> None:
        batch = ctx.batch
        if ctx.step_count == 2:
            batch.velocities[batch.batch_idx == 1] *= -1.0
            batch.charges = torch.full((batch.num_nodes,), 0.5, dtype=torch.float64)
        if ctx.step_count == 4:
            batch.status[0] = 0


def test_what_a_hook_changes_counts() -> None:
    batch, plain = systems(0, 1, 2), systems(0, 1, 2)
    for one in (batch, plain):
        one.status = torch.tensor([[5], [0], [0]])
    with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Kicks()])).run(batch, 9)
    with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(plain, 9)
    assert batch.step.flatten().tolist() == [4, 9, 9]
    assert not torch.equal(batch.get_data(1).positions, plain.get_data(1).positions)
    assert torch.equal(batch.get_data(2).positions, plain.get_data(2).positions)
    assert bool((batch.charges == 0.5).all())
    late = systems(0)
    with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(late, 4)
    assert torch.equal(batch.get_data(0).positions, late.positions)


def test_a_hook_that_says_it_observes_is_believed() -> None:
    """Mutant: it kicks all the same, and what it did to the whole batch is written over by the next step."""

    class Liar(Kicks):
        observes = True

    batch, plain = systems(0, 1, 2), systems(0, 1, 2)
    for one in (batch, plain):
        one.status = torch.tensor([[5], [0], [0]])
    with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Liar()])).run(batch, 4)
    with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(plain, 4)
    assert torch.equal(batch.get_data(1).positions, plain.get_data(1).positions)


def test_frames_hold_every_system() -> None:
    sink, batch = HostMemory(100), systems(0, 1, 2)
    batch.status = torch.tensor([[5], [0], [0]])
    with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[SnapshotHook(sink, 3)])).run(batch, 6)
    frames = sink.read()
    assert frames.system_id.flatten().tolist() == [3, 4, 1] * 2
    assert frames.step.flatten().tolist() == [0, 1, 1, 0, 4, 4]
    assert frames.get_data(0).positions.equal(batch.get_data(0).positions)


class Counts(BaseDynamics):
    """An integrator of the user, who knows nothing of masks: counts its steps, by assignment and for each atom."""

    __provides_keys__ = frozenset({"positions"})
    steps = StateVariable(dtype=torch.long)
    visits = StateVariable("node", dtype=torch.long)

    def pre_update(self, batch: Batch) -> None:
        self._state.steps = self._state.steps + 1
        self._state.visits += 1
        batch.positions = batch.positions + 0.001


def test_state_of_systems_in_another_stage_and_of_fixed_atoms_stays() -> None:
    model, batch = argon_model(), systems(0, 1, 2)
    batch.fixed = torch.arange(batch.num_nodes) == batch.num_nodes - 1
    batch.status = torch.tensor([[1], [0], [0]])
    counts = Counts(model, n_steps=3)
    with_neighbor_hooks(counts + NVE(model, dt=1.0)).run(batch, 5)
    rows = batch.state_rows(counts.key)
    assert rows["steps"].tolist() == [0, 3, 3]
    expected = torch.tensor([0, 3, 3])[batch.batch_idx]
    expected[-1] = 0
    assert torch.equal(rows["visits"], expected)
    with pytest.raises(AttributeError, match=r"The state has no `stepz`; it has visits, steps"):
        counts._state.stepz = torch.zeros(3)


class Breaks(Looks):
    """Breaks the system with an id, once."""

    stage = DynamicsStage.AFTER_PRE_UPDATE

    def __init__(self, system_id: int) -> None:
        super().__init__(1)
        self.system_id = system_id

    def __call__(self, ctx: Any, stage: Any) -> None:
        if ctx.step_count == 2:
            row = ctx.batch.system_id.flatten().tolist().index(self.system_id)
            ctx.batch.positions[ctx.batch.batch_idx == row] = float("nan")


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_time_advances_by_the_step_of_each_system_when_one_fails(shape: tuple[int, ...]) -> None:
    batch = systems(0, 1, 2, 3)
    with_neighbor_hooks(NVE(argon_model(), dt=DT.reshape(shape), hooks=[Breaks(4)])).run(batch, 5)
    assert batch.time.flatten().tolist() == [15.0, 8.0, 25.0, 30.0]


def test_an_error_names_the_place_in_the_whole_batch() -> None:
    batch = systems(0, 1, 2, 3)
    batch.status = torch.tensor([[5], [0], [0], [0]])
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Breaks(1)], on_error="raise"))
    with pytest.raises(NonFiniteError, match=r"1 of 4 systems failed: system_id 1 \(index 2\)"):
        engine.run(batch, 5)


class Drifts(BaseDynamics):
    """An integrator that never heard of state: what it knows of each system is in attributes."""

    __needs_keys__ = frozenset({"forces"})
    __provides_keys__ = frozenset({"positions"})

    def __init__(self, model: Any, speeds: torch.Tensor) -> None:
        super().__init__(model)
        self.speeds = speeds

    @property
    def time_step(self) -> torch.Tensor:
        return self.speeds

    def pre_update(self, batch: Batch) -> None:
        batch.positions += 1e-3 * self.speeds[batch.batch_idx][:, None]


def test_what_holds_a_row_for_each_system_elsewhere_gets_the_whole_batch() -> None:
    batch = systems(0, 1, 2, 3)
    batch.status = torch.tensor([[5], [0], [0], [0]])
    start = batch.positions.clone()
    with_neighbor_hooks(Drifts(argon_model(), DT)).run(batch, 2)
    moved = (batch.positions - start)[batch.batch_ptr[:-1].long(), 0]
    assert torch.allclose(moved, 2e-3 * DT * torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert batch.time.flatten().tolist() == [0.0, 8.0, 10.0, 12.0]


def test_a_criterion_may_have_a_threshold_for_each_system() -> None:
    batch, limits = systems(0, 1, 2, 3), torch.tensor([1e9, 0.0, 1e9, 0.0], dtype=torch.float64)
    energy = ConvergenceCriterion("energy", custom_op=lambda value: value[:, 0].abs() <= limits)
    with_neighbor_hooks(FIRE(argon_model(), dt=0.3, convergence_hook=ConvergenceHook(energy))).run(batch, 4)
    assert batch.step.flatten().tolist() == [1, 4, 1, 4]


@pytest.mark.parametrize("finished", [0, 5])
def test_a_custom_field_may_share_memory_with_another(finished: int) -> None:
    class Notes(Looks):
        def __call__(self, ctx: Any, stage: Any) -> None:
            if "last" not in ctx.batch:
                ctx.batch.add_key("last", [entry.positions for entry in ctx.batch.to_data_list()], level="node")
            ctx.batch.last = ctx.batch.positions  # a clone was forgotten

    batch, plain = systems(0, 1, 2), systems(0, 1, 2)
    for some in (batch, plain):
        some.status = torch.tensor([[0], [finished], [0]])
    with_neighbor_hooks(NVE(argon_model(), dt=4.0, hooks=[Notes(1)])).run(batch, 5)
    with_neighbor_hooks(NVE(argon_model(), dt=4.0)).run(plain, 5)
    assert torch.equal(batch.positions, plain.positions)


def test_a_custom_field_of_one_expanded_row_can_be_written() -> None:
    class Doubles(Looks):
        on_active = True

        def __call__(self, ctx: Any, stage: Any) -> None:
            ctx.batch.weight *= 2.0

    batch = systems(0, 1, 2)
    batch.add_key("weight", [torch.ones(1)] * 3, level="system")
    batch.weight = torch.ones(1).expand(3)
    batch.status = torch.tensor([[0], [5], [0]])
    with_neighbor_hooks(NVE(argon_model(), dt=4.0, hooks=[Doubles(1)])).run(batch, 2)
    assert batch.weight.flatten().tolist() == [4.0, 1.0, 4.0]


@pytest.mark.parametrize("stage", ["BEFORE_STEP", "AFTER_POST_UPDATE", "AFTER_STEP"])
def test_a_hook_that_changes_nothing_costs_no_evaluation(stage: str) -> None:
    class Idle(Looks):
        def __call__(self, ctx: Any, stage: Any) -> None:
            pass

    class Counted(type(argon_model())):  # type: ignore[misc]
        calls = 0

        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            Counted.calls += 1
            return super().forward(*arguments, **keywords)

    model, hook, batch = argon_model(), Idle(1), systems(0, 1, 2)
    model.__class__, hook.stage = Counted, DynamicsStage[stage]
    batch.status = torch.tensor([[0], [5], [0]])
    engine = with_neighbor_hooks(NVE(model, dt=4.0, hooks=[hook]))
    for _ in range(6):
        engine.step(batch)
    engine.run(batch, 4)
    assert Counted.calls == 11


@pytest.mark.parametrize("finished", [0, 5])
def test_a_hook_that_only_looks_sees_all_pairs(finished: int) -> None:
    class Counts(Looks):
        observes = True

        def __call__(self, ctx: Any, stage: Any) -> None:
            pairs = torch.bincount(ctx.batch.batch_idx[ctx.batch.neighbor_list[:, 0].long()])
            self.seen.append(int(pairs[0]))

    def counted(batch: Batch, statuses: list[int]) -> list[int]:
        hook = Counts(10)
        batch.velocities = 5.0 * batch.velocities
        batch.status = torch.tensor(statuses)[:, None]
        with_neighbor_hooks(NVE(argon_model(), dt=8.0, hooks=[hook])).run(batch, 41)
        return hook.seen

    alone = counted(systems(0), [0])
    assert len(set(alone)) > 1
    assert counted(systems(0, 1, 2), [0, finished, 0]) == alone


def test_removing_systems_in_a_hook_is_refused_beside_finished_ones() -> None:
    class Removes(Looks):
        def __call__(self, ctx: Any, stage: Any) -> None:
            ctx.batch.remove_systems([0])

    batch = systems(0, 1, 2)
    batch.status = torch.tensor([[0], [5], [0]])
    engine = with_neighbor_hooks(NVE(argon_model(), dt=4.0, hooks=[Removes(1)]))
    with pytest.raises(InputError, match="from 3 to 2 systems"):
        engine.run(batch, 2)
    assert batch.step.flatten().tolist() == [0, 1]


def test_a_group_that_a_hook_adds_reaches_the_model_beside_finished_systems() -> None:
    class Adds(Looks):
        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count == 0:
                ctx.batch.add_group("bonds", [torch.tensor([[0, 1]])] * len(ctx.batch))

    class Asks(Looks):
        stage, on_active = DynamicsStage.BEFORE_COMPUTE, True

        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count == 1:
                self.seen.append(ctx.batch.group("bonds").atoms.tolist())

    batch, asks = systems(0, 1, 2), Asks(1)
    batch.status = torch.tensor([[5], [0], [0]])
    with_neighbor_hooks(NVE(argon_model(), dt=4.0, hooks=[Adds(1), asks])).run(batch, 2)
    assert asks.seen == [[[0, 1], [4, 5]]]
