"""What is compared of two structures, and how far many of them deviate: means, and the worst with its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from athanor.data.elements import SYMBOLS


@dataclass(slots=True)
class Pair:
    """One structure on both sides: a system, or a frame of one. Every difference is first side minus second.

    Attributes
    ----------
    row
        Row of the table that it belongs to.
    step
        Step of a frame; None of a structure.
    numbers
        [N]; atomic numbers, in the order of the second side.
    energy
        Of the first side and the second, eV/atom; NaN where there is none.
    shifted_energy
        Energy of the first side as the second counts elements, eV/atom; NaN where that is not known.
    forces, stress
        [2, N, 3] in eV/Å and [2, 6] in GPa, of both sides; None where one has none, or the structures differ. NaN where
        there is no number, which does not count.
    volume
        Å³/atom, of both sides; NaN where there is none.
    strains
        [k]; by which part the cell of the first side is longer along its principal axes.
    cell
        Name -> difference of lengths (Å) and angles (degrees).
    displacements
        [N], Å; None where it is not known which atom is which.
    is_same
        Whether atoms and cell are at the same places on both sides.
    """

    row: int
    step: int | None
    numbers: np.ndarray
    energy: tuple[float, float] = (math.nan, math.nan)
    shifted_energy: float = math.nan
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    volume: tuple[float, float] = (math.nan, math.nan)
    strains: np.ndarray = field(default_factory=lambda: np.empty(0))
    cell: dict[str, float] = field(default_factory=dict)
    displacements: np.ndarray | None = None
    is_same: bool = False

    @property
    def has_energies(self) -> bool:
        """Whether both sides have an energy."""
        return all(map(math.isfinite, self.energy))


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far one quantity deviates.

    Attributes
    ----------
    unit
        Unit of all numbers.
    mae, rmse
        Mean of the absolute differences, root of the mean of their squares; of forces and stress over components.
    mean
        Mean of the differences themselves.
    worst
        The largest difference; of forces the length of the vector of one atom.
    count
        How many differences there are.
    row, step, atom
        Where the worst is: row of the table, step of a frame, number of the atom in the second side.
    symbol
        Element of that atom.
    """

    unit: str
    mae: float
    rmse: float
    mean: float
    worst: float
    count: int
    row: int
    step: int | None = None
    atom: int | None = None
    symbol: str = ""


class Quantity(NamedTuple):
    """One thing that is compared: its unit, its differences in a `Pair`, and whether they are of atoms."""

    unit: str
    differences: Callable[[Pair], np.ndarray]
    of_atoms: bool = False
    of_structure: bool = False


_NOTHING = np.empty(0)


def _energies(pair: Pair) -> np.ndarray:
    return np.array([pair.energy[0] - pair.energy[1]]) if pair.has_energies else _NOTHING


def _shifted_energies(pair: Pair) -> np.ndarray:
    return np.array([pair.shifted_energy - pair.energy[1]]) if math.isfinite(pair.shifted_energy) else _NOTHING


def _two_sides(both: np.ndarray | None) -> np.ndarray:
    return _NOTHING if both is None else both[0] - both[1]


def _volumes(pair: Pair) -> np.ndarray:
    ours, theirs = pair.volume
    return np.array([100.0 * (ours / theirs - 1.0)]) if math.isfinite(ours) else _NOTHING


QUANTITIES: dict[str, Quantity] = {
    "energy": Quantity("eV/atom", _energies),
    "energy_shifted": Quantity("eV/atom", _shifted_energies),
    "forces": Quantity("eV/Å", lambda pair: _two_sides(pair.forces), of_atoms=True),
    "stress": Quantity("GPa", lambda pair: _two_sides(pair.stress)),
    "volume": Quantity("%", _volumes, of_structure=True),
    "strain": Quantity("%", lambda pair: 100.0 * pair.strains, of_structure=True),
    "displacement": Quantity(
        "Å", lambda pair: _NOTHING if pair.displacements is None else pair.displacements, True, of_structure=True
    ),
}
"""What is compared, in the order of tables; of the structure is what only differs where structures do."""


_BEYOND_ROUNDING = 1.0 + 1e-9
"""Of two that are as large but for rounding, the first is the worst, on every machine."""


def deviation_of(quantity: Quantity, pairs: Iterable[Pair]) -> Deviation | None:
    """Return how far `pairs` deviate in one quantity; None if there is nothing to compare."""
    parts: list[np.ndarray] = []
    worst: tuple[float, float, Pair, int] | None = None
    for pair in pairs:
        differences = quantity.differences(pair)
        sizes = np.linalg.norm(differences, axis=1) if differences.ndim == 2 else np.abs(differences)
        known = np.isfinite(sizes)  # labels of a part of the atoms are NaN for the others
        if not known.any():
            continue
        parts.append(differences[known].ravel())
        place = int(np.where(known, sizes, -np.inf).argmax())
        if worst is None or sizes[place] > worst[0] * _BEYOND_ROUNDING:
            signed = sizes[place] if differences.ndim == 2 else differences[place]
            worst = float(sizes[place]), float(signed), pair, place
    if worst is None:
        return None
    values = np.concatenate(parts)
    _, largest, pair, place = worst
    return Deviation(
        quantity.unit,
        mae=float(np.abs(values).mean()),
        rmse=float(np.sqrt(np.square(values).mean())),
        mean=float(values.mean()),
        worst=largest,
        count=len(values),
        row=pair.row,
        step=pair.step,
        atom=place if quantity.of_atoms else None,
        symbol=SYMBOLS[int(pair.numbers[place])] if quantity.of_atoms else "",
    )


def columns_of(pairs: Sequence[Pair], names: Iterable[str]) -> dict[str, Any]:
    """Return the columns of the table that say how one system deviates in the quantities `names`."""
    row: dict[str, Any] = {}
    for name in names:
        found = deviation_of(QUANTITIES[name], pairs)
        if found is not None:
            row |= _COLUMNS[name](found)
    return row


def cell_differences(pairs: Sequence[Pair]) -> dict[str, float]:
    """Return the mean differences of lengths and angles of one system."""
    return {
        f"{name}_difference": float(np.mean([pair.cell[name] for pair in pairs if pair.cell])) for name in pairs[0].cell
    }


_COLUMNS: dict[str, Callable[[Deviation], dict[str, Any]]] = {
    "energy": lambda found: {"energy_difference": found.mean},
    "energy_shifted": lambda found: {"energy_shifted": found.mean},
    "forces": lambda found: {
        "forces_mae": found.mae,
        "forces_rmse": found.rmse,
        "forces_worst": found.worst,
        "forces_worst_atom": found.atom,
        "forces_worst_symbol": found.symbol,
    },
    "stress": lambda found: {"stress_mae_GPa": found.mae},
    "volume": lambda found: {"volume_percent": found.mean},
    "strain": lambda found: {"strain_percent": found.worst},
    "displacement": lambda found: {"displacement": found.rmse, "displacement_worst": found.worst},
}
