"""FreezeAtomsHook: atoms that are at no moment displaced, and that nobody counts."""

from __future__ import annotations

import warnings

import pytest
import torch

from athanor._typing import AtomCategory
from athanor.data import Batch, observables
from athanor.dynamics import FIRE, NVE, NVTCSVR, Brownian, FIREVariableCell, NVTAndersen, NVTLangevin, NVTNoseHoover
from athanor.dynamics.hooks import FreezeAtomsHook
from athanor.errors import AthanorWarning, InputError
from athanor.hooks.stages import DynamicsStage
from athanor.testing.dynamics_contract import argon_crystal

from .runs import AFTER_COMPUTE, FROZEN, argon, bare, engine_with

HEAT = {"dt": 4.0, "temperature": 60.0, "friction": 0.01, "random_seed": 3}


class PutsBack:
    """Mutant: atoms move with the others, and are put back at the end of each step."""

    frequency, stage = 1, None

    def _runs_on_stage(self, stage):
        return stage in (DynamicsStage.BEFORE_PRE_UPDATE, DynamicsStage.AFTER_POST_UPDATE)

    def __call__(self, ctx, stage):
        held = ctx.batch.atom_categories == FROZEN
        if stage is DynamicsStage.BEFORE_PRE_UPDATE:
            self.kept = ctx.batch.positions.clone()
        else:
            ctx.batch.positions[held] = self.kept[held]
            ctx.batch.velocities[held] = 0.0


def largest_displacement_seen_by_the_model(hook, kind=NVTLangevin, **arguments) -> float:
    batch = argon(0, 1, frozen=6)
    held, start, seen = batch.atom_categories == FROZEN, batch.positions.clone(), []
    engine = engine_with(kind, hook, **(arguments or HEAT))
    engine.model.register_forward_hook(
        lambda model, given, found: seen.append(float((given[0].positions - start)[held].norm(dim=1).max()))
    )
    engine.run(batch, 10)
    assert len(seen) > 10
    assert float((batch.positions - start)[~held].norm(dim=1).min()) > 0
    return max(seen)


def test_frozen_atoms_are_displaced_at_no_moment():
    assert largest_displacement_seen_by_the_model(FreezeAtomsHook()) == 0.0
    assert largest_displacement_seen_by_the_model(FreezeAtomsHook(), NVE, dt=4.0) == 0.0
    assert largest_displacement_seen_by_the_model(FreezeAtomsHook(), FIRE, dt=0.1) == 0.0
    bath = {"dt": 4.0, "temperature": 60.0}
    for kind, coupling in (
        (NVTNoseHoover, {"thermostat_time": 100.0}),
        (NVTCSVR, {"thermostat_time": 100.0}),
        (NVTAndersen, {"collision_rate": 0.05}),
        (Brownian, {"friction": 0.05}),
    ):
        assert largest_displacement_seen_by_the_model(FreezeAtomsHook(), kind, **bath, **coupling) == 0.0
    assert largest_displacement_seen_by_the_model(PutsBack()) > 1e-3, "a hook that puts them back would be noticed"


@pytest.mark.parametrize(("hook", "counted"), [(FreezeAtomsHook, 26), (PutsBack, 31)])
def test_frozen_atoms_are_no_degrees_of_freedom(hook, counted):
    batch, seen = argon(0, frozen=6), []
    engine = engine_with(NVTLangevin, hook(), **HEAT)

    def watch(ctx, stage):
        seen.append((float(ctx.batch.dof), float(observables.temperature(ctx.batch))))

    watch.frequency, watch.observes = 1, True
    engine.register_hook(watch, DynamicsStage.AFTER_STEP)
    engine.run(batch, 600)
    dof = {value for value, _ in seen}
    assert (dof == {3.0 * 26}) == (hook is FreezeAtomsHook)
    mean = sum(value for _, value in seen[100:]) / len(seen[100:])
    assert (abs(mean - 60.0) < 6.0) == (hook is FreezeAtomsHook), f"{mean} K"


def test_forces_on_frozen_atoms_are_not_shown():
    found = {}
    for zero in (True, False):
        batch = argon(0, 1, frozen=6)
        batch.fixed = torch.zeros(batch.num_nodes, dtype=torch.bool)
        batch.fixed[7] = True
        engine_with(NVE, FreezeAtomsHook(zero_forces=zero), dt=2.0).run(batch, 3)
        found[zero] = batch.forces
        held = batch.atom_categories == FROZEN
    assert bool((found[True][held] == 0).all())
    assert bool((found[False][held].norm(dim=1) > 0).all())
    assert torch.equal(found[True][~held], found[False][~held])
    assert bool((found[True][7] != 0).any()), "what the user fixed keeps its forces"


def test_they_are_free_again_after_the_run_also_after_an_error():
    batch = argon(0, frozen=6)
    batch.fixed = torch.zeros(32, dtype=torch.bool)
    batch.fixed[[0, 20]] = True
    seen = []

    def stop(ctx, stage):
        seen.append(int(ctx.batch.fixed.sum()))
        if len(seen) == 3:
            raise ValueError("enough")

    stop.frequency = 1
    engine = engine_with(NVE, FreezeAtomsHook(freeze_category=AtomCategory.SPECIAL), dt=2.0)
    engine.register_hook(stop, DynamicsStage.AFTER_STEP)
    with pytest.raises(ValueError, match="enough"):
        engine.run(batch, 10)
    assert seen == [7, 7, 7]
    assert batch.fixed.nonzero().flatten().tolist() == [0, 20]
    engine.undo_unfinished_step(batch)
    engine.step(batch)
    assert seen == [7, 7, 7, 7]
    assert batch.fixed.nonzero().flatten().tolist() == [0, 20]
    start = batch.positions.clone()
    engine_with(NVE, dt=2.0).run(batch, 3)
    assert bool(((batch.positions - start)[1:6].norm(dim=1) > 0).all())


def test_in_a_fused_run_only_the_systems_of_the_stage_are_held():
    batch, seen = argon(0, 1, frozen=6), []
    batch.status = torch.tensor([[0], [1]])
    held = batch.atom_categories == FROZEN
    relax = engine_with(FIRE, FreezeAtomsHook(), dt=0.1, n_steps=4)
    heat = engine_with(NVTLangevin, model=relax.model, **HEAT, n_steps=8)
    fused = relax + heat

    def watch(ctx, stage):
        seen.append((ctx.batch.fixed.reshape(2, -1).sum(1).tolist(), ctx.batch.dof.flatten().tolist()))

    watch.frequency, watch.observes = 1, True
    fused.register_hook(watch, DynamicsStage.AFTER_STEP)
    start = batch.positions.clone()
    fused.run(batch, 4)
    assert seen[-1] == ([6, 0], [78.0, 96.0])
    moved = (batch.positions - start).norm(dim=1)
    assert bool((moved[:32][held[:32]] == 0).all())
    assert bool((moved[32:] > 0).all())
    fused.run(batch, 5)
    assert seen[4] == ([0, 0], [96.0, 96.0])
    assert bool((batch.velocities[:6] != 0).all()), "the next stage draws velocities for all of them"


def test_a_frozen_system_does_not_depend_on_its_companions():
    alone, together = argon(1, frozen=6), argon(0, 1, 2, frozen=6)
    for batch in (alone, together):
        engine_with(NVTLangevin, FreezeAtomsHook(), **HEAT).run(batch, 15)
    assert torch.equal(together.positions[32:64], alone.positions)
    assert torch.equal(together.velocities[32:64], alone.velocities)


def test_they_are_free_again_if_a_run_never_began():
    batch = argon(0, frozen=6)
    batch.velocities = None
    engine = engine_with(NVE, FreezeAtomsHook(), dt=2.0)
    engine.warns_of_start = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AthanorWarning, match="at rest"):
            engine.run(batch, 1)
    assert not bool(batch.fixed.any())


@pytest.mark.parametrize("frozen", [0, 32])
def test_none_and_all(frozen):
    batch, other = argon(0, frozen=frozen), argon(0)
    engine_with(NVE, FreezeAtomsHook(), dt=2.0).run(batch, 5)
    engine_with(NVE, dt=2.0).run(other, 5)
    assert torch.equal(batch.positions, other.positions if frozen == 0 else argon(0).positions)


def test_frozen_atoms_keep_their_place_in_a_moving_cell():
    batch = Batch.from_data_list([argon_crystal(2, 0, strain=0.02)])
    batch.atom_categories = torch.zeros(32, dtype=torch.int64)
    batch.atom_categories[:6] = 5
    fractional = torch.linalg.solve(batch.cell[0].T, batch.positions.T).T
    cell = batch.cell.clone()
    engine_with(FIREVariableCell, FreezeAtomsHook(freeze_category=5), dt=0.1).run(batch, 20)
    assert float((batch.cell - cell).abs().max()) > 5e-4
    now = torch.linalg.solve(batch.cell[0].T, batch.positions.T).T
    torch.testing.assert_close(now[:6], fractional[:6], rtol=0, atol=1e-12)


def test_another_category_and_what_is_refused():
    batch = argon(0, frozen=3)
    batch.atom_categories[5] = 7
    start = batch.positions.clone()
    engine_with(NVE, FreezeAtomsHook(freeze_category=7), dt=2.0).run(batch, 3)
    assert ((batch.positions - start).norm(dim=1) == 0).nonzero().flatten().tolist() == [5]
    with pytest.raises(InputError, match="freeze_category"):
        FreezeAtomsHook(freeze_category="SPECIAL")


def test_it_can_be_compiled_whole():
    fields = {
        "forces": torch.ones(7, 3, dtype=torch.float64),
        "atom_categories": torch.tensor([-1, 0, 0, -1, 0, 0, 0]),
        "fixed": torch.tensor([True, True, False, False, False, False, False]),
    }
    eager, compiled = (bare(**{name: value.clone() for name, value in fields.items()}) for _ in range(2))
    FreezeAtomsHook()(eager, AFTER_COMPUTE)
    torch.compile(FreezeAtomsHook().__call__, fullgraph=True, backend="eager")(compiled, AFTER_COMPUTE)
    for ctx in (eager, compiled):
        assert (ctx.batch.forces == 0).all(dim=1).nonzero().flatten().tolist() == [0]
