"""MACEWrapper on a small network of our own that has what is read of a MACE network, and nothing else."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import athanor.models
from athanor._optional import OptionalDependency
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError, NotAvailableError, OptionalDependencyError
from athanor.models import MACEWrapper, hessian
from athanor.models._utils import autograd_forces_and_stresses, prepare_strain
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing import Verdict, check_model
from athanor.testing.systems import standard_systems, structure

NUMBERS = [1, 8, 11, 17]
CUTOFF, WIDTH = 5.0, 6
EVERYTHING = {"energy", "forces", "stress", "atomic_energies", "node_embeddings", "graph_embeddings"}


class IsolatedAtoms(nn.Module):
    """Energies of atoms alone."""

    def __init__(self, energies: list[float]) -> None:
        super().__init__()
        self.register_buffer("atomic_energies", torch.tensor([energies], dtype=torch.float64))


class SmallNetwork(nn.Module):
    """One layer of messages over what is inside the cutoff; it differentiates its energy itself when told to."""

    def __init__(self, numbers: list[int] = NUMBERS, heads: list[str] | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("atomic_numbers", torch.tensor(numbers))
        self.register_buffer("r_max", torch.tensor(CUTOFF))
        self.atomic_energies_fn = IsolatedAtoms([-0.1 * number for number in numbers])
        self.embedding, self.messages, self.readout = (
            nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))
            for shape in ((len(numbers), WIDTH), (8, WIDTH), (2 * WIDTH,))
        )
        self.products = [SimpleNamespace(linear=SimpleNamespace(irreps_out=SimpleNamespace(dim=WIDTH)))]
        if heads is not None:
            self.heads = heads
        self.calls: list[dict[str, Any]] = []

    def forward(
        self,
        data: dict[str, torch.Tensor],
        compute_force: bool = True,
        compute_stress: bool = False,
        compute_displacement: bool = False,
        training: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        flags = {"compute_force": compute_force, "compute_stress": compute_stress, "training": training}
        self.calls.append(flags | {"compute_displacement": compute_displacement, "edges": data["edge_index"].shape[1]})
        positions, cell, shifts = data["positions"].requires_grad_(True), data["cell"], data["shifts"]
        attributes, system = data["node_attrs"], data["batch"]
        graphs = data["ptr"].numel() - 1
        (i, j), place, strain = data["edge_index"], positions, positions.new_zeros(graphs, 3, 3)
        if compute_displacement:
            strain.requires_grad_(True)
            symmetric = 0.5 * (strain + strain.transpose(1, 2))
            place = positions + torch.einsum("na,nac->nc", positions, symmetric[system])
            strained = cell + cell @ symmetric
            shifts = torch.einsum("ea,eac->ec", data["unit_shifts"], strained[system[i]])
        distance = (place[j] - place[i] + shifts).norm(dim=1, keepdim=True)
        centres = torch.linspace(0.5, 4.5, 8, dtype=positions.dtype)
        taper = (1.0 - (distance / self.r_max) ** 2).clamp(min=0.0) ** 4
        radial = torch.exp(-2.0 * (distance - centres) ** 2) * taper
        message = (radial @ self.messages) * (attributes @ self.embedding)[j]
        gathered = torch.zeros(len(positions), WIDTH, dtype=positions.dtype).index_add(0, i, message)
        features = torch.cat([gathered * (attributes @ self.embedding), torch.tanh(gathered)], dim=1)
        alone = attributes @ self.atomic_energies_fn.atomic_energies[0].to(attributes)
        node_energy = alone + torch.tanh(features) @ self.readout
        if "head" in data:
            node_energy = node_energy + data["head"][system]
        energy = torch.zeros(graphs, dtype=positions.dtype).index_add(0, system, node_energy)
        forces = stress = None
        if compute_force or compute_stress:
            asked = [positions, strain] if compute_displacement else [positions]
            found = torch.autograd.grad([energy.sum()], asked, create_graph=training, retain_graph=training)
            forces = -found[0]
            if compute_stress:
                stress = found[1] / torch.linalg.det(cell).abs().view(-1, 1, 1)
        found = {"energy": energy, "node_energy": node_energy, "node_feats": features}
        return {**found, "forces": forces, "stress": stress}


class WrongSignOfStress(SmallNetwork):
    """A broken twin."""

    def forward(self, data, **flags):
        found = super().forward(data, **flags)
        return found if found["stress"] is None else {**found, "stress": -found["stress"]}


class AddsRowsOfTheBatch(SmallNetwork):
    """A broken twin: what a system gets hangs on its companions."""

    def forward(self, data, **flags):
        found = super().forward(data, **flags)
        return {**found, "energy": found["energy"] + 1e-3 * len(found["energy"])}


class LooksAtNoElement(MACEWrapper):
    """A broken twin: an unknown element has a row of zeros."""

    def element_index_of(self, batch: Batch) -> torch.Tensor:
        return batch.atomic_numbers


def wrapper(network: type[SmallNetwork] = SmallNetwork, active: set[str] | None = None, **options: Any) -> MACEWrapper:
    model = MACEWrapper(network(**options).double()).eval()
    model.model_config.active_outputs = active or {"energy", "forces", "stress"}
    return model


def salt_and_water(radius: float = CUTOFF + 0.5) -> Batch:
    systems = standard_systems(distance=2.8, elements=(11, 17))
    water = structure(torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]]).double(), [8, 1, 1])
    batch = Batch.from_data_list([systems["triclinic"], water, systems["tiny cell"]])
    compute_neighbors(batch, radius)
    return batch


def calls_of(model: MACEWrapper) -> list[dict[str, Any]]:
    return model.model.calls


# ----------------------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("network", [torch.float64, torch.float32], ids=str)
def test_it_keeps_the_contract(network: torch.dtype) -> None:
    model = MACEWrapper(SmallNetwork().to(network))
    report = check_model(model, elements=[11, 17], distance=2.8).raise_if_failed()
    for check in ("forces", "stress", "rotation", "companions", "autograd group", "smoothness", "inputs", "memory"):
        assert report.verdict(check) is Verdict.PASSED, check
    assert report.verdict("unknown element") is Verdict.PASSED


@pytest.mark.parametrize(
    ("twin", "failing"), [(WrongSignOfStress, {"stress", "sign of stress"}), (AddsRowsOfTheBatch, {"companions"})]
)
def test_the_contract_sees_a_broken_twin(twin: type[SmallNetwork], failing: set[str]) -> None:
    report = check_model(MACEWrapper(twin().double()), elements=[11, 17], distance=2.8)
    assert {row.check for row in report.failed} >= failing


def test_every_output_on_request_in_the_dtype_of_the_positions() -> None:
    batch = salt_and_water()
    for dtype in (torch.float32, torch.float64):
        model = MACEWrapper(SmallNetwork().to(dtype)).eval()
        assert set(model(batch)) == {"energy", "forces"}
        model.model_config.active_outputs = set(EVERYTHING)
        outputs = model(batch)
        shapes = {key: tuple(value.shape) for key, value in outputs.items()}
        n, b = batch.num_nodes, batch.num_graphs
        assert shapes == {
            "energy": (b, 1), "forces": (n, 3), "stress": (b, 3, 3), "atomic_energies": (n,),
            "node_embeddings": (n, WIDTH), "graph_embeddings": (b, WIDTH),
        }  # fmt: skip
        assert {value.dtype for value in outputs.values()} == {torch.float64}
        assert not any(value.requires_grad for value in outputs.values())
        assert torch.equal(outputs["stress"][1], torch.zeros(3, 3, dtype=torch.float64))
        assert float(outputs["stress"][0].abs().max()) > 1e-3


def test_pairs_in_the_skin_are_not_given_to_the_network() -> None:
    model, edges = wrapper(), []
    for radius in (CUTOFF, CUTOFF + 1.0):
        model.compute_embeddings(salt_and_water(radius))
        model(salt_and_water(radius))
        edges += [call["edges"] for call in calls_of(model)[-2:]]
    assert len(set(edges)) == 1


def test_the_network_is_told_what_is_needed() -> None:
    """Energy alone takes no backward pass and leaves no graph."""
    model, batch = wrapper(), salt_and_water()
    for active, force, stress in (({"energy"}, False, False), ({"forces"}, True, False), (EVERYTHING, True, True)):
        model.model_config.active_outputs = set(active)
        outputs = model(batch)
        assert set(outputs) == active
        call = calls_of(model)[-1]
        assert (call["compute_force"], call["compute_stress"], call["compute_displacement"]) == (force, stress, stress)
        assert not call["training"]
    model.model_config.active_outputs = {"energy"}
    seen: list[bool] = []
    model.model.register_forward_hook(lambda module, inputs, found: seen.append(found["energy"].requires_grad))
    model(batch)
    model.compute_embeddings(batch)
    assert seen == [False, False]


def test_what_the_network_is_given() -> None:
    model, batch = wrapper(), salt_and_water()
    inputs = model.adapt_input(batch)
    assert set(inputs) == {
        "positions", "node_attrs", "batch", "ptr", "edge_index", "neighbor_list_shifts", "unit_shifts", "shifts",
        "cell",
    }  # fmt: skip
    assert inputs["positions"].requires_grad
    assert not batch.positions.requires_grad
    assert {inputs[name].dtype for name in ("batch", "ptr", "edge_index")} == {torch.int64}
    assert inputs["edge_index"].shape[0] == 2
    assert [NUMBERS[place] for place in inputs["node_attrs"].argmax(1).tolist()] == batch.atomic_numbers.tolist()
    assert torch.equal(inputs["cell"][1], torch.eye(3, dtype=torch.float64))
    i, j = inputs["edge_index"]
    vectors = batch.positions[j] - batch.positions[i] + inputs["shifts"]
    assert float(vectors.norm(dim=1).max()) < CUTOFF
    cells = inputs["cell"][batch.batch_idx[i]]
    torch.testing.assert_close(inputs["shifts"], torch.einsum("ea,eac->ec", inputs["unit_shifts"], cells))
    model.model_config.active_outputs = {"energy"}
    assert not model.adapt_input(batch)["positions"].requires_grad


def test_one_structure_is_a_batch_of_one() -> None:
    batch, model = salt_and_water(CUTOFF + 1.0), wrapper(active={"energy"})
    one = batch.get_data(0)  # with its list
    assert isinstance(one, AtomicData)
    torch.testing.assert_close(model(one)["energy"], model(batch)["energy"][:1])
    assert model.compute_embeddings(one) is one
    assert one.graph_embeddings.shape == (1, WIDTH)


# ---------------------------------------------------------------------------------------------------------- derivatives


def test_in_an_autograd_group_it_is_asked_for_the_energy_only() -> None:
    other = LennardJonesModelWrapper(0.3, 2.5, CUTOFF, switch_width=1.0)
    other.model_config.active_outputs = {"energy", "forces", "stress"}
    model, batch = wrapper(), salt_and_water()
    expected = {key: value + other(batch)[key] for key, value in model(batch).items()}
    group = PipelineModelWrapper([PipelineGroup([model, other], use_autograd=True)])
    group.model_config.active_outputs = {"energy", "forces", "stress"}
    found = group(batch)
    assert not calls_of(model)[-1]["compute_force"]
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-11, atol=1e-11, msg=key)


def test_the_caller_may_strain_and_differentiate() -> None:
    model, batch = wrapper(), salt_and_water()
    expected = model(batch)
    positions = batch.positions.clone().requires_grad_(True)
    strained, cells, strain = prepare_strain(positions, batch.cell, batch.batch_idx)
    view = batch.shallow_view()
    view.positions, view.cell = strained, cells
    model.model_config.active_outputs = {"energy"}
    forces, stress = autograd_forces_and_stresses(model(view)["energy"], strained, strain, batch.cell, 3)
    torch.testing.assert_close(forces, expected["forces"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(stress, expected["stress"], rtol=1e-11, atol=1e-11)


def test_second_derivatives() -> None:
    model, batch = wrapper(active={"energy", "forces"}), salt_and_water()
    exact, differences = hessian(model, batch, step=None), hessian(model, batch, step=1e-4)
    for one, other in zip(exact, differences, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    batch.positions = batch.positions.clone().requires_grad_(True)
    (row,) = torch.autograd.grad(model(batch)["forces"][0, 1], batch.positions)
    torch.testing.assert_close(-row[: len(exact[0])], exact[0][0, 1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients(mode: Any) -> None:
    model, expected = wrapper(active=EVERYTHING), wrapper(active=EVERYTHING)(salt_and_water())
    with mode():
        batch = salt_and_water()
        found = model(batch)
        model.compute_embeddings(batch)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)
    assert not batch.positions.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_parameters_can_be_trained(training: bool) -> None:
    model = wrapper().train(training)
    outputs = model(salt_and_water())
    assert calls_of(model)[-1]["training"] is training
    assert outputs["forces"].requires_grad is training
    if training:
        (outputs["forces"].square().sum() + outputs["stress"].square().sum()).backward()
        assert float(model.model.readout.grad.abs().max()) > 0


def test_compiled_code_is_differentiated_once_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **options: call)  # what is tested is what stands around it
    model, batch = wrapper(), salt_and_water()
    expected = model(batch)
    model.model.compile()
    for key, value in model(batch).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-11, atol=1e-11, msg=key)
    assert not calls_of(model)[-1]["compute_force"]
    with pytest.raises(NotAvailableError, match=r"compiled MACE .* no second derivatives.*athanor\.models\.hessian"):
        hessian(model, batch, step=None)
    assert len(hessian(model, batch)) == 3


# ------------------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("number", "named"), [(6, "C"), (92, "U"), (0, "atomic number 0"), (500, "atomic number 500")], ids=str
)
def test_an_unknown_element_is_refused_also_below_the_largest(number: int, named: str) -> None:
    """The row of carbon in a table up to chlorine is all zero, which would give a plausible energy."""
    batch = salt_and_water()
    model = wrapper()
    model(batch)
    batch.atomic_numbers[batch.batch_ptr[1]] = number
    place = rf"{named}( \({number}\))? in the system of index 1"
    with pytest.raises(InputError, match=rf"no parameters for {place}; it has some for H, O, Na, Cl\."):
        model(batch)
    batch.atomic_numbers[batch.batch_ptr[1]] = 8
    model(batch)


def test_the_twin_that_looks_at_no_element_gives_an_energy() -> None:
    batch = salt_and_water()
    batch.atomic_numbers[batch.batch_ptr[1]] = 6
    assert bool(LooksAtNoElement(SmallNetwork()).eval()(batch)["energy"].isfinite().all())


def test_lists_that_will_not_do_are_refused() -> None:
    model, batch = wrapper(), salt_and_water()
    with pytest.raises(KeyError, match="the batch has no neighbour list, which MACEWrapper needs"):
        model(batch.without_pairs())
    compute_neighbors(batch, 4.0)
    with pytest.raises(InputError, match=r"searched to 4 Å; MACEWrapper needs `cutoff` = 5 Å"):
        model(batch)
    compute_neighbors(batch, CUTOFF, half_list=True)
    with pytest.raises(InputError, match=r"list is half; MACEWrapper needs both directions"):
        model(batch)


@pytest.mark.parametrize("name", ["atomic_numbers", "r_max", "products"])
def test_another_module_is_no_model(name: str) -> None:
    network = SmallNetwork()
    delattr(network, name)
    with pytest.raises(ContractError, match=rf"SmallNetwork that lacks .*{name}.*from_checkpoint"):
        MACEWrapper(network)


def test_a_network_with_several_heads_wants_to_know_which() -> None:
    batch, energies = salt_and_water(), {}
    for heads, head in ((["pbe", "r2scan"], "r2scan"), (["pbe", "Default"], None), (["pbe", "r2scan"], "pbe")):
        model = MACEWrapper(SmallNetwork(heads=heads), head=head).eval()
        energies[model.head] = model(batch)["energy"]
    counts = batch.num_nodes_per_graph.view(-1, 1).double()
    torch.testing.assert_close(energies["r2scan"] - energies["pbe"], counts)
    torch.testing.assert_close(energies["Default"] - energies["pbe"], counts)
    for head in (None, "scan"):
        with pytest.raises(InputError, match=r"this network has pbe, r2scan\."):
            MACEWrapper(SmallNetwork(heads=["pbe", "r2scan"]), head=head)


def test_the_table_of_elements_is_no_parameter_and_the_batch_stays_as_it_was() -> None:
    model, batch = wrapper(active=EVERYTHING), salt_and_water()
    assert not any("_node_emb" in name for name in model.state_dict())
    before = batch.to_dict()
    model(batch)
    model.compute_embeddings(batch)
    assert all(batch[name] is value for name, value in before.items())
    assert not any(tensor.requires_grad for _, tensor in batch)
    assert model.model_config.active_outputs == EVERYTHING
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(batch)["forces"], model(batch)["forces"])


# ------------------------------------------------------------------------------------------------------------ its files


@pytest.fixture
def mace_package(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for mace-torch; like it, it switches safe loading off for the whole process when it is imported."""
    calls: dict[str, Any] = {}
    names = ("", ".modules", ".calculators", ".calculators.foundations_models", ".cli", ".cli.convert_e3nn_cueq")
    parts = {name: ModuleType(f"mace{name}") for name in names}
    for name, part in parts.items():
        part.__path__ = []
        monkeypatch.setitem(sys.modules, f"mace{name}", part)
    published = parts[".calculators.foundations_models"]
    published.mace_mp_urls = {"small": "https://a.place/small.model"}
    published.mace_off_urls = {"small": "https://a.place/off.model"}

    def download(url: str) -> str:
        print("a licence to read")
        calls["url"] = url
        return calls["file"]

    published.download_mace_mp_checkpoint = download
    return calls


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.model"
    wrapper().export_model(path)
    return path


@pytest.mark.usefixtures("mace_package")
def test_a_file_comes_back_if_it_is_trusted(file: Path, tmp_path: Path) -> None:
    batch = salt_and_water()
    with pytest.raises(InputError, match=r"loading it runs code from it, .* pass `trust=True`: `--trust-model`"):
        MACEWrapper.from_checkpoint(file)
    model = MACEWrapper.from_checkpoint(file, trust=True)
    assert not model.training
    assert model.model_card.weights_digest.startswith("sha256:")
    assert torch.equal(model(batch)["energy"], wrapper()(batch)["energy"])
    single = MACEWrapper.from_checkpoint(file, dtype=torch.float32, trust=True)
    assert single.dtype == single.model_card.dtype == torch.float32
    again = MACEWrapper.from_checkpoint(**single.checkpoint_spec(), trust=True)
    assert torch.equal(again(batch)["energy"], single(batch)["energy"])
    assert wrapper().checkpoint_spec() is None
    assert isinstance(athanor.models.get("mace", checkpoint_path=str(file), trust=True), MACEWrapper)
    model.export_model(tmp_path / "state.pt", as_state_dict=True)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state.keys() == model.model.state_dict().keys()
    with pytest.raises(InputError, match="holds a OrderedDict, no network: parameters alone do not say which one"):
        MACEWrapper.from_checkpoint(tmp_path / "state.pt", trust=True)


@pytest.mark.usefixtures("mace_package")
def test_energies_of_isolated_atoms_can_be_others(file: Path, tmp_path: Path) -> None:
    batch, before = salt_and_water(), wrapper()(salt_and_water())["energy"]
    table = tmp_path / "energies.json"
    table.write_text(json.dumps({"1": -3.0, "O": -10.0}), encoding="utf-8")
    expected = torch.tensor([[0.0], [2 * (-3.0 + 0.1) + (-10.0 + 0.8)], [0.0]], dtype=torch.float64)
    for options in ({"atomic_energies": {1: -3.0, 8: -10.0}}, {"atomic_energies_path": table}):
        after = MACEWrapper.from_checkpoint(file, trust=True, **options)(batch)["energy"]
        torch.testing.assert_close(after - before, expected)
    with pytest.raises(InputError, match="`atomic_energies` or `atomic_energies_path`, not both"):
        MACEWrapper.from_checkpoint(file, trust=True, atomic_energies={1: 0.0}, atomic_energies_path=table)
    with pytest.raises(InputError, match=r"Element 6 .* is not supported by this network, which knows H, O, Na, Cl"):
        MACEWrapper.from_checkpoint(file, trust=True, atomic_energies={6: 0.0})
    with pytest.raises(InputError, match="atomic energy of H is nan"):
        MACEWrapper.from_checkpoint(file, trust=True, atomic_energies={1: float("nan")})
    with pytest.raises(InputError, match="can not be read as JSON"):
        MACEWrapper.from_checkpoint(file, trust=True, atomic_energies_path=tmp_path / "none.json")


def test_published_names_are_resolved_by_the_package(
    mace_package: dict[str, Any], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mace_package["file"] = str(file)
    assert isinstance(MACEWrapper.from_checkpoint("off-small", trust=True), MACEWrapper)
    assert mace_package["url"] == "https://a.place/off.model"
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "a licence to read\n")
    with pytest.raises(InputError, match=r"run code from https://a\.place/small\.model\. Pass `trust=True`"):
        MACEWrapper.from_checkpoint("small")
    with pytest.raises(InputError, match=r"`tiny` is neither a file nor a network .*: small, off-small, omol\."):
        MACEWrapper.from_checkpoint("tiny", trust=True)
    del mace_package["file"], mace_package["url"]

    def no_network(url: str) -> str:
        raise OSError("no route to host")

    sys.modules["mace.calculators.foundations_models"].download_mace_mp_checkpoint = no_network
    with pytest.raises(InputError, match=r"can not be downloaded .*no route to host.*pass the path of the file"):
        MACEWrapper.from_checkpoint("small", trust=True)


@pytest.mark.usefixtures("mace_package")
def test_options_that_do_not_fit_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="`enable_cueq` needs a CUDA device"):
        MACEWrapper.from_checkpoint(file, enable_cueq=True)
    with pytest.raises(TypeError, match=r"`dtpye`.* Did you mean `dtype`"):
        MACEWrapper.from_checkpoint(file, dtpye=torch.float32)
    monkeypatch.setitem(sys.modules, "mace", None)
    with pytest.raises(OptionalDependencyError, match=r'pip install "athanor-md\[mace\]"'):
        MACEWrapper.from_checkpoint(file, trust=True)


UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@pytest.mark.parametrize("before", [None, "0"])
def test_loading_stays_safe_after_the_package_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    (tmp_path / "mace").mkdir()
    (tmp_path / "mace" / "__init__.py").write_text(f"import os\nos.environ['{UNSAFE}'] = '1'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mace", raising=False)
    monkeypatch.delenv(UNSAFE, raising=False)
    if before is not None:
        monkeypatch.setenv(UNSAFE, before)
    OptionalDependency.MACE.load()
    assert os.environ.get(UNSAFE) == before
    del sys.modules["mace"]
    __import__("mace")  # the mutant: imported as it is
    assert os.environ.pop(UNSAFE) == "1"
    sys.modules.pop("mace")


def test_networks_with_electrostatics_are_left_to_their_calculator() -> None:
    class PolarMACE(SmallNetwork):
        pass

    with pytest.raises(NotAvailableError, match=r"a PolarMACE, whose charges act beyond the cutoff.*ASEModelWrapper"):
        MACEWrapper(PolarMACE())
