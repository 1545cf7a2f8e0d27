"""Parameters that are assigned while an engine is in use, and states of another engine or precision."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch, observables
from athanor.dynamics import FIRE, NVE, ConvergenceHook, FIREVariableCell, NVTLangevin
from athanor.dynamics.state import StateVariable
from athanor.errors import InputError
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks
from athanor.units import GPa


def langevin(temperature, dt):
    return with_neighbor_hooks(NVTLangevin(argon_model(), dt, temperature, friction=0.1))


def test_what_is_assigned_between_runs_counts():
    batch, twin = (Batch.from_data_list([argon_crystal(2, 0), argon_crystal(2, 1)]) for _ in "ab")
    engine = langevin(10.0, 2.0)
    engine.run(batch, 2)
    engine.temperature, engine.dt = torch.tensor([600.0, 300.0]), 4.0
    engine.run(batch, 2)
    langevin(10.0, 2.0).run(twin, 2)
    langevin(torch.tensor([600.0, 300.0]), 4.0).run(twin, 2)
    assert torch.equal(batch.velocities, twin.velocities)
    assert batch.time.flatten().tolist() == [12.0, 12.0]


def test_it_is_checked_and_goes_into_a_restart():
    batch = Batch.from_data_list([argon_crystal(2, 0)])
    engine = langevin(10.0, 2.0)
    engine.run(batch, 1)
    with pytest.raises(InputError, match="`temperature` is -5"):
        engine.temperature = -5.0
    engine.dt = 4.0
    engine.run(batch, 1)
    restored = langevin(1.0, 1.0)
    restored.load_state_dict(engine.state_dict())
    assert (restored.dt, restored.temperature) == (4.0, 10.0)
    restored.run(batch, 1)
    assert float(batch.time) == 2.0 + 4.0 + 4.0
    engine.temperature = torch.tensor([1.0, 2.0])
    with pytest.raises(InputError, match="`temperature` has leading size 2"):
        engine.run(batch, 1)


def test_a_pressure_that_is_assigned_is_reached():
    batch = Batch.from_data_list([argon_crystal(1, 0)])
    converged = ConvergenceHook.from_fmax_and_smax()
    engine = with_neighbor_hooks(
        FIREVariableCell(argon_model(), 1.0, mass_scale="mean", convergence_hook=converged, n_steps=200)
    )
    engine.run(batch)
    engine.pressure = 2.0 * GPa
    engine.run(batch)
    assert float(observables.pressure(batch, kinetic=False)) == pytest.approx(2.0 * GPa, abs=0.05 * GPa)


def test_pressures_follow_their_systems_into_a_criterion():
    model, pressures = argon_model(), torch.tensor([0.0, 2.0], dtype=torch.float64) * GPa

    def relax():
        converged = ConvergenceHook.from_fmax_and_smax()
        return with_neighbor_hooks(
            FIREVariableCell(model, 1.0, mass_scale="mean", pressure=pressures, convergence_hook=converged)
        )

    batch = Batch.from_data_list([argon_crystal(1, 0), argon_crystal(1, 1)])
    engine = relax()
    engine.run(batch, 2)
    again = relax()
    again.load_state_dict(engine.state_dict())
    swapped = batch.index_select([1, 0])
    again.run(swapped, 200)
    reached = observables.pressure(swapped, kinetic=False).flatten()
    assert torch.allclose(reached, pressures.flip(0), atol=0.05 * GPa)
    assert int(swapped.step.max()) < 100


def test_a_budget_that_is_assigned_after_fusing_counts():
    model = argon_model()
    first = FIRE(model, dt=0.1, n_steps=3)
    fused = with_neighbor_hooks(first + NVE(model, dt=2.0, n_steps=1))
    first.n_steps = 5
    batch = fused.run(Batch.from_data_list([argon_crystal(2, 0)]))
    assert int(batch.step) == 6


def test_a_state_of_another_engine_is_refused():
    model = argon_model()
    batch = Batch.from_data_list([argon_crystal(1, 0)])
    nve = with_neighbor_hooks(NVE(model, dt=2.0))
    nve.run(batch, 1)
    fire = with_neighbor_hooks(FIRE(model, dt=0.1))
    fire.load_state_dict(nve.state_dict())
    with pytest.raises(InputError, match="Load the state of the same engine"):
        fire.run(batch, 1)
    fused = FIRE(model, dt=0.1, n_steps=1) + NVE(model, dt=2.0)
    with pytest.raises(InputError, match="is that of a plain engine; this FusedStage is a fused run of 2 stages"):
        fused.load_state_dict(nve.state_dict())
    with pytest.raises(InputError, match="is that of a fused run of 2 stages; this NVE is a plain engine"):
        nve.load_state_dict(fused.state_dict())


@pytest.mark.parametrize(
    "make",  # without noise, which is drawn anew in another precision
    [
        lambda model: NVTLangevin(model, 2.0, temperature=0.0, friction=0.01),
        lambda model: FIRE(model, dt=0.1),
        lambda model: FIREVariableCell(model, dt=0.1),
    ],
    ids=["Langevin", "FIRE", "variable cell"],
)
def test_a_restart_goes_on_in_the_precision_of_its_batch(make):
    batch = Batch.from_data_list([argon_crystal(2, 0)])
    engine, again = (with_neighbor_hooks(make(argon_model())) for _ in "ab")
    engine.run(batch, 2)
    again.load_state_dict(engine.state_dict())
    single = again.run(batch.to(dtype=torch.float32), 2)
    double = engine.run(batch, 2)
    assert single.positions.dtype == torch.float32
    declared = StateVariable.declared_in(type(again))
    rows = {name: rows.dtype for name, rows in again._state.tensors().items() if declared[name].dtype is None}
    assert set(rows.values()) == {torch.float32}, rows
    assert torch.allclose(single.positions.double(), double.positions, atol=1e-4)


def test_the_seed_goes_into_a_restart():
    batch = Batch.from_data_list([argon_crystal(2, 0)])
    engine = langevin(80.0, 2.0)
    engine.random_seed = 7
    engine.run(batch, 1)
    again = langevin(80.0, 2.0)
    again.load_state_dict(engine.state_dict())
    assert again.random_seed == 7


def test_a_step_that_is_assigned_to_fire_counts():
    steps = []
    for assigned in (False, True):
        batch = Batch.from_data_list([argon_crystal(2, 0)])
        engine = with_neighbor_hooks(FIRE(argon_model(), 0.1 if assigned else 0.3, dt_max=1.0, dt_min=0.01))
        engine.run(batch, 0)
        engine.dt = 0.3
        engine.run(batch, 3)
        steps.append(batch.positions.clone())
    assert torch.equal(*steps)
    with pytest.raises(InputError, match="must be at most 1"):
        engine.f_dec = 2.0
