"""Stop before every single store write, and look at what is left: all committed frames, and no wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import zarr
import zarr.storage

from athanor.errors import StorageError
from athanor.io import zarr_writer
from athanor.io._store_lock import StoreLock
from athanor.io.zarr_reader import TrajectoryReader
from athanor.io.zarr_schema import HEAD_KEY

from . import stores
from .stores import FailingStore, Fault, make_rows, writer

STEPS = 6
FIELDS = ("positions", "system_id", "step", "filled")
CONFIG = {"chunk_bytes": 1024, "buffer_bytes": 500}
"""So small that 6 frames make blocks and several moves into the arrays, some of which rewrite a part-filled chunk."""


def run(store: FailingStore) -> tuple[int, int]:
    """Write until the store fails. Frames acknowledged to the caller, and whether it was stopped."""
    acknowledged = 0
    try:
        target = writer(store, "frame", **CONFIG)
        for step in range(STEPS):
            target.append(*make_rows(step, names=FIELDS))
            acknowledged = step + 1
        target.close()
    except (Fault, StorageError):
        return acknowledged, True
    return acknowledged, False


def check(memory: dict, acknowledged: int, extra: int = 1) -> None:
    """The store holds a prefix of the frames, at least the acknowledged ones, each with its right values."""
    reader = TrajectoryReader(memory)
    frames, rest = divmod(len(reader), 2)
    assert rest == 0, f"{len(reader)} systems are no whole number of frames"
    assert acknowledged <= frames <= acknowledged + extra, f"{frames} frames, {acknowledged} acknowledged"
    if frames == 0:
        return
    found = reader.rows(slice(None))
    for name in make_rows(0, names=FIELDS)[0].columns:
        wanted = np.concatenate([make_rows(step, names=FIELDS)[0].columns[name] for step in range(frames)])
        np.testing.assert_array_equal(found.columns[name], wanted, err_msg=name)


def explore() -> int:
    """Run once for each store operation, failing there; afterwards let the next writer go on. Number of operations."""
    counter = FailingStore(zarr.storage.MemoryStore({}))
    run(counter)
    for number in range(1, counter.operations + 1):
        memory: dict = {}
        acknowledged, stopped = run(FailingStore(zarr.storage.MemoryStore(memory), fail_at=number))
        assert stopped, f"operation {number} did not fail"
        try:
            found = len(TrajectoryReader(memory)) // 2
        except FileNotFoundError:
            found = 0
        else:
            check(memory, acknowledged)
        assert found >= acknowledged
        after = writer(memory, "frame", **CONFIG)
        for step in range(found, STEPS + 1):
            after.append(*make_rows(step, names=FIELDS))
        check(memory, STEPS + 1, extra=0)
        after.close()
        check(memory, STEPS + 1, extra=0)
    return counter.operations


def test_every_store_operation_may_be_the_last():
    assert explore() > 50


class CommitRecordFirst(zarr_writer.TrajectoryWriter):
    """Broken twin: the commit record goes out before the block it names."""

    def _put_block(self):
        real, held = self._raw.set, []

        def reordered(key, value):
            if key == HEAD_KEY:
                real(key, value)
                for late in held:
                    real(*late)
            else:
                held.append((key, value))

        self._raw.set = reordered
        try:
            super()._put_block()
        finally:
            self._raw.set = real


class RecordBeforeArrays(zarr_writer.TrajectoryWriter):
    """Broken twin: rows go into the arrays after the record that counts them."""

    def _move_into_arrays(self):
        late, real = [], self._extend

        def postponed(path, base, values, arrays, earlier):
            late.append((path, base, values, set(arrays), earlier))
            arrays.add(path)

        self._extend = postponed
        try:
            super()._move_into_arrays()
        finally:
            self._extend = real
        for arguments in late:
            real(*arguments)


class ForgetsEmptyChunks(zarr_writer.TrajectoryWriter):
    """Broken twin: an array that is opened again loses chunks of fill values, as zarr does when left to itself."""

    def _array(self, path):
        if path not in self._arrays:
            self._arrays[path] = zarr.open_array(self._raw.store, path=path, mode="r+")
        return self._arrays[path]


class NoCutting(zarr_writer.TrajectoryWriter):
    """Broken twin: what an interrupted writer left beyond the record stays, and appends go behind it."""

    def _reload(self):
        from athanor.io.zarr_reader import load_head, load_tail

        self._arrays.clear()
        self._head, self._record = load_head(self._raw), self._raw.get(HEAD_KEY)
        self._in_tail = load_tail(self._raw, self._head)
        self._last_commit_failed = False

    def _extend(self, path, base, values, arrays, earlier):
        if path in arrays:
            base = self._array(path).shape[0]
        super()._extend(path, base, values, arrays, earlier)


@pytest.mark.parametrize(
    ("twin", "complaint"),
    [
        (CommitRecordFirst, "Block `tail/.*` .* is missing; the commit record names it"),
        (RecordBeforeArrays, "Array `index/node_end` .* is missing"),
        (ForgetsEmptyChunks, "Chunk 0 of array `data/filled` .* is missing"),
        (NoCutting, "end pointers `index/node_end` .* are damaged"),
    ],
)
def test_a_wrong_order_is_found(twin, complaint, monkeypatch):
    monkeypatch.setattr(stores, "TrajectoryWriter", twin)
    with pytest.raises(StorageError, match=complaint):
        explore()


def test_kill_during_writing(tmp_path):
    """A real process, really killed: every frame it printed is there, and nothing is wrong."""
    script = textwrap.dedent(
        """
        import os, sys
        sys.path.insert(0, sys.argv[2])
        from stores import make_rows, writer
        target = writer(sys.argv[1], "frame", chunk_bytes=1024, buffer_bytes=500)
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


def test_a_failed_commit_can_be_tried_again():
    memory: dict = {}
    store = FailingStore(zarr.storage.MemoryStore(memory))
    target = writer(store, "every:3", **CONFIG)
    for step in range(2):
        target.append(*make_rows(step, names=FIELDS))
    store.fail_at = store.operations + 1
    with pytest.raises(StorageError, match="0 committed frames are safe, 6 more wait"):
        target.append(*make_rows(2, names=FIELDS))
    assert (target.written, target.acknowledged) == (6, 0)
    store.fail_at = None
    target.flush()
    assert (target.written, target.acknowledged) == (6, 6)
    check(memory, 3, extra=0)


def test_a_disk_error_may_pass_at_any_operation():
    counter = FailingStore(zarr.storage.MemoryStore({}))
    run(counter)
    for number in range(1, counter.operations + 1):
        memory: dict = {}
        store = FailingStore(zarr.storage.MemoryStore(memory))
        target = writer(store, "close", **CONFIG | {"buffer_bytes": 10**6})
        store.fail_at = store.operations + number
        for step in range(STEPS):
            target.append(*make_rows(step, names=FIELDS))
            try:
                target.close() if step % 2 else target.flush()
            except StorageError:
                store.fail_at = None
        target.close()
        check(memory, STEPS, extra=0)


def test_a_writer_that_could_not_be_opened_again_begins_with_what_others_wrote(monkeypatch):
    """It had the lock and the record then, but not the block that the record names, and lost the rows of it."""
    memory: dict = {}
    first = writer(memory)
    first.append(*make_rows(0, names=FIELDS))
    first.close()
    other = writer(memory)
    other.append(*make_rows(1, names=FIELDS))
    other.end()
    with monkeypatch.context() as patch:
        patch.setattr(zarr_writer, "load_tail", fail)
        with pytest.raises(StorageError, match="can not be opened to write: the disk is away"):
            first.append(*make_rows(2, names=FIELDS))
    first.append(*make_rows(2, names=FIELDS))
    first.close()
    check(memory, 3, extra=0)


def fail(*_: object) -> None:
    raise OSError("the disk is away")


def test_a_commit_whose_record_was_written_counts_once_however_often_it_fails(monkeypatch):
    memory: dict = {}
    target = writer(memory, "close")
    target.append(*make_rows(0, names=FIELDS))
    real = target.raw.set

    def set_and_fail(key: str, value: bytes) -> None:
        real(key, value)
        if key == HEAD_KEY:
            fail()

    with monkeypatch.context() as patch:
        patch.setattr(target.raw, "set", set_and_fail)
        patch.setattr(zarr_writer, "load_tail", fail)
        for _ in range(2):
            with pytest.raises(StorageError, match="the disk is away"):
                target.flush()
    target.close()
    check(memory, 1, extra=0)


def test_two_writers_are_noticed(monkeypatch):
    """Where locks mean nothing, the commit record tells."""
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
    del target
    (place / "tail" / "0000000002.0f.partial").write_bytes(b"ATHB")
    again = writer(place, "frame")
    assert again.acknowledged == 2
    assert [path.name for path in (place / "tail").iterdir()] == ["0000000001"]
