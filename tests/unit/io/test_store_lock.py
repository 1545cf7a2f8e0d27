"""One writer: who comes second is refused before it changes anything, until the first one closes or dies."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from athanor.errors import AthanorWarning, StorageError
from athanor.io import _store_lock
from athanor.io.trajectory import TrajectoryReader

from .stores import make_rows, writer

HOLDER = textwrap.dedent(
    """
    import os, sys, time
    sys.path.insert(0, sys.argv[2])
    from stores import make_rows, writer
    target = writer(sys.argv[1], "frame")
    target.append(*make_rows(0))
    target.append(*make_rows(1))
    if sys.argv[3] == "fork" and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    if sys.argv[3] == "wait":
        print(os.getpid(), flush=True)
    time.sleep(60)
    """
)


def hold(place: Path, how: str = "wait") -> tuple[subprocess.Popen[str], int]:
    """Start a process that writes two frames and keeps the store; it, and the number that it or its child prints."""
    command = [sys.executable, "-c", HOLDER, str(place), os.path.dirname(__file__), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def content(place: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in place.rglob("*") if file.is_file()}


@pytest.mark.parametrize("mode", ["a", "w"])
def test_another_program_is_refused_until_the_first_is_gone(tmp_path, mode):
    process, number = hold(tmp_path / "t.zarr")
    try:
        (tmp_path / "t.zarr" / "tail" / "0000000009").write_bytes(b"of the next commit")
        before = content(tmp_path)
        for _ in range(2):
            with pytest.raises(StorageError, match=rf"is being written by process {number} on .*mode='r'"):
                writer(tmp_path / "t.zarr", mode=mode)
        assert content(tmp_path) == before
        assert len(TrajectoryReader(tmp_path / "t.zarr")) == 4
    finally:
        end(process)
    assert writer(tmp_path / "t.zarr", mode=mode).written == (4 if mode == "a" else 0)


def test_a_lock_that_refuses_nobody_is_noticed(tmp_path, monkeypatch):
    """Broken twin: no lock is taken."""
    monkeypatch.setattr(_store_lock, "_lock", lambda descriptor: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_another_program_is_refused_until_the_first_is_gone(tmp_path, "a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_keep_the_lock_of_a_killed_program(tmp_path):
    process, child = hold(tmp_path / "t.zarr", "fork")
    end(process)
    try:
        assert writer(tmp_path / "t.zarr").written == 4
    finally:
        os.kill(child, 9)


FORKER = textwrap.dedent(
    """
    import os, sys
    sys.path.insert(0, sys.argv[2])
    from stores import make_rows, writer
    target = writer(sys.argv[1], "close")
    target.append(*make_rows(0))
    (parent_reads, child_writes), (child_reads, parent_writes) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        getattr(target, sys.argv[3])()
        os.write(child_writes, b".")
        os.read(child_reads, 1)
        target.append(*make_rows(1))
        target.close()
        os._exit(0)
    os.read(parent_reads, 1)
    target.close()
    os.write(parent_writes, b".")
    sys.exit(os.waitpid(child, 0)[1])
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("how", ["flush", "close", "end"])
def test_a_forked_child_does_not_write_what_waits_in_its_parent(tmp_path, how):
    command = [sys.executable, "-c", FORKER, str(tmp_path / "t.zarr"), os.path.dirname(__file__), how]
    subprocess.run(command, check=True, timeout=120)
    assert TrajectoryReader(tmp_path / "t.zarr").system_values("step").flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("in_memory", [True, False])
def test_another_sink_of_the_program_is_refused_until_the_first_is_closed(tmp_path, in_memory):
    place = {} if in_memory else tmp_path / "t.zarr"
    first = writer(place, "every:2")
    first.append(*make_rows(0))
    for mode in ("a", "w"):
        with pytest.raises(StorageError, match=r"by another sink of this program; nothing was changed. `close\(\)`"):
            writer(place, mode=mode)
    first.append(*make_rows(1))
    first.close()
    second = writer(place)
    second.append(*make_rows(2))
    with pytest.raises(StorageError, match="another sink of this program"):
        first.append(*make_rows(3))
    second.close()
    first.append(*make_rows(3))  # behind what the other one wrote
    first.flush()
    assert TrajectoryReader(place).system_values("step").flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    del first
    assert writer(place).written == 8


def test_a_store_that_was_refused_is_free_again(tmp_path):
    (tmp_path / "commits.log").write_bytes(b"{")
    (tmp_path / "format.json").write_text('{"format": "athanor-trajectory", "version": 1}', encoding="utf-8")
    for _ in range(2):
        with pytest.raises(StorageError, match="are damaged"):
            writer(tmp_path)


def test_other_stores_are_free(tmp_path):
    writers = [writer(place) for place in ({}, {}, tmp_path / "a", tmp_path / "b")]
    assert [each.written for each in writers] == [0] * 4


def test_one_of_many_threads_makes_a_store(tmp_path):
    for attempt in range(20):
        place, found, start = tmp_path / str(attempt), [], threading.Barrier(4)

        def make(place=place, found=found, start=start) -> None:
            start.wait()
            try:
                found.append(writer(place, mode="x"))
            except StorageError as error:
                found.append(str(error))

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(not isinstance(item, str) for item in found) == 1, found


def test_a_folder_that_was_replaced_is_locked_anew(tmp_path):
    place = tmp_path / "t.zarr"
    process, _ = hold(place)
    try:
        shutil.rmtree(place)
        target = writer(place)
        with pytest.raises(StorageError, match="another sink"):
            writer(place)
        shutil.rmtree(place)
        after = writer(place)
        with pytest.raises(StorageError, match="was replaced by another one"):
            target.append(*make_rows(0))
        assert after.written == 0
    finally:
        end(process)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_store_lock, "_lock", refuse)
    with pytest.warns(AthanorWarning, match=r"has no locks \(No locks available\). Let only one program write there"):
        target = writer(tmp_path)
    with pytest.warns(AthanorWarning), pytest.raises(StorageError, match="another sink of this program"):
        writer(tmp_path)
    assert target.written == 0
