"""What holds for every hook: it is one, says what it is, can be copied with its engine, and has a place in the step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from athanor.dynamics import NVE
from athanor.dynamics.hooks import AlignCellHook, EnergyDriftMonitorHook, FreezeAtomsHook, MaxForceClampHook
from athanor.hooks import (
    BiasedPotentialHook,
    CSVReporter,
    DynamicsStage,
    Hook,
    ReportingOrchestrator,
    StageTimingHook,
    TorchProfilerHook,
)

from .runs import argon, engine_with


def pull(batch):
    """A weak pull of every atom to the origin."""
    first = batch.batch_ptr[:-1].long()
    return 1e-3 * batch.positions[first].square().sum(dim=1)


HOOKS = {
    "align": AlignCellHook,
    "bias": lambda: BiasedPotentialHook(pull),
    "clamp": lambda: MaxForceClampHook(0.1),
    "drift": lambda: EnergyDriftMonitorHook(1e9),
    "freeze": FreezeAtomsHook,
    "profiler": lambda: TorchProfilerHook(output_dir="traces", activities="cpu"),
    "reporting": lambda: ReportingOrchestrator(CSVReporter("report.csv")),
    "timing": lambda: StageTimingHook("step"),
}
OBSERVING = {"drift", "profiler", "reporting", "timing"}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", HOOKS)
def test_it_is_a_hook(name):
    hook = HOOKS[name]()
    assert isinstance(hook, Hook)
    assert type(hook).__name__ in repr(hook)
    assert getattr(hook, "observes", False) == (name in OBSERVING)
    engine = engine_with(NVE, dt=2.0)
    engine.register_hook(hook, DynamicsStage.AFTER_STEP)
    assert list(engine.hooks)[-1] is hook


@pytest.mark.parametrize("name", HOOKS)
def test_copies_and_restarts_go_on_as_it_would(name):
    batch = argon(0, 1, frozen=4)
    engine = engine_with(NVE, HOOKS[name](), dt=2.0)
    engine.run(batch, 3)
    for again in (copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))):
        other_engine, other = again((engine, batch))
        other_engine.run(other, 4)
        reference = batch.clone()
        engine_with(NVE, HOOKS[name](), dt=2.0).run(reference, 4)
        assert torch.equal(other.positions, reference.positions)


@pytest.mark.parametrize("name", sorted(OBSERVING))
def test_one_that_only_looks_changes_no_bit(name):
    looked_at, free = argon(0, 1), argon(0, 1)
    engine_with(NVE, HOOKS[name](), dt=2.0).run(looked_at, 6)
    engine_with(NVE, dt=2.0).run(free, 6)
    for field in ("positions", "velocities", "energy", "forces", "step", "time", "status", "dof"):
        assert torch.equal(looked_at[field], free[field]), field


@pytest.mark.parametrize("name", HOOKS)
def test_a_system_does_not_depend_on_its_companions(name):
    alone, together = argon(1, frozen=4), argon(0, 1, 2, frozen=4)
    for batch in (alone, together):
        engine_with(NVE, HOOKS[name](), dt=2.0).run(batch, 6)
    assert torch.equal(together.positions[32:64], alone.positions)
    assert torch.equal(together.forces[32:64], alone.forces)
