"""StageTimingHook: which times are taken, what is made of them, and that nothing in a step waits for the device."""

from __future__ import annotations

import csv
import itertools
import statistics
from enum import Enum

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NVE
from athanor.errors import InputError
from athanor.hooks import DynamicsContext, DynamicsStage, StageTimingHook
from athanor.hooks import timing as module
from athanor.testing.dynamics_contract import argon_cluster, argon_model, with_neighbor_hooks


def run(hook, steps: int = 4) -> Batch:
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[hook], keep_velocities=True))
    return engine.run(Batch.from_data_list([argon_cluster(3, 0), argon_cluster(4, 1)]), steps)


def test_times_between_all_stages(tmp_path):
    hook = StageTimingHook(log_path=tmp_path / "times.csv")
    run(hook)
    stages = [stage.name for stage in DynamicsStage][:-1]
    labels = [f"{a}->{b}" for a, b in itertools.pairwise(stages)]
    found = hook.summary()
    assert set(found) == set(labels)
    assert {row["n_samples"] for label, row in found.items() if "COMPUTE->" not in label} == {4}
    for label, row in found.items():
        times = list(hook.timings[label])
        assert row["mean_s"] == pytest.approx(statistics.mean(times))
        assert row["std_s"] == pytest.approx(statistics.stdev(times))
        assert (row["min_s"], row["max_s"]) == (min(times), max(times))
        assert row["total_s"] == pytest.approx(sum(times))
    with open(tmp_path / "times.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rank", "step", "stage", "t_since_init_s", "delta_s"]
    assert len(rows) == sum(row["n_samples"] for row in found.values())
    assert float(rows[-1]["delta_s"]) == hook.timings[rows[-1]["stage"]][-1]
    run(hook)
    with open(tmp_path / "times.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(rows), "a second run appends"


def test_a_whole_step_every_few_steps(capsys):
    hook = StageTimingHook("step", frequency=2, show_console=True, console_frequency=4)
    run(hook, 6)
    assert {label: row["n_samples"] for label, row in hook.summary().items()} == {"BEFORE_STEP->AFTER_STEP": 3}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 0", "step 4"]
    hook.reset()
    assert hook.summary() == {}


def test_stages_are_ordered_and_others_have_no_time():
    class Training(Enum):
        BEFORE_BATCH = "b"
        AFTER_BATCH = "a"

    hook = StageTimingHook({DynamicsStage.AFTER_COMPUTE, DynamicsStage.BEFORE_COMPUTE})
    assert hook.profiled_stages == (DynamicsStage.BEFORE_COMPUTE, DynamicsStage.AFTER_COMPUTE)
    hook = StageTimingHook([Training.AFTER_BATCH, Training.BEFORE_BATCH])
    assert hook.profiled_stages == (Training.BEFORE_BATCH, Training.AFTER_BATCH)
    batch = Batch.from_data_list([argon_cluster(2, 0)])
    for step in (0, 1):
        for stage in hook.profiled_stages:
            hook(DynamicsContext(batch=batch, step_count=step), stage)
    assert {label: row["n_samples"] for label, row in hook.summary().items()} == {"BEFORE_BATCH->AFTER_BATCH": 2}


class Event:
    """Stands for an event of the device, which is reached when somebody waits for it."""

    waited = 0
    clock = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.clock += 1.0
        self.at, self.reached = Event.clock, False

    def query(self):
        return self.reached

    def synchronize(self):
        Event.waited += 1
        self.reached = True

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


def test_no_step_waits_for_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    hook = StageTimingHook("step", timer_backend="cuda_event")
    batch = Batch.from_data_list([argon_cluster(2, 0)])
    for step in range(5):
        for stage in hook.profiled_stages:
            hook(DynamicsContext(batch=batch, step_count=step), stage)
    assert Event.waited == 0
    assert hook.timings == {}
    assert hook.summary()["BEFORE_STEP->AFTER_STEP"] == {
        "mean_s": 1.0, "std_s": 0.0, "min_s": 1.0, "max_s": 1.0, "total_s": 5.0, "n_samples": 5,
    }  # fmt: skip
    assert Event.waited == 5


def test_single_times_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 10)
    hook = StageTimingHook("step")
    run(hook, 30)
    assert len(hook.timings["BEFORE_STEP->AFTER_STEP"]) == 10
    assert hook.summary()["BEFORE_STEP->AFTER_STEP"]["n_samples"] == 30


def test_a_run_keeps_its_bits():
    assert torch.equal(run(StageTimingHook()).positions, run(StageTimingHook("step")).positions)


@pytest.mark.parametrize(
    "arguments",
    [("everything",), ({DynamicsStage.AFTER_STEP},), (["AFTER_STEP", "BEFORE_STEP"],)],
)
def test_what_is_refused(arguments):
    with pytest.raises(InputError, match="profiled_stages"):
        StageTimingHook(*arguments)
    with pytest.raises(InputError, match="timer_backend"):
        StageTimingHook(timer_backend="sundial")
