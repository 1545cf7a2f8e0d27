"""Reporting: who is called, what errors do, which numbers there are, and where they end up."""

from __future__ import annotations

import csv
import json
import math
from enum import Enum

import numpy as np
import pytest
import torch

from athanor._optional import OptionalDependency
from athanor.data import Batch, observables
from athanor.dynamics import FIRE, NVE, ConvergenceHook, NVTLangevin
from athanor.errors import AthanorWarning, ContractError, InputError, OptionalDependencyError, ShapeError
from athanor.hooks import (
    CSVReporter,
    DynamicsContext,
    DynamicsStage,
    HookContext,
    Reporter,
    ReportingErrorPolicy,
    ReportingOrchestrator,
    ReportingState,
    TensorBoardReporter,
    TensorBoardWriter,
    TrainContext,
    collect_scalars,
    extract_dynamics_scalars,
    extract_loss_scalars,
    extract_optimizer_lr_scalars,
    extract_scalars,
)
from athanor.hooks.reporting.source import reduce_scalars
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

AFTER = DynamicsStage.AFTER_STEP


class Notes:
    """A reporter that notes what is done to it, and fails where it is told to."""

    def __init__(self, name, log, fails=()):
        self.name, self.log, self.fails = name, log, fails

    def _note(self, what):
        self.log.append(f"{self.name} {what}")
        if what in self.fails:
            raise ValueError(f"{self.name} can not {what}")

    def __enter__(self):
        self._note("enter")
        return self

    def __exit__(self, *exc_info):
        self._note("exit")

    def report(self, ctx, stage, state):
        self._note("report")


def context(rank: int = 0, **arguments) -> DynamicsContext:
    return DynamicsContext(batch=Batch.from_data_list([argon_crystal(1, 0)]), global_rank=rank, **arguments)


# ------------------------------------------------------------------------------------------------- the orchestrator


def test_reporters_are_called_in_order_and_closed_in_the_other():
    log = []
    hook = ReportingOrchestrator([Notes("a", log), Notes("b", log)])
    assert isinstance(Notes("a", log), Reporter)
    with hook, hook:
        hook(context(step_count=7), AFTER)
    assert log == ["a enter", "b enter", "a report", "b report", "b exit", "a exit"]
    assert (hook.state.event_count, hook.state.last_stage, hook.state.last_step_count) == (1, "AFTER_STEP", 7)
    hook.close()
    assert log[-2:] == ["b exit", "a exit"]


def test_stages_by_member_or_name():
    class Training(Enum):
        AFTER_OPTIMIZER_STEP = 1
        AFTER_EPOCH = 2

    hook = ReportingOrchestrator(Notes("a", []))
    found = [stage.name for stage in (*DynamicsStage, *Training) if hook._runs_on_stage(stage)]
    assert found == ["AFTER_STEP", "AFTER_OPTIMIZER_STEP"]
    hook = ReportingOrchestrator(Notes("a", []), stages={"AFTER_EPOCH", DynamicsStage.ON_CONVERGE})
    found = [stage.name for stage in (*DynamicsStage, *Training) if hook._runs_on_stage(stage)]
    assert found == ["ON_CONVERGE", "AFTER_EPOCH"]


def test_an_error_is_raised_warned_of_or_ignored():
    log = []
    hook = ReportingOrchestrator([Notes("a", log, {"report"}), Notes("b", log)])
    with pytest.raises(ValueError, match="a can not report"):
        hook(context(), AFTER)
    assert log == ["a report"]
    assert [message.level for message in hook.state.messages] == ["error"]
    hook = ReportingOrchestrator([Notes("a", log, {"report"}), Notes("b", log)], error_policy="warn")
    with pytest.warns(AthanorWarning, match="Notes failed, and the run goes on: ValueError: a can not"):
        hook(context(), AFTER)
    assert log[1:] == ["a report", "b report"]
    hook = ReportingOrchestrator([Notes("a", log, {"report"})], error_policy=ReportingErrorPolicy.IGNORE)
    hook(context(step_count=3), AFTER)
    message = hook.state.messages[-1]
    assert (message.reporter, message.stage, message.step_count, message.level) == ("Notes", "AFTER_STEP", 3, "error")


def test_one_that_can_not_be_opened_is_left_out():
    log = []
    reporters = [Notes("a", log), Notes("b", log, {"enter"}), Notes("c", log)]
    with ReportingOrchestrator(reporters, error_policy="ignore") as hook:
        hook(context(), AFTER)
    assert log == ["a enter", "b enter", "c enter", "a report", "c report", "c exit", "a exit"]
    log.clear()
    with pytest.raises(ValueError, match="b can not enter"), ReportingOrchestrator(reporters):
        pass
    assert log == ["a enter", "b enter", "a exit"]


def test_closing_tries_all_and_replaces_no_running_exception():
    log = []
    reporters = [Notes("a", log, {"exit"}), Notes("b", log, {"exit"}), Notes("c", log)]
    with pytest.raises(ValueError, match="b can not exit"), ReportingOrchestrator(reporters):
        pass
    assert log[3:] == ["c exit", "b exit", "a exit"]
    with pytest.raises(KeyError, match="mine"), ReportingOrchestrator(reporters):
        raise KeyError("mine")


def test_ranks():
    log = []
    first, every, adds_up = Notes("first", log), Notes("every", log), Notes("adds up", log)
    first.rank_zero_only = adds_up.rank_zero_only = adds_up.requires_all_ranks = True
    hook = ReportingOrchestrator([first, every, adds_up])
    hook(context(rank=1), AFTER)
    assert log == ["every report", "adds up report"]
    hook = ReportingOrchestrator([first, every], rank_zero_only=True)
    hook(context(rank=1), AFTER)
    assert hook.state.event_count == 0
    assert hook.is_rank_zero
    assert hook.global_rank == 0


def test_messages_are_bounded():
    state = ReportingState(max_messages=3)
    for number in range(5):
        state.add_message("info", str(number))
    assert [message.message for message in state.messages] == ["2", "3", "4"]


def test_what_an_orchestrator_refuses():
    with pytest.raises(ContractError, match="int is no reporter"):
        ReportingOrchestrator([3])
    for arguments in ({"reporters": []}, {"stages": []}, {"error_policy": "shout"}, {"frequency": 0}):
        with pytest.raises(InputError):
            ReportingOrchestrator(**{"reporters": [Notes("a", [])], **arguments})


# ------------------------------------------------------------------------------------------------------ the numbers


def fused_run(reporter, frequency: int = 1):
    model = argon_model()
    relax = FIRE(model, dt=0.3, n_steps=6, convergence_hook=ConvergenceHook.from_fmax(1e-9))
    heat = NVTLangevin(model, dt=4.0, temperature=60.0, friction=0.01, n_steps=9)
    fused = with_neighbor_hooks(relax + heat)
    fused.register_hook(ReportingOrchestrator(reporter, frequency=frequency))
    batch = Batch.from_data_list([argon_crystal(1, 0), argon_crystal(2, 1), argon_cluster(3, 2)])
    batch.status = torch.tensor([[0], [1], [2]])
    return fused.run(batch)


class Collects:
    def __init__(self, **arguments):
        self.arguments, self.snapshots, self.batches = arguments, [], []

    def report(self, ctx, stage, state):
        self.snapshots.append(collect_scalars(ctx, stage, state, **self.arguments))
        self.batches.append(ctx.batch.clone())


def test_numbers_of_a_run():
    reporter = Collects(include_dynamics=True, include_progress=True)
    fused_run(reporter)
    first, batch = reporter.snapshots[0], reporter.batches[0]
    found = first.scalars
    assert found["energy"] == pytest.approx(float(torch.nanmean(batch.energy)))
    assert found["fmax"] == pytest.approx(float(observables.fmax(batch).nan_to_num().max()))
    assert found["temperature"] == pytest.approx(float(torch.nanmean(observables.temperature(batch))))
    assert (found["dynamics/num_graphs"], found["dynamics/active_count"]) == (3, 2)
    assert (found["dynamics/graduated_count"], found["active_fraction"]) == (1, pytest.approx(2 / 3))
    assert [found[f"dynamics/status/{code}/count"] for code in (0, 1, 2)] == [1, 1, 1]
    last = reporter.snapshots[-1].scalars
    assert (last["dynamics/active_count"], last["dynamics/graduated_fraction"]) == (0, 1.0)
    assert all(set(snapshot.scalars) >= set(found) for snapshot in reporter.snapshots)
    assert last["dynamics/steps_per_s"] > 0
    assert [snapshot.event_count for snapshot in reporter.snapshots] == list(range(1, 16))
    assert json.loads(json.dumps(first.as_dict(), allow_nan=False))["stage"] == "AFTER_STEP"


def test_a_failed_system_is_in_no_mean():
    batch = Batch.from_data_list([argon_crystal(1, 0), argon_crystal(1, 1)])
    batch.positions[1] = batch.positions[0]
    with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(batch, 2)
    assert batch.failure_code.flatten().tolist()[0] > 0
    found = extract_dynamics_scalars(DynamicsContext(batch=batch))
    assert found["energy"] == pytest.approx(float(batch.energy[1]))
    assert math.isfinite(found["fmax"])


def test_progress_of_an_engine_that_knows_its_steps():
    reporter = Collects(include_progress=True)
    engine = NVE(argon_model(), dt=2.0, n_steps=4, keep_velocities=True, hooks=[ReportingOrchestrator(reporter)])
    with_neighbor_hooks(engine).run(Batch.from_data_list([argon_cluster(3, 0)]))
    found = [snapshot.scalars for snapshot in reporter.snapshots]
    assert [row["dynamics/progress_fraction"] for row in found] == [0.25, 0.5, 0.75, 1.0]
    assert [row["dynamics/remaining_steps"] for row in found] == [3, 2, 1, 0]
    assert (found[-1]["dynamics/eta_s"], found[-1]["dynamics/target_steps"]) == (0, 4)


def test_numbers_of_a_training():
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    one = torch.optim.SGD([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:2], "lr": 0.2}])
    other = torch.optim.Adam(weights[2:], lr=0.3)
    ctx = TrainContext(
        batch=None,
        loss=torch.tensor(2.0, requires_grad=True),
        losses={"energy": torch.tensor([1.5]), "parts": {"forces": 0.5}},
        optimizers=[one, other],
        step_count=4,
        epoch=2,
    )
    assert extract_loss_scalars(ctx) == {"loss": 2.0, "loss/energy": 1.5, "loss/parts/forces": 0.5}
    assert extract_optimizer_lr_scalars(ctx) == {"lr/0/0": 0.1, "lr/0/1": 0.2, "lr/1/0": 0.3}
    ctx.optimizers = [other]
    snapshot = collect_scalars(ctx, AFTER)
    assert snapshot.scalars == {"loss": 2.0, "loss/energy": 1.5, "loss/parts/forces": 0.5, "lr": 0.3}
    assert (snapshot.step_count, snapshot.epoch, snapshot.event_count) == (4, 2, None)
    assert TrainContext(batch=None).optimizers is not TrainContext(batch=None).optimizers
    assert extract_loss_scalars(context()) == extract_optimizer_lr_scalars(context()) == {}


def test_numbers_of_users():
    nested = {"a": torch.tensor([1.5]), "b": {"c": np.float32(2.0), "d": None, "e": True}}
    assert extract_scalars(nested, prefix="p") == {"p/a": 1.5, "p/b/c": 2.0, "p/b/e": True}
    assert extract_scalars({"x": torch.tensor(3)}) == {"x": 3}
    custom = {"big": lambda ctx, stage: ctx.batch.num_nodes, "none": lambda ctx, stage: None}
    assert collect_scalars(context(), AFTER, custom_scalars=custom).scalars == {"big": 4}
    with pytest.raises(ShapeError, match=r"`x` has shape \(2,\)"):
        extract_scalars({"x": torch.zeros(2)})
    with pytest.raises(ContractError, match="`p` is a str"):
        extract_scalars("text", prefix="p")


@pytest.fixture
def job(tmp_path):
    """A job of one process, whose exchanges are real."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_numbers_are_exchanged_once(job, monkeypatch):
    calls, real = [], torch.distributed.all_reduce

    def twice(values, op):  # as if another process had the same numbers
        calls.append(values.clone())
        real(values, op)
        values *= 2

    monkeypatch.setattr(torch.distributed, "all_reduce", twice)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    snapshot = collect_scalars(context(), AFTER, custom_scalars={"a": lambda c, s: 3.0, "b": lambda c, s: 5})
    assert reduce_scalars(snapshot, "sum").scalars == {"a": 6.0, "b": 10.0}
    assert reduce_scalars(snapshot, torch.distributed.ReduceOp.SUM).scalars == {"a": 12.0, "b": 20.0}
    assert reduce_scalars(snapshot, "mean").scalars == {"a": 12.0, "b": 20.0}
    assert len(calls) == 3
    with pytest.raises(InputError, match="rank_reduction"):
        reduce_scalars(snapshot, "median")


# ------------------------------------------------------------------------------------------------ files and boards


def test_a_csv_file(tmp_path):
    path = tmp_path / "new" / "report.csv"
    numbers = iter(range(100))
    later = {"extra": lambda ctx, stage: {"late": 1.0} if next(numbers) > 5 else None}
    reporter = CSVReporter(path, custom_scalars=later)
    hook = ReportingOrchestrator(reporter, frequency=5)
    engine = NVE(argon_model(), dt=2.0, keep_velocities=True, hooks=[hook])
    batch = Batch.from_data_list([argon_cluster(3, 0)])
    with_neighbor_hooks(engine).run(batch, 31)
    engine.run(batch, 10)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step_count"] for row in rows] == ["0", "5", "10", "15", "20", "25", "30", "35", "40"]
    assert {row["stage"] for row in rows} == {"AFTER_STEP"}
    assert float(rows[-1]["energy"]) != float(rows[0]["energy"])
    assert "extra/late" not in rows[0]
    assert "`extra/late` is no column" in hook.state.messages[-1].message


class Board:
    def __init__(self):
        self.rows, self.flushed, self.closed = [], 0, False

    def add_scalar(self, tag, scalar_value, global_step=None):
        self.rows.append((tag, scalar_value, global_step))

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed = True


def test_a_board():
    board = Board()
    assert isinstance(board, TensorBoardWriter)
    custom = {"atoms": lambda ctx, stage: ctx.batch.num_nodes}
    reporter = TensorBoardReporter("unused", writer=board, custom_scalars=custom, tag_prefix="md")
    with ReportingOrchestrator(reporter) as hook:
        hook(context(step_count=3), AFTER)
    assert (board.rows, board.flushed, board.closed) == ([("md/atoms", 4, 3)], 1, False)
    hook(context(rank=1), AFTER)
    assert len(board.rows) == 1, "the first process alone writes"
    with pytest.raises(InputError, match=r"put `\{rank\}` into `log_dir`"):
        TensorBoardReporter("runs", rank_zero_only=False, writer=board)
    assert TensorBoardReporter("runs/{rank}", rank_zero_only=False, writer=board).log_dir.name == "0"


def test_a_board_without_its_package(monkeypatch):
    def missing(self, submodule="", *, needed_by=""):
        raise OptionalDependencyError(f'{needed_by} needs it. Run `pip install "{self.install_target}"`.')

    monkeypatch.setattr(OptionalDependency, "load", missing)
    with pytest.raises(OptionalDependencyError, match=r"TensorBoardReporter needs.*athanor-md\[tensorboard\]"):
        TensorBoardReporter("runs")


def test_reporting_keeps_the_bits_of_a_run(tmp_path):
    reported = fused_run([Collects(include_dynamics=True), CSVReporter(tmp_path / "r.csv")])
    other = fused_run(Notes("a", []), frequency=100)
    assert torch.equal(reported.positions, other.positions)


def test_a_context_of_nothing_has_no_numbers():
    ctx = HookContext(batch=Batch.from_data_list([argon_cluster(2, 0)]))
    assert extract_dynamics_scalars(ctx)["dynamics/num_graphs"] == 1
    assert collect_scalars(ctx, AFTER).scalars == {}
