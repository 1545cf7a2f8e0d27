"""AthanorCalculator: what it computes and when, whom it serves, what it refuses. Agreement is in tests/equivalence."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed, Calculator, PropertyNotImplementedError
from ase.constraints import FixAtoms, FixBondLength
from torch import nn

import athanor
from athanor import AthanorCalculator
from athanor.dynamics import in_use
from athanor.errors import (
    ArgumentError,
    AthanorWarning,
    ContractError,
    InputError,
    ModelOutputError,
    NotAvailableError,
    SimulationError,
)
from athanor.models import BaseModelMixin, LennardJonesModelWrapper, ModelCard, ModelConfig
from athanor.models.demo import build_demo_model
from athanor.neighbors import skin as skin_module
from athanor.workflows import calculator as calculator_module

ARGON = {"epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.0, "switch_width": 1.5}


class Recorder(LennardJonesModelWrapper):
    """Lennard-Jones that notes what it is asked for at each pass."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**{**ARGON, **changes})
        self.passes: list[set[str]] = []

    def forward(self, data: Any, **kwargs: Any) -> Any:
        self.passes.append(set(self.model_config.active_outputs))
        return super().forward(data)

    def told(self) -> list[set[str]]:
        """Return the passes since the last call."""
        passes, self.passes = self.passes, []
        return passes


def crystal(number: int = 0) -> ase.Atoms:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=number)
    return atoms


def with_recorder(kind: type[Calculator] = AthanorCalculator, **keywords: Any) -> tuple[ase.Atoms, Recorder]:
    atoms, model = crystal(), Recorder()
    atoms.calc = kind(model, **keywords)
    return atoms, model


# --------------------------------------------------------------------------------------------- what is computed, when

ENERGY, FORCES, STRESS = {"energy"}, {"energy", "forces"}, {"energy", "stress"}


def check_passes(kind: type[Calculator]) -> None:
    """The energy alone takes no derivative, stress comes when asked for, and a relaxation of the cell is one pass."""
    atoms, model = with_recorder(kind)
    atoms.get_potential_energy()
    assert model.told() == [ENERGY]
    atoms.get_forces()
    assert model.told() == [FORCES]
    atoms.get_forces()
    atoms.get_potential_energy(force_consistent=True)
    assert model.told() == []
    atoms.get_stress()
    assert model.told() == [STRESS]
    for _step in range(3):
        atoms.positions[0] += 0.01
        atoms.get_stress()
        atoms.get_forces()
        atoms.get_potential_energy()
        assert model.told() == [FORCES | STRESS]
    atoms.positions[0] += 0.01
    atoms.get_forces()
    assert model.told() == [FORCES | STRESS]
    atoms.positions[0] += 0.01
    atoms.get_forces()
    assert atoms.calc.get_property("stress", atoms, allow_calculation=False) is None
    assert model.told() == [FORCES]
    atoms.positions[0] += 0.01
    atoms.get_potential_energy()
    assert model.told() == [ENERGY]
    atoms.positions[0] += 0.01
    atoms.get_forces()
    assert model.told() == [FORCES]
    assert model.model_config.active_outputs == FORCES


class ComputesEverything(AthanorCalculator):
    def _fields_for(self, atoms: Any, properties: Any) -> Any:
        return frozenset({"energy", "forces", "stress"})


class RemembersNothing(AthanorCalculator):
    def _fields_for(self, atoms: Any, properties: Any) -> Any:
        self._asked_before = set()
        return super()._fields_for(atoms, properties)


def test_only_what_is_asked_for_is_computed() -> None:
    check_passes(AthanorCalculator)


@pytest.mark.parametrize("twin", [ComputesEverything, RemembersNothing])
def test_a_calculator_that_computes_too_much_is_found(twin: type[Calculator]) -> None:
    with pytest.raises(AssertionError):
        check_passes(twin)


def test_results_are_the_callers_own() -> None:
    atoms, model = with_recorder()
    first = atoms.get_forces()
    kept = first.copy()
    first += 1.0
    np.testing.assert_array_equal(atoms.get_forces(), kept)
    before = atoms.calc.results["forces"]
    atoms.positions += 0.1 * np.arange(32)[:, None]
    atoms.get_forces()
    np.testing.assert_array_equal(before, kept)
    assert len(model.told()) == 2


def test_calculate_may_be_called_as_programs_do() -> None:
    atoms, model = with_recorder()
    atoms.calc.calculate(atoms, ["energy", "forces", "stress", "dipole"])
    assert {"energy", "free_energy", "forces", "stress"} == atoms.calc.results.keys()
    moved = crystal(1)
    atoms.calc.calculate(moved, ["forces"])
    assert len(model.told()) == 2
    fresh = AthanorCalculator(Recorder())
    np.testing.assert_allclose(atoms.calc.results["forces"], fresh.get_forces(moved), atol=1e-12)
    with pytest.raises(InputError, match="no atoms"):
        fresh.__class__(Recorder()).calculate()


@contextmanager
def counted_searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    searches, search = [], skin_module.build_neighbor_list

    def counting(positions: Any, *arguments: Any) -> Any:
        searches.append(len(positions))
        return search(positions, *arguments)

    monkeypatch.setattr(skin_module, "build_neighbor_list", counting)
    yield searches


@pytest.mark.parametrize(("skin", "expected"), [(None, 1), (1.0, 1), (0.0, 10)])
def test_neighbours_are_kept_within_the_skin(skin: Any, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, _ = with_recorder(skin=skin)
    with counted_searches(monkeypatch) as searches:
        for _step in range(10):
            atoms.positions[3] += 0.01
            atoms.set_cell(atoms.cell.array * 1.0002, scale_atoms=True)
            atoms.get_forces()
    assert len(searches) == expected


def test_implemented_properties_are_those_of_the_model() -> None:
    assert set(AthanorCalculator(Recorder()).implemented_properties) == {"energy", "free_energy", "forces", "stress"}
    demo = AthanorCalculator(build_demo_model())
    assert set(demo.implemented_properties) == {"energy", "free_energy", "forces"}
    atoms = crystal()
    atoms.calc = demo
    with pytest.raises(PropertyNotImplementedError, match=r"Demo does not compute `stress`.*energy, forces.*available"):
        atoms.get_stress()
    with pytest.raises(NotAvailableError, match="`nonsense`"):
        demo.get_property("nonsense", atoms)
    assert demo.get_property("energy", atoms, allow_calculation=False) is None


@pytest.mark.parametrize(
    ("atoms", "text"),
    [(molecule("N2"), r"N2 has no `stress`: `pbc` is \[False, False, False\]"), (bulk("Ar", a=5.3), "")],
    ids=["molecule", "sheet"],
)
def test_no_stress_without_a_volume(atoms: ase.Atoms, text: str) -> None:
    if atoms.pbc.any():
        atoms.pbc[2] = False
        atoms.cell[2] = 0.0
        text = "2 of 3 vectors"
    atoms.calc = AthanorCalculator(Recorder())
    with pytest.raises(PropertyNotImplementedError, match=text):
        atoms.get_stress()
    assert np.isfinite(atoms.get_forces()).all()


# ----------------------------------------------------------------------------------------------- what the model reads


class Labelled(nn.Module, BaseModelMixin):
    """The energy is 10 charge + spin + the sum of the initial charges; each atom has its number as charge."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.model_config = ModelConfig(
            outputs={"energy", "forces", "charges", "atomic_energies", "dipole"},
            optional_inputs={"charge", "spin", "charges"},
        )

    def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def forward(self, data: Any, **kwargs: Any) -> Any:
        labels = [float(data.get(name).sum()) if data.get(name) is not None else 0.0 for name in ("charge", "spin")]
        partial = float(data.charges.sum()) if data.get("charges") is not None else 0.0
        energy = torch.full((1, 1), 10 * labels[0] + labels[1] + partial, dtype=torch.float64)
        number = torch.arange(data.num_nodes, dtype=torch.float64)
        made = {"energy": energy, "forces": torch.zeros_like(data.positions), "charges": number}
        return self.adapt_output(made | {"atomic_energies": -number, "dipole": data.positions[:1]}, data)


def check_labels(kind: type[Calculator]) -> None:
    """Charge, spin and initial charges are those of the atoms at each call."""
    atoms = ase.Atoms("N2", positions=[[0, 0, 0], [1, 2, 3]])
    atoms.calc = kind(Labelled())
    assert atoms.get_potential_energy() == 0.0
    atoms.info["charge"] = 2
    assert atoms.get_potential_energy() == 20.0
    atoms.info.update(charge=np.array([1]), spin=3)
    assert atoms.get_potential_energy() == 13.0
    del atoms.info["charge"]
    atoms.set_initial_charges([1.0, 3.0])
    assert atoms.get_potential_energy() == 47.0  # they add up to the total charge
    np.testing.assert_array_equal(atoms.get_charges(), [0.0, 1.0])
    np.testing.assert_array_equal(atoms.get_potential_energies(), [0.0, -1.0])
    np.testing.assert_array_equal(atoms.get_dipole_moment(), [0.0, 0.0, 0.0])
    assert atoms.get_potential_energy() == 47.0  # charges that were computed are no input of the next call
    atoms.positions += 1.0
    assert atoms.get_potential_energy() == 47.0


class OverlooksInfo(AthanorCalculator):
    check_state = Calculator.check_state


def test_labels_are_read_as_our_converter_does() -> None:
    check_labels(AthanorCalculator)


def test_a_calculator_that_overlooks_a_charge_is_found() -> None:
    with pytest.raises(AssertionError):
        check_labels(OverlooksInfo)


def test_labels_that_the_model_does_not_read_do_not_matter() -> None:
    atoms, model = with_recorder()
    energy = atoms.get_potential_energy()
    atoms.info.update(charge=0.5, spin=-7, note="text")
    atoms.set_initial_magnetic_moments(np.linspace(0.0, 0.7, 32))
    atoms.set_initial_charges(np.linspace(0.0, 0.3, 32))
    atoms.set_tags(range(32))
    atoms.set_momenta(np.ones((32, 3)))
    assert atoms.get_potential_energy() == energy
    assert model.told() == [ENERGY]


def test_constraints_are_the_business_of_ase() -> None:
    atoms, _ = with_recorder()
    free = atoms.get_forces()
    atoms.set_constraint([FixAtoms([0]), FixBondLength(4, 5)])
    assert not atoms.get_forces()[0].any()
    np.testing.assert_array_equal(atoms.get_forces(apply_constraint=False), free)


# ------------------------------------------------------------------------------------------- copies, threads, contexts

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda calc: pickle.loads(pickle.dumps(calc)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_have_results_and_lead_lives_of_their_own(name: str) -> None:
    atoms, model = with_recorder()
    forces = atoms.get_forces()
    calc = COPIES[name](atoms.calc)
    assert (calc.model is model) == (name == "copy")
    other = atoms.copy()
    assert other.calc is None
    other.calc = calc
    np.testing.assert_array_equal(other.get_forces(), forces)
    assert calc.model.told() == [FORCES]  # that of the original
    other.positions[0] += 0.3
    expected = AthanorCalculator(Recorder()).get_forces(other)
    np.testing.assert_allclose(other.get_forces(), expected, atol=1e-12)
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    calc.results.clear()
    np.testing.assert_array_equal(atoms.get_forces(), forces)


def test_deepcopied_atoms_have_a_calculator_that_works() -> None:
    atoms, _ = with_recorder()
    energy = atoms.get_potential_energy()
    other = copy.deepcopy(atoms)
    assert other.calc is not atoms.calc
    other.positions[0] += 0.1
    assert other.get_potential_energy() != energy


def overlap(monkeypatch: pytest.MonkeyPatch, taking_turns: Any, patience: float) -> bool:
    """Return whether a second thread is let into the model while a first one is there."""
    monkeypatch.setattr(calculator_module, "taking_turns", taking_turns)
    entered, second_entered = threading.Semaphore(0), threading.Event()

    class Slow(Recorder):
        def forward(self, data: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == "first":
                entered.release()
                self.overlapped = second_entered.wait(patience)
            else:
                second_entered.set()
            return super().forward(data)

    model, another = Slow(), Slow()

    def work() -> None:
        mine = model if threading.current_thread().name == "first" else another
        AthanorCalculator(mine).get_forces(crystal())

    first, second = (threading.Thread(target=work, name=name) for name in ("first", "second"))
    first.start()
    entered.acquire()
    second.start()
    first.join()
    second.join()
    return bool(model.overlapped)


def test_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not overlap(monkeypatch, calculator_module.taking_turns, patience=0.3)


def test_threads_that_do_not_take_turns_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert overlap(monkeypatch, nullcontext, patience=60.0)


@pytest.mark.parametrize("shared", ["calculator", "model"])
def test_threads_get_what_is_theirs(shared: str) -> None:
    model = Recorder()
    one = AthanorCalculator(model)
    expected = [AthanorCalculator(Recorder()).get_forces(crystal(number)) for number in range(12)]

    def forces(number: int) -> np.ndarray:
        atoms = crystal(number)
        atoms.calc = one if shared == "calculator" else AthanorCalculator(model)
        if number % 3 == 0:
            atoms.get_potential_energy()
        return atoms.get_forces()

    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(forces, range(12)), expected, strict=True):
            np.testing.assert_allclose(found, right, atol=1e-12)


def test_a_model_that_a_run_in_another_thread_has_is_refused() -> None:
    started, go_on = threading.Event(), threading.Event()

    class Blocking(Recorder):
        def forward(self, data: Any, **kwargs: Any) -> Any:
            started.set()
            assert go_on.wait(30.0)
            return super().forward(data)

    model = Blocking()
    thread = threading.Thread(target=lambda: athanor.evaluate(crystal(), model=model))
    thread.start()
    try:
        assert started.wait(60.0)
        with pytest.raises(SimulationError, match="in use by a run in another thread"):
            AthanorCalculator(model).get_potential_energy(crystal())
    finally:
        go_on.set()
        thread.join()


def test_a_forked_child_does_not_wait_for_a_turn_of_its_parent() -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with in_use.taking_turns():
            taken.set()
            assert done.wait(30.0)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert taken.wait(30.0)
        assert not in_use._turn.acquire(timeout=0.05)
        in_use._forget()  # what a fork does in the child
        assert np.isfinite(AthanorCalculator(Recorder()).get_potential_energy(crystal()))
    finally:
        done.set()
        thread.join()


def test_an_interrupted_calculation_leaves_nothing_behind() -> None:
    class Interrupted(Recorder):
        interrupts = True

        def forward(self, data: Any, **kwargs: Any) -> Any:
            if self.interrupts:
                data.positions.add_(1.0)  # half way through something
                raise KeyboardInterrupt
            return super().forward(data)

    atoms = crystal()
    atoms.calc = AthanorCalculator(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        atoms.get_forces()
    atoms.calc.model.interrupts = False
    np.testing.assert_array_equal(atoms.get_forces(), AthanorCalculator(Recorder()).get_forces(crystal()))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_under_no_grad_and_inference_mode(context: Any) -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.calc = AthanorCalculator(build_demo_model())
    expected = AthanorCalculator(build_demo_model()).get_forces(atoms)
    with context():
        np.testing.assert_array_equal(atoms.get_forces(), expected)
    atoms.positions[0] += 0.1
    assert np.isfinite(atoms.get_forces()).all()


def test_in_single_precision() -> None:
    atoms, _ = with_recorder(dtype=torch.float32)
    forces, expected = atoms.get_forces(), AthanorCalculator(Recorder()).get_forces(crystal())
    assert forces.dtype == np.float64
    assert 0.0 < np.abs(forces - expected).max() < 1e-5


# ------------------------------------------------------------------------------------------------ files and databases


@pytest.mark.parametrize(
    "atoms", [crystal(), ase.Atoms("Ar2", positions=[[0, 0, 0], [3.9, 0, 0]])], ids=["crystal", "pair"]
)
@pytest.mark.parametrize("name", ["a.traj", "a.extxyz", "a.json"])
def test_results_are_written_by_ase(atoms: ase.Atoms, name: str, tmp_path: Path) -> None:
    atoms = atoms.copy()
    atoms.calc = AthanorCalculator(Recorder())
    forces = atoms.get_forces()
    ase.io.write(tmp_path / name, atoms)
    found = ase.io.read(tmp_path / name)
    assert abs(found.get_potential_energy() - atoms.get_potential_energy()) < 1e-7
    np.testing.assert_allclose(found.get_forces(), forces, atol=1e-7)
    assert atoms.calc.name == "athanor"
    assert json.loads(json.dumps(atoms.calc.todict())) == {"model": "Lennard-Jones", "skin": None, "dtype": "float64"}
    assert "Lennard-Jones" in repr(atoms.calc)


# -------------------------------------------------------------------------------------------------------- by name

BY_NAME = [
    lambda: athanor.calculator("lennard-jones", **ARGON),
    lambda: athanor.calculator("LJ", skin=1.0, **ARGON),
    lambda: athanor.calculator({"name": "lennard-jones", **ARGON}),
    lambda: athanor.calculator(LennardJonesModelWrapper(**ARGON), dtype="float64", device="cpu"),
]


@pytest.mark.parametrize("make", BY_NAME)
def test_by_name_or_object(make: Callable[[], Calculator]) -> None:
    assert make().get_potential_energy(crystal()) == AthanorCalculator(Recorder()).get_potential_energy(crystal())


@pytest.mark.chgnet
def test_options_of_a_model_called_as_ours_go_into_the_mapping() -> None:
    calc = athanor.calculator({"name": "chgnet", "dtype": "float64"}, dtype="float32")
    assert calc.model.dtype == torch.float64
    assert athanor.calculator("chgnet", name="0.2.0").model.model_card.name == "CHGNet 0.2.0"


# -------------------------------------------------------------------------------------------------------- mistakes


class NotFinite(Recorder):
    def adapt_output(self, model_output: Any, data: Any) -> Any:
        outputs = super().adapt_output(model_output, data)
        if "forces" in outputs:
            outputs["forces"] = torch.full_like(outputs["forces"], torch.nan)
        return outputs


class Transposed(Recorder):
    def adapt_output(self, model_output: Any, data: Any) -> Any:
        outputs = super().adapt_output(model_output, data)
        return outputs | {"forces": outputs["forces"].T}


class KeepsApart(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.model_card = ModelCard(name="Apart", minimum_distance=1.0)


def on_top() -> ase.Atoms:
    atoms = crystal()
    atoms.positions[5] = atoms.positions[7] + 0.2
    return atoms


def not_a_number() -> ase.Atoms:
    atoms = crystal()
    atoms.positions[2, 1] = np.nan
    return atoms


def flat() -> ase.Atoms:
    atoms = crystal()
    atoms.set_cell([10.6, 10.6, 1e-3], scale_atoms=True)
    return atoms


def without_a_vector() -> ase.Atoms:
    atoms = crystal()
    atoms.cell[2] = 0.0
    return atoms


only_argon = {"epsilon": {"Ar": 0.0104}, "sigma": {"Ar": 3.4}}
NOT_USABLE = {
    "element": (lambda: Recorder(**only_argon), lambda: bulk("Xe", a=6.2), r"Xe: it holds an element.*Xe \(Z = 54\)"),
    "too close": (KeepsApart, on_top, r"Apart can not be asked.*closer than the model allows.*0.35 Å, atoms 5 and 7"),
    "NaN": (Recorder, not_a_number, r"Ar32: atom 2 \(Ar\) has positions .*nan.*must be finite"),
    "flat": (Recorder, flat, "Ar32.*flat|Ar32.*volume"),
    "no vector": (Recorder, without_a_vector, "Ar32.*cell"),
    "no atoms": (Recorder, ase.Atoms, "no atoms|without atoms|has no"),
}


@pytest.mark.parametrize("name", NOT_USABLE)
def test_a_structure_that_can_not_be_used_is_refused_and_the_next_one_is_not(name: str) -> None:
    make, structure, text = NOT_USABLE[name]
    atoms = structure()
    atoms.calc = AthanorCalculator(make())
    for _time in range(2):
        with pytest.raises(InputError, match=text):
            atoms.get_potential_energy()
    good = crystal()
    assert atoms.calc.get_potential_energy(good) == AthanorCalculator(make()).get_potential_energy(good)


ON_THE_WAY = {
    "too close": (KeepsApart, on_top, "closer than the model allows; closest pair 0.35 Å, atoms 5 and 7"),
    "NaN": (Recorder, not_a_number, "positions became NaN"),
    "flat": (Recorder, flat, "cell became NaN or infinite, collapsed"),
}


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_what_goes_wrong_on_the_way_is_a_failed_calculation(name: str) -> None:
    make, structure, text = ON_THE_WAY[name]
    atoms, bad = crystal(), structure()
    atoms.calc = AthanorCalculator(make())
    energy = atoms.get_potential_energy()
    atoms.set_cell(bad.cell)
    atoms.positions[:] = bad.positions
    with pytest.raises(CalculationFailed, match=text) as caught:
        atoms.get_forces()
    assert isinstance(caught.value, SimulationError)
    assert "Ar32" in str(caught.value)
    assert atoms.calc.results == {}
    assert atoms.calc.get_potential_energy(crystal()) == energy


def test_results_that_are_not_finite_are_refused() -> None:
    atoms = crystal()
    atoms.calc = AthanorCalculator(NotFinite())
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(CalculationFailed, match="Lennard-Jones gives nothing for Ar32: forces became NaN"):
        atoms.get_forces()


class NotFiniteCharges(Labelled):
    def forward(self, data: Any, **kwargs: Any) -> Any:
        outputs = super().forward(data)
        return outputs | {"charges": torch.full((data.num_nodes,), torch.nan)}


def test_a_result_that_is_not_finite_is_named() -> None:
    pair = ase.Atoms("N2", positions=[[0, 0, 0], [1, 2, 3]])
    with pytest.raises(CalculationFailed, match="for N2: its `charges` became NaN or infinite"):
        AthanorCalculator(NotFiniteCharges()).get_charges(pair)


def test_a_model_that_returns_another_shape_is_told() -> None:
    with pytest.raises(ModelOutputError, match=r"`forces` from Transposed has shape \(3, 32\); expected \(32, 3\)"):
        AthanorCalculator(Transposed()).get_forces(crystal())


MISTAKES = {
    "a name": (lambda: AthanorCalculator("chgnet"), ContractError, "athanor.models.get"),
    "a class": (lambda: AthanorCalculator(LennardJonesModelWrapper), ContractError, "is a class"),
    "skin": (lambda: AthanorCalculator(Recorder(), skin=-1.0), InputError, "`skin` is -1.0 Å"),
    "no skin": (lambda: AthanorCalculator(Recorder(), skin="1"), InputError, "`skin` is '1' Å"),
    "dtype": (lambda: AthanorCalculator(Recorder(), dtype="float16"), InputError, "dtype"),
    "device": (lambda: AthanorCalculator(Recorder(), device="tpu"), InputError, "device"),
    "topic": (lambda: AthanorCalculator(Recorder(), silence=["element"]), InputError, "silence"),
    "positional": (lambda: AthanorCalculator(Recorder(), 1.0), TypeError, "positional"),
    "unknown model": (lambda: athanor.calculator("chgnett"), InputError, "chgnet"),
    "no option": (lambda: athanor.calculator("lennard-jones", epsilon=1.0), ArgumentError, "sigma"),
    "wrong option": (lambda: athanor.calculator("lennard-jones", **ARGON, depth=1.0), ArgumentError, "depth"),
    "object and option": (lambda: athanor.calculator(Recorder(), cutoff=3.0), InputError, "`cutoff`: arguments of a"),
    "set": (lambda: AthanorCalculator(Recorder()).set(skin=2.0), NotAvailableError, "`skin`.*Make another one"),
    "model": (lambda: setattr(AthanorCalculator(Recorder()), "model", Recorder()), AttributeError, "model"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_where_they_are_made(name: str) -> None:
    make, error, text = MISTAKES[name]
    with pytest.raises(error, match=text):
        make()


class ForCrystals(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.model_card = ModelCard(name="Crystals", kind="materials", trained_elements=frozenset({36}))


def test_what_is_probably_not_meant_is_warned_of_once_for_the_same_atoms() -> None:
    pair = ase.Atoms("Ar2", positions=[[0, 0, 0], [3.9, 0, 0]])
    pair.calc = AthanorCalculator(ForCrystals())
    with pytest.warns(AthanorWarning) as caught:
        pair.get_forces()
    topics = [each.message.topic for each in caught if isinstance(each.message, AthanorWarning)]  # not those of ASE
    assert topics == ["non-periodic", "elements"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", AthanorWarning)
        pair.positions[1] += 0.1
        pair.get_forces()
        AthanorCalculator(ForCrystals(), silence=["non-periodic", "elements"]).get_forces(pair)
