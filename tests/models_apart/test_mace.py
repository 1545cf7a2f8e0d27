"""MACEWrapper on networks of mace-torch's own class with random parameters, against the calculator of that package.

`make test-model-mace` runs this, in an environment with mace-torch; nothing else collects it.
"""

from __future__ import annotations

import contextlib
import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import molecule

import athanor
from athanor.errors import InputError, NotAvailableError
from athanor.models import MACEWrapper, hessian
from athanor.models.mace import contractions, network
from athanor.models.mace import wrapper as mace_wrapper
from athanor.testing import Verdict, check_model

from . import shared
from .shared import left_behind, rattled

modules = network._package("modules")
from e3nn import o3  # noqa: E402  (mace-torch is imported first, as e3nn reads a file of its own)
from mace.calculators import MACECalculator  # noqa: E402

NUMBERS, CUTOFF = [1, 6, 8, 11, 14, 17], 4.0
EVERYTHING = {"energy", "forces", "stress"}
BOUNDS = {torch.float64: (1e-11, 1e-10), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


OPTIONS = {
    "r_max": CUTOFF, "num_bessel": 6, "num_polynomial_cutoff": 5, "max_ell": 2, "num_interactions": 2,
    "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
    "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
    "num_elements": len(NUMBERS), "hidden_irreps": o3.Irreps("8x0e+8x1o"), "MLP_irreps": o3.Irreps("8x0e"),
    "atomic_energies": np.array([-1.0, -3.0, -4.0, -0.5, -2.0, -0.7]), "avg_num_neighbors": 12.0,
    "atomic_numbers": NUMBERS, "correlation": 3, "gate": torch.nn.functional.silu, "atomic_inter_scale": 1000.0,
    "atomic_inter_shift": 0.1,
}  # fmt: skip


def random_network(dtype: torch.dtype = torch.float64, **changes: Any) -> torch.nn.Module:
    """Return a small network whose forces on rattled crystals are some eV/Å."""
    torch.manual_seed(0)
    with default_dtype(dtype):
        return modules.ScaleShiftMACE(**OPTIONS | changes).eval()


def wrapper(dtype: torch.dtype = torch.float64, active: set[str] = EVERYTHING, **changes: Any) -> MACEWrapper:
    model = MACEWrapper(random_network(dtype, **changes)).eval()
    model.model_config.active_outputs = set(active)
    return model


structures = partial(rattled, "silicon", "rock salt", "ethanol", "water in a box")
batch_of = partial(shared.batch_of, cutoff=CUTOFF + 0.5)


def differences(model: MACEWrapper, dtype: torch.dtype, **changes: Any) -> dict[str, tuple[float, float, float]]:
    """By how much energy per atom, forces and stress differ from those of the calculator, alone and in one batch."""
    calculator = MACECalculator(models=[random_network(dtype, **changes)], device="cpu", default_dtype=str(dtype)[6:])
    systems, found = structures(), {}
    together = model(batch_of(*systems.values()))
    starts = np.cumsum([0, *map(len, systems.values())])
    for place, (name, atoms) in enumerate(systems.items()):
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        assert np.abs(forces).max() > 0.1
        alone = model(batch_of(atoms))
        stress = np.zeros((3, 3))
        if atoms.cell.rank == 3:  # where nothing is periodic, the calculator divides by the volume of a box of its own
            stress = atoms.get_stress(voigt=False) if atoms.pbc.all() else np.asarray(alone["stress"][0])
        rows = slice(starts[place], starts[place + 1])
        pairs = [
            (alone["energy"][0, 0], energy, len(atoms)), (together["energy"][place, 0], energy, len(atoms)),
            (alone["forces"], forces, 1), (together["forces"][rows], forces, 1),
            (alone["stress"][0], stress, 1), (together["stress"][place], stress, 1),
        ]  # fmt: skip
        errors = [float(np.abs(np.asarray(ours) - theirs).max()) / share for ours, theirs, share in pairs]
        found[name] = (max(errors[:2]), max(errors[2:4]), max(errors[4:]))
    return found


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_it_agrees_with_the_calculator_of_the_package(dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals and molecules."""
    found = differences(wrapper(dtype), dtype)
    print(found)
    for energy, forces, stress in found.values():
        assert energy < BOUNDS[dtype][0]
        assert max(forces, stress) < BOUNDS[dtype][1]


class SeesPairsOfItsNeighbour(MACEWrapper):
    """A broken twin: images are one cell off."""

    def _inputs(self, graph: Any, **options: Any) -> dict[str, Any]:
        inputs = super()._inputs(graph, **options)
        return {**inputs, "unit_shifts": -inputs["unit_shifts"], "shifts": -inputs["shifts"]}


def test_the_comparison_notices_a_broken_twin() -> None:
    twin = SeesPairsOfItsNeighbour(random_network()).eval()
    twin.model_config.active_outputs = set(EVERYTHING)
    assert differences(twin, torch.float64)["silicon"][1] > 1e-3


MUST_PASS = {"forces", "stress", "rotation", "extensivity", "companions", "autograd group", "smoothness"}


@pytest.mark.parametrize(("dtype", "checks"), [(torch.float64, None), (torch.float32, MUST_PASS | {"precision"})])
def test_it_keeps_the_contract(dtype: torch.dtype, checks: set[str] | None) -> None:
    scale = {"atomic_inter_scale": 100.0, "atomic_energies": np.zeros(len(NUMBERS))}  # rounding of E is no wrong force
    report = check_model(MACEWrapper(random_network(dtype, **scale)), elements=[11, 17], distance=2.8, checks=checks)
    print(report.raise_if_failed())
    for check in MUST_PASS:
        assert report.verdict(check) is Verdict.PASSED, check


def test_zbl_beside_the_network() -> None:
    """What mace-torch adds of its own is part of energy and forces."""
    found = differences(wrapper(pair_repulsion=True), torch.float64, pair_repulsion=True)
    assert max(max(errors) for errors in found.values()) < BOUNDS[torch.float64][0]


# --------------------------------------------------------------------------------------------- sums before products

NETWORKS = {
    "small": {},
    "scalars": {"hidden_irreps": o3.Irreps("8x0e"), "max_ell": 3},
    "wide": {"hidden_irreps": o3.Irreps("4x0e+4x1o+4x2e"), "correlation": 2},
    "density": {
        "interaction_cls": modules.interaction_classes["RealAgnosticDensityResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticDensityInteractionBlock"],
        "distance_transform": "Agnesi",
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_those_of_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is replaced, energy and derivatives stay; a batch in pieces is the batch."""
    model, batch = wrapper(**NETWORKS[name]), batch_of(*structures().values())
    fast = contractions.with_sums_first(model.model)
    assert fast is not None
    assert all(isinstance(block.conv_tp, contractions.SummedConvolution) for block in fast.interactions)
    assert all(isinstance(block.symmetric_contractions, contractions.MonomialContraction) for block in fast.products)
    monkeypatch.setattr(mace_wrapper, "PAIRS_AT_A_TIME", 1)
    found = model(batch)
    monkeypatch.setattr(MACEWrapper, "_faster", lambda self: None)
    for key, value in model(batch).items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-10, msg=key)


class DoesNotTurn(MACEWrapper):
    """A broken twin: pairs are not turned, so that the wrong atom of each adds up."""

    def _faster(self) -> Any:
        fast = super()._faster()
        assert fast is not None
        step = fast.interactions[1].conv_tp
        monkey = type(step).forward
        fast.interactions[1].conv_tp.forward = lambda x, y, w, edges: monkey(step, x, y, w, edges.flip(1))
        return fast


class ForgetsRepeats(contractions.MonomialContraction):
    """A broken twin: x y and y x count once."""

    def __init__(self, contraction: Any, o3: Any) -> None:
        super().__init__(contraction, o3)
        self.matrix_2 = (self.matrix_2 != 0).to(self.matrix_2) * self.matrix_2.abs().max()


def test_a_wrong_step_is_noticed() -> None:
    """By the comparison with the calculator; one that is wrong already for random numbers is not taken at all."""
    twin = DoesNotTurn(random_network()).eval()
    twin.model_config.active_outputs = set(EVERYTHING)
    assert differences(twin, torch.float64)["rock salt"][0] > 1e-6
    step = random_network().products[0].symmetric_contractions
    assert contractions._or_none(contractions.MonomialContraction, step, o3) is not None
    assert contractions._or_none(ForgetsRepeats, step, o3) is None


def test_parameters_are_shared_with_the_network() -> None:
    """One that is fitted, moved in place, or belongs to a copy of the model, counts at once."""
    model, batch = wrapper(), batch_of(*structures().values())
    before = model(batch)["energy"]
    again = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    changed = model(batch)["energy"]
    assert float((changed - before).abs().max()) > 1e-3
    torch.testing.assert_close(again(batch)["energy"], before)
    other = wrapper()
    other.model.load_state_dict(model.model.state_dict())
    torch.testing.assert_close(other(batch)["energy"], changed)
    model.train()
    model(batch)["forces"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.products[0].parameters() if parameter.numel())


# ------------------------------------------------------------------------------- what networks read and give besides


def test_charge_and_spin_of_a_system_are_read() -> None:
    categorical = {"type": "categorical", "per": "graph", "emb_dim": 4, "num_classes": 11, "offset": 5}
    specs = {"total_charge": categorical, "total_spin": {**categorical, "offset": 0}}
    options = {"embedding_specs": specs, "use_embedding_readout": True}
    model, calculator = wrapper(**options), MACECalculator(models=[random_network(**options)], default_dtype="float64")
    assert model.model_config.optional_inputs == {"charge", "spin"}
    systems = [molecule("H2O"), molecule("OH"), molecule("CH3")]
    for atoms, (charge, spin) in zip(systems, [(0, 1), (-1, 1), (1, 3)], strict=True):
        atoms.info.update(charge=charge, spin=spin)
    found = model(batch_of(*systems))["energy"].view(-1)
    for ours, atoms in zip(found, systems, strict=True):
        calculator.calculate(atoms)
        assert abs(float(ours) - calculator.results["energy"]) < 1e-10
    systems[0].info.clear()  # neutral, a singlet
    torch.testing.assert_close(model(batch_of(systems[0]))["energy"].view(-1), found[:1])
    systems[1].info["charge"] = 0
    assert abs(float(model(batch_of(systems[1]))["energy"] - found[1])) > 1e-6
    temperature = {"temperature": {"type": "continuous", "per": "graph", "emb_dim": 4, "in_dim": 1}}
    with pytest.raises(KeyError, match="`temperature` is missing"):
        wrapper(embedding_specs=temperature)(batch_of(systems[0]))


def test_a_head_for_each_system() -> None:
    options = {"heads": ["pbe", "r2scan"], "atomic_energies": np.array([[-1.0] * len(NUMBERS), [-2.0] * len(NUMBERS)])}
    options |= {"atomic_inter_scale": [0.0, 0.0], "atomic_inter_shift": [0.0, 0.0]}
    model, batch = MACEWrapper(random_network(**options), head="pbe").eval(), batch_of(*structures().values())
    batch.add_key("head", torch.tensor([0, 1, 1, 0]), level="system")
    each = torch.tensor([-1.0, -2.0, -2.0, -1.0]).double()
    torch.testing.assert_close(model(batch)["energy"].view(-1), each * batch.num_nodes_per_graph)
    batch.head = torch.tensor([0, 1, 2, 0])
    with pytest.raises(InputError, match=r"one integer for each system, of 0 \(pbe\), 1 \(r2scan\)"):
        model(batch)


DIPOLES = {
    "AtomicDipolesMACE": ("DipoleMACE", {"atomic_energies": None}, {"dipole"}),
    "EnergyDipolesMACE": ("EnergyDipoleMACE", {}, {"energy", "forces", "stress", "dipole"}),
    "AtomicDielectricMACE": ("DipolePolarizabilityMACE", {"atomic_energies": None}, {"dipole", "charges"}),
}


@pytest.mark.parametrize("name", DIPOLES)
def test_networks_of_dipoles(name: str) -> None:
    kind, changes, outputs = DIPOLES[name]
    options = {**OPTIONS, **changes}
    for unused in ("atomic_inter_scale", "atomic_inter_shift"):
        del options[unused]

    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        with default_dtype(torch.float64):
            return getattr(modules, name)(**options).eval()

    model, calculator = MACEWrapper(make()).eval(), MACECalculator(models=[make()], model_type=kind)
    assert model.model_config.outputs >= outputs
    systems = [molecule("CH3CH2OH"), molecule("H2O")]
    model.model_config.active_outputs = set(model.model_config.outputs)
    found = model(batch_of(*systems))
    for place, atoms in enumerate(systems):
        calculator.calculate(atoms)
        unit = network.DEBYE if name != "AtomicDielectricMACE" else 1.0
        np.testing.assert_allclose(found["dipole"][place].detach(), calculator.results["dipole"] * unit, atol=1e-10)
        for key in outputs & {"energy"}:
            assert abs(float(found[key][place]) - calculator.results[key]) < 1e-10
        for key in outputs & {"forces", "charges"}:
            rows = slice(0, len(atoms)) if place == 0 else slice(len(systems[0]), None)
            np.testing.assert_allclose(found[key][rows], calculator.results[key], atol=1e-10)
    if "polarizability" in found:
        np.testing.assert_allclose(found["polarizability"][1], calculator.results["polarizability"], atol=1e-10)


def test_second_derivatives() -> None:
    model, batch = wrapper(), batch_of(*structures().values())
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-4)


def test_several_heads() -> None:
    energies = np.array([[-1.0] * len(NUMBERS), [-2.0] * len(NUMBERS)])
    options = {"heads": ["pbe", "r2scan"], "atomic_energies": energies, "atomic_inter_scale": [0.0, 0.0]}
    options["atomic_inter_shift"] = [0.0, 0.0]
    batch = batch_of(*structures().values())
    for head, each in (("pbe", -1.0), ("r2scan", -2.0)):
        found = MACEWrapper(random_network(**options), head=head).eval()(batch)["energy"]
        torch.testing.assert_close(found, each * batch.num_nodes_per_graph.view(-1, 1).double())
    with pytest.raises(InputError, match="this network has pbe, r2scan"):
        MACEWrapper(random_network(**options))


def test_files_of_the_package_are_read_and_written(tmp_path: Path) -> None:
    file, batch = tmp_path / "random.model", batch_of(*structures().values())
    torch.save(random_network(), file)
    with pytest.raises(InputError, match="pass `trust=True`"):
        MACEWrapper.from_checkpoint(file)
    model = MACEWrapper.from_checkpoint(file, trust=True)
    assert torch.equal(model(batch)["forces"], wrapper()(batch)["forces"])
    single = MACEWrapper.from_checkpoint(file, dtype=torch.float32, atomic_energies={"Si": 5.0}, trust=True)
    difference = single(batch)["energy"] - model(batch)["energy"]
    torch.testing.assert_close(difference.flatten(), torch.tensor([56.0, 0, 0, 0]).double(), rtol=0, atol=1e-3)
    model.export_model(tmp_path / "again.model")
    found = torch.load(tmp_path / "again.model", weights_only=False)
    assert type(found) is type(random_network())
    result = athanor.evaluate(
        list(structures().values()), model={"name": "mace", "checkpoint_path": str(file), "trust": True}
    )
    np.testing.assert_allclose(result.energies, model(batch)["energy"].flatten(), rtol=0, atol=1e-9)
    with pytest.raises(InputError, match=r"`tiny` is neither a file nor a network .*medium-mpa-0.*off-large"):
        MACEWrapper.from_checkpoint("tiny", trust=True)


def test_a_compiled_network_gives_the_same(tmp_path: Path) -> None:
    file, batch = tmp_path / "random.model", batch_of(*structures().values())
    small = {"max_ell": 1, "correlation": 2, "hidden_irreps": o3.Irreps("4x0e")}
    torch.save(random_network(**small), file)
    model = MACEWrapper.from_checkpoint(file, compile_model=True, trust=True, backend="aot_eager")
    model.model_config.active_outputs = set(EVERYTHING)
    expected = wrapper(**small)(batch)
    for key, value in model(batch).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9, msg=key)
    with pytest.raises(NotAvailableError, match="no second derivatives"):
        hessian(model, batch, step=None)


def test_the_process_is_left_as_it_was(tmp_path: Path) -> None:
    """Neither unsafe loading, nor another default dtype, nor what the package prints, is left behind."""
    torch.save(random_network(), file := tmp_path / "random.model")
    program = f"models.MACEWrapper.from_checkpoint({str(file)!r}, trust=True)"
    assert left_behind("mace", program, without="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") == "[]\n"
