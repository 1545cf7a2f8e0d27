"""What will run but is probably not meant: found before the first step, said once, counted over systems.

A run, and ``athanor run --check``, print what `advise` returns. ``silence: [small-cell]`` in a job, or
``--silence small-cell``, leaves out a topic.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from athanor.workflows.courses import start_of
from athanor.workflows.earlier_runs import model_of_results, progress_of
from athanor.workflows.methods import load
from athanor.workflows.quantities import TEMPERATURE, TIME, format_quantity
from athanor.workflows.readable import format_bytes
from athanor.workflows.spec import CalculationSpec, RunSpec
from athanor.workflows.stages import MDSpec, StageSpec
from athanor.workflows.structures import System, describe_system

MOST_FLUCTUATION = 0.3
"""Relative fluctuation of the temperature, sqrt(2/3N), above which a cell is called small: 7 atoms and fewer."""
HYDROGEN_TIME_STEP = 1.0
"""Longest sensible time step for hydrogen, fs: about a tenth of the 9 fs of an O-H stretch (3,700 1/cm), the usual rule
(A. R. Leach, Molecular Modelling, 2nd ed., 2001, chapter 7). Periods of heavier atoms scale as sqrt(mass)."""
_HYDROGEN_MASS = 1.008
_STILL = 1e-6
"""Part of the temperature asked for that rounding leaves where no atom moves against another."""
_FLOATS_PER_ATOM = 9
"""Positions, velocities, forces; what else a frame holds of an atom is the same in every frame and compresses away."""
_BYTES_PER_SYSTEM = 250
"""Of one frame, whatever its size, with its row of the log; measured 210 to 240."""
_BYTES_PER_STORE = 40_000
"""Metadata, whatever is in it."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One warning.

    Parameters
    ----------
    topic
        What silences it, one of `athanor.workflows.methods.TOPICS`.
    text
        What is odd, and what to do: two sentences or three.
    """

    topic: str
    text: str


def advise(spec: CalculationSpec, systems: Sequence[System], model: Any) -> list[Advice]:
    """Return the warnings for a calculation, those that `spec.silence` does not name.

    Parameters
    ----------
    spec
        What will run. Without stages (an evaluation) only systems and model are looked at.
    systems
        What it will run with, cells repeated already.
    model
        A wrapped model; its card says what it is made for.
    """
    found = [*_about_model(systems, model), *_about_another_model(systems, model)]
    if isinstance(spec, RunSpec):
        found += _about_start(spec.stages[0], systems)
        for stage in spec.stages:
            if isinstance(stage, MDSpec):
                found += _about_dynamics(stage, systems)
            own = ((topic, look(stage, systems)) for topic, look in stage.method.advice.items())
            found += [Advice(topic, text) for topic, text in own if text]
        found += _about_disk(spec, systems)
    first_of_topic = {advice.topic: advice for advice in reversed(found)}  # of two MD stages, the first one
    return [advice for advice in first_of_topic.values() if advice.topic not in spec.silence][::-1]


def estimate_disk(spec: RunSpec, systems: Sequence[System]) -> int:
    """Return the bytes that frames and log may take at most: every system goes to its last step."""
    return _BYTES_PER_STORE + bytes_per_frame(spec, systems) * math.ceil(spec.total_steps / spec.every)


def bytes_per_frame(spec: RunSpec, systems: Sequence[System]) -> int:
    """Return the bytes of one frame of all `systems`, before compression, with its rows of the log."""
    atom = _FLOATS_PER_ATOM * (8 if spec.dtype == "float64" else 4)
    return sum(atom * len(system.atoms) + _BYTES_PER_SYSTEM for _, system in _computed(systems))


def free_disk(path: str | os.PathLike[str]) -> int:
    """Return the bytes that are free where `path` is, or will be."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _about_model(systems: Sequence[System], model: Any) -> Iterator[Advice]:
    card = model.model_card
    name = card.name or type(model).__name__
    non_periodic = [index for index, system in _computed(systems) if not system.is_periodic]
    if card.kind == "materials" and non_periodic:
        yield Advice(
            "non-periodic",
            f"{name} is made for crystals, and not for what is not periodic: {name_systems(non_periodic, systems)}. "
            f"Its numbers there mean little. Choose another model (see `athanor models`), or give a cell.",
        )
    if card.trained_elements is None:
        return
    known = card.elements if card.elements is not None else frozenset(range(119))  # others are set aside anyway
    untrained = {index: set(system.atoms.numbers.tolist()) & known - card.trained_elements
               for index, system in _computed(systems)}  # fmt: skip
    affected = [index for index, numbers in untrained.items() if numbers]
    if affected:
        from athanor.data.elements import SYMBOLS

        symbols = [SYMBOLS[number] for number in sorted(set.union(*untrained.values()))]
        yield Advice(
            "elements",
            f"{name} was not fitted to {', '.join(symbols)}, found in {name_systems(affected, systems)}. "
            f"Check the results against another source.",
        )


def _about_another_model(systems: Sequence[System], model: Any) -> Iterator[Advice]:
    """Systems that go on from a run of another model: their energies and forces will jump."""
    name = model.model_card.name
    going_on: dict[Path, list[int]] = {}
    for index, system in _computed(systems):
        if system.file and progress_of(system.atoms):
            going_on.setdefault(Path(system.file).parent, []).append(index)
    for folder, places in going_on.items():
        before = model_of_results(folder)
        if name and before and before != name:
            yield Advice(
                "model",
                f"{name_systems(places, systems)}: goes on from `{folder}`, which ran with {before}, and now {name} "
                f"computes it, so that energies, forces and pressure jump. Name the model to go on with: `--model`.",
            )
            return


def _about_start(stage: StageSpec, systems: Sequence[System]) -> Iterator[Advice]:
    """What becomes of the velocities that structures come with."""
    moving = [index for index, system in _computed(systems) if np.any(system.atoms.arrays.get("momenta", 0.0))]
    repeated = [index for index, system in _computed(systems) if system.lost_velocities]
    if repeated and isinstance(stage, MDSpec):
        yield Advice(
            "velocities",
            f"{name_systems(repeated, systems)}: repeated, all copies of the cell would move in step, so new "
            f"velocities are drawn. To go on with the motion, leave `supercell` and `min_atoms` out.",
        )
    if moving and not isinstance(stage, MDSpec):
        yield Advice(
            "velocities",
            f"a relaxation drops the velocities of {name_systems(moving, systems)}: its steps are no motion, and "
            f"dynamics after it draws new ones.",
        )
    if isinstance(stage, MDSpec):
        given = [index for index, system in enumerate(systems) if system.atoms.has("momenta") and not system.problem]
        yield from _about_far_starts(stage, systems, given)


def _about_far_starts(stage: MDSpec, systems: Sequence[System], given: Sequence[int]) -> Iterator[Advice]:
    """Systems whose own velocities are of another temperature than the one asked for."""
    from athanor.data.batch import Batch
    from athanor.data.observables import count_degrees_of_freedom, temperature
    from athanor.dynamics.start import is_far
    from athanor.workflows.build import convert

    if not given:
        return
    batch = Batch.from_data_list([convert(systems[index], "float64") for index in given])
    batch.dof = count_degrees_of_freedom(batch, load(stage.method.engine).conserves_momentum is True)
    target = start_of(stage.temperature)
    kelvin, dof = temperature(batch)[:, 0].tolist(), batch.dof[:, 0].tolist()
    far = [place for place in range(len(given)) if is_far(kelvin[place], target, dof[place])]
    if far:
        first = kelvin[far[0]]
        found = f"{first:.4g} K" if first > _STILL * target else "0 K (it stands still, or glides as a whole)"
        yield Advice(
            "start",
            f"{name_systems([given[place] for place in far], systems)}: the velocities that came with it are those of "
            f"{found}, far from {format_quantity(target, TEMPERATURE)}, and are kept. "
            f"Ask for that temperature, or drop them to have new ones drawn (`del atoms.arrays['momenta']` in ASE).",
        )


def _about_dynamics(stage: MDSpec, systems: Sequence[System]) -> Iterator[Advice]:
    small = [
        index for index, system in _computed(systems) if system.is_periodic and _fluctuation(system) > MOST_FLUCTUATION
    ]
    if small:
        worst = max(small, key=lambda index: _fluctuation(systems[index]))
        size = len(systems[worst].atoms)
        yield Advice(
            "small-cell",
            f"the temperature of a moment means little in a cell as small as that of {name_systems(small, systems)}: "
            f"with N = {size} atoms it swings by sqrt(2/3N) = {100 * _fluctuation(systems[worst]):.0f} %. "
            f"Repeat the cell, for example with `--supercell 2x2x2`, or trust averages over time only.",
        )
    limits = {index: HYDROGEN_TIME_STEP * math.sqrt(_lightest(system) / _HYDROGEN_MASS)
              for index, system in _computed(systems)}  # fmt: skip
    too_long = [index for index, limit in limits.items() if stage.timestep > 1.001 * limit]
    if too_long:
        worst = min(too_long, key=lambda index: limits[index])
        yield Advice(
            "time-step",
            f"a time step of {format_quantity(stage.timestep, TIME)} is long for the lightest atoms of "
            f"{name_systems(too_long, systems)}: a tenth of the fastest vibration of "
            f"{_lightest(systems[worst]):.3g} amu is about {limits[worst]:.2g} fs. Shorten it with `--timestep`.",
        )


def _about_disk(spec: RunSpec, systems: Sequence[System]) -> Iterator[Advice]:
    if spec.output is None:
        return
    needed, free = estimate_disk(spec, systems), free_disk(spec.output)
    if needed > free:
        every = spec.every * math.ceil(needed / max(free, 1))
        yield Advice(
            "disk",
            f"the frames may take {format_bytes(needed)}, and `{spec.output}` has {format_bytes(free)} free. "
            f"Raise `--every` (now {spec.every}) to {every}, or choose another disk.",
        )


def _computed(systems: Sequence[System]) -> Iterator[tuple[int, System]]:
    """Yield index and system of those that were not set aside."""
    return ((index, system) for index, system in enumerate(systems) if not system.problem)


def name_systems(indices: Sequence[int], systems: Sequence[System]) -> str:
    """Return ``3 of 84 systems, the first is system 5 (Cu)``, or the one it is."""
    first = describe_system(indices[0], systems[indices[0]])
    return first if len(indices) == 1 else f"{len(indices)} of {len(systems)} systems, the first is {first}"


def _fluctuation(system: System) -> float:
    """Relative fluctuation of the kinetic temperature of N atoms in equilibrium."""
    return math.sqrt(2.0 / (3.0 * len(system.atoms)))


def _lightest(system: System) -> float:
    """Smallest mass among the atoms that move, amu."""
    masses = system.atoms.get_masses()
    for constraint in system.atoms.constraints:
        if type(constraint).__name__ == "FixAtoms":
            masses = np.delete(masses, constraint.index)
    return float(masses.min()) if masses.size else math.inf
