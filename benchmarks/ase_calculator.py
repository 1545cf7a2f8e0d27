"""Models inside ASE: CHGNet under ASE's FIRE against the package's own calculator, and a call beside the model alone.

Both calculators walk the same path from the same rattled crystals, and energies at its end are compared. The package
computes stress and magnetic moments at every call, ours what is asked for: with a moving cell both compute stress.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import ase
import numpy as np
import torch
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from chgnet_relaxation import load
from harness import Row, cpu, interleave, main

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics.evaluate import compute_apart
from athanor.hooks.context import HookContext
from athanor.hooks.stages import DynamicsStage
from athanor.models import LennardJonesModelWrapper
from athanor.workflows.build import build_neighbor_hooks

ARGON = {"epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


def salt(repeat: int) -> ase.Atoms:
    """Return rattled and stretched rock salt of ``8 repeat`` atoms."""
    atoms = bulk("NaCl", "rocksalt", a=1.01 * 5.64, cubic=True) * (repeat, 1, 1)
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.05, atoms.positions.shape)
    return atoms


def argon(repeat: int) -> ase.Atoms:
    """Return a rattled crystal of ``4 repeat^3`` argon atoms."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (repeat, repeat, repeat)
    atoms.positions += np.random.default_rng(0).normal(0.0, 0.05, atoms.positions.shape)
    return atoms


def walk(calculator: Calculator, start: ase.Atoms, steps: int, moves_cell: bool) -> float:
    """Return the energy after `steps` steps of ASE's FIRE."""
    atoms = start.copy()
    atoms.calc = calculator
    FIRE(FrechetCellFilter(atoms) if moves_cell else atoms, logfile=None).run(fmax=0.0, steps=steps)
    return atoms.get_potential_energy()


def time_of_a_step(calculator: Calculator, start: ase.Atoms, steps: int, moves_cell: bool) -> float:
    """Return ms of CPU time for a step."""
    return 1e3 * cpu(lambda: walk(calculator, start, steps, moves_cell)) / steps


def call_and_model(model: Any, atoms: ase.Atoms, repeat: int) -> dict[str, Callable[[], float]]:
    """Return µs of a call for forces at new positions, and of what a run does for the same: the list and the model."""
    start = atoms.positions.copy()
    moves = itertools.cycle(np.random.default_rng(1).normal(0.0, 0.01, (8, *start.shape)))
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64)])
    hooks, context = build_neighbor_hooks(model), HookContext(batch=batch)
    with_skin, without = athanor.AthanorCalculator(model), athanor.AthanorCalculator(model, skin=0.0)

    def call(calculator: Calculator) -> None:
        atoms.calc = calculator
        atoms.positions = start + next(moves)
        atoms.get_forces()

    def alone() -> None:
        batch.positions.copy_(torch.from_numpy(start + next(moves)))
        for hook in hooks:
            hook(context, DynamicsStage.BEFORE_COMPUTE)
        compute_apart(model, batch, frozenset({"energy", "forces"}))

    called = {
        "athanor": partial(call, with_skin),
        "athanor, no skin": partial(call, without),
        "the model alone": alone,
    }
    for warm_up in called.values():
        warm_up()
    return {name: lambda function=function: 1e6 * cpu(function, repeat) for name, function in called.items()}


def measure(smoke: bool = False) -> list[Row]:
    """Return rows for steps with CHGNet, and for a call beside the model with CHGNet and Lennard-Jones; one thread."""
    from chgnet.model.dynamics import CHGNetCalculator

    repeats, steps, rounds = ((1,), 2, 1) if smoke else ((1, 8), 10, 5)
    athanor.set_num_threads(1)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the package
        model, relaxer = load()
        model.model_config.active_outputs = {"energy", "forces"}
        calculators = {
            "athanor": athanor.AthanorCalculator(model),
            "athanor, no skin": athanor.AthanorCalculator(model, skin=0.0),
            "chgnet": CHGNetCalculator(relaxer.calculator.model, use_device="cpu"),
        }
        for repeat in repeats:
            for moves_cell in (False, True):
                start = salt(repeat)
                energies = {name: walk(each, start, steps, moves_cell) for name, each in calculators.items()}
                if max(energies.values()) - min(energies.values()) > 2e-3 * len(start):
                    raise AssertionError(f"energies differ: {energies}")
                timed = {
                    name: partial(time_of_a_step, each, start, steps, moves_cell) for name, each in calculators.items()
                }
                case = f"CHGNet, FIRE{' and cell' if moves_cell else ''}, {len(start)} atoms"
                rows.append(interleave(case, "ms", timed, rounds))
        for repeat in repeats:
            atoms, count = salt(repeat), 1 if smoke else 20
            rows.append(
                interleave(f"CHGNet, forces of {len(atoms)} atoms", "µs", call_and_model(model, atoms, count), rounds)
            )
    for repeat in (1,) if smoke else (3, 10):
        atoms = argon(repeat)
        timed = call_and_model(LennardJonesModelWrapper(**ARGON), atoms, 2 if smoke else 100)
        rows.append(interleave(f"Lennard-Jones, forces of {len(atoms)} atoms", "µs", timed, rounds))
    return rows


if __name__ == "__main__":
    main(measure)
