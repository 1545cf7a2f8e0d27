"""Forces and stress against differences of the energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from athanor.data.atomic_data import AtomicData
from athanor.neighbors.build import compute_neighbors
from athanor.testing import tolerances
from athanor.testing.model_kit.bench import Measured, ModelBench, NotApplicable
from athanor.testing.model_kit.cutoffs import where_it_may_jump
from athanor.testing.systems import moved

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
_KINK = 10.0
"""Of what is allowed: changes of the slope above this are no rounding."""
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
    pair crosses a cutoff on the way, if energy or forces jump there; and where a model that is not smooth, as its card
    says, has a kink at the system itself.
    """
    slopes, lengths, cutoffs = [], _DISPLACEMENTS[bench.precision], where_it_may_jump(bench)
    if bench.precision == torch.float64 and (cutoffs or not (bench.cutoffs or bench.card.smooth)):
        lengths = (*lengths, *(_FINER * length for length in lengths))
    for length in lengths:
        step = length * per_angstrom
        systems = [displaced(way, node * step) for way in range(num_ways) for node in _NODES]
        energies = torch.stack([result["energy"] for result in bench.evaluate_many(systems, ["energy"])])
        values = energies.double().view(-1, 4)
        found = (values[:, 0] - 8.0 * values[:, 1] + 8.0 * values[:, 2] - values[:, 3]) / (12.0 * step)
        found[_crossed(bench, system, systems, cutoffs)] = math.nan
        if bench.card.smooth is False:
            here = bench.evaluate([system], ["energy"])[0]["energy"].double()
            found[_kinks(values - here, step) > _KINK * tolerances.DERIVATIVE.at(bench.precision)] = math.nan
        slopes.append(found)
    if bool(torch.stack(slopes).isnan().all()):
        raise NotApplicable(
            "with every displacement a pair crosses a cutoff, where the energy may jump, or it has a kink"
        )
    return lambda given: _nearest(torch.stack(slopes), given)


def _kinks(values: torch.Tensor, step: float) -> torch.Tensor:
    """Return by how much the slope changes at the system, of energies at four nodes relative to the one there.

    What is even in the displacement grows with its square, and beside a kink with its length.
    """
    near, far = values[:, 1] + values[:, 2], values[:, 0] + values[:, 3]
    return (4.0 * near - far).abs() / (2.0 * step)


def _nearest(slopes: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return of several slopes for each way the one nearest to what is given; NaN counts last."""
    distance = (slopes - given).abs().nan_to_num(nan=math.inf)
    return slopes.gather(0, distance.argmin(dim=0, keepdim=True))[0]


def _crossed(
    bench: ModelBench, system: AtomicData, displaced: Sequence[AtomicData], cutoffs: Sequence[float]
) -> torch.Tensor:
    """Return for each four of `displaced` whether one has other pairs within a cutoff than `system`."""
    crossed = torch.zeros(len(displaced), dtype=torch.bool)
    batch = bench.batch([system, *displaced]) if cutoffs else bench.batch([system])
    for cutoff in cutoffs:
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
