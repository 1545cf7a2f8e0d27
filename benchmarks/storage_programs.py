"""One program that writes frames, one that reads them: python storage_programs.py PROGRAM FILE FRAMES ATOMS [MORE].

Each prints a line of JSON: seconds of wall time, of CPU time, bytes and files. Frames are the same for all: positions,
velocities, forces, cell, energy and step of atoms that swing about the sites of a crystal.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def frames(count: int, atoms: int) -> Iterator[dict[str, np.ndarray]]:
    """Frames of `atoms` atoms; of 2 to about twice as many if that is negative, another number in each frame."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, -2 * atoms, count) if atoms < 0 else np.full(count, atoms)
    sites = generator.uniform(0.0, 20.0, (int(sizes.max()), 3))
    swing = generator.normal(0.0, 0.1, (2, int(sizes.max()), 3))
    for step, size in enumerate(sizes):
        phase = 0.13 * step
        moved = swing[0, :size] * np.cos(phase) + swing[1, :size] * np.sin(phase)
        yield {
            "positions": sites[:size] + moved,
            "velocities": (swing[1, :size] * np.cos(phase) - swing[0, :size] * np.sin(phase)) * 0.03,
            "forces": -moved * 2.1 + generator.normal(0.0, 1e-3, moved.shape),
            "cell": np.eye(3) * 20.0,
            "energy": np.array([float((moved**2).sum())]),
            "step": np.array([step]),
        }


def batches(count: int, atoms: int) -> list:
    """The frames as batches, which a run has at hand."""
    import torch

    from athanor.data import AtomicData, Batch

    made = []
    for each in frames(count, atoms):
        tensors = {name: torch.from_numpy(value) for name, value in each.items()}
        made.append(Batch.from_data_list([AtomicData(
            atomic_numbers=torch.full((len(each["positions"]),), 14), pbc=torch.ones(1, 3, dtype=torch.bool),
            positions=tensors["positions"], velocities=tensors["velocities"], forces=tensors["forces"],
            cell=tensors["cell"][None], energy=tensors["energy"][None], step=tensors["step"][None],
        )]))  # fmt: skip
    return made


def write_athanor(path: Path, count: int, atoms: int, durability: str = "none") -> list[float]:
    from athanor.sinks import ZarrData

    given, times = batches(count, atoms), []
    with ZarrData({}) as sink:  # what is imported is at hand, as it is for the others
        sink.write(given[0])
    start()
    with ZarrData(path, durability=durability) as sink:
        for batch in given:
            before = time.perf_counter()
            sink.write(batch)
            times.append(time.perf_counter() - before)
    return times


def read_athanor(path: Path, count: int, atoms: int) -> list[float]:
    from athanor.sinks import ZarrData

    ZarrData(path, mode="r").read_rows([0])
    start()
    assert ZarrData(path, mode="r").read().num_graphs == count
    return []


def one_athanor(path: Path, count: int, atoms: int) -> list[float]:
    from athanor.sinks import ZarrData

    sink, times = ZarrData(path, mode="r"), []
    chosen = np.random.default_rng(1).integers(0, count, 300)
    sink.read_rows([0])
    start()
    for frame in chosen:
        before = time.perf_counter()
        sink.read_rows([int(frame)])
        times.append(time.perf_counter() - before)
    return times


STEPS_OF_A_TURN = 50


def steps_athanor(path: Path, count: int, atoms: int, systems: str = "64") -> list[float]:
    """Milliseconds of a step: with frames stored beside the steps, as runs do; without; within; beside and not synced.

    Every tenth step has a frame. The four take turns, so that all meet the same machine, and move the same atoms; what
    waits at the end of a turn is waited for in its time. Of each the middle one of its turns counts.
    """
    import torch
    from ase.build import bulk

    from athanor.data import AtomicData, Batch
    from athanor.dynamics import NVTLangevin
    from athanor.dynamics.hooks import SnapshotHook
    from athanor.models.lj import LennardJonesModelWrapper
    from athanor.sinks import AsyncSink, ZarrData

    torch.set_num_threads(1)
    crystal = AtomicData.from_atoms(bulk("Ar", a=5.3, cubic=True) * (2, 2, atoms // 16), dtype=torch.float64)
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=12.0)  # a step of some 5 ms
    synced = {"beside": "every:10", "within": "every:10", "unsynced": "none"}
    beside, within, unsynced = (ZarrData(path / name, durability=value) for name, value in synced.items())
    contestants = []
    for sink in (AsyncSink(beside), None, within, AsyncSink(unsynced)):
        frames_of_it = [] if sink is None else [SnapshotHook(sink, 10)]
        hooks = [*model.make_neighbor_hooks(), *frames_of_it]
        hooks[0].skin = 0.5
        engine = NVTLangevin(model, dt=2.0, temperature=30.0, friction=0.01, random_seed=1, hooks=hooks)
        contestants.append((engine, Batch.from_data_list([crystal] * int(systems)), []))
    for turn in range(count + 1):
        for engine, batch, seconds in contestants:
            before = time.perf_counter()
            engine.run(batch, STEPS_OF_A_TURN if turn else 20)
            seconds.append(time.perf_counter() - before)
    assert all(torch.equal(batch.positions, contestants[1][1].positions) for _, batch, _ in contestants)
    return [1e3 * statistics.median(seconds[1:]) / STEPS_OF_A_TURN for *_, seconds in contestants]


def write_ase(path: Path, count: int, atoms: int) -> list[float]:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import Trajectory

    given = []
    for each in frames(count, atoms):
        made = Atoms("Si" * len(each["positions"]), each["positions"], cell=each["cell"], pbc=True)
        made.set_velocities(each["velocities"])
        made.calc = SinglePointCalculator(made, energy=float(each["energy"][0]), forces=each["forces"])
        given.append(made)
    start()
    with Trajectory(path, "w") as file:
        for made in given:
            file.write(made)
    return []


def read_ase(path: Path, count: int, atoms: int) -> list[float]:
    from ase.io import Trajectory

    start()
    with Trajectory(path) as file:
        found = [
            (made.positions, made.get_velocities(), made.get_forces(), made.get_potential_energy()) for made in file
        ]
    assert len(found) == count
    return []


def write_h5py(path: Path, count: int, atoms: int, compressed: str = "") -> list[float]:
    import h5py

    given = list(frames(count, atoms))
    options = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if compressed else {}
    start()
    with h5py.File(path, "w") as file:
        arrays: dict[str, h5py.Dataset] = {}
        rows = dict.fromkeys(given[0], 0)
        for each in given:
            for name, value in each.items():
                value = value[None] if name == "cell" else value
                if name not in arrays:
                    shape = (max(64, len(value)), *value.shape[1:])
                    arrays[name] = file.create_dataset(
                        name,
                        (0, *value.shape[1:]),
                        value.dtype,
                        maxshape=(None, *value.shape[1:]),
                        chunks=shape,
                        **options,
                    )
                arrays[name].resize(rows[name] + len(value), axis=0)
                arrays[name][rows[name] :] = value
                rows[name] += len(value)
            file.flush()
    return []


def read_h5py(path: Path, count: int, atoms: int) -> list[float]:
    import h5py

    start()
    with h5py.File(path) as file:
        found = {name: file[name][:] for name in file}
    assert len(found["energy"]) == count
    return []


_started: list[float] = []


def start() -> None:
    """Start the clocks: what was before is not of the program."""
    _started[:] = [time.perf_counter(), time.process_time()]


def main() -> None:
    """Run one program."""
    os.environ["OMP_NUM_THREADS"] = "1"
    name, path, count, atoms, *more = sys.argv[1:]
    place = Path(path)
    start()
    times = globals()[name](place, int(count), int(atoms), *more)
    wall, cpu = time.perf_counter() - _started[0], time.process_time() - _started[1]
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(json.dumps({"wall": wall, "cpu": cpu, "bytes": size, "files": len(files), "times": times}))


if __name__ == "__main__":
    main()
