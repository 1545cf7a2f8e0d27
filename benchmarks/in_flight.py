"""Runs in flight: CPU time of a refill, beside the model's evaluation of who joins, against a step; of fused stages.

In a refill one system leaves for a sink in memory and one joins, with drawn velocities and a neighbour list of its own.
One thread.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from harness import Row, interleave, main
from overhead import StoredForces, cost_of_a_step, crystals

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics import FIRE, ConvergenceHook, FusedStage, HostMemory, NVTLangevin, SizeAwareSampler
from athanor.errors import AthanorWarning
from athanor.hooks import DynamicsStage
from athanor.models.chgnet import CHGNetWrapper
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks


class Leaves:
    """Lets the first system leave at every second step."""

    frequency, stage, on_active = 2, DynamicsStage.AFTER_STEP, True

    def __call__(self, ctx: Any, stage: Any) -> None:
        ctx.batch.status[0] = 1


class Clock:
    """CPU seconds inside calls of something, less those inside calls of something else."""

    def __init__(self) -> None:
        self.seconds, self.calls, self._inside = 0.0, 0, 0

    def around(self, call: Callable[..., Any], sign: float = 1.0) -> Callable[..., Any]:
        """Return `call` with its time counted, or with ``sign=-1`` taken off if it is inside another one."""

        def timed(*arguments: Any, **options: Any) -> Any:
            counts = sign > 0 or self._inside > 0
            self._inside += sign > 0
            started = time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds += sign * (time.process_time() - started) * counts
                self.calls += sign > 0
                self._inside -= sign > 0

        return timed


def endless(structures: list[AtomicData]) -> Iterator[AtomicData]:
    """Yield structures again and again, each with an id of its own."""
    for number in itertools.count():
        data = structures[number % len(structures)].clone()
        data.system_id = torch.tensor([[number]])
        yield data


def flying(model: Any, structures: list[AtomicData], systems: int) -> Any:
    """Return an engine in flight with so many systems at once."""
    sampler = SizeAwareSampler(endless(structures), max_batch_size=systems)
    options = {"n_steps": 10**9, "sampler": sampler, "sinks": [HostMemory(10**6)], "hooks": [Leaves()]}
    return with_neighbor_hooks(NVTLangevin(model, dt=1.0, temperature=20.0, friction=0.01, **options))


def cost(engine: Any, what: str, steps: int) -> float:
    """Return ms of CPU time of a refill without the model, or of a step."""
    clock = Clock()
    refill, step, forward = engine._in_flight.refill, engine._driver.step, engine.model.forward
    if what == "refill":
        engine._in_flight.refill, engine.model.forward = clock.around(refill), clock.around(forward, -1.0)
    else:
        engine._driver.step = clock.around(step)
    try:
        engine.run(n_steps=steps)
    finally:
        engine._in_flight.refill, engine._driver.step, engine.model.forward = refill, step, forward
    return 1e3 * clock.seconds / clock.calls


def argon(atoms: int) -> AtomicData:
    """Return a crystal of argon, cubes of four atoms, without velocities."""
    data = argon_crystal(round((atoms / 4) ** (1 / 3)), 1)
    del data.velocities
    return data


def fused(model: Any) -> FusedStage:
    """Return two stages that no system leaves."""
    never = ConvergenceHook.from_fmax(1e-30)
    return FusedStage(
        [
            (0, FIRE(model, dt=0.1, convergence_hook=never)),
            (1, NVTLangevin(model, dt=1.0, temperature=300.0, friction=0.01)),
        ]
    )


def half_and_half(systems: int, atoms: int) -> Batch:
    """Return systems of which every second one is in the second stage."""
    batch = crystals(systems, atoms)
    batch.status = (torch.arange(systems) % 2)[:, None]
    return batch


def measure(smoke: bool = False) -> list[Row]:
    """Return rows for refills, in ms, and one for two fused stages, in µs a step."""
    athanor.set_num_threads(1)
    cases = {"64 x 32 argon": (argon_model, argon(32), 64, 200)}
    if smoke:
        cases = {"2 x 4 argon": (argon_model, argon(4), 2, 4)}
    else:
        cases["16 x 8 nickel, CHGNet"] = (CHGNetWrapper.from_checkpoint, nickel(), 16, 8)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AthanorWarning)
        for name, (make, structure, systems, steps) in cases.items():
            engine = flying(make(), [structure], systems)
            engine.run(n_steps=4)
            contestants = {
                "athanor": partial(cost, engine, "refill", steps),
                "a step": partial(cost, engine, "step", steps),
            }
            rows.append(interleave(f"a refill, {name}", "ms", contestants, 2 if smoke else 5))
        systems, atoms, steps, rounds = (2, 4, 3, 2) if smoke else (64, 32, 200, 7)
        model = StoredForces(systems * atoms, systems)
        runs = {"athanor": (fused(model), half_and_half(systems, atoms))}
        runs["a step"] = (
            NVTLangevin(model, dt=1.0, temperature=300.0, friction=0.01),
            crystals(systems, atoms),
        )
        for engine, batch in runs.values():
            engine.run(batch, steps)
        contestants = {name: partial(cost_of_a_step, *run, steps) for name, run in runs.items()}
        rows.append(interleave("two fused stages, FIRE and NVTLangevin", "µs", contestants, rounds))
    return rows


def nickel() -> AtomicData:
    """Return a crystal of nickel, eight atoms, in single precision."""
    from ase.build import bulk

    atoms = bulk("Ni", cubic=True) * (2, 1, 1)
    atoms.rattle(0.02, seed=1)
    return AtomicData.from_atoms(atoms, dtype=torch.float32)


if __name__ == "__main__":
    main(measure)
