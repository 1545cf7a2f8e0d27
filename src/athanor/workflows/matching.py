"""Which system of one side is which of another: by where the atoms are, by name and id, and by what they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.io.structures import Structure
    from athanor.workflows.sides import Side

SAME_PLACE = 1e-3
"""Å within which atoms and lattice vectors are where those of the same structure are: files round them."""


@dataclass(slots=True)
class Matching:
    """Pairs of places in two lists of structures.

    Attributes
    ----------
    pairs
        Place in the first list, place in the second, in the order of the first.
    renamed
        Those of `pairs` whose names differ.
    alone, reference_alone
        Places without a partner.
    """

    pairs: list[tuple[int, int]] = field(default_factory=list)
    renamed: list[tuple[int, int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    reference_alone: list[int] = field(default_factory=list)


def match(side: Side, reference: Side) -> Matching:
    """Pair the systems of two sides.

    Systems whose atoms are of the same elements at the same places are the same, whatever they are called; then those
    of one name and composition, as of two relaxations; then those that are alone of their composition. Of several
    systems that are alike, names and ids of runs decide, then their order.

    Raises
    ------
    InputError
        If no system of the one is in the other.
    """
    ours = [place for place, each in enumerate(side.structures) if len(each.atoms)]
    theirs = [place for place, each in enumerate(reference.structures) if len(each.atoms)]
    kinds = _kinds([side.structures[i] for i in ours], [reference.structures[j] for j in theirs])
    all_ours, all_theirs = dict(zip(ours, kinds[0], strict=True)), dict(zip(theirs, kinds[1], strict=True))

    def named(each: Structure) -> Hashable:
        return each.name

    def numbered(each: Structure) -> Hashable:
        return each.name, each.atoms.info.get("system_id")

    def formula(each: Structure) -> Hashable:
        return each.atoms.get_chemical_formula()

    #          what must be equal, whether that of where the atoms are must be, whether there may be but one of it
    ladder: list[tuple[Callable[[Structure], Hashable], bool, bool]] = [
        (numbered, True, False),
        (named, True, False),
        (lambda each: None, True, False),
        (lambda each: (numbered(each), formula(each)), False, False),
        (lambda each: (named(each), formula(each)), False, False),
        (formula, False, True),
    ]
    found = Matching()
    for key, by_place, only_one in ladder:
        left = [(i, (key(side.structures[i]), all_ours[i] if by_place else None)) for i in ours]
        right = [(j, (key(reference.structures[j]), all_theirs[j] if by_place else None)) for j in theirs]
        pairs = _pair(left, right, by_place=by_place, only_one=only_one)
        found.pairs += pairs
        found.renamed += [(i, j) for i, j in pairs if side.structures[i].name != reference.structures[j].name]
        ours = [i for i in ours if i not in {pair[0] for pair in pairs}]
        theirs = [j for j in theirs if j not in {pair[1] for pair in pairs}]
    found.alone, found.reference_alone = ours, theirs
    found.pairs.sort()
    if not found.pairs:
        raise InputError(
            f"`{side.name}` and `{reference.name}` have no system in common. The one has {_in_words(side)}; the other "
            f"has {_in_words(reference)}. Systems are the same by the places of their atoms, by name, or by what they "
            f"are made of."
        )
    return found


def _in_words(side: Side) -> str:
    names = [f"{each.name} ({each.atoms.get_chemical_formula() or 'no atoms'})" for each in side.structures[:3]]
    return ", ".join(names) + (f" and {len(side.structures) - 3} more" if len(side.structures) > 3 else "")


def _pair(
    left: Sequence[tuple[int, Hashable]], right: Sequence[tuple[int, Hashable]], *, by_place: bool, only_one: bool
) -> list[tuple[int, int]]:
    """Pair what has equal keys, in order; where numbers differ, only if it is the same structure again and again."""
    groups: dict[Hashable, tuple[list[int], list[int]]] = {}
    for number, keyed in enumerate((left, right)):
        for place, key in keyed:
            groups.setdefault(key, ([], []))[number].append(place)
    found = []
    for ours, theirs in groups.values():
        if (by_place or len(ours) == len(theirs)) and (len(ours) == 1 or not only_one):
            found += list(zip(ours, theirs, strict=False))
    return found


def _kinds(first: Sequence[Structure], second: Sequence[Structure]) -> tuple[list[int], list[int]]:
    """Return a number for each structure of both lists, equal where atoms and cells stand at the same places.

    Structures of the same elements are sorted along a direction of their space, so that each is compared with those
    next to it only.
    """
    everybody = [*first, *second]
    groups: dict[bytes, list[int]] = {}
    for place, each in enumerate(everybody):
        atoms = each.atoms
        groups.setdefault(atoms.numbers.tobytes() + atoms.pbc.tobytes(), []).append(place)
    kinds = list(range(len(everybody)))
    for places in groups.values():
        rows = np.stack([_flat(everybody[place]) for place in places])
        direction = np.random.default_rng(0).normal(size=rows.shape[1])
        direction /= np.abs(direction).sum()  # along it, structures lie no farther apart than their farthest numbers do
        along = rows @ direction
        order = np.argsort(along, kind="stable")
        for before, here in enumerate(order):
            for other in order[before + 1 :]:
                if along[other] - along[here] > SAME_PLACE:
                    break
                if np.abs(rows[other] - rows[here]).max() <= SAME_PLACE:
                    kinds[places[other]] = kinds[places[here]]
    return kinds[: len(first)], kinds[len(first) :]


def _flat(structure: Structure) -> np.ndarray:
    atoms = structure.atoms
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    return np.concatenate([atoms.positions.ravel(), cell.ravel()])
