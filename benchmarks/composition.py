"""Sums of models: CPU time of one call of a sum, against calls of its parts one after the other, one thread.

What the parts give is added in both cases; an autograd group differentiates the summed energy once instead. Models are
in eval mode, as runs call them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from ase.build import bulk
from harness import Row, cpu, interleave, main

import athanor
from athanor.data import AtomicData, Batch
from athanor.models.chgnet import CHGNetWrapper
from athanor.models.dftd3 import DFTD3ModelWrapper
from athanor.models.dsf import DSFModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.outputs import sum_outputs
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.dynamics_contract import argon_crystal


def argon(cutoff: float, share: float = 1.0) -> LennardJonesModelWrapper:
    """Return a Lennard-Jones potential for argon."""
    return LennardJonesModelWrapper(epsilon=share * 0.0104, sigma=3.4, cutoff=cutoff, switch_width=1.0)


def call(model: Any, batch: Batch, repeat: int) -> float:
    """Return µs of CPU time of one call."""
    return 1e6 * cpu(lambda: model(batch), repeat)


def one_by_one(*models: Any) -> Any:
    """Return what calls models one after the other and adds what they give."""
    return lambda batch: sum_outputs(*(model(batch) for model in models))


def of_three(cells: int, rounds: int, repeat: int) -> Row:
    """Return the row of pairs, real-space charges and dispersion in rock salt; the first two share a list."""
    salt = bulk("NaCl", "rocksalt", 5.64, cubic=True).repeat(cells)
    salt.rattle(0.05, seed=0)
    batch = Batch.from_data_list([AtomicData.from_atoms(salt, dtype=torch.float64)])
    compute_neighbors(batch, 8.5)
    charges = DSFModelWrapper(cutoff=8.5, charges={"Na": 1.0, "Cl": -1.0})
    dispersion = DFTD3ModelWrapper(a1=0.4289, a2=4.4407, s8=0.7875)  # of PBE
    parts = (argon(8.5), charges, dispersion)
    whole = (parts[0] + charges + dispersion).eval()
    whole(batch)  # compiles
    timed = {
        "athanor": partial(call, whole, batch, repeat),
        "its parts": partial(call, one_by_one(*parts), batch, repeat),
    }
    return interleave(f"Lennard-Jones + DSF + D3, 1 x {len(salt)} atoms", "µs", timed, rounds)


def measure(smoke: bool = False) -> list[Row]:
    """Return one row for each sum, in µs of CPU time of a call for energy and forces."""
    rounds, repeat = (2, 2) if smoke else (7, 200)
    athanor.set_num_threads(1)
    rows = []
    for count, cells in [(2, 1)] if smoke else [(1, 1), (64, 2), (1, 10)]:
        batch = Batch.from_data_list([argon_crystal(cells, number) for number in range(count)])
        compute_neighbors(batch, 8.5)
        first, second = argon(8.5, 0.9), argon(8.5, 0.1)
        atoms = batch.num_nodes // count
        timed = {
            "athanor": partial(call, (first + second).eval(), batch, repeat),
            "its parts": partial(call, one_by_one(first, second), batch, repeat),
        }
        rows.append(interleave(f"Lennard-Jones + Lennard-Jones, {count} x {atoms} atoms", "µs", timed, rounds))
    rows.append(of_three(1 if smoke else 4, rounds, repeat // 2))
    count = 1 if smoke else 8
    batch = Batch.from_data_list([argon_crystal(1, number) for number in range(count)])
    compute_neighbors(batch, 8.5)
    network, pairs = CHGNetWrapper.from_checkpoint(), argon(8.5)
    sums = {
        "CHGNet + Lennard-Jones": network + pairs,
        "the same in an autograd group": PipelineModelWrapper([PipelineGroup([network, pairs], use_autograd=True)]),
    }
    for name, model in sums.items():
        timed = {
            "athanor": partial(call, model.eval(), batch, 3),
            "its parts": partial(call, one_by_one(network, pairs), batch, 3),
        }
        rows.append(interleave(f"{name}, {count} x {batch.num_nodes // count} atoms", "µs", timed, rounds))
    return rows


if __name__ == "__main__":
    main(measure)
