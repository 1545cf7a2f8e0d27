"""What becomes of energy and forces where a pair crosses a cutoff, and where that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from athanor.data.atomic_data import AtomicData
from athanor.testing import tolerances
from athanor.testing.model_kit.bench import Measured, ModelBench, NotApplicable
from athanor.testing.model_kit.systems import AWAY, boxed, distances, with_inputs
from athanor.testing.systems import structure

_PLACES = 5
"""Distances on either side of a cutoff, from which energy and forces are extrapolated to it."""
_SPACINGS = {torch.float64: (1e-3, 3e-4, 1e-4), torch.float32: (3e-2, 1e-2, 3e-3)}
"""Å between them. A jump is seen with every one; what a polynomial does not follow shrinks with them, and rounding
grows, so the least of what is found counts."""
_HARMLESS = tolerances.Tolerance(1e-8, 1e-5)
"""Jumps that do not show in differences of the energy, which single precision can not tell from rounding."""
_FURTHEST = 12.0
"""Å; how far a pair is taken apart in search of a cutoff that the configuration does not name."""
_NUM_DISTANCES = 400
_NUM_SUSPECTS = 6
_NUM_HALVINGS = 20


def smoothness(bench: ModelBench) -> Iterator[tuple[str, Sequence[Measured]]]:
    """Energy, forces and, in double precision, their slope go on where a pair crosses a cutoff.

    Where the configuration names none, energy and forces are followed while a pair is taken apart.
    """
    if bench.cutoffs:
        for cutoff in bench.cutoffs:
            yield f"a pair at {cutoff:g} Å", jumps(bench, cutoff)
        return
    if not (bench.computes("energy") or bench.computes("forces")):
        raise NotApplicable("the model computes neither energy nor forces")
    seen = [
        jump._replace(what=f"{jump.what} at {distance:.4g} Å")
        for distance in _suspects(bench)
        for jump in _jumps_of_pair(bench, distance)
    ]
    yield f"a pair up to {_FURTHEST:g} Å", seen


def where_it_may_jump(bench: ModelBench) -> list[float]:
    """Return the cutoffs, Å, where the card says that the model jumps, or where that can not be excluded."""
    if bench.cutoffs and bench.card.smooth is False:
        return bench.cutoffs
    most = (tolerances.SMOOTH if bench.card.smooth else _HARMLESS).at(bench.precision)
    found = {cutoff: jumps(bench, cutoff) for cutoff in bench.cutoffs}
    if not bench.cutoffs:
        found = {distance: _jumps_of_pair(bench, distance) for distance in _suspects(bench)}
    return [cutoff for cutoff, seen in found.items() if any(jump.error > most for jump in seen)]


def jumps(bench: ModelBench, cutoff: float) -> list[Measured]:
    """Return the jumps where the distance of a pair, alone and beside a third atom, crosses `cutoff`, Å."""
    return bench.once(("jumps", cutoff), lambda: [*_jumps(bench, cutoff, 2), *_jumps(bench, cutoff, 3)])


def _jumps_of_pair(bench: ModelBench, distance: float) -> list[Measured]:
    """Return the jumps of energy and forces of a pair alone; of a cutoff that is guessed, no more can be told."""
    found = bench.once(("jumps of a pair", distance), lambda: list(_jumps(bench, distance, 2)))
    return [jump for jump in found if "slope" not in jump.what]


def _jumps(bench: ModelBench, cutoff: float, num_atoms: int) -> Iterator[Measured]:
    found = [_jumps_seen_from(bench, cutoff, spacing, num_atoms) for spacing in _SPACINGS[bench.precision]]
    beside = "" if num_atoms == 2 else " beside a third atom"
    for title in found[0]:
        errors = [jumps[title] for jumps in found]
        error = math.inf if any(map(math.isnan, errors)) else min(errors)
        yield Measured(f"jump of the {title}{beside}", error, tolerances.SMOOTH.at(bench.precision))


def _jumps_seen_from(bench: ModelBench, cutoff: float, spacing: float, num_atoms: int) -> dict[str, float]:
    """Return the jump of each quantity, relative to its size or to 1, seen from places `spacing` apart."""
    steps = [*range(-_PLACES, 0), *range(_PLACES, 0, -1)]
    systems = [_pair(bench, cutoff + spacing * step, cutoff, num_atoms) for step in steps]
    found = {}
    for name, values in _along(bench, systems).items():
        both = values.view(2, _PLACES)
        below, above = _extrapolated(both[0], spacing), _extrapolated(both[1], -spacing)
        found[name] = abs(below[0] - above[0]) / max(1.0, abs(above[0]))
        if bench.precision == torch.float64 and (name == "forces" or not bench.computes("forces")):
            found[f"slope of the {name}"] = abs(below[1] - above[1]) / max(1.0, abs(above[1]))
    return found


def _extrapolated(values: torch.Tensor, spacing: float) -> tuple[float, float]:
    """Return value and slope, one `spacing` behind the last of `values`, of the polynomial through them."""
    places = torch.arange(-_PLACES, 0, dtype=torch.float64)
    powers = torch.linalg.solve(places.unsqueeze(1) ** torch.arange(_PLACES), values)
    return float(powers[0]), float(powers[1]) / spacing


def _along(bench: ModelBench, systems: Sequence[AtomicData]) -> dict[str, torch.Tensor]:
    """Return the energies of pairs, and the forces on the second atom along the pair, [S]."""
    names = [name for name in ("energy", "forces") if bench.computes(name)]
    results = bench.evaluate_many(systems, names)
    values = {name: [result[name] if name == "energy" else result[name][1, 0] for result in results] for name in names}
    return {name: torch.stack(found).double() for name, found in values.items()}


def _pair(bench: ModelBench, distance: float, cutoff: float, num_atoms: int) -> AtomicData:
    """Return two atoms, or these and a third one that both see all the way."""
    places = [[0.0, 0.0, 0.0], [distance, 0.0, 0.0], [0.5 * cutoff, 0.3 * cutoff, 0.1 * cutoff]]
    positions = torch.tensor(places[:num_atoms], dtype=bench.dtype) + torch.tensor(AWAY, dtype=bench.dtype)
    numbers = [bench.elements[0], bench.elements[-1], bench.elements[0]]
    system = structure(positions, numbers[:num_atoms])
    return with_inputs(bench, system if bench.takes(periodic=False) else boxed(bench, system))


# --------------------------------------------------------------------------------------- a cutoff that nobody has named


def _suspects(bench: ModelBench) -> list[float]:
    """Return the distances, Å, where energy or forces of a pair bend most against what they do nearby."""
    return bench.once("suspects", lambda: _search(bench))


def _search(bench: ModelBench) -> list[float]:
    nearest = distances(bench, bench.elements)[0]
    grid = torch.linspace(nearest, _FURTHEST, _NUM_DISTANCES, dtype=torch.float64)
    found = []
    for name, values in _along(bench, [_pair(bench, r, r, 2) for r in grid.tolist()]).items():
        bends = values.diff(n=3).abs()  # of the interval between the two middle places of four
        usual = torch.nn.functional.max_pool1d(-bends[None], 9, 1, 4)[0].neg()
        places = (bends / (usual + 1e-12)).topk(_NUM_SUSPECTS).indices + 1
        found += [_halved(bench, name, *grid[place : place + 2].tolist()) for place in places.tolist()]
    return sorted({round(distance, 9) for distance in found})


def _halved(bench: ModelBench, name: str, low: float, high: float) -> float:
    """Return where in an interval a quantity changes most, by halving it."""
    ends = _along(bench, [_pair(bench, r, r, 2) for r in (low, high)])[name].tolist()
    for _ in range(_NUM_HALVINGS):
        middle = 0.5 * (low + high)
        value = float(_along(bench, [_pair(bench, middle, middle, 2)])[name])
        if abs(value - ends[0]) > abs(ends[1] - value):
            high, ends[1] = middle, value
        else:
            low, ends[0] = middle, value
    return 0.5 * (low + high)
