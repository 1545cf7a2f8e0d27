"""Want of memory in a run in flight: who waits, who fails, what is told, and that hooks see everybody once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from athanor._memory import is_out_of_memory
from athanor.data import AtomicData, Batch
from athanor.dynamics import HostMemory, NVTLangevin, SizeAwareSampler
from athanor.dynamics.caps import Load
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.failures import FailureCode, explain_failure
from athanor.dynamics.hooks import SnapshotHook
from athanor.errors import AthanorWarning, SimulationError
from athanor.hooks import DynamicsStage
from athanor.testing.dynamics_contract import argon_cluster, argon_model, with_neighbor_hooks


def clusters(*counts: int) -> list[AtomicData]:
    return [argon_cluster(count, number) for number, count in enumerate(counts)]


class Lack:
    """Lets a model raise for more than so many atoms, and for a system of `size` atoms whoever else is there."""

    def __init__(self, most: int, size: int = -1, *, from_step: int = 0) -> None:
        self.most, self.size, self.from_step, self.seen = most, size, from_step, []

    def __call__(self, model: Any, arguments: Any) -> None:
        (batch,) = arguments
        is_late = int(batch.step.max()) >= self.from_step
        if is_late and (batch.num_nodes > self.most or self.size in batch.num_nodes_list):
            self.seen.append(batch.num_nodes)
            raise MemoryError("there is none left")


def flying(source: Any, lack: Lack, **options: Any) -> BaseDynamics:
    model = argon_model()
    model.register_forward_pre_hook(lack)
    options.setdefault("sinks", [HostMemory(100)])
    sampler = SizeAwareSampler(source, **options.pop("caps", {"max_batch_size": 8}))
    engine = NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01, n_steps=4, sampler=sampler, **options)
    return with_neighbor_hooks(engine)


def codes_in(sink: HostMemory) -> dict[int, int]:
    frames = sink.read()
    return dict(zip(frames.system_id.flatten().tolist(), frames.failure_code.flatten().tolist(), strict=True))


@pytest.mark.parametrize("from_step", [0, 2])
def test_half_of_the_batch_waits_and_is_put_back_before_new_ones_come(from_step: int) -> None:
    lack = Lack(13, from_step=from_step)
    engine = flying(clusters(*[3] * 12), lack)
    with pytest.warns(AthanorWarning) as told:
        engine.run()
    assert lack.seen == [24]
    assert len(told) == 1
    assert "did not suffice for a batch of 8 systems and 24 atoms" in str(told[0].message)
    assert "holds about 12 atoms; 4 systems wait" in str(told[0].message)
    assert engine.sinks[0].read().system_id.flatten().tolist() == list(range(12))
    assert engine.tally == (12, 0, 12, 0, 0, 0)
    assert engine.sampler.caps.working_bytes == 12 * engine.sampler.caps.bytes_per_atom


def test_each_halving_takes_half_of_the_systems_and_only_the_last_is_told_of() -> None:
    lack = Lack(3)
    engine = flying(clusters(*[3] * 8), lack)
    with pytest.warns(AthanorWarning) as told:
        engine.run()
    assert lack.seen == [24, 12, 6]
    assert len(told) == 1
    assert sorted(codes_in(engine.sinks[0]).values()) == [0] * 8


def test_one_for_which_alone_there_is_no_memory_fails_and_the_others_go_on_as_before() -> None:
    lack = Lack(100, size=7)
    engine = flying(clusters(3, 3, 7, 3, 3, 3, 3, 3, 3, 3, 3, 3), lack, failure_sinks=[HostMemory(9)])
    with pytest.warns(AthanorWarning) as told:
        engine.run()
    assert "alone, by their `system_id`, which failed: [2]. The batch holds as much as before." in str(told[-1].message)
    assert codes_in(engine.failure_sinks[0]) == {2: int(FailureCode.OUT_OF_MEMORY)}
    frames = engine.failure_sinks[0].read()
    assert explain_failure(frames, 0, notes=engine.failure_notes).endswith(
        "the memory did not suffice for it alone: MemoryError: there is none left"
    )
    assert sorted(codes_in(engine.sinks[0])) == [0, 1, *range(3, 12)]
    assert engine.sampler.caps.working_bytes is None  # it was in every batch that did not fit


def test_one_alone_raises_if_errors_do() -> None:
    engine = flying(clusters(7, 7), Lack(100, size=7), on_error="raise")
    with pytest.raises(MemoryError, match="there is none left"):
        engine.run()
    assert engine.active_batch is not None


def test_systems_larger_than_what_was_found_run_alone_at_the_end() -> None:
    lack = Lack(12)
    engine = flying(clusters(12, 3, 3, 3, 3, 3), lack, caps={"max_atoms": 18})
    with pytest.warns(AthanorWarning, match="did not suffice"):
        engine.run()
    assert sorted(codes_in(engine.sinks[0]).items()) == [(number, 0) for number in range(6)]


@pytest.mark.parametrize("ordered", [False, True])
def test_hooks_see_everybody_come_and_go_once(ordered: bool) -> None:
    for lack in (Lack(7), Lack(7, from_step=1)):
        frames = HostMemory(1000)
        hook = SnapshotHook(frames, frequency=1000, first=True, last=True)
        engine = flying(clusters(3, 4, 3, 4, 2, 3, 3), lack, hooks=[hook], ordered=ordered)
        with pytest.warns(AthanorWarning, match="did not suffice"):
            engine.run()
        assert lack.seen
        found = frames.read()
        seen = Counter(zip(found.system_id.flatten().tolist(), found.step.flatten().tolist(), strict=True))
        assert {key: seen[key] for key in seen if key[1] in (0, 4)} == {(n, s): 1 for n in range(7) for s in (0, 4)}
        ids = engine.sinks[0].read().system_id.flatten().tolist()
        assert (ids if ordered else sorted(ids)) == list(range(7))


def test_a_batch_that_can_not_even_be_made_is_made_smaller() -> None:
    sizes = []

    def init(batch: Batch) -> None:
        if len(batch) > 2:
            raise RuntimeError("CUDA error: out of memory")
        sizes.append(len(batch))

    engine = flying(clusters(*[3] * 9), Lack(100), init_fn=init)
    with pytest.warns(AthanorWarning, match="did not suffice for a batch of 8 systems"):
        engine.run()
    assert sorted(codes_in(engine.sinks[0])) == list(range(9))
    assert max(sizes) == 2

    def refuses(batch: Batch) -> None:
        if 5 in batch.num_nodes_list:
            raise MemoryError

    engine = flying(clusters(3, 5, 3), Lack(100), init_fn=refuses, caps={"max_batch_size": 1})
    with pytest.warns(AthanorWarning, match="Sample 1 is set aside: the memory does not suffice for it alone"):
        engine.run()
    assert sorted(codes_in(engine.sinks[0])) == [0, 2]


def test_a_manual_loop_takes_back_those_that_wait() -> None:
    engine = flying(clusters(*[3] * 6), Lack(10))
    with pytest.warns(AthanorWarning, match="did not suffice"):
        batch = engine.run(n_steps=1)
    assert len(engine._in_flight._parking) == 3
    found, count = batch, 0
    while found is not None:
        engine.step(batch)
        found, count = engine.refill_check(batch, 1), count + 1
        assert count < 50
    assert sorted(codes_in(engine.sinks[0])) == list(range(6))
    assert engine.sinks[0].read().step.flatten().tolist() == [4] * 6


def test_what_hooks_raise_after_a_step_is_theirs() -> None:
    class Full:
        frequency, stage, observes = 1, DynamicsStage.AFTER_STEP, True

        def __call__(self, ctx: Any, stage: Any) -> None:
            raise MemoryError("the hook is full")

    engine = flying(clusters(3, 3), Lack(100), hooks=[Full()])
    with pytest.raises(MemoryError, match="the hook is full"):
        engine.run()
    assert len(engine._in_flight._parking) == 0
    assert len(engine.active_batch) == 2


def test_outside_of_a_flight_systems_are_evaluated_apart_and_one_alone_fails() -> None:
    lack = Lack(6)
    engine = flying(clusters(3), lack)
    engine.sampler, engine.sinks = None, []
    batch = Batch.from_data_list(clusters(3, 4, 7))
    engine.run(batch, 3)
    assert batch.failure_code.flatten().tolist() == [0, 0, int(FailureCode.OUT_OF_MEMORY)]
    assert batch.step.flatten().tolist() == [3, 3, 0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("Failed to allocate 1000 bytes on device 'cuda:0'"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (ValueError("out of memory"), False),
        (RuntimeError("the sizes of tensors must match"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_is_want_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    outer = SimulationError("the model raised")
    outer.__cause__ = error
    assert is_out_of_memory(outer) is expected


def test_a_cap_that_was_found_lets_one_run_alone() -> None:
    caps = SizeAwareSampler(clusters(3), max_atoms=100, bytes_per_atom=10.0).caps
    caps.working_bytes = 100.0
    assert caps.allow(Load(2, 10))
    assert not caps.allow(Load(2, 11))
    assert caps.allow(Load(1, 50))
    assert not caps.allow(Load(1, 101))
