"""Repeating cells: what may be written, what is repeated, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

import athanor
from athanor.errors import InputError
from athanor.workflows.quantities import format_supercell, parse_supercell
from athanor.workflows.repeat import repeat_cells
from athanor.workflows.spec import SourceSpec
from athanor.workflows.structures import from_python, load_sources

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


def slab() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = (True, True, False)
    return atoms


@pytest.mark.parametrize(
    "value", ["2x2x1", "2,2,1", " 2 x 2 x 1 ", "2X2X1", "2 2 1", "2×2×1", (2, 2, 1), [2, 2, 1], np.array([2, 2, 1])]
)
def test_spellings(value: Any) -> None:
    assert parse_supercell(value) == (2, 2, 1)
    assert parse_supercell(format_supercell((2, 2, 1))) == (2, 2, 1)


@pytest.mark.parametrize("value", [3, "3", [3], np.int64(3)])
def test_one_number_is_for_all_axes(value: Any) -> None:
    assert parse_supercell(value) == (3, 3, 3)


@pytest.mark.parametrize(
    "value", ["", "2x2", "axbxc", 0, "1x1x0", -1, 1.5, [1, 2.5, 1], None, True, [True, 2], "1x1x1x1"]
)
def test_what_is_no_supercell(value: Any) -> None:
    with pytest.raises(InputError, match="is not a supercell; write repeats"):
        parse_supercell(value)


def test_a_supercell_has_the_atoms_and_the_volume_of_its_cells() -> None:
    given = from_python(bulk("Ar", "fcc", a=5.26))
    (system,) = repeat_cells(given, (2, 3, 1))
    assert len(system.atoms) == 6
    assert system.repeats == 6
    assert len(given[0].atoms) == 1
    assert np.allclose(system.atoms.cell.array, given[0].atoms.cell.array * [[2], [3], [1]])


def test_the_reference_is_that_of_the_source() -> None:
    given = load_sources([SourceSpec(collection="ase:dcdft", names=("Po",), compare_cell=True)])
    (system,) = repeat_cells(given, (1, 1, 1), min_atoms=8)
    assert len(system.atoms) == 8
    assert system.repeats == 8
    assert system.reference_volume == pytest.approx(system.atoms.cell.volume / 8)


def test_charge_and_unpaired_electrons_are_those_of_all_cells() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.info.update(charge=-1, spin=np.int64(3), label="one cell")
    (system,) = repeat_cells(from_python(atoms), (2, 2, 1))
    assert system.atoms.info == {"charge": -4, "spin": 9, "label": "one cell"}
    assert atoms.info["charge"] == -1


def test_up_to_so_many_atoms_goes_on_from_the_supercell_along_periodic_axes() -> None:
    (system,) = repeat_cells(from_python(slab()), (2, 1, 1), min_atoms=16)
    assert np.allclose(system.atoms.cell.lengths() / slab().cell.lengths(), [2, 2, 1])


@pytest.mark.parametrize(
    ("atoms", "counts", "words"),
    [
        (slab(), (2, 2, 2), "`supercell` 2x2x2 repeats it along c, .* Use 2x2x1"),
        (molecule("H2O"), (2, 1, 1), "along a, where it is not periodic. Leave `supercell` out for molecules"),
    ],
)
def test_an_axis_that_is_not_periodic_is_not_repeated(atoms: Atoms, counts: tuple, words: str) -> None:
    aside, repeated = repeat_cells(from_python([atoms, bulk("Cu")]), counts)
    assert re.search(words, aside.problem)
    assert len(repeated.atoms) == np.prod(counts)


@pytest.mark.filterwarnings("ignore:.*small-cell:athanor.errors.AthanorWarning")
def test_from_python() -> None:
    result = athanor.md(bulk("Ar", "fcc", a=5.26), ARGON, steps=1, supercell="2x1x1", min_atoms=3, timestep=2.0)
    assert len(result.structures[0]) == 4
