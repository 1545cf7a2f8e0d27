"""A step that was cut short is undone with all that it did, so that going on gives equal bits; and what a step is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import (
    FIRE,
    NPT,
    NVE,
    BaseDynamics,
    ConvergenceHook,
    FIREVariableCell,
    NPTCRescale,
    NVTLangevin,
    ramp,
)
from athanor.dynamics.driver import Driver
from athanor.dynamics.hooks import SnapshotHook
from athanor.dynamics.state import StateVariable
from athanor.errors import InputError
from athanor.hooks import WrapPeriodicHook
from athanor.hooks.stages import DynamicsStage
from athanor.sinks import HostMemory
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks


class HeavyBall(BaseDynamics):
    """An optimizer that remembers its last moves, as L-BFGS does: a ring with one slot more than it reads."""

    __needs_keys__ = frozenset({"forces"})
    __provides_keys__ = frozenset({"positions"})
    slots = 3
    newest = StateVariable(dtype=torch.long)
    moves = StateVariable("node", (slots + 1, 3), "Å", is_history=True)

    def pre_update(self, batch: Batch) -> None:
        newest = self._state.newest
        slot = (newest % (self.slots + 1))[batch.batch_idx]
        atoms = torch.arange(batch.num_nodes)
        move = 0.5 * batch.forces
        for age in range(self.slots):
            past = self._state.moves[atoms, (slot - age) % (self.slots + 1)]
            move = move + 0.2 * past / (age + 1)
        batch.positions += move
        self._state.moves[atoms, (slot + 1) % (self.slots + 1)] = move
        newest += 1


class WithoutSpareSlot(HeavyBall):
    """Mutant: the ring has no slot to spare, so that an undone step has overwritten the oldest move."""

    slots = 3
    moves = StateVariable("node", (slots, 3), "Å", is_history=True)

    def pre_update(self, batch: Batch) -> None:
        newest, size = self._state.newest, self.slots
        slot, atoms = (newest % size)[batch.batch_idx], torch.arange(batch.num_nodes)
        move = 0.5 * batch.forces
        for age in range(size):
            move = move + 0.2 * self._state.moves[atoms, (slot - age) % size] / (age + 1)
        batch.positions += move
        self._state.moves[atoms, (slot + 1) % size] = move
        newest += 1


class Assigns(BaseDynamics):
    """Exchanges the tensor of positions in every step, as users do."""

    __needs_keys__ = frozenset({"forces"})
    __provides_keys__ = frozenset({"positions"})

    def pre_update(self, batch: Batch) -> None:
        batch.positions = batch.positions + 0.5 * batch.forces


ENGINES = {
    "Assigns": lambda model: Assigns(model),
    "NVE": lambda model: NVE(model, dt=4.0),
    "NVTLangevin": lambda model: NVTLangevin(model, dt=4.0, temperature=60.0, friction=0.02),
    "FIRE": lambda model: FIRE(model, dt=0.3),
    "NPT": lambda model: NPT(model, 4.0, 60.0, 0.001, 400.0, 100.0, pressure_coupling="triclinic"),
    "NPTCRescale": lambda model: NPTCRescale(model, 4.0, ramp(60.0, 80.0, 50.0), 0.001, 400.0, 100.0),
    "FIREVariableCell": lambda model: FIREVariableCell(model, dt=0.3),
    "HeavyBall": HeavyBall,
    "fused": lambda model: FIRE(model, dt=0.3, n_steps=9) + NVTLangevin(model, 4.0, temperature=60.0, friction=0.02),
}


class Interrupt:
    """Interrupts one step at one place."""

    frequency = 1

    def __init__(self, stage: DynamicsStage, step: int) -> None:
        self.stage, self.step = stage, step

    def __call__(self, ctx: Any, stage: Any) -> None:
        if ctx.step_count == self.step:
            self.step = -1
            raise KeyboardInterrupt


def systems(*, finished: bool) -> Batch:
    batch = Batch.from_data_list([argon_crystal(2, 3), argon_cluster(9, 1), argon_crystal(2, 8)])
    batch.status = torch.tensor([[0], [99 if finished else 0], [0]])
    return batch


def run_through(make: Any, interrupt: Interrupt | None, *, finished: bool = False) -> tuple[Batch, Any]:
    """Run twelve steps; after an interruption, undo and go on with what is left."""
    engine = with_neighbor_hooks(make(argon_model()))
    engine.register_hook(WrapPeriodicHook())
    if interrupt is not None:
        engine.register_hook(interrupt)
    batch = systems(finished=finished)
    try:
        engine.run(batch, 12)
    except KeyboardInterrupt:
        engine.undo_unfinished_step(batch)
        engine.run(batch, 12 - engine.step_count)
    return batch, engine


def assert_equal_bits(one: Batch, two: Batch) -> None:
    for name in ("positions", "velocities", "forces", "energy", "cell", "step", "time", "stage_step", "status"):
        assert torch.equal(one[name].nan_to_num(7.0), two[name].nan_to_num(7.0)), name  # NaN: never computed


PLACES = ["BEFORE_STEP", "AFTER_PRE_UPDATE", "BEFORE_COMPUTE", "AFTER_COMPUTE", "AFTER_POST_UPDATE", "AFTER_STEP"]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_going_on_after_an_undone_step_gives_equal_bits(name: str, finished: bool) -> None:
    whole, engine = run_through(ENGINES[name], None, finished=finished)
    for place in PLACES:
        cut, again = run_through(ENGINES[name], Interrupt(DynamicsStage[place], 7), finished=finished)
        assert_equal_bits(whole, cut)
        assert again.step_count == engine.step_count == 12


def test_a_history_needs_a_slot_to_spare() -> None:
    interrupt = Interrupt(DynamicsStage.BEFORE_COMPUTE, 7)
    cut, whole = run_through(WithoutSpareSlot, interrupt)[0], run_through(WithoutSpareSlot, None)[0]
    with pytest.raises(AssertionError, match="positions"):
        assert_equal_bits(whole, cut)


def test_without_undoing_the_path_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "undo_unfinished_step", lambda self, batch: None)
    interrupt = Interrupt(DynamicsStage.BEFORE_COMPUTE, 7)
    with pytest.raises(AssertionError, match="positions"):
        assert_equal_bits(run_through(ENGINES["FIRE"], None)[0], run_through(ENGINES["FIRE"], interrupt)[0])


def test_a_step_is_done_before_sinks_write_it() -> None:
    """What a sink has acknowledged is never undone: the batch goes back to the frame that was written last."""
    sink, model = HostMemory(100), argon_model()
    engine = with_neighbor_hooks(FIRE(model, dt=0.3, hooks=[SnapshotHook(sink)]))
    engine.register_hook(Interrupt(DynamicsStage.AFTER_STEP, 5))
    batch = systems(finished=False)
    with pytest.raises(KeyboardInterrupt):
        engine.run(batch, 12)
    engine.undo_unfinished_step(batch)
    frame = sink.read().index_select(slice(-3, None))
    assert_equal_bits(batch, frame)
    assert int(batch.step.max()) == engine.step_count == 6


class Remembers(BaseDynamics):
    """Notes in which order a system is prepared, by what is there when its state and velocities are made."""

    __needs_keys__ = frozenset({"forces"})
    seen = StateVariable(fresh=lambda engine, batch, made: batch.dof.reshape(-1).clone())

    def temperature_at_start(self, batch: Batch) -> None:
        self.dof_in_state = self._state.seen.clone()


def test_degrees_of_freedom_come_before_state_and_state_before_velocities() -> None:
    model = argon_model()
    first, second = NVE(model, dt=1.0, n_steps=1), Remembers(model, n_steps=2)
    batch = Batch.from_data_list([argon_crystal(1, 0)])
    with_neighbor_hooks(first + second).run(batch)
    assert second.dof_in_state.tolist() == [12.0]  # not the 9 of the stage before, nor the -1 of a fresh batch


def test_state_rides_on_its_batch() -> None:
    """A smaller batch, a copy and a batch that comes back go on; a batch without state starts afresh."""
    make, model = ENGINES["FIRE"], argon_model()
    engine, batch = with_neighbor_hooks(make(model)), systems(finished=False)
    engine.run(batch, 8)
    copy, other = batch.clone(), systems(finished=False)
    engine.run(other, 8)
    engine.run(batch, 8)
    assert_equal_bits(other, copy)
    parts = copy.index_select([2]), copy.index_select([0, 1])
    for part in parts:
        engine.run(part, 8)
    for row, (part, place) in enumerate([(parts[1], 0), (parts[1], 1), (parts[0], 0)]):
        assert torch.equal(part.get_data(place).positions, batch.get_data(row).positions)


def test_a_system_that_joins_starts_afresh_whatever_its_id() -> None:
    engine, batch = with_neighbor_hooks(ENGINES["FIRE"](argon_model())), systems(finished=False)
    engine.run(batch, 8)
    batch.replace_systems(1, Batch.from_data_list([argon_crystal(1, 1)]))
    engine.run(batch, 8)
    alone = Batch.from_data_list([argon_crystal(1, 1)])
    with_neighbor_hooks(ENGINES["FIRE"](argon_model())).run(alone, 8)
    whole = run_through(ENGINES["FIRE"], None)[0]
    assert torch.equal(batch.get_data(1).positions, alone.positions)
    assert not torch.equal(whole.get_data(0).positions, batch.get_data(0).positions)  # 16 steps, not 12


class Exchanges:
    """A hook that puts another system of equal size into the batch."""

    frequency = 1

    def __init__(self, place: str, way: str) -> None:
        self.stage, self.way = DynamicsStage[place], way

    def __call__(self, ctx: Any, stage: Any) -> None:
        if self.way == "replace":
            ctx.batch.replace_systems(0, Batch.from_data_list([argon_crystal(2, 77)]))
        else:
            ctx.batch.system_id[0] = 77


@pytest.mark.parametrize("way", ["replace", "id"])
@pytest.mark.parametrize("place", ["BEFORE_STEP", "BEFORE_COMPUTE", "AFTER_STEP"])
@pytest.mark.parametrize("finished", [False, True])
def test_an_exchange_of_equal_size_inside_a_step_is_refused(place: str, way: str, finished: bool) -> None:
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Exchanges(place, way)]))
    with pytest.raises(ValueError, match=rf"A hook at {place} changed the batch by exchanging some of its 3 systems"):
        engine.run(systems(finished=finished), 2)


def test_converged_systems_that_leave_take_it_along() -> None:
    model = argon_model()
    engine = with_neighbor_hooks(FIRE(model, dt=0.3, convergence_hook=ConvergenceHook.from_fmax(0.02)))
    batch = systems(finished=False)
    while not bool(engine.step(batch)[1] is not None):
        pass
    held = engine.step(batch)[1].tolist()
    rest = batch.index_select([row for row in range(3) if row not in held])
    assert engine.step(rest)[1] is None or len(engine.step(rest)[1]) < len(rest)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("change_at", ["BEFORE_STEP", "AFTER_STEP", "AFTER_PRE_UPDATE"])
def test_changes_by_hooks_happen_once(change_at: str, finished: bool) -> None:
    """Those of a step that is undone happen when it is run again; those after a step belong to it."""

    class Pushes:
        frequency, stage = 1, DynamicsStage[change_at]

        def __call__(self, ctx: Any, stage: Any) -> None:
            ctx.batch.velocities.mul_(1.01)

    def make(model: Any) -> Any:
        return NVE(model, dt=2.0, hooks=[Pushes()])

    whole, _ = run_through(make, None, finished=finished)
    for place in PLACES:
        cut, _ = run_through(make, Interrupt(DynamicsStage[place], 7), finished=finished)
        assert_equal_bits(whole, cut)


@pytest.mark.parametrize("place", PLACES[2:-1])
def test_a_failure_in_an_undone_step_is_undone(place: str) -> None:
    class Breaks:
        frequency, stage = 1, DynamicsStage.AFTER_PRE_UPDATE

        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count == 4:
                ctx.batch.positions[ctx.batch.batch_idx == 0] = float("nan")

    batch, whole = systems(finished=True), systems(finished=True)
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Breaks()]))
    engine.register_hook(Interrupt(DynamicsStage[place], 4))
    with pytest.raises(KeyboardInterrupt):
        engine.run(batch, 8)
    engine.undo_unfinished_step(batch)
    with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(whole, 4)
    assert_equal_bits(batch, whole)
    assert not bool(batch.failure_code.any())


@pytest.mark.parametrize("place", PLACES[:-1])
def test_a_step_is_undone_after_a_system_converged(place: str) -> None:
    def make(model: Any) -> Any:
        return FIRE(model, dt=0.3, convergence_hook=ConvergenceHook.from_fmax(0.035))

    whole, engine = run_through(make, None)
    assert bool((whole.step < 12).any())
    first = int(whole.step.min())
    cut = systems(finished=False)
    engine = with_neighbor_hooks(make(argon_model()))
    engine.register_hook(WrapPeriodicHook())
    engine.register_hook(Interrupt(DynamicsStage[place], first))
    with pytest.raises(KeyboardInterrupt):
        engine.run(cut, 12)
    engine.undo_unfinished_step(cut)
    uncut = systems(finished=False)
    engine = with_neighbor_hooks(make(argon_model()))
    engine.register_hook(WrapPeriodicHook())
    engine.run(uncut, first)
    assert_equal_bits(uncut, cut)


def test_a_parameter_assigned_before_an_undone_step_holds() -> None:
    engine, batch = with_neighbor_hooks(ENGINES["NVTLangevin"](argon_model())), systems(finished=True)
    engine.run(batch, 4)
    engine.temperature = 600.0
    engine.register_hook(Interrupt(DynamicsStage.BEFORE_COMPUTE, 4))
    with pytest.raises(KeyboardInterrupt):
        engine.run(batch, 4)
    engine.undo_unfinished_step(batch)
    engine.run(batch, 4)
    other, whole = with_neighbor_hooks(ENGINES["NVTLangevin"](argon_model())), systems(finished=True)
    other.run(whole, 4)
    other.temperature = 600.0
    other.run(whole, 4)
    assert_equal_bits(whole, batch)


def test_an_interrupt_before_the_first_step_leaves_nothing_to_undo() -> None:
    engine, batch = with_neighbor_hooks(NVE(argon_model(), dt=2.0)), systems(finished=False)
    engine.register_hook(Interrupt(DynamicsStage.BEFORE_COMPUTE, 0))
    with pytest.raises(KeyboardInterrupt):
        engine.run(batch, 4)
    engine.undo_unfinished_step(batch)
    assert engine.step_count == 0
    assert torch.equal(batch.positions, systems(finished=False).positions)


def test_a_run_that_is_refused_does_not_touch_a_repaired_batch() -> None:
    """What an engine kept of a failed run is let go when the next one begins, even if that one is refused."""
    engine, batch = with_neighbor_hooks(NVE(argon_model(), dt=2.0)), systems(finished=True)
    engine.register_hook(Interrupt(DynamicsStage.BEFORE_COMPUTE, 2))
    with pytest.raises(KeyboardInterrupt):
        engine.run(batch, 4)
    repaired = systems(finished=True).positions
    batch.positions = repaired.clone()
    batch.system_id[1] = int(batch.system_id[0])
    with pytest.raises(InputError, match="the ids of a run differ"):
        engine.run(batch, 4)
    assert torch.equal(batch.positions, repaired)
