"""EnergyDriftMonitorHook: drifts early and late, NaN, companions, stages."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import FIRE, NVE, NVTLangevin, NVTNoseHoover
from athanor.dynamics.hooks import EnergyDriftMonitorHook
from athanor.errors import AthanorWarning, InputError, SimulationError
from athanor.testing.dynamics_contract import argon_crystal

from .runs import AFTER_STEP, argon, bare, engine_with


class Play:
    """Plays energies of each system to a hook, step by step, as an engine would."""

    def __init__(self, hook, systems: int = 2) -> None:
        self.hook = hook
        self.ctx = bare([argon_crystal(1, number) for number in range(systems)])
        batch = self.ctx.batch
        for name in ("energy", "system_id", "step", "stage_step", "time", "status"):
            batch.ensure_field(name)
        batch.velocities.zero_()
        self.start = 0.0

    def __call__(self, energies, steps: int = 1, dt: float = 2.0) -> None:
        batch = self.ctx.batch
        batch.energy.copy_(torch.as_tensor(energies, dtype=torch.float64).reshape(-1, 1))
        for name in ("step", "stage_step"):
            batch[name].add_(steps)
        batch.time.add_(steps * dt)
        self.ctx.step_count += steps
        self.hook(self.ctx, AFTER_STEP)


def raising(threshold, **arguments):
    return EnergyDriftMonitorHook(threshold, action="raise", **arguments)


class SinceStepZero(EnergyDriftMonitorHook):
    """Mutant: the change since the start, over all steps that the engine ever did; NaN is not larger than anything."""

    def __call__(self, ctx, stage):
        batch = ctx.batch
        energy = batch.energy.reshape(-1).clone()
        if not hasattr(self, "first"):
            self.first = energy
        drift = (energy - self.first).abs() / batch.num_nodes_per_graph / max(ctx.step_count, 1)
        if float(drift.max()) > self.threshold:
            raise SimulationError("drift")


def late_drift(hook) -> None:
    play = Play(hook)
    for _ in range(200):
        play([-1.0, -1.0], steps=50)
    for k in range(8):
        play([-1.0, -1.0 + 0.004 * 50 * k], steps=50)


@pytest.mark.parametrize("hook", [raising(1e-4), SinceStepZero(1e-4)], ids=["windows", "since the start"])
def test_a_drift_that_begins_late_shows(hook):
    if isinstance(hook, SinceStepZero):
        late_drift(hook)
        return
    with pytest.raises(SimulationError, match=r"in 1 of 2 systems.*system_id .* \(index 1\); accepted is 0.0001"):
        late_drift(hook)


@pytest.mark.parametrize("hook", [raising(1e9), raising(1e9, metric="absolute"), SinceStepZero(1e9)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_a_drift(hook, value):
    play = Play(hook)
    play([-1.0, -1.0])
    if isinstance(hook, SinceStepZero) and math.isnan(value):
        play([-1.0, value])
        return
    with pytest.raises(SimulationError):
        play([-1.0, value])


@pytest.mark.parametrize(
    ("metric", "drift"), [("per_atom_per_step", 1.0 / 4 / 100), ("per_atom_per_ps", 1.0 / 4 / 0.2), ("absolute", 1.0)]
)
def test_the_unit_of_the_metric(metric, drift):
    for factor, raises in ((1.001, False), (0.999, True)):
        play = Play(raising(factor * drift, metric=metric))
        play([0.0, 0.0])
        if raises:
            with pytest.raises(SimulationError):
                play([0.0, 1.0], steps=100)
        else:
            play([0.0, 1.0], steps=100)


def test_an_oscillation_is_no_drift():
    play = Play(raising(1e-4))
    for k in range(500):
        play([0.01 * math.sin(k), 0.01 * math.cos(2 * k)])
    strict = Play(raising(1e-4, window=1))
    strict([0.0, 0.0])
    with pytest.raises(SimulationError):
        strict([0.01, 0.0])


def test_it_warns_once_of_each_system():
    play = Play(EnergyDriftMonitorHook(1e-4))
    play([0.0, 0.0])
    with pytest.warns(AthanorWarning, match=r"in 1 of 2 systems, in eV per atom and step: 0.0025 in .*index 0"):
        play([1.0, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play([2.0, 0.0])
    with pytest.warns(AthanorWarning, match="index 1"):
        play([3.0, 3.0])


def test_the_energy_that_a_thermostat_conserves():
    """The total energy under a thermostat changes all the time, and that is no drift."""
    for kind, arguments in ((NVTNoseHoover, {"thermostat_time": 50.0}), (NVTLangevin, {"friction": 0.02})):
        batch, hook = argon(0, 1), raising(3e-2, metric="absolute")
        engine_with(kind, hook, dt=4.0, temperature=120.0, **arguments).run(batch, 150)
    other = engine_with(NVTLangevin, raising(3e-2, metric="absolute"), dt=4.0, temperature=120.0, friction=0.02)
    other.conserved_energy = NVE.conserved_energy.__get__(engine_with(NVE, dt=4.0))
    with pytest.raises(SimulationError):
        other.run(argon(0, 1), 150)


def test_systems_come_and_go():
    hook = raising(0.03, metric="absolute")
    batch = argon(0, 1)
    engine = engine_with(NVE, hook, dt=4.0)
    engine.run(batch, 20)
    kept = hook._memory.known(batch)["start"].clone()
    batch.remove_systems([0])
    batch.append(argon(7, 8))
    engine.run(batch, 20)
    start = hook._memory.known(batch)["start"]
    assert float(start[0]) == float(kept[1])
    torch.testing.assert_close(start, engine.conserved_energy(batch), rtol=0, atol=0.03)
    state = hook.state_dict()
    fresh = raising(1e-12, metric="absolute")
    fresh.load_state_dict(state)
    again = engine_with(NVE, fresh, dt=4.0)
    again.load_state_dict(engine.state_dict())
    copy = batch.clone()
    copy.positions[0] += 0.01
    with pytest.raises(SimulationError, match=r"in [123] of 3"):
        again.run(copy, 1)


def test_stages_have_references_of_their_own():
    batch, hook = argon(0, 1, 2), raising(0.05, metric="absolute")
    batch.status = torch.tensor([[0], [1], [2]])
    relax = engine_with(FIRE, dt=0.3, n_steps=30)
    heat = engine_with(NVTLangevin, model=relax.model, dt=4.0, temperature=60.0, friction=0.05, n_steps=25)
    glide = engine_with(NVE, model=relax.model, dt=4.0, n_steps=40)
    fused = relax + heat + glide
    fused.register_hook(hook)
    energies = []

    def watch(ctx, stage):
        energies.append(ctx.batch.energy.flatten().tolist())

    watch.frequency, watch.observes = 1, True
    fused.register_hook(watch, AFTER_STEP)
    fused.run(batch)
    first = [values[0] for values in energies]
    assert max(first) - min(first) > 0.1, "the energy changed by more than is accepted, in stages that may do so"
    own = raising(0.1, metric="absolute")
    batch = argon(0, 1)
    batch.status = torch.tensor([[0], [1]])
    relax = engine_with(FIRE, dt=0.3, n_steps=10)
    relax.register_hook(raising(1e-12, metric="absolute"))
    heat = engine_with(NVTLangevin, own, model=relax.model, dt=4.0, temperature=60.0, friction=0.05, n_steps=25)
    (relax + heat).run(batch)
    assert bool(own._memory.known(batch)["start"].isfinite().all())


def test_another_engine_begins_anew():
    batch, hook = argon(0), raising(0.05, metric="absolute")
    engine_with(NVTLangevin, hook, dt=4.0, temperature=150.0, friction=0.05).run(batch, 50)
    engine_with(NVE, hook, dt=4.0).run(batch, 20)


def test_it_changes_no_bit_and_looks_at_moving_systems_only():
    watched, free = argon(0, 1, 2), argon(0, 1, 2)
    for batch, hooks in ((watched, [EnergyDriftMonitorHook(1.0, frequency=3)]), (free, [])):
        batch.status = torch.tensor([[0], [1], [0]])
        engine_with(NVE, *hooks, dt=2.0).run(batch, 10)
    for name in ("positions", "velocities", "energy", "forces"):
        moved = watched.batch_idx != 1 if name != "energy" else torch.tensor([True, False, True])
        assert torch.equal(watched[name][moved], free[name][moved])


def test_the_potential_energy_alone():
    batch = argon(0)
    with pytest.raises(SimulationError, match="potential energy"):
        engine_with(NVE, raising(1e-3, metric="absolute", include_kinetic=False), dt=4.0).run(batch, 50)


@pytest.mark.parametrize(
    "arguments", [{"metric": "per_step"}, {"action": "stop"}, {"threshold": 0.0}, {"window": 0}, {"frequency": 0}]
)
def test_what_is_refused(arguments):
    with pytest.raises(InputError):
        EnergyDriftMonitorHook(**{"threshold": 1.0, **arguments})


def test_one_batch_of_no_engine():
    ctx = bare(energy=torch.zeros(2, 1, dtype=torch.float64))
    assert isinstance(ctx.batch, Batch)
    hook = raising(0.1)
    hook(ctx, AFTER_STEP)
    ctx.step_count = 1
    ctx.batch.energy += 100.0
    with pytest.raises(SimulationError, match="in 2 of 2"):
        hook(ctx, AFTER_STEP)
