"""Repeating cells: how often along each axis, written ``2x2x1``, and up to how many atoms."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.workflows.structures import System

_AXES = "abc"
_MOST_ATOMS = 10_000_000
"""Of one system; beyond it, neighbours and frames take hundreds of gigabytes."""


def parse_supercell(value: Any) -> tuple[int, int, int]:
    """Return the repeats along a, b and c.

    Parameters
    ----------
    value
        ``"2x2x1"``, ``"2,2,1"``, three integers, or one integer (also as text) for all axes.

    Raises
    ------
    InputError
        If it is none of these, or a number is below 1.

    Examples
    --------
    >>> parse_supercell("2x2x1"), parse_supercell(3)
    ((2, 2, 1), (3, 3, 3))
    """
    parts = re.split(r"[x,]", value.replace(" ", "").lower()) if isinstance(value, str) else value
    try:
        parts = [parts] if isinstance(parts, int) else list(parts)
        counts = [int(part) for part in parts if not isinstance(part, bool) and int(part) == float(part)]
    except (TypeError, ValueError, OverflowError):
        parts, counts = [], []
    if len(counts) not in (1, 3) or len(counts) != len(parts) or min(counts) < 1:
        raise InputError(f"{value!r} is not a supercell; write repeats of at least 1, for example `2x2x1`, or `2`.")
    if len(counts) == 1:
        counts *= 3
    return counts[0], counts[1], counts[2]


def format_supercell(counts: Sequence[int]) -> str:
    """Return ``2x2x1``; `parse_supercell` reads it back."""
    return "x".join(map(str, counts))


Supercell = Annotated[
    tuple[int, int, int],
    BeforeValidator(parse_supercell),
    PlainSerializer(format_supercell, return_type=str),
]


def repeat_cells(systems: Sequence[System], supercell: Sequence[int], min_atoms: int = 1) -> list[System]:
    """Return the systems repeated `supercell` times, and further until each periodic one holds `min_atoms`.

    The systems themselves are not changed.

    Parameters
    ----------
    systems
        As they came in.
    supercell
        Repeats along a, b and c.
    min_atoms
        A cell with fewer atoms is repeated along its shortest periodic side until it has as many.

    Raises
    ------
    InputError
        If a system is not periodic along an axis that is repeated; the text names both.
    """
    return [_repeat(system, _counts(system, number, supercell, min_atoms)) for number, system in enumerate(systems)]


def _counts(system: System, number: int, supercell: Sequence[int], min_atoms: int) -> list[int]:
    from athanor.workflows.structures import describe_system

    atoms, counts = system.atoms, [int(count) for count in supercell]
    periodic = [axis for axis in range(3) if atoms.pbc[axis]]
    wrong = [axis for axis in range(3) if counts[axis] > 1 and axis not in periodic]
    if wrong:
        possible = format_supercell([count if axis in periodic else 1 for axis, count in enumerate(counts)])
        advice = f"Use {possible}, or make it periodic there" if periodic else "Leave `supercell` out for molecules"
        raise InputError(
            f"`supercell` {format_supercell(counts)} repeats {describe_system(number, system)} along "
            f"{' and '.join(_AXES[axis] for axis in wrong)}, where it is not periodic. {advice}."
        )
    lengths = atoms.cell.lengths()
    total = len(atoms) * counts[0] * counts[1] * counts[2]
    if max(total, min_atoms if periodic else 0) > _MOST_ATOMS:
        raise InputError(
            f"`supercell` and `min_atoms` make {max(total, min_atoms):,} atoms of {describe_system(number, system)}; "
            f"at most {_MOST_ATOMS:,} fit in one system. Use fewer."
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
    return dataclasses.replace(system, atoms=atoms, repeats=system.repeats * times)
