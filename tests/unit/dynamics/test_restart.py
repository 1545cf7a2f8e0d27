"""What `state_dict` carries is enough to go on with equal bits, for the systems that it is about."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import FIRE, NPT, NVE, ConvergenceHook, DynamicsStage, FIREVariableCell, NVTLangevin
from athanor.dynamics import engine as engine_module
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


MAKERS = {
    "FIRE": lambda: with_neighbor_hooks(FIREVariableCell(argon_model(), dt=0.2)),
    "Langevin": lambda: with_neighbor_hooks(NVTLangevin(argon_model(), 4.0, temperature=60.0, friction=0.02)),
    "NPT": lambda: with_neighbor_hooks(NPT(argon_model(), 4.0, 60.0, 0.001, 400.0, 100.0)),
    "fused": fused,
}


def goes_on_after_pickling(make, copy, steps: int) -> bool:
    """Whether an engine and a batch that were copied together, and the originals thrown away, end as undisturbed."""
    whole, batch, engine = systems(), systems(), make()
    make().run(whole, 12)
    engine.run(batch, steps)
    together = engine, batch
    engine, batch = copy(together)
    del together
    gc.collect()
    engine.run(batch, 12 - steps)
    return all(torch.equal(whole[name], batch[name]) for name in ("positions", "cell", "step", "status"))


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_an_engine_that_ran_is_pickled_and_goes_on_with_its_batch(make, monkeypatch) -> None:
    def pickled(both):
        return pickle.loads(pickle.dumps(both))

    for steps in (4, 6):  # the fused run is in its first stage, and between both
        assert goes_on_after_pickling(make, pickled, steps)
        assert goes_on_after_pickling(make, copy.deepcopy, steps)
    if make is not MAKERS["Langevin"]:  # which has no memory
        monkeypatch.setattr(engine_module, "take_key", lambda owner, key: None)  # mutant: nobody owns the rows any more
        assert not goes_on_after_pickling(make, pickled, 4)


def test_a_pickled_engine_brings_nothing_of_one_batch_to_another() -> None:
    engine = MAKERS["FIRE"]()
    engine.run(systems(), 6)
    again, fresh = pickle.loads(pickle.dumps(engine)), MAKERS["FIRE"]()
    assert (again.step_count, len(again.hooks)) == (6, 1)
    assert torch.equal(again.run(systems(), 4).positions, fresh.run(systems(), 4).positions)


@pytest.mark.parametrize("leave", [lambda batch: batch.index_select([0]), lambda batch: batch.remove_systems([1])])
def test_those_that_stay_go_on_when_others_leave(leave) -> None:
    for make in MAKERS.values():
        whole, batch, engine = systems(), systems(), make()
        make().run(whole, 12)
        engine.run(batch, 6)
        batch = leave(batch) or batch
        engine.run(batch, 6)
        for name in ("positions", "cell", "step", "status"):
            assert torch.equal(whole.get_data(0)[name], batch.get_data(0)[name]), name


def test_hooks_of_a_smaller_batch_are_told_of_its_systems_only() -> None:
    masks = []

    class Look:
        frequency, stage = 1, DynamicsStage.AFTER_STEP

        def __call__(self, ctx, stage):
            masks.append(None if ctx.converged_mask is None else ctx.converged_mask.tolist())

    engine = FIRE(argon_model(), dt=0.2, convergence_hook=ConvergenceHook.from_fmax(1e6), hooks=[Look()])
    with_neighbor_hooks(engine)
    batch = systems()
    engine.run(batch, 5)
    engine.run(batch.index_select([1]), 5)
    engine.convergence_hook = ConvergenceHook.from_fmax(1e-9)
    engine.run(systems(), 1)
    engine.run(Batch.from_data_list([argon_cluster(5, 0)]), 1)
    assert masks == [[True, True], [True], None, None]
