"""SevenNetWrapper with the parameters that sevenn ships, against the calculator of that package.

`make test-model-learned` runs this, in an environment with sevenn, so3krates-torch and diep; nothing else collects it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from sevenn.calculator import SevenNetCalculator
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.model_build import build_E3_equivariant_model
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import pretrained_name_to_path

import athanor
from athanor.errors import ContractError, InputError
from athanor.models import SevenNetWrapper, get, hessian
from athanor.models.sevennet.weights import load_network

from .shared import (
    asking_for,
    assert_within,
    batch_of,
    calculated,
    differences,
    keeps_the_contract,
    left_behind,
    matrix,
)
from .shared import crystals_and_molecules as structures

EVERYTHING = {"energy", "forces", "stress", "atomic_energies"}
SHIPPED = {  # name, task -> energies of rattled silicon and of rock salt, eV, by the package's own calculator
    ("7net-0", None): (-42.971809, -27.061979),
    ("7net-0-22may2024", None): (-43.083984, -27.035995),
    ("7net-l3i5", None): (-43.100227, -27.083412),
    ("7net-mf-0", "PBE"): (-42.771500, -27.086082),
    ("7net-mf-0", "R2SCAN"): (-69.622536, -55.116974),
}


def asking_for_everything(model: SevenNetWrapper) -> Any:
    return asking_for(model, EVERYTHING)


def by_the_calculator(name: str, task: str | None) -> dict[str, dict[str, Any]]:
    calculator = SevenNetCalculator(name.replace("-22may", "_22may"), device="cpu", modal=task)
    return {each: calculated(calculator, atoms) for each, atoms in structures().items()}


@pytest.mark.parametrize(("name", "task"), SHIPPED, ids=str)
def test_it_agrees_with_the_calculator_of_the_package(name: str, task: str | None) -> None:
    """Alone and in a batch of crystals and molecules; and with numbers that were written down before."""
    model = asking_for_everything(SevenNetWrapper.from_checkpoint(name, task=task))
    theirs = by_the_calculator(name, task)
    found = differences(model, theirs, structures())
    assert_within(found, 1e-5, 1e-4)
    assert max(errors["stress"] for errors in found.values()) < 1e-5
    for each, expected in zip(("silicon", "rock salt"), SHIPPED[name, task], strict=True):
        assert theirs[each]["energy"] == pytest.approx(expected, abs=2e-4)
    outputs = model(batch_of(structures()["silicon"]))
    np.testing.assert_allclose(outputs["atomic_energies"], theirs["silicon"]["energies"], rtol=0, atol=1e-5)


def in_double_precision() -> dict[str, dict[str, Any]]:
    """What the network of the package says in float64, of graphs that the package made; its calculator is in float32.

    Unit vectors of elements are made in float32 whatever the parameters are: hooks convert them.
    """
    network = load_network("7net-0")[0].double().eval()
    network.set_is_batch_data(False)

    def to_double(module: Any, inputs: Any, data: dict[str, Any]) -> dict[str, Any]:
        return {key: value.double() if value.dtype == torch.float32 else value for key, value in data.items()}

    network.onehot_idx_to_onehot.register_forward_hook(to_double)
    results = {}
    for each, atoms in structures().items():
        found = {key: value for key, value in unlabeled_atoms_to_graph(atoms, 5.0).items() if key != "data_info"}
        graph = {key: torch.as_tensor(value) for key, value in found.items()}
        graph = {key: value.double() if value.is_floating_point() else value for key, value in graph.items()}
        output = network(graph)
        stress = -output["inferred_stress"].detach().numpy().flatten()[[0, 1, 2, 4, 5, 3]]
        results[each] = {
            "energy": output["inferred_total_energy"].item(),
            "forces": output["inferred_force"].detach().numpy(),
            "stress": matrix(stress) if atoms.cell.rank == 3 else np.zeros((3, 3)),
        }
    return results


def test_it_agrees_in_double_precision() -> None:
    model = asking_for_everything(SevenNetWrapper.from_checkpoint(dtype=torch.float64))
    assert_within(differences(model, theirs := in_double_precision(), structures()), 1e-8, 1e-8)
    twin = asking_for_everything(SwapsTheEndsOfPairs(model.model).eval())
    assert differences(twin, theirs, structures())["silicon"]["forces"] > 1e-3


class SwapsTheEndsOfPairs(SevenNetWrapper):
    """A broken twin: features come from the centre and go to the neighbour, vectors stay."""

    def network_outputs(self, graph: Any, wanted: Any) -> Any:
        graph.edge_index = graph.edge_index.flip(0)
        return super().network_outputs(graph, wanted)


def small_config() -> dict[str, Any]:
    """What the package makes a small network of, for elements 11, 14 and 17."""
    config = SevenNetCheckpoint(pretrained_name_to_path("7net-0")).config
    cutoff = {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6}
    numbers = {11: 0, 14: 1, 17: 2}
    return config | {
        "channel": 4, "lmax": 1, "num_convolution_layer": 2, "cutoff": 4.0, "cutoff_function": cutoff,
        "_number_of_species": 3, "_type_map": numbers, "chemical_species": ["Na", "Si", "Cl"],
        "irreps_manual": False, "shift": [-1.0, -2.0, -3.0], "scale": [30.0] * 3, "conv_denominator": 5.0,
    }  # fmt: skip


def small_network() -> torch.nn.Module:
    """Return a network of the package's own class with random parameters."""
    torch.manual_seed(0)
    return build_E3_equivariant_model(small_config()).double()


def test_it_keeps_the_contract() -> None:
    keeps_the_contract(
        SevenNetWrapper(small_network()), "smoothness", "unknown element", elements=[11, 17], distance=2.8
    )


def test_the_shipped_parameters_keep_the_contract() -> None:
    """With the card that the name brings: they tell an arrangement from its mirror image, and bend at the cutoff."""
    report = keeps_the_contract(get("7net-0", dtype="float64"), "permutation", "precision", "unknown element")
    assert all(row.holds for row in report.checks["rotation"])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_second_derivatives(training: bool) -> None:
    """By the layers of the package, and by our convolution, which is that of a model in eval mode."""
    crystals = [bulk("NaCl", "rocksalt", a=5.3), bulk("Si")]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(0.1, seed=seed)
    model, batch = SevenNetWrapper(small_network()).train(training), batch_of(*crystals)
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "with gradients"])
def test_forces_are_the_same_with_a_graph(frozen: bool) -> None:
    """As a pipeline keeps it that nobody switched to evaluation. Mutant: derivatives that go through other inputs."""
    model, batch = SevenNetWrapper(small_network()).eval(), batch_of(*list(structures().values())[:2])
    model.requires_grad_(not frozen)
    expected = asking_for_everything(model)(batch)["forces"]
    batch.positions.requires_grad_(True)
    found = model(batch)["forces"]
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-9)


def test_embeddings_are_those_before_the_readout() -> None:
    model, batch = SevenNetWrapper.from_checkpoint(), batch_of(*structures().values())
    model.compute_embeddings(batch)
    assert batch.node_embeddings.shape == (batch.num_nodes, 128)
    hidden = model.model.reduce_input_to_hidden.linear(batch.node_embeddings.float())
    element, rescale = model.element_index_of(batch), model.model.rescale_atomic_energy
    energies = model.model.reduce_hidden_to_energy.linear(hidden).flatten() * rescale.scale[element]
    energies = energies + rescale.shift[element]
    expected = asking_for_everything(model)(batch)["atomic_energies"]
    torch.testing.assert_close(energies.double(), expected, rtol=1e-6, atol=1e-5)
    sums = torch.zeros(5, 128, dtype=torch.float64).index_add(0, batch.batch_idx, batch.node_embeddings)
    torch.testing.assert_close(batch.graph_embeddings, sums)


def test_a_file_of_the_user_runs_no_code_and_damage_is_told(tmp_path: Path) -> None:
    own, network = tmp_path / "checkpoint_best.pth", small_network()
    content = {
        "config": small_config() | {"shift": np.array([-1.0, -2.0, -3.0])},
        "model_state_dict": network.state_dict(),
    }
    torch.save(content, own)
    expected = SevenNetWrapper(network).eval()(batch_of(structures()["silicon"]))["energy"].item()
    options = {"name": "sevennet", "checkpoint": str(own), "dtype": "float64"}
    result = athanor.evaluate([structures()["silicon"]], model=options)
    assert result.energies[0] == pytest.approx(expected, abs=1e-9)
    bytes_of_it = bytearray(own.read_bytes())
    bytes_of_it[len(bytes_of_it) // 2] ^= 1
    own.write_bytes(bytes_of_it)
    with pytest.raises(InputError, match="another checksum"):
        SevenNetWrapper.from_checkpoint(own)
    torch.save({"weights": torch.zeros(3)}, own)
    with pytest.raises(InputError, match="no SevenNet checkpoint: it has no `config`"):
        SevenNetWrapper.from_checkpoint(own)
    content["model_state_dict"].popitem()
    torch.save(content, own)
    with pytest.raises(InputError, match="does not fit the installed sevenn"):
        SevenNetWrapper.from_checkpoint(own)
    torch.save({"config": Path, "model_state_dict": {}}, own)
    with pytest.raises(InputError, match="runs code"):
        SevenNetWrapper.from_checkpoint(own)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"`7net-9` is neither a checkpoint file nor .*7net-0, .*7net-mf-0"):
        SevenNetWrapper.from_checkpoint("7net-9")
    with pytest.raises(InputError, match="this network has R2SCAN, PBE"):
        get("sevennet", checkpoint="7net-mf-0", task="B3LYP")
    with pytest.raises(InputError, match="one only: leave it out"):
        SevenNetWrapper(small_network(), task="PBE")
    with pytest.raises(ContractError, match="pass a network of sevenn"):
        SevenNetWrapper(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"no parameters for Al \(13\) in the system of index 1"):
        SevenNetWrapper(small_network())(batch_of(bulk("Si"), bulk("Al")))


def test_the_process_is_left_as_it_was() -> None:
    assert left_behind("sevenn", "models.SevenNetWrapper.from_checkpoint()") == "[]\n"
