"""The demo model: outputs, embeddings, files, and working under every gradient mode."""

from __future__ import annotations

import pytest
import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.models.demo import DemoModel, DemoModelWrapper, build_demo_model


def molecules(count: int = 2) -> list[AtomicData]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.tensor([8, 1, 1])
    return [AtomicData(positions=torch.randn(3, 3, generator=generator), atomic_numbers=numbers) for _ in range(count)]


def test_outputs_of_a_batch_and_of_one_structure() -> None:
    model = build_demo_model()
    data = molecules()
    together = model(Batch.from_data_list(data))
    assert together["energy"].shape == (2, 1)
    assert together["forces"].shape == (6, 3)
    alone = model(data[1])
    assert alone["energy"].shape == (1, 1)
    torch.testing.assert_close(alone["energy"], together["energy"][1:])
    torch.testing.assert_close(alone["forces"], together["forces"][3:])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [False, True])
def test_every_gradient_mode(mode, training: bool) -> None:
    model = build_demo_model().train(training)
    batch = Batch.from_data_list(molecules())
    with mode():
        outputs = model(batch)
    assert torch.isfinite(outputs["forces"]).all()
    assert outputs["forces"].requires_grad is training
    assert outputs["energy"].requires_grad is training
    assert not batch.positions.requires_grad


def test_positions_are_converted_and_the_batch_is_not() -> None:
    model = build_demo_model()
    batch = Batch.from_data_list(molecules()).to(dtype=torch.float64)
    assert model(batch)["energy"].dtype == torch.float32
    assert batch.positions.dtype == torch.float64
    assert model.double().dtype == torch.float64
    assert model(batch)["forces"].dtype == torch.float64


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("active", [{"energy"}, {"energy", "forces"}])
def test_hessian_closure(training: bool, active: set[str]) -> None:
    model = build_demo_model(hidden_dim=8).double().train(training)
    model.model_config.active_outputs = active
    batch = Batch.from_data_list(molecules(1)).to(dtype=torch.float64)

    def energy_of(positions):
        batch.positions = positions
        return model(batch)["energy"].sum()

    hessian = torch.autograd.functional.hessian(energy_of, batch.positions).reshape(9, 9)
    torch.testing.assert_close(hessian, hessian.T)
    assert float(hessian.abs().max()) > 1e-3


def test_embeddings_are_written_in_place() -> None:
    model = build_demo_model(hidden_dim=8)
    assert model.embedding_shapes == {"node_embeddings": (8,), "graph_embedding": (8,)}
    batch = Batch.from_data_list(molecules())
    assert model.compute_embeddings(batch) is batch
    assert batch.node_embeddings.shape == (6, 8)
    torch.testing.assert_close(batch.graph_embeddings[1], batch.node_embeddings[3:].sum(0))
    assert not batch.positions.requires_grad
    data = molecules(1)[0]
    assert model.compute_embeddings(data) is data
    assert data.graph_embeddings.shape == (1, 8)


def test_missing_output_is_a_key_error() -> None:
    model = build_demo_model()
    with pytest.raises(KeyError, match="`forces` was requested and is not in the output of DemoModel"):
        model.adapt_output({"energy": torch.ones(1, 1)}, molecules(1)[0])


@pytest.mark.parametrize("as_state_dict", [False, True])
def test_export_and_load(tmp_path, as_state_dict: bool) -> None:
    model = build_demo_model(num_atom_types=20, hidden_dim=8).double()
    model.export_model(tmp_path / "demo.pt", as_state_dict=as_state_dict)
    torch.load(tmp_path / "demo.pt", weights_only=True)
    loaded = DemoModelWrapper.from_checkpoint(tmp_path / "demo.pt").eval()
    assert (loaded.model.num_atom_types, loaded.model.hidden_dim, loaded.dtype) == (20, 8, torch.float64)
    batch = Batch.from_data_list(molecules())
    assert torch.equal(loaded(batch)["energy"], model(batch)["energy"])


def test_a_pickle_needs_trust(tmp_path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(DemoModel(hidden_dim=8), path)
    with pytest.raises(ValueError, match=r"not a file of tensors only.*`trust=True`"):
        DemoModelWrapper.from_checkpoint(path)
    assert DemoModelWrapper.from_checkpoint(path, trust=True).model.hidden_dim == 8
    torch.save({"something": 1}, path)
    with pytest.raises(ValueError, match="holds no DemoModel"):
        DemoModelWrapper.from_checkpoint(path)
    with pytest.raises(ValueError, match="does not exist"):
        DemoModelWrapper.from_checkpoint(tmp_path / "absent.pt")
