"""AutoBatcher: what it measures, what it keeps, and that nothing stops it. Nothing here is timed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.dynamics import AutoBatcher, HostMemory, NVTLangevin, SizeAwareSampler, auto_batcher, probing
from athanor.dynamics.probing import Probe, Probes, StandsStill
from athanor.errors import ArgumentError, AthanorWarning, ContractError, InputError
from athanor.models import LennardJonesModelWrapper
from athanor.testing.dynamics_contract import argon_cluster, argon_model, with_neighbor_hooks


@pytest.fixture(autouse=True)
def _large_batches_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says."""
    real = StandsStill.seconds_of_step
    monkeypatch.setattr(
        StandsStill, "seconds_of_step", lambda self, batch: 0 * real(self, batch) + 0.05 * batch.num_nodes**0.5
    )


def clusters(*counts: int) -> list[AtomicData]:
    return [argon_cluster(count, number) for number, count in enumerate(counts)]


class Hungry(LennardJonesModelWrapper):
    """Takes so many bytes of each atom, and of each pair, for a moment; may raise in some call."""

    def __init__(self, per_atom: int = 0, per_pair: int = 0, error: Exception | None = None, from_atoms: int = 0):
        super().__init__(epsilon=0.0104, sigma=3.4, cutoff=8.5)
        self.per_atom, self.per_pair, self.error, self.from_atoms, self.calls = per_atom, per_pair, error, from_atoms, 0

    def forward(self, batch: Batch) -> Any:
        self.calls += 1
        if self.error is not None and batch.num_nodes >= self.from_atoms:
            raise self.error
        taken = self.per_atom * batch.num_nodes + self.per_pair * self.pairs_of(batch)
        memory = torch.ones(taken, dtype=torch.uint8)
        result = super().forward(batch)
        assert memory.numel() == taken
        return result

    @staticmethod
    def pairs_of(batch: Batch) -> int:
        from athanor.dynamics.admission import expected_neighbors

        return int((expected_neighbors(batch, 8.5) * batch.num_nodes_per_graph).sum())


def rows(spacing: float, count: int) -> AtomicData:
    positions = torch.cartesian_prod(*[spacing * torch.arange(7.0).double()] * 3)[:count].contiguous()
    return AtomicData(atomic_numbers=torch.full((count,), 18), positions=positions)


def test_memory_of_an_atom_is_measured(tmp_path: Path) -> None:
    auto = AutoBatcher(Hungry(per_atom=300_000), clusters(*[12] * 60), cache=tmp_path)
    per_atom, per_pair = auto.bytes_of_atom_and_pair
    heaviest = auto.probes.probes[-1]
    assert per_atom * heaviest.atoms + per_pair * heaviest.pairs == pytest.approx(300_000 * heaviest.atoms, rel=0.3)
    sampler = auto.sampler()
    assert sampler.caps.bytes_per_atom == per_atom
    assert 0 < sampler.caps.shared_bytes < sampler.max_bytes


def test_memory_of_a_pair_is_told_from_that_of_an_atom() -> None:
    systems = [rows(3.4 if number % 2 else 8.0, 40) for number in range(40)]
    auto = AutoBatcher(Hungry(per_atom=50_000, per_pair=10_000), systems, cache=False)
    auto.probes = Probes(
        tuple(Probe(n, 40 * n, pairs, 50_000 * 40 * n + 10_000 * pairs, 1.0) for n, pairs in ((9, 9_000), (27, 5_000))),
        "job",
    )
    assert auto.bytes_of_atom_and_pair == pytest.approx((50_000, 10_000), rel=1e-6)
    assert AutoBatcher(Hungry(per_pair=10_000), systems, cache=False).bytes_of_atom_and_pair[1] > 5_000


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([(100, 1000, 4e7), (300, 6000, 12e7)], (4e5, 0.0)),
        ([(100, 1000, 4e7), (300, 6000, 24e7)], (1.0, 4e4)),
        ([(100, 1000, 4e7), (300, 3000, 12e7)], (2e5, 2e4)),
        ([(100, 0, 4e7)], (4e5, 0.0)),
        ([(100, 1000, 1e3), (300, 6000, 12e7)], (2e5, 1e4)),
    ],
)
def test_none_of_the_two_is_negative(taken: list[tuple[int, int, float]], expected: tuple[float, float]) -> None:
    found = Probes(tuple(Probe(1, atoms, pairs, int(held), 1.0) for atoms, pairs, held in taken), "job")
    assert found.memory() == pytest.approx(expected, rel=0.01, abs=2.0)


def test_the_smallest_batch_that_is_nearly_as_fast_is_best() -> None:
    def best(ended: str, *seconds: float) -> float:
        sizes = (50, 150, 450, 1350)
        return Probes(tuple(Probe(1, n, 0, 0, s * n) for n, s in zip(sizes, seconds, strict=False)), ended).best_atoms

    assert best("rate", 4.0, 1.05, 1.0, 1.0) == 150
    assert best("rate", 4.0, 1.0, 1.6, 2.0) == 150
    assert best("job", 4.0, 1.0) == best("time", 1.0) == float("inf")


def test_what_was_found_is_kept_and_used(tmp_path: Path) -> None:
    systems, model = clusters(*[12] * 30), Hungry(per_atom=100_000)
    first = AutoBatcher(model, systems, cache=tmp_path).probes
    calls = model.calls
    assert calls > 0
    assert AutoBatcher(model, systems, cache=tmp_path).probes == first
    assert model.calls == calls
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["of"]["dtype"] == "torch.float64"
    AutoBatcher(model, systems, cache=False).sampler()
    assert model.calls > calls
    as_single = AutoBatcher(model, systems, cache=tmp_path, dtype=torch.float32)
    assert as_single.probes.probes
    assert len(list(tmp_path.iterdir())) == 2
    calls = model.calls
    assert len(AutoBatcher(model, clusters(*[12] * 300), cache=tmp_path).probes.probes) > len(first.probes)
    assert model.calls > calls  # of a larger job larger batches are measured


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", "null", '{"format": 1}', "\x00" * 50, "x" * 200_000,
        lambda kept: kept | {"format": 2},
        lambda kept: kept | {"of": kept["of"] | {"dtype": "torch.float16"}},
        lambda kept: kept | {"probes": []},
        lambda kept: kept | {"probes": [[1, 2, 3, 4, float("nan")]]},
        lambda kept: kept | {"probes": [[1, 2, 3, -4, 1.0]]},
        lambda kept: kept | {"probes": [[1, 2, 3, True, 1.0]]},
        lambda kept: kept | {"probes": [["1", 2, 3, 4, 1.0]]},
        lambda kept: kept | {"probes": [[9, 2, 3, 4, 1.0]]},
        lambda kept: kept | {"probes": [[1, 2, 3, 4, 1.0]] * 1000},
        lambda kept: kept | {"ended": ["job"]},
    ],
)  # fmt: skip
def test_what_is_damaged_or_of_something_else_is_measured_anew(
    damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, model, calls = clusters(*[12] * 8), Hungry(), []

    def probe(*arguments: Any) -> Probes:
        calls.append(arguments)
        return Probes((Probe(8, 96, 900, 1000, 1.0),), "job")

    monkeypatch.setattr(auto_batcher, "probe", probe)
    AutoBatcher(model, systems, cache=tmp_path).sampler()
    (path,) = tmp_path.iterdir()
    text = damage if isinstance(damage, str) else json.dumps(damage(json.loads(path.read_text())))
    path.write_text(text)
    for _ in range(2):
        AutoBatcher(model, systems, cache=tmp_path).sampler()
    assert len(calls) == 2
    assert json.loads(path.read_text())["format"] == 1


def test_a_folder_that_can_not_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(AutoBatcher(Hungry(), clusters(3, 4), cache=tmp_path / "file" / "below").sampler()) == 2


def test_one_that_is_larger_than_what_several_share_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = argon_model()
    auto = AutoBatcher(model, clusters(3, 3, 40, 3, 3), cache=False)
    monkeypatch.setattr(auto_batcher, "free_memory", lambda device: 10_000)
    auto.probes = Probes((Probe(2, 100, 0, 20_000, 1.0),), "job")  # 200 bytes an atom: 25 atoms share, 45 run alone
    sampler = auto.sampler()
    engine = NVTLangevin(
        model, dt=2.0, temperature=40.0, friction=0.01, n_steps=2, sampler=sampler, sinks=[HostMemory(9)]
    )
    most = []
    engine.register_hook(_Looks(most))
    with_neighbor_hooks(engine).run()
    assert sorted(engine.sinks[0].read().num_nodes_list) == [3, 3, 3, 3, 40]
    assert {40} <= set(most) <= {40, 12, 3, 6, 9}
    auto.probes = Probes((Probe(2, 100, 0, 40_000, 1.0),), "job")
    with pytest.warns(
        AthanorWarning, match=r"Sample 2 is set aside: it has 16,000 bytes, and `max_bytes` allows 9,000"
    ):
        assert len(auto.sampler()) == 4


class _Looks:
    frequency, observes = 1, True

    def __init__(self, seen: list[int]) -> None:
        from athanor.hooks import DynamicsStage

        self.seen, self.stage = seen, DynamicsStage.AFTER_STEP

    def __call__(self, ctx: Any, stage: Any) -> None:
        self.seen.append(ctx.batch.num_nodes)


def test_what_would_take_too_much_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "free_memory", lambda device: 10**9)
    model = Hungry()
    auto = AutoBatcher(model, [rows(3.8, 300)], cache=False)
    assert auto.probes == Probes((), "memory")
    assert model.calls == 0
    assert auto.bytes_of_atom_and_pair == (5_000_000.0, 0.0)
    assert AutoBatcher(model, [rows(3.8, 300)], cache=False, name="lj").bytes_of_atom_and_pair[0] < 1e6
    assert len(AutoBatcher(model, [rows(3.8, 60)], cache=False).probes.probes) == 1


def test_nothing_to_run_is_no_error(tmp_path: Path) -> None:
    auto = AutoBatcher(Hungry(), [], cache=tmp_path)
    assert auto.probes == Probes((), "job")
    assert auto.sampler().exhausted
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "from_atoms"), [(ValueError("no such atom"), 0), (MemoryError(), 0), (MemoryError(), 100)]
)
def test_a_model_that_raises_in_a_probe_stops_nobody(error: Exception, from_atoms: int, tmp_path: Path) -> None:
    auto = AutoBatcher(Hungry(10_000, error=error, from_atoms=from_atoms), clusters(*[12] * 60), cache=tmp_path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sampler = auto.sampler()
    assert len(sampler) == 60
    assert len(auto.probes.probes) == (1 if from_atoms else 0)
    if isinstance(error, ValueError):
        assert "ended with ValueError: no such atom" in str(told[0].message)
        assert not list(tmp_path.iterdir())


def test_systems_that_can_not_be_evaluated_are_no_examples() -> None:
    broken = argon_cluster(12, 3)
    broken.positions[0] = broken.positions[1]
    strange = AtomicData(atomic_numbers=torch.full((3,), 18), positions=torch.zeros(3, 3).float())
    systems = [*clusters(*[12] * 30), broken, strange, "water"]
    systems[4].system_id = systems[5].system_id = torch.tensor([[7]])
    auto = AutoBatcher(Hungry(), systems, cache=False)
    assert auto.probes.ended == "job"
    assert auto.probes.probes[-1].atoms > 300


def test_streams_need_examples_and_options_are_those_of_a_sampler() -> None:
    with pytest.raises(InputError, match=r"examples=\[...\]"):
        AutoBatcher(Hungry(), iter(clusters(3)))
    auto = AutoBatcher(Hungry(), iter(clusters(3, 4)), examples=clusters(5), cache=False, max_batch_size=1)
    assert auto.sampler().build_initial_batch().num_nodes_list == [3]
    for option in ("max_bytes", "colour"):
        with pytest.raises(ArgumentError, match=f"`{option}` of AutoBatcher"):
            AutoBatcher(Hungry(), clusters(3), **{option: 3})
    with pytest.raises(InputError, match=r"`memory_fraction` is 2\.0"):
        AutoBatcher(Hungry(), clusters(3), memory_fraction=2.0)
    with pytest.raises(ContractError):
        AutoBatcher("lj", clusters(3))


def test_a_run_is_the_same_whatever_is_chosen() -> None:
    paths = []
    for best in (3.0, 9.0, float("inf")):
        model, systems = argon_model(), clusters(3, 4, 3, 5, 2, 3)
        auto = AutoBatcher(model, systems, cache=False)
        auto.probes = Probes((Probe(1, 3, 0, 3000, 1.0), Probe(1, 9, 0, 9000, 1.0)), "job")
        sampler = auto.sampler()
        sampler.caps.shared_atoms = best
        engine = NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01, n_steps=3, sampler=sampler, ordered=True)
        engine.sinks = [HostMemory(9)]
        with_neighbor_hooks(engine).run()
        paths.append(engine.sinks[0].read())
    assert all(torch.equal(paths[0].positions, other.positions) for other in paths[1:])


def test_a_run_that_goes_on_keeps_the_caps_that_were_measured_then(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(free: int, **options: Any) -> Any:
        monkeypatch.setattr(auto_batcher, "free_memory", lambda device: free)
        auto = AutoBatcher(Hungry(), clusters(3, 4, 5), cache=False, **options)
        auto.probes = Probes((Probe(1, 3, 0, free // 20, 1.0),), "job")
        return auto.sampler()

    before, after = make(10_000), make(70_000)
    assert repr(before) == repr(after) == "SizeAwareSampler(measured)"
    assert before.caps.state_dict() != after.caps.state_dict()
    after.load_state_dict(before.state_dict())
    assert before.caps.state_dict() == after.caps.state_dict()
    said = SizeAwareSampler(clusters(3, 4, 5), max_atoms=7)
    said.load_state_dict(before.state_dict())
    assert (said.max_atoms, said.max_bytes) == (7, None)
