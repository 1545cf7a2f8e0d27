"""Models inside ASE give what athanor gives and what physics says; so do calculators of ASE in athanor.

Each check is a function that a broken twin fails.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from ase.vibrations import Vibrations

import athanor
from athanor.data import AtomicData, Batch
from athanor.models import ASEModelWrapper, LennardJonesModelWrapper
from athanor.workflows import calculator as calculator_module
from athanor.workflows.kept_structure import KeptStructure

EPSILON, SIGMA = 0.0104, 3.4


def argon(**changes: Any) -> LennardJonesModelWrapper:
    return LennardJonesModelWrapper(
        **{"epsilon": EPSILON, "sigma": SIGMA, "cutoff": 8.0, "switch_width": 1.5, **changes}
    )


def shaken(atoms: ase.Atoms, amplitude: float = 0.1, seed: int = 0) -> ase.Atoms:
    atoms.rattle(amplitude, seed=seed)
    return atoms


def argon_structures() -> dict[str, ase.Atoms]:
    sheared = bulk("Ar", "fcc", a=5.2, cubic=True) * (2, 1, 1)
    sheared.set_cell(sheared.cell.array @ (np.eye(3) + [[0, 0, 0], [0.2, 0, 0], [-0.1, 0.3, 0.05]]), scale_atoms=True)
    slab = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 1)
    slab.center(vacuum=6.0, axis=2)
    slab.pbc = (True, True, False)
    sheet = slab.copy()
    sheet.cell[2] = 0.0
    found = {
        "crystal": bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2),
        "one atom": bulk("Ar", "fcc", a=5.3),
        "sheared": sheared,
        "slab": slab,
        "sheet without a third vector": sheet,
        "cluster": ase.Atoms("Ar4", positions=4.0 * np.array([[0, 0, 0], [1, 0, 0], [0.4, 0.9, 0], [0.5, 0.3, 0.8]])),
    }
    return {name: shaken(atoms, seed=number) for number, (name, atoms) in enumerate(found.items())}


def chgnet_structures() -> dict[str, ase.Atoms]:
    found = {"NaCl": bulk("NaCl", "rocksalt", a=5.6, cubic=True), "Fe": bulk("Fe", cubic=True), "Si": bulk("Si")}
    return {name: shaken(atoms, 0.05, seed=number) for number, (name, atoms) in enumerate(found.items())}


@pytest.fixture(scope="module")
def chgnet() -> Any:
    return athanor.models.get("chgnet")


def check_agreement(make: Callable[[], Calculator], model: Any, structures: dict[str, ase.Atoms]) -> None:
    """Energy, forces and stress of a calculator are those of `athanor.evaluate`, to the bit, in any order of asking."""
    for name, atoms in structures.items():
        expected = athanor.evaluate(atoms.copy(), model=model, silence=["non-periodic"]).structures[0]
        atoms = atoms.copy()
        atoms.calc = make()
        if atoms.pbc.any() and atoms.cell.rank == 3:
            np.testing.assert_array_equal(atoms.get_stress(), expected.get_stress(), err_msg=name)
        np.testing.assert_array_equal(atoms.get_forces(), expected.get_forces(), err_msg=name)
        assert atoms.get_potential_energy() == expected.get_potential_energy(), name
        assert atoms.get_potential_energy(force_consistent=True) == expected.get_potential_energy(), name


def check_path(make: Callable[[], Calculator], model: Any) -> None:
    """One calculator follows atoms through moves, wraps, cells, periodicity and elements as fresh evaluations do."""
    atoms, rng = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2), np.random.default_rng(3)
    atoms.calc = make()

    def move() -> None:
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)

    def push_out_and_wrap() -> None:
        atoms.positions += [2.7, 0.0, 0.0]
        atoms.get_forces()
        atoms.wrap()

    changes: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "a move": move,
        "another move": move,
        "a wrap": push_out_and_wrap,
        "one atom": lambda: atoms.positions.__setitem__((0, 1), atoms.positions[0, 1] + 0.8),
        "the cell alone": lambda: atoms.set_cell(1.02 * atoms.cell.array),
        "a strain": lambda: atoms.set_cell(atoms.cell.array * [0.98, 1.0, 1.03], scale_atoms=True),
        "an open axis": lambda: atoms.set_pbc((True, True, False)),
        "a closed axis": lambda: atoms.set_pbc(True),
        "fewer atoms": lambda: atoms.__delitem__([3, 5]),
        "no cell": lambda: atoms.set_pbc(False),
    }
    for change, apply in changes.items():
        apply()
        expected = athanor.evaluate(atoms.copy(), model=model).structures[0]
        if atoms.pbc.any():
            np.testing.assert_allclose(atoms.get_stress(), expected.get_stress(), atol=1e-12, rtol=0, err_msg=change)
        np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=1e-12, rtol=0, err_msg=change)
        assert abs(atoms.get_potential_energy() - expected.get_potential_energy()) < 1e-12, change


def check_stress(make: Callable[[], Calculator]) -> None:
    """ASE's stress is +1/V dE/dstrain in the order xx, yy, zz, yz, xz, xy, against differences of the energy."""
    atoms = argon_structures()["sheared"]
    atoms.calc = make()
    found, step = voigt_6_to_full_3x3_stress(atoms.get_stress()), 1e-5
    assert np.abs(found).max() > 1e-4
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * sign * step
            strain[j, i] += 0.5 * sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            strained.calc = atoms.calc
            energies.append(strained.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert abs(found[i, j] - slope) < 1e-8, (i, j, found[i, j], slope)


def lennard_jones_calculator() -> Calculator:
    return athanor.AthanorCalculator(argon())


def test_lennard_jones_agrees_with_evaluate() -> None:
    check_agreement(lennard_jones_calculator, argon(), argon_structures())


@pytest.mark.chgnet
def test_chgnet_agrees_with_evaluate(chgnet: Any) -> None:
    check_agreement(lambda: athanor.AthanorCalculator(chgnet), chgnet, chgnet_structures())
    iron = chgnet_structures()["Fe"]
    iron.calc = athanor.AthanorCalculator(chgnet)
    moments, energies = iron.get_magnetic_moments(), iron.get_potential_energies()
    assert (moments > 1.0).all()
    assert abs(energies.sum() - iron.get_potential_energy()) < 1e-5


@pytest.mark.parametrize("skin", [None, 0.0, 2.0])
def test_one_calculator_follows_every_change(skin: float | None) -> None:
    check_path(lambda: athanor.AthanorCalculator(argon(), skin=skin), argon())


def test_stress_is_tensile_positive_in_the_order_of_voigt() -> None:
    check_stress(lennard_jones_calculator)


# ------------------------------------------------------------------------------------------------------- broken twins


class StaleNeighbours(KeptStructure):
    """Searches neighbours when atoms are met, and where minimum images moved: a wrap goes unnoticed."""

    def evaluate(self, atoms: ase.Atoms, fields: Any) -> Any:
        wrapped = atoms.get_scaled_positions(wrap=True) if atoms.pbc.all() else None
        before = self.__dict__.get("_wrapped")
        same = before is not None and wrapped is not None and before.shape == wrapped.shape
        hooks = self._hooks
        if same and np.abs((wrapped - before + 0.5) % 1.0 - 0.5).max() < 0.02:
            self._hooks = ()
        self._wrapped = wrapped
        try:
            return super().evaluate(atoms, fields)
        finally:
            self._hooks = hooks


class KeepsThePositions(KeptStructure):
    """Forces of the structure before: positions are written when a batch is made, and never again."""

    def _batch_for(self, atoms: ase.Atoms) -> Any:
        batch = self._batch
        before = None if batch is None else batch.positions.clone()
        found = super()._batch_for(atoms)
        if before is not None and found is batch:
            found.positions.copy_(before)
        return found


class IgnoresTheCell(athanor.AthanorCalculator):
    """Results are kept although the cell has changed."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.ignored_changes |= {"cell"}


def test_a_calculator_with_stale_neighbours_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calculator_module, "KeptStructure", StaleNeighbours)
    with pytest.raises(AssertionError, match="a wrap"):
        check_path(lennard_jones_calculator, argon())


def test_a_calculator_with_forces_of_the_structure_before_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calculator_module, "KeptStructure", KeepsThePositions)
    with pytest.raises(AssertionError, match="a move"):
        check_path(lennard_jones_calculator, argon())


def test_a_calculator_that_keeps_its_energy_after_a_change_of_the_cell_is_found() -> None:
    with pytest.raises(AssertionError, match="the cell alone"):
        check_path(lambda: IgnoresTheCell(argon()), argon())


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda stress: -stress, id="sign"),
        pytest.param(lambda stress: stress[[0, 1, 2, 5, 4, 3]], id="order of Voigt"),
        pytest.param(lambda stress: stress * [1, 1, 1, 2, 2, 2], id="as strain"),
    ],
)
def test_a_wrong_stress_is_found(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Any], Any]) -> None:
    right = calculator_module.as_property
    monkeypatch.setattr(
        calculator_module,
        "as_property",
        lambda field, value: wrong(right(field, value)) if field == "stress" else right(field, value),
    )
    with pytest.raises(AssertionError):
        check_stress(lennard_jones_calculator)
    with pytest.raises(AssertionError):
        check_agreement(lennard_jones_calculator, argon(), {"sheared": argon_structures()["sheared"]})


# -------------------------------------------------------------------------------------------------- ASE's own methods


@pytest.mark.parametrize("optimizer", [FIRE, BFGS])
def test_optimizers_of_ase_reach_what_relax_reaches(optimizer: Any) -> None:
    atoms = argon_structures()["cluster"]
    expected = athanor.relax(atoms.copy(), model=argon(), fmax=1e-6, max_steps=2000)
    atoms.calc = lennard_jones_calculator()
    assert optimizer(atoms, logfile=None).run(fmax=1e-6, steps=2000)
    assert expected.reasons == ["converged"]
    assert abs(atoms.get_potential_energy() - expected.energies[0]) < 1e-9
    np.testing.assert_allclose(
        np.sort(atoms.get_all_distances(), axis=None),
        np.sort(expected.structures[0].get_all_distances(), axis=None),
        atol=1e-3,
    )


def test_a_cell_relaxed_by_ase_is_that_of_relax() -> None:
    atoms = shaken(bulk("Ar", "fcc", a=5.5, cubic=True), 0.05)
    expected = athanor.relax(atoms.copy(), model=argon(), fmax=1e-5, smax="0.1 MPa", max_steps=3000)
    atoms.calc = lennard_jones_calculator()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-6, steps=300)
    assert expected.reasons == ["converged"]
    assert abs(atoms.get_potential_energy() - expected.energies[0]) < 1e-7
    assert abs(atoms.get_volume() / expected.structures[0].get_volume() - 1.0) < 1e-4


@pytest.mark.chgnet
@pytest.mark.filterwarnings("ignore")  # those of the package, at import
def test_a_relaxation_with_chgnet_is_that_of_the_package(chgnet: Any) -> None:
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    energies = []
    for calc in (
        athanor.AthanorCalculator(chgnet),
        CHGNetCalculator(CHGNet.load(verbose=False, use_device="cpu"), use_device="cpu"),
    ):
        atoms = chgnet_structures()["NaCl"]
        atoms.calc = calc
        assert FIRE(atoms, logfile=None).run(fmax=0.01, steps=300)
        energies.append(atoms.get_potential_energy())
    assert abs(energies[0] - energies[1]) / 8 < 1e-4


def vacancy_hop(images: int) -> list[ase.Atoms]:
    """Argon with a vacancy that a neighbour hops into; both ends relaxed."""
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    first = crystal.copy()
    del first[0]
    near = int(np.argmin(crystal.get_distances(0, range(1, len(crystal)), mic=True)))
    last = first.copy()
    last.positions[near] -= crystal.get_distance(0, near + 1, mic=True, vector=True)
    path = [first, *(first.copy() for _ in range(images)), last]
    for end in (first, last):
        end.calc = lennard_jones_calculator()
        FIRE(end, logfile=None).run(fmax=1e-3, steps=500)
    return path


@pytest.mark.parametrize("sharing", ["one each", "copies", "shared"])
def test_neb_of_a_vacancy_hop(sharing: str) -> None:
    path, calculator = vacancy_hop(3), lennard_jones_calculator()
    for image in path[1:-1]:
        image.calc = {"one each": lennard_jones_calculator, "copies": lambda: copy.copy(calculator)}.get(
            sharing, lambda: calculator
        )()
    band = NEB(path, climb=True, method="improvedtangent", allow_shared_calculator=sharing == "shared")
    band.interpolate(mic=True)
    assert FIRE(band, logfile=None).run(fmax=2e-3, steps=500)
    energies = [image.get_potential_energy() for image in path]
    expected = athanor.evaluate([image.copy() for image in path], model=argon())
    np.testing.assert_allclose(energies, expected.energies, atol=1e-12, rtol=0)
    assert abs(energies[0] - energies[-1]) < 1e-6
    assert max(energies) == energies[2]
    assert 0.05 < energies[2] - energies[0] < 0.15
    np.testing.assert_allclose(energies[1], energies[3], atol=1e-3)


def check_vibration(calculator: Calculator, folder: Path) -> None:
    """The frequency of a dimer is sqrt(k / mu) with k = 72 epsilon / (2^(1/3) sigma^2); five others are zero."""
    dimer = ase.Atoms("Ar2", positions=[[0, 0, 0], [0.6 * 2 ** (1 / 6) * SIGMA, 0.8 * 2 ** (1 / 6) * SIGMA, 0]])
    dimer.calc = calculator
    vibrations = Vibrations(dimer, name=str(folder / "vib"), delta=1e-3)
    vibrations.run()
    stiffness = 72 * EPSILON / (2 ** (1 / 3) * SIGMA**2)
    quantum = np.sqrt(stiffness / (0.5 * dimer.get_masses()[0])) * (units._hbar * units.J * units.second)
    found = vibrations.get_energies()
    assert abs(found[-1].real / quantum - 1.0) < 1e-5, (found[-1], quantum)
    assert np.abs(found[:-1]).max() < 1e-2 * quantum


def test_vibration_of_a_dimer(tmp_path: Path) -> None:
    check_vibration(athanor.AthanorCalculator(argon(cutoff=12.0, switch_width=0.0)), tmp_path)


def test_a_vibration_with_other_forces_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = calculator_module.as_property
    monkeypatch.setattr(
        calculator_module,
        "as_property",
        lambda field, value: right(field, value) * (1.001 if field == "forces" else 1.0),
    )
    with pytest.raises(AssertionError):
        check_vibration(athanor.AthanorCalculator(argon(cutoff=12.0, switch_width=0.0)), tmp_path)


def dynamical_matrix(atoms: ase.Atoms, q: np.ndarray, cutoff: float) -> np.ndarray:
    """Return D(q) of a crystal of one atom with the pair potential, eV/(Å² amu), by a sum over its neighbours."""
    reach, total = 6, np.zeros((3, 3))
    for n in np.ndindex(*(2 * reach + 1,) * 3):
        vector = (np.array(n) - reach) @ atoms.cell.array
        r = np.linalg.norm(vector)
        if not 0 < r < cutoff:
            continue
        first = 4 * EPSILON * (-12 * SIGMA**12 / r**13 + 6 * SIGMA**6 / r**7)
        second = 4 * EPSILON * (156 * SIGMA**12 / r**14 - 42 * SIGMA**6 / r**8)
        along = np.outer(vector, vector) / r**2
        total += (second * along + first / r * (np.eye(3) - along)) * (1 - np.cos(q @ vector))
    return total / atoms.get_masses()[0]


def check_phonons(calculate: Callable[[ase.Atoms], np.ndarray]) -> None:
    """Frequencies of fcc argon by phonopy: zero at Gamma, those of the closed form at X and L."""
    phonopy = pytest.importorskip("phonopy")
    from phonopy.structure.atoms import PhonopyAtoms

    atoms = bulk("Ar", "fcc", a=5.25)
    cell = PhonopyAtoms(symbols=atoms.get_chemical_symbols(), cell=atoms.cell.array, scaled_positions=[[0, 0, 0]],
                        masses=atoms.get_masses())  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the package
        phonon = phonopy.Phonopy(cell, supercell_matrix=[[-2, 2, 2], [2, -2, 2], [2, 2, -2]], log_level=0)
        phonon.generate_displacements(distance=0.01)
        supercells = [
            ase.Atoms(each.symbols, scaled_positions=each.scaled_positions, cell=each.cell, pbc=True)
            for each in phonon.supercells_with_displacements
        ]
        phonon.forces = [calculate(each) for each in supercells]
        phonon.produce_force_constants()
    factor = np.sqrt(units._e / units._amu) * 1e10 / (2 * np.pi) * 1e-12
    for place, q in {"Gamma": [0, 0, 0], "X": [0.5, 0, 0.5], "L": [0.5, 0.5, 0.5]}.items():
        found = np.sort(phonon.run_qpoints([q]).frequencies[0])
        matrix = dynamical_matrix(atoms, 2 * np.pi * np.array(q) @ atoms.cell.reciprocal().array, 8.0)
        expected = factor * np.sqrt(np.linalg.eigvalsh(matrix).clip(min=0.0))
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=place)
        assert place == "Gamma" or expected.min() > 0.5


def sharp_calculator() -> Calculator:
    return athanor.AthanorCalculator(argon(cutoff=8.0, switch_width=0.0))


def test_phonons_by_phonopy() -> None:
    calculator = sharp_calculator()

    def calculate(atoms: ase.Atoms) -> np.ndarray:
        atoms.calc = calculator
        expected = athanor.evaluate(atoms.copy(), model=calculator.model).structures[0].get_forces()
        np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-12, rtol=0)
        return atoms.get_forces()

    check_phonons(calculate)


def test_phonons_of_the_structure_before_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calculator_module, "KeptStructure", KeepsThePositions)
    calculator = sharp_calculator()

    def calculate(atoms: ase.Atoms) -> np.ndarray:
        perfect = atoms.copy()
        perfect.positions = np.round(perfect.positions, 1)
        perfect.calc = atoms.calc = calculator
        perfect.get_forces()
        return atoms.get_forces()

    with pytest.raises(AssertionError):
        check_phonons(calculate)


# -------------------------------------------------------------------------------------------------- the other way round


def metals() -> list[ase.Atoms]:
    found = [bulk("Cu", a=3.7, cubic=True), bulk("Al", a=4.0) * (2, 1, 1), bulk("Au", a=4.1), molecule("CO")]
    return [shaken(atoms, 0.05, seed) for seed, atoms in enumerate(found)]


def check_wrapper(model: Any, structures: list[ase.Atoms], make: Callable[[], Calculator], allowed: float) -> None:
    """Energy, forces and stress of a wrapped calculator, of all structures in one batch, are those that ASE has."""
    result = athanor.evaluate(structures, model=model, silence=["non-periodic"])
    assert result.reasons == ["done"] * len(structures)
    for found, atoms in zip(result.structures, structures, strict=True):
        atoms = atoms.copy()
        atoms.calc = make()
        name = atoms.get_chemical_formula()
        assert abs(found.get_potential_energy() - atoms.get_potential_energy()) <= allowed, name
        np.testing.assert_allclose(found.get_forces(), atoms.get_forces(), atol=allowed, rtol=0, err_msg=name)
        if atoms.pbc.any() and atoms.cell.rank == 3:
            np.testing.assert_allclose(found.get_stress(), atoms.get_stress(), atol=allowed, rtol=0, err_msg=name)


def test_emt_in_a_batch_is_emt_in_ase() -> None:
    check_wrapper(ASEModelWrapper(EMT()), metals(), EMT, 0.0)


def test_there_and_back_is_the_model_itself() -> None:
    structures = [*argon_structures().values()]
    check_wrapper(ASEModelWrapper(lennard_jones_calculator()), structures, lennard_jones_calculator, 1e-14)
    ours, wrapped = argon(), ASEModelWrapper(lennard_jones_calculator())
    one, other = (athanor.evaluate(structures, model=model) for model in (ours, wrapped))
    np.testing.assert_allclose(one.energies, other.energies, atol=1e-12, rtol=0)


class StaleResults(ASEModelWrapper):
    """Forces of the structure before: what the calculator has of another structure of as many atoms is taken."""

    def _rows(self, atoms: ase.Atoms, field: str) -> Any:
        known = self.__dict__.setdefault("_known", {})
        return known.setdefault((field, len(atoms)), super()._rows(atoms, field))


class CompressiveStress(ASEModelWrapper):
    def _rows(self, atoms: ase.Atoms, field: str) -> Any:
        return super()._rows(atoms, field) * (-1.0 if field == "stress" else 1.0)


class AnotherOrderOfVoigt(ASEModelWrapper):
    def _rows(self, atoms: ase.Atoms, field: str) -> Any:
        rows = super()._rows(atoms, field)
        if field == "stress":
            rows = voigt_6_to_full_3x3_stress(full_3x3_to_voigt_6_stress(rows[0])[[0, 1, 2, 5, 4, 3]])[None]
        return rows


@pytest.mark.parametrize("twin", [StaleResults, CompressiveStress, AnotherOrderOfVoigt])
def test_a_wrong_wrapper_is_found(twin: type[ASEModelWrapper]) -> None:
    with pytest.raises(AssertionError):
        check_wrapper(twin(EMT()), [*metals(), *metals()[::-1], shaken(bulk("Cu", cubic=True), 0.1, 9)], EMT, 1e-9)


def test_relaxations_with_emt_reach_what_ase_reaches() -> None:
    crystals = [metals()[0], metals()[2]]
    result = athanor.relax(crystals, model=ASEModelWrapper(EMT()), fmax=1e-4, smax="10 MPa")
    assert result.reasons == ["converged"] * 2
    for found, atoms in zip(result.structures, crystals, strict=True):
        atoms.calc = EMT()
        assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=300)
        assert abs(found.get_potential_energy() - atoms.get_potential_energy()) < 1e-5
        assert abs(found.get_volume() / atoms.get_volume() - 1.0) < 1e-3


def nve_drift(model: Any) -> float:
    """Return the spread of the total energy over 100 steps of hot copper, eV an atom."""
    from athanor.dynamics import NVE

    batch = Batch.from_data_list([AtomicData.from_atoms(shaken(bulk("Cu", cubic=True), 0.05), dtype=torch.float64)])
    engine, totals = NVE(model, dt=2.0, start_temperature=300.0), []
    for _ in range(20):
        engine.run(batch, 5)
        kinetic = 0.5 * (batch.atomic_masses * batch.velocities.square().sum(1)).sum()
        totals.append(float(batch.energy + kinetic) / 4)
    return max(totals) - min(totals)


def test_dynamics_with_emt_keeps_its_energy() -> None:
    class Weaker(ASEModelWrapper):
        """Forces that are no derivative of the energy."""

        def _rows(self, atoms: ase.Atoms, field: str) -> Any:
            return super()._rows(atoms, field) * (0.9 if field == "forces" else 1.0)

    assert nve_drift(ASEModelWrapper(EMT())) < 1e-4
    assert nve_drift(Weaker(EMT())) > 1e-3
