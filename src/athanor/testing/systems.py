"""Small named structures on which a model can be checked: molecules, crystals, slabs, cells smaller than the cutoff."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from athanor.data.atomic_data import AtomicData


def structure(
    positions: torch.Tensor,
    atomic_numbers: Sequence[int] | torch.Tensor,
    cell: torch.Tensor | None = None,
    pbc: Sequence[bool] = (True, True, True),
) -> AtomicData:
    """Return one system from positions [N, 3] and, if it is periodic, its cell [3, 3]; Å."""
    numbers = torch.as_tensor(atomic_numbers, dtype=torch.int64)
    if cell is None:
        return AtomicData(positions=positions, atomic_numbers=numbers)
    periodic = torch.tensor([list(pbc)], dtype=torch.bool)
    return AtomicData(positions=positions, atomic_numbers=numbers, cell=cell.reshape(1, 3, 3), pbc=periodic)


def moved(system: AtomicData, positions: torch.Tensor, cell: torch.Tensor | None = None) -> AtomicData:
    """Return `system` with other positions [N, 3] and, if given, another cell [3, 3]; it shares the other fields."""
    changed = copy.copy(system)
    changed.positions = positions
    if cell is not None:
        changed.cell = cell.reshape(1, 3, 3)
    return changed


def reordered(system: AtomicData, order: torch.Tensor) -> AtomicData:
    """Return `system` with the atoms of `order` [M], which may name some twice and leave others out."""
    levels = {name: spec.level for name in system.to_dict() if (spec := system.field_spec(name)) is not None}
    fields = {name: system[name] for name, level in levels.items() if level != "edge"}
    return AtomicData(**{name: value[order] if levels[name] == "node" else value for name, value in fields.items()})


def repeated(system: AtomicData, shape: Sequence[int]) -> AtomicData:
    """Return a supercell of `system`, whole copies one after the other."""
    cell = system["cell"][0]
    places = torch.cartesian_prod(*(torch.arange(count, dtype=cell.dtype) for count in shape)) @ cell
    copies = reordered(system, torch.arange(system.num_nodes).repeat(len(places)))
    positions = (system.positions + places.unsqueeze(1)).reshape(-1, 3)
    return moved(copies, positions, cell * torch.tensor(shape, dtype=cell.dtype).view(3, 1))


def crystal(
    fractional: Sequence[Sequence[float]],
    cell: torch.Tensor,
    atomic_numbers: Sequence[int],
    repeat: tuple[int, int, int] = (1, 1, 1),
    jitter: float = 0.0,
    seed: int = 0,
    pbc: Sequence[bool] = (True, True, True),
) -> AtomicData:
    """Return a repeated crystal, each atom displaced by a normal number times `jitter` in Å."""
    basis = torch.tensor(fractional, dtype=cell.dtype)
    counts = [torch.arange(count, dtype=cell.dtype) for count in repeat]
    places = torch.cartesian_prod(*counts).reshape(-1, 1, 3)
    positions = ((basis + places) @ cell).reshape(-1, 3)
    generator = torch.Generator().manual_seed(seed)
    positions = positions + jitter * torch.randn(positions.shape, generator=generator, dtype=torch.float64).to(cell)
    numbers = list(atomic_numbers) * (len(positions) // len(basis))
    return structure(positions, numbers, cell * torch.tensor(repeat, dtype=cell.dtype).view(3, 1), pbc)


FCC = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))


def fcc_crystal(
    distance: float,
    atomic_number: int = 18,
    repeat: tuple[int, int, int] = (1, 1, 1),
    jitter: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> AtomicData:
    """Return a face-centred cubic crystal of cubic cells with the given nearest distance in Å."""
    cell = torch.eye(3, dtype=dtype) * distance * 2.0**0.5
    return crystal(FCC, cell, [atomic_number] * 4, repeat, jitter, seed)


def standard_systems(
    distance: float = 3.8, elements: Sequence[int] = (18,), dtype: torch.dtype = torch.float64
) -> dict[str, AtomicData]:
    """Return the systems of the contract by name.

    Parameters
    ----------
    distance
        Å; distances between neighbours are about this.
    elements
        Atomic numbers to use in turn.
    dtype
        Of positions and cells.
    """
    first, last = elements[0], elements[-1]
    unit = torch.eye(3, dtype=dtype) * distance
    tetrahedron = torch.tensor(
        [[0.0, 0.0, 0.0], [1.05, 0.1, 0.0], [0.45, 0.95, 0.05], [0.5, 0.3, 0.9], [1.4, 1.0, 0.8]], dtype=dtype
    )
    shear = torch.tensor([[1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [-0.2, 0.25, 1.0]], dtype=dtype)
    cubic = unit * 2.0**0.5
    left_handed = cubic[[1, 0, 2]] @ shear
    slab_cell = cubic @ shear
    slab_cell[2] = slab_cell[2] * 4.0
    primitive = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=dtype) * distance / 2.0**0.5
    cycled = [elements[index % len(elements)] for index in range(5)]
    layers = [[x, y, z / 4.0] for x, y, z in FCC]
    rock_salt = [*FCC, *([x + 0.5, y, z] for x, y, z in FCC)]
    return {
        "pair": structure(tetrahedron[:2] * distance, [first, last]),
        "cluster": structure(tetrahedron * distance, cycled),
        "atom": structure(tetrahedron[:1], [first]),
        "triclinic": crystal(FCC, cubic @ shear, [first, last, first, last], (2, 1, 1), 0.05 * distance, 1),
        "left-handed": crystal(FCC, left_handed, [first, last, first, last], (1, 1, 2), 0.05 * distance, 2),
        "slab": crystal(layers, slab_cell, [first] * 4, (2, 2, 1), 0.05 * distance, 3, pbc=(True, True, False)),
        "two elements": crystal(rock_salt, 2.0 * unit, [first] * 4 + [last] * 4, (1, 1, 1), 0.05 * distance, 4),
        "tiny cell": crystal([[0.1, 0.2, 0.3]], primitive, [first]),
    }
