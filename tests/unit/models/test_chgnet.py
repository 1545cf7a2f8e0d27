"""CHGNetWrapper: outputs on request, what it leaves alone, what it refuses, where its parameters come from."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import athanor.models
from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError, MissingFieldError
from athanor.models.chgnet import CHGNetWrapper, gate, weights
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import fcc_crystal, standard_systems

pytestmark = pytest.mark.chgnet


@pytest.fixture(scope="module")
def loaded() -> CHGNetWrapper:
    return CHGNetWrapper.from_checkpoint()


@pytest.fixture
def model(loaded: CHGNetWrapper) -> CHGNetWrapper:
    return copy.deepcopy(loaded)


def salt_batch(model: CHGNetWrapper, dtype: torch.dtype = torch.float64) -> Batch:
    systems = standard_systems(distance=2.9, elements=(11, 17), dtype=dtype)
    batch = Batch.from_data_list([systems["left-handed"], systems["tiny cell"]])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    return batch


# ------------------------------------------------------------------------------------------------------------ outputs


def test_energy_and_forces_unless_told_otherwise(model: CHGNetWrapper) -> None:
    assert set(model(salt_batch(model))) == {"energy", "forces"}


def test_every_output_on_request(model: CHGNetWrapper) -> None:
    model.model_config.active_outputs = set(model.model_config.outputs)
    batch = salt_batch(model)
    outputs = model(batch)
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        "atomic_energies": (9,),
        "energy": (2, 1),
        "forces": (9, 3),
        "graph_embeddings": (2, 64),
        "magmoms": (9,),
        "node_embeddings": (9, 64),
        "stress": (2, 3, 3),
    }
    assert {value.dtype for value in outputs.values()} == {torch.float64}
    sums = torch.zeros(2, dtype=torch.float64).index_add(0, batch.batch_idx, outputs["atomic_energies"])
    assert torch.allclose(sums, outputs["energy"][:, 0])
    assert torch.equal(outputs["stress"], outputs["stress"].transpose(1, 2))


def test_results_have_the_dtype_of_the_positions(model: CHGNetWrapper) -> None:
    outputs = model(salt_batch(model, torch.float32))
    assert {value.dtype for value in outputs.values()} == {torch.float32}


def test_energy_alone_runs_no_backward_pass(model: CHGNetWrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = salt_batch(model)
    expected = model(batch)["energy"]

    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a backward pass")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    model.model_config.active_outputs = {"energy"}
    assert torch.equal(model(batch)["energy"], expected)
    model.model_config.active_outputs = {"stress"}
    with pytest.raises(AssertionError, match="a backward pass"):
        model(batch)


def test_one_backward_pass_gives_forces_and_stress(model: CHGNetWrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    grad = torch.autograd.grad

    def counted(*arguments: object, **keywords: object) -> object:
        calls.append(keywords.get("create_graph", False))
        return grad(*arguments, **keywords)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    model(salt_batch(model))
    assert calls == [False]


def test_works_without_gradients_and_leaves_the_positions_alone(model: CHGNetWrapper) -> None:
    batch = salt_batch(model)
    expected = model(batch)["forces"]
    assert not batch.positions.requires_grad
    with torch.no_grad():
        assert torch.equal(model(batch)["forces"], expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_blocks_do_not_change_the_results(model: CHGNetWrapper, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model.double()
    batch = salt_batch(model)
    whole = model(batch)
    monkeypatch.setattr(gate, "CPU_BLOCK_ROWS", 7)
    parts = model(batch)
    for name, value in whole.items():
        assert torch.allclose(parts[name], value, rtol=1e-12, atol=1e-12), name


def test_a_molecule_beside_a_crystal_has_zero_stress(model: CHGNetWrapper) -> None:
    systems = standard_systems(distance=2.9, elements=(11, 17))
    batch = Batch.from_data_list([systems["cluster"], systems["left-handed"]])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    stress = model(batch)["stress"]
    assert torch.equal(stress[0], torch.zeros(3, 3, dtype=torch.float64))
    assert stress[1].abs().max() > 1e-4
    alone = Batch.from_data_list([systems["cluster"]])
    compute_neighbors(alone, config=model.model_config.neighbor_config)
    assert torch.equal(model(alone)["stress"], torch.zeros(1, 3, 3, dtype=torch.float64))


def test_embeddings_are_written_to_the_batch(model: CHGNetWrapper) -> None:
    batch = salt_batch(model)
    assert model.compute_embeddings(batch) is batch
    assert {name: tuple(batch[name].shape[1:]) for name in model.embedding_shapes} == model.embedding_shapes
    model.model_config.active_outputs = set(model.embedding_shapes)
    for name, value in model(batch).items():
        assert torch.equal(batch[name], value)


def test_one_warning_about_isolated_atoms(model: CHGNetWrapper) -> None:
    batch = Batch.from_data_list([fcc_crystal(2.9, 29), standard_systems()["atom"]])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    with pytest.warns(UserWarning, match=r"system of index 1 have no neighbour within 6 Å") as caught:
        model(batch)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    model(batch)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_unknown_element_is_refused_by_number_and_system(model: CHGNetWrapper) -> None:
    batch = Batch.from_data_list([fcc_crystal(3.0, 29), fcc_crystal(3.0, 95)])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    with pytest.raises(InputError, match=r"no parameters for Am \(95\) in the system of index 1; .* H to Pu\."):
        model(batch)
    assert 95 not in (model.model_card.elements or ())


def test_the_card_says_what_is_known(model: CHGNetWrapper) -> None:
    card = model.model_card
    assert len(card.elements or ()) == 94
    assert len(card.trained_elements or ()) == 89
    assert card.batch_invariance == "no"
    assert card.dtype == torch.float32
    assert "10.1038/s42256-023-00716-3" in card.citation
    assert card.weights_digest.startswith("sha256:d14ab7c0f093efe6")
    assert card.minimum_distance == 0.5


def test_a_missing_list_names_the_call_that_builds_it(model: CHGNetWrapper) -> None:
    batch = Batch.from_data_list([fcc_crystal(2.9, 29)])
    with pytest.raises(MissingFieldError, match="compute_neighbors"):
        model(batch)


def test_a_short_list_is_refused(model: CHGNetWrapper) -> None:
    batch = Batch.from_data_list([fcc_crystal(2.9, 29)])
    compute_neighbors(batch, 5.0)
    with pytest.raises(InputError, match="searched to 5 Å"):
        model(batch)


def test_a_half_list_is_refused(model: CHGNetWrapper) -> None:
    batch = Batch.from_data_list([fcc_crystal(2.9, 29)])
    compute_neighbors(batch, 6.0, half_list=True)
    with pytest.raises(InputError, match="is half"):
        model(batch)


def test_systems_that_joined_without_a_list_are_refused(model: CHGNetWrapper) -> None:
    batch = salt_batch(model)
    batch.append(Batch.from_data_list([fcc_crystal(2.9, 29)]))
    with pytest.raises(InputError, match="1 systems has to be searched again"):
        model(batch)
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    assert model(batch)["energy"].shape == (3, 1)


def test_a_structure_is_a_batch_of_one(model: CHGNetWrapper) -> None:
    copper = fcc_crystal(3.6, 29)
    batch = Batch.from_data_list([copper])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    alone = batch.get_data(0)
    assert torch.equal(model(alone)["forces"], model(batch)["forces"])
    with pytest.raises(MissingFieldError, match="the batch has no neighbour list"):
        model(copper)


def test_another_module_is_no_model() -> None:
    with pytest.raises(ContractError, match="from_checkpoint"):
        CHGNetWrapper(torch.nn.Linear(2, 2))


# ---------------------------------------------------------------------------------------------------------- parameters


def test_the_registry_knows_it() -> None:
    model = athanor.models.get("chgnet", name="r2scan")
    assert isinstance(model, athanor.models.CHGNetWrapper)
    assert model.model_card.name == "CHGNet r2scan"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"0\.3\.0, 0\.2\.0, r2scan"):
        CHGNetWrapper.from_checkpoint("0.9.0")


def test_other_contents_than_expected_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    relative, digest = weights.SHIPPED["0.3.0"]
    monkeypatch.setitem(weights.SHIPPED, "0.3.0", (relative, "0" * 64))
    with pytest.raises(InputError, match=rf"SHA-256 {digest[:16]}.*expected 0{{16}}"):
        CHGNetWrapper.from_checkpoint("0.3.0")


def test_a_file_of_ones_own(tmp_path: Path, loaded: CHGNetWrapper) -> None:
    shipped = weights.load_checkpoint("0.3.0")
    path = tmp_path / "mine.pt"
    torch.save({"model": {"state_dict": shipped.state, "model_args": shipped.arguments}}, path)
    model = CHGNetWrapper.from_checkpoint(path, dtype=torch.float64)
    assert model.dtype == torch.float64
    assert model.model_card.weights_digest.startswith("sha256:")
    batch = salt_batch(model)
    assert torch.allclose(model(batch)["energy"], loaded(batch)["energy"], atol=1e-4)


class Payload:
    """Something that tensors-only loading refuses."""


def test_a_pickle_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "pickle.pt"
    torch.save({"model": Payload()}, path)
    with pytest.raises(InputError, match="trust=True"):
        CHGNetWrapper.from_checkpoint(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="no CHGNet checkpoint"):
        CHGNetWrapper.from_checkpoint(path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    shipped = weights.load_checkpoint("0.3.0")
    path = tmp_path / "other.pt"
    torch.save({"state_dict": shipped.state, "model_args": {**shipped.arguments, "mlp_first": False}}, path)
    with pytest.raises(InputError, match="`mlp_first`"):
        CHGNetWrapper.from_checkpoint(path)


def test_it_can_be_pickled(model: CHGNetWrapper) -> None:
    batch = salt_batch(model)
    expected = model(batch)["energy"]
    assert torch.equal(pickle.loads(pickle.dumps(model))(batch)["energy"], expected)


def test_neither_the_packages_network_nor_pymatgen_is_imported() -> None:
    code = (
        "import sys; from athanor.models.chgnet import CHGNetWrapper; CHGNetWrapper.from_checkpoint(); "
        "print(sorted(m for m in sys.modules if m.startswith(('chgnet.', 'pymatgen'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
