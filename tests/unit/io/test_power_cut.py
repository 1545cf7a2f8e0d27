"""Cut the power after every call, in every way in which what was not synced may be lost: no acknowledged frame is."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from athanor.errors import StorageError
from athanor.io.store import folder as folder_module
from athanor.io.store import writer as writer_module
from athanor.io.store.folder import Folder
from athanor.io.store.history import History
from athanor.io.store.records import log_header
from athanor.io.trajectory import TrajectoryReader

from .power import Left, RecordingDisk, State, put_on_disk
from .stores import make_rows, writer

FIELDS = ("positions", "system_id")
STEPS = 5
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 1500}


def record(root: Path, kind: type[Folder] = Folder) -> RecordingDisk:
    """Write some frames with several moves into the arrays, close, go on, close."""
    root.mkdir()
    disk = RecordingDisk(root)
    target = writer(kind(root, disk=disk), "every:2", **CONFIG)
    for step in range(STEPS):
        target.append(*make_rows(step, names=FIELDS))
        disk.acknowledge(target.acknowledged // 2)
        if step == 2:
            target.close()
            disk.acknowledge(target.acknowledged // 2)
    target.close()
    disk.acknowledge(target.acknowledged // 2)
    return disk


def check(place: Path, acknowledged: int) -> None:
    try:
        reader = TrajectoryReader(place)
    except FileNotFoundError:
        assert acknowledged == 0, f"no store, {acknowledged} acknowledged"
        return
    frames, rest = divmod(len(reader), 2)
    assert rest == 0
    assert acknowledged <= frames <= STEPS, f"{frames} frames, {acknowledged} acknowledged"
    if frames:
        found = reader.rows(slice(None))
        for name in FIELDS:
            wanted = np.concatenate([make_rows(step, names=FIELDS)[0].columns[name] for step in range(frames)])
            np.testing.assert_array_equal(found.columns[name], wanted, err_msg=name)


def explore(tmp_path: Path, disk: RecordingDisk, more: int = 3, *, go_on: bool = True) -> int:
    """Look at every state that a power cut may leave. Number of states that differ."""
    state, generator, seen = State(), random.Random(7), set()
    for number, operation in enumerate(disk.operations):
        state.add(operation)
        for files, folders in state.outcomes(generator, more):
            digest = hashlib.sha256(repr((sorted(files.items()), state.acknowledged)).encode()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            put_on_disk(files, folders, tmp_path / "cut")
            check(tmp_path / "cut", state.acknowledged)
            if go_on and number % 9 == 0:
                target = writer(tmp_path / "cut", "frame", **CONFIG)
                found = target.written // 2
                for step in range(found, STEPS):
                    target.append(*make_rows(step, names=FIELDS))
                target.close()
                check(tmp_path / "cut", STEPS)
    return len(seen)


def test_no_acknowledged_frame_is_lost_whenever_the_power_goes(tmp_path):
    assert explore(tmp_path, record(tmp_path / "store")) > 300


class NoSync(Folder):
    """Broken twin: renames without bringing the content to the disk first."""

    def sync(self, descriptor: int) -> None:
        pass


class NoFolderSync(Folder):
    """Broken twin: names are not brought to the disk."""

    def settle(self) -> None:
        self._touched.clear()


class SyncsLater(History):
    """Broken twin: the commit record is written before the names of new files are safe."""

    def add(self, commit, log):
        touched, self.medium._touched = self._kept, set()
        super().add(commit, log)
        self.medium._touched |= touched

    def new_log(self, commit, remainder):
        log = super().new_log(commit, remainder)
        self._kept = set(self.medium._touched)
        if self.state.commit.tail:
            self.medium._touched.clear()
        return log


@pytest.mark.parametrize("twin", [NoSync, NoFolderSync, SyncsLater])
def test_a_missing_sync_is_found(tmp_path, twin, monkeypatch):
    kind = Folder
    if twin is SyncsLater:
        monkeypatch.setattr(writer_module, "History", twin)
    else:
        kind = twin
    disk = record(tmp_path / "store", kind)
    monkeypatch.undo()
    with pytest.raises((AssertionError, StorageError)):
        explore(tmp_path, disk, go_on=False)


# ------------------------------------------------------------------------- every subset of what was not on the disk
LIFE: tuple[tuple[str, int], ...] = (
    ("write", 0), ("write", 1), ("write", 2), ("close", 0), ("write", 3), ("cut", 2), ("write", 4), ("close", 0),
    ("forget", 0), ("write", 5), ("close", 0),
)  # fmt: skip


def contents() -> list[list[int]]:
    """Steps that the store holds after so many calls."""
    found: list[list[int]] = [[]]
    for what, number in LIFE:
        now = found[-1]
        changed = {"write": [*now, number], "cut": now[:number], "forget": []}
        found.append(changed.get(what, now))
    return found


def live(root: Path, kind: type[Folder] = Folder) -> RecordingDisk:
    """Write, move into the arrays, close, go on, cut back, go on, forget all, go on."""
    root.mkdir()
    disk = RecordingDisk(root)
    target = writer(kind(root, disk=disk), "frame", **CONFIG)
    for done, (what, number) in enumerate(LIFE, 1):
        if what == "write":
            target.append(*make_rows(number, names=FIELDS))
        elif what == "cut":
            target.truncate_to(2 * number)
        elif what == "forget":
            target.zero()
        else:
            target.close()
        disk.acknowledge(done)
    return disk


def check_every_subset(disk: RecordingDisk, most: int = 12, more: int = 40) -> int:
    """Cut the power after every call, with every subset of at most `most` unsynced ones. Number of states that differ.

    What a call that has returned has done is there, and of the one that was under way all or nothing.
    """
    state, generator, seen, states = State(), random.Random(3), set(), contents()
    for operation in disk.operations:
        state.add(operation)
        for files, _ in state.subsets(most, generator, more):
            left = Left(files)
            key = hash((frozenset(left.files.items()), state.acknowledged))
            if key in seen:
                continue
            seen.add(key)
            allowed = states[state.acknowledged : state.acknowledged + 2]
            try:
                found = TrajectoryReader(left).rows(slice(None)).columns
            except FileNotFoundError:
                assert state.acknowledged == 0
                continue
            steps = [int(value) // 1000 for value in found["positions"][::5, 0]] if found else []
            assert steps in allowed, f"steps {steps} after {state.acknowledged} calls"
            for name in FIELDS if steps else ():
                wanted = np.concatenate([make_rows(step, names=FIELDS)[0].columns[name] for step in steps])
                np.testing.assert_array_equal(found[name], wanted, err_msg=name)
    return len(seen)


def test_whatever_of_the_unsynced_calls_is_there_nothing_is_lost(tmp_path):
    assert check_every_subset(live(tmp_path / "store")) > 2000


class BeginsAtOnce(History):
    """Broken twin: another history begins before the names of its files are on the disk."""

    def begin(self, kept, number):
        settle = self.medium.settle
        self.medium.settle = lambda: None
        try:
            super().begin(kept, number)
        finally:
            del self.medium.settle
            settle()


class DropsTheOldLogFirst(History):
    """Broken twin: the log of the last commit goes before the one that follows it is named."""

    def add(self, commit, log):
        self.medium.delete_log(self.state.commit.tail)
        super().add(commit, log)


class SaysTooEarly(folder_module._FileLog):
    """Broken twin: the header of a log says that records are safe which are not on the disk yet."""

    def sync(self):
        self._folder.disk.write(self._descriptor, log_header(self.size), 0)
        super().sync()


@pytest.mark.parametrize("twin", [NoSync, NoFolderSync, SyncsLater, BeginsAtOnce, DropsTheOldLogFirst, SaysTooEarly])
def test_a_missing_sync_is_found_in_some_subset(tmp_path, twin, monkeypatch):
    if issubclass(twin, History):
        monkeypatch.setattr(writer_module, "History", twin)
    if twin is SaysTooEarly:
        monkeypatch.setattr(folder_module, "_FileLog", twin)
    disk = live(tmp_path / "store", twin if issubclass(twin, Folder) else Folder)
    monkeypatch.undo()
    with pytest.raises((AssertionError, StorageError)):
        check_every_subset(disk)
