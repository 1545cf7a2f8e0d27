"""Charge equilibration against solutions that do not come from it: by hand, by other sums, by differences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.special import erf, erfc

from athanor import units
from athanor.data import AtomicData, Batch
from athanor.models import PipelineGroup, PipelineModelWrapper, PipelineStep, equilibration, hessian, qeq
from athanor.models.dsf import DSFModelWrapper
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.pme import PMEModelWrapper
from athanor.models.qeq import QEqModelWrapper
from athanor.neighbors import compute_neighbors

EVERYTHING = {"energy", "forces", "stress", "charges"}
K = units.COULOMB_CONSTANT
CHI = {"Na": 2.8, "Cl": 8.6, "O": 8.7}
ETA = {"Na": 4.6, "Cl": 9.9, "O": -1.5}
SIGMA = {"Na": 1.0, "Cl": 0.7, "O": 0.6}


def model(cutoff: float = 9.0, accuracy: float = 1e-6, **options: Any) -> QEqModelWrapper:
    return QEqModelWrapper(CHI, ETA, SIGMA, cutoff, accuracy, **options)


def batch_of(*systems: Atoms | tuple[Atoms, float]) -> Batch:
    """Return a batch of atoms, or of atoms and their total charge, float64."""
    found = []
    for system in systems:
        atoms, charge = system if isinstance(system, tuple) else (system, None)
        data = AtomicData.from_atoms(atoms, dtype=torch.float64)
        if charge is not None:
            data.charge = torch.tensor([[charge]], dtype=torch.float64)
        found.append(data)
    return Batch.from_data_list(found)


def evaluate(model: Any, *systems: Atoms | tuple[Atoms, float], outputs: set[str] = EVERYTHING) -> Any:
    batch = batch_of(*systems)
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model.model_config.active_outputs = outputs if "cell" in batch else outputs - {"stress"}
    return model(batch)


def salt(seed: int = 1, repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    """Return rattled, sheared rock salt with one oxygen."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.symbols[5] = "O"
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0, 0], [0.15, 1, 0], [-0.1, 0.1, 1]]), scale_atoms=True)
    atoms.rattle(0.25, seed=seed)
    return atoms * repeat


def molecule() -> Atoms:
    return Atoms("NaClONaCl", [(0, 0, 0), (2.3, 0.2, 0), (0.3, 2.1, 0.4), (2.4, 2.2, 1.9), (4.1, 1.4, 0.3)])


# -------------------------------------------------------------------------------------------------------- other sums


def matrix_of(atoms: Atoms, alpha: float = 0.45) -> np.ndarray:
    """Return the energy of unit Gaussian charges by sums without a cutoff that matters, eV/e²."""
    x, cell = atoms.positions, atoms.cell.array
    sigma = np.array([SIGMA[symbol] for symbol in atoms.symbols])
    gamma = 1.0 / np.sqrt(2.0 * (sigma[:, None] ** 2 + sigma[None, :] ** 2))
    d, count = x[:, None] - x[None, :], len(x)
    found = np.diag([ETA[symbol] for symbol in atoms.symbols]) / K + np.diag(1.0 / (math.sqrt(math.pi) * sigma))
    if not atoms.pbc.any():
        r = np.linalg.norm(d, axis=-1) + np.eye(count)
        return K * (found + np.where(np.eye(count) == 1.0, 0.0, erf(gamma * r) / r))
    for n in itertools.product(range(-4, 5), repeat=3):
        r = np.linalg.norm(d + np.array(n) @ cell, axis=-1)
        r = np.where(r < 1e-9, np.inf, r)
        found += (erfc(alpha * r) - erfc(gamma * r)) / r
    vectors, volume = 2.0 * math.pi * np.linalg.inv(cell).T, atoms.get_volume()
    for n in itertools.product(range(-9, 10), repeat=3):
        if n != (0, 0, 0):
            k = np.array(n) @ vectors
            found += 4.0 * math.pi / volume * np.exp(-(k @ k) / (4.0 * alpha**2)) / (k @ k) * np.cos(d @ k)
    found -= 2.0 * alpha / math.sqrt(math.pi) * np.eye(count) + math.pi / (alpha**2 * volume)
    return K * found


def minimum_of(atoms: Atoms, total: float) -> tuple[float, np.ndarray]:
    """Return the least energy and its charges by steepest slopes that keep the total: conjugate gradients."""
    matrix, chi = matrix_of(atoms), np.array([CHI[symbol] for symbol in atoms.symbols])
    charges = np.full(len(atoms), total / len(atoms))
    slope = chi + matrix @ charges
    step = residual = -(slope - slope.mean())
    for _ in range(60):
        if residual @ residual < 1e-30:
            break
        along = matrix @ step
        length = (residual @ residual) / (step @ along)
        charges = charges + length * step
        new = residual - length * (along - along.mean())
        step = new + (new @ new) / (residual @ residual) * step
        residual = new
    return float(chi @ charges + 0.5 * charges @ matrix @ charges), charges


def test_two_atoms_by_hand() -> None:
    """The charge that flows is the difference of electronegativities over what it costs; the net charge joins in."""
    for distance, total in itertools.product((1.0, 2.36, 40.0), (None, 0.0, 1.0, -1.0)):
        atoms = Atoms("NaCl", [(0, 0, 0), (0, 0, distance)])
        outputs = evaluate(model(), (atoms, total) if total is not None else atoms)
        one, other = (ETA[symbol] + K / (math.sqrt(math.pi) * SIGMA[symbol]) for symbol in ("Na", "Cl"))
        pair = K * math.erf(distance / math.sqrt(2.0 * (SIGMA["Na"] ** 2 + SIGMA["Cl"] ** 2))) / distance
        whole = total or 0.0
        q = (CHI["Cl"] - CHI["Na"] + whole * (other - pair)) / (one + other - 2.0 * pair)
        energy = CHI["Na"] * q + CHI["Cl"] * (whole - q) + 0.5 * one * q**2 + 0.5 * other * (whole - q) ** 2
        assert outputs["charges"].tolist() == pytest.approx([q, whole - q], abs=1e-14)
        assert float(outputs["energy"]) == pytest.approx(energy + pair * q * (whole - q), rel=1e-14)


def test_the_other_sum_does_not_depend_on_its_splitting() -> None:
    np.testing.assert_allclose(matrix_of(salt(), 0.4), matrix_of(salt(), 0.5), rtol=0, atol=1e-10)


@pytest.mark.parametrize("total", [0.0, 1.0])
@pytest.mark.parametrize("atoms", [molecule(), salt(), bulk("NaCl", "rocksalt", a=5.64)], ids=str)
def test_charges_and_energy_are_those_of_another_minimisation_by_other_sums(atoms: Atoms, total: float) -> None:
    energy, charges = minimum_of(atoms, total)
    for cutoff, accuracy in ((8.0, 1e-4), (9.0, 1e-6), (11.0, 1e-9)):
        outputs = evaluate(model(cutoff, accuracy), (atoms, total))
        np.testing.assert_allclose(outputs["charges"].numpy(), charges, rtol=0, atol=0.1 * accuracy)
        assert float(outputs["energy"]) == pytest.approx(energy, abs=accuracy * len(atoms))


@pytest.mark.parametrize("name", ["self_term", "background"])
def test_a_sum_without_a_term_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model().splitting), name, 0.0)
    with pytest.raises(AssertionError):
        test_charges_and_energy_are_those_of_another_minimisation_by_other_sums(salt(), 1.0)


def test_point_charges_without_widths_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equilibration, "_screened", lambda r, width, i, j: torch.zeros_like(r))
    for atoms in (molecule(), salt()):
        with pytest.raises(AssertionError):
            test_charges_and_energy_are_those_of_another_minimisation_by_other_sums(atoms, 0.0)


# -------------------------------------------------------------------------------------------------- what must be true


def test_the_total_is_kept_in_every_system_also_beside_others_without_one() -> None:
    outputs = evaluate(model(), (salt(), 1.0), molecule(), (molecule(), -2.0), salt(2))
    sums = [float(part.sum()) for part in outputs["charges"].split([8, 5, 5, 8])]
    assert sums == pytest.approx([1.0, 0.0, -2.0, 0.0], abs=1e-13)


def test_equal_atoms_have_equal_charges_and_an_offset_of_all_electronegativities_changes_none() -> None:
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    charges = evaluate(model(), crystal)["charges"]
    assert float(charges[0]) > 0.2
    torch.testing.assert_close(charges, charges[0] * torch.tensor([1.0, -1.0] * 4).double(), rtol=1e-13, atol=0)
    shifted = QEqModelWrapper({symbol: chi + 3.0 for symbol, chi in CHI.items()}, ETA, SIGMA, 9.0)
    one, other = evaluate(model(), (salt(), 1.0)), evaluate(shifted, (salt(), 1.0))
    torch.testing.assert_close(one["charges"], other["charges"], rtol=0, atol=1e-14)
    torch.testing.assert_close(one["forces"], other["forces"], rtol=0, atol=1e-13)
    torch.testing.assert_close(one["energy"] + 3.0, other["energy"], rtol=1e-13, atol=0)


def test_a_supercell_has_the_same_charges() -> None:
    one, other = evaluate(model(), salt()), evaluate(model(), salt(repeat=(2, 1, 2)))
    torch.testing.assert_close(other["charges"], one["charges"].repeat(4), rtol=0, atol=1e-13)
    torch.testing.assert_close(other["energy"], 4.0 * one["energy"], rtol=1e-13, atol=0)
    torch.testing.assert_close(other["stress"], one["stress"], rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------------------- derivatives


def energy_of(model: Any, system: Atoms | tuple[Atoms, float]) -> float:
    return float(evaluate(model, system, outputs={"energy"})["energy"])


PUSH = np.array([0.6, -0.3, 0.2])
STRAIN = np.array([[1.0, 0.3, 0.1], [0.3, -0.4, 0.2], [0.1, 0.2, 0.5]])


def check_against_differences(model: Any, atoms: Atoms, total: float = 0.0) -> None:
    """Forces and stress are slopes of the energy."""

    def pushed(h: float) -> tuple[Atoms, float]:
        changed = atoms.copy()
        changed.positions[3] += h * PUSH
        return changed, total

    def strained(h: float) -> tuple[Atoms, float]:
        changed = atoms.copy()
        changed.set_cell(atoms.cell.array @ (np.eye(3) + h * STRAIN), True)
        return changed, total

    outputs = evaluate(model, (atoms, total))
    for along in (pushed, strained) if atoms.pbc.all() else (pushed,):
        first, second = ((energy_of(model, along(h)) - energy_of(model, along(-h))) / (2.0 * h) for h in (1e-3, 2e-3))
        found = -float(outputs["forces"][3].numpy() @ PUSH)
        if along is strained:
            found = atoms.get_volume() * float((outputs["stress"][0].numpy() * STRAIN).sum())
        assert found == pytest.approx((4.0 * first - second) / 3.0, rel=2e-8, abs=2e-8)


@pytest.mark.parametrize("coulomb", [True, False])
@pytest.mark.parametrize("accuracy", [1e-2, 1e-6])
def test_forces_and_stress_are_slopes_of_the_energy_at_every_accuracy(accuracy: float, coulomb: bool) -> None:
    for atoms, total in ((salt(), 0.0), (salt(), 1.0), (molecule(), 1.0)):
        check_against_differences(model(9.0, accuracy, coulomb=coulomb), atoms, total)


def detach_charges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: charges that do not know where they come from."""
    right = equilibration.least_energy

    def broken(*arguments: Any) -> Any:
        energy, charges, found = right(*arguments)
        return energy, charges.detach(), found

    monkeypatch.setattr(qeq, "least_energy", broken)


def test_charges_at_the_minimum_need_not_be_differentiated_and_others_must(monkeypatch: pytest.MonkeyPatch) -> None:
    detach_charges(monkeypatch)
    check_against_differences(model(), salt(), 1.0)  # Hellmann and Feynman
    with pytest.raises(AssertionError):
        check_against_differences(model(coulomb=False), salt(), 1.0)


@pytest.mark.parametrize("coulomb", [True, False])
def test_second_derivatives_are_those_of_differences(coulomb: bool) -> None:
    for atoms in (salt(), molecule()):
        found = hessian(model(coulomb=coulomb), batch_of(atoms), step=None)[0]
        differences = hessian(model(coulomb=coulomb), batch_of(atoms), step=1e-4)[0]
        torch.testing.assert_close(found, differences, rtol=0, atol=1e-6)


def test_second_derivatives_with_charges_at_rest_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = equilibration._LeastEnergy

    class Broken:
        @staticmethod
        def apply(matrix: torch.Tensor, chi: torch.Tensor, charges: torch.Tensor) -> torch.Tensor:
            return right.apply(matrix, chi, charges.detach())

    monkeypatch.setattr(equilibration, "_LeastEnergy", Broken)
    check_against_differences(model(), salt())
    with pytest.raises(AssertionError):
        test_second_derivatives_are_those_of_differences(True)


# --------------------------------------------------------------------------------------------------- into other models


PAIRS = {
    "a group": lambda *models: [PipelineGroup([*models], use_autograd=True)],
    "groups": lambda *models: [PipelineGroup([model]) for model in models],
    "groups by autograd": lambda *models: [PipelineGroup([model], use_autograd=True) for model in models],
}


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("groups", PAIRS.values(), ids=PAIRS)
def test_without_its_coulomb_energy_and_with_an_ewald_sum_all_is_the_same(groups: Any, hybrid: bool) -> None:
    pipeline = PipelineModelWrapper(groups(model(coulomb=False), EwaldModelWrapper(9.0, hybrid_forces=hybrid)))
    systems = (salt(), 1.0), molecule(), salt(3, (1, 2, 1)), (bulk("NaCl", "rocksalt", a=5.6), -1.0)
    one, other = evaluate(model(), *systems), evaluate(pipeline, *systems)
    for name in EVERYTHING:
        torch.testing.assert_close(other[name], one[name], rtol=1e-12, atol=1e-12)
    check_against_differences(pipeline, salt(), 1.0)


@pytest.mark.parametrize("term", [EwaldModelWrapper, PMEModelWrapper, DSFModelWrapper])
def test_a_group_takes_batches_of_inference_mode(term: Any) -> None:
    """Mutant: an operation keeps what was made in inference mode for its backward pass."""
    pipeline = PipelineModelWrapper(PAIRS["a group"](model(coulomb=False), term(9.0)))
    expected = evaluate(pipeline, salt())
    with torch.inference_mode():
        found = evaluate(pipeline, salt())
    for name in EVERYTHING:
        torch.testing.assert_close(found[name], expected[name].detach(), rtol=1e-12, atol=1e-12)


def test_with_charges_at_rest_an_ewald_sum_does_not_make_up_for_it() -> None:
    step = PipelineStep(model(coulomb=False), constants={"charges"})
    pipeline = PipelineModelWrapper([PipelineGroup([step, EwaldModelWrapper(9.0)], use_autograd=True)])
    with pytest.raises(AssertionError):
        check_against_differences(pipeline, salt(), 1.0)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("groups", PAIRS.values(), ids=PAIRS)
def test_forces_of_a_third_model_act_through_the_charges(groups: Any, hybrid: bool) -> None:
    """Damped forces of the charges stand for any energy of which these are not the least."""
    for first in (model(), model(coulomb=False)):
        pipeline = PipelineModelWrapper(groups(first, DSFModelWrapper(9.0, 0.5, hybrid_forces=hybrid)))
        check_against_differences(pipeline, salt(), -1.0)
        check_against_differences(pipeline, molecule())


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_third_model_of_charges_at_rest_has_other_forces(hybrid: bool) -> None:
    """The mutant of the one above."""
    step = PipelineStep(model(), constants={"charges"})
    pipeline = PipelineModelWrapper([PipelineGroup([step, DSFModelWrapper(9.0, 0.5, hybrid_forces=hybrid)], True)])
    for atoms in (salt(), molecule()):
        with pytest.raises(AssertionError):
            check_against_differences(pipeline, atoms)


def test_charges_that_lost_their_graph_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    detach_charges(monkeypatch)
    pipeline = PipelineModelWrapper([PipelineGroup([model(), DSFModelWrapper(9.0)], use_autograd=True)])
    with pytest.raises(TypeError, match=r"`charges` of step 1 \(Charge equilibration\) is not attached"):
        evaluate(pipeline, salt())


# ----------------------------------------------------------------------------------------------------------- refusals


def test_a_system_without_a_minimum_is_refused_by_its_place() -> None:
    soft = QEqModelWrapper(CHI, {"Na": -7.0, "Cl": -10.0, "O": -10.0}, SIGMA, 9.0)
    for wrong in (salt(), molecule()):
        with pytest.raises(ValueError, match=r"energy of system 1 of the batch has no minimum.*`hardness` above 0"):
            evaluate(soft, Atoms("Na"), wrong, wrong)
    alike = QEqModelWrapper(CHI, {"Na": 0.0, "Cl": 0.0, "O": 0.0}, SIGMA, 9.0)
    evaluate(alike, molecule())  # whose Gaussians are apart
    with pytest.raises(ValueError, match=r"system 0 of the batch has no minimum.*atoms on top of each other"):
        evaluate(alike, Atoms("Na2Cl", [(0, 0, 0), (0, 0, 1e-8), (0, 0, 2)]))


def test_one_atom_has_the_whole_charge_whatever_its_hardness() -> None:
    outputs = evaluate(QEqModelWrapper(CHI, {"Na": -20.0, "Cl": 1.0, "O": 1.0}, SIGMA, 9.0), (Atoms("Na"), 2.0))
    assert outputs["charges"].tolist() == [2.0]
    energy = 2.0 * CHI["Na"] + 2.0 * (K / math.sqrt(math.pi) - 20.0)
    assert float(outputs["energy"]) == pytest.approx(energy, rel=1e-14)
    assert not outputs["forces"].any()


@pytest.mark.parametrize("what", ["an atom", "a cell", "a cell that explodes", "a cell without volume"])
def test_a_system_without_numbers_is_for_others_to_tell_and_spoils_nobody(what: str) -> None:
    batch = batch_of(molecule(), salt(), salt(2))
    compute_neighbors(batch, 9.0)
    alone, view = model()(batch.clone()), batch.shallow_view(())
    view.positions, view.cell = batch.positions.clone(), batch.cell.clone()
    if what == "an atom":
        view.positions[6, 0] = math.nan
    else:
        view.cell[1] *= {"a cell": math.nan, "a cell that explodes": 1e7, "a cell without volume": 0.0}[what]
    outputs = model()(view)
    assert outputs["energy"].isnan().tolist() == [[False], [True], [False]]
    for rows in (slice(0, 5), slice(13, 21)):
        assert torch.equal(outputs["forces"][rows], alone["forces"][rows])
        assert torch.equal(outputs["charges"][rows], alone["charges"][rows])


def test_systems_and_elements_that_it_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameters for F \(9\); it has some for O, Na, Cl\. Add them to"):
        evaluate(model(), Atoms("NaF", [(0, 0, 0), (0, 0, 2)]))
    for pbc, count in (((True, True, False), 2), ((True, False, False), 1)):
        slab = salt()
        slab.pbc = pbc
        with pytest.raises(ValueError, match=f"System 1 of the batch is periodic in {count} of 3 directions"):
            evaluate(model(), salt(), slab)
    asked, batch = model(), batch_of(molecule())
    asked.model_config.active_outputs = EVERYTHING
    compute_neighbors(batch, 9.0)
    with pytest.raises(ValueError, match="stress output requires cell"):
        asked(batch)
    with pytest.raises(KeyError, match="no neighbour list"):
        model()(batch_of(salt()))
    with pytest.raises(TypeError, match="requires a Batch"):
        model()(AtomicData.from_atoms(salt(), dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"electronegativity": {"Na": math.nan}}, r"`electronegativity` gives 'Na' nan; it must be a finite number"),
        ({"hardness": {"Na": "hard"}}, r"`hardness` gives 'Na' 'hard'"),
        ({"width": {"Na": 0.0}}, r"`width` gives 'Na' 0\.0; it must be a positive number \(Å\)"),
        ({"hardness": {"Cl": 9.9}}, r"`electronegativity` has nothing for Cl, which others have"),
        ({"hardness": {}}, "`hardness` is {}; give a number for each element"),
        ({"electronegativity": 3.0}, r"`electronegativity` is 3\.0; give a number for each element"),
        ({"electronegativity": {"Xx": 1.0}}, "Xx"),
        ({"cutoff": 6.0}, r"`cutoff` is 6 Å; a `width` of 1 Å needs 8\.5 Å for `accuracy` 1e-06\. Enlarge"),
        ({"cutoff": -1.0}, "`cutoff` is -1.0"),
        ({"accuracy": 1e-14}, "`accuracy` is 1e-14"),
        ({"coulomb_constant": 0.0}, "`coulomb_constant`"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(changes: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"electronegativity": {"Na": 2.8}, "hardness": {"Na": 4.6}, "width": {"Na": 1.0}}
    with pytest.raises(ValueError, match=text):
        QEqModelWrapper(**(given | {"cutoff": 9.0} | changes))


@pytest.mark.parametrize("coulomb", [True, False])
def test_a_list_of_half_the_pairs_gives_the_same(coulomb: bool) -> None:
    batch = batch_of(salt(), bulk("NaCl", "rocksalt", a=5.64))
    compute_neighbors(batch, 9.0)
    whole = model(coulomb=coulomb)(batch)
    compute_neighbors(batch, 10.0, half_list=True)
    for name, value in model(coulomb=coulomb)(batch).items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-13)


def test_the_widest_gaussian_that_a_cutoff_takes_keeps_the_accuracy() -> None:
    """And one that is half as wide again does not, which the refusal is there for."""

    def error_of(factor: float) -> float:
        widths = {**SIGMA, "Na": factor / (2.0 * model().splitting.screening)}
        near, right = QEqModelWrapper(CHI, ETA, SIGMA, 9.0), QEqModelWrapper(CHI, ETA, widths, 25.0, 1e-9)
        near._tables = right._tables
        forces, exact = (evaluate(each, salt(), outputs={"forces"})["forces"] for each in (near, right))
        return float(torch.linalg.vector_norm(forces - exact) / torch.linalg.vector_norm(exact))

    assert error_of(0.999) < 1e-6
    assert error_of(1.5) > 1e-5
