"""Several hooks and models on one batch: as few lists as serve them, each with its own age."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from athanor.data.batch import Batch
from athanor.dynamics import NVE
from athanor.errors import InputError, ShapeError
from athanor.hooks import DynamicsStage, HookContext, NeighborListHook, WrapPeriodicHook
from athanor.kernels.neighbor_list import _reference
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.stored_list import require_pairs
from athanor.neighbors import NeighborConfig, compute_neighbors, skin
from athanor.neighbors.lookup import show_pairs
from athanor.neighbors.plan import LARGEST_SHARED_RATIO
from athanor.testing.systems import fcc_crystal

SKIN = 0.5


def crystals(*repeats: int, temperature: float = 0.0) -> Batch:
    batch = Batch.from_data_list(
        [fcc_crystal(3.8, repeat=(repeat,) * 3, jitter=0.1, seed=index) for index, repeat in enumerate(repeats)]
    )
    if temperature:
        generator = torch.Generator().manual_seed(3)
        batch.velocities = temperature * torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
    return batch


def hook(cutoff: float, skin: float = SKIN, half: bool = False, width: int | None = None) -> NeighborListHook:
    return NeighborListHook(NeighborConfig(cutoff=cutoff, half_list=half), skin=skin, max_neighbors=width)


def call(batch: Batch, *hooks: NeighborListHook | WrapPeriodicHook) -> None:
    for one in hooks:
        one(HookContext(batch=batch), DynamicsStage.BEFORE_COMPUTE)


def cutoffs(batch: Batch) -> list[float]:
    return [pairs.cutoff for pairs in batch.pair_lists]


def argon(cutoff: float) -> LennardJonesModelWrapper:
    return LennardJonesModelWrapper(0.0104, 3.4, cutoff)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Radius of every search that is made."""
    found, search = [], skin.build_neighbor_list

    def noted(*arguments):
        made = search(*arguments)  # or tells that it needs wider images
        found.append(arguments[4])
        return made

    monkeypatch.setattr(skin, "build_neighbor_list", noted)
    return found


def run(order: tuple[float, ...], model_cutoff: float, batch: Batch | None = None) -> Batch:
    batch = crystals(2, temperature=0.05) if batch is None else batch
    engine = NVE(argon(model_cutoff), dt=2.0)
    for cutoff in order:
        engine.register_hook(hook(cutoff))
    engine.run(batch, 20)
    return batch


@pytest.mark.parametrize("order", [(8.0, 6.0), (6.0, 8.0)])
@pytest.mark.parametrize("model_cutoff", [8.0, 6.0])
def test_two_hooks_keep_a_list_each(order: tuple[float, ...], model_cutoff: float, builds: list[float]) -> None:
    """Each used to throw the list of the other away, 42 builds in 20 steps, and the model refused the shorter one."""
    alone = run((model_cutoff,), model_cutoff)
    once = len(builds)
    both = run(order, model_cutoff)
    assert once < 4
    assert len(builds) - once <= 2 * once
    assert sorted(set(builds)) == [6.5, 8.5]
    assert sorted(cutoffs(both)) == [6.0, 8.0]
    for name in ("positions", "velocities", "forces", "energy"):
        assert torch.equal(both[name], alone[name]), name


def test_a_run_in_which_a_system_stands_still_keeps_both_lists(builds: list[float]) -> None:
    batch = crystals(2, 1, temperature=0.05)
    alone = run((6.0,), 6.0, batch.index_select([0]))
    once = len(builds)
    batch.ensure_field("status")
    batch.status[1] = NVE(argon(6.0), dt=2.0).exit_status
    run((8.0, 6.0), 6.0, batch)
    assert sorted(cutoffs(batch)) == [6.0, 8.0]
    assert len(builds) - once <= 2 * once
    assert torch.equal(batch.positions[batch.batch_idx == 0], alone.positions)
    searched = len(builds)
    call(batch, hook(6.0), hook(8.0))
    assert len(builds) == searched + 2, "the system that stood still is searched for each list, once"
    assert_complete(batch)


@pytest.mark.parametrize("order", [(8.0, 7.5), (7.5, 8.0)])
def test_nearly_equal_cutoffs_share_a_list(order: tuple[float, ...], builds: list[float]) -> None:
    alone = run((7.5,), 7.5)
    builds.clear()
    both = run(order, 7.5)
    assert cutoffs(both) == [8.0]
    assert set(builds[1:]) <= {8.5}
    # pairs beyond the cutoff add nothing, but move others to other lanes of a sum
    torch.testing.assert_close(both.positions, alone.positions, rtol=0.0, atol=1e-12)


def test_the_hook_that_ran_last_and_the_model_at_hand_decide_what_is_shown() -> None:
    batch = crystals(2)
    call(batch, hook(8.0), hook(4.0))
    assert (batch._neighbor_list_cutoff, batch.neighbor_list_radius) == (4.0, 4.5)
    short = batch.neighbor_list
    show_pairs(batch, NeighborConfig(cutoff=8.0))
    assert (batch._neighbor_list_cutoff, batch.neighbor_list_radius) == (8.0, 8.5)
    assert len(batch.neighbor_list) == batch.num_edges > 3 * len(short)
    show_pairs(batch, NeighborConfig(cutoff=4.0))
    assert batch.neighbor_list is short, "views are kept while another list is shown"
    shown = batch.pair_lists
    show_pairs(batch, None)
    show_pairs(batch, NeighborConfig(cutoff=20.0))
    assert batch.pair_lists is shown, "nothing is enough for that model; it will say so itself"


class Sees(LennardJonesModelWrapper):
    """A wrapper that reads the public names, and notes which list they show, and how far it reaches."""

    seen: set[tuple[float, float]]

    def forward(self, data, **kwargs):
        self.seen.add((data._neighbor_list_cutoff, data.neighbor_list_radius))
        assert len(data.shallow_view().neighbor_list) == len(data.neighbor_list)
        i, j = data.neighbor_list.long().unbind(1)
        assert torch.equal(data.num_neighbors, torch.bincount(i, minlength=data.num_nodes).int())
        assert data.neighbor_matrix.shape[1] == int(data.num_neighbors.max())
        vectors = data.positions[j] - data.positions[i]
        vectors = vectors + torch.einsum("ea,eac->ec", data.neighbor_list_shifts.double(), data.cell[data.batch_idx[i]])
        assert 0.8 * self.cutoff < float(vectors.norm(dim=1).max()) < self.cutoff
        return super().forward(data, **kwargs)


@pytest.mark.parametrize("order", [(8.0, 4.0), (4.0, 8.0)])
@pytest.mark.parametrize("cutoff", [8.0, 4.0])
def test_in_a_run_the_public_names_show_the_list_of_the_model(order: tuple[float, ...], cutoff: float) -> None:
    model = Sees(0.0104, 3.4, cutoff)
    model.seen = set()
    engine = NVE(model, dt=2.0)
    for one in order:
        engine.register_hook(hook(one))
    engine.run(crystals(2, temperature=0.05), 5)
    assert model.seen == {(cutoff, cutoff)}, "pairs within the skin are not shown to a model"


def test_a_short_model_reads_its_own_pairs_only() -> None:
    batch, model = crystals(2), argon(4.0)
    call(batch, hook(4.0))
    own = require_pairs(model, batch, 4.0)
    energy = model(batch)["energy"]
    call(batch, hook(12.0))
    assert batch.pair_list.num_pairs > 10 * own.num_pairs
    assert require_pairs(model, batch, 4.0).num_pairs == own.num_pairs
    assert torch.equal(model(batch)["energy"], energy)


def test_a_model_that_had_to_read_a_far_longer_list_gets_its_own_at_the_next_step() -> None:
    batch, model, long = crystals(2), argon(4.0), hook(12.0)
    call(batch, long)
    energy = model(batch)["energy"]
    assert cutoffs(batch) == [12.0]
    for _ in range(3):
        call(batch, long)
        assert cutoffs(batch) == [12.0, 4.0]
        assert require_pairs(model, batch, 4.0).radius == 4.0 + SKIN
        assert torch.equal(model(batch)["energy"], energy)
        batch.positions[0, 0] += 2 * SKIN
        batch.positions[0, 0] -= 2 * SKIN
    for _ in range(2):  # the model is not used any more
        batch.positions[0] += SKIN
        call(batch, long)
    assert cutoffs(batch) == [12.0]


def test_one_list_made_by_hand_at_the_largest_cutoff_serves_every_model() -> None:
    batch = crystals(2)
    energies = []
    for cutoff in (4.0, 8.0):
        compute_neighbors(batch, cutoff)
        energies.append(argon(cutoff)(batch)["energy"])
    for cutoff, energy in zip((4.0, 8.0), energies, strict=True):
        assert torch.equal(argon(cutoff)(batch)["energy"], energy)
    assert cutoffs(batch) == [8.0]


def test_ages_are_independent() -> None:
    batch, long, short = crystals(2, 2), hook(8.0, 1.0), hook(5.0, 0.4)
    call(batch, long, short)

    def searched_again() -> list[list[bool]]:
        """Rows of the long list, then of the short one, that have new references, system by system."""
        before = sorted(batch.pair_lists, key=lambda pairs: -pairs.radius)
        call(batch, long, short)
        after = sorted(batch.pair_lists, key=lambda pairs: -pairs.radius)
        changed = [(a.reference_positions != b.reference_positions).any(1) for a, b in zip(before, after, strict=True)]
        return [[bool(rows[batch.batch_idx == system].any()) for system in range(2)] for rows in changed]

    batch.positions[0, 0] += 0.25
    assert searched_again() == [[False, False], [True, False]]
    batch.positions[-1, 1] += 0.15
    assert searched_again() == [[False, False], [False, False]]
    batch.positions[0, 0] += 0.3
    assert searched_again() == [[True, False], [True, False]]


def test_every_list_is_complete_after_any_hook() -> None:
    batch = crystals(2)
    call(batch, hook(8.0), hook(5.0))
    batch.positions[0] += 0.4
    call(batch, hook(8.0))
    assert all(torch.equal(pairs.reference_positions, batch.positions) for pairs in batch.pair_lists)


@pytest.mark.parametrize("lengths", [(8.0, 6.0), (8.0, 7.5)])
def test_what_nobody_asks_for_any_more_is_not_searched_again(lengths: tuple[float, float]) -> None:
    batch = crystals(2)
    long, short = (hook(length) for length in lengths)
    for _ in range(3):
        batch.positions[0] += SKIN
        call(batch, long, short)
    for _ in range(2):
        batch.positions[0] += SKIN
        call(batch, short)
    assert cutoffs(batch) == [lengths[1]]
    assert batch.neighbor_list_radius == lengths[1] + SKIN


def test_a_hook_that_comes_every_tenth_step_finds_its_list_complete() -> None:
    batch, often, rare = crystals(2), hook(5.0), hook(8.0)
    for step in range(40):
        batch.positions[0] += 0.05
        call(batch, often)
        if step % 10 == 0:
            call(batch, rare)
            assert batch._neighbor_list_cutoff == 8.0
            assert_complete(batch)


def test_hooks_without_skin_list_exactly_their_pairs_and_search_once(builds: list[float]) -> None:
    batch = crystals(2)
    for _ in range(3):
        batch.positions[0] += 0.01
        call(batch, hook(6.0, 0.0), hook(6.0, 0.0), hook(5.9, 0.0))
    assert sorted(builds) == [5.9] * 3 + [6.0] * 3
    assert batch.neighbor_list_radius == 5.9


def test_half_and_full_lists_stand_beside_each_other() -> None:
    batch = crystals(2)
    call(batch, hook(6.0, half=True), hook(6.0))
    full, half = batch.pair_lists
    assert (full.half, half.half) == (False, True)
    assert full.num_pairs == 2 * half.num_pairs
    for prefers_half, expected in ((True, half), (False, full)):
        model = LennardJonesModelWrapper(0.0104, 3.4, 6.0, half_list=prefers_half)
        assert require_pairs(model, batch, 6.0) is expected


def test_undo_is_putting_the_old_lists_back() -> None:
    batch = crystals(2, 1)
    call(batch, hook(8.0), hook(5.0))
    model, kept, positions = argon(5.0), batch.pair_lists, batch.positions.clone()
    shifts, results = batch.neighbor_list_shifts.clone(), model(batch)
    batch.positions += batch.cell[batch.batch_idx, 0] * torch.randint(-2, 3, (batch.num_nodes, 1))
    call(batch, WrapPeriodicHook())
    batch.positions[0] += 1.0
    call(batch, hook(8.0), hook(5.0), hook(3.0))
    assert len(batch.pair_lists) == 3
    batch.positions, batch.pair_lists = positions, kept
    assert batch.pair_lists == kept
    assert torch.equal(batch.neighbor_list_shifts, shifts)
    again = model(batch)
    assert all(torch.equal(results[key], again[key]) for key in results)


def test_wrapping_moves_every_list() -> None:
    batch = crystals(2)
    batch.positions[3] += batch.cell[0, 1]
    call(batch, hook(8.0), hook(5.0))
    before, reference = batch.pair_lists, batch.clone()
    call(batch, WrapPeriodicHook())
    for old, new in zip(before, batch.pair_lists, strict=True):
        assert new.row_ptr is old.row_ptr
        assert new.neighbors is old.neighbors
        assert not torch.equal(new.wrap_offsets, old.wrap_offsets)
    moved = batch.pair_lists
    call(batch, hook(8.0), hook(5.0))
    assert set(batch.pair_lists) == set(moved), "and makes none stale"
    torch.testing.assert_close(argon(8.0)(batch)["energy"], argon(8.0)(reference)["energy"], rtol=1e-13, atol=0.0)


def test_lists_are_values() -> None:
    batch = crystals(1)
    call(batch, hook(5.0))
    with pytest.raises(AttributeError, match="cutoff"):
        batch.pair_list.cutoff = 3.0
    before = batch.pair_list
    batch._neighbor_list_cutoff = 4.5
    assert (before.cutoff, batch.pair_list.cutoff) == (5.0, 4.5)
    assert batch.pair_list.neighbors is before.neighbors
    call(batch, hook(5.0))
    assert batch._neighbor_list_cutoff == 5.0


@pytest.mark.parametrize("way", ["clone", "to", "pickle", "select", "append", "replace"])
def test_all_lists_go_along(way: str) -> None:
    batch = crystals(2, 1)
    call(batch, hook(8.0), hook(7.5), hook(5.0))
    moved = {
        "clone": batch.clone,
        "to": lambda: batch.to(torch.float64),
        "pickle": lambda: pickle.loads(pickle.dumps(batch)),
        "select": lambda: batch.index_select([0, 1]),
        "append": lambda: joined(batch.index_select([0]), batch.index_select([1])),
        "replace": lambda: replaced(batch.index_select([1, 1]), batch.index_select([0])),
    }[way]()
    assert len(moved.pair_lists) == 2
    for one, two in zip(moved.pair_lists, batch.pair_lists, strict=True):
        assert (one.cutoff, one.radius, one.requests) == (two.cutoff, two.radius, two.requests)
        assert torch.equal(one.neighbors, two.neighbors)
    kept = moved.pair_lists
    call(moved, hook(8.0), hook(7.5), hook(5.0))
    assert moved.pair_lists[0] is kept[0], "and so does their age"
    part = batch[0]
    assert torch.equal(part.neighbor_list, batch.index_select([0]).neighbor_list)


def joined(one: Batch, two: Batch) -> Batch:
    one.append(two)
    return one


def replaced(one: Batch, two: Batch) -> Batch:
    one.replace_systems([0], two)
    return one


def test_systems_that_join_without_one_of_the_lists_are_searched_for_it() -> None:
    batch, other = crystals(2), crystals(1)
    call(batch, hook(8.0), hook(5.0))
    call(other, hook(5.0))
    batch.append(other)
    assert [pairs.valid.tolist() for pairs in batch.pair_lists] == [[True, True], [True, False]]
    with pytest.raises(InputError, match="of 1 systems has to be searched again"):
        argon(8.0)(batch)
    argon(5.0)(batch)
    call(batch, hook(8.0))
    assert all(pairs.all_valid for pairs in batch.pair_lists)
    assert_complete(batch)


def test_a_list_that_is_assigned_is_the_only_one() -> None:
    batch = crystals(2)
    call(batch, hook(8.0), hook(5.0))
    compute_neighbors(batch, 3.0)
    assert cutoffs(batch) == [3.0]
    with pytest.raises(InputError, match=r"searched to 3 Å; LennardJonesModelWrapper needs `cutoff` = 5 Å"):
        argon(5.0)(batch)
    call(batch, hook(8.0), hook(5.0))
    batch.pbc = ~batch.pbc
    assert batch.pair_lists == ()


def test_refusals_name_the_longest_list_and_the_sizes() -> None:
    batch = crystals(1)
    call(batch, hook(4.0), hook(3.0))
    with pytest.raises(InputError, match=r"searched to 4.5 Å; LennardJonesModelWrapper needs `cutoff` = 8 Å"):
        argon(8.0)(batch)
    with pytest.raises(ShapeError, match="for 4 atoms in 1 systems"):
        crystals(2).pair_lists = batch.pair_lists


def test_edge_fields_stay_with_the_list_that_they_belong_to() -> None:
    batch = crystals(1)
    call(batch, hook(6.0))
    batch.edge_embeddings = torch.zeros(batch.num_edges, 2)
    call(batch, hook(3.0), hook(6.0))
    assert batch.edge_embeddings.shape == (batch.num_edges, 2)
    show_pairs(batch, NeighborConfig(cutoff=3.0))
    with pytest.warns(UserWarning, match="`edge_embeddings` belonged to the pairs of an older"):
        assert batch.get("edge_embeddings") is None


def test_max_neighbors_of_each_hook_is_kept() -> None:
    batch = crystals(1)
    for _ in range(2):
        call(batch, hook(6.0, width=200))
        assert batch.neighbor_matrix.shape == (4, 200)
        call(batch, hook(6.0))


def assert_complete(batch: Batch) -> None:
    """Every pair within the cutoff of a list stands in it, and none of another distance, by brute force."""
    for pairs in batch.pair_lists:
        ptr = batch.batch_ptr.tolist()
        listed = _reference.pair_vectors(
            batch.positions, batch.cell, batch.batch_ptr, pairs.row_ptr, pairs.neighbors, pairs.images,
            pairs.wrap_offsets,
        )  # fmt: skip
        for system, (first, last) in enumerate(pairwise(ptr)):
            counts, *_ = _reference.one_system(
                batch.positions[first:last], batch.cell[system], batch.pbc[system], pairs.cutoff, pairs.half,
                torch.int32,
            )  # fmt: skip
            close = (listed[0] == system) & (listed[2].norm(dim=1) < pairs.cutoff)
            found = torch.bincount(listed[1][close] - first, minlength=last - first)
            assert torch.equal(found, counts), f"pairs within {pairs.cutoff:g}"


def test_a_list_that_does_not_follow_would_be_noticed() -> None:
    """Twins of the property below: only the list that is shown is wrapped, or brought up to date."""
    batch = crystals(1)
    batch.positions += batch.cell[0, 0]
    call(batch, hook(4.5), hook(2.8))
    assert_complete(batch)
    shown, behind = batch.pair_lists
    call(batch, WrapPeriodicHook())
    assert_complete(batch)
    batch.positions[0] -= batch.cell[0, 1]
    call(batch, WrapPeriodicHook(), hook(2.8))
    batch.pair_lists = (batch.pair_list, behind)
    with pytest.raises(AssertionError, match=r"pairs within 4\.5"):
        assert_complete(batch)
    batch.pair_lists = (shown,)
    call(batch, hook(2.8), hook(4.5))
    for pairs in (batch.pair_lists[1], batch.pair_lists[0]):
        batch.positions[0] += 1.0
        batch.pair_lists = (pairs,)
        with pytest.raises(AssertionError, match=f"pairs within {pairs.cutoff:g}"):
            assert_complete(batch)


REQUESTS = st.tuples(st.sampled_from([2.5, 2.8, 3.0, 4.5]), st.sampled_from([0.0, 0.4, 1.0]))
STEPS = st.one_of(
    st.tuples(st.just("hook"), REQUESTS),
    st.tuples(st.just("move"), st.floats(0.0, 0.4)),
    st.tuples(st.just("model"), st.sampled_from([2.5, 4.5])),
    st.tuples(st.sampled_from(["wrap", "clone", "append", "replace"]), st.none()),
    st.tuples(st.just("select"), st.lists(st.integers(0, 1), min_size=1, max_size=3)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=25), REQUESTS)
def test_whatever_happened_lists_are_complete_after_a_hook(steps: list, last: tuple[float, float]) -> None:
    batch, newcomer = crystals(1, 1), crystals(1)
    call(newcomer, hook(2.5, 0.4), hook(4.5, 1.0))
    generator = torch.Generator().manual_seed(0)
    for kind, value in [*steps, ("hook", last)]:
        if kind == "hook":
            call(batch, hook(*value))
            assert batch._neighbor_list_cutoff >= value[0]
            assert batch.neighbor_list_radius <= LARGEST_SHARED_RATIO * (value[0] + value[1])
            assert_complete(batch)
        elif kind == "move":
            batch.positions += value * torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
        elif kind == "model":
            show_pairs(batch, NeighborConfig(cutoff=value))
        elif kind == "wrap":
            call(batch, WrapPeriodicHook())
        elif kind == "append" and len(batch) < 4:
            batch.append(crystals(1))
        elif kind == "replace":
            batch.replace_systems([0], newcomer)
        elif kind == "clone":
            batch = pickle.loads(pickle.dumps(batch.clone()))
        elif kind == "select":
            batch = batch.index_select([one % len(batch) for one in value])
