"""Cost of a molecular-dynamics step: Lennard-Jones NVE with a skin, time and memory per atom.

Run ``python benchmarks/dynamics.py --threads 2``. Times are wall minima over repeated blocks of steps; memory is what
a run allocates beyond the bare batch, by the process's peak resident size.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, initialize_velocities
from athanor.models.lj import LennardJonesModelWrapper

SIGMA, EPSILON = 3.4, 0.0104


def liquid_like(cells: int) -> AtomicData:
    """An fcc crystal at the density of the Lennard-Jones liquid, 0.8442 per sigma^3, ``4 cells^3`` atoms."""
    a = SIGMA * (4 / 0.8442) ** (1 / 3)
    corners = torch.cartesian_prod(*[torch.arange(cells, dtype=torch.float64)] * 3)
    basis = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)
    positions = (corners[:, None] + basis).reshape(-1, 3) * a
    return AtomicData(
        positions=positions,
        atomic_numbers=torch.full((len(positions),), 18),
        cell=torch.eye(3, dtype=torch.float64)[None] * a * cells,
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )


def engine_and_batch(cells: int, copies: int) -> tuple[NVE, Batch]:
    """NVE with a list of 2.8 sigma around a cutoff of 2.5 sigma, on hot copies of the crystal."""
    batch = Batch.from_data_list([liquid_like(cells) for _ in range(copies)])
    initialize_velocities(batch.velocities, batch.atomic_masses, 150.0, batch.batch_idx)
    engine = NVE(LennardJonesModelWrapper(EPSILON, SIGMA, 2.5 * SIGMA), dt=5.0)
    for hook in engine.model.make_neighbor_hooks():
        hook.skin = 0.3 * SIGMA
        engine.register_hook(hook)
    return engine, batch


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=8)
    arguments = parser.parse_args()
    athanor.set_num_threads(arguments.threads)
    print(f"{'systems':>8} {'atoms':>8} {'ms/step':>9} {'us/atom':>9} {'peak MB':>9}")
    for cells, copies in ((2, 1), (2, 100), (10, 1), (20, 1)):
        engine, batch = engine_and_batch(cells, copies)
        engine.run(batch, 5)
        best = float("inf")
        for _ in range(arguments.blocks):
            start = time.perf_counter()
            engine.run(batch, arguments.steps)
            best = min(best, (time.perf_counter() - start) / arguments.steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        atoms = batch.num_nodes
        print(f"{copies:8d} {atoms:8d} {1e3 * best:9.3f} {1e6 * best / atoms:9.3f} {peak:9.0f}")


if __name__ == "__main__":
    main()
