"""Networks that are evaluated in blocks of systems, on small ones of our own."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from athanor.data._levels import LevelStorage
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.pair_list import PairList
from athanor.errors import InputError
from athanor.models import CommitteeModelWrapper, hessian
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel
from athanor.models.network_blocks import blocks
from athanor.models.predicted import PredictingModel
from athanor.models.stored_list import require_pairs
from athanor.neighbors import NeighborConfig, compute_neighbors

CUTOFF = 4.0
EVERYTHING = {"energy", "atomic_energies", "charges", *DERIVATIVES, *EMBEDDINGS}


class Charged(LearnedModel):
    """Messages by vectors and by positions with shifts, charges that add up to that of the system, features."""

    def __init__(self, pairs_at_a_time: int | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(4, 4).double().requires_grad_(False), [1, 8, 18], embedding_width=4)
        self.pairs_at_a_time = pairs_at_a_time
        self.model_config = ModelConfig(
            outputs=frozenset(EVERYTHING),
            autograd_outputs=DERIVATIVES,
            optional_inputs=frozenset({"charge"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=CUTOFF),
            active_outputs=set(EVERYTHING),
        )
        self.calls: list[int] = []

    def network_outputs(self, graph: Any, wanted: Any) -> Mapping[str, torch.Tensor | None]:
        self.calls.append(graph.num_graphs)
        i, j = graph.edge_index
        by_places = graph.local_positions[j] - graph.local_positions[i] + graph.shifts
        left = torch.stack([(1.0 - (v**2).sum(1) / CUTOFF**2).clamp(min=0.0) for v in (graph.vectors, by_places)])
        kinds = self.element_index_of(graph.batch).double() * 0.1
        of_pairs = left.prod(0).unsqueeze(1) ** 2 * torch.stack((left[0], kinds[i], kinds[j], left[1] ** 2), 1)
        features = torch.tanh(self.model(of_pairs.new_zeros(graph.num_nodes, 4).index_add(0, i, of_pairs)))
        rest = graph.label("charge") - graph.system_sums(features[:, 0])
        charges = features[:, 0] + (rest / graph.ptr.diff())[graph.batch_idx]
        return {"atomic_energies": features[:, 1] + charges**2, "charges": charges, "node_embeddings": features}


class WithPredictedForces(Charged, PredictingModel):
    """The same, with forces that are no slope."""

    predicted = frozenset({"forces"})

    def network_outputs(self, graph: Any, wanted: Any) -> Mapping[str, torch.Tensor | None]:
        found = super().network_outputs(graph, wanted)
        sums = torch.zeros_like(graph.positions).index_add(0, graph.edge_index[0], graph.vectors)
        return {**found, "forces": sums} if "forces" in wanted else found


def batch_of(cutoff: float = CUTOFF + 0.5) -> Batch:
    """Crystals of one size and many charges, some of whose atoms are outside the cell, and molecules between them."""
    generator = torch.Generator().manual_seed(1)
    systems = []
    for number in range(6):
        corners = torch.tensor([[0, 0, 0], [0, 2.4, 2.4], [2.4, 0, 2.4], [2.4, 2.4, 0]]).double()
        corners += 0.1 * torch.randn(corners.shape, generator=generator).double()
        corners[number % 4] += 4.8 * torch.randint(-2, 3, (3,), generator=generator)
        system = {"positions": corners, "atomic_numbers": torch.tensor([18, 8, 18, 8]), "charge": torch.ones(1, 1)}
        if number in (2, 5):
            del system["charge"]
            system["positions"][:] = corners * 0.5
        else:
            system |= {"cell": 4.8 * torch.eye(3).double().unsqueeze(0), "pbc": torch.ones(1, 3, dtype=torch.bool)}
        systems.append(AtomicData(**system))
    batch = Batch.from_data_list(systems)
    compute_neighbors(batch, cutoff)
    return batch


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    assert one.keys() == other.keys() == EVERYTHING
    return {name: float((one[name] - other[name]).abs().max()) for name in one}


@pytest.mark.parametrize("model", [Charged, WithPredictedForces])
@pytest.mark.parametrize("pairs", [1, 150])
def test_a_batch_in_blocks_is_the_batch(model: type[Charged], pairs: int) -> None:
    """Energies, derivatives, charges and features of each system, in order."""
    in_blocks, whole = model(pairs), model()
    found, expected = in_blocks(batch_of()), whole(batch_of())
    assert whole.calls == [6]
    assert sum(in_blocks.calls) == 6 < 6 * len(in_blocks.calls)
    assert all(value.abs().max() > 1e-3 for value in expected.values())
    assert max(difference(found, expected).values()) < 1e-12
    assert not any(value.requires_grad for value in found.values())
    joint = CommitteeModelWrapper([model(pairs), model(pairs)])
    torch.testing.assert_close(joint(batch_of())["energy"], expected["energy"], rtol=1e-12, atol=1e-12)


OF_PAIRS, OF_ROWS = PairList.between, LevelStorage.between


def pairs_of_the_first(self: PairList, begin: int, end: int, nodes: LevelStorage) -> PairList:
    return OF_PAIRS(self, 0, end - begin, nodes)


def offsets_of_the_first(self: PairList, begin: int, end: int, nodes: LevelStorage) -> PairList:
    offsets = OF_PAIRS(self, 0, end - begin, nodes).wrap_offsets
    return OF_PAIRS(self, begin, end, nodes).replace(wrap_offsets=offsets)


def labels_of_the_first(self: LevelStorage, begin: int, end: int) -> LevelStorage:
    found, first = OF_ROWS(self, begin, end), OF_ROWS(self, 0, end - begin)
    return LevelStorage(
        found.counts, found.tensors | {name: first.tensors[name] for name in {"charge"} & {*found.tensors}}
    )


@pytest.mark.parametrize("twin", [pairs_of_the_first, offsets_of_the_first, labels_of_the_first])
def test_a_block_that_takes_rows_of_another_is_noticed(twin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken twins: what belongs to the first block, which has as many atoms, stands in the others too."""
    expected = Charged()(batch_of())
    monkeypatch.setattr(LevelStorage if twin is labels_of_the_first else PairList, "between", twin)
    assert difference(Charged(1)(batch_of()), expected)["energy"] > 1e-3


@pytest.mark.parametrize("pairs", [1, 150, 10**9])
def test_every_row_is_in_one_block(pairs: int) -> None:
    """In order, whatever the size of a block; a system is never split; labels and pairs go with their system."""
    batch = batch_of().shallow_view()
    batch.note = torch.arange(3)  # of neither atoms nor systems, as a view may hold it
    batch.weight = torch.arange(24.0)
    stored = require_pairs(Charged(), batch, CUTOFF)
    i, j, shifts = stored.pair_index(batch)
    found = list(blocks(batch, stored, pairs))
    atoms = systems = first = 0
    for block in found:
        pairs_of_block = require_pairs(Charged(), block, CUTOFF)
        rows, graphs, edges = slice(atoms, atoms + block.num_nodes), block.num_graphs, pairs_of_block.num_pairs
        for name in ("positions", "atomic_numbers", "weight"):
            assert torch.equal(block[name], batch[name][rows])
        for name in ("cell", "charge", "pbc"):
            assert torch.equal(block[name], batch[name][systems : systems + graphs])
        ours = pairs_of_block.pair_index(block)
        for value, whole in zip((ours.i + atoms, ours.j + atoms, ours.shifts), (i, j, shifts), strict=True):
            assert torch.equal(value, whole[first : first + edges])
        assert edges <= pairs or graphs == 1
        atoms, systems, first = rows.stop, systems + graphs, first + edges
    assert (atoms, systems, first) == (24, 6, len(i))
    assert (len(found) == 1) == (pairs == 10**9)
    assert found[0] is batch or len(found) > 1


def test_energy_alone_takes_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = Charged(1), []
    model.model_config.active_outputs = {"energy", "charges"}
    model.model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    expected = Charged()(batch_of())
    monkeypatch.setattr(torch.autograd, "grad", None)
    for name, value in model(batch_of()).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
    batch = batch_of()
    model.compute_embeddings(batch)
    assert seen == [False] * 12
    for name in EMBEDDINGS:
        torch.testing.assert_close(batch[name], expected[name], rtol=1e-12, atol=1e-12)


def test_what_is_differentiated_further_is_evaluated_at_once() -> None:
    model = Charged(1)
    for exact, by_differences in zip(hessian(model, batch_of(), step=None), hessian(model, batch_of()), strict=True):
        torch.testing.assert_close(exact, by_differences, rtol=1e-2, atol=1e-2)
    trained = Charged(1)
    trained.model.requires_grad_(True)
    assert trained.train()(batch_of())["forces"].requires_grad
    assert trained.calls == [6]
    assert not trained.eval()(batch_of())["forces"].requires_grad
    assert trained.calls == [6, *[1] * 6]


def test_works_in_inference_mode_and_changes_nothing() -> None:
    model, expected = Charged(1), Charged()(batch_of())
    with torch.inference_mode():
        batch = batch_of()
        before = batch.to_dict()
        found = model(batch)
        assert all(batch[name] is value for name, value in before.items())
    assert max(difference(found, expected).values()) < 1e-12


def test_what_a_block_needed_is_given_back() -> None:
    """Before the next one is evaluated: its graph is what large batches have no memory for."""
    alive: list[Any] = []

    class Watched(Charged):
        def network_outputs(self, graph: Any, wanted: Any) -> Mapping[str, torch.Tensor | None]:
            assert all(each() is None for each in alive)
            found = super().network_outputs(graph, wanted)
            alive.extend((weakref.ref(graph), weakref.ref(found["charges"])))
            return found

    Watched(1)(batch_of())
    assert len(alive) == 12


def test_messages_count_the_systems_of_the_batch() -> None:
    batch = batch_of()
    batch.atomic_numbers[batch.batch_ptr[4]] = 26
    with pytest.raises(InputError, match=r"Fe \(26\) in the system of index 4"):
        Charged(1)(batch)
    with pytest.raises(InputError, match=r"searched to 3 Å; Charged needs"):
        Charged(1)(batch_of(3.0))
    with pytest.raises(KeyError, match="no neighbour list"):
        Charged(1)(batch_of().without_pairs())
