"""Differences of structures and of energies: against constructions whose answer is known, each with a broken twin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from athanor.analysis import (
    Configuration,
    differences,
    displacements,
    element_shifts,
    order_of_atoms,
    principal_strains,
)


def structure(atoms: Atoms) -> Configuration:
    return Configuration(atoms.numbers, atoms.positions.copy(), atoms.cell.array.copy(), atoms.pbc.copy())


def rotation(seed: int) -> np.ndarray:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turn * np.sign(np.linalg.det(turn))


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.64) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return atoms


def strained(atoms: Atoms, strain: np.ndarray, turn: np.ndarray) -> Atoms:
    changed = atoms.copy()
    changed.set_cell(atoms.cell.array @ (np.eye(3) + strain) @ turn, scale_atoms=True)
    return changed


STRAIN = np.array([[0.01, 0.004, 0.0], [0.004, -0.02, 0.003], [0.0, 0.003, 0.005]])


def strains_of_lengths(cell: np.ndarray, reference: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Broken twin: how much longer each lattice vector is, which says nothing of angles."""
    return np.sort(np.linalg.norm(cell, axis=1) / np.linalg.norm(reference, axis=1) - 1.0)


def is_the_strain_that_was_applied(found: Callable[..., np.ndarray]) -> bool:
    atoms = salt()
    changed = strained(atoms, STRAIN, rotation(3))
    strains = found(changed.cell.array, atoms.cell.array, atoms.pbc)
    return bool(np.allclose(strains, np.linalg.eigvalsh(STRAIN), atol=1e-12))


def test_principal_strains_are_those_applied_in_whatever_frame() -> None:
    assert is_the_strain_that_was_applied(principal_strains)
    assert not is_the_strain_that_was_applied(strains_of_lengths)


def test_a_slab_is_strained_in_its_plane_only() -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    wider = slab.copy()
    wider.set_cell(slab.cell.array * [[1.02], [1.02], [2.0]])
    assert principal_strains(wider.cell.array, slab.cell.array, slab.pbc) == pytest.approx([0.02, 0.02])


def test_what_is_only_strained_turned_moved_and_wrapped_is_at_its_place() -> None:
    atoms = salt()
    changed = strained(atoms, STRAIN, rotation(4))
    changed.positions += 0.5 * changed.cell.array.sum(axis=0) + 0.1
    changed.wrap()
    assert displacements(structure(changed), structure(atoms)).max() < 1e-10


def displacements_in_the_laboratory(ours: Configuration, theirs: Configuration, **_: bool) -> np.ndarray:
    """Broken twin: plain differences of positions."""
    return np.linalg.norm(ours.positions - theirs.positions, axis=1)


@pytest.mark.parametrize("kind", ["crystal", "slab", "molecule"])
def test_displacements_are_those_applied(kind: str) -> None:
    atoms = {"crystal": salt(), "slab": fcc111("Cu", (2, 2, 3), vacuum=6.0), "molecule": molecule("CH3CH2OH")}[kind]
    moves = np.random.default_rng(2).normal(0.0, 0.02, (len(atoms), 3))
    moves -= moves.mean(axis=0)
    changed = atoms.copy()
    changed.positions += moves + [0.3, -0.2, 0.1]
    ours, theirs = structure(changed), structure(atoms)
    applied = np.linalg.norm(moves, axis=1)
    assert displacements(ours, theirs, turned=False) == pytest.approx(applied, abs=1e-12)
    assert displacements_in_the_laboratory(ours, theirs) != pytest.approx(applied, abs=1e-3)


def test_a_molecule_that_is_turned_is_the_same_and_its_mirror_image_is_not() -> None:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.2, seed=5)  # no plane of symmetry
    turned, mirrored = atoms.copy(), atoms.copy()
    turned.positions = atoms.positions @ rotation(6) + 3.0
    mirrored.positions = atoms.positions * [1.0, 1.0, -1.0]
    assert displacements(structure(turned), structure(atoms)).max() < 1e-10
    assert displacements(structure(turned), structure(atoms), turned=False).max() > 0.5
    assert displacements(structure(mirrored), structure(atoms)).max() > 0.1


def test_atoms_in_another_order_are_found_by_where_they_are() -> None:
    atoms = salt()
    shuffle = np.random.default_rng(7).permutation(len(atoms))
    other = atoms[shuffle]
    other.positions += np.random.default_rng(8).normal(0.0, 0.05, other.positions.shape)
    other.wrap()
    order = order_of_atoms(structure(other), structure(atoms))
    assert order is not None
    assert (shuffle[order] == np.arange(len(atoms))).all()


def test_numbers_say_the_order_where_places_do_not() -> None:
    atoms = salt()
    far = atoms.copy()
    far.rattle(1.5, seed=9)
    order = order_of_atoms(structure(far), structure(atoms))
    assert order is not None
    assert (order == np.arange(len(atoms))).all()
    assert order_of_atoms(structure(far[::-1]), structure(atoms)) is None


COMPOUNDS = ("NaCl", "Na3Cl", "NaCl2", "Na", "Cl2", "K2NaCl", "KCl3")


def left_over(fit: Callable[..., tuple[dict[int, float], np.ndarray] | None]) -> tuple[dict[int, float], np.ndarray]:
    """What a fit makes of differences that are 1 eV for each Na, -2 for each Cl, 0.5 for each K, and 1 meV/atom."""
    numbers = [Atoms(text).numbers for text in COMPOUNDS]
    shifts = {11: 1.0, 17: -2.0, 19: 0.5}
    noise = 1e-3 * np.array([1, -1, 1, -1, 1, -1, 1])
    energies = [sum(shifts[int(z)] for z in each) + len(each) * bit for each, bit in zip(numbers, noise, strict=True)]
    found = fit(np.array(energies), numbers)
    assert found is not None
    return found


def one_shift_for_all(energies: np.ndarray, numbers: list[np.ndarray]) -> tuple[dict[int, float], np.ndarray]:
    """Broken twin: the mean difference per atom."""
    per_atom = energies / [len(each) for each in numbers]
    return {0: float(per_atom.mean())}, per_atom - per_atom.mean()


def test_shifts_of_elements_leave_what_is_no_shift() -> None:
    shifts, left = left_over(element_shifts)
    assert shifts == pytest.approx({11: 1.0, 17: -2.0, 19: 0.5}, abs=3e-3)
    assert 1e-4 < np.sqrt((left**2).mean()) <= 1e-3
    assert np.abs(left_over(one_shift_for_all)[1]).max() > 0.5


def test_elements_that_only_occur_together_share_their_shift_and_too_few_systems_have_none() -> None:
    numbers = [Atoms("NaCl").numbers] * 3
    found = element_shifts(np.array([2.0, 2.2, 2.4]), numbers)
    assert found is not None
    shifts, left = found
    assert shifts == pytest.approx({11: 1.1, 17: 1.1})
    assert left == pytest.approx([-0.1, 0.0, 0.1])
    assert element_shifts(np.array([2.0]), numbers[:1]) is None
    assert element_shifts(np.array([2.0, 1.0]), [Atoms("Na").numbers, Atoms("Cl2").numbers]) is None
    assert element_shifts(np.empty(0), []) is None


def test_the_only_system_of_an_element_says_nothing_once_its_shift_is_off() -> None:
    numbers = [Atoms(text).numbers for text in ("NaCl", "NaCl", "MgO")]
    found = element_shifts(np.array([2.0, 2.2, 7.0]), numbers)
    assert found is not None
    assert found[1] == pytest.approx([-0.05, 0.05, np.nan], nan_ok=True)


def test_far_atoms_are_what_starts_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "_nearest", None)  # would raise if it were called
    atoms = salt()
    near = atoms.copy()
    near.rattle(0.1, seed=3)
    assert order_of_atoms(structure(near), structure(atoms)) is not None
