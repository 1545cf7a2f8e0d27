"""A batch comes back from its tree with all that belongs to it, and goes on as the one that it was made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.data.fields import FieldSpec
from athanor.data.pair_request import PairRequest
from athanor.errors import InputError
from athanor.neighbors import compute_neighbors
from athanor.neighbors.skin import update_pair_list


def crystal(number: int, atoms: int = 4) -> AtomicData:
    generator = torch.Generator().manual_seed(number)
    return AtomicData(
        atomic_numbers=torch.full((atoms,), 18),
        positions=torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * 6,
        cell=torch.eye(3, dtype=torch.float64)[None] * 6,
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )


def plain() -> Batch:
    return Batch.from_data_list([crystal(1), crystal(2, 3)])


def with_custom_fields() -> Batch:
    batch = plain()
    batch.register_field(FieldSpec("never_stored", "node", (None, 2), "state", "Å", "nothing", dtype=torch.float32))
    batch.add_key("colour", [torch.tensor([1.5]), torch.tensor([float("nan")])], level="system")
    batch.ensure_field("velocities")
    return batch


def with_lists() -> Batch:
    batch = plain()
    for cutoff, skin, half in ((3.0, 0.5, False), (5.0, 1.0, False), (3.0, 0.5, True)):
        update_pair_list(batch, cutoff, skin, half)
    batch.positions[0] += 0.1
    update_pair_list(batch, 3.0, 0.5, False)
    return batch


def with_assigned_pairs() -> Batch:
    batch = plain()
    batch.neighbor_list = torch.tensor([[1, 0], [0, 1], [5, 4]], dtype=torch.int32)
    batch.neighbor_list_shifts = torch.tensor([[0, 0, 1], [0, 0, -1], [0, 0, 0]], dtype=torch.int32)
    batch.edge_embeddings = torch.arange(6.0).reshape(3, 2)
    return batch


def with_groups_and_state() -> Batch:
    batch = plain()
    batch.add_group(
        "bonds", [torch.tensor([[0, 1]]), torch.zeros(0, 2, dtype=torch.long)], {"r": [torch.ones(1), torch.ones(0)]}
    )
    batch.set_state_rows("engine", {"dt": ("system", torch.tensor([1.0, 2.0])), "v": ("node", torch.rand(7, 3))})
    return batch


def with_room() -> Batch:
    batch = plain()
    batch.reserve(5, 40)
    return batch


def with_results() -> Batch:
    batch = plain()
    batch.energy = torch.ones(2, 1, dtype=torch.float64)
    batch.mark_results_fresh(MODEL, {"energy"})
    return batch


def without_systems() -> Batch:
    return Batch.empty(template=plain())


class Model:
    """Somebody whose results they are."""


MODEL = Model()
MAKERS = [
    plain, with_custom_fields, with_lists, with_assigned_pairs, with_groups_and_state, with_room, with_results,
    without_systems,
]  # fmt: skip


def told(batch: Batch) -> dict[str, Any]:
    """What can be asked of a batch."""
    views = ("neighbor_list", "neighbor_matrix", "num_neighbors", "neighbor_list_shifts", "edge_embeddings")
    return {
        "fields": {name: value.tolist() for name, value in batch},
        "views": {name: batch[name].tolist() for name in views if name in batch},
        "custom": dict(batch.custom_fields),
        "lists": [
            repr(pairs) + repr(pairs.requests) + repr(sorted(pairs.usage.unrepeated)) for pairs in batch.pair_lists
        ],
        "groups": {name: [each.tolist() for each in batch.group(name)[:2]] for name in batch._groups},
        "rows": {key: {n: row.tolist() for n, row in batch.state_rows(key).items()} for key in batch.state_keys},
        "known": batch.known_to("engine"),
        "room": batch.system_capacity,
        "fresh": batch.fresh_results(),
        "device": batch.device,
    }


@pytest.mark.parametrize("make", MAKERS)
def test_a_batch_comes_back_with_all_that_belongs_to_it(make):
    batch = make()
    again = Batch.from_state_dict(batch.state_dict(), model=MODEL)
    one, other = told(batch), told(again)
    known = [one.pop("known"), other.pop("known")]
    assert str(one) == str(other)
    assert (known[0] is None) == (known[1] is None)
    again.debug()
    if len(batch):
        for each in (batch, again):
            each.append(Batch.from_data_list([crystal(3, 2)]))
            each.remove_systems([0])
        assert str(told(batch)["fields"]) == str(told(again)["fields"])


def test_lists_that_came_back_are_searched_again_when_they_would_have_been():
    for move in (0.0, 0.1, 0.3, 2.0):
        batch = with_lists()
        again = Batch.from_state_dict(with_lists().state_dict())
        for each in (batch, again):
            each.positions[1] += move
            for _ in range(3):
                update_pair_list(each, 3.0, 0.5, False)
        for one, other in zip(batch.pair_lists, again.pair_lists, strict=True):
            assert torch.equal(one.reference_positions, other.reference_positions), move
            assert torch.equal(one.neighbors, other.neighbors)
    forgetful = with_lists().state_dict()
    forgetful["pair_lists"][0]["reference_positions"] = torch.zeros(7, 3, dtype=torch.float64)  # mutant: no age
    again = Batch.from_state_dict(forgetful)
    update_pair_list(again, 3.0, 0.5, False)
    assert not torch.equal(again.pair_lists[0].reference_positions, with_lists().pair_lists[0].reference_positions)


def test_who_reads_a_list_is_remembered():
    batch = with_lists()
    batch.pair_lists[0].usage.unrepeated = {PairRequest(1.0, 0.5, False)}
    batch.pair_lists[0].usage.shorter_requests = {PairRequest(2.0, 0.25, True, 3)}
    usage = Batch.from_state_dict(batch.state_dict()).pair_lists[0].usage
    assert usage.unrepeated == {PairRequest(1.0, 0.5, False)}
    assert usage.shorter_requests == {PairRequest(2.0, 0.25, True, 3)}


def test_results_are_fresh_for_the_model_that_is_named_and_for_nobody_else():
    state = with_results().state_dict()
    other = Model()
    assert Batch.from_state_dict(state, model=other).results_fresh(other, {"energy"})
    assert Batch.from_state_dict(state).fresh_results() is None
    batch = with_results()
    batch.positions[0] += 1.0
    assert Batch.from_state_dict(batch.state_dict(), model=MODEL).fresh_results() is None


def test_the_tensors_are_those_of_the_batch():
    batch = plain()
    assert batch.state_dict()["levels"]["node"]["fields"]["positions"] is batch.positions
    compute_neighbors(batch, 3.0)
    assert batch.state_dict()["pair_lists"][0]["neighbors"] is batch.pair_list.neighbors


def _without(key: str):
    return lambda state: state.pop(key)


def _counts(state: dict[str, Any]) -> None:
    state["levels"]["node"]["counts"] = torch.tensor([4, -3])


def _rows(state: dict[str, Any]) -> None:
    state["levels"]["node"]["fields"]["positions"] = torch.zeros(2, 3)


def _dtype(state: dict[str, Any]) -> None:
    state["levels"]["node"]["fields"]["positions"] = torch.zeros(7, 3, dtype=torch.long)


def _levels(state: dict[str, Any]) -> None:
    state["levels"]["edge"]["counts"] = torch.zeros(3, dtype=torch.long)


def _name(state: dict[str, Any]) -> None:
    state["levels"]["node"]["fields"]["nobody"] = torch.zeros(7)


def _list(state: dict[str, Any]) -> None:
    state["pair_lists"][0]["row_ptr"] = torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    "damage", [_without("levels"), _without("fresh"), _counts, _rows, _dtype, _levels, _name, _list, _without("room")]
)
def test_what_is_no_state_is_refused(damage):
    batch = plain()
    compute_neighbors(batch, 3.0)
    state = batch.state_dict()
    damage(state)
    with pytest.raises(InputError):
        Batch.from_state_dict(state)
