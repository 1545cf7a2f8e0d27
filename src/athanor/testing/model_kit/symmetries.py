"""What must not change the answer: where a system stands, how it is turned, in what order and in which cell."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from athanor.data.atomic_data import AtomicData
from athanor.testing import tolerances
from athanor.testing.model_kit.bench import Measured, ModelBench, NotApplicable
from athanor.testing.systems import moved, reordered, repeated

_SHIFT = (0.37, -1.2, 2.9)


def translation(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """A translation changes nothing."""
    shift = torch.tensor(_SHIFT, dtype=bench.dtype)
    here, there = bench.evaluate([system, moved(system, system.positions + shift)])
    yield from bench.compare("after a translation", there, here, bench.coarse(tolerances.MOTION))


def rotation(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Forces and stress turn along with the system; the energy stays."""
    generator = torch.Generator().manual_seed(1)
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    yield from _turned(bench, system, matrix * torch.linalg.det(matrix), "after a rotation")


def inversion(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Forces turn around with the system; energy and stress stay."""
    yield from _turned(bench, system, -torch.eye(3, dtype=torch.float64), "after an inversion")


def _turned(bench: ModelBench, system: AtomicData, matrix: torch.Tensor, what: str) -> Iterator[Measured]:
    turn = matrix.to(bench.dtype)
    cell = None if system.cell is None else system.cell[0] @ turn
    here, there = bench.evaluate([system, moved(system, system.positions @ turn, cell)])
    expected = {name: value.double() for name, value in here.items()}
    if "forces" in here:
        expected["forces"] = expected["forces"] @ matrix
    if "stress" in here:
        expected["stress"] = matrix.T @ expected["stress"] @ matrix
    yield from bench.compare(what, there, expected, tolerances.MOTION)


def sum_of_forces(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Forces add up to zero; without periodic axes, so does their torque."""
    forces = bench.evaluate([system], ["forces"])[0]["forces"].double()
    size = max(1.0, float(forces.abs().max()))
    zero = torch.zeros(3, dtype=torch.float64)
    yield bench.measure("sum of forces", forces.sum(dim=0), zero, bench.coarse(tolerances.MOTION), size)
    if system.pbc is None or not bool(system.pbc.any()):
        arms = system.positions.double() - system.positions.double().mean(dim=0)
        torque = torch.linalg.cross(arms, forces).sum(dim=0)
        yield bench.measure(
            "torque of the forces", torque, zero, tolerances.MOTION, size * max(1.0, float(arms.norm(dim=1).max()))
        )


def permutation(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Another order of the atoms gives the same answer in that order."""
    if system.num_nodes == 1:
        raise NotApplicable("there is one atom")
    order = torch.randperm(system.num_nodes, generator=torch.Generator().manual_seed(2))
    here, there = bench.evaluate([system, reordered(system, order)])
    if "forces" in here:
        here["forces"] = here["forces"][order]
    yield from bench.compare("in another order of the atoms", there, here, tolerances.PERMUTATION)


# ----------------------------------------------------------------------------------------------------- periodic systems


def images(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Atoms moved by whole lattice vectors of periodic axes change nothing."""
    cell, pbc = system["cell"][0], system["pbc"][0]
    offsets = torch.randint(-3, 4, system.positions.shape, generator=torch.Generator().manual_seed(3)) * pbc
    here, there = bench.evaluate([system, moved(system, system.positions + offsets.to(cell.dtype) @ cell)])
    yield from bench.compare("after moving atoms by lattice vectors", there, here, tolerances.MOTION)


def other_cell(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Another choice of cell for the same crystal changes nothing."""
    cell, pbc = system["cell"][0], system["pbc"][0].tolist()
    if not (pbc[0] and pbc[1]):
        raise NotApplicable("two periodic axes are needed")
    sheared = cell.clone()
    sheared[0] += 2.0 * cell[1]
    here, there = bench.evaluate([system, moved(system, system.positions, sheared)])
    yield from bench.compare("with another choice of cell", there, here, bench.coarse(tolerances.EXTENSIVITY))


def handedness(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """A cell whose vectors are swapped, which makes it left-handed or right-handed, changes nothing."""
    swapped = moved(system, system.positions, system["cell"][0][[1, 0, 2]])
    swapped.pbc = system["pbc"][:, [1, 0, 2]]
    here, there = bench.evaluate([system, swapped])
    yield from bench.compare("with two cell vectors swapped", there, here, tolerances.PERMUTATION)


def extensivity(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """A supercell has as many times the energy as it has cells, in three shapes, also below twice the cutoff."""
    pbc = system["pbc"][0].tolist()
    shapes = [(2, 1, 1), (1, 2, 1), (2, 2, 1)] if not pbc[2] else [(2, 1, 1), (1, 1, 3), (2, 2, 2)]
    shapes = [shape for shape in shapes if all(count == 1 or along for count, along in zip(shape, pbc, strict=True))]
    single, *several = bench.evaluate([system, *(repeated(system, shape) for shape in shapes)], ["energy"])
    within = bench.coarse(tolerances.EXTENSIVITY)
    for shape, result in zip(shapes, several, strict=True):
        cells = shape[0] * shape[1] * shape[2]
        per_atom = result["energy"] / (cells * system.num_nodes)
        what = f"energy per atom of {'x'.join(map(str, shape))} cells"
        yield bench.measure(what, per_atom, single["energy"] / system.num_nodes, within)


# ------------------------------------------------------------------------------------------------------------ molecules


def isolation(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Two molecules ten cutoffs apart have the sum of their energies."""
    if not bench.cutoffs:
        raise NotApplicable("the configuration names no cutoff, so nothing says how far the model sees")
    away = torch.tensor([10.0 * max(bench.cutoffs), 0.0, 0.0], dtype=bench.dtype)
    other = moved(system, system.positions + away)
    both = reordered(system, torch.arange(system.num_nodes).repeat(2))
    both.positions = torch.cat([system.positions, other.positions])
    one, two, together = bench.evaluate([system, other, both], ["energy"])
    expected = one["energy"].double() + two["energy"].double()
    yield bench.measure("energy of two molecules far apart", together["energy"], expected, tolerances.PERMUTATION)
