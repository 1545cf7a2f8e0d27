"""After an error that has passed a sink goes on, and what it acknowledges is what the next reader sees."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from athanor.errors import StorageError
from athanor.io.store import folder as folder_module
from athanor.io.store import writer as writer_module
from athanor.io.store.history import History
from athanor.io.store.layout import COMMITS_KEY, FORMAT_KEY
from athanor.io.store.records import frame
from athanor.io.store.state import COMMIT
from athanor.io.trajectory import TrajectoryReader

from . import stores
from .stores import StoppingDisk, folder, make_rows, writer

NAMES = ("atomic_numbers", "positions", "system_id", "step")
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 2500}
FAULT = OSError(errno.EIO, "Input/output error")


def opened(place: Path, disk: StoppingDisk, frames: int = 0) -> writer_module.TrajectoryWriter:
    target = writer(folder(place, disk), **CONFIG)
    for step in range(frames):
        target.append(*make_rows(step, names=NAMES))
    return target


def check_acknowledged(tmp_path: Path) -> int:
    """Refuse every call in turn, and look after every write that follows; how many calls there were."""
    counter = StoppingDisk()
    first = len(opened(tmp_path / "opened", counter).medium.disk.operations)
    opened(tmp_path / "whole", counting := StoppingDisk(), 6)
    for number in range(first + 1, len(counting.operations) + 1):
        place = tmp_path / str(number)
        target = opened(place, StoppingDisk(number, error=FAULT))
        for step in range(6):
            try:
                target.append(*make_rows(step, names=NAMES))
            except StorageError:
                if target._acknowledgement.fault:
                    break
            read = len(TrajectoryReader(place))
            assert read >= target.acknowledged, f"call {number}: {read} of {target.acknowledged} are read"
        target.end() if target._acknowledgement.fault is None else target._let_go()
        shutil.rmtree(place)
    return len(counting.operations) - first


def test_what_is_acknowledged_after_an_error_is_read(tmp_path):
    assert check_acknowledged(tmp_path) > 30


class GoesOnInTheOldLog(History):
    """Broken twin: a commit record that may count already is tried again later."""

    def add(self, commit, log):
        payload = commit.to_bytes()
        self._commits.append(frame(COMMIT, payload))
        self._commits.sync()
        self._now_at(commit, payload, log)


def test_frames_behind_the_old_log_are_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "History", GoesOnInTheOldLog)
    with pytest.raises(AssertionError, match="are read"):
        check_acknowledged(tmp_path)


@pytest.mark.parametrize("what", ["cut", "zero"])
def test_what_was_to_be_forgotten_can_be_tried_again(tmp_path, what):
    """The error is one of storage, nothing else is lost, and the same sink goes on."""

    def forget(target: writer_module.TrajectoryWriter) -> None:
        target.truncate_to(6) if what == "cut" else target.zero()

    counter = StoppingDisk()
    target = opened(tmp_path / "whole", counter, 5)
    before = len(counter.operations)
    forget(target)
    assert len(counter.operations) - before > 15
    for number in range(before + 1, len(counter.operations) + 1):
        place = tmp_path / str(number)
        target = opened(place, StoppingDisk(number, error=FAULT), 5)
        with pytest.raises(StorageError, match=r"not emptied or cut back|did not take"):
            forget(target)
        assert len(TrajectoryReader(place)) in (10, 6 if what == "cut" else 0)
        if target._acknowledgement.fault:
            target._let_go()
            target = opened(place, StoppingDisk())
        forget(target)
        target.append(*make_rows(50, names=NAMES))
        target.close()
        kept = [0, 0, 1, 1, 2, 2] if what == "cut" else []
        assert TrajectoryReader(place).system_values("step").flatten().tolist() == [*kept, 50, 50]
        shutil.rmtree(place)


@pytest.mark.parametrize("buffer_bytes", [0, 10**7])
def test_a_store_without_its_commits_is_damaged_and_not_new(tmp_path, buffer_bytes):
    target = writer(tmp_path, buffer_bytes=buffer_bytes)
    target.append(*make_rows(0, names=NAMES))
    target.end()
    commits, whole = tmp_path / COMMITS_KEY, (tmp_path / COMMITS_KEY).read_bytes()
    before = sorted(path for path in tmp_path.rglob("*") if path != commits)
    commits.unlink()
    for use in (TrajectoryReader, writer):
        with pytest.raises(StorageError, match="is missing or empty, and there are other files of a store"):
            use(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    commits.write_bytes(whole)
    assert len(TrajectoryReader(tmp_path)) == 2


def test_a_store_of_version_1_that_says_0_is_damaged_and_not_empty(tmp_path):
    """One bit of `format.json` is enough for that."""
    target = writer(tmp_path)
    target.append(*make_rows(0, names=NAMES))
    target.close()
    (tmp_path / FORMAT_KEY).write_bytes((tmp_path / FORMAT_KEY).read_bytes().replace(b"1", b"0"))
    with pytest.raises(StorageError, match=r"says version 0, and `commits.log` version 1"):
        TrajectoryReader(tmp_path)


def test_a_record_that_was_appended_when_ctrl_c_came_is_there_once(tmp_path, monkeypatch):
    """Mutant: a list of what waits that does not tell where each record ends."""
    target = opened(tmp_path, StoppingDisk(), 1)
    real = type(target._history.log).append

    def append(log, record):
        real(log, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(target._history.log), "append", append)
        with pytest.raises(KeyboardInterrupt):
            target.append(*make_rows(1, names=NAMES))
    target.append(*make_rows(2, names=NAMES))
    target.close()
    assert TrajectoryReader(tmp_path).system_values("step").flatten().tolist() == [0, 0, 1, 1, 2, 2]


def check_refused_syncs(tmp_path: Path) -> int:
    """Refuse every sync in turn, of files, folders and what is above the store; how many there were."""
    whole = tmp_path / "whole"
    target = opened(whole, StoppingDisk(), 4)
    target.close()

    def write_on(target: writer_module.TrajectoryWriter) -> None:
        for step in range(4, 10):
            target.append(*make_rows(step, names=NAMES))
        target.close()

    def go_on(place: Path, disk: StoppingDisk) -> writer_module.TrajectoryWriter:
        target = writer(folder(place, disk), **CONFIG)
        write_on(target)
        return target

    counting = StoppingDisk()
    shutil.copytree(whole, tmp_path / "counted")
    target = writer(folder(tmp_path / "counted", counting), **CONFIG)
    first = len(counting.operations)
    target._let_go()
    shutil.rmtree(tmp_path / "counted")
    shutil.copytree(whole, tmp_path / "counted")
    counting = StoppingDisk()
    go_on(tmp_path / "counted", counting)
    syncs = [number for number, operation in enumerate(counting.operations, 1) if operation.startswith("sync")]
    for number in syncs:
        place = tmp_path / str(number)
        shutil.copytree(whole, place)
        disk = StoppingDisk(number, error=FAULT)
        if number <= first:
            with pytest.raises(StorageError, match="Input/output error"):
                go_on(place, disk)
        else:
            target = writer(folder(place, disk), **CONFIG)
            with pytest.raises(StorageError) as told:
                write_on(target)
            safe = target.acknowledged
            assert "did not take" in str(told.value), f"sync {number}: {told.value}"
            for call in (target.flush, target.close, lambda: target.append(*make_rows(9, names=NAMES))):  # noqa: B023
                with pytest.raises(StorageError, match="This sink writes no more"):
                    call()
            assert target.acknowledged == safe
            target._let_go()
            assert len(TrajectoryReader(place)) >= safe
        shutil.rmtree(place)
    return len(syncs)


def test_after_a_refused_sync_a_writer_acknowledges_nothing(tmp_path):
    assert check_refused_syncs(tmp_path) > 40


class SyncsAgain(folder_module.Folder):
    """Broken twin: a sync of folders that was refused is an error as any other, and is believed when it is repeated."""

    def settle(self):
        touched, self._touched = self._touched, set()
        for each in sorted(touched):
            self.disk.sync_folder(each)


def test_a_refused_sync_that_is_repeated_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "Folder", SyncsAgain)
    with pytest.raises(AssertionError, match="sync"):
        check_refused_syncs(tmp_path)
