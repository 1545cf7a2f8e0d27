"""NequIPWrapper on networks of nequip and nequip-allegro with random parameters, against the calculator of nequip.

`make test-model-nequip` runs this, in an environment with both; nothing else collects it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import athanor
from athanor._optional import process_left_alone
from athanor.errors import AthanorError, DtypeError, InputError, NotAvailableError
from athanor.models import hessian
from athanor.models.nequip import NequIPWrapper, network
from athanor.testing import Verdict, check_model

from . import shared
from .shared import assert_within, calculated, keeps_the_contract, left_behind, rattled

with process_left_alone():
    from allegro.model import AllegroModel
    from nequip.integrations.ase import NequIPCalculator
    from nequip.integrations.utils import basic_transforms
    from nequip.model import NequIPGNNModel

TYPES, CUTOFF = ["C", "Si", "H", "O"], 4.0
EVERYTHING = {"energy", "forces", "stress", "atomic_energies"}
BOUNDS = {"float64": (1e-11, 1e-11), "float32": (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""
BY_PAIR = {"C": 3.0, "H": {"H": 2.0, "O": 2.5}}
"""Cutoffs that depend on the kinds of both atoms; the others have the common one."""


@contextlib.contextmanager
def as_the_package_wants() -> Iterator[None]:
    with network._loading():
        yield


def random_network(kind: str = "nequip", dtype: str = "float64", **changes: Any) -> torch.nn.Module:
    """Return a small network whose forces on rattled crystals are some 0.1 eV/Å."""
    options = {
        "seed": 1, "model_dtype": dtype, "r_max": CUTOFF, "type_names": TYPES, "num_layers": 2, "l_max": 1,
        "avg_num_neighbors": 12.0, "per_type_energy_scales": 3.0,
        "per_type_energy_shifts": {"C": -3.0, "Si": -2.0, "H": -1.0, "O": -4.0},
    }  # fmt: skip
    if kind == "allegro":
        embedding = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 6}
        options |= {"radial_chemical_embed": embedding, "num_scalar_features": 8, "num_tensor_features": 4}
    else:
        options |= {"num_features": 8}
    with as_the_package_wants():
        return (AllegroModel if kind == "allegro" else NequIPGNNModel)(**options | changes).eval()


def wrapper(*args: Any, **changes: Any) -> NequIPWrapper:
    model = NequIPWrapper(random_network(*args, **changes)).eval()
    model.model_config.active_outputs = set(EVERYTHING)
    return model


structures = partial(rattled, "silicon", "SiC", "ethanol", "water in a box")
batch_of = partial(shared.batch_of, cutoff=CUTOFF + 0.5)


def calculator_of(model: torch.nn.Module) -> NequIPCalculator:
    same = {name: name for name in TYPES}
    return NequIPCalculator(model, "cpu", transforms=basic_transforms(model.metadata, CUTOFF, TYPES, same))


def differences(model: NequIPWrapper, theirs: torch.nn.Module) -> dict[str, dict[str, float]]:
    """By how much energies per atom, and forces and stress, differ from those of the calculator, alone and together."""
    calculator, expected = calculator_of(theirs), {}
    for name, atoms in structures().items():
        with as_the_package_wants():
            found = calculated(calculator, atoms)
        assert np.abs(found["forces"]).max() > 0.01
        expected[name] = {**found, "atomic_energies": found["energies"]}
    return shared.differences(model, expected, structures(), batch_of)


@pytest.mark.parametrize("by_pair", [None, BY_PAIR], ids=["one cutoff", "cutoffs by pair"])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", ["nequip", "allegro"])
def test_it_agrees_with_the_calculator_of_the_package(kind: str, dtype: str, by_pair: Any) -> None:
    """Alone and in a batch of crystals and molecules."""
    theirs = random_network(kind, dtype, per_edge_type_cutoff=by_pair)
    assert_within(differences(wrapper(kind, dtype, per_edge_type_cutoff=by_pair), theirs), *BOUNDS[dtype])


class SeesPairsOfItsNeighbour(NequIPWrapper):
    """A broken twin: images are one cell off."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        graph.vectors = graph.vectors - 2.0 * graph.shifts
        return super().network_outputs(graph, wanted)


class ForgetsCutoffsByPair(NequIPWrapper):
    """A broken twin: it sees all pairs within the largest cutoff, and scales their lengths by it."""

    def _pairs(self, graph: Any) -> Any:
        return slice(None)


def test_the_comparison_notices_broken_twins() -> None:
    twin = SeesPairsOfItsNeighbour(random_network()).eval()
    twin.model_config.active_outputs = set(EVERYTHING)
    assert differences(twin, random_network())["SiC"]["energy"] > 1e-3
    batch = batch_of(structures()["ethanol"])
    graph = wrapper(per_edge_type_cutoff=BY_PAIR).network_graph(batch)
    pairs = [kind(random_network(per_edge_type_cutoff=BY_PAIR))._pairs(graph) for kind in
             (NequIPWrapper, ForgetsCutoffsByPair)]  # fmt: skip
    assert len(graph.vectors[pairs[0]]) < len(graph.vectors[pairs[1]])


@pytest.mark.parametrize(("kind", "dtype"), [("nequip", "float64"), ("allegro", "float64"), ("nequip", "float32")])
def test_it_keeps_the_contract(kind: str, dtype: str) -> None:
    keeps_the_contract(
        NequIPWrapper(random_network(kind, dtype)), "rotation", "extensivity", "smoothness", elements=[6, 14]
    )


def test_only_what_is_known_is_taken() -> None:
    with pytest.raises(InputError, match=r"no parameters for Au .*index 1.*has some for H, C, O, Si"):
        wrapper()(batch_of(bulk("Si"), bulk("Au")))


def test_another_precision_is_refused() -> None:
    model = wrapper()
    with pytest.raises(DtypeError, match="NequIPWrapper computes in float64, as its network was made"):
        model.to(torch.float32)
    assert model.to("cpu").model_card.dtype is torch.float64


def test_types_that_are_no_elements() -> None:
    named = random_network(type_names=["Cbulk", "Sibulk"], per_type_energy_shifts={"Cbulk": -3.0, "Sibulk": -2.0})
    crystal = bulk("SiC", "zincblende", a=4.36, cubic=True)
    crystal.numbers[0] = 6
    batch = batch_of(crystal)
    model = NequIPWrapper(named, types={"Si": "Sibulk", "C": "Cbulk"}).eval()
    with pytest.raises(InputError, match=r"Cbulk, Sibulk is no symbol .* `types=\{'C': 'Cbulk'\}`"):
        NequIPWrapper(named)
    with pytest.raises(InputError, match="`types` names Csurface; this network knows Cbulk, Sibulk"):
        NequIPWrapper(named, types={"C": "Csurface"})
    swapped = NequIPWrapper(named, types={"C": "Sibulk", "Si": "Cbulk"}).eval()
    assert abs(float(model(batch)["energy"] - swapped(batch)["energy"])) > 1e-3
    with pytest.raises(AthanorError, match="lacks what is read of a network of the NequIP framework"):
        NequIPWrapper(torch.nn.Linear(3, 3))


@pytest.mark.parametrize(("kind", "width"), [("nequip", 8), ("allegro", 24)])
def test_embeddings_and_second_derivatives(kind: str, width: int) -> None:
    model, batch = wrapper(kind), batch_of(*structures().values())
    assert model.compute_embeddings(batch).node_embeddings.shape == (batch.num_nodes, width)
    alone = batch_of(structures()["ethanol"])
    (exact,), (by_differences,) = hessian(model, alone, step=None), hessian(model, alone, step=1e-4)
    torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-5)


def test_parameters_are_trained_by_forces() -> None:
    model = wrapper().train()
    model(batch_of(structures()["ethanol"]))["forces"].square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def run(folder: Path, script: str, *arguments: str) -> None:
    """Run a script of the package, as from its command line."""
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", f"nequip.scripts.{script}", *arguments], cwd=folder, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of a training of one epoch, and its package."""
    folder, generator = tmp_path_factory.mktemp("nequip"), np.random.default_rng(0)
    frames = [bulk("SiC", "zincblende", a=4.36) for _ in range(4)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=generator.normal(), forces=generator.normal(size=(2, 3)))
    write(folder / "frames.extxyz", frames)
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    types = {name: name for name in TYPES}
    mapper = {"_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper", "model_type_names": TYPES}
    checkpoints = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": ".", "filename": "best"}
    config = {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule", "seed": 1,
            "split_dataset": {"file_path": "frames.extxyz", "train": 2, "val": 2},
            "transforms": [
                {**mapper, "chemical_species_to_atom_type_map": types},
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": CUTOFF},
            ],
            "train_dataloader": loader, "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer", "max_epochs": 1, "accelerator": "cpu", "logger": False,
            "enable_progress_bar": False, "callbacks": [checkpoints],
        },
        "training_module": {
            "_target_": "nequip.train.NequIPLightningModule",
            "loss": {"_target_": "nequip.train.EnergyForceLoss", "coeffs": {"total_energy": 1.0, "forces": 1.0}},
            "val_metrics": {
                "_target_": "nequip.train.EnergyForceMetrics", "coeffs": {"total_energy_mae": 1.0, "forces_mae": None}
            },
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001},
            "model": {
                "_target_": "nequip.model.NequIPGNNModel", "seed": 1, "model_dtype": "float32", "type_names": TYPES,
                "r_max": CUTOFF, "num_layers": 2, "l_max": 1, "num_features": 8, "avg_num_neighbors": 12.0,
                "per_type_energy_scales": 3.0,
            },
        },
        "global_options": {"allow_tf32": False},
    }  # fmt: skip
    (folder / "training.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run(folder, "train", "-cp", str(folder), "-cn", "training", "hydra.run.dir=.")
    run(folder, "package", "build", "best.ckpt", "small.nequip.zip")
    return folder


def test_packages_and_checkpoints_are_read(folder: Path) -> None:
    from nequip.model.saved_models import load_saved_model

    batch, found = batch_of(*structures().values()), {}
    for name in ("small.nequip.zip", "best.ckpt"):
        with pytest.raises(InputError, match="pass `trust=True`"):
            NequIPWrapper.from_checkpoint(folder / name)
        model = NequIPWrapper.from_checkpoint(folder / name, trust=True)
        model.model_config.active_outputs = set(EVERYTHING)
        assert model.model_card.weights_digest.startswith("sha256:")
        found[name] = model(batch)["forces"]
        with as_the_package_wants():
            theirs = load_saved_model(str(folder / name)).eval()
        assert_within(differences(model, theirs), *BOUNDS["float32"])
    torch.testing.assert_close(*found.values())
    NequIPWrapper(random_network()).export_model(folder / "module.pt")
    with pytest.raises(NotAvailableError, match="Copy the file that it came from"):
        NequIPWrapper.from_checkpoint(folder / "small.nequip.zip", trust=True).export_model(folder / "again.pt")
    with pytest.raises(InputError, match=r"`model_name` is 'other'; .* has sole_model"):
        NequIPWrapper.from_checkpoint(folder / "best.ckpt", model_name="other", trust=True)
    job = {"name": "nequip", "checkpoint_path": str(folder / "small.nequip.zip"), "trust": True}
    result = athanor.evaluate(list(structures().values()), model=job)
    np.testing.assert_allclose(result.energies, model(batch)["energy"].flatten(), rtol=0, atol=1e-4)


def check_compiled(model: NequIPWrapper, folder: Path) -> None:
    """Compare a network that differentiates itself with the one it was made of, in a batch and one by one."""
    reference = NequIPWrapper.from_checkpoint(folder / "small.nequip.zip", trust=True)
    for each in (model, reference):
        each.model_config.active_outputs = set(EVERYTHING)
    systems = structures()
    for chosen in (list(systems.values()), [systems["silicon"]], [systems["ethanol"]]):
        expected = reference(batch_of(*chosen))
        for key, value in model(batch_of(*chosen)).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=key)
    with pytest.raises(NotAvailableError, match="no second derivatives"):
        hessian(model, batch_of(systems["ethanol"]), step=None)
    report = check_model(model, elements=[6, 14], checks=["forces", "stress", "autograd group"]).raise_if_failed()
    assert report.verdict("stress") is Verdict.PASSED


def test_a_model_compiled_for_batches(folder: Path) -> None:
    target = ("--mode", "aotinductor", "--device", "cpu", "--target", "batch")
    run(folder, "compile", "small.nequip.zip", "batch.nequip.pt2", *target)
    check_compiled(NequIPWrapper.from_checkpoint(folder / "batch.nequip.pt2", trust=True), folder)


def test_a_network_compiled_when_it_is_called(folder: Path) -> None:
    check_compiled(NequIPWrapper.from_checkpoint(folder / "small.nequip.zip", compile_model=True, trust=True), folder)


def test_a_model_compiled_for_one_system() -> None:
    inputs = ["pos", "edge_index", "atom_types", "cell", "edge_cell_shift"]
    theirs = random_network()
    model = NequIPWrapper(network.CompiledNetwork(theirs, theirs.metadata, inputs)).eval()
    batch = batch_of(structures()["SiC"])
    torch.testing.assert_close(model(batch)["forces"], wrapper()(batch)["forces"])
    with pytest.raises(InputError, match=r"one system at a time, and the batch has 4.*--target batch"):
        model(batch_of(*structures().values()))


class Wells(torch.nn.Module):
    """A program: each atom in a well around the origin."""

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        energies = data["pos"].square().sum(1, keepdim=True)
        systems = torch.zeros(len(data["num_atoms"]), 1, dtype=energies.dtype)
        return {
            "atomic_energy": energies, "total_energy": systems.index_add(0, data["batch"], energies),
            "forces": -2.0 * data["pos"], "stress": torch.zeros_like(data["cell"]),
        }  # fmt: skip


def test_a_program_of_an_older_torch(tmp_path: Path) -> None:
    metadata = {"r_max": "4.0", "type_names": "C Si H O", "allow_tf32": "0"}
    file, batch = tmp_path / "wells.nequip.pth", batch_of(*structures().values())
    torch.jit.save(torch.jit.script(Wells().eval()), str(file), _extra_files=metadata)
    with pytest.raises(InputError, match="pass `trust=True`"):
        NequIPWrapper.from_checkpoint(file)
    outputs = NequIPWrapper.from_checkpoint(file, trust=True)(batch)
    torch.testing.assert_close(outputs["forces"], -2.0 * batch.positions)
    torch.testing.assert_close(outputs["energy"].sum(), batch.positions.square().sum())


def test_files_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "small.nequip.zip").read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    contents = {
        "damaged.nequip.zip": bytes(damaged), "cut.nequip.zip": whole[: len(whole) // 2], "text.ckpt": b"no archive",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    newer = torch.load(folder / "best.ckpt", weights_only=False)
    newer["hyper_parameters"]["info_dict"]["training_module"]["_target_"] = "nequip.train.OfTheFuture"
    torch.save(newer, tmp_path / "newer.ckpt")
    for name, message in (
        ("damaged.nequip.zip", "is damaged"),
        ("cut.nequip.zip", "is damaged or no file of a network"),
        ("text.ckpt", "is damaged or no file of a network"),
        ("other.ckpt", "can not be loaded .*KeyError"),
        ("newer.ckpt", "OfTheFuture"),
        ("absent.ckpt", "is no file"),
        ("frames.extxyz", "ends in none of"),
    ):
        file = folder / name if name == "frames.extxyz" else tmp_path / name
        with pytest.raises(InputError, match=message):
            NequIPWrapper.from_checkpoint(file, trust=True)


def test_the_process_is_left_as_it_was(folder: Path) -> None:
    program = f"models.NequIPWrapper.from_checkpoint({str(folder / 'small.nequip.zip')!r}, trust=True)"
    assert left_behind("nequip", program) == "[]\n"
