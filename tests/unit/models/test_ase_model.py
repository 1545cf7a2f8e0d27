"""ASEModelWrapper: what a calculator is given, what is made of its answers, and who is set aside."""

from __future__ import annotations

import copy
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics import FIRE, NVE, ConvergenceHook, FailureCode
from athanor.errors import ContractError, InputError, ModelOutputError, NotAvailableError
from athanor.models import ASEModelWrapper
from athanor.models.derivatives import energy_and_derivatives
from athanor.testing.model_contract import check_model
from athanor.testing.systems import standard_systems


class Stub(Calculator):
    """Notes which atoms it is asked about; its results are those it is made with."""

    implemented_properties = ["energy", "free_energy", "forces", "stress", "charges", "magmoms", "energies", "dipole"]

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given, self.met = given, []

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.met.append((self.atoms, list(system_changes)))
        number = np.arange(len(self.atoms), dtype=float)
        self.results = {
            "energy": 1.0,
            "free_energy": 2.0,
            "forces": np.outer(number, [1, 2, 3]),
            "stress": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            "charges": number,
            "magmoms": -number,
            "energies": 2 * number,
            "dipole": np.array([7.0, 8.0, 9.0]),
        } | self.given


def crystals() -> list[ase.Atoms]:
    found = [bulk("Cu", cubic=True), bulk("Al") * (2, 1, 1), molecule("CO")]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    return found


def batch_of(*structures: ase.Atoms, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=dtype) for atoms in structures])


def everything(calculator: Any) -> ASEModelWrapper:
    model = ASEModelWrapper(calculator)
    model.model_config.active_outputs = set(model.model_config.outputs)
    return model


def test_results_become_fields() -> None:
    outputs = everything(Stub())(batch_of(*crystals()))
    assert outputs.keys() == {"energy", "forces", "stress", "charges", "magmoms", "atomic_energies", "dipole"}
    assert outputs["energy"].tolist() == [[2.0]] * 3  # the one whose derivative the forces are
    full = [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]
    assert outputs["stress"].tolist() == [full, full, [[0.0] * 3] * 3]
    numbers = torch.tensor([0.0, 1, 2, 3, 0, 1, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(outputs["forces"], numbers[:, None] * torch.tensor([[1.0, 2.0, 3.0]]).double())
    torch.testing.assert_close(outputs["charges"], numbers)
    torch.testing.assert_close(outputs["magmoms"], -numbers)
    torch.testing.assert_close(outputs["atomic_energies"], 2 * numbers)
    assert outputs["dipole"].tolist() == [[7.0, 8.0, 9.0]] * 3


def test_only_energy_and_forces_unless_asked() -> None:
    model = ASEModelWrapper(Stub())
    assert model(batch_of(*crystals())).keys() == {"energy", "forces"}
    assert model.make_neighbor_hooks() == []
    assert model.model_card.name == "ASE stub"
    assert model.model_card.batch_invariance == "not_verified"
    assert ASEModelWrapper(Stub(), name="Mine").model_card.name == "Mine"


def test_results_have_the_dtype_of_the_positions_and_a_structure_alone_is_taken() -> None:
    outputs = everything(Stub())(batch_of(*crystals(), dtype=torch.float32))
    assert {value.dtype for value in outputs.values()} == {torch.float32}
    alone = ASEModelWrapper(EMT())(AtomicData.from_atoms(crystals()[0], dtype=torch.float64))
    atoms = crystals()[0]
    atoms.calc = EMT()
    assert alone["energy"].item() == atoms.get_potential_energy()
    np.testing.assert_array_equal(alone["forces"].numpy(), atoms.get_forces())


def test_a_calculator_is_given_what_atoms_have() -> None:
    atoms = bulk("Fe", cubic=True)
    atoms.set_initial_magnetic_moments([2.0, -1.0])
    atoms.set_initial_charges([0.5, 0.5])
    atoms.set_tags([3, 4])
    atoms.set_masses([57.0, 58.0])
    atoms.info["spin"] = 4
    sheet = bulk("Al", cubic=True)
    sheet.pbc[2] = False
    stub = Stub()
    ASEModelWrapper(stub)(batch_of(atoms, sheet))
    (met, _), (second, changes) = stub.met
    assert met.calc is None
    np.testing.assert_array_equal(met.get_initial_magnetic_moments(), [2.0, -1.0])
    np.testing.assert_array_equal(met.get_initial_charges(), [0.5, 0.5])
    np.testing.assert_array_equal(met.get_tags(), [3, 4])
    np.testing.assert_array_equal(met.get_masses(), [57.0, 58.0])
    np.testing.assert_array_equal(met.cell, atoms.cell)
    assert (met.info["charge"], met.info["spin"]) == (1, 4)
    assert second.pbc.tolist() == [True, True, False]
    assert set(changes) == set(all_changes)  # the structure before is forgotten


class NewStyle(BaseCalculator):
    """A calculator without `reset`."""

    implemented_properties = ["energy"]

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def calculate(self, atoms: Any, properties: Any, system_changes: Any) -> None:
        self.calls += 1
        self.results = {"energy": float(self.calls)}


def test_a_calculator_forgets_the_structure_before() -> None:
    model, same = ASEModelWrapper(NewStyle()), bulk("Cu")
    assert model(batch_of(same, same))["energy"].tolist() == [[1.0], [2.0]]


def test_any_kind_of_calculator() -> None:
    mixed = SumCalculator([EMT(), LennardJones(sigma=2.0, epsilon=0.01, rc=4.0)])
    atoms = crystals()[0]
    outputs = everything(mixed)(batch_of(*crystals()[:2]))
    atoms.calc = SumCalculator([EMT(), LennardJones(sigma=2.0, epsilon=0.01, rc=4.0)])
    np.testing.assert_allclose(outputs["forces"][:4].numpy(), atoms.get_forces(), atol=1e-13)
    np.testing.assert_allclose(outputs["energy"][0].numpy(), atoms.get_potential_energy(), atol=1e-12)


def test_emt_keeps_the_contract_of_models() -> None:
    systems = {
        name: system
        for name, system in standard_systems(distance=2.7, elements=(29, 13)).items()
        if name in ("pair", "triclinic", "slab")
    }
    report = check_model(ASEModelWrapper(EMT()), systems)
    assert {row.check for row in report.failed} == {"outputs"}, report
    assert "EMT lists `magmoms` and does not compute it" in report.failures()[0]
    assert {row.check for row in report.rows if row.holds is False} == {"outputs", "smoothness"}
    copied = copy.deepcopy(ASEModelWrapper(EMT()))
    assert torch.isfinite(copied(batch_of(*crystals()))["energy"]).all()


# ------------------------------------------------------------------------------------------------- who is set aside


def without_xenon(structures: list[ase.Atoms]) -> list[ase.Atoms]:
    return [atoms for atoms in structures if "Xe" not in atoms.symbols]


@pytest.mark.parametrize("kind", ["FIRE", "NVE", "fused"])
def test_one_structure_that_raises_is_set_aside_alone(kind: str) -> None:
    structures = [crystals()[0], bulk("Xe", a=6.2, cubic=True), crystals()[1], crystals()[2]]

    def run(chosen: list[ase.Atoms]) -> tuple[Batch, Any]:
        model, batch = ASEModelWrapper(EMT()), batch_of(*chosen)
        relax = FIRE(model, dt=0.1, convergence_hook=ConvergenceHook.from_fmax(0.3), n_steps=20)
        move = NVE(model, dt=1.0, start_temperature=100.0, n_steps=5)
        engine = {"FIRE": relax, "NVE": move, "fused": relax + move}[kind]
        batch.system_id = torch.tensor([[number] for number, atoms in enumerate(structures) if atoms in chosen])
        engine.run(batch)
        return batch, engine

    batch, engine = run(structures)
    assert batch.failure_code.flatten().tolist() == [0, FailureCode.MODEL_RAISED, 0, 0]
    assert "No EMT-potential for Xe" in engine.failure_notes[1]
    others, _ = run(without_xenon(structures))
    good = batch.index_select([0, 2, 3])
    assert torch.equal(good.positions, others.positions)
    assert torch.equal(good.energy, others.energy)


def test_a_relaxation_tells_what_the_calculator_said() -> None:
    result = athanor.relax([bulk("Cu", a=3.7), bulk("Xe", a=6.2)], model=ASEModelWrapper(EMT()))
    assert result.reasons[0] == "converged"
    assert "NotImplementedError: No EMT-potential for Xe" in result.reasons[1]


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_the_energy_can_not_be_differentiated() -> None:
    model, batch = ASEModelWrapper(EMT()), batch_of(*crystals())
    with pytest.raises(NotAvailableError, match=r"of ASEModelWrapper can not be differentiated.*autograd groups"):
        energy_and_derivatives(model, batch, {"energy", "forces"})
    batch.positions.requires_grad_(True)
    with pytest.raises(NotAvailableError, match="positions without a graph"):
        model(batch)
    with torch.no_grad():
        assert model(batch)["forces"].requires_grad is False
    with pytest.raises(NotAvailableError, match="no embeddings"):
        model.compute_embeddings(batch)


class Nothing(Stub):
    implemented_properties = ["polarization"]


MISTAKES = {
    "a class": (EMT, "is the class EMT; pass an object"),
    "atoms": (bulk("Cu"), "is a Atoms; pass a calculator of ASE"),
    "a name": ("emt", "is a str; pass a calculator of ASE"),
    "nothing known": (Nothing(), "Nothing computes polarization, and none of energy, forces"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_calculator_is_refused(name: str) -> None:
    given, text = MISTAKES[name]
    with pytest.raises(ContractError, match=text):
        ASEModelWrapper(given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"forces": np.zeros((3, 4))}, r"`forces` from Stub has shape \(3, 4\) for 4 atoms; expected \(4, 3\)"),
        ({"stress": np.zeros(9)}, r"`stress` from Stub has shape \(9,\)"),
        ({"magmoms": np.zeros((4, 3))}, r"`magmoms` from Stub has shape \(4, 3\).*Leave `magmoms` out"),
        ({"free_energy": np.zeros(4)}, r"`free_energy` from Stub has shape \(4,\)"),
    ],
)
def test_an_answer_of_another_shape_is_told(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelOutputError, match=text):
        everything(Stub(**given))(batch_of(crystals()[0]))


def test_a_full_stress_and_an_energy_in_an_array_are_taken() -> None:
    full = np.arange(9.0).reshape(3, 3)
    full = full + full.T
    outputs = everything(Stub(stress=full, free_energy=np.array([3.0])))(batch_of(crystals()[0]))
    assert outputs["stress"][0].tolist() == full.tolist()
    assert outputs["energy"].tolist() == [[3.0]]


def test_stress_of_molecules_alone_is_refused() -> None:
    with pytest.raises(InputError, match="stress output requires cell"):
        everything(Stub())(batch_of(molecule("CO")))
