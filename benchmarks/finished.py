"""Finished systems: CPU time of a step with some of 16 systems finished, against a batch of the others alone.

Lennard-Jones argon, 108 atoms each, with a neighbour list, one thread, no hooks of every step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import Row, cpu, interleave, main
from overhead import ENGINES

import athanor
from athanor.data import Batch
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks


def batch_of(numbers: range) -> Batch:
    """Return one crystal for each number."""
    return Batch.from_data_list([argon_crystal(3, number) for number in numbers])


def cost_of_a_step(engine: Any, batch: Batch, steps: int) -> float:
    """Return µs of CPU time for one of `steps` steps."""
    return 1e6 * cpu(lambda: engine.run(batch, steps)) / steps


def measure(smoke: bool = False) -> list[Row]:
    """Return one row for each engine and number of finished systems, in µs of CPU time a step."""
    systems, steps, rounds = (3, 2, 2) if smoke else (16, 400, 3)
    athanor.set_num_threads(1)
    rows = []
    for name in ("NVE", "NVTLangevin", "FIRE"):
        for finished in [0, 1] if smoke else [0, 1, 8, 15]:
            contestants = {}
            for label, first in (("athanor", 0), ("the others alone", finished)):
                engine, batch = with_neighbor_hooks(ENGINES[name](argon_model())), batch_of(range(first, systems))
                if first < finished:
                    batch.status = (torch.arange(systems) < finished).long()[:, None]
                engine.run(batch, steps)
                contestants[label] = partial(cost_of_a_step, engine, batch, steps)
            rows.append(interleave(f"{name}, {finished} of {systems} finished", "µs", contestants, rounds))
    return rows


if __name__ == "__main__":
    main(measure)
