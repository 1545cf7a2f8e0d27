"""Committees of four: CPU time of one call for the mean and the deviations, against one member alone, one thread.

Members are CHGNet 0.3.0 with parameters that were disturbed by a percent, and Lennard-Jones potentials of one cutoff; a
list at that cutoff is there. The same four called one after the other, without mean and deviations, stand beside it.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from harness import Row, cpu, interleave, main

import athanor
from athanor.data import Batch
from athanor.models.chgnet import CHGNetWrapper
from athanor.models.committee import CommitteeModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.dynamics_contract import argon_crystal

MEMBERS = 4


def disturbed(model: CHGNetWrapper, seed: int) -> CHGNetWrapper:
    """Return a copy of a network whose parameters differ by a percent."""
    generator, found = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    for tensor in found.model.buffers():
        tensor.mul_(1.0 + 0.01 * torch.randn(tensor.shape, generator=generator))
    return found


def call(model: Any, batch: Batch, repeat: int) -> float:
    """Return ms of CPU time of one call."""
    return 1e3 * cpu(lambda: model(batch), repeat)


def compared(case: str, members: list[Any], batch: Batch, rounds: int, repeat: int) -> Row:
    """Return the row of one committee on one batch."""
    compute_neighbors(batch, config=members[0].model_config.neighbor_config)

    def one_by_one(each: Batch) -> None:
        for member in members:
            member(each)

    timed = {
        "athanor": partial(call, CommitteeModelWrapper(members).eval(), batch, repeat),
        "members one by one": partial(call, one_by_one, batch, repeat),
        "one member": partial(call, members[0], batch, repeat),
    }
    return interleave(f"{MEMBERS} x {case}", "ms", timed, rounds)


def measure(smoke: bool = False) -> list[Row]:
    """Return one row for each committee and batch, in ms of CPU time of a call."""
    rounds = 2 if smoke else 9
    athanor.set_num_threads(1)
    rows = []
    pairs = [LennardJonesModelWrapper(0.0104, 3.38 + 0.02 * n, 8.5, switch_width=1.0) for n in range(MEMBERS)]
    for count, cells in [(2, 1)] if smoke else [(1, 1), (64, 2)]:
        batch = Batch.from_data_list([argon_crystal(cells, number) for number in range(count)])
        case = f"Lennard-Jones, {count} x {batch.num_nodes // count} atoms"
        rows.append(compared(case, pairs, batch, rounds, 2 if smoke else 100))
    network = CHGNetWrapper.from_checkpoint()
    networks = [disturbed(network, seed).eval() for seed in range(MEMBERS)]
    for count, cells in [(1, 1)] if smoke else [(2, 1), (2, 2), (32, 1)]:
        batch = Batch.from_data_list([argon_crystal(cells, number) for number in range(count)])
        case = f"CHGNet, {count} x {batch.num_nodes // count} atoms"
        rows.append(compared(case, networks, batch, rounds, 1 if smoke else 2))
    return rows


if __name__ == "__main__":
    main(measure)
