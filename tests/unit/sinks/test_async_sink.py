"""AsyncSink: whatever the sink behind it does, the run is the same and its frames are whole and in order."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from athanor.data.batch import Batch
from athanor.dynamics import NVE
from athanor.dynamics.hooks import SnapshotHook
from athanor.errors import CapacityError, ContractError, InputError, StorageError
from athanor.sinks import AsyncSink, HostMemory
from athanor.testing.dynamics_contract import argon_cluster, argon_model
from athanor.testing.sink_contract import assert_equal, make_batch

from . import lines

STEPS = 40


class Unreliable(HostMemory):
    """Sleeps and fails at random; some frames are stored all the same."""

    def __init__(self, seed: int) -> None:
        super().__init__(10_000)
        self._random = random.Random(seed)

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        time.sleep(self._random.choice([0.0, 0.0, 0.002]))
        fate = self._random.random()
        if fate < 0.1:
            raise StorageError("the disk is full.")
        super().write(batch, mask)
        if fate > 0.9:
            raise StorageError("the disk may not have it.")


def run(sink: HostMemory | AsyncSink | None) -> tuple[Batch, list[str]]:
    """Run some argon, going on after each error of the sink; return how it ends, and what the errors said."""
    batch, model = Batch.from_data_list([argon_cluster(3, 1), argon_cluster(4, 2)]), argon_model()
    errors: list[str] = []
    hooks = [] if sink is None else [SnapshotHook(sink)]
    batch.velocities = 0.01 * torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(1)).double()
    engine = NVE(model, dt=2.0, hooks=[*model.make_neighbor_hooks(), *hooks])
    while int(batch.get("step", torch.zeros(1)).max()) < STEPS:
        try:
            engine.run(batch, STEPS - int(batch.get("step", torch.zeros(1)).max()))
        except StorageError as error:
            errors.append(str(error))
    return batch, errors


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Batch, Batch]:
    """Every frame of a run, and its end, without any sink of ours behind a thread."""
    sink = HostMemory(10_000)
    end, errors = run(sink)
    assert not errors
    assert torch.equal(run(None)[0].positions, end.positions)
    return sink.read(), end


def check_run(undisturbed: tuple[Batch, Batch]) -> None:
    """The run is the same to the bit; of its frames none is missing of which no error said so, none is out of order."""
    frames, wanted = undisturbed
    for seed in range(3):
        sink = AsyncSink(Unreliable(seed), max_writes=2)
        end, errors = run(sink)
        for name in ("positions", "velocities", "energy", "step"):
            assert torch.equal(end[name], wanted[name]), f"`{name}` of the run"
        for _ in range(100):
            try:
                sink.flush()
                break
            except StorageError:
                pass
        found = sink.sink.read()
        steps = found.step.flatten()[::2].tolist()
        assert steps == sorted(set(steps)), f"steps {steps} are not in order"
        assert errors, "the sink never failed"
        refused = sum("was not taken" in text for text in errors)
        assert len(steps) == STEPS - refused, f"{STEPS - len(steps)} frames are missing, {refused} were not taken"
        assert len(sink) == len(found)
        rows = [row for step in steps for row in (2 * step - 2, 2 * step - 1)]
        assert_equal(found, frames.index_select(rows))


# --------------------------------------------------------------------------------------------------- broken twins
TWINS = [
    lines.keeps_views, lines.swallows_errors, lines.drops_what_failed, lines.stores_again_what_was_stored,
    lines.disturbs_the_run,
]  # fmt: skip


def test_a_sink_that_sleeps_and_fails_leaves_the_run_alone(undisturbed: tuple[Batch, Batch]) -> None:
    check_run(undisturbed)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_a_broken_twin_is_told(twin: Callable[[Any], None], undisturbed: Any, monkeypatch: Any) -> None:
    twin(monkeypatch)
    with pytest.raises(AssertionError):
        check_run(undisturbed)


# ----------------------------------------------------------------------------------------------- what it promises
class Gate(HostMemory):
    """Stores when it is let, and says on which thread."""

    def __init__(self, capacity: int = 1000) -> None:
        super().__init__(capacity)
        self.open, self.writing, self.threads = threading.Event(), threading.Event(), set()
        self.fails = 0

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        self.writing.set()
        assert self.open.wait(20.0)
        self.threads.add(threading.get_ident())
        if self.fails:
            self.fails -= 1
            raise OSError("no space left on device")
        super().write(batch, mask)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def check_order(gate: Gate) -> None:
    sink = AsyncSink(gate)
    for start in (0, 10, 20):
        sink.write(make_batch(start))
    assert (len(sink), sink.acknowledged, len(gate)) == (9, 0, 0)
    threading.Timer(0.05, gate.open.set).start()
    assert sink.read().system_id.flatten().tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert (len(sink), sink.acknowledged) == (9, 9)
    assert len(gate.threads) == 1
    assert threading.get_ident() not in gate.threads


def check_room(gate: Gate) -> None:
    sink, done = AsyncSink(gate, max_writes=3), []

    def write() -> None:
        for start in range(6):
            sink.write(make_batch(start))
            done.append(start)

    thread = threading.Thread(target=write)
    thread.start()
    assert gate.writing.wait(20.0)
    time.sleep(0.1)
    before = list(done)
    gate.open.set()
    thread.join(20.0)
    assert before == [0, 1, 2], f"{len(before)} writes wait"
    assert done == list(range(6))
    assert len(sink.read()) == 18


def test_a_write_does_not_wait_and_reading_does(gate: Gate) -> None:
    check_order(gate)


def test_no_more_than_so_many_writes_wait(gate: Gate) -> None:
    check_room(gate)


@pytest.mark.parametrize(
    ("twin", "check"),
    [(lines.last_one_first, check_order), (lines.leaves_out_what_has_no_room, check_room)],
    ids=["order", "room"],
)
def test_a_broken_line_is_told(twin: Callable[[Any], None], check: Any, gate: Gate, monkeypatch: Any) -> None:
    twin(monkeypatch)
    with pytest.raises(AssertionError):
        check(gate)


def test_an_error_is_told_by_the_next_call_and_nothing_is_lost(gate: Gate) -> None:
    sink = AsyncSink(gate)
    gate.open.set()
    sink.write(make_batch(0))
    sink.flush()
    gate.open.clear()
    gate.fails = 1
    sink.write(make_batch(10))
    sink.write(make_batch(20))
    gate.open.set()
    text = r"Gate failed in the background: OSError: no space left on device It has 3 frames, of which 3 are acknowle"
    with pytest.raises(StorageError, match=text) as told:
        sink.flush()
    assert "2 waiting writes are tried again, in order; `abandon()` drops what waits." in str(told.value)
    assert isinstance(told.value.__cause__, OSError)
    sink.flush()
    assert sink.read().system_id.flatten().tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]


@pytest.mark.parametrize("call", ["write", "close", "read"])
def test_every_call_tells_and_the_frame_of_a_write_waits(call: str, gate: Gate) -> None:
    sink = AsyncSink(gate, max_writes=1)
    gate.fails = 1
    sink.write(make_batch(0))
    threading.Timer(0.05, gate.open.set).start()
    with pytest.raises(StorageError, match="failed in the background"):
        sink.write(make_batch(10)) if call == "write" else getattr(sink, call)()
    sink.close()
    sink.close()
    assert sink.read().system_id.flatten().tolist() == [0, 1, 2, *([10, 11, 12] if call == "write" else [])]
    sink.write(make_batch(20))
    assert sink.read().system_id.flatten().tolist()[-3:] == [20, 21, 22]


def test_whoever_writes_on_in_spite_of_errors_is_refused_in_the_end(gate: Gate) -> None:
    sink = AsyncSink(gate, max_writes=1)
    gate.fails = 10**6
    gate.open.set()
    sink.write(make_batch(0))
    told = []
    for start in (10, 20, 30):
        with pytest.raises(StorageError) as error:
            sink.write(make_batch(start))
        told.append("was not taken" in str(error.value))
    assert told == [False, True, True]
    gate.fails = 0
    with suppress(StorageError):  # what went wrong before the last frame was refused
        sink.flush()
    assert sink.read().system_id.flatten().tolist() == [0, 1, 2, 10, 11, 12]


@pytest.mark.parametrize("call", ["abandon", "zero"])
def test_what_waits_can_be_dropped(call: str, gate: Gate) -> None:
    sink = AsyncSink(gate)
    gate.fails = 10**6
    for start in (0, 10, 20):
        sink.write(make_batch(start))
    assert gate.writing.wait(20.0)
    gate.open.set()
    with pytest.raises(StorageError):
        sink.flush()
    getattr(sink, call)()
    gate.fails = 0
    assert len(sink) == 0
    sink.flush()
    sink.write(make_batch(30, dtype=torch.float64 if call == "abandon" else torch.float32))
    assert sink.read().system_id.flatten().tolist() == [30, 31, 32]


def test_what_can_be_refused_at_once_is() -> None:
    sink = AsyncSink(HostMemory(5))
    sink.write(make_batch(0))
    with pytest.raises(CapacityError, match=r"HostMemory is full: 3 of 5 places are taken and 3 systems"):
        sink.write(make_batch(10))
    with pytest.raises(StorageError, match=r"`positions` is node-level torch.float32.*Nothing was stored"):
        sink.write(make_batch(10, (1,), torch.float32))
    assert_equal(sink.read(), make_batch(0))
    with pytest.raises(ContractError, match=r"`sink` is a str; pass a sink"):
        AsyncSink("frames.zarr")
    with pytest.raises(InputError, match="`max_writes` is 0"):
        AsyncSink(HostMemory(1), max_writes=0)


def test_gradients_do_not_wait() -> None:
    sink, batch = AsyncSink(HostMemory(100)), make_batch(0)
    batch.positions.requires_grad_(True)
    for mask in (None, torch.tensor([True, False, True])):
        sink.write(batch, mask)
        assert not any(write.make_frame().positions.requires_grad for write in sink._line._waiting)
    assert not sink.read().positions.requires_grad


def test_a_sink_that_nobody_holds_stores_what_waits(gate: Gate) -> None:
    sink = AsyncSink(gate)
    sink.write(make_batch(0))
    thread = sink._line._thread
    assert thread is not None
    threading.Timer(0.05, gate.open.set).start()
    del sink
    gc.collect()
    assert len(gate) == 3
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_nothing_waiting_and_does_not_hang() -> None:
    """The parent forks while its thread writes; parent and child both go on, and no frame is stored twice."""
    sink = AsyncSink(SlowMemory(1000), max_writes=2)
    for round_ in range(5):
        for start in range(3):
            sink.write(make_batch(100 * round_ + 10 * start))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                waiting, stored = len(sink._line._waiting), len(sink.sink)
                sink.write(make_batch(5))
                if waiting == 0 and len(sink.read()) == stored + 3:
                    status = 0
            finally:
                os._exit(status)
        assert _waited(child) == 0
    found = sink.read().system_id.flatten().tolist()
    assert found == [100 * r + 10 * s + i for r in range(5) for s in range(3) for i in range(3)]


class SlowMemory(HostMemory):
    """Takes its time, with the lock that all sinks share."""

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        with self._mutex:
            time.sleep(0.01)
            super().write(batch, mask)


def _waited(child: int) -> int:
    for _ in range(2000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


EXIT = """
import time
from athanor.sinks import AsyncSink, HostMemory, ZarrData
from athanor.testing.sink_contract import make_batch

class Slow(ZarrData):
    def write(self, batch, mask=None):
        time.sleep(0.02)
        super().write(batch, mask)

class Full(HostMemory):
    def write(self, batch, mask=None):
        raise OSError("no space left on device")

sinks = [AsyncSink(Slow({path!r}, durability="close")), AsyncSink(Full(100))]
for start in range(6):
    sinks[0].write(make_batch(10 * start))
sinks[1].write(make_batch(0))
{end}
"""


@pytest.mark.parametrize("end", ["", "sinks.append(sinks); raise KeyboardInterrupt"])
def test_the_end_of_the_program_stores_what_waits_or_says_what_is_lost(end: str, tmp_path: Any) -> None:
    from athanor.sinks import ZarrData

    script = EXIT.format(path=str(tmp_path / "a.zarr"), end=end)
    done = subprocess.run([sys.executable, "-c", script], timeout=120, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(end), done.stderr
    assert "Full failed in the background: OSError: no space left on device" in done.stderr
    assert "1 waiting write is tried again" in done.stderr
    with ZarrData(tmp_path / "a.zarr", mode="r") as sink:
        assert sink.read().system_id.flatten().tolist()[::3] == [0, 10, 20, 30, 40, 50]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_write_from_a_gpu_waits_for_nothing() -> None:
    batch, sink = make_batch(0).to("cuda"), AsyncSink(HostMemory(1000))
    sink.write(batch)
    sink.flush()
    wanted = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            batch.positions.add_(1.0)
            wanted.append(batch.positions.clone())
            sink.write(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = sink.read().positions
    assert torch.equal(found[6:], torch.cat(wanted).cpu())
