"""Neighbour lists: all pairs within 2.8 sigma in a Lennard-Jones liquid, against vesin and ASE.

Ours is `compute_neighbors` on a Batch, which stores the list; theirs return indices and shifts, one system after the
other. All three find the same number of pairs. vesin and ASE use one thread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from harness import Row, cpu, interleave, main, wall
from lennard_jones import LATTICE, SIGMA, crystal

import athanor
from athanor.data import AtomicData, Batch
from athanor.neighbors import compute_neighbors

RADIUS = 2.8 * SIGMA


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for each size and number of threads, in ms a list."""
    #        case             cells along each edge, systems, rounds of vesin and of ASE
    cases = [
        ("1,000 atoms", (5, 5, 10), 1, 15, 5),
        ("32,000 atoms", (20, 20, 20), 1, 7, 2),
        ("256,000 atoms", (40, 40, 40), 1, 3, 0),
        ("256 x 32 atoms", (2, 2, 2), 256, 7, 2),
    ]
    if smoke:
        cases = [("2 x 32 atoms", (2, 2, 2), 2, 1, 1)]
    rows = []
    for case, cells, systems, fast, slow in cases:
        generator = np.random.default_rng(0)
        places = [crystal(*cells) + generator.normal(0.0, 0.2, (4 * np.prod(cells), 3)) for _ in range(systems)]
        box = LATTICE * np.diag(np.array(cells, dtype=float))
        batch = batch_of(places, box)
        pairs: dict[str, int] = {}
        for threads in (1, 2):
            athanor.set_num_threads(threads)
            clock = cpu if threads == 1 else wall
            searches = contestants(batch, places, box, pairs)
            timed = {
                name: (lambda search=search, clock=clock: 1e3 * clock(search)) for name, search in searches.items()
            }
            rounds = {"athanor": fast, "vesin": fast, "ase": slow if threads == 1 else 0}
            rows.append(interleave(case, "ms", timed, rounds, threads=threads))
        if len(set(pairs.values())) != 1:
            raise AssertionError(f"{case}: the programs do not find the same pairs: {pairs}")
        print(f"    each finds {pairs['athanor']:,} pairs", flush=True)
    return rows


def batch_of(places: list[np.ndarray], box: np.ndarray) -> Batch:
    """Return one batch of argon at `places`, all in the same periodic box."""
    return Batch.from_data_list(
        [
            AtomicData(
                positions=torch.from_numpy(positions),
                atomic_numbers=torch.full((len(positions),), 18),
                cell=torch.from_numpy(box)[None],
                pbc=torch.ones(1, 3, dtype=torch.bool),
            )
            for positions in places
        ]
    )


def contestants(
    batch: Batch, places: list[np.ndarray], box: np.ndarray, pairs: dict[str, int]
) -> dict[str, Callable[[], None]]:
    """Return the searches by name; each leaves in `pairs` how many pairs it found."""
    import vesin
    from ase.neighborlist import primitive_neighbor_list

    search = vesin.NeighborList(cutoff=RADIUS, full_list=True)

    def ours() -> None:
        compute_neighbors(batch, RADIUS)
        pairs["athanor"] = len(batch.pair_list.neighbors)

    def with_vesin() -> None:
        found = [search.compute(points, box, periodic=True, quantities="ijS", copy=False) for points in places]
        pairs["vesin"] = sum(len(i) for i, _, _ in found)

    def with_ase() -> None:
        found = [primitive_neighbor_list("ijS", (True,) * 3, box, points, RADIUS) for points in places]
        pairs["ase"] = sum(len(i) for i, _, _ in found)

    for warm in (ours, with_vesin):
        warm()
    return {"athanor": ours, "vesin": with_vesin, "ase": with_ase}


if __name__ == "__main__":
    main(measure)
