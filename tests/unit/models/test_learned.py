"""LearnedModel and NetworkGraph on a small network of our own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import DtypeError, InputError
from athanor.models import (
    CommitteeModelWrapper,
    LennardJonesModelWrapper,
    PipelineGroup,
    PipelineModelWrapper,
    hessian,
)
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel
from athanor.neighbors import NeighborConfig, compute_neighbors
from athanor.testing import Verdict, check_model
from athanor.testing.systems import standard_systems

CUTOFF = 4.0


class Springs(nn.Module):
    """A smooth energy of each pair, larger for heavier atoms, that ends at the cutoff."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.3, dtype=dtype))

    def forward(self, vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the energy of each pair."""
        distance = vectors.norm(dim=1)
        return self.strength * weights * (1.0 - (distance / CUTOFF) ** 2).clamp(min=0.0) ** 4


class SpringModel(LearnedModel):
    """The network behind the interface: by vectors, or by positions and shifts."""

    def __init__(self, *, by_positions: bool = False, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(Springs(dtype), {1: 0, 8: 1, 11: 2, 14: 3, 17: 4, 18: 5}, embedding_width=1)
        self.by_positions = by_positions
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "atomic_energies", *DERIVATIVES, *EMBEDDINGS}),
            autograd_outputs=DERIVATIVES,
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=CUTOFF),
            active_outputs={"energy", *DERIVATIVES},
        )
        self.model_card = ModelCard(conservative=True, equivariant=True, smooth=True, elements=self.elements)

    def network_outputs(self, graph: Any, wanted: Any) -> Mapping[str, torch.Tensor | None]:
        i, j = graph.edge_index
        vectors = graph.vectors
        if self.by_positions:
            vectors = graph.local_positions[j] - graph.local_positions[i] + graph.shifts
        element = self.element_index_of(graph.batch)
        pairs = self.model(vectors, 1.0 + 0.1 * (element[i] + element[j]))
        atoms = pairs.new_zeros(graph.num_nodes).index_add(0, i, pairs)
        return {"atomic_energies": atoms, "node_embeddings": atoms.unsqueeze(1), "charges": None}


class ForgetsTheImages(SpringModel):
    """A broken twin: pairs through the boundary are taken for pairs inside the cell."""

    def network_outputs(self, graph: Any, wanted: Any) -> Mapping[str, torch.Tensor | None]:
        graph.images = torch.zeros_like(graph.images)
        return super().network_outputs(graph, wanted)


def batch_of(cutoff: float = CUTOFF + 0.5) -> Batch:
    batch = Batch.from_data_list(list(standard_systems().values()))
    compute_neighbors(batch, cutoff)
    return batch


def test_vectors_and_positions_give_the_same() -> None:
    """Two ways to the same network, of which one goes through the strain of cells and the other does not."""
    batch = batch_of()
    by_vectors, by_positions = SpringModel()(batch), SpringModel(by_positions=True)(batch)
    for key, value in by_vectors.items():
        assert value.abs().max() > 1e-3, key
        torch.testing.assert_close(value, by_positions[key], rtol=1e-12, atol=1e-12)
    twin = ForgetsTheImages(by_positions=True)(batch)
    assert not torch.allclose(twin["stress"], by_vectors["stress"])


@pytest.mark.parametrize("by_positions", [False, True])
def test_it_keeps_the_contract(by_positions: bool) -> None:
    report = check_model(SpringModel(by_positions=by_positions), elements=[11, 17], distance=2.8).raise_if_failed()
    for check in ("forces", "stress", "rotation", "companions", "autograd group", "smoothness"):
        assert report.verdict(check) is Verdict.PASSED, check


@pytest.mark.parametrize("by_positions", [False, True])
def test_geometry_is_of_the_precision_of_the_positions(by_positions: bool) -> None:
    """A single-precision network far from the origin gives what it gives at the origin."""
    model, batch = SpringModel(by_positions=by_positions, dtype=torch.float32), batch_of()
    here = model(batch)["energy"]
    batch.positions = batch.positions + 1000.0
    compute_neighbors(batch, CUTOFF)
    torch.testing.assert_close(model(batch)["energy"], here, rtol=1e-6, atol=1e-6)


def test_the_card_tells_the_precision_after_a_conversion() -> None:
    """Of a model, of a sum and of a committee of it. Mutant: the card stays as it was made."""

    def made(strength: float = 0.3) -> SpringModel:
        model = SpringModel()
        model.model.strength.data.fill_(strength)
        model.model_card = ModelCard(dtype=torch.float64)
        return model

    for model in (made(), made() + made(), CommitteeModelWrapper([made(), made(0.4)])):
        assert model.model_card.dtype is torch.float64
        assert model.to(torch.float32).model_card.dtype is torch.float32
        assert model.double().model_card.dtype is torch.float64
        assert model.to("cpu").model_card.dtype is torch.float64


class KeepsItsPrecision(SpringModel):
    _keeps_dtype = True


def test_a_network_that_can_not_be_converted_says_so() -> None:
    model = KeepsItsPrecision()
    with pytest.raises(DtypeError, match=r"KeepsItsPrecision computes in float64, .* can not be converted"):
        model.float()
    assert model.to("cpu", torch.float64).dtype is torch.float64


def test_a_sum_of_what_is_evaluated_trains_nothing() -> None:
    batch = batch_of()
    for training in (False, True):
        members = [SpringModel().train(training), LennardJonesModelWrapper(0.1, 2.0, CUTOFF)]  # which has no mode
        joint = PipelineModelWrapper([PipelineGroup(members, use_autograd=True)])
        for model in (joint, members[0] + members[1], CommitteeModelWrapper(members)):
            assert model.training is training
            assert model(batch)["energy"].requires_grad is training


def test_second_derivatives() -> None:
    model, batch = SpringModel(), batch_of()
    for exact, by_differences in zip(hessian(model, batch, step=None), hessian(model, batch, step=1e-4), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-5, atol=1e-6)


def test_embeddings_are_written_and_summed() -> None:
    model, batch = SpringModel(), batch_of()
    model.compute_embeddings(batch)
    sums = torch.zeros(batch.num_graphs, 1, dtype=torch.float64).index_add(0, batch.batch_idx, batch.node_embeddings)
    torch.testing.assert_close(batch.graph_embeddings, sums)


def test_an_unknown_element_is_refused_by_name_and_system() -> None:
    water = AtomicData(positions=torch.tensor([[0.0, 0, 0], [0.9, 0, 0]]), atomic_numbers=torch.tensor([8, 1]))
    iron = AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.tensor([26]))
    batch = Batch.from_data_list([water, iron])
    compute_neighbors(batch, CUTOFF)
    message = r"no parameters for Fe \(26\) in the system of index 1; it has some for H, O, Na, Si, Cl, Ar\. Leave the"
    with pytest.raises(InputError, match=message):
        SpringModel()(batch)


def test_labels_are_assumed_where_they_are_absent() -> None:
    systems = list(standard_systems().values())[:2]
    systems[1].charge = torch.tensor([[2.0]])
    batch = Batch.from_data_list(systems)
    compute_neighbors(batch, CUTOFF)
    graph = SpringModel().network_graph(batch)
    assert graph.label("charge").tolist() == [0.0, 2.0]
    assert graph.label("spin").tolist() == [1.0, 1.0]


def test_what_a_package_changes_for_the_process_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    state, filters = torch.get_rng_state(), list(warnings.filters)
    with process_left_alone():
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(3)
        torch.set_float32_matmul_precision("medium")
        warnings.simplefilter("ignore")
        print("welcome")
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == "highest"
    assert warnings.filters == filters
    assert capsys.readouterr().out == ""
    assert OptionalDependency.ASE.load().__name__ == "ase"
