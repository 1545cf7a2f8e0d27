"""`athanor.compare`: numbers that are known beforehand, who is matched with whom, what is said of what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import athanor
from athanor.errors import InputError
from athanor.units import GPa
from athanor.workflows import compare as module
from athanor.workflows import matching

SOFT: dict[str, Any] = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
HARD = SOFT | {"sigma": 3.5, "cutoff": 8.75}  # of the same shape


def crystals() -> list[Atoms]:
    found = [bulk("Ar", "fcc", a=5.2 + 0.1 * number, cubic=True) for number in range(3)]
    for number, atoms in enumerate(found):
        atoms.rattle(0.05, seed=number)
    return found


def labelled(atoms: Atoms, energy: float, forces: np.ndarray | None = None, stress: np.ndarray | None = None) -> Atoms:
    copy = atoms.copy()
    results = {"energy": energy, "forces": forces, "stress": stress}
    copy.calc = SinglePointCalculator(copy, **{name: value for name, value in results.items() if value is not None})
    return copy


def two_sides() -> tuple[list[Atoms], list[Atoms]]:
    """Salt and copper: energies 1 and 2 eV apart; forces off on an atom of copper, stress by 1 GPa in a component."""
    salt, copper = bulk("NaCl", "rocksalt", a=5.64), bulk("Cu", "fcc", a=3.6, cubic=True)
    off, stress = np.zeros((4, 3)), np.zeros(6)
    off[2], stress[1] = (0.3, 0.0, -0.4), GPa
    ours = [labelled(salt, -6.0, np.zeros((2, 3))), labelled(copper, -12.0, off, stress)]
    theirs = [labelled(salt, -7.0, np.zeros((2, 3))), labelled(copper, -14.0, np.zeros((4, 3)), np.zeros(6))]
    return ours, theirs


def are_the_known_numbers(compare: Callable[..., Any]) -> bool:
    found = compare(*two_sides())
    energy, forces, stress = (found.figures[name] for name in ("energy", "forces", "stress"))
    return all(
        np.isclose(value, expected, atol=1e-12)
        for value, expected in (
            (energy.mae, 0.5),
            (energy.worst, 0.5),
            (found.rows[0]["energy_difference"], 0.5),
            (found.rows[1]["energy_difference"], 0.5),
            (forces.mae, 0.7 / 18),
            (forces.rmse, np.sqrt(0.25 / 18)),
            (forces.worst, 0.5),
            (found.rows[1]["forces_mae"], 0.7 / 12),
            (stress.mae, 1.0 / 6),
        )
    )


def test_differences_are_those_that_were_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert are_the_known_numbers(athanor.compare)
    found = athanor.compare(*two_sides())
    worst = found.figures["forces"]
    assert (worst.row, worst.atom, worst.symbol) == (1, 2, "Cu")
    assert found.rows[1]["forces_worst_atom"] == 2
    assert "volume" not in found.figures
    assert not are_the_known_numbers(lambda ours, theirs: athanor.compare(theirs, ours))  # twin: the sign
    monkeypatch.setattr(module, "GPa", 1.0)  # twin: the unit of stress
    assert not are_the_known_numbers(athanor.compare)


def test_worst_of_many_is_found_wherever_it_is() -> None:
    """Mutants: the worst by component, by system order, the mean of means."""
    ours, theirs = two_sides()
    ours[0].calc.results["forces"][1] = (0.41, 0.0, 0.0)  # a larger component in a smaller vector
    found = athanor.compare(ours, theirs)
    assert (found.figures["forces"].row, found.figures["forces"].worst) == (1, pytest.approx(0.5))


def test_of_two_that_are_equally_wrong_the_first_is_the_worst_whatever_their_last_bits_say() -> None:
    structures = [bulk("Cu", "fcc", a=3.6) for _ in range(2)]
    theirs = [labelled(atoms, 0.0) for atoms in structures]
    for more in (-1e-13, 1e-13):
        ours = [labelled(atoms, energy) for atoms, energy in zip(structures, (0.1, -0.1 - more), strict=True)]
        energy = athanor.compare(ours, theirs).figures["energy"]
        assert (energy.row, energy.worst) == (0, pytest.approx(0.1))


def test_elements_that_are_counted_from_another_zero_leave_nothing() -> None:
    structures = [bulk("NaCl", "rocksalt", a=5.64), bulk("Cu", "fcc", a=3.6), bulk("CuCl", "zincblende", a=5.4)]
    structures += [bulk("Cu", "fcc", a=3.7), bulk("NaCl", "rocksalt", a=5.7), bulk("CuCl", "zincblende", a=5.5)]
    zeros = {"Na": 1.5, "Cl": -300.0, "Cu": 20.0}
    theirs = [labelled(atoms, -float(number)) for number, atoms in enumerate(structures)]
    ours = [
        labelled(atoms, each.get_potential_energy() + sum(zeros[symbol] for symbol in atoms.symbols))
        for atoms, each in zip(structures, theirs, strict=True)
    ]
    found = athanor.compare(ours, theirs)
    assert found.figures["energy"].mae > 10.0
    assert found.figures["energy_shifted"].mae < 1e-10
    assert found.shifts["Cu"] == pytest.approx(20.0)
    assert found.shifts["Na"] + found.shifts["Cl"] == pytest.approx(-298.5)
    assert found.rows[2]["energy_shifted"] == pytest.approx(0.0, abs=1e-10)


def test_two_models_on_the_same_structures_agree_with_their_own_results() -> None:
    ours, theirs = athanor.evaluate(crystals(), SOFT), athanor.evaluate(crystals(), HARD)
    found = athanor.compare(ours, theirs, names=("soft", "hard"))
    expected = [(a - b) / 4 for a, b in zip(ours.energies, theirs.energies, strict=True)]
    assert [row["energy_difference"] for row in found.rows] == pytest.approx(expected)
    off = [a.get_forces() - b.get_forces() for a, b in zip(ours.structures, theirs.structures, strict=True)]
    assert [row["forces_rmse"] for row in found.rows] == pytest.approx([np.sqrt((each**2).mean()) for each in off])
    assert repr(found).startswith("Comparison(soft minus hard: 3 systems; energy ")
    assert found.notes == []


def test_after_relaxations_cells_and_structures_differ(tmp_path: Path) -> None:
    for name, model in (("soft", SOFT), ("hard", HARD)):
        athanor.relax(crystals(), model, fmax=0.0005, smax="0.2 MPa", max_steps=400, out=tmp_path / name)
    found = athanor.compare(tmp_path / "soft", tmp_path / "hard")
    assert [row["strain_percent"] for row in found.rows] == pytest.approx([100 * (3.4 / 3.5 - 1)] * 3, rel=0.01)
    assert [row["volume_percent"] for row in found.rows] == pytest.approx([100 * ((3.4 / 3.5) ** 3 - 1)] * 3, rel=0.01)
    assert all(row["displacement"] < 0.02 for row in found.rows)
    assert all(row["a_difference"] < -0.1 and abs(row["alpha_difference"]) < 0.2 for row in found.rows)
    assert "forces" not in found.figures
    assert any("Forces are not compared where atoms or cells are at other places: Ar4" in note for note in found.notes)


def test_frames_are_compared_at_common_steps(tmp_path: Path) -> None:
    for name, model, every in (("soft", SOFT, 2), ("hard", HARD, 3)):
        how: dict[str, Any] = {"temperature": 20, "steps": 24, "every": every, "silence": ["start", "small-cell"]}
        athanor.md(crystals()[:2], model, out=tmp_path / name, **how)
    found = athanor.compare(tmp_path / "soft", tmp_path / "hard", frames=True)
    steps = [set(athanor.open(tmp_path / name).frames(0).step.flatten().tolist()) for name in ("soft", "hard")]
    common = sorted(steps[0] & steps[1])
    assert 2 <= len(common) < min(map(len, steps))
    assert [row["frames"] for row in found.rows] == [len(common)] * 2
    assert [pair.step for pair in found.pairs if pair.row == 0] == common
    run = athanor.open(tmp_path / "soft")
    first = next(image for image in run.atoms(0) if image.info["step"] == common[0])
    assert found.pairs[0].energy[0] == pytest.approx(first.get_potential_energy() / 4)


def test_frames_that_were_labelled_elsewhere(tmp_path: Path) -> None:
    how: dict[str, Any] = {"temperature": 20, "steps": 12, "every": 4, "silence": ["start", "small-cell"]}
    athanor.md(crystals()[:1], SOFT, out=tmp_path / "soft", **how)
    images = athanor.open(tmp_path / "soft").atoms(0)
    write(tmp_path / "labels.extxyz", athanor.evaluate(images[1:], HARD).structures)
    found = athanor.compare(tmp_path / "soft", tmp_path / "labels.extxyz", frames=True)
    assert found.rows[0]["frames"] == len(images) - 1
    assert found.figures["forces"].count == 12 * (len(images) - 1)


# ---------------------------------------------------------------------------------------------------- who is matched


def names_of_matched(ours: Sequence[Atoms], theirs: Sequence[Atoms]) -> list[float]:
    """Energy of the partner of each of `ours`, which tells who it is."""
    return [row["reference_energy_per_atom"] for row in athanor.compare(list(ours), list(theirs)).rows]


def test_systems_in_another_order_are_matched_by_where_their_atoms_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [labelled(atoms, 4.0 * number) for number, atoms in enumerate(crystals())]
    assert names_of_matched(ours, ours[::-1]) == [0.0, 1.0, 2.0]
    # twin: places do not count, so that the order decides among systems of one name
    monkeypatch.setattr(matching, "_kinds", lambda first, second: ([0] * len(first), [0] * len(second)))
    assert names_of_matched(ours, ours[::-1]) == [2.0, 1.0, 0.0]


def test_what_moved_is_matched_by_name_and_what_has_no_namesake_by_what_it_is() -> None:
    salt, copper, water = bulk("NaCl", "rocksalt", a=5.6), bulk("Cu", "fcc", a=3.6), molecule("H2O")
    ours = [labelled(atoms, 1.0) for atoms in (salt, copper, water)]
    for atoms, name in zip(ours, ("a", "b", "c"), strict=True):
        atoms.info["name"] = name
    theirs = [atoms.copy() for atoms in ours]
    theirs[0].set_cell(salt.cell * 1.1, scale_atoms=True)
    theirs[1].info["name"] = "my copper"
    theirs[1].set_cell(copper.cell * 1.1, scale_atoms=True)
    theirs = [labelled(atoms, energy * len(atoms)) for atoms, energy in zip(theirs, (1.0, 2.0, 3.0), strict=True)]
    found = athanor.compare(ours, theirs[::-1])
    assert [row["reference_energy_per_atom"] for row in found.rows] == pytest.approx([1.0, 2.0, 3.0])
    assert "1 system matched by places or composition, as names differ: b is my copper there." in found.notes


def test_atoms_in_another_order_are_put_in_order() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64) * 2
    forces = np.random.default_rng(0).normal(size=(16, 3))
    shuffle = np.random.default_rng(1).permutation(16)
    other = labelled(atoms[shuffle], 0.0, forces[shuffle])
    found = athanor.compare(labelled(atoms, 0.0, forces), other)
    assert found.figures["forces"].worst == pytest.approx(0.0, abs=1e-12)


def test_atoms_that_can_not_be_told_apart_are_named() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64) * 2
    other = atoms[::-1]
    other.rattle(0.4, seed=1)
    other.set_cell(atoms.cell * 1.05, scale_atoms=True)
    found = athanor.compare(labelled(atoms, -1.0), labelled(other, -2.0))
    assert found.rows[0]["volume_percent"] < 0
    assert "displacement" not in found.rows[0]
    assert any("Atoms in another order" in note and "sort both alike" in note for note in found.notes)


def test_a_molecule_that_was_turned_has_no_displacement_and_its_forces_are_not_compared() -> None:
    atoms = molecule("CH3CH2OH")
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3))
    found = athanor.compare(labelled(atoms, -1.0, np.ones((9, 3))), labelled(turned, -1.0, np.ones((9, 3))))
    assert found.rows[0]["displacement"] == pytest.approx(0.0, abs=1e-10)
    assert "forces" not in found.figures


# --------------------------------------------------------------------------------------------------- what is missing


def test_nothing_in_common(tmp_path: Path) -> None:
    write(tmp_path / "salt.extxyz", labelled(bulk("NaCl", "rocksalt", a=5.64), -1.0))
    write(tmp_path / "water.extxyz", labelled(molecule("H2O"), -1.0))
    with pytest.raises(
        InputError, match=r"no system in common. The one has salt \(ClNa\); the other has water \(H2O\)"
    ):
        athanor.compare(tmp_path / "salt.extxyz", tmp_path / "water.extxyz")


def test_labels_under_another_name_are_found_and_named(tmp_path: Path) -> None:
    ours, theirs = two_sides()
    for atoms in theirs:
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
    write(tmp_path / "labels.extxyz", theirs)
    with pytest.raises(InputError, match=r"has no energy, expected in `energy`.*It has `REF_energy`.*--energy-key REF"):
        athanor.compare(ours, tmp_path / "labels.extxyz")
    found = athanor.compare(ours, tmp_path / "labels.extxyz", energy_key="REF_energy")
    assert any("has no forces, expected in `forces`; it has `REF_forces` (--forces-key" in note for note in found.notes)
    found = athanor.compare(ours, tmp_path / "labels.extxyz", energy_key="REF_energy", forces_key="REF_forces")
    assert found.figures["forces"].worst == pytest.approx(0.5)


def test_the_key_is_for_the_second_side_only() -> None:
    """An evaluation of labelled structures carries their labels: they are not its results."""
    ours, theirs = two_sides()
    for atoms, label in zip(ours, theirs, strict=True):
        atoms.info["REF_energy"] = label.info["REF_energy"] = label.get_potential_energy()
    assert athanor.compare(ours, theirs, energy_key="REF_energy").figures["energy"].mae == pytest.approx(0.5)


def test_systems_that_failed_or_stand_alone_are_told() -> None:
    ours, theirs = two_sides()
    ours[0].calc = None
    found = athanor.compare([*ours, labelled(molecule("H2O"), -1.0)], [*theirs, labelled(molecule("CH4"), -1.0)])
    assert found.figures["energy"].count == 1
    assert found.rows[0]["energy_per_atom"] is None
    text = " ".join(found.notes)
    assert "1 system of the first alone: H2O." in text
    assert "1 system of the second alone: CH4." in text
    assert "No energy on one side: ClNa." in text


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("nowhere.extxyz", r"`nowhere\.extxyz` does not exist"),
        (3, "a int can not be compared; pass a results folder"),
        ([], "holds no structure"),
    ],
)
def test_what_is_no_side(first: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        athanor.compare(first, two_sides()[1])


def test_frames_need_steps(tmp_path: Path) -> None:
    ours, theirs = two_sides()
    with pytest.raises(InputError, match="has no frames: nothing in it says its `step`"):
        athanor.compare(ours, theirs, frames=True)
    ours[0].info["step"], theirs[0].info["step"] = 3, 4
    with pytest.raises(InputError, match="no step of any system in common"):
        athanor.compare(ours[:1], theirs[:1], frames=True)


# ------------------------------------------------------------------------------------------------------- the picture


def test_picture_has_a_column_for_what_was_compared(tmp_path: Path) -> None:
    found = athanor.compare(*two_sides(), names=("model", "labels"))
    figure = found.plot(tmp_path / "parity.png")
    assert (tmp_path / "parity.png").stat().st_size > 1000
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == [
        "energy (eV/atom)",
        "component of a force (eV/Å)",
        "difference (meV/atom)",
        "difference (meV/Å)",
    ]
    above, below = figure.axes[1], figure.axes[3]
    assert len(above.lines[0].get_xdata()) == 18
    assert max(abs(below.lines[0].get_ydata())) == pytest.approx(400.0)  # meV/Å; the y component is the second axis
    assert "MAE 38.9, RMSE 118 meV/Å" in above.get_legend().get_texts()[0].get_text()
    assert figure.get_suptitle() == "model (up) against labels (across)"


def test_nothing_to_draw_and_an_unknown_ending(tmp_path: Path) -> None:
    from athanor.workflows.plot_comparison import plot_comparisons

    with pytest.raises(InputError, match="0 comparisons are not one picture"):
        plot_comparisons([])
    with pytest.raises(InputError, match="no ending of a picture"):
        athanor.compare(*two_sides()).plot(tmp_path / "parity.doc")


def test_labels_of_some_atoms_are_compared_and_the_others_left_out(tmp_path: Path) -> None:
    """NaN, as files have where nothing was computed. Mutant: one makes every figure NaN, and hides the worst atom."""
    ours, theirs = two_sides()
    theirs[0].calc.results["forces"][1] = np.nan
    theirs[1].calc.results["forces"][0] = np.nan
    theirs.append(labelled(molecule("H2O"), -5.0))
    ours.append(labelled(molecule("H2O"), -5.0, np.ones((3, 3))))
    for name, side in (("ours.extxyz", ours), ("theirs.extxyz", theirs)):
        write(tmp_path / name, side)
    found = athanor.compare(tmp_path / "ours.extxyz", tmp_path / "theirs.extxyz")
    forces = found.figures["forces"]
    assert (forces.count, forces.atom, forces.row) == (3 * (1 + 3), 2, 1)
    assert forces.worst == pytest.approx(0.5)
    assert forces.mae == pytest.approx(0.7 / 12)
    assert found.rows[1]["forces_mae"] == pytest.approx(0.7 / 9)
    assert "forces_mae" not in found.rows[2]
    assert any("not of all atoms; what lacks is left out: ours:0, ours:1, ours:2." in note for note in found.notes)
    found.plot(tmp_path / "parity.png")
