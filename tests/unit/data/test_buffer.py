"""Batches as buffers: what is put in comes out bit for bit, in memory that is taken once; and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data import Batch, _put
from athanor.data._levels import Arrangement
from athanor.data._room import Room
from athanor.errors import DtypeError, InputError, MissingFieldError, ShapeError
from athanor.neighbors import compute_neighbors
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model
from athanor.testing.sink_contract import assert_equal, make_batch


def mask(*bits: int) -> torch.Tensor:
    return torch.tensor(bits, dtype=torch.bool)


def joined(*batches: Batch) -> Batch:
    """The systems of several batches, made without any buffer."""
    whole = batches[0].clone()
    for other in batches[1:]:
        whole.append(other)
    return whole


def with_state(*ids: int) -> Batch:
    """Systems of several sizes with neighbour lists, a group, and rows that somebody remembers."""
    batch = Batch.from_data_list([argon_cluster(3 + k, k) if k % 2 else argon_crystal(1, k) for k in ids])
    compute_neighbors(batch, 6.0)
    batch.add_group("bonds", [torch.tensor([[0, n - 1]]) for n in batch.num_nodes_list])
    rows = {"a": ("system", torch.tensor(ids).double()), "b": ("node", batch.system_id[batch.batch_idx, 0] * 10)}
    batch.set_state_rows("somebody", rows)
    return batch


def assert_same_with_state(found: Batch, wanted: Batch) -> None:
    """Fields, pairs, groups and remembered rows are equal."""
    assert_equal(found, wanted)
    for name in ("neighbor_list", "neighbor_list_shifts"):
        assert torch.equal(found[name], wanted[name]), name
    assert torch.equal(found.group("bonds").atoms, wanted.group("bonds").atoms), "bonds"
    mine, theirs = found.state_rows("somebody"), wanted.state_rows("somebody")
    assert all(torch.equal(mine[name], theirs[name]) for name in ("a", "b")), "state"


# ------------------------------------------------------------------------------------ one check for each known fault
def check_all_dtypes_and_levels() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=5, num_nodes=20, template=source)
    buffer.put(source, mask(1, 0, 1))
    assert_equal(buffer, source.index_select([0, 2]))
    source = with_state(1, 2, 3)
    buffer = Batch.empty(num_systems=5, num_nodes=200, num_edges=20_000, template=source)
    buffer.put(source, mask(1, 0, 1))
    assert_same_with_state(buffer, source.index_select([0, 2]))
    buffer.put(with_state(8, 5), mask(0, 1))
    assert_same_with_state(buffer, joined(source.index_select([0, 2]), with_state(8, 5).index_select([1])))


def check_places_are_planned_once() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=4, num_nodes=20, template=source)
    for wanted in ((1, 0, 0), (0, 1, 1)):
        buffer.put(source, mask(*wanted))
    assert_equal(buffer, source)


def check_free_places_need_not_be_neighbours() -> None:
    first, second = make_batch(0, (2, 1, 3, 1)), make_batch(10, (5, 1, 2))
    buffer = Batch.empty(num_systems=5, num_nodes=30, template=first)
    buffer.put(first, mask(1, 1, 1, 1))
    taken = mask(0, 1, 0, 1, 0)
    buffer.put(second, mask(1, 1, 1), dest_mask=taken)
    assert bool(taken.all())
    one = [first, second]
    assert_equal(buffer, joined(*(one[w].index_select([i]) for w, i in ((1, 0), (0, 1), (1, 1), (0, 3), (1, 2)))))


def check_only_wanted_systems_need_room() -> None:
    source = make_batch(0, (9,) * 9 + (1,))
    buffer = Batch.empty(num_systems=4, num_nodes=4, template=source)
    copied = mask(*[1] * 10)
    buffer.put(source, mask(*[0] * 9, 1), copied_mask=copied)
    assert copied.tolist() == [False] * 9 + [True]
    assert_equal(buffer, source.index_select([9]))


def check_memory_is_taken_once() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=9, num_nodes=18, template=source)
    buffer.put(source, mask(1, 1, 1))
    places = {name: buffer[name].data_ptr() for name in buffer.field_names("node") + buffer.field_names("system")}
    for _ in range(2):
        for start in (10, 20):
            buffer.put(make_batch(start), mask(1, 1, 1))
        assert buffer.num_graphs == buffer.system_capacity == 9
        assert {name: buffer[name].data_ptr() for name in places} == places
        buffer.defrag(mask(*[1] * 6, 0, 0, 0))
        assert_equal(buffer, make_batch(20))
    buffer.zero()
    assert buffer.system_capacity == 9
    buffer.put(source, mask(1, 1, 1))
    assert {name: buffer[name].data_ptr() for name in places} == places
    assert_equal(buffer, source)


def check_sizes_are_those_of_what_is_there() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=8, num_nodes=40, num_edges=50, template=source)
    assert (buffer.num_graphs, buffer.num_nodes, buffer.num_edges, buffer.num_nodes_list) == (0, 0, 0, [])
    buffer.put(source, mask(0, 1, 1))
    assert (buffer.num_graphs, buffer.num_nodes, buffer.system_capacity) == (2, 4, 8)
    assert buffer.batch_ptr.tolist() == [0, 1, 4]
    assert buffer.positions.shape == (4, 3)
    assert buffer.batch_idx.tolist() == [0, 1, 1, 1]
    buffer.zero()
    assert (buffer.num_graphs, buffer.num_nodes, buffer.num_edges, buffer.system_capacity) == (0, 0, 0, 8)
    assert buffer.positions.shape == (0, 3)


def check_what_does_not_fit_stays_with_its_batch() -> None:
    source, whole = make_batch(0, (2, 4, 1)), make_batch(0, (2, 4, 1))
    for sizes in ({"num_systems": 5, "num_nodes": 5}, {"num_systems": 1, "num_nodes": 50}):
        buffer, active = Batch.empty(template=source, **sizes), source.clone()
        buffer.put(active, mask(1, 1, 1))  # one that does not fit is not overtaken by a smaller one
        assert_equal(buffer, whole.index_select([0]))
        left = active.trim()
        assert left is not None
        assert_equal(joined(buffer, left), whole)
        assert_equal(active, whole)
        active.defrag()
        assert_equal(active, left)


def check_pairs_need_room() -> None:
    source = with_state(1, 3)
    buffer = Batch.empty(num_systems=5, num_nodes=200, num_edges=source.num_edges_list[0] + 1, template=source)
    copied = mask(0, 0)
    buffer.put(source, mask(1, 1), copied_mask=copied)
    assert copied.tolist() == [True, False]
    assert_same_with_state(buffer, with_state(1))


def check_the_rest_is_zero() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=4, num_nodes=12, template=source)
    buffer.put(source, mask(1, 1, 1))
    memory = torch.as_strided(buffer.forces, (12, 3), (3, 1))
    assert bool(memory[:6].all())
    buffer.defrag(mask(1, 0, 1))
    assert not bool(memory[1:].any()), "what left is still there"
    buffer.zero()
    assert not bool(memory.any()), "what was thrown away is still there"


def check_states_are_not_those_of_a_model() -> None:
    model, source = argon_model(), with_state(1, 3)
    source.mark_results_fresh(model, ["forces"])
    buffer = Batch.empty(num_systems=5, num_nodes=200, template=source)
    buffer.put(source, mask(1, 1))
    buffer.mark_results_fresh(model, ["forces"])
    buffer.put(with_state(5), mask(1))
    assert not buffer.results_fresh(model, ["forces"]), "results of a newcomer count as those of a model"
    source.defrag(mask(1, 0))
    assert source.results_fresh(model, ["forces"])


# --------------------------------------------------------------------------------------------------- broken twins
def _patched(monkeypatch: Any, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))


def only_single_precision(monkeypatch: Any) -> None:
    def wrap(write: Any) -> Any:
        def twin(self: Any, memory: Any, here: Any, there: Any) -> Any:
            return write(self, memory, here, there if there.dtype == torch.float32 else torch.zeros_like(there))

        return twin

    _patched(monkeypatch, _put._Move, "write", wrap)


def next_free_places_for_each_field(monkeypatch: Any) -> None:
    def wrap(write: Any) -> Any:
        def twin(self: Any, memory: Any, here: Any, there: Any) -> Any:
            result = write(self, memory, here, there)
            if there.dtype != torch.int64:
                result[self.used :] = result[self.used :].roll(1, 0)
            return result

        return twin

    _patched(monkeypatch, _put._Move, "write", wrap)


def counts_up_from_the_first_free_place(monkeypatch: Any) -> None:
    def wrap(planned: Any) -> Any:
        def twin(batch: Any, other: Any, room: Any, wanted: Any, taken: Any) -> Any:
            plan = planned(batch, other, room, wanted, taken)
            places = plan.places[0] + np.arange(len(plan.places)) if len(plan.places) else plan.places
            order, joining = np.arange(len(plan.arrangement.systems)), np.zeros(len(plan.arrangement.systems), bool)
            order[places], joining[places] = plan.systems, True
            order[~joining] = np.minimum(order[~joining], len(batch) - 1)
            return plan._replace(places=places, arrangement=Arrangement(order, joining))

        return twin

    _patched(monkeypatch, _put, "_planned", wrap)


def wants_room_for_all(monkeypatch: Any) -> None:
    def wrap(planned: Any) -> Any:
        def twin(batch: Any, other: Any, room: Any, wanted: Any, taken: Any) -> Any:
            if other.num_nodes > room.rows["node"] - batch.num_nodes:
                wanted = np.zeros_like(wanted)
            return planned(batch, other, room, wanted, taken)

        return twin

    _patched(monkeypatch, _put, "_planned", wrap)


def takes_memory_each_time(monkeypatch: Any) -> None:
    def wrap(memory: Any) -> Any:
        def twin(self: Any, level: Any, name: Any, like: Any) -> Any:
            self._memory.pop((level, name), None)
            return memory(self, level, name, like)

        return twin

    _patched(monkeypatch, Room, "memory", wrap)


def shows_all_memory(monkeypatch: Any) -> None:
    def wrap(write: Any) -> Any:
        def twin(self: Any, memory: Any, here: Any, there: Any) -> Any:
            write(self, memory, here, there)
            return memory

        return twin

    _patched(monkeypatch, _put._Move, "write", wrap)


def forgets_what_did_not_fit(monkeypatch: Any) -> None:
    def wrap(copied_systems: Any) -> Any:
        def twin(batch: Any, copied_mask: Any, caller: str) -> Any:
            return np.ones_like(copied_systems(batch, copied_mask, caller))

        return twin

    _patched(monkeypatch, _put, "copied_systems", wrap)


def does_not_count_pairs(monkeypatch: Any) -> None:
    def wrap(planned: Any) -> Any:
        def twin(batch: Any, other: Any, room: Any, wanted: Any, taken: Any) -> Any:
            return planned(batch, other, Room({**room.rows, "edge": 0}), wanted, taken)

        return twin

    _patched(monkeypatch, _put, "_planned", wrap)


def leaves_the_rest(monkeypatch: Any) -> None:
    monkeypatch.setattr(Room, "clear", lambda self, level, used=0: None)


def keeps_results(monkeypatch: Any) -> None:
    def wrap(copy_: Any) -> Any:
        def twin(batch: Any, *rest: Any) -> None:
            fresh = batch.fresh_results()
            copy_(batch, *rest)
            if fresh is not None:
                batch.mark_results_fresh(*fresh)

        return twin

    _patched(monkeypatch, _put, "_copy", wrap)


CHECKS: dict[Callable[[], None], Callable[[Any], None]] = {
    check_all_dtypes_and_levels: only_single_precision,
    check_places_are_planned_once: next_free_places_for_each_field,
    check_free_places_need_not_be_neighbours: counts_up_from_the_first_free_place,
    check_only_wanted_systems_need_room: wants_room_for_all,
    check_memory_is_taken_once: takes_memory_each_time,
    check_sizes_are_those_of_what_is_there: shows_all_memory,
    check_what_does_not_fit_stays_with_its_batch: forgets_what_did_not_fit,
    check_pairs_need_room: does_not_count_pairs,
    check_the_rest_is_zero: leaves_the_rest,
    check_states_are_not_those_of_a_model: keeps_results,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_buffers(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: CHECKS[check].__name__)
def test_a_broken_twin_is_told(check: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    CHECKS[check](monkeypatch)
    with pytest.raises(AssertionError):
        check()


# --------------------------------------------------------------------------------------------------- any life of one
moves = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "place", "defrag", "zero", "append"]),
        st.lists(st.integers(1, 4), min_size=1, max_size=4),
        st.integers(0, 15),
        st.integers(0, 255),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(moves, st.integers(1, 6), st.integers(1, 14))
def test_a_buffer_is_like_a_list_of_systems(moves, systems, atoms):
    """Any sequence of calls leaves what the same calls leave in a list of systems."""
    buffer = Batch.empty(num_systems=systems, num_nodes=atoms, template=make_batch(0))
    held: list[Batch] = []
    for number, (what, sizes, bits, places) in enumerate(moves):
        source = make_batch(10 * number + 1, tuple(sizes))
        wanted = torch.tensor([bool(bits >> i & 1) for i in range(len(sizes))])
        room, rows = max(systems, len(held)), max(atoms, sum(one.num_nodes for one in held))
        if what in ("put", "place"):
            taken = torch.zeros(room, dtype=torch.bool)
            for i in range(len(held)):
                taken[i] = what == "put" or bool(places >> i & 1)
            copied = torch.zeros(len(sizes), dtype=torch.bool)
            buffer.put(source, wanted, copied_mask=copied, dest_mask=taken if what == "place" else None)
            assert not bool((copied & ~wanted).any())
            free = (i for i in range(room) if i >= len(held) or (what == "place" and not places >> i & 1))
            free_places, fits = list(free), []
            for i in wanted.nonzero().flatten().tolist():
                if len(fits) == len(free_places):
                    break
                place, after = free_places[len(fits)], list(held)
                after[place : place + 1] = [source.index_select([i])]
                if sum(one.num_nodes for one in after) > rows:
                    break
                held = after
                fits.append(i)
            assert copied.nonzero().flatten().tolist() == fits
            if what == "place":
                assert all(bool(taken[place]) for place in free_places[: len(fits)])
        elif what == "defrag" and held:
            gone = torch.tensor([bool(places >> i & 1) for i in range(len(held))])
            stays = buffer.trim(gone)
            assert buffer.defrag(gone) is buffer
            held = [one for one, leaves in zip(held, gone.tolist(), strict=True) if not leaves]
            assert (stays is None) == (not held)
            if stays is not None:
                assert_equal(stays, joined(*held))
        elif what == "zero":
            buffer.zero()
            held = []
        elif what == "append":
            buffer.append(source)
            held += [source.index_select([i]) for i in range(len(sizes))]
            systems, atoms = max(systems, len(held)), max(atoms, sum(one.num_nodes for one in held))
        if held:
            assert_equal(buffer, joined(*held))
        assert (buffer.num_graphs, buffer.num_nodes) == (len(held), sum(one.num_nodes for one in held))
        assert buffer.system_capacity == max(systems, len(held))


def test_copies_of_a_buffer_have_its_room() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=7, num_nodes=20, template=source)
    buffer.put(source, mask(1, 1, 0))
    for twin in (buffer.clone(), copy.copy(buffer), copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
        assert twin.system_capacity == 7
        assert twin.positions.data_ptr() != buffer.positions.data_ptr()
        twin.put(make_batch(10, (1,)), mask(1))
        assert_equal(twin, joined(source.index_select([0, 1]), make_batch(10, (1,))))
    assert buffer.to(torch.float32).system_capacity == 7
    assert_equal(buffer, source.index_select([0, 1]))
    assert buffer[[0]].system_capacity == 1
    assert len(pickle.dumps(buffer)) < 20_000
    assert "num_graphs=2 of at most 7" in repr(buffer)


def test_what_is_assigned_to_a_buffer_is_taken_along() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=7, num_nodes=20, template=source)
    buffer.put(source, mask(1, 1, 1))
    buffer.forces = source.forces + 1.0
    buffer.dipole = torch.ones(3, 3, dtype=torch.float64)
    buffer.put(source, mask(0, 1, 0))
    assert torch.equal(buffer.forces, torch.cat([source.forces + 1.0, source.forces[2:3]]))
    assert buffer.dipole[:3].tolist() == [[1.0] * 3] * 3
    assert bool(buffer.dipole[3].isnan().all())
    del buffer["dipole"]
    buffer.put(source, mask(0, 1, 0))
    assert "dipole" not in buffer


def test_a_run_in_a_buffer_is_the_run_of_its_systems() -> None:
    from athanor.dynamics import NVE

    source = with_state(1, 2, 3)
    alone = source.index_select([0, 2])
    buffer = Batch.empty(num_systems=4, num_nodes=300, template=source)
    buffer.put(source, mask(1, 0, 1))
    for batch in (alone, buffer):
        model = argon_model()
        NVE(model, dt=1.0, hooks=model.make_neighbor_hooks(), keep_velocities=True).run(batch, 5)
    for name in ("positions", "velocities", "forces", "energy"):
        assert torch.equal(buffer[name], alone[name]), name


def test_pairs_stay_behind_without_room_for_them() -> None:
    source = with_state(1, 3)
    buffer = Batch.empty(num_systems=4, num_nodes=100, template=source)
    buffer.put(source, mask(1, 1))
    assert buffer.pair_list is None
    source.edge_embeddings = torch.ones(source.num_edges, 2, dtype=torch.float64)
    with pytest.warns(UserWarning, match="`edge_embeddings` belonged to the pairs"):
        buffer.put(source, mask(1, 0))
    buffer = Batch.empty(num_systems=4, num_nodes=100, num_edges=1000, template=source)
    buffer.put(source, mask(0, 1))
    assert torch.equal(buffer.edge_embeddings, source.index_select([1]).edge_embeddings)


def test_other_modes_and_gradients() -> None:
    with torch.inference_mode():
        source = make_batch(0)
        buffer = Batch.empty(num_systems=4, num_nodes=20, template=source)
        buffer.put(source, mask(1, 0, 0))
    buffer.put(make_batch(10, (1,)), mask(1))
    source = make_batch(20, (2,))
    source.positions.requires_grad_(True)
    buffer.put(source, mask(1))
    assert not buffer.positions.requires_grad
    assert buffer.system_id.flatten().tolist() == [0, 10, 20]


def test_mistakes() -> None:
    source = make_batch(0)
    buffer = Batch.empty(num_systems=4, num_nodes=20, template=source)
    buffer.put(source, mask(1, 0, 0))
    before, all_of_it, single = buffer.clone(), mask(1, 1, 1), source.to(torch.float32)
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ShapeError, r"`mask` has shape \(2,\); `src_batch` has 3 systems", lambda: buffer.put(source, mask(1, 1))),
        (InputError, "`mask` must be a bool tensor", lambda: buffer.put(source, torch.ones(3))),
        (ShapeError, "`copied_mask` has shape", lambda: buffer.put(source, all_of_it, copied_mask=mask(1))),
        (ShapeError, "`dest_mask` .* has room for 4", lambda: buffer.put(source, all_of_it, dest_mask=mask(1))),
        (InputError, "place 1 is taken", lambda: buffer.put(source, all_of_it, dest_mask=mask(1, 1, 0, 0))),
        (InputError, "shares storage", lambda: buffer.put(buffer, mask(1))),
        (InputError, "`src_batch` is a list", lambda: buffer.put([source], all_of_it)),
        (DtypeError, "the buffer holds torch.float64, and nothing is rounded", lambda: buffer.put(single, all_of_it)),
        (InputError, "defrag requires copied_mask or a prior put", lambda: buffer.defrag()),
        (InputError, "trim requires copied_mask or a prior put", lambda: buffer.trim()),
        (ShapeError, "`copied_mask` has shape", lambda: buffer.defrag(mask(1, 1))),
        (InputError, "negative", lambda: buffer.reserve(-1)),
    ]  # fmt: skip
    for error, text, call in cases:
        with pytest.raises(error, match=text):
            call()
    lacking = source.clone()
    del lacking["my_bytes"]
    with pytest.raises(MissingFieldError, match="`my_bytes` is missing from the Batch that is put into it"):
        buffer.put(lacking, all_of_it)
    wide = source.clone()
    wide.add_key("my_flags", [torch.ones(n, 2, dtype=torch.bool) for n in (2, 1, 3)], overwrite=True)
    with pytest.raises(InputError, match="`my_flags`"):
        buffer.put(wide, all_of_it)
    assert_equal(buffer, before)


DTYPES = [torch.complex64, torch.complex128, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout_arrives(dtype: torch.dtype) -> None:
    def values(rows: int, start: int) -> torch.Tensor:
        return (torch.arange(rows * 6).reshape(rows, 2, 3) + start).to(dtype)

    batches = []
    for start in (0, 10, 20):
        batch = make_batch(start)
        batch.add_key("mine", list(values(6, start).split(batch.num_nodes_list)), level="node")
        batch.add_key("turned", list(values(3, start).split(1)), level="system")
        batch.turned = values(9, start).reshape(2, 3, 9).permute(2, 0, 1)[::3]
        batch.add_key("shared", list(values(3, 7).split(1)), level="system")
        batch.shared = values(1, start).expand(3, 2, 3)
        batches.append(batch)
    buffer = Batch.empty(num_systems=9, num_nodes=18, template=batches[0])
    buffer.put(batches[0], mask(1, 1, 1))
    buffer.put(batches[1], mask(1, 0, 1))
    buffer.put(batches[2], mask(1, 1, 1), dest_mask=mask(0, 1, 0, 1, 0, 0, 0, 0, 0))
    one, two, three = batches
    places = [three[[0]], one[[1]], three[[1]], two[[0]], three[[2]]]
    assert_equal(buffer, joined(*places))


def test_a_put_is_forgotten_when_the_systems_change() -> None:
    source = make_batch(0)
    Batch.empty(num_systems=1, num_nodes=9, template=source).put(source, mask(1, 1, 1))
    source.append(make_batch(10, (1,)))
    with pytest.raises(InputError, match="trim requires copied_mask or a prior put"):
        source.trim()
    assert source.trim(mask(1, 1, 1, 1)) is None
