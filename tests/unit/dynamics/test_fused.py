"""Fused stages: migration, budgets, entry, order of hooks, one forward pass."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import FIRE, NVE, ConvergenceHook, DynamicsStage, FusedStage, NVTLangevin
from athanor.errors import AthanorWarning, InputError
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks


class Recorder:
    """Notes what it sees at every stage."""

    frequency = 1
    stage = None

    def __init__(self, name="", log=None):
        self.name, self.log = name, [] if log is None else log
        self.status, self.steps = [], []

    def _runs_on_stage(self, stage):
        return True

    def __call__(self, ctx, stage):
        self.log.append((self.name, stage.name))
        if stage is DynamicsStage.AFTER_STEP:
            self.status.append(ctx.batch.status.flatten().tolist())
            self.steps.append(ctx.batch.stage_step.flatten().tolist())


def batch_of(*systems):
    return Batch.from_data_list(list(systems))


def counted(model):
    calls = []
    model.register_forward_hook(lambda *a: calls.append(1))
    return calls


def test_budgets_are_exact_and_each_step_is_one_forward_pass():
    model = argon_model()
    calls = counted(model)
    fused = with_neighbor_hooks(NVE(model, dt=2.0, n_steps=3) + NVE(model, dt=2.0, n_steps=4))
    recorder = Recorder()
    fused.register_hook(recorder)
    batch = fused.run(batch_of(argon_crystal(2, 0), argon_crystal(2, 1)))
    assert len(calls) == 1 + 7
    assert [row[0] for row in recorder.status] == [0, 0, 1, 1, 1, 1, 2]
    assert [row[0] for row in recorder.steps] == [1, 2, 0, 1, 2, 3, 0]
    assert batch.step.flatten().tolist() == [7, 7]
    assert batch.time.flatten().tolist() == pytest.approx([14.0, 14.0])


def test_converged_system_goes_on_to_the_next_stage_with_drawn_velocities():
    model = argon_model()
    relax = FIRE(model, dt=0.2, n_steps=400, convergence_hook=ConvergenceHook.from_fmax(1e-3))
    heat = NVTLangevin(model, dt=2.0, temperature=30.0, friction=0.01, n_steps=20)
    fused = with_neighbor_hooks(relax + heat)
    entries = []
    original = heat.on_enter

    def on_enter(batch, mask):
        original(batch, mask)
        entries.append((mask.tolist(), batch.velocities.abs().sum().item()))

    heat.on_enter = on_enter
    batch = fused.run(batch_of(argon_cluster(8, 0), argon_cluster(20, 1)))
    assert sorted(mask for mask, _ in entries) == [[False, True], [True, False]]
    assert all(total > 0 for _, total in entries)
    assert FusedStage.all_complete(batch, 2)
    assert int(batch.step[0]) != int(batch.step[1])


def test_velocities_are_kept_on_request():
    model = argon_model()
    first = NVE(model, dt=2.0, n_steps=2)
    second = NVTLangevin(model, dt=2.0, temperature=500.0, friction=0.0, n_steps=1, keep_velocities=True)
    batch = with_neighbor_hooks(first + second).run(batch_of(argon_crystal(2, 0)))
    alone = with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(batch_of(argon_crystal(2, 0)), 3)
    assert torch.allclose(batch.velocities, alone.velocities, atol=1e-12)


def test_system_changes_stage_at_most_once_a_step():
    model = argon_model()
    easy = ConvergenceHook.from_fmax(1e6)
    stages = [FIRE(model, dt=0.1, convergence_hook=easy) for _ in range(3)]
    fused = with_neighbor_hooks(stages[0] + stages[1] + stages[2])
    recorder = Recorder()
    fused.register_hook(recorder)
    fused.run(batch_of(argon_cluster(5, 0)))
    assert recorder.status == [[1], [2], [3]]


def test_order_of_hooks_over_all_levels():
    model = argon_model()
    log = []
    first, second = NVE(model, dt=1.0, n_steps=2), NVE(model, dt=1.0, n_steps=1)
    first.register_hook(Recorder("first", log))
    second.register_hook(Recorder("second", log))
    fused = with_neighbor_hooks(first + second)
    fused.register_hook(Recorder("fused", log))
    fused.run(batch_of(argon_cluster(5, 0)), n_steps=1)
    primed, step = log[:6], log[6:]
    both = [(who, at) for at in ("BEFORE_COMPUTE", "AFTER_COMPUTE") for who in ("fused", "first", "second")]
    assert primed == both
    assert step[:3] == [(who, "BEFORE_STEP") for who in ("fused", "first", "second")]
    assert step[3:9] == [
        ("fused", "BEFORE_PRE_UPDATE"), ("first", "BEFORE_PRE_UPDATE"), ("first", "AFTER_PRE_UPDATE"),
        ("second", "BEFORE_PRE_UPDATE"), ("second", "AFTER_PRE_UPDATE"), ("fused", "AFTER_PRE_UPDATE"),
    ]  # fmt: skip
    assert step[9:15] == both
    assert step[-3:] == [(who, "AFTER_STEP") for who in ("first", "second", "fused")]


def test_step_reports_systems_that_left_for_good():
    model = argon_model()
    fused = with_neighbor_hooks(FusedStage([(0, NVE(model, dt=1.0, n_steps=2))]))
    batch = batch_of(argon_cluster(5, 0), argon_cluster(6, 1))
    assert fused.step(batch)[1] is None
    assert fused.step(batch)[1].tolist() == [0, 1]


def test_status_that_a_hook_changes_counts_as_entry():
    class Mover:
        frequency, stage = 1, DynamicsStage.AFTER_STEP

        def __call__(self, ctx, stage):
            if ctx.step_count == 1:
                ctx.batch.status[0] = 1

    model = argon_model()
    heat = NVTLangevin(model, dt=1.0, temperature=20.0, friction=0.01, n_steps=5)
    fused = with_neighbor_hooks(FIRE(model, dt=0.1, n_steps=50) + heat)
    fused.register_hook(Mover())
    seen = []
    original = heat.on_enter
    heat.on_enter = lambda batch, mask: (seen.append(mask.tolist()), original(batch, mask))
    fused.run(batch_of(argon_cluster(5, 0), argon_cluster(6, 1)), n_steps=4)
    assert seen == [[True, False]]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: FusedStage([]), "at least one"),
        (lambda m: FusedStage([(1, NVE(m, dt=1.0, n_steps=1)), (0, NVE(m, dt=1.0))]), "larger code"),
        (lambda m: NVE(m, dt=1.0) + NVE(m, dt=1.0), "can never be left"),
        (lambda m: NVE(m, dt=1.0, n_steps=1) + NVE(argon_model(), dt=1.0), "another model"),
        (lambda m: FusedStage([(0, NVE(m, dt=1.0))], exit_status=0), "larger than the last code"),
        (lambda m: FusedStage([(0, NVE(m, dt=1.0))], compile_step=True), "compile_step"),
        (lambda m: FusedStage([(0, NVE(m, dt=1.0))]).run(), "needs a batch"),
    ],
)
def test_what_can_not_run_is_refused(build, words):
    with pytest.raises(InputError, match=words):
        build(argon_model())


def test_a_batch_without_systems_is_finished_at_once():
    model = argon_model()
    fused = with_neighbor_hooks(FIRE(model, dt=0.1, n_steps=3) + NVE(model, dt=1.0, n_steps=3))
    assert fused.run(Batch.empty()).num_graphs == 0
    assert fused.step_count == 0


def test_adding_something_else_is_a_type_error():
    with pytest.raises(TypeError):
        NVE(argon_model(), dt=1.0) + 3


def test_a_batch_that_never_ran_is_not_complete():
    assert not FusedStage.all_complete(batch_of(argon_crystal(1, 0)), 1)


def squeezed():
    batch = batch_of(argon_cluster(5, 0), argon_cluster(7, 1))
    batch.positions = 0.85 * batch.positions
    return batch


def relax_then_heat(**settings):
    model = argon_model()
    relax = FIRE(model, dt=0.3, **settings)
    return relax, with_neighbor_hooks(relax + NVE(model, dt=1.0, n_steps=2, convergence_hook=None))


def test_an_optimizer_before_another_stage_is_left_at_a_small_force_and_says_so():
    with pytest.warns(AthanorWarning, match=r"stage 0 \(FIRE\) has no criterion; .* at most 0.05 eV/Å") as said:
        relax, fused = relax_then_heat()
    assert len(said) == 1
    assert said[0].filename == __file__
    log = Recorder()
    fused.register_hook(log)
    batch = fused.run(squeezed())
    left = batch.step.flatten().tolist()
    assert relax.convergence_hook is None
    _, named = relax_then_heat(convergence_hook=ConvergenceHook.from_fmax(0.05))
    assert named.run(squeezed()).step.flatten().tolist() == left
    _, budget = relax_then_heat(n_steps=3)  # says when it is left, so nothing is added
    assert budget.run(squeezed()).step.flatten().tolist() == [5, 5]
    assert min(left) > 5


def test_a_criterion_that_an_optimizer_gets_later_counts_and_the_last_stage_gets_none(recwarn):
    relax, fused = relax_then_heat(n_steps=3)
    relax.n_steps, relax.convergence_hook = None, ConvergenceHook.from_fmax(1e6)
    assert fused.run(squeezed().index_select([0])).step.item() == 3
    model = argon_model()
    last = with_neighbor_hooks(NVE(model, dt=1.0, n_steps=1) + FIRE(model, dt=0.3))
    assert last.run(squeezed().index_select([0]), 300).step.item() == 300
    assert not [one for one in recwarn if issubclass(one.category, AthanorWarning)]
