"""SizeAwareSampler: what it gives out, in which order, what it sets aside, and how it goes on after a restart."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st

from athanor.data import AtomicData, Batch
from athanor.dynamics import HostMemory, SizeAwareSampler, ZarrData
from athanor.dynamics.caps import Load
from athanor.dynamics.gate import Draw
from athanor.errors import AthanorWarning, CapacityError, ContractError, InputError
from athanor.io.trajectory import TrajectoryReader


def chain(count: int, **fields: Any) -> AtomicData:
    positions = torch.arange(3.0 * count, dtype=torch.float64).reshape(-1, 3)
    return AtomicData(atomic_numbers=torch.full((count,), 18), positions=positions, **fields)


def chains(*counts: int) -> list[AtomicData]:
    return [chain(count) for count in counts]


class Dataset:
    """A data set as the reference has them, of so many atoms and pairs each."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.sizes, self.read = sizes, []

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> tuple[AtomicData, dict[str, Any]]:
        self.read.append(number)
        return chain(self.sizes[number][0]), {"number": number}

    def get_metadata(self, number: int) -> tuple[int, int]:
        return self.sizes[number]


def ids_of(batch: Batch) -> list[int]:
    return batch.system_id.flatten().tolist()


def sizes(systems: list[AtomicData]) -> list[int]:
    return [data.num_nodes for data in systems]


def test_a_first_batch_takes_of_each_bin_small_ones_first() -> None:
    dataset = Dataset((5, 0), (2, 0), (5, 0), (2, 0), (3, 0))
    sampler = SizeAwareSampler(dataset, max_atoms=12)
    assert list(sampler) == [1, 3, 4, 0, 2]
    batch = sampler.build_initial_batch()
    assert batch.num_nodes_list == [2, 3, 5, 2]
    assert ids_of(batch) == [1, 4, 0, 3] == dataset.read
    assert batch.status.tolist() == [[0]] * 4
    assert (len(sampler), list(sampler), sampler.exhausted) == (1, [2], False)
    assert sampler.build_initial_batch().num_nodes_list == [5]
    assert sampler.exhausted
    with pytest.raises(RuntimeError, match="No system is left"):
        sampler.build_initial_batch()


def test_bins_are_as_wide_as_they_are_told() -> None:
    sampler = SizeAwareSampler(chains(5, 4, 2, 3), max_batch_size=3, bin_width=2)
    assert list(sampler) == [2, 3, 0, 1]
    assert sampler.build_initial_batch().num_nodes_list == [2, 5, 3]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"atom_budget": 9}, [7, 2]),
        ({"atom_budget": 9, "max_count": 1}, [7]),
        ({"atom_budget": 6}, [3, 3]),
        ({"max_count": 3}, [7, 3, 3]),
        ({"atom_budget": 1}, []),
        ({"max_count": 0}, []),
        ({}, [7, 3, 3, 2, 2]),
    ],
)
def test_replacements_fit_into_a_budget(budget: dict[str, int], expected: list[int]) -> None:
    sampler = SizeAwareSampler(chains(2, 3, 7, 3, 2), max_atoms=100)
    assert sizes(sampler.request_replacements_budget(**budget)) == expected


def test_replacements_of_a_place() -> None:
    sampler = SizeAwareSampler(Dataset((4, 40), (4, 10), (2, 5)), max_atoms=100)
    assert sampler.request_replacement(1, 100) is None
    first = sampler.request_replacement(4, 20)
    assert first is not None
    assert first.system_id.tolist() == [[1]]
    found = sampler.request_replacements(torch.tensor([3, 9, 9]), torch.tensor([5, 5, 50]))
    assert [data and data.num_nodes for data in found] == [2, None, 4]


def test_edges_systems_and_bytes_are_caps_too() -> None:
    def first(**caps: Any) -> list[int]:
        return SizeAwareSampler(Dataset((4, 40), (4, 10), (4, 30)), max_atoms=100, **caps).build_initial_batch(
        ).num_nodes_list  # fmt: skip

    assert len(first(max_edges=50)) == 2
    assert len(first(max_batch_size=1)) == 1
    assert len(first(max_bytes=100, bytes_per_atom=10.0)) == 2
    assert len(first(max_bytes=100, bytes_per_atom=1.0, bytes_per_edge=2.0)) == 1


def test_pairs_are_those_expected_within_a_cutoff() -> None:
    crystal = AtomicData(
        atomic_numbers=torch.full((4,), 18), positions=torch.rand(4, 3).double() * 4.0,
        cell=torch.eye(3).double()[None] * 4.0, pbc=torch.ones(1, 3, dtype=torch.bool),
    )  # fmt: skip
    sampler = SizeAwareSampler([crystal], max_atoms=10, cutoff=4.0)
    draw = sampler.draw_first()[0]
    assert 0.9 < draw.size.edges / (4 * 4 * 4.19) < 1.1
    assert SizeAwareSampler([crystal], max_atoms=10).draw_first()[0].size.edges == 0


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=25),
    cap=st.integers(9, 30),
    systems=st.integers(1, 6),
    width=st.integers(1, 5),
    shuffle=st.booleans(),
    stream=st.booleans(),
)
def test_each_is_given_out_once_and_no_cap_is_passed(
    counts: list[int], cap: int, systems: int, width: int, shuffle: bool, stream: bool
) -> None:
    source = iter(chains(*counts)) if stream else chains(*counts)
    sampler = SizeAwareSampler(source, cap, max_batch_size=systems, bin_width=width, shuffle=shuffle)
    inside, out = sampler.draw_first(), []
    while inside:
        load = Load(len(inside), sum(d.size.atoms for d in inside), 0)
        assert load.atoms <= cap
        assert load.systems <= systems
        out.append(inside.pop(0))
        inside += sampler.draw_more(Load(len(inside), sum(d.size.atoms for d in inside), 0))
    assert sorted(draw.order for draw in out) == list(range(len(counts)))
    assert all(draw.data.num_nodes == counts[draw.order] == draw.size.atoms for draw in out)
    assert [draw.system_id for draw in out] == [draw.order for draw in out]
    assert sampler.exhausted


def test_a_cap_that_forgets_atoms_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Load, "plus", lambda self, size: self._replace(systems=self.systems + 1))
    with pytest.raises(AssertionError):
        test_each_is_given_out_once_and_no_cap_is_passed.hypothesis.inner_test([9, 9, 9], 9, 3, 1, False, False)


def test_shuffling_has_a_seed_of_its_own() -> None:
    def order(seed: int) -> list[int]:
        torch.rand(3)
        return list(SizeAwareSampler(chains(*[3] * 30), 10, shuffle=True, seed=seed))

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == list(range(30))


# -- what can not be run --------------------------------------------------------------------------------------------


def test_what_can_not_be_run_is_told_and_the_others_are_run() -> None:
    class Broken(Dataset):
        def __getitem__(self, number: int) -> Any:
            if number == 1:
                raise OSError("the disk is gone")
            return super().__getitem__(number)

    sampler = SizeAwareSampler(Broken((3, 0), (3, 0), (0, 0), (50, 0), (3, 0)), max_atoms=20)
    with pytest.warns(AthanorWarning) as told:
        batch = sampler.build_initial_batch()
    assert ids_of(batch) == [0, 4]
    texts = [str(warning.message) for warning in told]
    assert [entry.order for entry in sampler.set_aside] == [2, 3, 1]
    assert "Sample 2 is set aside: it has no atoms" in texts[0]
    assert "it has 50 atoms, and `max_atoms` allows 20" in texts[1]
    assert "OSError: the disk is gone" in texts[2]


@pytest.mark.parametrize("kind", [list, iter])
def test_one_over_a_cap_is_a_runtime_error_if_strict(kind: Any) -> None:
    with pytest.raises(
        RuntimeError, match="Sample 1 can not be run: it has 9 atoms, and `max_atoms` allows 5"
    ) as caught:
        SizeAwareSampler(kind(chains(3, 9)), max_atoms=5, strict=True).build_initial_batch()
    assert isinstance(caught.value, CapacityError)


def test_metadata_that_lie_let_nobody_in() -> None:
    class Lies(Dataset):
        def get_metadata(self, number: int) -> tuple[int, int]:
            return (2, 0)

    sampler = SizeAwareSampler(Lies((6, 0), (2, 0), (30, 0)), max_atoms=7)
    with pytest.warns(AthanorWarning, match="Sample 2 is set aside: it has 30 atoms"):
        assert [batch.num_nodes_list for batch in (sampler.build_initial_batch(), sampler.build_initial_batch())] == [
            [6],
            [2],
        ]


def test_ids_that_samples_bring_are_kept_and_differ() -> None:
    given = [chain(2, system_id=torch.tensor([[7]])), chain(2), chain(2, system_id=torch.tensor([[7]])), chain(2)]
    sampler = SizeAwareSampler(given, max_atoms=100)
    with pytest.warns(AthanorWarning, match="it bears the `system_id` 7 of a system before it"):
        assert ids_of(sampler.build_initial_batch()) == [7, 1, 3]
    given = [chain(2), chain(2), chain(2, system_id=torch.tensor([[0]]))]
    with pytest.warns(AthanorWarning, match="which a sample without one got; it gets 3"):
        assert ids_of(SizeAwareSampler(given, max_atoms=100).build_initial_batch()) == [0, 1, 3]


def test_one_that_does_not_fit_to_the_others_is_set_aside() -> None:
    single = chain(2).to(torch.float32)
    labelled = chain(2)
    labelled.add_system_property("kind", torch.tensor([[3]]))
    sampler = SizeAwareSampler([chain(2), single, labelled, chain(2)], max_atoms=100)
    with pytest.warns(AthanorWarning) as told:
        assert ids_of(sampler.build_initial_batch()) == [0, 3]
    assert len(told) == 2 == len(sampler.set_aside)
    as_double = SizeAwareSampler([chain(2), single], max_atoms=100, dtype=torch.float64)
    assert as_double.build_initial_batch().positions.dtype == torch.float64


def test_status_is_kept_and_counters_of_an_earlier_run_are_not() -> None:
    given = chain(2, status=torch.tensor([[1]]), stage_step=torch.tensor([[8]]), step=torch.tensor([[9]]))
    batch = SizeAwareSampler([given, chain(2)], max_atoms=9).build_initial_batch()
    assert batch.status.flatten().tolist() == [1, 0]
    assert "stage_step" not in batch
    assert batch.step.flatten().tolist() == [9, 0]
    assert given.stage_step.tolist() == [[8]]


# -- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["__len__", "__getitem__", "get_metadata"])
def test_a_data_set_that_lacks_something_is_refused_by_its_name(missing: str) -> None:
    members = {name: getattr(Dataset, name) for name in ("__len__", "__getitem__", "get_metadata") if name != missing}
    with pytest.raises(TypeError, match=f"without `{missing}`") as caught:
        SizeAwareSampler(type("Poor", (), members)(), max_atoms=5)
    assert isinstance(caught.value, ContractError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Without a cap"),
        ({"max_edges": 5}, "Without a cap"),
        ({"max_atoms": 0}, "`max_atoms` is 0"),
        ({"max_batch_size": -1}, "`max_batch_size` is -1"),
        ({"max_atoms": 5, "bin_width": 0}, "`bin_width` is 0"),
        ({"max_atoms": 5, "max_gpu_memory_fraction": 0.0}, "`max_gpu_memory_fraction` is 0.0"),
        ({"max_atoms": 5, "max_gpu_memory_fraction": 1.5}, "`max_gpu_memory_fraction` is 1.5"),
    ],
)
def test_caps_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        SizeAwareSampler(chains(2), **options)
    assert isinstance(caught.value, InputError)


def test_lists_batches_atoms_and_streams_of_any_of_them() -> None:
    mixed = [
        chain(2),
        Batch.from_data_list(chains(3, 4)),
        (chain(5), "metadata"),
        Atoms("Ar6", [[i, 0, 0] for i in range(6)]),
    ]
    for source in (mixed, iter(mixed), (item for item in mixed)):
        sampler = SizeAwareSampler(source, max_atoms=100, dtype=torch.float64)
        assert sampler.build_initial_batch().num_nodes_list == [2, 3, 4, 5, 6]
        assert sampler.exhausted is not isinstance(source, list) or sampler.exhausted
    assert SizeAwareSampler(Batch.from_data_list(chains(3, 4)), 100).build_initial_batch().num_nodes_list == [3, 4]


def test_files_folders_stores_and_sinks(tmp_path: Any) -> None:
    folder = tmp_path / "structures"
    folder.mkdir()
    write(folder / "a.xyz", [Atoms("Ar2", [[0, 0, 0], [0, 0, 4]]), Atoms("Ar", [[0, 0, 0]])])
    write(folder / "b.xyz", Atoms("Ar3", [[0, 0, 0], [0, 0, 4], [0, 4, 0]]))
    (folder / "c.xyz").write_text("not a structure")
    sampler = SizeAwareSampler(folder, max_atoms=100)
    with pytest.warns(AthanorWarning, match=r"c.xyz"):
        assert sorted(sampler.build_initial_batch().num_nodes_list) == [1, 2, 3]
    assert SizeAwareSampler(folder / "b.xyz", max_atoms=9).build_initial_batch().num_nodes_list == [3]
    batch = Batch.from_data_list(chains(2, 3))
    for name, value in (("system_id", 4), ("status", 2), ("failure_code", 1), ("stage_step", 9), ("step", 5)):
        batch.set_field(name, torch.full((2, 1), value))
    batch.system_id[1] = 5
    memory, stored = HostMemory(10), ZarrData(tmp_path / "t.zarr")
    for sink in (memory, stored):
        sink.write(batch)
        sink.write(batch)
        sink.close()
    for source in (memory, stored, tmp_path / "t.zarr", TrajectoryReader(tmp_path / "t.zarr")):
        found = SizeAwareSampler(source, max_atoms=100).build_initial_batch()
        assert sorted(zip(ids_of(found), found.num_nodes_list, strict=True)) == [(0, 2), (1, 3), (2, 2), (3, 3)]
        assert found.status.flatten().tolist() == [0] * 4
        assert found.step.flatten().tolist() == [5] * 4
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no files"):
        SizeAwareSampler(empty, max_atoms=9)


def test_a_stream_is_asked_for_what_there_is_room_for_and_keeps_its_order() -> None:
    asked = []

    def endless() -> Any:
        for number in itertools.count():
            asked.append(number)
            yield chain(2 + number % 3)

    sampler = SizeAwareSampler(endless(), max_atoms=8, look_ahead=0)
    assert asked == []
    assert sampler.build_initial_batch().num_nodes_list == [2, 3]
    assert asked == [0, 1, 2]  # the third one waits
    assert sizes(sampler.request_replacements_budget(7)) == [4, 2]
    assert not sampler.exhausted
    with pytest.raises(TypeError, match="neither length nor order"):
        len(sampler)


def test_a_large_system_of_a_stream_lets_some_small_ones_pass_and_then_has_its_turn() -> None:
    sampler = SizeAwareSampler((chain(9 if number == 1 else 2) for number in itertools.count()), 10, look_ahead=3)
    inside, order = sampler.draw_first(), []
    for _ in range(12):
        order.append(inside.pop(0).order)
        inside += sampler.draw_more(Load(len(inside), sum(draw.size.atoms for draw in inside), 0))
    assert order[:6] == [0, 2, 3, 4, 1, 5]
    assert order == [0, 2, 3, 4, 1, *range(5, 12)]


def test_a_stream_whose_order_was_not_kept_goes_on_where_it_was() -> None:
    def make() -> SizeAwareSampler:
        return SizeAwareSampler(iter(chains(2, 9, 2, 9, 2, 2, 2, 9)), 10, look_ahead=3)

    whole = make()
    assert [draw.order for draw in whole.draw_first()] == [0, 2, 4, 5]
    again = make()
    again.load_state_dict(whole.state_dict())
    for sampler in (whole, again):
        found = [[draw.order for draw in sampler.draw_more(Load())] for _ in range(5)]
        assert found == [[1], [3], [6], [7], []]
        assert sampler.exhausted


def test_memory_of_an_atom_makes_sense() -> None:
    for options in ({"bytes_per_atom": 0}, {"bytes_per_edge": -1.0}, {"bytes_per_atom": float("nan")}):
        with pytest.raises(InputError, match="in bytes"):
            SizeAwareSampler(chains(2), max_atoms=5, **options)


def test_a_stream_may_have_nothing_for_the_moment_and_may_raise() -> None:
    def hesitating() -> Any:
        yield chain(2)
        yield None
        yield chain(3)
        raise OSError("the line is dead")

    sampler = SizeAwareSampler(hesitating(), max_atoms=8)
    assert sampler.build_initial_batch().num_nodes_list == [2]
    assert not sampler.exhausted
    with pytest.warns(AthanorWarning, match=r"ended after 2 with an error: OSError: the line is dead"):
        assert sampler.build_initial_batch().num_nodes_list == [3]
    assert sampler.exhausted
    strict = SizeAwareSampler(hesitating(), max_atoms=8, strict=True)
    strict.build_initial_batch()
    with pytest.raises(RuntimeError, match="the line is dead"):
        strict.build_initial_batch()


def test_what_a_stream_gives_that_is_no_structure_is_set_aside() -> None:
    sampler = SizeAwareSampler(iter([chain(2), "water", chain(3)]), max_atoms=8)
    with pytest.warns(AthanorWarning, match="Sample 1 is set aside: it is a str, and not AtomicData"):
        assert ids_of(sampler.build_initial_batch()) == [0, 2]


# -- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_restart_goes_on_where_it_was(stream: bool) -> None:
    def make() -> SizeAwareSampler:
        given = [chain(2), chain(30), chain(3), chain(2, system_id=torch.tensor([[9]])), chain(4), chain(2)]
        return SizeAwareSampler(iter(given) if stream else given, max_atoms=7)

    whole = make()
    with pytest.warns(AthanorWarning):
        whole.build_initial_batch()
    state = whole.state_dict()
    expected = [draw._replace(data=None) for draw in whole.draw_more(Load())]
    again = make()
    again.load_state_dict(state)
    assert [draw._replace(data=None) for draw in again.draw_more(Load())] == expected
    assert again.set_aside == whole.set_aside
    with pytest.raises(InputError, match="given out"):
        SizeAwareSampler(iter([]) if stream else [], max_atoms=7).load_state_dict(state)


def test_what_is_given_back_is_given_out_again_first() -> None:
    for stream in (False, True):
        given = chains(2, 2, 3)
        sampler = SizeAwareSampler(iter(given) if stream else given, max_atoms=5)
        draws: list[Draw] = sampler.draw_first()
        sampler.give_back(draws)
        assert [draw.order for draw in sampler.draw_first()] == [draw.order for draw in draws]


def source_of(kind: str, place: Any) -> Any:
    """The same twelve systems, each time anew, as a sampler is given them."""
    systems = chains(2, 3, 2, 5, 3, 2, 5, 4, 2, 3, 3, 2)
    if kind == "list":
        return systems
    if kind == "data set":
        return Dataset(*((data.num_nodes, 0) for data in systems))
    if kind in ("store", "folder") and not place.exists():
        if kind == "store":
            with ZarrData(place) as sink:
                sink.write(Batch.from_data_list(systems))
        else:
            place.mkdir()
            for number, data in enumerate(systems):
                write(place / f"{number:02d}.xyz", data.to_atoms())
    if kind in ("store", "folder"):
        return str(place)
    if kind == "stream with gaps":
        return (each for data in systems for each in (None, data, None))
    if kind == "stream of batches":
        return (Batch.from_data_list(systems[start : start + 5]) for start in range(0, 12, 5))
    return iter(systems)


KINDS = ("list", "data set", "store", "folder", "stream", "stream with gaps", "stream of batches")


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_source_a_restart_gives_out_the_same_in_the_same_order(kind, shuffle, tmp_path) -> None:
    def make() -> SizeAwareSampler:
        return SizeAwareSampler(source_of(kind, tmp_path / "source"), max_atoms=9, shuffle=shuffle, seed=3)

    def draw(sampler: SizeAwareSampler) -> list[Any]:
        found: list[Any] = []
        for _ in range(60):
            draws = sampler.draw_more(Load(), 2)
            found += [(one.order, one.system_id, one.size.atoms) for one in draws]
        return found

    for given_out in range(5):
        sampler = make()
        for number in range(given_out):
            draws = sampler.draw_more(Load(), 3)
            if number % 2:
                sampler.give_back(draws[1:])  # those do not stand where they stood at first
        state = sampler.state_dict()
        again = make()
        again.load_state_dict(state)
        assert again.state_dict().keys() == state.keys()
        for name, value in again.state_dict().items():
            same = torch.equal(value, state[name]) if isinstance(value, torch.Tensor) else value == state[name]
            assert same, (given_out, name)
        assert draw(again) == draw(sampler), given_out


def test_a_restart_that_forgets_the_order_is_found(monkeypatch) -> None:
    """Mutant: systems that were given back stand where they stood at first."""
    real = SizeAwareSampler.load_state_dict
    monkeypatch.setattr(
        SizeAwareSampler,
        "load_state_dict",
        lambda self, state: real(self, {**state, "waiting": state["waiting"].sort().values}),
    )
    sampler = SizeAwareSampler(chains(2, 2, 2, 2), max_atoms=9)
    draws = sampler.draw_more(Load(), 3)
    sampler.give_back(draws[2:])
    sampler.give_back(draws[1:2])
    sampler.give_back(draws[:1])
    sampler.give_back([])
    more = sampler.draw_more(Load(), 2)
    sampler.give_back(more[:1])
    sampler.give_back(more[1:])  # the second stands before the first now
    again = SizeAwareSampler(chains(2, 2, 2, 2), max_atoms=9)
    again.load_state_dict(sampler.state_dict())
    assert list(again) != list(sampler)
