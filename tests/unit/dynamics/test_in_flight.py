"""Runs in flight: who is delivered where, what is told, and what becomes of a run that is interrupted."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.dynamics import (
    FIRE,
    NVE,
    ConvergenceHook,
    FusedStage,
    HostMemory,
    NVTLangevin,
    SizeAwareSampler,
    driver,
)
from athanor.dynamics.delivery import Delivery
from athanor.dynamics.driver import Driver
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.hooks import ConvergedSnapshotHook, LoggingHook, SnapshotHook
from athanor.dynamics.in_flight import InFlight
from athanor.dynamics.quarantine import Quarantine
from athanor.dynamics.working_set import WorkingSet
from athanor.errors import AthanorWarning, CapacityError, InputError, SimulationError
from athanor.hooks import DynamicsStage
from athanor.testing.dynamics_contract import BlowUp, argon_cluster, argon_model, with_neighbor_hooks


def clusters(*counts: int) -> list[AtomicData]:
    return [argon_cluster(count, number) for number, count in enumerate(counts)]


def flying(source: Any, sinks: Any = None, *, caps: dict[str, int] | None = None, **options: Any) -> BaseDynamics:
    """Four steps of dynamics for each system."""
    options.setdefault("n_steps", 4)
    sampler = SizeAwareSampler(source, **(caps or {"max_batch_size": 2}))
    options["sinks"] = [HostMemory(100)] if sinks is None else sinks
    engine = NVTLangevin(argon_model(), dt=2.0, temperature=40.0, friction=0.01, sampler=sampler, **options)
    return with_neighbor_hooks(engine)


def ids_in(*sinks: Any) -> list[int]:
    return [one for sink in sinks if len(sink) for one in sink.read().system_id.flatten().tolist()]


def test_each_system_counts_its_own_steps_and_leaves() -> None:
    engine = flying(clusters(3, 3, 3, 3, 3))
    assert engine.inflight_mode
    assert engine.run() is None
    assert engine.done
    assert engine.active_batch is None
    frames = engine.sinks[0].read()
    assert sorted(frames.system_id.flatten().tolist()) == [0, 1, 2, 3, 4]
    assert frames.step.flatten().tolist() == [4] * 5
    assert frames.time.flatten().tolist() == [8.0] * 5
    assert engine.step_count == 12
    assert engine.tally == (5, 0, 5, 0, 0, 0)
    assert engine.run() is None


def test_a_run_may_end_after_some_steps_and_go_on() -> None:
    engine = flying(clusters(3, 4, 3, 4, 3))
    batch = engine.run(n_steps=3)
    assert batch is engine.active_batch
    assert batch.step.flatten().tolist() == [3, 3]
    assert engine.run(n_steps=1) is batch
    assert batch.step.flatten().tolist() == [0, 0]  # the next two, which are evaluated
    assert not bool(batch.forces.isnan().any())
    assert sorted(ids_in(*engine.sinks)) == [0, 1]
    assert engine.run() is None
    assert sorted(ids_in(*engine.sinks)) == [0, 1, 2, 3, 4]


def test_the_model_is_called_for_newcomers_alone() -> None:
    seen: list[int] = []
    engine = flying(clusters(3, 4, 5, 6))
    engine.model.register_forward_hook(lambda model, arguments, result: seen.append(len(arguments[0])))

    class LeavesEarly:
        frequency, stage = 1, DynamicsStage.AFTER_STEP

        def __call__(self, ctx: Any, stage: Any) -> None:
            ctx.batch.status[(ctx.batch.system_id == 0) & (ctx.batch.step == 2)] = 1

    engine.register_hook(LeavesEarly())
    engine.run(n_steps=3)
    assert seen == [2, 2, 2, 1, 2]


@pytest.mark.parametrize("whole", [False, True])
def test_hooks_that_change_the_whole_batch_change_nobody_twice(whole: bool) -> None:
    """Results that such a hook changed are evaluated again when systems join, and put back."""

    class Shift:
        frequency, stage, on_active = 1, DynamicsStage.AFTER_COMPUTE, not whole

        def __call__(self, ctx: Any, stage: Any) -> None:
            ctx.batch.energy += 1.0
            ctx.batch.forces *= 1.5

    engine = flying(clusters(3, 4, 3, 5, 4), refill_frequency=3, hooks=[Shift()])
    engine.run()
    for data in engine.sinks[0].read().to_data_list():
        alone = Batch.from_data_list([clusters(3, 4, 3, 5, 4)[int(data.system_id)]])
        other = NVTLangevin(argon_model(), dt=2.0, temperature=40.0, friction=0.01, hooks=[Shift()])
        with_neighbor_hooks(other).run(alone, 4)
        assert torch.equal(data.positions, alone.positions)
        assert torch.equal(data.energy, alone.energy)


def test_failed_systems_leave_with_their_reason() -> None:
    good, bad = HostMemory(10), HostMemory(10)
    for failure_sinks in (None, [bad]):
        engine = flying(clusters(3, 3, 3), [good], failure_sinks=failure_sinks, hooks=[BlowUp(1, 2)])
        engine.run()
        assert engine.tally == (3, 0, 2, 1, 0, 0)
    assert sorted(ids_in(good)) == [0, 0, 1, 2, 2]
    frames = bad.read()
    assert (ids_in(bad), frames.failure_code.tolist(), frames.failure_step.tolist()) == ([1], [[1]], [[3]])
    assert bool(frames.positions.isfinite().all())
    assert frames.step.tolist() == [[2]]


@pytest.mark.parametrize("source", [list, iter])
def test_delivered_in_the_order_of_the_data_set(source: Any) -> None:
    engine = flying(source(clusters(9, 2, 5, 2, 7, 1)), caps={"max_atoms": 11}, ordered=True, hooks=[BlowUp(2, 1)])
    seen = []
    while engine.run(n_steps=1) is not None:
        tally = engine.tally
        assert tally.joined == tally.running + tally.finished + tally.failed + tally.held
        seen.append(tally.held)
    assert ids_in(*engine.sinks) == [0, 1, 2, 3, 4, 5]
    assert source is iter or max(seen) > 0


def test_one_that_is_set_aside_holds_nobody_up_that_waits_for_its_turn() -> None:
    systems = clusters(3, 50, 3, 3)
    engine = flying(systems, caps={"max_atoms": 20, "max_batch_size": 1}, ordered=True)
    with pytest.warns(AthanorWarning, match="Sample 1 is set aside"):
        engine.run()
    assert ids_in(*engine.sinks) == [0, 2, 3]


def test_the_first_sink_with_room_takes_them_and_full_ones_lose_nobody() -> None:
    small, other = HostMemory(1), HostMemory(2)
    engine = flying(clusters(3, 3, 3, 3, 3), [small, other])
    with pytest.raises(RuntimeError, match="no room for 1 of 2 finished systems") as caught:
        engine.run()
    assert isinstance(caught.value, CapacityError)
    assert (len(small), len(other)) == (1, 1)
    assert engine.tally == (4, 2, 2, 0, 0, 0)
    found = ids_in(small, other)
    small.zero()
    other.zero()
    assert engine.run() is None
    assert sorted(found + ids_in(small, other)) == [0, 1, 2, 3, 4]


def interrupted(**options: Any) -> list[int]:
    calls = itertools.count()

    def init(batch: Batch) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt

    engine = flying(clusters(3, 3, 3, 3, 3), init_fn=init, **options)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    engine.run()
    return sorted(ids_in(*engine.sinks))


def test_an_interruption_between_delivery_and_refill_delivers_nobody_twice() -> None:
    assert interrupted() == [0, 1, 2, 3, 4]


def test_it_would_be_noticed_if_deliveries_were_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Delivery, "_note_written", lambda self, frames: None)
    assert interrupted() != [0, 1, 2, 3, 4]


def test_ctrl_c_in_a_step_loses_nothing() -> None:
    class Interrupts:
        frequency, stage = 1, DynamicsStage.BEFORE_POST_UPDATE
        calls = 0

        def __call__(self, ctx: Any, stage: Any) -> None:
            self.calls += 1
            if self.calls in (3, 6, 10):
                raise KeyboardInterrupt

    engine, plain = flying(clusters(3, 4, 3, 5), hooks=[Interrupts()]), flying(clusters(3, 4, 3, 5))
    plain.run()
    times = 0
    while not engine.done:
        try:
            engine.run()
        except KeyboardInterrupt:
            times += 1
            engine.undo_unfinished_step(engine.active_batch)
    assert times == 3
    assert engine.step_count == plain.step_count
    frames, expected = engine.sinks[0].read(), plain.sinks[0].read()
    assert torch.equal(frames.system_id, expected.system_id)
    assert torch.equal(frames.positions, expected.positions)


@pytest.mark.parametrize("cut", range(8))
def test_ctrl_c_in_the_midst_of_a_refill_loses_nobody(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        (SizeAwareSampler, "draw_more"), (SizeAwareSampler, "joined"), (driver, "exchange_systems"),
        (WorkingSet, "take_up_joined"), (Driver, "_enter_stages"), (Driver, "_evaluate_newcomers"),
        (Quarantine, "remember"), (InFlight, "_note"),
    ]  # fmt: skip
    home, name = places[cut]
    real, plain = getattr(home, name), flying(clusters(3, 4, 3, 5, 3))
    plain.run()
    engine, state = flying(clusters(3, 4, 3, 5, 3)), ["waits"]
    refill = InFlight.refill

    def arms(self: InFlight, *arguments: Any) -> bool:
        state[0] = "cuts" if state[0] == "waits" else state[0]
        return refill(self, *arguments)

    def cuts(*arguments: Any, **options: Any) -> Any:
        if state[0] == "cuts":
            state[0] = "is over"
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(InFlight, "refill", arms)
    monkeypatch.setattr(home, name, cuts)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    engine.undo_unfinished_step(engine.active_batch)
    engine.run()
    frames, expected = engine.sinks[0].read(), plain.sinks[0].read()
    assert sorted(frames.system_id.flatten().tolist()) == [0, 1, 2, 3, 4]
    for data in frames.to_data_list():
        place = expected.system_id.flatten().tolist().index(int(data.system_id))
        assert torch.equal(data.positions, expected.get_data(place).positions), int(data.system_id)
    assert engine.tally == (5, 0, 5, 0, 0, 0)


def test_systems_that_wait_for_their_turn_survive_a_full_sink() -> None:
    sink = HostMemory(2)
    engine = flying(clusters(9, 2, 5, 2), [sink], caps={"max_atoms": 11}, ordered=True)
    with pytest.raises(CapacityError):
        engine.run()
    found = ids_in(sink)
    sink.zero()
    engine.run()
    assert found + ids_in(sink) == [0, 1, 2, 3]


def test_who_joins_is_not_for_init_to_choose() -> None:
    def other(batch: Batch) -> Batch:
        return batch.index_select([0])

    with pytest.raises(InputError, match="`init_fn` changed which systems join"):
        flying(clusters(3, 3), init_fn=other).run()


def test_sinks_without_a_sampler_are_told_of() -> None:
    model = argon_model()
    engine = with_neighbor_hooks(NVTLangevin(model, dt=1.0, temperature=9.0, friction=0.1, sinks=[HostMemory(9)]))
    with pytest.warns(AthanorWarning, match="The sinks of NVTLangevin get nothing"):
        engine.run(Batch.from_data_list(clusters(3)), 1)


def test_what_is_called_with_newcomers_is_called_with_all_of_them() -> None:
    joined: list[int] = []

    def init(batch: Batch) -> Batch:
        joined.extend(batch.system_id.flatten().tolist())
        batch.velocities = torch.full_like(batch.positions, 0.01)
        return batch

    engine = flying(clusters(3, 4, 3, 5), init_fn=init, n_steps=0)
    engine.n_steps = 1
    engine.run()
    assert joined == [0, 1, 2, 3] or sorted(joined) == [0, 1, 2, 3]
    plain = flying(clusters(3, 4, 3, 5), n_steps=1)
    plain.run()
    assert not torch.equal(plain.sinks[0].read().velocities, engine.sinks[0].read().velocities)


def two_stages(source: Any, **options: Any) -> FusedStage:
    model = argon_model()
    relax = FIRE(model, dt=0.4, n_steps=5, convergence_hook=ConvergenceHook.from_fmax(1e-3))
    heat = NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01, n_steps=3)
    sampler = SizeAwareSampler(source, max_batch_size=3)
    return with_neighbor_hooks(FusedStage([(0, relax), (1, heat)], sampler=sampler, **options))


def test_two_stages_with_systems_in_both() -> None:
    sink, statuses = HostMemory(100), set()

    class Looks:
        frequency, stage, observes = 1, DynamicsStage.AFTER_STEP, True

        def __call__(self, ctx: Any, stage: Any) -> None:
            statuses.add(tuple(sorted(ctx.batch.status.flatten().tolist())))

    systems = clusters(3, 5, 4, 2, 6, 3, 4)
    systems[1].status = torch.tensor([[1]])
    engine = two_stages(systems, sinks=sink, hooks=[Looks()])
    assert engine.run() is None
    assert sorted(ids_in(sink)) == list(range(7))
    assert sink.read().status.flatten().tolist() == [2] * 7
    assert any(0 in seen and 1 in seen for seen in statuses)


def test_a_status_that_a_sample_brings_counts_and_one_between_stages_is_set_aside() -> None:
    systems = clusters(3, 4, 3, 5, 3)
    systems[1].status = torch.tensor([[1]])
    systems[2].status = torch.tensor([[-4]])
    systems[4].status = torch.tensor([[2]])
    sink = HostMemory(10)
    engine = two_stages(systems, sinks=[sink])
    with pytest.warns(AthanorWarning, match=r"Sample 2 is set aside: its `status` is -4; the stages have the codes"):
        engine.run()
    steps = dict(zip(ids_in(sink), sink.read().step.flatten().tolist(), strict=True))
    assert sorted(steps) == [0, 1, 3, 4]
    assert (steps[1], steps[4]) == (3, 0)


@pytest.mark.parametrize(("entry", "expected"), [(0, [5, 5]), (3, [5, 5]), (5, [3, 3])])
def test_systems_start_in_the_stage_that_is_said(entry: int, expected: list[int]) -> None:
    model, sink = argon_model(), HostMemory(9)
    stages = [(3, NVE(model, dt=1.0, n_steps=2, keep_velocities=True)), (5, NVE(model, dt=1.0, n_steps=3))]
    sampler = SizeAwareSampler(clusters(3, 3), max_batch_size=1)
    engine = with_neighbor_hooks(FusedStage(stages, entry_status=entry, sampler=sampler, sinks=[sink]))
    engine.run()
    assert sink.read().step.flatten().tolist() == expected
    assert sink.read().status.flatten().tolist() == [6, 6]


def test_converged_systems_are_written_once_by_a_hook_too() -> None:
    hook, sink = ConvergedSnapshotHook(HostMemory(99)), HostMemory(99)
    sampler = SizeAwareSampler(clusters(3, 5, 4, 6, 2, 3), max_batch_size=2)
    criterion = ConvergenceHook.from_fmax(5e-3)
    engine = FIRE(argon_model(), dt=0.3, convergence_hook=criterion, sampler=sampler, sinks=[sink], hooks=[hook])
    with_neighbor_hooks(engine).run()
    assert ids_in(hook.sink) == ids_in(sink)
    assert sorted(ids_in(sink)) == list(range(6))
    assert torch.equal(hook.sink.read().positions, sink.read().positions)


def test_a_manual_loop() -> None:
    sink = HostMemory(100)
    engine = two_stages(clusters(3, 5, 4, 2, 6), sinks=[sink])
    batch = engine.sampler.build_initial_batch()
    assert engine.refill_check(batch, 2) is batch
    found, count = batch, 0
    while found is not None:
        assert found is batch
        engine.step(batch)
        found, count = engine.refill_check(batch, 2), count + 1
        assert count < 100
    assert engine.done
    whole = HostMemory(100)
    two_stages(clusters(3, 5, 4, 2, 6), sinks=[whole]).run()
    assert torch.equal(whole.read().positions, sink.read().positions)
    assert torch.equal(whole.read().system_id, sink.read().system_id)
    plain = NVE(argon_model(), dt=1.0)
    with pytest.raises(RuntimeError, match="NVE has no sampler") as caught:
        plain.refill_check(batch, 1)
    assert isinstance(caught.value, SimulationError)


def test_survivors_keep_their_order_and_newcomers_come_behind() -> None:
    engine = flying(clusters(3, 3, 3, 3, 3, 3), caps={"max_batch_size": 4})
    batch = engine.sampler.build_initial_batch()
    engine.step(batch)
    batch.status[1] = 1
    before = batch.clone()
    engine.refill_check(batch, 1)
    assert batch.system_id.flatten().tolist() == [0, 2, 3, 4]
    for new, old in ((0, 0), (1, 2), (2, 3)):
        for name in ("positions", "velocities", "forces", "step", "stage_step"):
            assert torch.equal(batch.get_data(new)[name], before.get_data(old)[name])


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_run_is_told(count: int) -> None:
    engine = flying(clusters(*[40] * count), caps={"max_atoms": 10})
    with pytest.warns(AthanorWarning) as told:
        assert engine.run() is None
    assert "The sampler has no system that can be run" in str(told[-1].message)
    assert engine.done


def test_a_stream_without_an_end_that_hesitates_and_breaks() -> None:
    def stream() -> Iterator[Any]:
        for number in range(5):
            yield argon_cluster(3, number)
            if number == 2:
                yield from (None, None)
        raise OSError("the line is dead")

    engine = flying(stream())
    assert engine.run() is None
    assert not engine.done
    assert ids_in(*engine.sinks) == [0, 1, 2]
    with pytest.warns(AthanorWarning, match="ended after 5 with an error"):
        assert engine.run() is None
    assert engine.done
    assert ids_in(*engine.sinks) == [0, 1, 2, 3, 4]


def _is_double(batch: Batch) -> None:
    if batch.positions.dtype != torch.float64:
        raise RuntimeError("such a model can not be asked about single precision")


def test_systems_that_do_not_fit_to_those_that_run_are_set_aside() -> None:
    systems = clusters(3, 3, 3, 3)
    systems[2] = systems[2].to(torch.float32)
    engine = flying(systems)
    engine.model.register_forward_pre_hook(lambda model, arguments: _is_double(arguments[0]))
    with pytest.warns(AthanorWarning, match="Sample 2 is set aside"):
        engine.run()
    assert sorted(ids_in(*engine.sinks)) == [0, 1, 3]
    assert engine.tally.joined == 3


def test_molecules_and_crystals_come_and_go_together() -> None:
    from athanor.testing.dynamics_contract import argon_crystal

    systems = [argon_cluster(3, 0), argon_crystal(1, 1), argon_cluster(4, 2), argon_crystal(2, 3), argon_cluster(2, 4)]
    engine = flying(systems, caps={"max_atoms": 40})
    engine.run()
    assert sorted(ids_in(*engine.sinks)) == [0, 1, 2, 3, 4]


def test_what_can_not_fly_is_refused() -> None:
    with pytest.raises(InputError, match="Systems never leave NVE"):
        NVE(argon_model(), dt=1.0, sampler=SizeAwareSampler(clusters(2), 9)).run()
    engine = flying(clusters(2))
    engine.temperature = torch.tensor([10.0, 20.0])
    with pytest.raises(InputError, match="`temperature` of NVTLangevin has one value for each system"):
        engine.run()
    with pytest.raises(InputError, match=r"NVE\.run needs a batch, or a sampler"):
        NVE(argon_model(), dt=1.0).run(n_steps=3)
    with pytest.raises(InputError, match=r"FusedStage\.run needs a batch, or a sampler"):
        FusedStage([(0, NVE(argon_model(), dt=1.0))]).run()
    with pytest.raises(InputError, match=r"stage 0 \(NVTLangevin\) has a `sampler` or `sinks` of its own"):
        flying(clusters(2)) + NVE(argon_model(), dt=1.0)
    with pytest.warns(AthanorWarning, match="nobody keeps them"):
        flying(clusters(2), []).run()


def test_a_fused_stage_keeps_its_settings_when_another_is_appended() -> None:
    first = two_stages(clusters(3), sinks=[HostMemory(9)], refill_frequency=4, exit_status=9, n_steps=7, ordered=True)
    first.init_fn = print
    both = first + NVE(first.model, dt=1.0)
    for name in ("sampler", "sinks", "refill_frequency", "exit_status", "n_steps", "ordered", "init_fn", "on_error"):
        assert getattr(both, name) == getattr(first, name), name
    plain = NVE(first.model, dt=1.0, n_steps=1) + NVE(first.model, dt=1.0, n_steps=1) + NVE(first.model, dt=1.0)
    assert plain.exit_status == 3


def test_frames_of_runs_in_flight() -> None:
    """A system that changes its place is no news; first and last states are written of each system, once."""
    sink, rows = HostMemory(1000), []
    hooks = [
        SnapshotHook(sink, 3, finished="once", first=True, last=True),
        LoggingHook("custom", writer_fn=lambda step, found: rows.extend(found), finished="once"),
    ]
    engine = flying(clusters(3, 4, 3, 5, 3), [HostMemory(9)], hooks=hooks, refill_frequency=2)
    engine.run()
    seen: dict[int, list[int]] = {}
    frames = sink.read()
    for one, step in zip(frames.system_id.flatten().tolist(), frames.step.flatten().tolist(), strict=True):
        seen.setdefault(one, []).append(step)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    for steps in seen.values():
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (0, 4)
    logged = [(row["system_id"], row["step"]) for row in rows]
    assert len(logged) == len(set(logged)) == 20


def test_nothing_grows_while_systems_come_and_go() -> None:
    """Mutant: a run that remembers who has left."""

    def growth(**options: Any) -> int:
        engine = flying((argon_cluster(3, number) for number in itertools.count()), n_steps=2, **options)
        counts = []
        for steps in (60, 120, 240):
            engine.run(n_steps=steps)
            engine.sinks[0].zero()
            gc.collect()
            counts.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
        assert engine.tally.finished >= 420
        assert len(engine._in_flight.delivery.running) == len(engine.active_batch) == 2
        return counts[-1] - counts[-2]

    class Remembers:
        def __init__(self) -> None:
            self.all: list[Batch] = []

        def __call__(self, batch: Batch) -> None:
            self.all.append(batch)

    assert abs(growth(sinks=[HostMemory(10_000)])) <= 5
    assert growth(sinks=[HostMemory(10_000)], init_fn=Remembers()) > 500


def test_caps_of_sampler_and_engine_hold_at_every_step() -> None:
    largest = [0, 0]

    class Looks:
        frequency, stage, observes = 1, DynamicsStage.BEFORE_STEP, True

        def __call__(self, ctx: Any, stage: Any) -> None:
            largest[:] = [max(largest[0], len(ctx.batch)), max(largest[1], ctx.batch.num_nodes)]

    systems = clusters(*[1 + (5 * number) % 9 for number in range(30)])
    flying(systems, caps={"max_atoms": 17}, max_batch_size=4, hooks=[Looks()]).run()
    assert largest[0] == 4
    assert 14 <= largest[1] <= 17


def labelled(count: int, number: int, **labels: Any) -> AtomicData:
    data = argon_cluster(count, number)
    for name, value in labels.items():
        data.add_system_property(name, torch.tensor([value] if isinstance(value, list) else [[value]]))
    return data


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("at_once", [5, 2, 1])
def test_labels_that_only_some_have_keep_nobody_from_running(first: int, at_once: int) -> None:
    systems = [labelled(3, n, kind=7, note=0.5) if n % 2 == first else labelled(3, n, family=n) for n in range(5)]
    engine = flying(systems, caps={"max_batch_size": at_once}, n_steps=2, hooks=[BlowUp(3, 1)])
    with pytest.warns(AthanorWarning, match="Not every system has the labels"):
        engine.run()
    assert sorted(ids_in(*engine.sinks)) == [0, 1, 2, 3, 4]
    assert engine.sampler.set_aside == []


def test_labels_of_other_shapes_and_those_that_all_have() -> None:
    systems = [labelled(3, 0, kind=[1, 2], every=4), labelled(3, 1, kind=3, every=5), labelled(3, 2, every=6)]
    engine = flying(systems, caps={"max_batch_size": 1}, ordered=True)
    with pytest.warns(AthanorWarning, match="`kind`") as told:
        engine.run()
    assert len(told) == 1
    assert [data.kind.flatten().tolist() for data in engine.sinks[0].read().to_data_list()] == [
        [1, 2],
        [-1, -1],
        [-1, -1],
    ]
    assert [data.every.item() for data in engine.sinks[0].read().to_data_list()] == [4, 5, 6]


def test_one_that_does_not_fit_to_the_first_batch_keeps_the_others_from_nothing() -> None:
    systems = [*clusters(3, 3), argon_cluster(3, 2).to(torch.float32)]
    engine = flying(systems, caps={"max_batch_size": 3})
    with pytest.warns(AthanorWarning, match="Sample 2 is set aside"):
        engine.run()
    assert sorted(ids_in(*engine.sinks)) == [0, 1]


def test_a_label_that_the_model_reads_is_not_left_out() -> None:
    engine = flying([labelled(3, 0, kind=1), labelled(3, 1)], caps={"max_batch_size": 2})
    engine.model.model_config = engine.model.model_config.model_copy(update={"optional_inputs": frozenset({"kind"})})
    with pytest.warns(AthanorWarning, match="Sample 1 is set aside"):
        engine.run()
    assert ids_in(*engine.sinks) == [0]
