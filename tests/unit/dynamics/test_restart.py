"""What `state_dict` carries is enough to go on with equal bits, for the systems that it is about."""

from __future__ import annotations

import gc
import pickle

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import FIRE, NVE, ConvergenceHook, FIREVariableCell, NVTLangevin
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks


def systems() -> Batch:
    return Batch.from_data_list([argon_crystal(2, 3), argon_cluster(9, 1)])


def fused() -> FIRE:
    model = argon_model()
    return with_neighbor_hooks(
        FIRE(model, dt=0.3, n_steps=6) + NVTLangevin(model, 4.0, temperature=60.0, friction=0.02)
    )


def copied(batch: Batch, *, with_state: bool) -> Batch:
    if with_state:
        return pickle.loads(pickle.dumps(batch))
    return Batch.from_data_list([entry.clone() for entry in batch.without_pairs().to_data_list()])


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("steps", [3, 6, 8])
def test_a_fused_run_restarts_in_each_stage_and_between(steps: int, with_state: bool) -> None:
    whole, first = systems(), systems()
    fused().run(whole, 12)
    engine = fused()
    engine.run(first, steps)
    saved, second = pickle.loads(pickle.dumps(engine.state_dict())), copied(first, with_state=with_state)
    del engine
    again = fused()
    again.load_state_dict(saved)
    again.run(second, 12 - steps)
    for name in ("positions", "velocities", "step", "status"):
        close = torch.allclose(whole[name], second[name], rtol=0.0, atol=1e-12)  # a list searched anew sums otherwise
        assert torch.equal(whole[name], second[name]) if with_state else close, name


def test_a_system_that_joined_after_the_last_run_starts_fresh() -> None:
    """Mutant: its rows, which nobody wrote yet, are saved as if they were known; its time step is 0 then."""
    engine, batch = with_neighbor_hooks(NVE(argon_model(), dt=2.0)), systems()
    engine.run(batch, 3)
    batch.append(Batch.from_data_list([argon_crystal(2, 8)]))
    saved, other = engine.state_dict(), copied(batch, with_state=True)
    engine.run(batch, 3)
    again = with_neighbor_hooks(NVE(argon_model(), dt=2.0))
    again.load_state_dict(saved)
    again.run(other, 3)
    assert torch.equal(batch.positions, other.positions)
    assert not torch.equal(batch.get_data(2).positions, argon_crystal(2, 8).positions)


def test_a_converged_system_moves_again_after_a_restart_as_without() -> None:
    def make() -> FIRE:
        return with_neighbor_hooks(FIRE(argon_model(), dt=0.3, convergence_hook=ConvergenceHook.from_fmax(0.03)))

    engine, batch = make(), systems()
    engine.run(batch, 60)
    saved, other = engine.state_dict(), copied(batch, with_state=True)
    done = batch.step.clone()
    engine.run(batch, 5)
    again = make()
    again.load_state_dict(saved)
    again.run(other, 5)
    assert torch.equal(batch.step, other.step)
    assert bool((batch.step > done).all())


def test_rows_outlive_a_twin_that_was_restored_from_them() -> None:
    model, batch = argon_model(), systems()
    engine = with_neighbor_hooks(FIRE(model, dt=0.3))
    engine.run(batch, 3)
    twin = FIRE(model, dt=0.3)
    twin.load_state_dict(engine.state_dict())
    del twin
    gc.collect()
    with_neighbor_hooks(NVE(model, dt=2.0)).run(batch, 1)
    saved = engine.state_dict()["state"]["rows"]
    assert float(saved["dt"].min()) > 0.0
    engine.run(batch, 2)
    assert int(batch.step.max()) == 6


def test_single_steps_ask_the_model_for_what_they_need() -> None:
    """As a run does: nobody has to set `active_outputs` for an optimizer that reads the stress."""
    whole, stepped = systems(), systems()
    with_neighbor_hooks(FIREVariableCell(argon_model(), dt=0.3)).run(whole, 3)
    engine = with_neighbor_hooks(FIREVariableCell(argon_model(), dt=0.3))
    asked = set(engine.model.model_config.active_outputs)
    for _ in range(3):
        engine.step(stepped)
    assert torch.equal(whole.cell, stepped.cell)
    assert set(engine.model.model_config.active_outputs) == asked
