"""Repeat the cells of systems, along given axes and up to a number of atoms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from athanor._values import is_real
from athanor.errors import InputError, in_words
from athanor.workflows.quantities import format_supercell
from athanor.workflows.structures import System

_AXES = "abc"
_MOST_ATOMS = 10_000_000
"""Of one system; beyond it, neighbours and frames take hundreds of gigabytes."""


def repeat_cells(systems: Sequence[System], supercell: Sequence[int], min_atoms: int = 1) -> list[System]:
    """Return the systems repeated `supercell` times, and further until each periodic one holds `min_atoms`.

    The systems themselves are not changed. One that is not periodic along an axis that is repeated, or that would have
    too many atoms, is set aside.

    Parameters
    ----------
    systems
        As they came in.
    supercell
        Repeats along a, b and c.
    min_atoms
        A cell with fewer atoms is repeated along its shortest periodic side until it has as many.
    """
    return [system if system.problem else _repeated(system, supercell, min_atoms) for system in systems]


def _repeated(system: System, supercell: Sequence[int], min_atoms: int) -> System:
    try:
        return _repeat(system, _counts(system, supercell, min_atoms))
    except Exception as error:  # ASE repeats constraints of others, which may refuse
        return system.set_aside(in_words(error))


def _counts(system: System, supercell: Sequence[int], min_atoms: int) -> list[int]:
    """Return the repeats along each axis; an InputError tells what is wrong with them for this system."""
    atoms, counts = system.atoms, [int(count) for count in supercell]
    periodic = [axis for axis in range(3) if atoms.pbc[axis]]
    wrong = [axis for axis in range(3) if counts[axis] > 1 and axis not in periodic]
    if wrong:
        possible = format_supercell([count if axis in periodic else 1 for axis, count in enumerate(counts)])
        advice = f"Use {possible}, or make it periodic there" if periodic else "Leave `supercell` out for molecules"
        raise InputError(
            f"`supercell` {format_supercell(counts)} repeats it along "
            f"{' and '.join(_AXES[axis] for axis in wrong)}, where it is not periodic. {advice}."
        )
    lengths = atoms.cell.lengths()
    total = len(atoms) * counts[0] * counts[1] * counts[2]
    if max(total, min_atoms if periodic else 0) > _MOST_ATOMS:
        raise InputError(
            f"`supercell` and `min_atoms` make {max(total, min_atoms):,} atoms of it; at most {_MOST_ATOMS:,} fit in "
            f"one system. Use fewer."
        )
    while periodic and 0 < total < min_atoms:
        axis = min(periodic, key=lambda axis: lengths[axis] * counts[axis])
        total = total // counts[axis] * (counts[axis] + 1)
        counts[axis] += 1
    return counts


def _repeat(system: System, counts: Sequence[int]) -> System:
    times = counts[0] * counts[1] * counts[2]
    if times == 1:
        return system
    atoms = system.atoms.repeat(tuple(counts))
    atoms.info = dict(system.atoms.info)
    had_velocities = atoms.arrays.pop("momenta", None) is not None  # repeated, all copies would move in step
    charge, spin = atoms.info.get("charge"), atoms.info.get("spin")
    if _is_number(charge):
        atoms.info["charge"] = charge * times
    if _is_number(spin):  # a multiplicity: unpaired electrons add up, as moments do
        atoms.info["spin"] = (spin - 1) * times + 1
    return dataclasses.replace(system, atoms=atoms, repeats=system.repeats * times, lost_velocities=had_velocities)


def _is_number(value: object) -> bool:
    return is_real(value) or (isinstance(value, np.ndarray) and value.dtype.kind in "iuf")
