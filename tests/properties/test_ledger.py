"""Reported numbers are honest: what has joined, is under way, finished, failed, tried again, was written and is safe is
counted apart, and adds up at every moment."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from athanor.data import Batch
from athanor.dynamics import HostMemory, NVTLangevin, SizeAwareSampler, ZarrData, second_chances
from athanor.dynamics.delivery import Delivery
from athanor.hooks import DynamicsStage
from athanor.sinks import DataSink
from athanor.testing.dynamics_contract import argon_cluster, argon_model, with_neighbor_hooks


class Breaks:
    """Breaks each system in so many steps of its life, from its third on."""

    frequency, stage, on_active = 1, DynamicsStage.AFTER_PRE_UPDATE, True

    def __init__(self, times: dict[int, int]) -> None:
        self.times = times

    def __call__(self, ctx: Any, stage: Any) -> None:
        batch = ctx.batch
        for place, one in enumerate(batch.system_id.flatten().tolist()):
            if bool(ctx.active_mask[place]) and 3 <= int(batch.step[place]) < 3 + self.times[one]:
                batch.positions[batch.batch_idx == place] = float("nan")


def ids_in(sink: DataSink) -> list[int]:
    return sink.read().system_id.flatten().tolist() if len(sink) else []


def book(folder: Path, seed: int, on_error: str) -> None:
    """Follow one run in flight with its books; raises where they do not agree."""
    chance = random.Random(seed)
    times = {number: chance.choice([0, 0, 1, 2, 3, 4]) for number in range(12)}
    systems = [argon_cluster(2 + number % 5, number) for number in range(12)]
    good, bad = ZarrData(folder / f"{seed}-{on_error}.zarr", durability="every:3"), HostMemory(100)
    engine = with_neighbor_hooks(
        NVTLangevin(
            argon_model(), 4.0, 40.0, friction=0.02, n_steps=9, hooks=[Breaks(times)], on_error=on_error, max_retries=3,
            sampler=SizeAwareSampler(systems, max_batch_size=chance.randint(2, 5)), sinks=[good], failure_sinks=[bad],
            refill_frequency=chance.choice([1, 2]), ordered=chance.random() < 0.5,
        )
    )  # fmt: skip
    batch: Batch | None = None
    most = 3 if on_error == "retry" else 0
    for _ in itertools.count():
        batch, tally = engine.run(batch, chance.randint(1, 6)), engine.tally
        assert tally.joined == tally.running + tally.finished + tally.failed + tally.held
        assert tally.running == (0 if batch is None else len(batch))
        assert (tally.finished, tally.failed) == (len(good), len(bad))
        assert 0 <= good.acknowledged <= len(good)
        written = ids_in(good) + ids_in(bad)
        assert len(written) == len(set(written))
        assert tally.retried == sum(times[one] > 0 for one in written if most)
        if engine.done:
            break
    good.close()
    assert (good.acknowledged, engine.tally.held) == (len(good), 0)
    for sink, failed in ((good, False), (bad, True)):
        for data in sink.read().to_data_list() if len(sink) else []:
            one = int(data.system_id)
            assert (times[one] > most) is failed
            assert (int(data.failure_code) > 0) is failed
            assert (int(data.retries) if most else 0) == min(times[one], most)


@pytest.mark.parametrize("on_error", ["quarantine", "retry"])
def test_the_books_agree_at_every_moment(on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_chances, "EVERY", 2)
    for seed in range(4):
        book(tmp_path, seed, on_error)


note_written = Delivery._note_written


def counts_twice(self: Delivery, frames: Batch) -> None:
    note_written(self, frames)
    self._finished += 1


def forgets_retries(self: Delivery, frames: Batch) -> None:
    retried = self._retried
    note_written(self, frames)
    self._retried = retried


@pytest.mark.parametrize("mutant", [counts_twice, forgets_retries])
def test_books_that_do_not_agree_are_found(mutant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Delivery, "_note_written", mutant)
    with pytest.raises(AssertionError):
        book(tmp_path, 0, "retry")
