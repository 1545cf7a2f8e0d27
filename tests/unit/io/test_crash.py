"""Stop before every single write to the disk, and look at what is left: all acknowledged frames, and no wrong one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import zarr.storage

from athanor.errors import StorageError
from athanor.io._store_lock import StoreLock
from athanor.io.store import writer as writer_module
from athanor.io.store.fold import buffers_of
from athanor.io.store.folder import Folder
from athanor.io.store.history import History
from athanor.io.store.layout import COMMITS_KEY
from athanor.io.store.records import LOG_HEADER_BYTES, records
from athanor.io.trajectory import TrajectoryReader

from .stores import FailingStore, Fault, StoppingDisk, folder, make_rows, writer

STEPS = 5
FIELDS = ("atomic_numbers", "positions", "system_id", "step", "filled")
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 2500}
"""So small that 5 frames make several moves into the arrays, some of which replace a part-filled shard."""


def run(store: object) -> tuple[int, bool]:
    """Write until the store fails: frames acknowledged to the caller, and whether it was stopped."""
    acknowledged, target = 0, None
    try:
        target = writer(store, "frame", **CONFIG)
        for step in range(STEPS):
            target.append(*make_rows(step, names=FIELDS))
            acknowledged = step + 1
            if step == 2:
                target.close()
        target.close()
    except (Fault, StorageError):
        return acknowledged, True
    finally:
        if target is not None:
            target._let_go()
    return acknowledged, False


def check(store: object, acknowledged: int, extra: int = 1) -> int:
    """The store holds a prefix of the frames, at least the acknowledged ones, each with its right values."""
    reader = TrajectoryReader(store)
    frames, rest = divmod(len(reader), 2)
    assert rest == 0, f"{len(reader)} systems are no whole number of frames"
    assert acknowledged <= frames <= acknowledged + extra, f"{frames} frames, {acknowledged} acknowledged"
    if frames:
        found = reader.rows(slice(None))
        for name in FIELDS:
            wanted = np.concatenate([make_rows(step, names=FIELDS)[0].columns[name] for step in range(frames)])
            np.testing.assert_array_equal(found.columns[name], wanted, err_msg=name)
    return frames


def go_on(store: object, found: int) -> None:
    """The next writer goes on from what is there."""
    after = writer(store, "frame", **CONFIG)
    for step in range(found, STEPS + 1):
        after.append(*make_rows(step, names=FIELDS))
    check(store, STEPS + 1, extra=0)
    after.close()
    check(store, STEPS + 1, extra=0)


def explore(tmp_path: Path) -> int:
    """Run once for each operation of the disk, stopping there; in the middle of a write as well. Number of stops."""
    counter = StoppingDisk()
    run(folder(tmp_path / "whole", counter))
    stops = [(number, part) for number, operation in enumerate(counter.operations, 1)
             for part in ((0.0, 0.6) if operation == "write" else (0.0,))]  # fmt: skip
    for number, part in stops:
        place = tmp_path / str(number)
        acknowledged, stopped = run(folder(place, StoppingDisk(number, part)))
        assert stopped, f"operation {number} did not fail"
        try:
            found = check(place, acknowledged)
        except FileNotFoundError:
            assert acknowledged == 0
            found = 0
        go_on(place, found)
        shutil.rmtree(place)
    return len(stops)


def test_every_operation_of_the_disk_may_be_the_last(tmp_path):
    assert explore(tmp_path) > 150


def test_every_operation_of_an_object_store_may_be_the_last():
    counter = FailingStore(zarr.storage.MemoryStore({}))
    run(counter)
    for number in range(1, counter.operations + 1):
        memory: dict = {}
        acknowledged, stopped = run(FailingStore(zarr.storage.MemoryStore(memory), fail_at=number))
        assert stopped, f"operation {number} did not fail"
        try:
            found = check(memory, acknowledged)
        except FileNotFoundError:
            assert acknowledged == 0
            found = 0
        go_on(memory, found)
    assert counter.operations > 50


class OldLogFirst(History):
    """Broken twin: the old log goes before the new commit record is there."""

    def new_log(self, commit, remainder):
        if self.state.commit.tail:
            self.medium.delete_log(self.state.commit.tail)
        return super().new_log(commit, remainder)


class ForgetsTheRemainder(History):
    """Broken twin: rows that fill no shard are in the memory of the writer only."""

    def new_log(self, commit, remainder):
        return super().new_log(commit, {})


class NoCutting(Folder):
    """Broken twin: what an interrupted writer left behind the last whole record stays there."""

    def open_log(self, key, size):
        return super().open_log(key, len(self.read(key)) - LOG_HEADER_BYTES)


def folds_twice(medium, state):
    """Broken twin: the next writer takes rows of a part-filled shard for rows that no shard holds."""
    buffers = buffers_of(medium, state)
    for buffer in buffers.values():
        buffer.base = buffer.stored
    return buffers


@pytest.mark.parametrize(
    ("part", "twin", "complaint"),
    [
        ("History", OldLogFirst, "`tail/.*` .* is missing; the commit record names it"),
        ("History", ForgetsTheRemainder, "does not begin with the rows that no shard holds"),
        ("buffers_of", folds_twice, "is damaged|rows; row|differ|not equal"),
    ],
)
def test_a_wrong_order_is_found(part, twin, complaint, monkeypatch, tmp_path):
    monkeypatch.setattr(writer_module, part, twin)
    with pytest.raises((StorageError, AssertionError), match=complaint):
        explore(tmp_path)


@pytest.mark.parametrize("kind", [Folder, NoCutting])
def test_a_torn_record_is_cut_off(tmp_path, kind):
    target = writer(folder(tmp_path), "frame")
    target.append(*make_rows(0, names=FIELDS))
    target.end()
    (log,) = (tmp_path / "tail").iterdir()
    log.write_bytes(log.read_bytes() + b"ATR1 and so on")
    target = writer(kind(tmp_path), "frame")
    target.append(*make_rows(1, names=FIELDS))
    target.end()
    if kind is Folder:
        check(tmp_path, 2, extra=0)
    else:
        with pytest.raises(StorageError, match="is damaged behind byte"):
            check(tmp_path, 2, extra=0)


def test_kill_during_writing(tmp_path):
    """A real process, really killed: every frame it printed is there, and nothing is wrong."""
    script = textwrap.dedent(
        """
        import os, sys
        sys.path.insert(0, sys.argv[2])
        from stores import make_rows, writer
        target = writer(sys.argv[1], "frame", shard_bytes=1024, buffer_bytes=2500)
        for step in range(10**6):
            target.append(*make_rows(step, names=sys.argv[3:]))
            print(step + 1, flush=True)
        """
    )
    place = tmp_path / "t.zarr"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(place), os.path.dirname(__file__), *FIELDS],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    acknowledged = 0
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged == 23:
            child.kill()
    child.wait()
    child.stdout.close()
    check(place, acknowledged)
    after = writer(place, "frame", **CONFIG)
    first = after.acknowledged // 2
    after.append(*make_rows(first, names=FIELDS))
    after.close()
    check(place, first + 1, extra=0)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_error_may_pass_at_any_operation(tmp_path):
    """Frames that could not be written wait; a sync that failed is the end of the writer, and of no frame before it."""
    counter = StoppingDisk()
    target = writer(folder(tmp_path / "whole", counter), "every:2", **CONFIG)
    before = len(counter.operations)
    for step in range(STEPS):
        target.append(*make_rows(step, names=FIELDS))
    target.close()
    for number in range(before + 1, len(counter.operations) + 1):
        place = tmp_path / str(number)
        disk = StoppingDisk(number, 0.5, full())
        target = writer(folder(place, disk), "every:2", **CONFIG)
        step = told = 0
        while step < STEPS:
            try:
                target.append(*make_rows(step, names=FIELDS))
            except StorageError as error:
                told += 1
                if "did not take" in str(error):
                    safe = target.acknowledged // 2
                    target.end()
                    step = check(place, safe, extra=step + 1 - safe)
                    target = writer(place, "every:2", **CONFIG)
                    continue
            step += 1
        try:
            target.close()
        except StorageError:
            told += 1
            if target._acknowledgement.fault:
                target.end()
                target = writer(place, "every:2", **CONFIG)
            target.close()
        operation = counter.operations[number - 1]
        assert told == (0 if operation == "remove" else 1), f"{operation} failed and {told} errors were raised"
        check(place, STEPS, extra=0)
        shutil.rmtree(place)


def test_a_failed_sync_is_never_taken_back(tmp_path):
    disk = StoppingDisk()
    target = writer(folder(tmp_path, disk), "every:3", **CONFIG | {"buffer_bytes": 10**6})
    for step in range(2):
        target.append(*make_rows(step, names=FIELDS))
    disk.error, disk.fail_at = OSError(errno.EIO, "Input/output error"), len(disk.operations) + 2
    with pytest.raises(StorageError, match=r"did not take what was written .*: Input/output error. The 0 acknowledged"):
        target.append(*make_rows(2, names=FIELDS))
    for call in (lambda: target.append(*make_rows(3, names=FIELDS)), target.flush, target.close):
        with pytest.raises(StorageError, match="This sink writes no more"):
            call()
    assert (target.written, target.acknowledged) == (6, 0)


def test_a_failed_write_can_be_tried_again(tmp_path):
    disk = StoppingDisk()
    target = writer(folder(tmp_path, disk), "every:3", **CONFIG)
    for step in range(2):
        target.append(*make_rows(step, names=FIELDS))
    disk.error, disk.fail_at = full(), len(disk.operations) + 1
    with pytest.raises(StorageError, match="4 committed frames are safe, 2 more wait"):
        target.append(*make_rows(2, names=FIELDS))
    assert (target.written, target.acknowledged) == (6, 4)
    target.flush()
    assert (target.written, target.acknowledged) == (6, 6)
    check(tmp_path, 3, extra=0)


def test_two_writers_are_noticed(monkeypatch):
    """Where locks mean nothing, the second one finds its place in the log taken."""
    monkeypatch.setattr(StoreLock, "acquire", lambda self: setattr(self, "is_held", True))
    memory: dict = {}
    first, second = writer(memory), writer(memory)
    first.append(*make_rows(0, names=FIELDS))
    with pytest.raises(StorageError, match="another writer"):
        second.append(*make_rows(7, names=FIELDS))
    check(memory, 1, extra=0)


def test_a_left_over_part_of_a_file_does_not_block_the_place(tmp_path):
    place = tmp_path / "t.zarr"
    place.mkdir()
    (place / "format.json.0f.partial").write_bytes(b"{")
    target = writer(place, "frame")
    target.append(*make_rows(0, names=FIELDS))
    target.end()
    (place / "tail" / ".0000000002.log.0f.partial").write_bytes(b"ATHB")
    (place / "tail" / "0000000009.log").write_bytes(b"")
    again = writer(place, "frame")
    assert again.acknowledged == 2
    assert [path.name for path in (place / "tail").iterdir()] == ["0000000000.log"]


@pytest.mark.parametrize("frames", [0, 3, 9])
def test_a_store_that_is_cut_back_is_cut_back_or_as_it_was(tmp_path, frames):
    """Stopped at any operation; the next try cuts it back, and it goes on from there."""

    def cut(disk: StoppingDisk, place: Path) -> None:
        target = writer(folder(place, disk), "frame", **CONFIG)
        try:
            target.truncate_to(frames)
        finally:
            target._let_go()

    whole = tmp_path / "whole"
    run(whole)
    counter = StoppingDisk()
    shutil.copytree(whole, tmp_path / "counted")
    cut(counter, tmp_path / "counted")
    for number in range(1, len(counter.operations) + 1):
        place = tmp_path / str(number)
        shutil.copytree(whole, place)
        with pytest.raises((Fault, StorageError)):
            cut(StoppingDisk(number, 0.5), place)
        found = len(TrajectoryReader(place))
        assert found in (frames, 2 * STEPS)
        target = writer(place, "frame", **CONFIG)
        target.truncate_to(frames)
        rows = TrajectoryReader(place).rows(slice(None)) if frames else None
        if rows is not None:
            wanted = np.concatenate([make_rows(step, names=FIELDS)[0].columns["step"] for step in range(STEPS)])
            np.testing.assert_array_equal(rows.columns["step"], wanted[:frames])
        target.append(*make_rows(50, names=FIELDS))
        target.close()
        steps = TrajectoryReader(place).system_values("step").flatten().tolist()
        assert steps == [*(number // 2 for number in range(frames)), 50, 50]
        shutil.rmtree(place)


def test_the_log_of_commits_begins_anew_when_a_store_is_cut_back(tmp_path):
    run(tmp_path)
    reader = TrajectoryReader(tmp_path)
    writer(tmp_path, **CONFIG).truncate_to(3)
    raw = folder(tmp_path).read_log(COMMITS_KEY)
    assert raw is not None
    assert len(list(records(raw.raw))) == 1
    with pytest.raises(StorageError, match="was emptied or cut back meanwhile; open it again"):
        reader.rows([0])
