"""ASE and pymatgen: what has a place on both sides survives; everything else is refused or dropped as written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength

from athanor.data import AtomicData, Batch
from athanor.data.atomic_data import AtomicNumberTable
from athanor.errors import InputError


def full_atoms() -> Atoms:
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True)
    atoms.set_velocities(rng.normal(size=(4, 3)))
    atoms.set_tags([1, 2, 3, 4])
    atoms.set_initial_charges([0.5, -0.5, 0.25, -0.25])
    atoms.set_initial_magnetic_moments([1.0, -1.0, 0.5, 0.0])
    atoms.info.update(system_id=7, step=3, time=12.5, charge=0, spin=1, weight=2.5, counts=[1, 2])
    stress = np.array([1.0, 2, 3, 0.1, 0.2, 0.3])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=rng.normal(size=(4, 3)), stress=stress)
    atoms.set_constraint(FixAtoms([0, 2]))
    return atoms


def test_round_trip_of_everything() -> None:
    atoms = full_atoms()
    data = AtomicData.from_atoms(atoms, dtype=torch.float64)
    assert data.fixed.tolist() == [True, False, True, False]
    assert data.tags.tolist() == [1, 2, 3, 4]
    assert (int(data.system_id), int(data.step), float(data.time)) == (7, 3, 12.5)
    assert data.stress[0].tolist() == [[1.0, 0.3, 0.2], [0.3, 2.0, 0.1], [0.2, 0.1, 3.0]]
    assert data.atomic_numbers.dtype == torch.int32
    assert data.info["counts"].dtype == torch.int64
    back = data.to_atoms()
    assert AtomicData.from_atoms(back, dtype=torch.float64) == data
    assert back.get_potential_energy() == -1.5
    for get in ("get_velocities", "get_masses", "get_initial_charges", "get_initial_magnetic_moments", "get_stress"):
        np.testing.assert_allclose(getattr(back, get)(), getattr(atoms, get)(), rtol=1e-14)
    raw = {"apply_constraint": False}
    np.testing.assert_array_equal(back.get_forces(**raw), atoms.get_forces(**raw))
    assert back.info["weight"] == 2.5
    assert back.constraints[0].index.tolist() == [0, 2]
    frames = Batch.from_data_list([data, AtomicData.from_atoms(molecule("H2O"), dtype=torch.float64)]).to_atoms()
    assert [len(frame) for frame in frames] == [4, 3]
    assert frames[1].calc is None


def test_atoms_are_not_changed_and_nothing_is_calculated() -> None:
    atoms = bulk("Cu")
    atoms.calc = EMT()
    before = atoms.copy()
    assert AtomicData.from_atoms(atoms).energy is None
    assert not atoms.calc.results
    atoms.get_potential_energy()
    assert AtomicData.from_atoms(atoms).energy is not None
    atoms.rattle(0.1, seed=1)
    assert AtomicData.from_atoms(atoms).energy is None
    before.rattle(0.1, seed=1)
    assert atoms == before


def test_info_wins_over_the_calculator_and_text_is_dropped() -> None:
    atoms = full_atoms()
    atoms.info.update(energy=3.0, name="copper", flag=True, words=np.array(["a", "b"]), ragged=[[1], [1, 2]])
    data = AtomicData.from_atoms(atoms, system_id=9)
    assert float(data.energy) == 3.0
    assert int(data.system_id) == 9
    assert set(data.info) == {"weight", "counts"}


def test_keys_table_and_open_systems() -> None:
    atoms = molecule("H2O")
    atoms.info["E"] = -2.0
    atoms.arrays["F"] = np.ones((3, 3))
    atoms.set_cell([5, 5, 5])
    data = AtomicData.from_atoms(atoms, energy_key="E", forces_key="F", z_table=AtomicNumberTable([1, 8]))
    assert float(data.energy) == -2.0
    assert float(data.forces.sum()) == 9.0
    assert data.node_attrs.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert data.cell is None
    assert data.pbc is None
    with pytest.raises(ValueError, match="8 is not in the table"):
        AtomicData.from_atoms(atoms, z_table=AtomicNumberTable([1]))


def test_charge_and_spin() -> None:
    atoms = molecule("O2")
    assert float(AtomicData.from_atoms(atoms).spin) == 3.0  # ASE's O2 carries one unpaired electron on each atom
    atoms.info.update(charge=np.int64(-1), spin=2)
    data = AtomicData.from_atoms(atoms)
    assert (float(data.charge), float(data.spin)) == (-1.0, 2.0)
    atoms.info["charge"] = -2.0  # a column of a table, most often
    assert float(AtomicData.from_atoms(atoms).charge) == -2.0
    atoms.info["charge"] = 0.5
    with pytest.raises(ValueError, match=r"`info\['charge'\]` is 0.5; it must be an integer"):
        AtomicData.from_atoms(atoms)
    atoms.info.update(charge=0, spin=0)
    with pytest.raises(InputError, match="multiplicity"):
        AtomicData.from_atoms(atoms)
    del atoms.info["charge"], atoms.info["spin"]
    atoms.arrays["charges"] = np.array([0.3, 0.3])
    with pytest.raises(InputError, match=r"add up to 0.6000 e"):
        AtomicData.from_atoms(atoms)


def test_refusals() -> None:
    atoms = molecule("H2O")
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(InputError, match=r"constraint FixBondLength.*only FixAtoms"):
        AtomicData.from_atoms(atoms)
    slab = bulk("Cu")
    slab.cell[2] = 0
    with pytest.raises(ValueError, match=r"undefined \(zero\) lattice vectors.*Give every periodic vector a length"):
        AtomicData.from_atoms(slab)
    atoms = molecule("H2O")
    atoms.info["system_id"] = "water"
    with pytest.raises(InputError, match="`system_id` is 'water'; it must be a number"):
        AtomicData.from_atoms(atoms)
    atoms.info["system_id"] = 1.5
    with pytest.raises(InputError, match="must be an integer"):
        AtomicData.from_atoms(atoms)


def test_left_handed_cells_are_kept() -> None:
    atoms = bulk("Cu")
    atoms.set_cell(atoms.cell[:][[1, 0, 2]])
    data = AtomicData.from_atoms(atoms, dtype=torch.float64)
    assert float(torch.linalg.det(data.cell)) == pytest.approx(-11.761, abs=1e-3)
    np.testing.assert_array_equal(data.to_atoms().cell[:], atoms.cell[:])


def test_pymatgen() -> None:
    core = pytest.importorskip("pymatgen.core")
    lattice = core.Lattice.from_parameters(4, 5, 6, 80, 90, 100)
    forces = [[0.0, 0, 1], [0, 0, 2]]
    structure = core.Structure(
        lattice,
        ["Na", "Cl"],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        site_properties={"forces": forces},
        properties={"energy": 1.0, "text": "x", "stress": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]},
    )
    data = AtomicData.from_structure(structure, dtype=torch.float64)
    assert data.atomic_numbers.tolist() == [11, 17]
    np.testing.assert_allclose(data.cell[0], lattice.matrix)
    np.testing.assert_allclose(data.positions, structure.cart_coords)
    assert data.forces.tolist() == forces
    assert float(data.energy) == 1.0
    assert data.info == {}
    ion = AtomicData.from_structure(core.Molecule(["O", "H"], [[0, 0, 0], [0, 0, 1.0]], charge=-1))
    assert (float(ion.charge), float(ion.spin), ion.cell) == (-1.0, 1.0, None)
    mixed = core.Structure(lattice, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    with pytest.raises(InputError, match="partly occupied"):
        AtomicData.from_structure(mixed)


def test_sites_of_pymatgen_that_are_held_heavy_or_no_element() -> None:
    core = pytest.importorskip("pymatgen.core")
    water = core.Structure(core.Lattice.cubic(5), ["O2-", "D+", "H+"], [[0, 0, 0], [0.2, 0, 0], [0, 0.2, 0]])
    water.add_site_property("selective_dynamics", [[False] * 3, None, [True] * 3])
    data = AtomicData.from_structure(water)
    assert data.fixed.tolist() == [True, False, False]
    assert data.atomic_masses.tolist() == pytest.approx([15.999, 2.0136, 1.008], abs=1e-3)
    water.add_site_property("selective_dynamics", [[False] * 3, [True, False, True], [True] * 3])
    with pytest.raises(InputError, match="`selective_dynamics` of atom 1 is"):
        AtomicData.from_structure(water)
    dummy = core.Structure(core.Lattice.cubic(5), [core.DummySpecies("X")], [[0, 0, 0]])
    with pytest.raises(InputError, match="which is no element"):
        AtomicData.from_structure(dummy)


def test_importing_data_loads_nothing_foreign(repository: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import athanor.data, athanor.data.convert;"
        "print([m for m in ('ase', 'numba', 'pymatgen', 'pydantic', 'jaxtyping', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository / "src")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
