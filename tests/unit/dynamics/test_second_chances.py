"""A system that failed goes some steps back and on with smaller ones; nobody else notices, and physics is right."""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import (
    FIRE,
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    BaseDynamics,
    Brownian,
    ConvergenceHook,
    FailureCode,
    FIREVariableCell,
    FusedStage,
    HostMemory,
    NPTCRescale,
    NPTLangevin,
    NVTAndersen,
    NVTLangevin,
    NVTNoseHoover,
    SizeAwareSampler,
    explain_failure,
    ramp,
    second_chances,
)
from athanor.dynamics import engine as engine_module
from athanor.dynamics import noise as noise_module
from athanor.dynamics.engine import BaseDynamics as Engine
from athanor.dynamics.hooks import EnergyDriftMonitorHook
from athanor.dynamics.last_good import LastGood
from athanor.dynamics.second_chances import SecondChances
from athanor.errors import InputError, SimulationError
from athanor.hooks import DynamicsStage
from athanor.testing.dynamics_contract import (
    argon_cluster,
    argon_crystal,
    argon_model,
    total_energy,
    with_neighbor_hooks,
)

FIELDS = ("positions", "velocities", "forces", "energy", "cell", "step", "time", "stage_step", "status")
SMALL_GAPS = 3
"""Steps between two states that are kept, in tests of few steps."""


class Breaks:
    """Breaks one system in the steps of its own that are named, as a hook or a potential may."""

    frequency, stage, on_active = 1, DynamicsStage.AFTER_PRE_UPDATE, True

    def __init__(self, system_id: int, steps: Any, how: str = "NaN") -> None:
        self.system_id, self.steps, self.how = system_id, steps, how

    def __call__(self, ctx: Any, stage: Any) -> None:
        batch = ctx.batch
        for place in (batch.system_id[:, 0] == self.system_id).nonzero().flatten().tolist():
            if int(batch.step[place]) in self.steps and bool(ctx.active_mask[place]):
                positions = batch.positions[batch.batch_ptr[place] : batch.batch_ptr[place + 1]]
                if self.how == "overlap":
                    positions[1] = positions[0]
                else:
                    positions *= {"NaN": float("nan"), "infinite": float("inf"), "blow-up": 1e15}[self.how]


def langevin(model: Any, dt: float = 4.0, **options: Any) -> BaseDynamics:
    return NVTLangevin(model, dt, temperature=60.0, friction=0.02, **options)


PRESSED = {"temperature": 60.0, "pressure": 0.001, "barostat_time": 200.0}
INTEGRATORS: dict[str, Callable[..., BaseDynamics]] = {
    "NVE": NVE,
    "Langevin": langevin,
    "Nose-Hoover": partial(NVTNoseHoover, temperature=60.0, thermostat_time=50.0),
    "CSVR": partial(NVTCSVR, temperature=60.0, thermostat_time=50.0),
    "Andersen": partial(NVTAndersen, temperature=60.0, collision_rate=0.02),
    "Brownian": partial(Brownian, temperature=60.0, friction=0.1),
    "NPH": partial(NPH, pressure=0.001, barostat_time=200.0),
    "NPT": partial(NPT, thermostat_time=50.0, **PRESSED),
    "NPT Langevin": partial(NPTLangevin, friction=0.02, **PRESSED),
    "NPT rescaling": partial(NPTCRescale, thermostat_time=50.0, **PRESSED),
}
ENGINES: dict[str, Callable[..., BaseDynamics]] = {
    **{name: partial(make, dt=4.0) for name, make in INTEGRATORS.items()},
    "FIRE": partial(FIRE, dt=0.3),
    "cell": partial(FIREVariableCell, dt=0.3),
}


def crystals(*ids: int) -> Batch:
    return Batch.from_data_list([argon_crystal(2 if one == 3 else 1, one) for one in ids])


def same_bits(one: Any, two: Any, fields: tuple[str, ...] = FIELDS) -> bool:
    return all(one[name] is two[name] or torch.equal(one[name], two[name]) for name in fields)


# -- nobody else notices ---------------------------------------------------------------------------------------------


def others_notice(name: str, how: str, on_error: str, seed: int) -> bool:
    """Whether those beside a system that breaks, once or for good, take another path than without it."""
    chance = random.Random(seed)
    first = chance.randrange(12)
    steps = range(first, 99) if seed % 2 else [first, first + 3]
    model, hooks = argon_model(), [Breaks(7, steps, how)]
    engine = with_neighbor_hooks(ENGINES[name](model, hooks=hooks, on_error=on_error))
    batch, alone = crystals(3, 7, 5, 6), crystals(3, 5, 6)
    engine.run(batch, 18)
    with_neighbor_hooks(ENGINES[name](model)).run(alone, 18)
    failed = on_error == "quarantine" or bool(seed % 2)
    assert (int(batch.failure_code[1]) != 0) is failed
    if on_error == "retry":
        assert int(batch.retries[1]) == (3 if seed % 2 else 2)
        assert batch.retries.sum() == batch.retries[1]
    return not same_bits(batch.index_select([0, 2, 3]), alone)


@pytest.mark.parametrize("on_error", ["quarantine", "retry"])
@pytest.mark.parametrize("name", ENGINES)
def test_one_bad_system_is_noticed_by_no_other(name: str, on_error: str) -> None:
    for seed, how in enumerate(("NaN", "infinite", "blow-up", "overlap", "overlap", "NaN")):
        assert not others_notice(name, how, on_error, seed), how


def everybody_goes_back(self: SecondChances, systems: torch.Tensor) -> None:
    go_back(self, torch.ones_like(systems))


def everybody_takes_smaller_steps(self: Engine, batch: Batch, systems: torch.Tensor) -> None:
    take_smaller_steps(self, batch, torch.ones_like(systems))


go_back, take_smaller_steps = SecondChances.go_back, Engine.take_smaller_steps


def test_it_would_be_seen_if_others_went_along(monkeypatch: pytest.MonkeyPatch) -> None:
    for home, name, mutant in (
        (SecondChances, "go_back", everybody_goes_back),
        (Engine, "take_smaller_steps", everybody_takes_smaller_steps),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(home, name, mutant)
            assert others_notice("Langevin", "NaN", "retry", 0), name


@pytest.mark.parametrize("on_error", ["quarantine", "retry"])
@pytest.mark.parametrize("name", ["Langevin", "FIRE", "stages"])
def test_in_a_run_in_flight_each_is_as_alone_and_failed_ones_are_apart(
    name: str, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_chances, "EVERY", SMALL_GAPS)
    ways = ("NaN", "infinite", "blow-up", "overlap")
    fates = {2: Breaks(2, [4], "NaN"), **{3 + k: Breaks(3 + k, range(5, 99), how) for k, how in enumerate(ways)}}

    def make(**options: Any) -> BaseDynamics:
        hooks, model = list(fates.values()), argon_model()
        if name == "stages":
            stages = [(0, FIRE(model, dt=0.3, n_steps=3)), (1, langevin(model, n_steps=8))]
            return with_neighbor_hooks(FusedStage(stages, hooks=hooks, on_error=on_error, **options))
        return with_neighbor_hooks(ENGINES[name](model, hooks=hooks, on_error=on_error, n_steps=11, **options))

    systems = [argon_cluster(3 + number, number) for number in range(9)]
    good, bad = HostMemory(100), HostMemory(100)
    engine = make(sampler=SizeAwareSampler(systems, max_batch_size=4), sinks=[good], failure_sinks=[bad])
    engine.run()
    failed = {3, 4, 5, 6} | ({2} if on_error == "quarantine" else set())
    assert set(bad.read().system_id.flatten().tolist()) == failed
    retried = 5 if on_error == "retry" else 0
    assert engine.tally == (9, 0, 9 - len(failed), len(failed), 0, retried)
    for frames in (good.read(), bad.read()):
        for data in frames.to_data_list():
            alone = Batch.from_data_list([systems[int(data.system_id)].clone()])
            make().run(alone)
            expected = alone.get_data(0)
            assert same_bits(data, expected, FIELDS[:-2]), int(data.system_id)  # the others say that it left
            assert (int(data.failure_code) > 0) is (int(data.system_id) in failed)
            assert all(bool(data[field].isfinite().all()) for field in ("positions", "velocities", "forces", "energy"))


# -- physics ---------------------------------------------------------------------------------------------------------


def energies_of_a_rescue() -> tuple[float, float, int, int]:
    """First and last total energy in eV of a crystal under a time step of 100 fs, its retries, its failure."""
    start, batch = crystals(3), crystals(3)
    with_neighbor_hooks(NVE(argon_model(), dt=1.0)).run(start, 0)
    with_neighbor_hooks(NVE(argon_model(), dt=100.0, on_error="retry")).run(batch, 400)
    first, last = float(total_energy(start)), float(total_energy(batch))
    return first, last, int(batch.retries), int(batch.failure_code)


def test_a_time_step_that_is_too_large_is_made_smaller_and_the_energy_is_what_it_was() -> None:
    first, last, retries, failure = energies_of_a_rescue()
    assert (retries, failure) == (1, 0)
    assert last == pytest.approx(first, abs=2e-4 * 32)  # eV: -2.1512 and -2.152; without going back far enough 1e15


def test_the_last_good_state_would_be_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecondChances, "go_back", lambda self, systems: None)
    first, last, _, failure = energies_of_a_rescue()
    assert failure or not abs(last - first) < 1e6


def overlap(**options: Any) -> Batch:
    data = argon_crystal(2, 3)
    data.positions[1] = data.positions[0] + torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    batch = Batch.from_data_list([data])
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, on_error="retry", max_retries=8, **options))
    return engine.run(batch, 300)


def test_two_atoms_on_top_of_each_other_part_with_the_energy_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = overlap()
    assert (int(batch.failure_code), int(batch.retries)) == (0, 6)
    assert float(total_energy(batch)) == pytest.approx(99_209, rel=0.15)  # eV, from the first state
    monkeypatch.setattr(second_chances, "_MOST_HALVINGS", 0)  # mutant: with smaller steps it does not wait for more
    assert int(overlap().failure_code) == FailureCode.POSITIONS_NOT_FINITE


def test_optimizers_go_on_from_rest_with_shorter_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def relaxed(on_error: str) -> Batch:
        model = argon_model()
        model.model_card = dataclasses.replace(model.model_card, minimum_distance=3.5)
        options = {"convergence_hook": ConvergenceHook.from_fmax(1e-3), "n_steps": 900, "on_error": on_error}
        engine = with_neighbor_hooks(FIRE(model, dt=3.0, dt_max=30.0, maxstep=0.5, **options))
        return engine.run(Batch.from_data_list([argon_cluster(20, 3)]))

    assert int(relaxed("quarantine").failure_code) == FailureCode.ATOMS_TOO_CLOSE
    batch = relaxed("retry")
    assert (int(batch.failure_code), int(batch.retries)) == (0, 3)
    assert float(batch.energy) == pytest.approx(-0.6866, abs=2e-4)
    assert float(batch.forces.norm(dim=1).max()) <= 1e-3
    monkeypatch.setattr(Engine, "_halved", lambda self, name, values: values)  # mutant: as long as before
    assert int(relaxed("retry").failure_code) == FailureCode.ATOMS_TOO_CLOSE


# -- time, noise, parameters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGRATORS)
def test_it_goes_on_from_there_as_a_run_with_the_smaller_step_does(name: str) -> None:
    make, batch = INTEGRATORS[name], crystals(3, 7)
    engine = with_neighbor_hooks(make(argon_model(), dt=4.0, hooks=[Breaks(7, [5, 9])], on_error="retry"))
    engine.run(batch, 14)
    assert batch.step.flatten().tolist() == [14, 14]
    assert batch.time.flatten().tolist() == [56.0, 4 * 1.0]  # of fourteen steps four since the second failure, of 1 fs
    assert batch.retries.flatten().tolist() == [0, 2]
    path = Batch.from_data_list([argon_crystal(1, 7)])
    path.step = torch.tensor([[10]])  # which the noise hangs on
    with_neighbor_hooks(make(argon_model(), dt=1.0)).run(path, 4)
    assert same_bits(
        batch.get_data(1), path.get_data(0), ("positions", "velocities", "forces", "energy", "cell", "time")
    )


def noise_is_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> bool:
    drawn: list[tuple[int, int]] = []
    real = noise_module.normals_of_atoms

    def noted(batch: Batch, *arguments: Any, **options: Any) -> torch.Tensor:
        drawn.extend(zip(batch.system_id.flatten().tolist(), batch.step.flatten().tolist(), strict=True))
        return real(batch, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(noise_module, "normals_of_atoms", noted)
        engine = with_neighbor_hooks(langevin(argon_model(), hooks=[Breaks(7, [5, 9])], on_error="retry"))
        engine.run(crystals(7), 14)
    assert len(drawn) == 14
    return len(set(drawn)) < len(drawn)


def test_noise_is_never_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not noise_is_drawn_twice(monkeypatch)

    def rewinding(counters: tuple[str, ...] = ()) -> LastGood:
        return LastGood(("time", "step", "stage_step"))

    monkeypatch.setattr(second_chances, "LastGood", rewinding)  # mutant: the count of steps goes back, too
    assert noise_is_drawn_twice(monkeypatch)


def test_parameters_that_are_assigned_or_scheduled_stay_halved() -> None:
    engine = with_neighbor_hooks(NVE(argon_model(), dt=4.0, hooks=[Breaks(7, [2])], on_error="retry"))
    batch = engine.run(crystals(3, 7), 4)
    times = batch.time.flatten().clone()
    engine.dt = 2.0
    engine.run(batch, 1)
    assert (batch.time.flatten() - times).tolist() == [2.0, 1.0]
    engine = with_neighbor_hooks(NVE(argon_model(), dt=ramp(4.0, 4.0, 100.0), hooks=[Breaks(7, [2])], on_error="retry"))
    batch = engine.run(crystals(3, 7), 8)
    assert batch.time.flatten().tolist() == pytest.approx([32.0, 10.0])


def test_a_stage_begins_with_whole_steps_and_as_many_retries() -> None:
    model = argon_model()
    first, second = NVE(model, dt=4.0, n_steps=6), NVE(model, dt=2.0, n_steps=6)
    fused = FusedStage([(0, first), (1, second)], on_error="retry", max_retries=1)
    fused.register_hook(Breaks(7, [2, 6, 8]))  # 6: the first step of the second stage
    batch = with_neighbor_hooks(fused).run(crystals(3, 7))
    assert batch.retries.flatten().tolist() == [0, 2]
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.POSITIONS_NOT_FINITE]
    assert batch.failure_step.flatten().tolist() == [-1, 9]
    assert float(batch.time[1]) == 3 * 2.0 + 1 * 1.0  # in 3 to 5; 7, while 2 and 6 failed


def test_drift_is_counted_from_where_a_system_went_back_to() -> None:
    class Kicks:
        frequency, stage = 1, DynamicsStage.AFTER_POST_UPDATE

        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count == 27:
                ctx.batch.velocities.mul_(1.5)

    def run(*more: Any) -> None:
        drift = EnergyDriftMonitorHook(1e-2, metric="per_atom_per_ps", action="raise", window=4)
        hooks = [Breaks(7, [25]), *more, drift]
        with_neighbor_hooks(NVE(argon_model(), dt=4.0, hooks=hooks, on_error="retry")).run(crystals(7), 40)

    run()
    with pytest.raises(SimulationError, match="drifts at step 27"):  # mutant: its time is before that of the reference
        run(Kicks())


# -- ends ------------------------------------------------------------------------------------------------------------


def test_after_so_many_retries_it_is_given_up_and_says_so() -> None:
    engine = with_neighbor_hooks(
        langevin(argon_model(), hooks=[Breaks(7, range(5, 99))], on_error="retry", max_retries=2)
    )
    batch = engine.run(crystals(3, 7), 20)
    assert batch.retries.flatten().tolist() == [0, 2]
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.POSITIONS_NOT_FINITE]
    assert batch.failure_step.flatten().tolist() == [-1, 8]
    assert "ran away, after 2 retries with smaller steps" in explain_failure(batch, 1)
    assert "retr" not in explain_failure(batch, 0)


def test_what_can_not_begin_is_not_tried_again() -> None:
    data = argon_crystal(1, 7)
    data.positions[1] = data.positions[0]
    batch = Batch.from_data_list([argon_crystal(1, 3), data])
    with_neighbor_hooks(NVE(argon_model(), dt=4.0, on_error="retry")).run(batch, 3)
    assert batch.retries.flatten().tolist() == [0, 0]
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.ATOMS_TOO_CLOSE]


def test_an_engine_without_a_step_to_halve_is_told() -> None:
    with pytest.raises(InputError, match="no step that could be smaller"):
        BaseDynamics(argon_model(), on_error="retry")
    with pytest.raises(InputError, match="max_retries"):
        NVE(argon_model(), dt=1.0, on_error="retry", max_retries=0)
    with pytest.raises(InputError, match='use "quarantine", "retry" or "raise"'):
        NVE(argon_model(), dt=1.0, on_error="ignore")


# -- interruptions ---------------------------------------------------------------------------------------------------


def restarts_exactly(name: str, steps: int, *, with_state: bool) -> bool:
    def make() -> BaseDynamics:
        return with_neighbor_hooks(ENGINES[name](argon_model(), hooks=[Breaks(7, [4, 13])], on_error="retry"), skin=0.0)

    whole, first = crystals(3, 7), crystals(3, 7)
    make().run(whole, 18)
    engine = make()
    engine.run(first, steps)
    saved = pickle.loads(pickle.dumps(engine.state_dict()))
    if with_state:
        second = pickle.loads(pickle.dumps(first))
    else:
        second = Batch.from_data_list([entry.clone() for entry in first.without_pairs().to_data_list()])
    del engine
    again = make()
    again.load_state_dict(saved)
    again.run(second, 18 - steps)
    assert whole.retries.flatten().tolist() == [0, 2]
    return same_bits(whole, second, (*FIELDS, "retries"))


@pytest.mark.parametrize("name", ["Langevin", "NPT", "FIRE"])
def test_a_restart_goes_back_to_states_of_before_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_chances, "EVERY", SMALL_GAPS)
    for steps, with_state in ((3, True), (11, True), (11, False), (12, False)):
        assert restarts_exactly(name, steps, with_state=with_state), steps
    with monkeypatch.context() as patch:
        # mutant: what is gone back to is not saved
        patch.setattr(SecondChances, "load_state_dict", lambda self, state: None)
        assert not restarts_exactly(name, 12, with_state=False)


@pytest.mark.parametrize("where", [DynamicsStage.BEFORE_COMPUTE, DynamicsStage.AFTER_POST_UPDATE])
def test_an_undone_step_is_done_again_with_its_retry(where: DynamicsStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_chances, "EVERY", SMALL_GAPS)

    class Interrupts:
        frequency, stage = 1, where

        def __init__(self, step: int) -> None:
            self.step = step

        def __call__(self, ctx: Any, stage: Any) -> None:
            if ctx.step_count == self.step:
                self.step = -1
                raise KeyboardInterrupt

    whole = crystals(3, 7)
    with_neighbor_hooks(langevin(argon_model(), hooks=[Breaks(7, [7, 13])], on_error="retry")).run(whole, 18)
    for step in (6, 7, 8, 13):
        hooks = [Breaks(7, [7, 13]), Interrupts(step)]
        engine, batch = with_neighbor_hooks(langevin(argon_model(), hooks=hooks, on_error="retry")), crystals(3, 7)
        with pytest.raises(KeyboardInterrupt):
            engine.run(batch, 18)
        engine.undo_unfinished_step(batch)
        engine.run(batch, 18 - engine.step_count)
        assert same_bits(whole, batch, (*FIELDS, "retries")), step


def test_two_runs_go_back_as_one_and_never_to_before_somebody_moved_an_atom() -> None:
    def two(moved: float) -> Batch:
        batch, engine = crystals(3, 7), with_neighbor_hooks(langevin(argon_model(), on_error="retry"))
        engine.register_hook(Breaks(7, [9]))
        engine.run(batch, 6)
        if moved:
            batch.velocities[-1] += moved
        return engine.run(batch, 6)

    whole = crystals(3, 7)
    with_neighbor_hooks(langevin(argon_model(), hooks=[Breaks(7, [9])], on_error="retry")).run(whole, 12)
    assert same_bits(two(0.0), whole)
    assert whole.time.flatten().tolist() == [48.0, 2 * 2.0]
    assert two(1e-6).time.flatten().tolist() == [48.0, 6 * 4.0 + 2 * 2.0]


def test_the_keyword_is_documented_with_the_ways() -> None:
    assert engine_module.ON_ERROR == ("quarantine", "retry", "raise")
    assert all(f'"{way}"' in (BaseDynamics.__doc__ or "") for way in engine_module.ON_ERROR)
