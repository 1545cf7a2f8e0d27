"""CHGNetWrapper against the chgnet package: its ASE calculator in float32, its network modules in float64."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.collections import dcdft

from athanor import units
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.models.chgnet import CHGNetWrapper
from athanor.neighbors import compute_neighbors

pytestmark = pytest.mark.chgnet

# The package's own float32 noise against its float64 modules reaches 8e-6 eV/atom in this set (MgO, whose bonds end
# just below its cutoffs); ours stays below 3e-6. In zincblende BN it is 1.3e-5, so BN is in no set here.
ENERGY_PER_ATOM, FORCE, STRESS = 1e-5, 5e-4, 2e-3 * units.GPa
EXACT_ENERGY, EXACT_FORCE, EXACT_STRESS = 1e-8, 1e-8, 1e-6
PACKAGE_GPA = 160.21766208
ALL = {"energy", "forces", "stress", "magmoms"}


def rattled(atoms: ase.Atoms, amplitude: float, seed: int) -> ase.Atoms:
    """Return `atoms` with every coordinate moved by normal noise."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(0.0, amplitude, moved.positions.shape)
    return moved


def perovskite() -> ase.Atoms:
    """Return cubic SrTiO3, a = 3.905 Å."""
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return ase.Atoms("SrTiO3", scaled_positions=places, cell=[3.905] * 3, pbc=True)


def crystals() -> dict[str, ase.Atoms]:
    """Return elements and compounds like those of the demonstration job."""
    elements = {name: dcdft[name] for name in ("Si", "Al", "Fe", "Mg", "Cs", "S", "He", "Po", "O", "Ga")}
    compounds = {
        "NaCl": bulk("NaCl", "rocksalt", a=5.64),
        "MgO": bulk("MgO", "rocksalt", a=4.21),
        "GaAs": bulk("GaAs", "zincblende", a=5.65),
        "CsCl": bulk("CsCl", "cesiumchloride", a=4.12),
        "ZnO": bulk("ZnO", "wurtzite", a=3.25, c=5.2, u=0.382),
        "SrTiO3": perovskite(),
        "Si8 rattled": rattled(bulk("Si", "diamond", a=5.43, cubic=True), 0.05, 0),
        "NaCl8 rattled": rattled(bulk("NaCl", "rocksalt", a=5.64, cubic=True), 0.1, 1),
    }
    return elements | compounds


def to_batch(systems: Sequence[ase.Atoms], model: CHGNetWrapper) -> Batch:
    """Return a float64 batch with the neighbour list of the model."""
    data = [
        AtomicData(
            atomic_numbers=torch.tensor(atoms.numbers),
            positions=torch.tensor(atoms.positions),
            cell=torch.tensor(atoms.cell.array).unsqueeze(0),
            pbc=torch.tensor(atoms.pbc).unsqueeze(0),
        )
        for atoms in systems
    ]
    batch = Batch.from_data_list(data)
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    return batch


def package_model(name: str) -> Any:
    """Return the package's own model; its import and its graphs warn about things outside our reach."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chgnet.model.model import CHGNet

        model = CHGNet.load(model_name=name, use_device="cpu", verbose=False)
    model.graph_converter.set_isolated_atom_response("ignore")
    return model


@pytest.fixture(scope="module")
def package() -> Any:
    return package_model("0.3.0")


def package_results(package: Any, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """Return what the package's own ASE calculator says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chgnet.model.dynamics import CHGNetCalculator

        calculator = CHGNetCalculator(package, use_device="cpu", on_isolated_atoms="ignore")
        calculator.calculate(atoms)
    return calculator.results


def package_modules(package: Any, atoms: ase.Atoms) -> dict[str, torch.Tensor]:
    """Return what the package's modules say in float64; `package` is in float64.

    The package rounds what it makes of a structure to float32, so the graph gets its numbers again here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chgnet.model.model import BatchedGraph
        from pymatgen.io.ase import AseAtomsAdaptor

        structure = AseAtomsAdaptor.get_structure(atoms)
        graph = package.graph_converter(structure)
    graph.lattice = torch.tensor(structure.lattice.matrix, requires_grad=True)
    graph.atom_frac_coord = torch.tensor(structure.frac_coords, requires_grad=True)
    graph.neighbor_image = graph.neighbor_image.double()
    batched = BatchedGraph.from_graphs(
        [graph], package.bond_basis_expansion, package.angle_basis_expansion, compute_stress=True
    )
    found = package._compute(batched, compute_force=True, compute_stress=True, compute_magmom=True)
    references = package.composition_model.fc.weight[0][graph.atomic_number.long() - 1]
    return {
        "energy": (found["e"] * len(atoms) + references.sum()).detach(),
        "forces": found["f"][0].detach(),
        "stress": found["s"][0].detach() / PACKAGE_GPA,
        "magmoms": found["m"][0].detach(),
    }


def by_system(outputs: dict[str, Any], batch: Batch) -> list[dict[str, torch.Tensor]]:
    """Split outputs by system."""
    counts = batch.batch_ptr.diff().tolist()
    rows = {key: value.split(counts) if len(value) == sum(counts) else list(value) for key, value in outputs.items()}
    rows |= {key: list(outputs[key]) for key in ("energy", "stress") if key in outputs}
    return [{key: value[b] for key, value in rows.items()} for b in range(batch.num_graphs)]


def disagreements(model: CHGNetWrapper, package: Any, systems: dict[str, ase.Atoms]) -> list[str]:
    """Return where one batch of the wrapper differs from the package's calculator, system by system."""
    model.model_config.active_outputs = set(ALL)
    batch = to_batch(list(systems.values()), model)
    found = []
    for (name, atoms), ours in zip(systems.items(), by_system(model(batch), batch), strict=True):
        theirs = package_results(package, atoms)
        differences = {
            "energy": (abs(ours["energy"].item() - float(theirs["energy"])) / len(atoms), ENERGY_PER_ATOM),
            "forces": (np.abs(ours["forces"].numpy() - theirs["forces"]).max(), FORCE),
            "stress": (np.abs(ours["stress"].numpy() - theirs["stress"]).max(), STRESS),
            "magmoms": (np.abs(ours["magmoms"].numpy() - theirs["magmoms"]).max(), FORCE),
        }
        found += [f"{name}: {key} off by {off:.2e}" for key, (off, allowed) in differences.items() if not off < allowed]
    return found


def test_agrees_with_the_packages_calculator_in_float32(package: Any) -> None:
    assert disagreements(CHGNetWrapper.from_checkpoint("0.3.0"), package, crystals()) == []


def test_agrees_on_every_crystal_of_the_demonstration(package: Any, repository: Path) -> None:
    demo = {name: dcdft[name] for name in dcdft.names}
    for atoms in ase.io.read(repository / "examples" / "data" / "compounds.extxyz", index=":"):
        demo[atoms.info["name"]] = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    assert len(demo) == 84
    assert disagreements(CHGNetWrapper.from_checkpoint("0.3.0"), package, demo) == []


def test_boron_nitride_misses_the_bound_by_the_packages_own_rounding(package: Any) -> None:
    """Zincblende BN was taken out of the demonstration because it misses `ENERGY_PER_ATOM`; this keeps the numbers."""
    atoms = bulk("BN", "zincblende", a=3.594, cubic=True)
    model = CHGNetWrapper.from_checkpoint("0.3.0")
    ours = model(to_batch([atoms], model))["energy"].item() / len(atoms)
    theirs = float(package_results(package, atoms)["energy"]) / len(atoms)
    exact = package_modules(package_model("0.3.0").double(), atoms)["energy"].item() / len(atoms)
    assert abs(ours - exact) < 3e-6
    assert abs(theirs - exact) > ENERGY_PER_ATOM
    assert ENERGY_PER_ATOM < abs(ours - theirs) < 2e-5


class CompressiveStress(CHGNetWrapper):
    """A broken twin: the sign of the stress is turned."""

    def forward(self, data: Any, **kwargs: Any) -> Any:
        outputs = super().forward(data, **kwargs)
        outputs["stress"] = -outputs["stress"]
        return outputs


class EnergyPerAtom(CHGNetWrapper):
    """A broken twin: the energy is per atom, as the package's network gives it."""

    def forward(self, data: Any, **kwargs: Any) -> Any:
        outputs = super().forward(data, **kwargs)
        outputs["energy"] = outputs["energy"] / data.batch_ptr.diff().view(-1, 1)
        return outputs


@pytest.mark.parametrize(("twin", "word"), [(CompressiveStress, "stress"), (EnergyPerAtom, "energy")])
def test_the_comparison_sees_a_broken_twin(package: Any, twin: type[CHGNetWrapper], word: str) -> None:
    some = {name: crystals()[name] for name in ("NaCl8 rattled", "GaAs")}
    found = disagreements(twin.from_checkpoint("0.3.0"), package, some)
    assert len(found) == 2
    assert all(word in line for line in found)


def test_a_model_of_the_package_gives_the_bits_of_its_checkpoint(package: Any) -> None:
    wrapper = CHGNetWrapper(package)
    loaded = CHGNetWrapper.from_checkpoint("0.3.0")
    batch = to_batch([crystals()["Si8 rattled"]], wrapper)
    assert torch.equal(wrapper(batch)["energy"], loaded(batch)["energy"])


@pytest.mark.filterwarnings("ignore:Atoms of the system")  # caesium is isolated within the 5 Å of 0.2.0
@pytest.mark.parametrize("name", ["0.3.0", "0.2.0", "r2scan"])
def test_agrees_with_the_packages_modules_in_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_model(name).double()
    monkeypatch.setattr("chgnet.model.model.TORCH_DTYPE", torch.float64)
    model = CHGNetWrapper.from_checkpoint(name, dtype=torch.float64)
    model.model_config.active_outputs = set(ALL)
    systems = crystals()
    batch = to_batch(list(systems.values()), model)
    for (label, atoms), ours in zip(systems.items(), by_system(model(batch), batch), strict=True):
        theirs = package_modules(package, atoms)
        largest_force, largest_stress = theirs["forces"].abs().max(), theirs["stress"].abs().max()
        assert ours["energy"].item() == pytest.approx(theirs["energy"].item(), rel=EXACT_ENERGY), label
        # forces that vanish by symmetry have no scale of their own: 1e-3 eV/Å stands in, 1e-4 eV/Å³ for stress
        force_scale, stress_scale = max(largest_force, 1e-3), max(largest_stress, 1e-4)
        assert (ours["forces"] - theirs["forces"]).abs().max() < EXACT_FORCE * force_scale, label
        assert (ours["stress"] - theirs["stress"]).abs().max() < EXACT_STRESS * stress_scale, label
        assert torch.allclose(ours["magmoms"], theirs["magmoms"], atol=1e-10), label


def odd_systems() -> dict[str, ase.Atoms]:
    """Return systems that lack neighbours or angles."""
    box = {"cell": [20.0] * 3, "pbc": True}
    return {
        "lone": ase.Atoms("Ar", **box),
        "two lone": ase.Atoms("ArNe", positions=[(0, 0, 0), (10, 0, 0)], **box),
        "pair and lone": ase.Atoms("NaClAr", positions=[(0, 0, 0), (2.4, 0, 0), (10, 10, 10)], **box),
        "no angle": dcdft["Cs"],
    }


@pytest.mark.parametrize("name", ["0.3.0", "0.2.0"])
def test_systems_without_neighbours_or_angles_evaluate_as_in_the_package(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = package_model(name).double()
    monkeypatch.setattr("chgnet.model.model.TORCH_DTYPE", torch.float64)
    model = CHGNetWrapper.from_checkpoint(name, dtype=torch.float64)
    model.model_config.active_outputs = set(ALL)
    systems = {**odd_systems(), "Si8 rattled": crystals()["Si8 rattled"]}
    batch = to_batch(list(systems.values()), model)
    with pytest.warns(UserWarning, match="no neighbour within") as caught:
        outputs = model(batch)
    model(batch)
    assert len(caught) == 1
    for (label, atoms), ours in zip(systems.items(), by_system(outputs, batch), strict=True):
        theirs = package_modules(package, atoms)
        for key in ALL:
            assert torch.allclose(ours[key].view_as(theirs[key]), theirs[key], rtol=1e-9, atol=1e-10), (label, key)


@pytest.mark.parametrize("labels", [("lone", "two lone"), ("lone",), ("no angle", "lone"), ("no angle",)])
def test_a_batch_in_which_no_system_has_pairs_or_angles(labels: tuple[str, ...], package: Any) -> None:
    systems = {label: odd_systems()[label] for label in labels}
    model = CHGNetWrapper.from_checkpoint("0.3.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert disagreements(model, package, systems) == []
