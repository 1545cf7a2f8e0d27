"""Time the CPU kernels: ``python benchmarks/kernels.py --threads 2``. Wall minimum of interleaved runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from athanor import _runtime, kernels

SPACING = (4.0 / 0.8442) ** (1.0 / 3.0)
"""Cube edge of a face-centred crystal at the density of the Lennard-Jones liquid, sigma = 1."""


def crystal(cells: int, edge: float, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and cell of ``4 cells^3`` disturbed atoms."""
    basis = torch.tensor([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], dtype=torch.float64)
    grid = torch.cartesian_prod(*[torch.arange(cells)] * 3).double()
    positions = (grid[:, None] + basis).reshape(-1, 3) * edge
    noise = torch.randn(positions.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return positions + 0.05 * edge * noise, torch.eye(3, dtype=torch.float64) * cells * edge


def list_arguments(positions: torch.Tensor, cell: torch.Tensor, systems: int, radius: float) -> tuple[object, ...]:
    """Return arguments of `build_neighbor_list` for equal systems, with nothing to keep."""
    n = len(positions)
    pointer = torch.arange(0, n + 1, n // systems, dtype=torch.int32)
    none, flags = torch.zeros(0, dtype=torch.int32), torch.ones(systems, dtype=torch.bool)
    old = (torch.zeros(n + 1, dtype=torch.int64), none, none, torch.zeros(n, 3, dtype=torch.int32))
    cells, pbc = cell.repeat(systems, 1, 1), torch.ones(systems, 3, dtype=torch.bool)
    return positions, cells, pbc, pointer, radius, False, flags, *old


def cases() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    result: dict[str, Callable[[], object]] = {}
    for name, cells, edge, radius in (
        ("32,000 atoms, 2.8 sigma", 20, SPACING, 2.8),
        ("4,000 atoms, 5 A (copper)", 10, 3.61, 5.0),
        ("108 atoms, 5 A", 3, 3.61, 5.0),
    ):
        positions, cell = crystal(cells, edge)
        arguments = list_arguments(positions, cell, 1, radius)
        result[f"list  {name}"] = lambda a=arguments: kernels.build_neighbor_list(*a)
        result[f"vesin {name}"] = vesin_call(positions, cell, radius)
    positions, cell = crystal(1, 3.61)
    many = list_arguments(torch.cat([positions, positions + 0.5] * 256), cell, 256, 5.0)
    result["list  256 x 8 atoms, 5 A"] = lambda: kernels.build_neighbor_list(*many)

    positions, cell = crystal(10, SPACING)
    arguments = list_arguments(positions, cell, 1, 2.8)
    lists, pointer = kernels.build_neighbor_list(*arguments), arguments[3]
    types, one = torch.zeros(len(positions), dtype=torch.int32), torch.ones(1, 1, dtype=torch.float64)
    pair = (positions, cell[None], pointer, *lists, types, one, one, 2.5, 0.0, False, False)
    result["Lennard-Jones 4,000 atoms, 2.5 sigma"] = lambda: kernels.lennard_jones(*pair)
    moved = (positions, positions, cell[None], cell[None], pointer, 2.8, 0.3)
    result["rebuild test 4,000 atoms"] = lambda: kernels.needs_rebuild(*moved)
    result["segment sum 4,000 x 3"] = lambda: kernels.segment_sum(positions, pointer)
    noise = (torch.tensor([0, 10_000], dtype=torch.int32), torch.tensor([1]), torch.tensor([1]), 42, 1)
    result["normals 10,000 x 3"] = lambda: kernels.philox_normal(*noise)
    result["uniforms 10,000 x 3"] = lambda: kernels.philox_uniform(*noise)
    few = (positions[:8].contiguous(), torch.tensor([0, 8], dtype=torch.int32))
    result["one call: segment sum of 8 atoms"] = lambda: kernels.segment_sum(*few)
    return result


def vesin_call(positions: torch.Tensor, cell: torch.Tensor, radius: float) -> Callable[[], object]:
    """Return the same search with vesin, or a call that does nothing without it."""
    try:
        import vesin
    except ImportError:
        return lambda: None
    search = vesin.NeighborList(cutoff=radius, full_list=True)
    points, box = positions.numpy(), cell.numpy()
    return lambda: search.compute(points=points, box=box, periodic=True, quantities="ijS", copy=False)


def main() -> None:
    """Run every case `--repeats` times, in turn, and print the smallest times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    _runtime.set_num_threads(options.threads)
    timed = cases()
    best = dict.fromkeys(timed, float("inf"))
    for _ in range(options.repeats):
        for name, call in timed.items():
            call()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{_runtime.get_num_threads()} threads, wall minimum of {options.repeats} interleaved runs")
    for name, seconds in best.items():
        print(f"{name:42s} {seconds * 1e3:9.3f} ms")


if __name__ == "__main__":
    main()
