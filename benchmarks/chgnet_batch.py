"""CHGNet: a batch of 32 crystals in the wrapper against the chgnet package, forward and backward and whole relaxations.

Run ``python benchmarks/chgnet_batch.py --threads 2`` (extra `chgnet`); ``--relax`` adds relaxations, about two minutes.
Times are CPU time with one thread and wall time otherwise, the best of `--repeats` runs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import ase
import numpy as np
import torch
from ase.build import bulk

import athanor
from athanor.data import AtomicData, Batch
from athanor.models.chgnet import CHGNetWrapper
from athanor.neighbors import compute_neighbors

KINDS = {
    "Si diamond": ("Si", "diamond", 5.43, (1, 1, 1)),
    "NaCl rocksalt": ("NaCl", "rocksalt", 5.64, (1, 1, 1)),
    "Cu fcc": ("Cu", "fcc", 3.615, (2, 1, 1)),
}


def crystals(kind: str, count: int = 32, noise: float = 0.05, stretch: float = 1.0) -> list[ase.Atoms]:
    """Return `count` rattled crystals of eight atoms."""
    symbol, structure, constant, repeat = KINDS[kind]
    systems = []
    for seed in range(count):
        atoms = bulk(symbol, structure, a=constant * stretch, cubic=True) * repeat
        atoms.positions += np.random.default_rng(seed).normal(0.0, noise, atoms.positions.shape)
        systems.append(atoms)
    return systems


def best(run: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Return the shortest time of `run` in seconds, after one run that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def compare_steps(package: Any, model: CHGNetWrapper, repeats: int, clock: Callable[[], float]) -> None:
    """Print the time of one evaluation with forces and stress; graphs of the package are built outside its time."""
    from pymatgen.io.ase import AseAtomsAdaptor

    for kind in KINDS:
        systems = crystals(kind)
        graphs = [package.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in systems]
        batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
        compute_neighbors(batch, config=model.model_config.neighbor_config)
        one = best(lambda graphs=graphs: package.predict_graph(graphs, task="efs", batch_size=1), repeats, clock)
        many = best(lambda graphs=graphs: package.predict_graph(graphs, task="efs", batch_size=32), repeats, clock)
        ours = best(lambda batch=batch: model(batch), repeats, clock)
        print(
            f"{kind:14s} 32 x 8 atoms: athanor {ours * 1e3:7.0f} ms ({ours / 256 * 1e3:.2f} ms an atom), package one "
            f"by one {one * 1e3:7.0f} ms ({one / ours:.1f}x), package in a batch {many * 1e3:7.0f} ms "
            f"({many / ours:.1f}x)",
            flush=True,
        )


def compare_relaxations(package: Any, model: CHGNetWrapper, clock: Callable[[], float]) -> None:
    """Print the time to relax 32 crystals to 0.05 eV/Å, in a batch and one by one with the package's relaxer."""
    from chgnet.model.dynamics import StructOptimizer

    systems = [atoms for kind in KINDS for atoms in crystals(kind, 11, 0.1, 1.02)][:32]
    relaxer = StructOptimizer(model=package, use_device="cpu")
    start, steps = clock(), 0
    for atoms in systems:
        steps += len(relaxer.relax(atoms.copy(), fmax=0.05, verbose=False)["trajectory"])
    theirs = clock() - start
    start = clock()
    result = athanor.relax(systems, model=model, fmax=0.05, smax=0.05, max_steps=500)
    ours = clock() - start
    print(
        f"relaxing 32 crystals: athanor {ours:.1f} s in {sum(result.steps)} steps, package {theirs:.1f} s in {steps} "
        f"steps ({theirs / ours:.1f}x)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--relax", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    from chgnet.model.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):
        package = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    model = CHGNetWrapper.from_checkpoint("0.3.0")
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    clock = time.process_time if options.threads == 1 else time.perf_counter
    compare_steps(package, model, options.repeats, clock)
    if options.relax:
        compare_relaxations(package, model, clock)


if __name__ == "__main__":
    main()
