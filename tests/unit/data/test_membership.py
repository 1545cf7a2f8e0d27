"""Systems are removed from a batch and replaced in it, and everything that belongs to a system goes along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from athanor.data import Batch, _levels, _membership
from athanor.data._levels import gather_rows
from athanor.errors import InputError, MissingFieldError, ShapeError
from athanor.neighbors import compute_neighbors
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model


def batch_of(*ids: int) -> Batch:
    """Systems of several sizes, each a function of its id alone, with a neighbour list, a group and state."""
    batch = Batch.from_data_list([argon_cluster(3 + k, k) if k % 2 else argon_crystal(1, k) for k in ids])
    compute_neighbors(batch, 6.0)
    sizes = batch.num_nodes_list
    batch.add_group(
        "bonds",
        [torch.tensor([[0, 1], [1, n - 1]]) if n > 4 else torch.zeros(0, 2, dtype=torch.long) for n in sizes],
        {"lengths": [torch.full((2 if n > 4 else 0,), float(k)) for k, n in zip(ids, sizes, strict=True)]},
    )
    rows = {"a": ("system", torch.tensor(ids).double()), "b": ("node", batch.system_id[batch.batch_idx, 0] * 10)}
    batch.set_state_rows("somebody", rows)
    return batch


def assert_holds(batch: Batch, *ids: int) -> None:
    """Every system has all that it has in a batch of its own."""
    assert batch.system_id.flatten().tolist() == list(ids), "other systems"
    state, group = batch.state_rows("somebody"), batch.group("bonds")
    assert state["a"].tolist() == list(ids), "state of the systems"
    assert torch.equal(state["b"], 10 * batch.system_id[batch.batch_idx, 0]), "state of the atoms"
    for place, number in enumerate(ids):
        alone, here = batch_of(number), batch.get_data(place)
        for name in ("positions", "atomic_numbers", "velocities", "cell", "neighbor_list", "neighbor_list_shifts"):
            assert name not in alone or torch.equal(here[name], alone.get_data(0)[name]), name
        mine = group.systems == place
        assert torch.equal(group.atoms[mine] - batch.batch_ptr[place], alone.group("bonds").atoms)
        assert torch.equal(group.values["lengths"][mine], alone.group("bonds").values["lengths"])


def test_remove() -> None:
    batch = batch_of(1, 2, 3, 4)
    before = batch.membership
    batch.remove_systems([1, 3])
    assert_holds(batch, 1, 3)
    assert batch.membership == before + 1
    batch.remove_systems([0, 1])
    assert len(batch) == 0


@pytest.mark.parametrize("places", [[0], [2], [3, 0], [0, 1, 2, 3]])
def test_replace_by_other_sizes(places: list[int]) -> None:
    batch = batch_of(1, 2, 3, 4)
    joining = [11, 12, 15, 16][: len(places)]
    batch.replace_systems(places, batch_of(*joining))
    ids = [1, 2, 3, 4]
    for place, number in zip(places, joining, strict=True):
        ids[place] = number
    assert_holds(batch, *ids)


def test_select_and_append_take_the_same_way() -> None:
    batch = batch_of(1, 2, 3).index_select([2, 0])
    batch.append(batch_of(8, 9))
    assert_holds(batch, 3, 1, 8, 9)
    assert_holds(batch.clone(), 3, 1, 8, 9)


def test_many_are_put_together_in_order_and_in_few() -> None:
    (batch,) = _membership.together([batch_of(1, 2), batch_of(4, 3), batch_of(8, 5, 6)])
    assert_holds(batch, 1, 2, 4, 3, 8, 5, 6)
    batch.append(batch_of(9))
    batch.remove_systems([1])
    assert_holds(batch, 1, 4, 3, 8, 5, 6, 9)
    others = [batch_of(number) for number in (1, 3, 5, 7, 9, 11)]
    others[2].drop_group("bonds")
    compute_neighbors(others[3], 5.0)
    others[5].pair_lists = tuple(pairs.widened() for pairs in others[5].pair_lists)
    found = _membership.together(others)
    assert [each.system_id.flatten().tolist() for each in found] == [[1, 3], [5], [7], [9], [11]]
    assert_holds(found[0], 1, 3)
    found[3].append(found[4])
    assert_holds(found[3], 9, 11)
    assert _membership.together([]) == []


def test_a_system_that_an_owner_of_state_does_not_know() -> None:
    batch, other = batch_of(1, 2), batch_of(3)
    other.drop_state_rows(["somebody"])
    batch.replace_systems(0, other)
    known = batch.known_to("somebody")
    assert known is not None
    assert known.tolist() == [False, True]
    assert batch.state_rows("somebody")["a"].tolist() == [0.0, 2.0]


def test_frames_hold_neither_state_nor_groups() -> None:
    frame = batch_of(1, 2).without_pairs()
    assert frame.state_rows("somebody") == {}
    with pytest.raises(MissingFieldError, match="no group `bonds`"):
        frame.group("bonds")


def test_what_can_not_be_replaced_is_refused() -> None:
    batch = batch_of(1, 2, 3)
    with pytest.raises(InputError, match="2 systems are to be replaced by 1"):
        batch.replace_systems([0, 1], batch_of(9))
    with pytest.raises(InputError, match="name each once"):
        batch.replace_systems([0, 0], batch_of(8, 9))
    with pytest.raises(InputError, match="shares storage"):
        batch.replace_systems(slice(None), batch)
    with pytest.raises(InputError, match=r"`bonds` of system 1 holds the atoms \[0, 9\]"):
        batch.add_group("bonds", [torch.zeros(0, 2), torch.tensor([[0, 9]]), torch.zeros(0, 2)])
    with pytest.raises(ShapeError, match="one row for each of 3 systems"):
        batch.set_state_rows("somebody", {"a": ("system", torch.zeros(2))})
    assert_holds(batch, 1, 2, 3)


def test_results_of_those_that_stay_are_fresh() -> None:
    batch, model = batch_of(1, 2, 3), argon_model()
    batch.mark_results_fresh(model, ["energy"])
    batch.remove_systems(0)
    assert batch.results_fresh(model, ["energy"])
    batch.replace_systems(0, batch_of(5))
    assert not batch.results_fresh(model, ["energy"])


def test_a_wrong_row_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: takes the row behind the right one."""
    batch = batch_of(1, 2, 3)
    monkeypatch.setattr(_levels, "gather_rows", lambda starts, counts: np.roll(gather_rows(starts, counts), 1))
    selected = batch.index_select([1, 2])
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="other systems"):
        assert_holds(selected, 2, 3)
