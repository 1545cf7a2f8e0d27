"""Cut the power after every call, in every way in which what was not synced may be lost: no acknowledged frame is."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from athanor.errors import StorageError
from athanor.io.store import writer as writer_module
from athanor.io.store.folder import Folder
from athanor.io.trajectory import TrajectoryReader

from . import stores
from .power import RecordingDisk, State, put_on_disk
from .stores import make_rows, writer

FIELDS = ("positions", "system_id")
STEPS = 5
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 1500}


def record(root: Path, kind: type[Folder] = Folder) -> RecordingDisk:
    """Write some frames with several moves into the arrays, close, go on, cut back, go on."""
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


class SyncsLater(writer_module.TrajectoryWriter):
    """Broken twin: the commit record is written before the names of new files are safe."""

    def _write_commit(self, commit, log):
        touched, self.medium._touched = self._kept, set()
        super()._write_commit(commit, log)
        self.medium._touched |= touched

    def _new_tail(self, commit, remainder):
        log = super()._new_tail(commit, remainder)
        self._kept = set(self.medium._touched)
        if self._state.commit.tail:
            self.medium._touched.clear()
        return log


@pytest.mark.parametrize("twin", [NoSync, NoFolderSync, SyncsLater])
def test_a_missing_sync_is_found(tmp_path, twin, monkeypatch):
    kind = Folder
    if twin is SyncsLater:
        monkeypatch.setattr(stores, "TrajectoryWriter", twin)
    else:
        kind = twin
    disk = record(tmp_path / "store", kind)
    monkeypatch.undo()
    with pytest.raises((AssertionError, StorageError)):
        explore(tmp_path, disk, go_on=False)
