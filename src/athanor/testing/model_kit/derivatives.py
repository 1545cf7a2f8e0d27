"""Forces and stress against differences of the energy, and what becomes of a pair that crosses the cutoff."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from athanor.data.atomic_data import AtomicData
from athanor.neighbors.build import compute_neighbors
from athanor.testing import tolerances
from athanor.testing.model_kit.bench import Measured, ModelBench, NotApplicable
from athanor.testing.model_kit.systems import AWAY, boxed, with_inputs
from athanor.testing.systems import moved, structure

_NODES = (-2.0, -1.0, 1.0, 2.0)
_NUM_COORDINATES = 20
_STRAINS = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
_DISPLACEMENTS = {torch.float64: (1e-4,), torch.float32: (2e-2, 6e-3)}
"""Å. A step is small beside the length on which energies bend (0.06 Å in CHGNet), and so large that the rounding of the
energy, divided by it, stays below the bound. In single precision no step is both for every model: the best one counts,
since a wrong force is wrong with each."""
_FINER = 0.1
"""Of a step: with one so much smaller a pair hardly ever crosses a cutoff, where that may matter."""
_STRAIN_PER_DISPLACEMENT = 0.2
"""1/Å. The longest pair vectors, of about 5 Å, then move as far as atoms do for the forces."""
_SMALLEST = 1e-3
"""eV/Å, and eV of strain: slopes below this have no sign that can be told."""


def _differences(
    bench: ModelBench,
    system: AtomicData,
    displaced: Callable[[int, float], AtomicData],
    num_ways: int,
    per_angstrom: float,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives the slopes of the energy along `num_ways` ways, those nearest to the slopes it is handed.

    Each is the Richardson extrapolation of central differences at two steps, with an error of fourth order. NaN where a
    pair crosses a cutoff on the way, if energy or forces jump there.
    """
    slopes, lengths = [], _DISPLACEMENTS[bench.precision]
    if bench.precision == torch.float64 and (may_jump(bench) if bench.cutoffs else not bench.card.smooth):
        lengths = (*lengths, *(_FINER * length for length in lengths))
    for length in lengths:
        step = length * per_angstrom
        systems = [displaced(way, node * step) for way in range(num_ways) for node in _NODES]
        energies = torch.stack([result["energy"] for result in bench.evaluate_many(systems, ["energy"])])
        values = energies.double().view(-1, 4)
        found = (values[:, 0] - 8.0 * values[:, 1] + 8.0 * values[:, 2] - values[:, 3]) / (12.0 * step)
        if may_jump(bench):
            found[_crossed(bench, system, systems)] = math.nan
        slopes.append(found)
    if bool(torch.stack(slopes).isnan().all()):
        raise NotApplicable("pairs cross a cutoff with every displacement, and the energy may jump there")
    return lambda given: _nearest(torch.stack(slopes), given)


def _nearest(slopes: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return of several slopes for each way the one nearest to what is given; NaN counts last."""
    distance = (slopes - given).abs().nan_to_num(nan=math.inf)
    return slopes.gather(0, distance.argmin(dim=0, keepdim=True))[0]


def _crossed(bench: ModelBench, system: AtomicData, displaced: Sequence[AtomicData]) -> torch.Tensor:
    """Return for each four of `displaced` whether one has other pairs within a cutoff than `system`."""
    batch, crossed = bench.batch([system, *displaced]), torch.zeros(len(displaced), dtype=torch.bool)
    for cutoff in bench.cutoffs:
        compute_neighbors(batch, cutoff)
        pairs = batch.pair_list
        assert pairs is not None
        counts = pairs.row_ptr[batch.batch_ptr.long()].diff().cpu()
        crossed |= counts[1:] != counts[0]
    return crossed.view(-1, 4).any(dim=1)


def _force_slopes(bench: ModelBench, system: AtomicData) -> tuple[torch.Tensor, torch.Tensor]:
    """Return forces along random coordinates, and minus the slopes of the energy there."""
    count = min(_NUM_COORDINATES, system.positions.numel())
    chosen = torch.randperm(system.positions.numel(), generator=torch.Generator().manual_seed(0))[:count]

    def displaced(way: int, length: float) -> AtomicData:
        positions = system.positions.clone()
        positions.view(-1)[chosen[way]] += length
        return moved(system, positions)

    given = bench.evaluate([system], ["energy", "forces"])[0]["forces"].reshape(-1)[chosen].double()
    slopes = _differences(bench, system, displaced, count, 1.0)(-given)
    return given[slopes.isfinite()], -slopes[slopes.isfinite()]


def _stress_slopes(bench: ModelBench, system: AtomicData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the stress [3, 3]; six components of it times the volume; and slopes of the energy with strain."""
    cell = system["cell"][0]

    def strained(way: int, strain: float) -> AtomicData:
        row, column = _STRAINS[way]
        deformation = torch.eye(3, dtype=cell.dtype)
        deformation[row, column] += 0.5 * strain
        deformation[column, row] += 0.5 * strain
        return moved(system, system.positions @ deformation, cell @ deformation)

    stress = bench.evaluate([system], ["energy", "stress"])[0]["stress"].double()
    given = torch.stack([stress[place] for place in _STRAINS]) * torch.linalg.det(cell.double()).abs()
    slopes = _differences(bench, system, strained, len(_STRAINS), _STRAIN_PER_DISPLACEMENT)(given)
    return stress, given[slopes.isfinite()], slopes[slopes.isfinite()]


def forces(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Forces are minus the slope of the energy along 20 random coordinates."""
    got, expected = bench.once(("forces", id(system)), lambda: _force_slopes(bench, system))
    yield bench.measure("forces against differences of the energy", got, expected, tolerances.DERIVATIVE)


def sign_of_forces(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Forces point downhill, also those of a model that predicts them directly."""
    got, expected = bench.once(("forces", id(system)), lambda: _force_slopes(bench, system))
    yield _sign("forces point uphill", got, expected)


def stress(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Stress is the slope of the energy with strain over the volume, tensile positive, and symmetric.

    It is compared times the volume, in eV for each atom, so that the size of the cell does not matter.
    """
    found, got, expected = bench.once(("stress", id(system)), lambda: _stress_slopes(bench, system))
    yield bench.measure("stress against its transpose", found, found.T, tolerances.MOTION)
    size = max(float(system.num_nodes), float(expected.abs().max()))
    what = "stress times volume against differences of the energy"
    yield bench.measure(what, got, expected, tolerances.DERIVATIVE, size)


def sign_of_stress(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Stress is positive where the energy rises with the volume, and negative under compression."""
    _, got, expected = bench.once(("stress", id(system)), lambda: _stress_slopes(bench, system))
    yield _sign("stress has the sign of a pressure", got, expected)


def _sign(what: str, got: torch.Tensor, expected: torch.Tensor) -> Measured:
    """Return 1 if `got` points against `expected`, 0 if along or if there is nothing to tell."""
    if float(expected.norm()) < _SMALLEST:
        return Measured("too small to have a sign", 0.0, 0.5)
    against = float((got * expected).sum()) < 0.0
    return Measured(what if against else "", float(against), 0.5)


# ------------------------------------------------------------------------------------------------------- at the cutoff

_PLACES = 5
"""Distances on either side of a cutoff, from which energy and forces are extrapolated to it."""
_SPACINGS = {torch.float64: (1e-3, 3e-4, 1e-4), torch.float32: (3e-2, 1e-2, 3e-3)}
"""Å between them. A jump is seen with every one; what a polynomial does not follow shrinks with them, and rounding
grows, so the least of what is found counts."""


_HARMLESS = tolerances.Tolerance(1e-8, 1e-5)
"""Jumps that do not show in differences of the energy, which single precision can not tell from rounding."""


def may_jump(bench: ModelBench) -> bool:
    """Whether energy or forces jump at a cutoff: the card says so, or it was measured, or can not be excluded."""
    if bench.card.smooth is False:
        return bool(bench.cutoffs)
    most = (tolerances.SMOOTH if bench.card.smooth else _HARMLESS).at(bench.precision)
    return any(jump.error > most for cutoff in bench.cutoffs for jump in jumps(bench, cutoff))


def smoothness(bench: ModelBench) -> Iterator[tuple[str, Sequence[Measured]]]:
    """Energy, forces and, in double precision, their slope go on where a pair crosses a cutoff."""
    if not bench.cutoffs:
        raise NotApplicable("the configuration names no cutoff")
    for cutoff in bench.cutoffs:
        yield f"a pair at {cutoff:g} Å", jumps(bench, cutoff)


def jumps(bench: ModelBench, cutoff: float) -> list[Measured]:
    """Return the jumps where the distance of a pair, alone and beside a third atom, crosses `cutoff`, Å."""
    return bench.once(("jumps", cutoff), lambda: [*_jumps(bench, cutoff, 2), *_jumps(bench, cutoff, 3)])


def _jumps(bench: ModelBench, cutoff: float, num_atoms: int) -> Iterator[Measured]:
    spacings = _SPACINGS[bench.precision]
    found = [_jumps_seen_from(bench, cutoff, spacing, num_atoms) for spacing in spacings]
    beside = "" if num_atoms == 2 else " beside a third atom"
    for title in found[0]:
        errors = [jumps[title] for jumps in found]
        error = math.inf if any(map(math.isnan, errors)) else min(errors)
        yield Measured(f"jump of the {title}{beside}", error, tolerances.SMOOTH.at(bench.precision))


def _jumps_seen_from(bench: ModelBench, cutoff: float, spacing: float, num_atoms: int) -> dict[str, float]:
    """Return the jump of each quantity, relative to its size or to 1, seen from places `spacing` apart."""
    steps = [*range(-_PLACES, 0), *range(_PLACES, 0, -1)]
    names = [name for name in ("energy", "forces") if bench.computes(name)]
    results = bench.evaluate([_pair(bench, cutoff + spacing * step, cutoff, num_atoms) for step in steps], names)
    found = {}
    for name in names:
        values = [result["energy"] if name == "energy" else result["forces"][1, 0] for result in results]
        both = torch.stack(values).double().view(2, _PLACES)
        below, above = _extrapolated(both[0], spacing), _extrapolated(both[1], -spacing)
        found[name] = abs(below[0] - above[0]) / max(1.0, abs(above[0]))
        if name == names[-1] and bench.precision == torch.float64:
            found[f"slope of the {name}"] = abs(below[1] - above[1]) / max(1.0, abs(above[1]))
    return found


def _pair(bench: ModelBench, distance: float, cutoff: float, num_atoms: int) -> AtomicData:
    """Return two atoms, or these and a third one that both see all the way."""
    places = [[0.0, 0.0, 0.0], [distance, 0.0, 0.0], [0.5 * cutoff, 0.3 * cutoff, 0.1 * cutoff]]
    positions = torch.tensor(places[:num_atoms], dtype=bench.dtype) + torch.tensor(AWAY, dtype=bench.dtype)
    numbers = [bench.elements[0], bench.elements[-1], bench.elements[0]]
    system = structure(positions, numbers[:num_atoms])
    return with_inputs(bench, system if bench.takes(periodic=False) else boxed(bench, system))


def _extrapolated(values: torch.Tensor, spacing: float) -> tuple[float, float]:
    """Return value and slope, one `spacing` behind the last of `values`, of the polynomial through them."""
    places = torch.arange(-_PLACES, 0, dtype=torch.float64)
    powers = torch.linalg.solve(places.unsqueeze(1) ** torch.arange(_PLACES), values)
    return float(powers[0]), float(powers[1]) / spacing
