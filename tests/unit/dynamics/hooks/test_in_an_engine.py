"""The hooks in a real run: how often, with which step and time, and that a run may be continued."""

from __future__ import annotations

import csv

import pytest
import torch

from athanor.data import observables
from athanor.data.batch import Batch
from athanor.dynamics.hooks import ConvergedSnapshotHook, LoggingHook, NaNDetectorHook, SnapshotHook
from athanor.dynamics.integrators import NVE, NVTLangevin
from athanor.dynamics.optimizers.fire import FIREVariableCell
from athanor.dynamics.sinks import HostMemory, ZarrData
from athanor.errors import NonFiniteError, StorageError
from athanor.hooks.stages import DynamicsStage
from athanor.testing.dynamics_contract import argon_crystal, argon_model


def argon(systems: int = 2) -> Batch:
    return Batch.from_data_list([argon_crystal(2, number) for number in range(systems)])


def test_frames_and_rows_of_a_run(tmp_path):
    memory, stored = HostMemory(100), ZarrData(tmp_path / "t.zarr")
    log = LoggingHook("csv", frequency=5, log_path=tmp_path / "log.csv")
    model = argon_model()
    snapshots = [SnapshotHook(memory, 5), SnapshotHook(stored, frequency=5)]
    engine = NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), *snapshots, log])
    batch = engine.run(argon(), n_steps=10)
    engine.run(batch, n_steps=10)
    frames = stored.frames(1)
    assert frames.step.flatten().tolist() == [1, 6, 11, 16]
    assert frames.time.flatten().tolist() == [2.0, 12.0, 22.0, 32.0]
    assert torch.equal(memory.read().positions, stored.read().positions)
    assert (frames.positions[:32] != frames.positions[32:64]).any()
    with open(tmp_path / "log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [(str(step), str(number)) for step in (1, 6, 11, 16) for number in (0, 1)]
    assert [(row["step"], row["system_id"]) for row in rows] == wanted
    energies = stored.read().energy.flatten().tolist()
    assert [float(row["energy"]) for row in rows] == energies
    assert all(0 < float(row["temperature"]) < 500 for row in rows)


def test_a_detector_turns_a_blow_up_into_an_error():
    batch = argon()
    batch.positions[1] = batch.positions[0]
    model = argon_model()
    engine = NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), NaNDetectorHook()])
    with pytest.raises(NonFiniteError, match=r"system_id 0"):
        engine.run(batch, n_steps=3)


def steps_of(sink: HostMemory) -> list[list[int]]:
    """Steps of the frames of each of two systems."""
    frames = sink.read()
    return [frames.step[frames.system_id == number].tolist() for number in (0, 1)]


def test_the_first_and_the_last_state() -> None:
    model, batch, plain, whole = argon_model(), argon(), HostMemory(100), HostMemory(100)
    hooks = [SnapshotHook(plain, 5), SnapshotHook(whole, 5, first=True, last=True)]
    engine = NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), *hooks])
    start = batch.positions.clone()
    engine.run(batch, 8)
    assert steps_of(plain) == [[1, 6]] * 2
    assert steps_of(whole) == [[0, 1, 6, 8]] * 2
    frames = whole.read()
    assert torch.equal(frames.positions[: len(start)], start)
    assert not bool(frames.forces.isnan().any())
    assert torch.equal(frames.positions[-len(start) :], batch.positions)
    assert torch.equal(frames.energy[-2:], batch.energy)
    engine.run(batch, 3)  # ends in a step that is written anyway
    assert steps_of(plain) == [[1, 6, 11]] * 2
    assert steps_of(whole) == [[0, 1, 6, 8, 8, 11]] * 2


def test_the_first_and_the_last_state_of_systems_that_finish_apart() -> None:
    from athanor.dynamics.convergence import ConvergenceHook
    from athanor.dynamics.optimizers.fire import FIRE

    sink, model, batch = HostMemory(1000), argon_model(), argon()
    batch.positions[32:].add_(0.2 * torch.randn(32, 3, generator=torch.Generator().manual_seed(1)).double())
    hook = SnapshotHook(sink, 1000, finished="once", first=True, last=True)
    criterion = ConvergenceHook.from_fmax(0.05)
    engine = FIRE(model, dt=0.5, convergence_hook=criterion, hooks=[*model.make_neighbor_hooks(), hook])
    engine.warns_of_start = False
    engine.run(batch, 400)
    ends = batch.step.flatten().tolist()
    assert ends[0] != ends[1]
    assert steps_of(sink) == [[0, 1, end] if end > 1 else [0, 1] for end in ends]


def test_single_steps_have_one_first_state() -> None:
    sink, model, batch = HostMemory(100), argon_model(), argon()
    hook = SnapshotHook(sink, 4, first=True, last=True)
    engine = NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), hook])
    for _ in range(3):
        engine.step(batch)
    hook.close()
    assert steps_of(sink) == [[0, 1, 3]] * 2


def test_the_last_state_of_a_run_that_fails_is_not_told_as_one() -> None:
    sink, model, batch = HostMemory(100), argon_model(), argon()

    class Stops:
        frequency, stage = 1, DynamicsStage.BEFORE_POST_UPDATE

        def __call__(self, ctx, stage):
            if ctx.step_count == 3:
                raise RuntimeError("no more")

    hooks = [*model.make_neighbor_hooks(), SnapshotHook(sink, 2, last=True), Stops()]
    with pytest.raises(RuntimeError, match="no more"):
        NVE(model, dt=2.0, hooks=hooks).run(batch, 10)
    assert steps_of(sink) == [[1, 3]] * 2


class NamesEachStep(ConvergedSnapshotHook):
    """Broken twin: does not remember who was written."""

    def _new_places(self, batch, converged):
        self._known.clear()
        return super()._new_places(batch, converged)


class LooksNowAndThen(ConvergedSnapshotHook):
    """Broken twin: is called in some steps only."""

    counts_each_system = False


class WritesTheLaterState(ConvergedSnapshotHook):
    """Broken twin: writes systems as they are at the next write."""

    def __call__(self, ctx, stage):
        if ctx.converged_mask is not None:
            self._waiting.append(ctx.batch)
        if ctx.step_count % self.frequency == 0:
            self._write_waiting()


class EveryoneConverges:
    """A look at the converged systems in each step, as engines of others may have it."""

    frequency, stage, observes = 1, DynamicsStage.AFTER_STEP, True

    def __init__(self, hook: ConvergedSnapshotHook) -> None:
        self.hook, self.close = hook, hook.close

    def __call__(self, ctx, stage):
        ctx.converged_mask = ctx.batch.step[:, 0] >= torch.tensor([2, 3])
        self.hook(ctx, stage)


def check_converged(kind: type[ConvergedSnapshotHook], frequency: int) -> None:
    """Each system is written once, as it was when it converged."""
    from athanor.dynamics.convergence import ConvergenceHook
    from athanor.dynamics.optimizers.fire import FIRE

    sink, model = HostMemory(1000), argon_model()
    hooks = [*model.make_neighbor_hooks(), kind(sink, frequency)]
    relax = FIRE(model, dt=0.5, convergence_hook=ConvergenceHook.from_fmax(0.01))
    heat = NVE(model, dt=2.0, n_steps=60)
    relax.warns_of_start = heat.warns_of_start = False
    fused = relax + heat
    for hook in hooks:
        fused.register_hook(hook)
    fused.run(argon())
    found = sink.read()
    assert sorted(found.system_id.flatten().tolist()) == [0, 1]
    assert float(found.forces.norm(dim=1).max()) < 0.01

    every = HostMemory(1000)
    hook = EveryoneConverges(kind(every, frequency))
    NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), hook]).run(argon(), 8)
    assert steps_of(every) == [[2], [3]]


@pytest.mark.parametrize("frequency", [1, 3, 50])
def test_converged_systems_are_written_once(frequency: int) -> None:
    check_converged(ConvergedSnapshotHook, frequency)


@pytest.mark.parametrize("twin", [NamesEachStep, LooksNowAndThen, WritesTheLaterState], ids=lambda twin: twin.__name__)
def test_a_broken_twin_is_told(twin: type[ConvergedSnapshotHook]) -> None:
    with pytest.raises((AssertionError, StorageError)):
        check_converged(twin, 50)


def test_a_system_is_written_in_each_run_and_stage_that_it_converges_in() -> None:
    from athanor.dynamics.convergence import ConvergenceHook
    from athanor.dynamics.optimizers.fire import FIRE

    sink, coarse_sink, model = HostMemory(1000), HostMemory(1000), argon_model()
    coarse = FIRE(
        model, dt=0.5, convergence_hook=ConvergenceHook.from_fmax(0.02), hooks=[ConvergedSnapshotHook(coarse_sink)]
    )
    fine = FIRE(model, dt=0.5, convergence_hook=ConvergenceHook.from_fmax(0.01))
    coarse.warns_of_start = fine.warns_of_start = False
    fused = coarse + fine
    for hook in [*model.make_neighbor_hooks(), ConvergedSnapshotHook(sink)]:
        fused.register_hook(hook)
    fused.run(argon())
    found = sink.read()
    assert [found.status[found.system_id == number].tolist() for number in (0, 1)] == [[1, 2]] * 2
    assert sorted(coarse_sink.read().system_id.flatten().tolist()) == [0, 1]
    state = ConvergedSnapshotHook(sink).state_dict()
    assert state == {"stored": 4, "converged": []}


class MovesAsMotion(FIREVariableCell):
    """Mutant: what the method calls velocities stands on the batch, as if it were motion."""

    _selects_active = True

    def pre_update(self, batch):
        super().pre_update(batch)
        batch.velocities.copy_(self._state.velocities)

    def post_update(self, batch):
        super().post_update(batch)


@pytest.mark.parametrize("engine", [FIREVariableCell, MovesAsMotion])
def test_only_systems_in_motion_have_a_kinetic_pressure(engine) -> None:
    model, logged, static, in_all = argon_model(), [], [], []
    model.model_config.active_outputs = {"energy", "forces", "stress"}

    def keep(step, rows):
        logged.append([row["pressure"] for row in rows])
        static.append(observables.pressure(batch, kinetic=False).tolist())
        in_all.append(observables.pressure(batch).tolist())

    relax = engine(model, dt=0.1, n_steps=4)
    relax.warns_of_start = False
    log = LoggingHook("custom", writer_fn=keep)
    batch = argon()
    heat = NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01, n_steps=3)
    heat.warns_of_start = False
    fused = relax + heat
    for hook in [*model.make_neighbor_hooks(), log]:
        fused.register_hook(hook)
    fused.run(batch)
    still = [[a == b for a, b in zip(*rows, strict=True)] for rows in zip(logged, static, strict=True)]
    assert (still == [[True, True]] * 4 + [[False, False]] * 3) == (engine is FIREVariableCell)
    assert logged == in_all
