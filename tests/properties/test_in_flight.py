"""Runs in flight: a system's path is that of a run alone, whoever joins, leaves, fails or is restarted beside it."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.dynamics import (
    FIRE,
    NPT,
    NVE,
    ConvergenceHook,
    HostMemory,
    NVTLangevin,
    NVTNoseHoover,
    SizeAwareSampler,
    second_chances,
)
from athanor.dynamics.checkpoint import about_run, tree_of_run
from athanor.dynamics.delivery import Delivery
from athanor.dynamics.driver import Driver
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.gate import Gate
from athanor.dynamics.hooks import AlignCellHook
from athanor.dynamics.parking import Parking
from athanor.dynamics.working_set import ARRIVED, WorkingSet
from athanor.hooks import DynamicsStage
from athanor.io.checkpoint import CheckpointFolder
from athanor.models.digest import model_digest
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

COMPARED = (
    "positions", "velocities", "forces", "energy", "cell", "step", "time", "failure_code", "failure_step", "dof",
)  # fmt: skip


def nvt(model: Any, **options: Any) -> BaseDynamics:
    return NVTLangevin(model, dt=4.0, temperature=40.0, friction=0.02, random_seed=7, **options)


def two_stages(model: Any, **options: Any) -> BaseDynamics:
    budget, hooks = options.pop("n_steps"), options.pop("hooks", ())
    relax = FIRE(model, dt=0.4, n_steps=4, convergence_hook=ConvergenceHook.from_fmax(0.003))
    fused = relax + nvt(model, n_steps=budget)
    for hook in hooks:
        fused.register_hook(hook)
    for name, value in options.items():
        setattr(fused, name, value)
    return fused


ENGINES = {
    "NVE": partial(NVE, dt=4.0, start_temperature=30.0),
    "Langevin": nvt,
    "Nose-Hoover": partial(NVTNoseHoover, dt=4.0, temperature=40.0, thermostat_time=50.0),
    "NPT": partial(
        NPT, dt=4.0, temperature=40.0, pressure=0.001, barostat_time=200.0, thermostat_time=50.0,
        pressure_coupling="anisotropic",
    ),
    "FIRE": partial(FIRE, dt=0.4, convergence_hook=ConvergenceHook.from_fmax(0.003)),
    "two stages": two_stages,
}  # fmt: skip


class Fate:
    """Breaks some systems, and lets some leave, at a step of their own."""

    frequency, stage = 1, DynamicsStage.AFTER_PRE_UPDATE
    on_active = True

    def __init__(self, breaks: dict[int, int]) -> None:
        self.breaks = breaks

    def __call__(self, ctx: Any, stage: Any) -> None:
        batch = ctx.batch
        for place, one in enumerate(batch.system_id.flatten().tolist()):
            if self.breaks.get(one) == int(batch.step[place]):
                batch.positions[batch.batch_idx == place] = float("nan")


class Cools:
    """Halves the velocities of systems that begin a stage, if they are in it already when a step begins."""

    frequency, stage, on_active = 1, DynamicsStage.BEFORE_STEP, True

    def __call__(self, ctx: Any, stage: Any) -> None:
        batch = ctx.batch
        begins = (batch.stage_step == 0)[batch.batch_idx]
        batch.velocities.copy_(torch.where(begins, 0.5 * batch.velocities, batch.velocities))


def system(name: str, number: int, chance: random.Random) -> AtomicData:
    if name == "NPT":
        data = argon_crystal(chance.choice([1, 1, 1, 2]), number, strain=0.01 * chance.random())
        turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(number)).double()).Q
        data.positions, data.cell = data.positions @ turn, data.cell @ turn
    else:
        data = argon_cluster(chance.randint(1, 12), number)
    del data.velocities
    if name == "NPT" and chance.random() < 0.3:
        data.velocities = torch.randn(data.positions.shape, generator=torch.Generator().manual_seed(number)).double()
    return data


def engine_for(name: str, breaks: dict[int, int], model: Any, **options: Any) -> BaseDynamics:
    hooks = [Fate(breaks), Cools(), *([AlignCellHook(4)] if name == "NPT" else [])]
    return with_neighbor_hooks(ENGINES[name](model, n_steps=9, hooks=hooks, **options))


class Course:
    """One run in flight, by a seed: sizes, caps, failures, interruptions, restarts."""

    def __init__(self, name: str, seed: int, on_error: str = "quarantine") -> None:
        chance = random.Random(seed)
        self.name, self.on_error = name, on_error
        self.systems = [system(name, number, chance) for number in range(chance.randint(1, 14))]
        self.breaks = {n: chance.randint(0, 8) for n in range(len(self.systems)) if chance.random() < 0.2}
        largest = max(data.num_nodes for data in self.systems)
        self.caps = {"max_atoms": chance.randint(largest, 3 * largest), "max_batch_size": chance.randint(1, 5)}
        self.caps |= {"bin_width": chance.randint(1, 4), "shuffle": chance.random() < 0.5}
        self.options = {"refill_frequency": chance.choice([1, 1, 3]), "ordered": chance.random() < 0.5}
        self.from_stream = chance.random() < 0.3
        self.chance = chance
        self.sink, self.failures = HostMemory(1000), HostMemory(1000)
        self.model = argon_model()

    def make(self) -> BaseDynamics:
        source: Any = (data for data in self.systems) if self.from_stream else self.systems
        sampler = SizeAwareSampler(source, **self.caps)
        with_sinks = {"sampler": sampler, "sinks": [self.sink], "failure_sinks": [self.failures], **self.options}
        return engine_for(self.name, self.breaks, self.model, on_error=self.on_error, **with_sinks)

    def run(self) -> BaseDynamics:
        engine, batch = self.make(), None
        while True:
            steps = self.chance.choice([None, 0, 1, 5, 20]) if self.chance.random() < 0.7 else None
            batch = engine.run(batch, steps)
            if engine.done:
                return engine
            if batch is None:
                continue
            sampler = engine.sampler
            assert batch.num_nodes <= sampler.max_atoms
            assert len(batch) <= sampler.max_batch_size
            tally = engine.tally
            assert tally.joined == tally.running + tally.finished + tally.failed + tally.held
            assert tally.running == len(batch) + self.waiting(engine)
            assert (tally.finished, tally.failed) == (len(self.sink), len(self.failures))
            if self.chance.random() < 0.3:
                state, batch, engine = engine.state_dict(), batch.clone(), self.make()
                engine.load_state_dict(state)
            elif self.chance.random() < 0.4:
                engine, batch = self.restored(engine, batch)

    def restored(self, engine: BaseDynamics, batch: Batch) -> tuple[BaseDynamics, Batch]:
        """Go on from a checkpoint, as another process does: with a model, sinks and a sampler of its own."""
        tree = tree_of_run(engine, batch, about_run(engine, batch, model_digest(self.model)))
        tree["steps"] = 0  # each run of a course counts its own
        self.sink, self.failures, self.model = HostMemory(1000), HostMemory(1000), argon_model()
        again = self.make()
        with tempfile.TemporaryDirectory() as place:
            folder = CheckpointFolder(place)
            with folder.held():
                folder.write(tree)
            return again, again.resume(place)

    def waiting(self, engine: BaseDynamics) -> int:
        return 0

    def check(self, engine: BaseDynamics) -> None:
        count = len(self.systems)
        delivered = [sink.read() for sink in (self.sink, self.failures) if len(sink)]
        ids = [one for frames in delivered for one in frames.system_id.flatten().tolist()]
        assert Counter(ids) == dict.fromkeys(range(count), 1)
        retried = sum(int((frames.retries > 0).sum()) for frames in delivered if self.on_error == "retry")
        assert engine.tally == (count, 0, len(self.sink), len(self.failures), 0, retried)
        for sink in (self.sink, self.failures):
            if self.options["ordered"] and len(sink):
                assert sink.read().system_id.flatten().tolist() == sorted(sink.read().system_id.flatten().tolist())
        for frames in delivered:
            for data in frames.to_data_list():
                one = int(data.system_id)
                expected = alone(self.name, self.systems[one], self.breaks.get(one), self.on_error)
                for field in COMPARED:
                    if field in expected:
                        assert torch.equal(data[field].nan_to_num(-9.0), expected[field].nan_to_num(-9.0)), field
                assert (int(data.failure_code) != 0) == (frames is delivered[-1] and len(self.failures) > 0)


def alone(name: str, start: AtomicData, breaks_at: int | None, on_error: str) -> AtomicData:
    batch = Batch.from_data_list([start.clone()])
    one = int(start.system_id)
    engine_for(name, {} if breaks_at is None else {one: breaks_at}, argon_model(), on_error=on_error).run(batch)
    return batch.get_data(0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ENGINES)
def test_a_path_does_not_depend_on_who_comes_and_goes(name: str, seed: int) -> None:
    course = Course(name, 100 * list(ENGINES).index(name) + seed)
    course.check(course.run())


@pytest.mark.parametrize("name", ENGINES)
def test_nor_does_one_that_tries_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_chances, "EVERY", 2)
    retried = 0
    for seed in range(4):
        course = Course(name, 100 * list(ENGINES).index(name) + seed, "retry")
        engine = course.run()
        course.check(engine)
        retried += engine.tally.retried
    assert retried > 0


def test_one_that_fails_as_it_enters_a_stage_goes_back_to_before() -> None:
    course = Course("two stages", 60012)
    course.check(course.run())


def everyone_arrives(self: WorkingSet, batch: Batch) -> None:
    self.rows_of(batch)["known_status"].fill_(ARRIVED)
    go_on(self, batch)


def enters_early(self: WorkingSet, batch: Batch) -> None:
    go_on(self, batch)
    self._owner._driver._enter_stages()


def arrives_again(self: WorkingSet, newcomers: Batch, *, returns: bool) -> None:
    take_up_joined(self, newcomers, returns=False)


def not_primed(self: Driver) -> None:
    self.systems.has_newcomers = False
    self.systems.run["evaluated"].fill_(True)


def ids_by_draw(self: Gate, order: int, data: AtomicData) -> int:
    self._ids.add(self._ids.largest + 1)
    return self._ids.largest


def left_where_it_was(self: Delivery, frames: Batch) -> None:
    self._finished += len(frames)


take_up_joined, go_on = WorkingSet.take_up_joined, WorkingSet.go_on

MUTANTS = {
    "a refill enters everybody into the stage": (WorkingSet, "go_on", everyone_arrives),
    "newcomers start without forces": (Driver, "_evaluate_newcomers", not_primed),
    "newcomers are turned before they get velocities": (Driver, "_enter_stages", lambda self, joined=None: None),
    "who changes stage enters early": (WorkingSet, "go_on", enters_early),
    "ids count draws, not samples": (Gate, "_id_for", ids_by_draw),
    "failures are not told apart": (Delivery, "_note_written", left_where_it_was),
}
"""What breaks the promise, by how."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_it_is_noticed_if_it_does(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home, name, broken = MUTANTS[mutant]
    if home is Driver:  # a run starts as it should
        whole, real = Driver.exchange, getattr(Driver, name)

        def exchange(self: Driver, *arguments: Any, **options: Any) -> None:
            monkeypatch.setattr(Driver, name, broken)
            whole(self, *arguments, **options)
            monkeypatch.setattr(Driver, name, real)

        monkeypatch.setattr(Driver, "exchange", exchange)
    else:
        monkeypatch.setattr(home, name, broken)
    kind = "NPT" if "turned" in mutant else "two stages" if "changes stage" in mutant else "Langevin"
    for seed in [60012] if kind == "two stages" else range(100, 104):
        course = Course(kind, seed)
        try:
            course.check(course.run())
        except (AssertionError, RuntimeError, KeyError, ValueError):
            return
    pytest.fail(f"nothing was noticed: {mutant}")


# -- out of memory ---------------------------------------------------------------------------------------------------

ERRORS = [
    lambda: MemoryError(),
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    lambda: RuntimeError("CUDA error: out of memory"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    lambda: OSError(12, "Cannot allocate memory"),
]  # fmt: skip


class HasNoMemory:
    """Raises for more than so many atoms at random calls of the model, or before it, where lists are searched."""

    frequency, stage, on_active = 1, DynamicsStage.BEFORE_COMPUTE, True

    def __init__(self, chance: random.Random, most: int, error: Any, *, of_model: bool) -> None:
        self.chance, self.most, self.error, self.of_model, self.times = chance, most, error, of_model, 0

    def __call__(self, ctx: Any, stage: Any) -> None:
        if not self.of_model:
            self.look(ctx.batch)

    def forward(self, model: Any, arguments: Any) -> None:
        if self.of_model:
            self.look(arguments[0])

    def look(self, batch: Batch) -> None:
        if batch.num_nodes > self.most and self.chance.random() < 0.4:
            self.times += 1
            raise self.error()


class HungryCourse(Course):
    """A course whose model has no memory for more than so many atoms."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        chance = random.Random(seed)
        self.largest = max(data.num_nodes for data in self.systems)
        self.caps |= {"max_atoms": 6 * self.largest, "max_batch_size": 12}
        most = chance.randint(self.largest, 2 * self.largest)
        self.lack = HasNoMemory(chance, most, chance.choice(ERRORS), of_model=chance.random() < 0.7)
        self.model.register_forward_pre_hook(self.lack.forward)

    def make(self) -> BaseDynamics:
        engine = super().make()
        engine.register_hook(self.lack)
        return engine

    def waiting(self, engine: BaseDynamics) -> int:
        return len(engine._in_flight._parking)


@pytest.mark.filterwarnings("ignore:The memory did not suffice")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["Langevin", "FIRE", "NPT", "two stages"])
def test_want_of_memory_changes_nobodys_path(name: str, seed: int) -> None:
    course = HungryCourse(name, 7000 + 100 * list(ENGINES).index(name) + seed)
    course.check(course.run())
    rows = max(6 * course.largest, 12)
    assert course.lack.times <= rows.bit_length()  # the cap halves each time, and a system that runs alone fits


def lost(self: Parking, batch: Batch, places: list[int]) -> None:
    park(self, batch, places)
    self.forget(self.ids)


def without_rows(self: Parking, batch: Batch, places: list[int]) -> None:
    park(self, batch, places)
    for group in self._groups:
        group.systems.drop_state_rows(group.systems.state_keys)


park = Parking._park

OF_MEMORY = {
    "those that wait have done half a step": (Driver, "undo_unfinished_step", lambda self, batch: None),
    "those that wait are lost": (Parking, "_park", lost),
    "what rides on those that wait is dropped": (Parking, "_park", without_rows),
    "it is tried again with as many": (Parking, "make_room", lambda self, *arguments: None),
    "who returns enters its stage anew": (WorkingSet, "take_up_joined", arrives_again),
}


@pytest.mark.filterwarnings("ignore:The memory did not suffice")
@pytest.mark.parametrize("mutant", OF_MEMORY)
def test_it_is_noticed_if_want_of_memory_changes_a_path(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home, name, broken = OF_MEMORY[mutant]
    monkeypatch.setattr(home, name, broken)
    for seed in range(8):
        try:
            test_want_of_memory_changes_nobodys_path("FIRE" if "rides" in mutant else "Langevin", seed)
        except (AssertionError, RuntimeError, KeyError, ValueError):
            return
    pytest.fail(f"nothing was noticed: {mutant}")
