"""The engine: what it creates, when it evaluates, when it stops, what it refuses."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import (
    FIRE,
    NVE,
    BaseDynamics,
    ConvergenceHook,
    DemoDynamics,
    DynamicsStage,
    FIREVariableCell,
    NVTLangevin,
)
from athanor.errors import ContractError, InputError, ModelOutputError
from athanor.hooks import WrapPeriodicHook
from athanor.models.demo import DemoModel, DemoModelWrapper
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks


def counted(model):
    calls = []
    model.register_forward_hook(lambda *a: calls.append(1))
    return calls


def test_forces_are_primed_and_result_fields_created():
    batch = Batch.from_data_list([argon_crystal(2, 5)])
    assert "forces" not in batch
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0))
    engine.run(batch, 0)
    assert {"forces", "energy", "status", "step", "time", "stage_step", "dof"} <= set(
        batch.field_names("node") + batch.field_names("system")
    )
    assert float(batch.energy) < 0


def test_fresh_results_are_not_computed_again_and_stale_ones_are():
    model = argon_model()
    calls = counted(model)
    engine = with_neighbor_hooks(NVE(model, dt=2.0))
    batch = Batch.from_data_list([argon_crystal(2, 5)])
    engine.run(batch, 3)
    engine.run(batch, 3)
    assert len(calls) == 1 + 6
    batch.positions[0] += 0.01
    engine.run(batch, 1)
    assert len(calls) == 9
    batch.positions = batch.positions.clone()
    engine.run(batch, 1)
    assert len(calls) == 11
    with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(batch, 0)
    assert not batch.results_fresh(model, frozenset({"forces"}))


def test_wrapping_keeps_results_fresh():
    model = argon_model()
    calls = counted(model)
    engine = with_neighbor_hooks(NVE(model, dt=2.0, hooks=[WrapPeriodicHook()]))
    batch = Batch.from_data_list([argon_crystal(2, 5)])
    engine.run(batch, 2)
    engine.run(batch, 2)
    assert len(calls) == 1 + 4


def test_ids_follow_the_largest_present():
    systems = [argon_cluster(3, 0) for _ in range(4)]
    for data, number in zip(systems, (7, -1, 2, -1), strict=True):
        data.system_id = torch.tensor([[number]])
    batch = Batch.from_data_list(systems)
    with_neighbor_hooks(NVE(argon_model(), dt=1.0)).run(batch, 1)
    assert batch.system_id.flatten().tolist() == [7, 8, 2, 9]


def test_converged_systems_stand_still_and_the_run_ends_early():
    class Names:
        frequency, stage = 1, DynamicsStage.ON_CONVERGE

        def __init__(self):
            self.seen = []

        def __call__(self, ctx, stage):
            self.seen += ctx.batch.system_id[ctx.converged_mask].flatten().tolist()

    names = Names()
    engine = FIRE(argon_model(), dt=0.2, hooks=[names], convergence_hook=ConvergenceHook.from_fmax(1e-3))
    batch = Batch.from_data_list([argon_cluster(4, 0), argon_cluster(20, 1)])
    with_neighbor_hooks(engine).run(batch, 2000)
    assert sorted(names.seen) == [0, 1]
    assert engine.step_count < 2000
    assert int(batch.step[0]) < int(batch.step[1]) == engine.step_count
    assert batch.status.flatten().tolist() == [0, 0]
    assert batch.time.flatten().tolist() == [0.0, 0.0]
    norms = batch.forces.norm(dim=1)
    assert float(norms.max()) <= 1e-3


def test_next_engine_goes_on_with_converged_systems():
    model = argon_model()
    batch = Batch.from_data_list([argon_cluster(4, 0)])
    relax = FIRE(model, dt=0.2, convergence_hook=ConvergenceHook.from_fmax(1e-2))
    with_neighbor_hooks(relax).run(batch, 2000)
    before = int(batch.step)
    with_neighbor_hooks(NVE(model, dt=1.0)).run(batch, 5)
    assert int(batch.step) == before + 5


def test_stress_is_requested_for_the_run_and_given_back():
    model = argon_model()
    assert "stress" not in model.model_config.active_outputs
    seen = []
    model.register_forward_hook(lambda *a: seen.append("stress" in model.model_config.active_outputs))
    engine = with_neighbor_hooks(FIREVariableCell(model, dt=0.1))
    batch = engine.run(Batch.from_data_list([argon_crystal(2, 0)]), 2)
    assert seen == [True] * 3
    assert "stress" not in model.model_config.active_outputs
    assert batch.stress.shape == (1, 3, 3)


def test_what_a_model_can_not_compute_is_refused_before_the_first_step():
    engine = FIREVariableCell(DemoModelWrapper(DemoModel()), dt=0.1)
    with pytest.raises(InputError, match="FIREVariableCell needs `stress`"):
        engine.run(Batch.from_data_list([argon_crystal(2, 0)]), 1)


def test_missing_output_names_it():
    class Liar(DemoModelWrapper):
        def forward(self, data, **kwargs):
            out = super().forward(data, **kwargs)
            out["forces"] = None
            return out

    with pytest.raises(ModelOutputError, match="`forces`"):
        DemoDynamics(Liar(DemoModel()), n_steps=1).run(Batch.from_data_list([argon_cluster(3, 0)]))


def test_demo_model_runs_and_leaves_no_graph():
    batch = Batch.from_data_list([argon_cluster(3, 0), argon_cluster(4, 1)])
    batch.forces = torch.zeros_like(batch.positions)
    DemoDynamics(model=DemoModelWrapper(DemoModel()), n_steps=5, dt=0.5).run(batch)
    for name in ("positions", "velocities", "forces", "energy"):
        assert not batch[name].requires_grad
        assert batch[name].grad_fn is None


class Drift(BaseDynamics):
    """A user's integrator, written from the guide: straight lines."""

    __needs_keys__ = {"forces"}
    __provides_keys__ = {"positions"}

    def pre_update(self, batch):
        batch.positions = batch.positions + 0.1 * batch.velocities


def test_user_integrators_may_assign():
    batch = Batch.from_data_list([argon_crystal(2, 0), argon_crystal(2, 1)])
    start = batch.positions.clone()
    engine = with_neighbor_hooks(Drift(argon_model(), n_steps=3))
    batch.ensure_field("status")
    batch.status[0] = 1
    engine.run(batch)
    first = batch.batch_idx == 0
    assert torch.equal(batch.positions[first], start[first])
    assert not torch.equal(batch.positions[~first], start[~first])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dt": 0.0}, InputError, "`dt` is 0.0"),
        ({"dt": float("nan")}, InputError, "finite"),
        ({"dt": 1.0, "n_steps": -1}, InputError, "n_steps"),
        ({"dt": 1.0, "on_error": "ignore"}, InputError, "quarantine"),
        ({"dt": 1.0, "sampler": object()}, ContractError, "sampler"),
        ({"dt": 1.0, "sinks": [3]}, ContractError, "sinks"),
        ({"dt": 1.0, "refill_frequency": 0}, InputError, "refill_frequency"),
        ({"dt": 1.0, "init_fn": 3}, ContractError, "init_fn"),
        ({"dt": 1.0, "nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        NVE(argon_model(), **arguments)


def test_run_needs_steps_and_a_wrapped_model():
    with pytest.raises(InputError, match="n_steps"):
        NVE(argon_model(), dt=1.0).run(Batch.from_data_list([argon_cluster(3, 0)]))
    with pytest.raises(TypeError, match="BaseModelMixin"):
        NVE(torch.nn.Linear(1, 1), dt=1.0)


def test_per_system_time_steps():
    dt = torch.tensor([1.0, 3.0])
    batch = Batch.from_data_list([argon_crystal(2, 0), argon_crystal(2, 1)])
    with_neighbor_hooks(NVE(argon_model(), dt=dt)).run(batch, 4)
    assert batch.time.flatten().tolist() == pytest.approx([4.0, 12.0])
    alone = Batch.from_data_list([argon_crystal(2, 1)])
    with_neighbor_hooks(NVE(argon_model(), dt=3.0)).run(alone, 4)
    assert torch.equal(batch.get_data(1).positions, alone.positions)
    with pytest.raises(InputError, match="leading size 2"):
        with_neighbor_hooks(NVE(argon_model(), dt=dt)).run(
            Batch.from_data_list([argon_crystal(2, number) for number in range(3)]), 1
        )


def test_per_system_values_may_be_a_column_as_system_fields_are():
    flat, column = (Batch.from_data_list([argon_crystal(2, 0), argon_crystal(2, 1)]) for _ in range(2))
    dt, temperature = torch.tensor([1.0, 3.0]), torch.tensor([20.0, 60.0])
    for batch, shape in ((flat, (2,)), (column, (2, 1))):
        values = {"dt": dt.reshape(shape), "temperature": temperature.reshape(shape), "friction": 0.01}
        with_neighbor_hooks(NVTLangevin(argon_model(), **values)).run(batch, 3)
    assert torch.equal(flat.positions, column.positions)
    assert column.time.flatten().tolist() == pytest.approx([3.0, 9.0])
    with pytest.raises(InputError, match=r"`dt` has shape \(2, 3\)"):
        with_neighbor_hooks(NVE(argon_model(), dt=torch.ones(2, 3))).run(flat, 1)


def test_degrees_of_freedom_are_those_of_the_engine_that_runs():
    batch = Batch.from_data_list([argon_crystal(2, 0)])
    atoms = batch.num_nodes
    model = argon_model()
    nve = with_neighbor_hooks(NVE(model, dt=1.0))
    nvt = with_neighbor_hooks(NVTLangevin(model, dt=1.0, temperature=30.0, friction=0.01))
    for engine, expected in ((nve, 3 * atoms - 3), (nvt, 3 * atoms), (nve, 3 * atoms - 3)):
        engine.run(batch, 1)
        assert float(batch.dof) == expected
    batch.fixed = torch.arange(atoms) < 5
    nve.run(batch, 1)
    assert float(batch.dof) == 3 * (atoms - 5)


@pytest.mark.parametrize("in_place", [False, True])
def test_atoms_that_become_fixed_between_two_steps_stand_still(in_place):
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0))
    batch = Batch.from_data_list([argon_crystal(2, 5)])
    batch.fixed = torch.zeros(batch.num_nodes, dtype=torch.bool)
    engine.step(batch)
    before = batch.positions.clone()
    if in_place:
        batch.fixed[:5] = True
    else:
        batch.fixed = torch.arange(batch.num_nodes) < 5
    engine.step(batch)
    moved = (batch.positions != before).any(dim=1)
    assert not bool(moved[:5].any())
    assert bool(moved[5:].all())


@pytest.mark.parametrize("place", ["BEFORE_STEP", "AFTER_COMPUTE", "AFTER_STEP"])
def test_a_hook_that_changes_the_number_of_systems_is_told(place):
    class Feeds:
        frequency, stage = 1, DynamicsStage[place]

        def __call__(self, ctx, stage):
            ctx.batch.append(Batch.from_data_list([argon_cluster(4, 3)]))

    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[Feeds()]))
    with pytest.raises(InputError, match=rf"A hook at {place} changed the batch from 1 to 2 systems"):
        engine.run(Batch.from_data_list([argon_cluster(5, 1)]), 2)


def test_a_model_that_hands_its_input_through_changes_no_state():
    class Echo(DemoModelWrapper):
        def forward(self, data, **kwargs):
            given = {name: 0.5 * data[name] for name in ("positions", "atomic_masses")}
            stopped = {name: torch.ones_like(data[name]) for name in ("status", "step", "failure_code")}
            return super().forward(data, **kwargs) | given | stopped

    runs = []
    for wrapper in (DemoModelWrapper, Echo):
        torch.manual_seed(3)
        batch = Batch.from_data_list([argon_cluster(5, 1)])
        NVE(wrapper(DemoModel()), dt=1.0).run(batch, 4)
        runs.append(batch)
    assert torch.equal(runs[0].positions, runs[1].positions)
    assert int(runs[1].step) == 4


def test_a_stress_of_other_positions_does_not_stay():
    model = argon_model()
    batch = Batch.from_data_list([argon_crystal(2, 5), argon_crystal(2, 6)])
    with_neighbor_hooks(FIREVariableCell(model, dt=0.1)).run(batch, 3)
    relaxed = batch.stress.clone()
    heat = with_neighbor_hooks(NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01))
    heat.run(batch, 0)
    assert torch.equal(batch.stress, relaxed)
    batch.status = torch.tensor([[0], [1]])
    heat.run(batch, 2)
    assert bool(batch.stress[0].isnan().all())
    assert torch.equal(batch.stress[1], relaxed[1])
    batch.status = torch.zeros(2, 1, dtype=torch.long)
    heat.run(batch, 2)
    assert "stress" not in batch


def test_state_follows_systems_that_join():
    engine = with_neighbor_hooks(FIRE(argon_model(), dt=0.2))
    batch = Batch.from_data_list([argon_cluster(9, 4)])
    engine.run(batch, 12)
    batch.append(Batch.from_data_list([argon_cluster(6, 9)]))
    engine.run(batch, 12)
    whole = Batch.from_data_list([argon_cluster(9, 4)])
    with_neighbor_hooks(FIRE(argon_model(), dt=0.2)).run(whole, 24)
    assert torch.equal(batch.get_data(0).positions, whole.positions)
    fresh = Batch.from_data_list([argon_cluster(6, 9)])
    with_neighbor_hooks(FIRE(argon_model(), dt=0.2)).run(fresh, 12)
    assert torch.equal(batch.get_data(1).positions, fresh.positions)


def test_a_hook_that_can_not_open_leaves_engine_and_model_as_they_were():
    class Locked:
        frequency, stage = 1, DynamicsStage.AFTER_STEP

        def __enter__(self):
            raise OSError("locked")

        def __call__(self, ctx, stage):
            """Never reached."""

    model = argon_model()
    engine = with_neighbor_hooks(FIREVariableCell(model, dt=0.1, hooks=[Locked()]))
    batch = Batch.from_data_list([argon_crystal(2, 5)])
    with pytest.raises(OSError, match="locked"):
        engine.run(batch, 1)
    assert model.model_config.active_outputs == {"energy", "forces"}
    assert not engine._running


def test_masked_update_moves_the_chosen_systems_alone():
    batch = Batch.from_data_list([argon_crystal(2, 5), argon_crystal(2, 6)])
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0))
    engine.run(batch, 0)
    before = batch.clone()
    engine.masked_update(batch, torch.tensor([False, True]))
    assert torch.equal(batch.get_data(0).positions, before.get_data(0).positions)
    assert torch.equal(batch.get_data(0).velocities, before.get_data(0).velocities)
    assert not torch.equal(batch.get_data(1).positions, before.get_data(1).positions)
    assert not batch.results_fresh(engine.model, frozenset({"forces"}))


def test_who_honours_the_active_set_and_who_is_restored():
    """The word counts of the class that defines a half, also if it defines one half only."""

    class Overridden(NVE):
        def post_update(self, batch):
            super().post_update(batch)

    class OneHalf(BaseDynamics):
        def pre_update(self, batch):
            batch.positions.add_(0.1)

    model = argon_model()
    ours = (NVE(model, dt=1.0), FIRE(model, dt=0.1), FIREVariableCell(model, dt=0.1), DemoDynamics(model, 1))
    assert [engine._selects_active_itself for engine in ours] == [True] * 4
    assert not Overridden(model, dt=1.0)._selects_active_itself
    assert not OneHalf(model)._selects_active_itself


def test_an_engine_says_where_its_batches_belong_and_which_process_it_is(monkeypatch):
    model = argon_model()
    engine = NVE(model, dt=1.0)
    assert engine.device == torch.device("cpu")
    assert (engine.global_rank, engine.local_rank) == (0, 0)
    assert NVE(DemoModelWrapper(DemoModel()).to("meta"), dt=1.0).device == torch.device("meta")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 11)
    assert (engine.global_rank, engine.local_rank) == (11, 3)
    assert engine.make_context(DynamicsStage.AFTER_STEP, None).global_rank == 11


def test_a_hook_that_is_appended_to_the_list_is_called():
    seen = []

    class Look:
        frequency, stage = 1, DynamicsStage.AFTER_STEP

        def __call__(self, ctx, stage):
            seen.append(ctx.step_count)
            if ctx.step_count == 2:
                ctx.workflow.hooks.remove(self)

    engine = with_neighbor_hooks(NVE(argon_model(), dt=1.0))
    engine.run(Batch.from_data_list([argon_cluster(4, 0)]), 1)
    engine.hooks.append(Look())
    engine.run(Batch.from_data_list([argon_cluster(4, 0)]), 5)
    assert seen == [1, 2]
