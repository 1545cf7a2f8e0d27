"""How far two structures of the same atoms lie apart, and what of two sets of energies is only their zero.

Plain arrays in, plain arrays out. A cell that is only turned is the same cell, and a structure that is only moved, or
a molecule that is only turned, is the same structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_FAR = 1.0
"""Å; atoms that lie farther from those of their number may stand in another order."""
_NEAR = 0.5
"""Å within which every atom must find its partner then."""
_SMALL = 1e-10
"""Part of the largest singular value below which one counts as zero."""


class Configuration(NamedTuple):
    """Atoms in a cell.

    Attributes
    ----------
    numbers
        [N]; atomic numbers.
    positions
        [N, 3], Å, wrapped or not.
    cell
        [3, 3], Å, lattice vectors as rows.
    pbc
        [3]; which of them are periodic. The others do not count.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray

    @property
    def volume(self) -> float:
        """Volume of the cell, Å³."""
        return float(abs(np.linalg.det(self.cell)))

    def reordered(self, order: np.ndarray) -> Configuration:
        """Return the atoms `order`, [N], as atoms 0 to N - 1."""
        return self._replace(numbers=self.numbers[order], positions=self.positions[order])


def principal_strains(cell: np.ndarray, reference: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    r"""Return by which part a cell is longer than another along the principal axes of their difference.

    With the matrices of scalar products of periodic lattice vectors :math:`G = C C^\mathsf{T}`, they are
    :math:`\sqrt{\lambda} - 1` with :math:`G v = \lambda G_\mathrm{ref} v`, so that a rotation makes no difference.

    Parameters
    ----------
    cell, reference
        [3, 3], Å, lattice vectors as rows.
    pbc
        [3]; the k periodic directions count.

    Returns
    -------
    numpy.ndarray
        [k], ascending.
    """
    ours, theirs = cell[pbc], reference[pbc]
    factor = np.linalg.inv(np.linalg.cholesky(theirs @ theirs.T))
    return np.sqrt(np.linalg.eigvalsh(factor @ (ours @ ours.T) @ factor.T)) - 1.0


def displacements(structure: Configuration, reference: Configuration, *, turned: bool = True) -> np.ndarray:
    """Return how far each atom lies from where the same atom of `reference` is, with what moves all atoms taken off.

    In a cell the difference is that of fractional positions, to the nearest image, as long as it is in the mean of the
    two cells; cells that differ by a strain or a rotation only leave nothing.

    Parameters
    ----------
    structure, reference
        The same atoms in the same order, periodic along the same directions.
    turned
        Take the rotation off, too, of what has no cell; else a molecule that is turned differs.

    Returns
    -------
    numpy.ndarray
        [N], Å.
    """
    lattice, reference_lattice = _lattice(structure), _lattice(reference)
    apart = _fractional(structure, lattice) - _fractional(reference, reference_lattice)
    apart -= apart[:1]  # before images are chosen: a common shift by half a cell would tear the atoms apart
    apart -= np.where(structure.pbc, np.round(apart), 0.0)
    if turned and not structure.pbc.any():
        return np.linalg.norm(_without_rotation(structure.positions, reference.positions), axis=1)
    apart -= apart.mean(axis=0)
    metric = 0.5 * (lattice @ lattice.T + reference_lattice @ reference_lattice.T)
    return np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", apart, metric, apart), 0.0))


def order_of_atoms(structure: Configuration, reference: Configuration) -> np.ndarray | None:
    """Return which atom of `structure` is which of `reference`.

    The order is that of the numbers, unless some atoms then lie far apart or are of other elements: then each atom must
    have one, and only one, of its element near by, where it stands.

    Returns
    -------
    numpy.ndarray or None
        [N]; atom `order[i]` of `structure` is atom i of `reference`. None if they can not be told: elements stand in
        another order, and places differ.
    """
    same = np.array_equal(structure.numbers, reference.numbers)
    if same and displacements(structure, reference).max(initial=0.0) <= _FAR:
        return np.arange(len(structure.numbers))
    order = _nearest(structure, reference)
    if order is not None:
        return order
    return np.arange(len(structure.numbers)) if same else None


def element_shifts(
    differences: np.ndarray, numbers: Sequence[np.ndarray]
) -> tuple[dict[int, float], np.ndarray] | None:
    """Return what each element adds to differences of energies, by least squares, and what is left per atom.

    Two programs may count energies from different zeros, such as atoms alone or nuclei and electrons apart. Energies
    then differ by an amount for each atom, which changes nothing that can be measured.

    Parameters
    ----------
    differences
        [S]; difference of the energies of each system, eV.
    numbers
        Atomic numbers of each system.

    Returns
    -------
    tuple or None
        Atomic number -> shift in eV, and [S], what is left of each difference, eV/atom; NaN of a system that alone
        tells a shift, as the only one of an element does, so that nothing could be left. Where elements only occur
        together, as in one compound, their shifts are the smallest that do. None if nothing is left of any system.
    """
    elements = np.unique(np.concatenate(numbers)) if len(numbers) else np.empty(0, dtype=int)
    counts = np.array([[np.count_nonzero(each == element) for element in elements] for each in numbers], dtype=float)
    if not counts.size:
        return None
    atoms = counts.sum(axis=1)
    fractions, per_atom = counts / atoms[:, None], differences / atoms
    left_vectors, sizes, _ = np.linalg.svd(fractions, full_matrices=False)
    rank = int((sizes > _SMALL * sizes[0]).sum())
    is_alone = 1.0 - np.square(left_vectors[:, :rank]).sum(axis=1) < _SMALL  # what it says of itself in the fit
    if is_alone.all():
        return None
    shifts = np.linalg.lstsq(fractions, per_atom, rcond=_SMALL)[0]
    left = np.where(is_alone, np.nan, per_atom - fractions @ shifts)
    return {int(element): float(shift) for element, shift in zip(elements, shifts, strict=True)}, left


def _lattice(structure: Configuration) -> np.ndarray:
    """Return the cell with vectors of 1 Å at right angles along open directions: fractional is then in Å there."""
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(np.where(structure.pbc[:, None], structure.cell, 0.0)))


def _fractional(structure: Configuration, lattice: np.ndarray) -> np.ndarray:
    return np.linalg.solve(lattice.T, structure.positions.T).T


def _without_rotation(positions: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the difference to `reference` that is left when the one is moved and turned onto the other."""
    ours, theirs = positions - positions.mean(axis=0), reference - reference.mean(axis=0)
    left, _, right = np.linalg.svd(ours.T @ theirs)
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right)) or 1.0])  # a rotation, not a reflection
    return np.asarray(ours @ left @ mirror @ right - theirs)


def _nearest(structure: Configuration, reference: Configuration) -> np.ndarray | None:
    """Return which atom of `structure` stands where each of `reference` does; None if that is not one to one."""
    lattice = _lattice(reference)
    ours, theirs = _fractional(structure, _lattice(structure)), _fractional(reference, lattice)
    order = np.empty(len(theirs), dtype=int)
    for place, (number, fractional) in enumerate(zip(reference.numbers, theirs, strict=True)):
        candidates = np.flatnonzero(structure.numbers == number)
        if not candidates.size:
            return None
        apart = ours[candidates] - fractional
        apart -= np.where(structure.pbc, np.round(apart), 0.0)
        distances = np.linalg.norm(apart @ lattice, axis=1)
        if distances.min() > _NEAR:
            return None
        order[place] = candidates[distances.argmin()]
    return order if len(np.unique(order)) == len(order) else None
