"""What two threads or a forked process may share: it works, or is refused at once with the way out; nothing waits."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ase.build import bulk

from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, in_use
from athanor.dynamics import engine as engine_module
from athanor.errors import SimulationError
from athanor.hooks.stages import DynamicsStage
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks

FORKED = """
import multiprocessing, sys
import torch, athanor
from ase.build import bulk

argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * (7, 7, 7)

def energy(seed):
    run = athanor.md(crystal, model=argon, temperature=30, steps=2, seed=seed)
    wide = torch.ones(600, 600) @ torch.ones(600, 600)  # torch's own threads
    return run.structures[0].get_potential_energy(), float(wide.sum())

def more_threads(seed):
    try:
        athanor.set_num_threads(2)
    except ValueError as error:
        return str(error)

if __name__ == "__main__":
    torch.set_num_threads(2)
    mine = [energy(seed) for seed in (1, 2)]
    assert torch.get_num_threads() == 2
    with multiprocessing.get_context("fork").Pool(2) as pool:
        theirs = pool.map_async(energy, (1, 2)).get(timeout=300)
        told = pool.map_async(more_threads, (1,)).get(timeout=300)[0]
    assert mine == theirs, (mine, theirs)
    assert "forked" in told and "spawn" in told, told
    print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_pool_that_is_forked_after_a_run_works_with_equal_bits() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True, text=True, timeout=900, check=False, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == "equal", done.stderr


# -------------------------------------------------------------------------------------------------------------- threads


def crystals(count: int = 1) -> Batch:
    structures = []
    for seed in range(count):
        crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
        crystal.rattle(0.1, seed=seed)
        structures.append(AtomicData.from_atoms(crystal, dtype=torch.float64))
    return Batch.from_data_list(structures)


def an_engine(model: Any) -> NVE:
    return with_neighbor_hooks(NVE(model, dt=5.0, n_steps=3))


class InTheMiddle:
    """Hook that has another thread do something in the second step, and keeps what that raised."""

    frequency = 1
    stage = DynamicsStage.AFTER_STEP

    def __init__(self, action: Callable[[], object]) -> None:
        self.action, self.raised = action, []

    def __call__(self, ctx: Any, stage: Any) -> None:
        if ctx.step_count == 1:
            thread = threading.Thread(target=self._do)
            thread.start()
            thread.join(60)
            assert not thread.is_alive()

    def _do(self) -> None:
        try:
            self.action()
        except SimulationError as error:
            self.raised.append(str(error))


def raised_by(share: Callable[[Any, NVE, Batch], Callable[[], object]]) -> list[str]:
    """Run an engine; in the middle of it another thread does what `share` makes of model, engine and batch."""
    model, batch = argon_model(), crystals()
    engine = an_engine(model)
    hook = InTheMiddle(share(model, engine, batch))
    engine.register_hook(hook)
    engine.run(batch)
    assert batch.step.tolist() == [[3]]
    alone = crystals()
    an_engine(argon_model()).run(alone)
    assert torch.equal(batch.positions, alone.positions)
    assert model.model_config.active_outputs == argon_model().model_config.active_outputs
    return hook.raised


SHARED: dict[str, Callable[[Any, NVE, Batch], Callable[[], object]]] = {
    "batch": lambda model, engine, batch: lambda: an_engine(argon_model()).run(batch),
    "batch in a step": lambda model, engine, batch: lambda: an_engine(argon_model()).step(batch),
    "batch in a computation": lambda model, engine, batch: lambda: an_engine(argon_model()).compute(batch),
    "engine": lambda model, engine, batch: lambda: engine.run(crystals()),
    "model": lambda model, engine, batch: lambda: an_engine(model).run(crystals()),
    "model in a sum": lambda model, engine, batch: lambda: an_engine(argon_model() + model).run(crystals()),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_a_run_has_is_refused_to_another_thread(name: str) -> None:
    (told,) = raised_by(SHARED[name])
    assert f"This {name.partition(' ')[0]} is in use by a run in another thread" in told


def test_a_model_of_its_own_is_the_way_out() -> None:
    assert raised_by(lambda model, engine, batch: lambda: an_engine(copy.deepcopy(model)).run(crystals())) == []


def test_the_twin_without_owners_counts_steps_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "in_use", lambda *things: contextlib.nullcontext())
    with pytest.raises((AssertionError, SimulationError, RuntimeError)):
        raised_by(SHARED["batch"])


def test_what_was_in_use_is_free_afterwards_whatever_happened() -> None:
    thing = object()

    def elsewhere() -> Iterator[None]:
        with in_use.in_use(("batch", thing)):
            yield

    with contextlib.suppress(KeyError), in_use.in_use(("batch", thing)), in_use.in_use(("batch", thing)):
        raise KeyError
    thread = threading.Thread(target=lambda: next(elsewhere()))
    thread.start()
    thread.join()
    assert id(thing) not in in_use._owners or in_use._owners[id(thing)][1] == 1
