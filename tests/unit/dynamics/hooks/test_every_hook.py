"""What holds for every hook: it is one, says what it is, can be copied with its engine, and has a place in the step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NPT, NVE, FIREVariableCell, NVTNoseHoover
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
from athanor.testing.dynamics_contract import argon_crystal, with_neighbor_hooks
from athanor.testing.systems import moved
from athanor.units import GPa

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


def turned_crystals() -> Batch:
    """Three crystals in three stages, two of them turned in space; some atoms are of the category that is frozen."""
    turn, _ = torch.linalg.qr(torch.tensor([[0.3, 0.9, 0.1], [0.8, -0.2, 0.4], [0.1, 0.5, -0.7]], dtype=torch.float64))
    systems = [argon_crystal(2, number) for number in range(3)]
    for place in (1, 2):
        data = systems[place]
        systems[place] = moved(data, data.positions @ turn, data["cell"][0] @ turn)
        systems[place].velocities = data.velocities @ turn
    batch = Batch.from_data_list(systems)
    batch.status = torch.tensor([[0], [1], [2]])
    batch.atom_categories = -(torch.arange(batch.num_nodes) % 32 < 3).long()
    return batch


def test_all_of_them_in_a_fused_run():
    """Relaxation of a cell, a triclinic barostat and a thermostat, with everything at once: alone or in a batch."""

    def run(batch):
        relax = engine_with(FIREVariableCell, FreezeAtomsHook(), dt=0.3, n_steps=8)
        pressed = engine_with(
            NPT, model=relax.model, dt=4.0, temperature=50.0, pressure=0.01 * GPa, barostat_time=300.0,
            thermostat_time=100.0, pressure_coupling="triclinic", n_steps=12,
        )  # fmt: skip
        heated = engine_with(
            NVTNoseHoover, model=relax.model, dt=4.0, temperature=50.0, thermostat_time=100.0, n_steps=15
        )
        fused = with_neighbor_hooks(relax + pressed + heated)
        drift = EnergyDriftMonitorHook(1e-2, metric="per_atom_per_ps", action="raise")
        for hook in (AlignCellHook(), BiasedPotentialHook(pull), MaxForceClampHook(5.0), drift, StageTimingHook()):
            fused.register_hook(hook)
        return fused.run(batch)

    def pull(batch):
        first = batch.batch_ptr[:-1].long()
        return 0.1 * ((batch.positions[first + 1] - batch.positions[first]).norm(dim=1) - 4.0) ** 2

    together = run(turned_crystals())
    assert together.failure_code.flatten().tolist() == [0, 0, 0]
    assert bool((together.cell.triu(1) == 0).all())
    assert not bool(together.fixed.any())
    for place in range(3):
        alone = run(turned_crystals().index_select([place]))
        assert torch.equal(alone.positions, together.positions[together.batch_idx == place])
        assert torch.equal(alone.cell[0], together.cell[place])
