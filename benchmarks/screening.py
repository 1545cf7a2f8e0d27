"""Screening: 100 mixed crystals of 2 to 60 atoms relaxed with CHGNet, in a batch that is kept full, and in chunks.

In chunks, systems are cut into consecutive batches, and each batch waits for its slowest member. The package relaxes
one crystal after the other with ASE's FIRE and Frechet cell filter; it gets some of them only, as it takes long.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import ase
import numpy as np
from ase.build import bulk
from chgnet_relaxation import FMAX, SMAX, load, relax_with_package
from harness import Row, interleave, main, wall

import athanor
from athanor.workflows.chunks import split_into_chunks

KINDS = (
    ("NaCl", "rocksalt", 5.64), ("MgO", "rocksalt", 4.21), ("GaAs", "zincblende", 5.65), ("ZnS", "zincblende", 5.41),
    ("Si", "diamond", 5.43), ("C", "diamond", 3.57), ("Cu", "fcc", 3.615), ("Al", "fcc", 4.05), ("Fe", "bcc", 2.87),
    ("W", "bcc", 3.16), ("CsCl", "cesiumchloride", 4.12), ("LiF", "rocksalt", 4.03),
)  # fmt: skip
MOST_ATOMS, CAP = 60, 400
"""Of a crystal, and of a batch."""


def crystals(count: int, seed: int = 0) -> list[ase.Atoms]:
    """Return `count` stretched and rattled supercells of 2 to 60 atoms, of twelve kinds in turn."""
    chance = np.random.default_rng(seed)
    made = []
    while len(made) < count:
        symbol, structure, constant = KINDS[len(made) % len(KINDS)]
        primitive = bulk(symbol, structure, a=constant * chance.uniform(0.97, 1.04))
        repeats = tuple(int(n) for n in chance.integers(1, 5, 3))
        if not 2 <= len(primitive) * np.prod(repeats) <= MOST_ATOMS:
            continue
        atoms = primitive * repeats
        atoms.positions += chance.normal(0.0, chance.uniform(0.02, 0.12), atoms.positions.shape)
        made.append(atoms)
    return made


def measure(smoke: bool = False) -> list[Row]:
    """Return rows of seconds, and one of how full the batch is while systems wait."""
    count, some = (4, 2) if smoke else (100, 8)
    systems = crystals(count)
    chosen = [systems[place] for place in np.random.default_rng(1).choice(count, some, replace=False)]
    full: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, relaxer = load()
        model.model_config.active_outputs = {"energy", "forces", "stress"}
        athanor.set_num_threads(2)
        relax(model, systems[:2], [])
        print(f"    {sum(map(len, systems))} atoms, at most {CAP} in a batch", flush=True)
        energies: dict[str, list[float]] = {}
        rows = [
            interleave(f"relax {count} crystals", "s", {
                "athanor": lambda: wall(lambda: energies.update(athanor=relax(model, systems, full, max_atoms=CAP))),
                "athanor, in chunks": lambda: wall(lambda: energies.update(chunks=relax_chunks(model, systems))),
            }, 1, threads=2),
            interleave(f"relax {some} of them", "s", {
                "athanor": lambda: wall(lambda: relax(model, chosen, [])),
                "chgnet": lambda: wall(partial(relax_with_package, relaxer, chosen, energies={}, steps={})),
            }, 1, threads=2),
        ]  # fmt: skip
    difference = max(
        abs(a - b) / len(c) for a, b, c in zip(energies["athanor"], energies["chunks"], systems, strict=True)
    )
    print(f"    energies differ by at most {1e3 * difference:.3f} meV an atom", flush=True)
    if difference > 2e-3:
        raise AssertionError(f"relaxed energies differ by {difference} eV an atom")
    occupancy = 100.0 * mean(full) if full else 100.0
    rows.append(
        Row(case="batch that is full, while others wait", threads=2, unit="%", figures={"athanor": [occupancy]})
    )
    return rows


def relax(model: Any, systems: list[ase.Atoms], full: list[float], **settings: Any) -> list[float]:
    """Relax `systems`, as a user would, and note how full the batch was in parts of its cap."""
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status"
        result = athanor.relax(systems, model=model, fmax=FMAX, smax=SMAX, threads=2, status=status, **settings)
        lines = [json.loads(line) for line in status.read_text(encoding="utf-8").splitlines()]
    full += [line["atoms"] / line["most_atoms"] for line in lines if line["waiting"]]
    return list(result.energies)


def relax_chunks(model: Any, systems: list[ase.Atoms]) -> list[float]:
    """Relax `systems` chunk by chunk, each until the last of its members is done."""
    energies: list[float] = []
    for chunk in split_into_chunks([len(atoms) for atoms in systems], CAP):
        energies += athanor.relax(
            [systems[place] for place in chunk], model=model, fmax=FMAX, smax=SMAX, max_atoms=CAP, threads=2
        ).energies
    return energies


if __name__ == "__main__":
    main(measure)
