"""UMAWrapper on small networks of fairchem's own classes with random parameters, against the calculator of the package.

`make test-model-uma` runs this, in an environment with fairchem-core; nothing else collects it.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

import athanor
from athanor._optional import OptionalDependency
from athanor.errors import ContractError, InputError
from athanor.models import UMAWrapper, hessian
from athanor.models.uma import checkpoint

from . import shared
from .shared import assert_within, calculated, keeps_the_contract, left_behind, rattled

pytestmark = [
    pytest.mark.filterwarnings("ignore:index_reduce:UserWarning"),  # of the package's networks
]

units = OptionalDependency.UMA.load("units.mlip_unit")
FAIRChemCalculator = OptionalDependency.UMA.load().FAIRChemCalculator

_MODELS = "fairchem.core.models"
_UNITS = "fairchem.core.units.mlip_unit.mlip_unit"
_NORMALIZATION = "fairchem.core.modules.normalization"
CUTOFF, ELEMENTS = 5.0, 100
TASKS = ("omol", "omat")


def configuration(**changes: Any) -> dict[str, Any]:
    """Return what a small UMA is built by: four experts, a head for each task."""
    mapping = {task: task for task in TASKS}
    backbone = {
        "model": f"{_MODELS}.uma.escn_moe.eSCNMDMoeBackbone", "max_num_elements": ELEMENTS, "sphere_channels": 16,
        "lmax": 2, "mmax": 2, "otf_graph": True, "cutoff": CUTOFF, "edge_channels": 16, "num_distance_basis": 32,
        "direct_forces": False, "regress_forces": True, "regress_stress": True, "num_layers": 2, "hidden_channels": 16,
        "chg_spin_emb_type": "rand_emb", "dataset_mapping": mapping, "num_experts": 4, "always_use_pbc": False,
        "use_composition_embedding": True, "model_version": 1.1,
    }  # fmt: skip
    head = {
        "module": f"{_MODELS}.uma.escn_moe.DatasetSpecificMoEWrapper", "dataset_mapping": mapping,
        "head_cls": f"{_MODELS}.uma.escn_md.MLP_EFS_Head", "head_kwargs": {"wrap_property": False},
    }  # fmt: skip
    return {
        "_target_": f"{_MODELS}.base.HydraModel", "backbone": backbone, "heads": {"energyandforcehead": head},
        "pass_through_head_outputs": True, "model_id": "UMA-small", "supports_single_atoms": True,
    } | changes  # fmt: skip


def direct() -> dict[str, Any]:
    """Return what a small eSEN is built by that predicts its forces."""
    found = configuration(model_id=None, pass_through_head_outputs=False)
    found["backbone"] |= {"direct_forces": True, "num_experts": 0}
    found["heads"] = {
        "omol_energy": {"module": f"{_MODELS}.uma.escn_md.Linear_Energy_Head"},
        "omol_forces": {"module": f"{_MODELS}.uma.escn_md.Linear_Force_Head"},
    }
    return found


def _task(name: str, what: str, level: str, size: int) -> dict[str, Any]:
    found = {
        "_target_": f"{_UNITS}.Task", "name": f"{name}_{what}", "level": level, "property": what, "datasets": [name],
        "out_spec": {"_target_": f"{_UNITS}.OutputSpec", "dim": [size], "dtype": "float32"},
        "normalizer": {"_target_": f"{_NORMALIZATION}.normalizer.Normalizer", "mean": 0.0, "rmsd": 1.3},
    }  # fmt: skip
    if what == "energy":
        energies = {"_target_": "torch.DoubleTensor", "_args_": [[-0.1 * number for number in range(ELEMENTS)]]}
        target = f"{_NORMALIZATION}.element_references.ElementReferences"
        found["element_references"] = {"_target_": target, "element_references": energies}
    return found


def write_checkpoint(path: Path, config: dict[str, Any] | None = None, tasks: tuple[str, ...] = TASKS) -> Path:
    """Write a checkpoint, and return its path."""
    config = configuration() if config is None else config
    hydra = OptionalDependency.UMA.load("units.mlip_unit.utils").hydra
    kind = OptionalDependency.UMA.load("units.mlip_unit.api.inference").MLIPInferenceCheckpoint
    torch.manual_seed(0)
    network = hydra.utils.instantiate(copy.deepcopy(config))
    with torch.no_grad():  # so that forces on rattled crystals are some eV/Å
        for parameter in network.output_heads.parameters():
            parameter.mul_(3.0)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    said = [_task(name, *each) for name in tasks for each in (("energy", "system", 1), ("forces", "atom", 3))]
    torch.save(kind(config, network.state_dict(), averaged.state_dict(), said), path)
    return path


EVERYTHING = {"energy", "forces", "stress"}
BOUNDS = {torch.float64: (1e-11, 1e-10), torch.float32: (1e-5, 1e-4)}
"""eV per atom, and eV/Å or eV/Å³, by which the wrapper and the calculator may differ."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("uma") / "small.pt")


def wrapper(file: Path, task: str = "omat", dtype: torch.dtype = torch.float64, **options: Any) -> UMAWrapper:
    model = UMAWrapper.from_checkpoint(file, task, dtype=dtype, trust=True, **options)
    model.model_config.active_outputs = EVERYTHING & model.model_config.outputs
    return model


def calculator(file: Path, task: str, dtype: torch.dtype = torch.float64) -> Any:
    settings = units.InferenceSettings(base_precision_dtype=dtype)
    return FAIRChemCalculator(units.load_predict_unit(file, settings, device="cpu"), task)


structures = partial(rattled, "silicon", "rock salt", "copper", "ethanol", "hydroxide", "water cation in a box")
batch_of = partial(shared.batch_of, cutoff=CUTOFF + 0.5)


def differences(model: UMAWrapper, reference: Any) -> dict[str, dict[str, float]]:
    """By how much energy per atom, forces and stress differ from those of the calculator, alone and in one batch."""
    theirs = {}
    for name, atoms in structures().items():
        if model.task_name != "omol":
            atoms.info.clear()
        theirs[name] = calculated(reference, atoms)
    return shared.differences(model, theirs, structures(), batch_of)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_it_agrees_with_the_calculator_of_the_package(file: Path, task: str, dtype: torch.dtype) -> None:
    """Alone and in a batch of crystals and molecules, of which some have a charge and a spin, which only omol reads."""
    reference = calculator(file, task, dtype)
    assert_within(differences(wrapper(file, task, dtype), reference), *BOUNDS[dtype])
    atoms = structures()["silicon"]
    atoms.calc = reference
    assert np.abs(atoms.get_forces()).max() > 0.1


class SwapsTheEnds(UMAWrapper):
    """A broken twin: pairs run from the centre to the neighbour, with the images of the other direction."""

    def _network_input(self, graph: Any) -> Any:
        data = super()._network_input(graph)
        data["edge_index"] = data["edge_index"].flip(0)
        return data


class ForgetsCharges(UMAWrapper):
    """A broken twin: every system is neutral."""

    def _label(self, graph: Any, name: str) -> torch.Tensor:
        return super()._label(graph, name) if name == "spin" else torch.zeros_like(graph.ptr[1:])


@pytest.mark.parametrize(("twin", "name"), [(SwapsTheEnds, "rock salt"), (ForgetsCharges, "hydroxide")])
def test_the_comparison_notices_broken_twins(file: Path, twin: type[UMAWrapper], name: str) -> None:
    model = twin.from_checkpoint(file, "omol", dtype=torch.float64, trust=True)
    assert differences(model, calculator(file, "omol"))[name]["forces"] > 1e-3


@pytest.mark.parametrize(("parameters", "positions"), [
    (torch.float64, torch.float64), (torch.float32, torch.float64), (torch.float32, torch.float32),
], ids=str)  # fmt: skip
def test_it_keeps_the_contract(file: Path, parameters: torch.dtype, positions: torch.dtype) -> None:
    model = wrapper(file, dtype=parameters)
    keeps_the_contract(model, "smoothness", elements=[11, 17], distance=2.8, dtype=positions)


def test_what_is_computed_by_default(file: Path) -> None:
    omat, omol = (UMAWrapper.from_checkpoint(file, task, trust=True) for task in ("omat", "omol"))
    assert omat.model_config.active_outputs == EVERYTHING
    assert omol.model_config.active_outputs == {"energy", "forces"}
    assert not any(parameter.requires_grad for parameter in omat.parameters())
    assert (omat.dtype, omat.cutoff, omat.model_card.name) == (torch.float32, 5.0, "UMA-small (omat)")
    assert omat.model_card.weights_digest.startswith("sha256:")


def test_second_derivatives(file: Path) -> None:
    model, batch = wrapper(file, "omol"), batch_of(structures()["ethanol"], structures()["rock salt"])
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-4)


def test_embeddings_are_those_of_the_package(file: Path) -> None:
    atoms, model = structures()["ethanol"], wrapper(file, "omol")
    reference = calculator(file, "omol")
    data = reference.a2g(atoms)
    data["charge"], data["spin"] = torch.tensor([0]), torch.tensor([1])
    backbone = reference.predictor.model.module.backbone.to(torch.float64)
    expected = backbone(data)["node_embedding"][:, 0].detach()
    batch = model.compute_embeddings(batch_of(atoms))
    torch.testing.assert_close(batch.node_embeddings, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(batch.graph_embeddings, expected.sum(0, keepdim=True), rtol=1e-9, atol=1e-12)


def test_forces_that_a_network_predicts(tmp_path: Path) -> None:
    """They are those of the calculator, the card says so, and no stress is offered."""
    file = write_checkpoint(tmp_path / "direct.pt", direct(), tasks=("omol",))
    model = wrapper(file, "omol")
    assert not model.model_card.conservative
    assert "stress" not in model.model_config.outputs
    assert_within(differences(model, calculator(file, "omol")), 1e-10, 1e-10)
    batch = batch_of(structures()["ethanol"])
    slope = (wrapper(file, "omol") + wrapper(file, "omol")).eval()(batch)["forces"]
    assert torch.isfinite(slope).all()


def test_atoms_alone(tmp_path: Path) -> None:
    """They have the energy of the table, also among others; without a table they are refused, as by the package."""
    file = write_checkpoint(tmp_path / "no_atoms.pt", configuration(supports_single_atoms=False))
    batch = batch_of(Atoms("He"), structures()["ethanol"], Atoms("O", info={"charge": -1}))
    with pytest.raises(InputError, match="index 0 is an atom alone"):
        wrapper(file, "omol")(batch)
    table = {"omol_elem_refs": {2: {0: -77.0}, 8: {0: -2000.0, -1: -2001.5}}}
    unit = units.load_predict_unit(file, "batch", device="cpu", atom_refs=table)
    outputs = UMAWrapper(unit, "omol")(batch)
    assert outputs["energy"][[0, 2], 0].tolist() == [-77.0, -2001.5]
    assert not outputs["forces"][[0, -1]].any()
    ethanol = UMAWrapper(unit, "omol")(batch_of(structures()["ethanol"]))
    torch.testing.assert_close(outputs["energy"][1:2], ethanol["energy"], rtol=0, atol=1e-4)
    alone = Atoms("He", calculator=FAIRChemCalculator(unit, "omol"))
    assert alone.get_potential_energy() == -77.0


def test_labels_outside_what_the_network_knows_are_refused(file: Path) -> None:
    model, atoms = wrapper(file, "omol"), structures()["ethanol"]
    for name, value in (("charge", 101), ("charge", 0.5), ("spin", 101)):
        batch = batch_of(structures()["silicon"], atoms)
        batch[name] = torch.tensor([[1.0], [value]], dtype=torch.float64)
        with pytest.raises(InputError, match=rf"`{name}` of the system of index 1 is {value}"):
            model(batch)


def test_the_predict_unit_goes_on_as_before(file: Path) -> None:
    """One that is used by its calculator too; one whose experts it merged is refused."""
    atoms, unit = structures()["silicon"], units.load_predict_unit(file, "batch", device="cpu")
    batch = batch_of(atoms)
    atoms.calc = FAIRChemCalculator(unit, "omat")
    before = atoms.get_forces()
    UMAWrapper(unit, "omat")(batch)
    atoms.calc.reset()
    np.testing.assert_allclose(atoms.get_forces(), before, rtol=0, atol=1e-4)
    merged = units.load_predict_unit(file, units.InferenceSettings(merge_mole=True), device="cpu")
    early = UMAWrapper(merged, "omat")
    early(batch)
    atoms.calc = FAIRChemCalculator(merged, "omat")
    atoms.get_potential_energy()
    with pytest.raises(InputError, match="were merged for one composition"):
        UMAWrapper(merged, "omat")
    with pytest.raises(InputError, match="were merged for one composition"):
        early(batch_of(structures()["rock salt"]))
    with pytest.raises(ContractError, match="lacks what is read of a predict unit"):
        UMAWrapper(torch.nn.Linear(1, 1), "omat")


def test_a_copy_and_another_precision_of_it(file: Path) -> None:
    """Copied as averages of parameters are; moved to another dtype with all that scales its energy."""
    model, batch = wrapper(file, "omol"), batch_of(structures()["ethanol"])
    expected = model(batch)["energy"]
    torch.testing.assert_close(copy.deepcopy(model)(batch)["energy"], expected)
    single = wrapper(file, "omol", torch.float32)(batch)["energy"]
    torch.testing.assert_close(copy.deepcopy(model).float()(batch)["energy"], single, rtol=0, atol=1e-4)


def test_parameters_are_trained_if_asked_for(file: Path) -> None:
    model = wrapper(file, train=True)
    outputs = model(batch_of(structures()["silicon"]))
    (outputs["energy"].sum() + outputs["forces"].square().sum()).backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_tasks_settings_and_names_that_there_are_not(file: Path) -> None:
    with pytest.raises(InputError, match="`task_name` is 'oc20'; this network has omat, omol"):
        UMAWrapper.from_checkpoint(file, "oc20", trust=True)
    for settings in ("nitro", "high-precision", units.InferenceSettings(merge_mole=True)):
        with pytest.raises(InputError, match="merges the experts"):
            UMAWrapper.from_checkpoint(file, "omat", inference_settings=settings, trust=True)
    with pytest.raises(InputError, match='use "default", "batch" or "traineval"'):
        UMAWrapper.from_checkpoint(file, "omat", inference_settings="turbo", trust=True)
    with pytest.raises(InputError, match=r"neither a file nor a network that fairchem can get: .*uma-s-1p2p1"):
        UMAWrapper.from_checkpoint("uma-tiny", trust=True)
    with pytest.raises(InputError, match="`trust=True`"):
        UMAWrapper.from_checkpoint("uma-s-1p2p1")


def test_a_name_that_can_not_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    published = OptionalDependency.UMA.load("calculate.pretrained_mlip")

    def closed(name: str) -> None:
        raise OSError("401 Client Error: access to this repository is restricted")

    monkeypatch.setattr(published, "resolve_checkpoint", closed)
    with pytest.raises(InputError, match=r"401 Client Error.*terms\s+have to be accepted on huggingface.co"):
        UMAWrapper.from_checkpoint("uma-s-1p2p1", trust=True)


def test_files_that_are_none(file: Path, tmp_path: Path) -> None:
    """Not trusted, damaged, of something else, and of a version that is not installed."""
    with pytest.raises(InputError, match="`trust=True`"):
        UMAWrapper.from_checkpoint(file, "omat")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        UMAWrapper.from_checkpoint(tmp_path / "damaged.pt", "omat", trust=True)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="holds a dict, no checkpoint for inference"):
        UMAWrapper.from_checkpoint(tmp_path / "other.pt", "omat", trust=True)
    new = torch.load(file, weights_only=False)
    new.model_config["backbone"]["of_next_year"] = True
    torch.save(new, tmp_path / "new.pt")
    with pytest.raises(InputError, match=r"can not be built by fairchem-core .*of_next_year.*another version"):
        UMAWrapper.from_checkpoint(tmp_path / "new.pt", "omat", trust=True)


def test_it_is_found_by_name(file: Path) -> None:
    systems = [structures()["silicon"], structures()["rock salt"]]
    model = {"name": "uma", "name_or_path": str(file), "task_name": "omat", "dtype": "float64", "trust": True}
    result = athanor.evaluate(systems, model=model)
    np.testing.assert_allclose(
        result.energies, wrapper(file)(batch_of(*systems))["energy"].flatten(), rtol=0, atol=1e-9
    )


def test_the_process_is_left_as_it_was(file: Path) -> None:
    """The package seeds all generators, sets environment variables, and handlers and filters, which must not stay."""
    program = f"models.UMAWrapper.from_checkpoint({str(file)!r}, 'omat', trust=True)"
    assert left_behind("fairchem.core", program, without="CURRRENT_DEVICE_TYPE") == "[]\n"


class SeedsTheProcess:
    """A broken twin of the loading: the package builds its predict unit unguarded."""

    def __new__(cls, file: Path) -> Any:
        return units.load_predict_unit(file, "batch", device="cpu")


def test_the_unguarded_package_changes_the_process(file: Path) -> None:
    before = torch.get_rng_state()
    with checkpoint.process_left_alone():
        SeedsTheProcess(file)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)
