"""Systems to check a model on, made of elements that it knows, at distances where it makes sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.elements import SYMBOLS
from athanor.data.fields import FIELDS
from athanor.errors import InputError
from athanor.testing.model_kit.bench import ModelBench
from athanor.testing.systems import moved, standard_systems, structure

_OF_CRYSTALS, _OF_MOLECULES = ((11, 17), (13, 29), (14, 14)), ((6, 8), (6, 1), (1, 1))
_OF_FLUIDS = ((18, 36),)
"""Pairs of elements that many models know, tried in this order."""
AWAY = (2.1, 3.2, 4.3)
"""Å; no atom stands at the origin, where a model of absolute positions may be singular."""
_NUM_DISTANCES = 24
_NO_CUTOFF = 6.0
"""Å; how far the search for a sensible distance goes where the model has no cutoff."""


def systems_for(bench: ModelBench, elements: Sequence[int] | None, distance: float | None) -> dict[str, AtomicData]:
    """Return the systems for a model by name: crystals, slab, tiny cell where it takes periodic systems, and molecules.

    Parameters
    ----------
    bench
        The model.
    elements
        One or two atomic numbers; by default chosen among those that the card knows.
    distance
        Å between neighbours; by default where the model has its lowest energy, see `find_distance`.
    """
    chosen = tuple(elements) if elements is not None else choose_elements(bench)
    return made_of(bench, chosen, find_distance(bench, chosen) if distance is None else distance)


def made_of(bench: ModelBench, elements: Sequence[int], distance: float) -> dict[str, AtomicData]:
    """Return the systems for a model by name, of these elements and about this distance, Å, between neighbours."""
    away = torch.tensor(AWAY, dtype=bench.dtype)
    every = standard_systems(distance, elements, bench.dtype)
    takes = {name: system for name, system in every.items() if bench.takes(periodic=system.cell is not None)}
    return {name: with_inputs(bench, moved(system, system.positions + away)) for name, system in takes.items()}


def boxed(bench: ModelBench, system: AtomicData) -> AtomicData:
    """Return a molecule in a box so large that it does not see its images."""
    extent = float((system.positions.max(dim=0).values - system.positions.min(dim=0).values).max())
    side = extent + 3.0 * max(bench.cutoffs, default=_NO_CUTOFF)
    return structure(system.positions, system.atomic_numbers, torch.eye(3, dtype=bench.dtype) * side)


def with_inputs(bench: ModelBench, system: AtomicData) -> AtomicData:
    """Return `system` with the further inputs that the model requires: charges +0.5 and -0.5 e, no net charge.

    Raises
    ------
    InputError
        If the model requires something for which there is no natural value.
    """
    known = {"charges", *(name for name, spec in FIELDS.items() if spec.assumed is not None)}
    needed = bench.config.required_inputs - set(system.to_dict()) - {"cell", "pbc"}
    if needed - known:
        raise InputError(
            f"{bench.name} requires `{min(needed - known)}`, for which the kit has no values. Pass systems that have "
            f"it: `check_model(model, systems={{name: AtomicData(...)}})`."
        )
    for name in sorted(needed):
        assumed = FIELDS[name].assumed
        if assumed is not None:
            system[name] = torch.full((1, 1), assumed, dtype=bench.dtype)
        else:
            signs = 1.0 - 2.0 * (torch.arange(system.num_nodes) % 2).to(bench.dtype)
            system[name] = 0.5 * (signs - signs.mean())
    return system


def choose_elements(bench: ModelBench) -> tuple[int, ...]:
    """Return two elements that the model knows, or one if it knows no other.

    Where the card names none, the first usual pair is taken that the model evaluates.
    """
    known = bench.card.trained_elements or bench.card.elements
    if known is not None:
        usual = (pair for pair in _usual_pairs(bench) if known.issuperset(pair))
        return next(usual, tuple(sorted(known)[:2]))
    for pair in _usual_pairs(bench):
        if next(_energies(bench, pair, [_sum_of_radii(pair)]), None) is not None:
            return pair
    return _usual_pairs(bench)[0]


def _usual_pairs(bench: ModelBench) -> Sequence[tuple[int, int]]:
    crystals_first = bench.takes(periodic=True) and bench.card.kind != "molecules"
    first, second = (_OF_CRYSTALS, _OF_MOLECULES) if crystals_first else (_OF_MOLECULES, _OF_CRYSTALS)
    return (*first, *second, *_OF_FLUIDS)


def find_distance(bench: ModelBench, elements: Sequence[int]) -> float:
    """Return the distance of neighbours, Å, at which a crystal, or else a cluster, of `elements` has the lowest energy.

    Only distances within the cutoff are tried, down to three quarters of the sum of the covalent radii.
    """
    found = dict(_energies(bench, elements, distances(bench, elements)))
    return min(found, key=lambda distance: found[distance]) if found else 1.2 * _sum_of_radii(elements)


def distances(bench: ModelBench, elements: Sequence[int]) -> list[float]:
    """Return the distances, Å, among which `find_distance` chooses."""
    furthest = 0.95 * min(bench.cutoffs, default=_NO_CUTOFF)
    nearest = max(0.75 * _sum_of_radii(elements), 1.2 * (bench.card.minimum_distance or 0.0))
    nearest = nearest if nearest < furthest else 0.3 * furthest
    ratio = (furthest / nearest) ** (1.0 / (_NUM_DISTANCES - 1))
    return [nearest * ratio**place for place in range(_NUM_DISTANCES)]


def _sum_of_radii(elements: Sequence[int]) -> float:
    from ase.data import covalent_radii

    return float(covalent_radii[elements[0]] + covalent_radii[elements[-1]])


def _energies(bench: ModelBench, elements: Sequence[int], among: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Distance and energy of the system that `find_distance` looks at, where the model gives one that is finite."""
    for distance in among:
        systems = made_of(bench, elements, distance)
        system = systems[next(name for name in ("triclinic", "cluster", *systems) if name in systems)]
        try:
            energy = float(bench.evaluate([system], ["energy"])[0]["energy"])
        except Exception:  # the checks say what is wrong with it
            continue
        if abs(energy) < float("inf"):
            yield distance, energy


def in_words(systems: Mapping[str, AtomicData]) -> str:
    """Return ``9 systems of Na and Cl``."""
    numbers = sorted({int(number) for system in systems.values() for number in system.atomic_numbers.tolist()})
    return f"{len(systems)} of {' and '.join(SYMBOLS[number] for number in numbers)}"
