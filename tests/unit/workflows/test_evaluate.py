"""`athanor.evaluate`: results of structures as they are, in input order, whatever shares their batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

import athanor
from athanor.errors import InputError
from athanor.testing.dynamics_contract import argon_model
from athanor.units import GPa
from athanor.workflows.results import add_not_computed
from athanor.workflows.structures import System

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


def crystals() -> list[Atoms]:
    found = [bulk("Ar", "fcc", a=5.2 + 0.05 * number, cubic=True) for number in range(4)]
    for number, atoms in enumerate(found):
        atoms.rattle(0.02, seed=number)
        atoms.info["origin"] = f"number {number}"
    return found


def test_results_are_those_of_the_model_and_nothing_moves(tmp_path: Path) -> None:
    given = crystals()
    result = athanor.evaluate(given, ARGON, out=tmp_path / "out.extxyz")
    assert result.reasons == ["done"] * 4
    for atoms, before, energy, row in zip(result.structures, given, result.energies, result.rows, strict=True):
        assert (atoms.positions == before.positions).all()
        assert atoms.get_potential_energy() == energy == row["energy"]
        forces = np.linalg.norm(atoms.get_forces(), axis=1)
        assert row["fmax"] == pytest.approx(forces.max())
        assert row["pressure_GPa"] == pytest.approx(-atoms.get_stress()[:3].mean() / GPa)
        assert row["volume"] == pytest.approx(before.cell.volume)
    written = read(tmp_path / "out.extxyz", ":")
    assert [atoms.info["origin"] for atoms in written] == [f"number {number}" for number in range(4)]
    assert [atoms.get_potential_energy() for atoms in written] == pytest.approx(result.energies, abs=1e-8)
    assert np.allclose(written[3].get_stress(), result.structures[3].get_stress())


def test_one_step_of_dynamics_starts_from_the_same_forces() -> None:
    atoms = crystals()[0]
    forces = athanor.evaluate(atoms, ARGON).structures[0].get_forces()
    moved = atoms.copy()
    moved.positions[0, 0] += 1e-4
    rise = athanor.evaluate(moved, ARGON).energies[0]
    moved.positions[0, 0] -= 2e-4
    fall = athanor.evaluate(moved, ARGON).energies[0]
    assert forces[0, 0] == pytest.approx(-(rise - fall) / 2e-4, abs=1e-6)


def test_companions_and_chunks_change_no_bit() -> None:
    together = athanor.evaluate(crystals(), ARGON)
    apart = athanor.evaluate(crystals(), ARGON, max_atoms=4)
    assert together.energies == apart.energies
    assert (together.structures[2].get_forces() == apart.structures[2].get_forces()).all()


def test_a_system_that_fails_stops_nobody() -> None:
    given = crystals()
    given[1].positions[1] = given[1].positions[0]
    result = athanor.evaluate(given, ARGON)
    assert result.failed == [1]
    assert np.isnan(result.energies[1])
    assert result.structures[1].calc is None
    assert "energy" not in result.rows[1]
    assert result.energies[2] == athanor.evaluate(crystals()[2], ARGON).energies[0]


def test_a_molecule_beside_a_crystal_has_no_volume() -> None:
    dimer = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 3.8]])
    molecule, crystal = athanor.evaluate([dimer, crystals()[0]], ARGON).rows
    assert molecule["volume"] is molecule["a"] is None
    assert "pressure_GPa" not in molecule
    assert crystal["pressure_GPa"] is not None


def test_what_a_structure_carries_stays() -> None:
    atoms = crystals()[0]
    atoms.set_constraint(FixAtoms([0]))
    atoms.set_momenta(np.ones((4, 3)))
    (found,) = athanor.evaluate(atoms, ARGON, supercell=(1, 1, 1)).structures
    assert (found.arrays["momenta"][1:] == 1).all()
    assert found.constraints[0].index.tolist() == [0]
    assert np.linalg.norm(found.get_forces(apply_constraint=False)[0]) > 0


def test_a_model_object_is_taken_as_it_is() -> None:
    model = argon_model()
    before = set(model.model_config.active_outputs)
    result = athanor.evaluate(crystals(), model)
    assert result.reasons == ["done"] * 4
    assert model.model_config.active_outputs == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("there.extxyz", "exists. Choose another name, or add --overwrite"),
        ("folder.extxyz", "is a folder; give a file"),
        ("out.cif", "end its name with .extxyz"),
        ("no/out.extxyz", "is no folder; make it first"),
        (f"{'long' * 100}.extxyz", "can not be the name of a file"),
    ],
)
def test_where_results_can_not_go(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "there.extxyz").write_text("mine", encoding="utf-8")
    (tmp_path / "folder.extxyz").mkdir()
    with pytest.raises(InputError, match=words):
        athanor.evaluate(crystals(), ARGON, out=tmp_path / name)
    assert (tmp_path / "there.extxyz").read_text(encoding="utf-8") == "mine"


def test_an_input_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("in.extxyz", crystals())
    (tmp_path / "link.extxyz").symlink_to("in.extxyz")
    before = (tmp_path / "in.extxyz").read_bytes()
    for out in ("in.extxyz", tmp_path / "link.extxyz"):
        with pytest.raises(InputError, match="is read by this evaluation"):
            athanor.evaluate("in.extxyz@-1", ARGON, out=out, overwrite=True)
    assert (tmp_path / "in.extxyz").read_bytes() == before


def test_arguments_are_called_as_the_caller_wrote_them() -> None:
    with pytest.raises(InputError, match=r"^`max_atoms`: input should be greater than or equal to 1; got 0\.$"):
        athanor.evaluate(crystals(), ARGON, max_atoms=0)
    with pytest.raises(InputError, match=r"^`device`: 'gpu' is not a device; write cpu, cuda"):
        athanor.evaluate(crystals(), ARGON, device="gpu")
    with pytest.raises(InputError, match=r"`device` is 'cuda:77', which is not there. Use one of: cpu"):
        athanor.evaluate(crystals(), ARGON, device="cuda:77")


def test_what_was_not_computed_has_no_energy(tmp_path: Path) -> None:
    good, overlapping = crystals()[:2]
    overlapping.positions[1] = overlapping.positions[0]
    for atoms in (good, overlapping):
        atoms.info["energy"] = 77.0
        atoms.arrays["forces"] = np.ones((4, 3))
    result = athanor.evaluate([good, overlapping], ARGON, out=tmp_path / "out.extxyz")
    computed, failed = read(tmp_path / "out.extxyz", ":")
    assert computed.get_potential_energy() == pytest.approx(result.energies[0], abs=1e-8)
    assert failed.calc is None
    assert "energy" not in failed.info

    good.calc = SinglePointCalculator(good, energy=77.0)
    add_not_computed(result, [System(good, "late")])
    assert result.structures[-1].calc is None
    assert "energy" not in result.structures[-1].info
    assert good.info["energy"] == 77.0
