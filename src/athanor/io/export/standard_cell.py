"""Frames turned so that the first cell vector points along x and the second lies in the plane of x and y.

Programs that keep a cell as lengths and angles, or as a triangular matrix, know no other orientation. A left-handed
cell has no such orientation; the opposite of its third vector spans the same lattice and makes it right-handed. Atoms
move by that vector, too, so that those in the cell are in it still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from athanor.units import FS_PER_INTERNAL_TIME

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, slots=True)
class StandardFrame:
    """A frame in standard orientation.

    Parameters
    ----------
    positions
        Å, [N, 3].
    cell
        Å, lower triangular with a positive diagonal, [3, 3]; None of a system without one.
    velocities
        Å/fs, [N, 3]; None if they are not known.
    forces
        eV/Å, [N, 3]; None if there are none.
    """

    positions: np.ndarray
    cell: np.ndarray | None
    velocities: np.ndarray | None
    forces: np.ndarray | None


def standard_frame(atoms: Atoms) -> StandardFrame:
    """Return a frame in standard orientation; one that has it keeps its numbers."""
    positions, forces = atoms.positions, (atoms.calc.results if atoms.calc else {}).get("forces")
    velocities = atoms.get_velocities() / FS_PER_INTERNAL_TIME if atoms.has("momenta") else None
    if not atoms.pbc.any():
        return StandardFrame(positions, None, velocities, forces)
    if np.linalg.det(atoms.cell.array) < 0.0:
        positions = positions - atoms.cell.array[2]
    cell, rotation = standard_cell(atoms.cell.array)
    if rotation is None:
        return StandardFrame(positions, cell, velocities, forces)
    vectors = (None if vectors is None else vectors @ rotation for vectors in (velocities, forces))
    return StandardFrame(positions @ rotation, cell, *vectors)


def standard_cell(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a cell of the same lattice in standard orientation, and what its rows and positions are multiplied by.

    Parameters
    ----------
    cell
        Vectors as rows, [3, 3].

    Returns
    -------
    cell, rotation
        Both [3, 3]; no rotation if none is needed.
    """
    if np.linalg.det(cell) < 0.0:
        cell = cell * np.array([[1.0], [1.0], [-1.0]])
    if not np.triu(cell, 1).any() and (np.diagonal(cell) > 0.0).all():
        return cell, None
    q, r = np.linalg.qr(cell.T)
    signs = np.sign(np.diagonal(r))
    return np.tril((signs[:, None] * r).T), q * signs
