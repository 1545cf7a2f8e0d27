"""Snapshot hooks: what is written, when, and that the live batch is left alone."""

from __future__ import annotations

import pytest
import torch

from athanor.dynamics.hooks import ConvergedSnapshotHook, SnapshotHook
from athanor.dynamics.hooks.news import News
from athanor.errors import DtypeError, InputError, MissingFieldError
from athanor.hooks import Hook
from athanor.hooks.context import DynamicsContext
from athanor.hooks.stages import DynamicsStage
from athanor.sinks import GPUBuffer, HostMemory, ZarrData
from athanor.testing.sink_contract import assert_equal, make_batch


@pytest.fixture(params=["host", "gpu-buffer", "zarr"])
def sink(request):
    return {"host": HostMemory, "gpu-buffer": GPUBuffer, "zarr": lambda n: ZarrData({}, n)}[request.param](100)


def with_pairs():
    batch = make_batch(0)
    batch.neighbor_list = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    return batch


def test_stages_and_protocol():
    sink = HostMemory(1)
    assert isinstance(SnapshotHook(sink), Hook)
    assert (SnapshotHook(sink).stage, SnapshotHook(sink).frequency) == (DynamicsStage.AFTER_STEP, 1)
    assert ConvergedSnapshotHook(sink, 3).stage is DynamicsStage.ON_CONVERGE
    assert SnapshotHook(sink, frequency=2, stage=DynamicsStage.BEFORE_STEP).stage is DynamicsStage.BEFORE_STEP
    assert SnapshotHook(sink).state_dict() == {"stored": 0}


def test_snapshots_are_copies_without_pairs(sink):
    batch = with_pairs()
    hook = SnapshotHook(sink)
    hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    batch.positions.add_(1.0)
    hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    hook.close()
    found = sink.read()
    assert found.pair_list is None
    assert batch.pair_list is not None
    torch.testing.assert_close(found.positions[6:], found.positions[:6] + 1.0)


def test_converged_systems_only(sink):
    batch = with_pairs()
    hook = ConvergedSnapshotHook(sink)
    for mask in (None, torch.zeros(3, dtype=torch.bool)):
        hook(DynamicsContext(batch=batch, converged_mask=mask), DynamicsStage.ON_CONVERGE)
    assert len(sink) == 0
    hook(DynamicsContext(batch=batch, converged_mask=torch.tensor([False, True, True])), DynamicsStage.ON_CONVERGE)
    assert_equal(sink.read(), make_batch(0).index_select(torch.tensor([1, 2])))
    assert batch.pair_list is not None


def test_finished_systems_are_written_once_more(sink):
    batch = make_batch(0)
    hook = SnapshotHook(sink, finished="once")

    def frame(**changes: list[int]) -> list[int]:
        for name, values in changes.items():
            batch.set_field(name, torch.tensor(values)[:, None])
        before = len(sink)
        hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
        return sink.read().system_id.flatten().tolist()[before:] if len(sink) else []

    assert frame(step=[1, 1, 1], status=[0, 0, 0], failure_code=[0, 0, 0]) == [0, 1, 2]
    assert frame(step=[2, 2, 2], status=[0, 1, 0]) == [0, 1, 2]  # 1 finished in its second step
    assert frame(step=[3, 2, 3]) == [0, 2]
    assert frame(failure_code=[1, 0, 0], step=[3, 2, 4]) == [0, 2]  # 0 failed in its fourth step, which was undone
    assert frame(step=[3, 2, 5], status=[0, 1, 1]) == [2]
    assert frame() == []
    hook.close()
    assert frame() == [0, 1, 2]  # of another run
    assert frame(system_id=[0, 2, 1], step=[3, 5, 2], status=[0, 1, 1]) == []  # they changed their places
    assert frame(system_id=[0, 7, 1]) == [7]  # somebody joined


def test_news_of_some_systems_alone() -> None:
    batch, news = make_batch(0), News("once")
    batch.step = torch.zeros(3, 1, dtype=torch.long)
    first = torch.tensor([True, False, False])
    assert news.of(batch, first).tolist() == [True, False, False]
    assert news.of(batch, first).tolist() == [False] * 3
    assert news.of(batch).tolist() == [False, True, True]
    batch.step += 1
    assert news.of(batch, ~first).tolist() == [False, True, True]
    assert news.of(batch).tolist() == [True, False, False]
    assert News("every").of(batch, first) is first


def test_news_by_place_would_be_noticed(sink, monkeypatch) -> None:
    seen = News._seen_of
    monkeypatch.setattr(News, "_seen_of", lambda self, now, by_id: seen(self, now, False))
    with pytest.raises(AssertionError):
        test_finished_systems_are_written_once_more(sink)


def test_all_systems_are_written_unless_told_otherwise(sink):
    hook = SnapshotHook(sink)
    for _ in range(2):
        hook(DynamicsContext(batch=make_batch(0)), DynamicsStage.AFTER_STEP)
    assert len(sink) == 6
    with pytest.raises(InputError, match=r'`finished=True` is unknown. Use "every" or "once"'):
        SnapshotHook(sink, finished=True)


ALWAYS = {"positions", "atomic_numbers", "cell", "pbc", "system_id", "step", "time"}


@pytest.mark.parametrize("kind", [SnapshotHook, ConvergedSnapshotHook])
def test_chosen_fields(kind, sink):
    batch = with_pairs()
    hook = kind(sink, fields=["forces", "my_bytes", "dipole"])
    context = DynamicsContext(batch=batch, converged_mask=torch.ones(3, dtype=torch.bool))
    hook(context, hook.stage)
    found = sink.read()
    assert {name for name, _ in found} == {*ALWAYS, "forces", "my_bytes"}
    for name, value in found:
        assert torch.equal(value, batch[name]), name
    assert "velocities" in batch
    velocities = kind(HostMemory(9), fields=("velocities",))
    velocities(context, hook.stage)
    assert {name for name, _ in velocities.sink.read()} == {*ALWAYS, "velocities", "velocities_present"}


def test_single_precision(sink):
    batch = with_pairs()
    batch.time = torch.full((3, 1), 1.0 + 2.0**-40, dtype=torch.float64)
    SnapshotHook(sink, dtype=torch.float32)(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    found = sink.read()
    assert found.positions.dtype == found.energy.dtype == torch.float32
    assert torch.equal(found.positions, batch.positions.float())
    assert torch.equal(found.time, batch.time)
    assert found.atomic_numbers.dtype == batch.atomic_numbers.dtype
    assert batch.positions.dtype == torch.float64


def test_mistakes():
    sink, batch = HostMemory(9), make_batch(0)
    for arguments, error, text in [
        ({"fields": "forces"}, InputError, r"is one text; pass the names in a list: `fields=\['forces'\]`"),
        (
            {"fields": ["neighbor_list"]},
            InputError,
            "`fields` names 'neighbor_list'; a frame holds fields of atoms and of",
        ),
        ({"fields": ["edge_embeddings"]}, InputError, "and no pairs"),
        ({"fields": [3]}, InputError, "`fields` names 3"),
        ({"dtype": torch.float16}, DtypeError, "pass torch.float64 or torch.float32"),
    ]:
        with pytest.raises(error, match=text):
            SnapshotHook(sink, **arguments)
    with pytest.raises(MissingFieldError, match=r"names `force`, which the batch does not have. Did you mean `forces`"):
        SnapshotHook(sink, fields=["force"])(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    assert len(sink) == 0


def test_the_end_of_a_run_commits():
    sink = ZarrData({}, durability="close")
    hook = SnapshotHook(sink)
    hook(DynamicsContext(batch=make_batch(0)), DynamicsStage.AFTER_STEP)
    assert sink.acknowledged == 0
    hook.close()
    assert sink.acknowledged == 3
