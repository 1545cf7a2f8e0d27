"""Readers of a store that changes: at every look that they take, a writer may have done anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from athanor.errors import StorageError
from athanor.io.store import reader as reader_module
from athanor.io.store.folder import Folder
from athanor.io.store.maintenance import rewrite_store
from athanor.io.store.rows import Rows
from athanor.io.store.writer import TrajectoryWriter
from athanor.io.trajectory import TrajectoryReader

from .stores import make_rows, writer

NAMES = ("atomic_numbers", "positions", "system_id", "step")
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 1500}


def write(target: TrajectoryWriter, steps: range) -> None:
    for step in steps:
        target.append(*make_rows(step, names=NAMES))


def goes_on(place: Path) -> None:
    target = writer(place, **CONFIG)
    write(target, range(12, 15))
    target.close()


def cuts_back(place: Path) -> None:
    target = writer(place, **CONFIG)
    target.truncate_to(3)
    write(target, range(100, 120))
    target.close()


def writes_anew(place: Path) -> None:
    rewrite_store(place)


class Watched(Folder):
    """Before look number `moment` at the folder something is done to it."""

    def __init__(self, root: Path, moment: int = -1, change: Callable[[], None] = lambda: None) -> None:
        super().__init__(root)
        self.looks, self.moment, self.change = 0, moment, change

    def _look(self) -> None:
        self.looks += 1
        if self.looks == self.moment:
            self.change()

    def read(self, key):
        self._look()
        return super().read(key)

    def open(self, key):
        self._look()
        return super().open(key)

    def identity(self, key):
        self._look()
        return super().identity(key)


def is_one_history(steps: np.ndarray) -> bool:
    """Whether these are frames 0, 1, 2, ..., or those that stand there after a change."""
    rows = np.arange(60)
    later = np.where(rows < 3, rows // 2, 100 + (rows - 3) // 2)
    return any(np.array_equal(steps, each[: len(steps)]) for each in (rows // 2, later, 100 + rows // 2))


def are_right(rows: Rows) -> bool:
    """Whether all values belong together."""
    steps, systems = (rows.columns[name].flatten().tolist() for name in ("step", "system_id"))
    parts = np.split(np.arange(rows.num_nodes), np.cumsum(rows.node_counts)[:-1])
    for step, system, here in zip(steps, systems, parts, strict=True):
        wanted, atoms = make_rows(step, names=NAMES)[0].columns, (slice(0, 2), slice(2, 5))[system]
        if not all(np.array_equal(rows.columns[name][here], wanted[name][atoms]) for name in NAMES[:2]):
            return False
    return is_one_history(np.array(steps))


def look(medium: Watched) -> bool:
    """Two readers, one of few values and one of all."""
    if not is_one_history(TrajectoryReader(medium).system_values("step").flatten().numpy()):
        return False
    return are_right(TrajectoryReader(medium).rows(slice(None)))


def explore(tmp_path: Path, change: Callable[[Path], None]) -> tuple[int, int]:
    """Let a store change before every look of a reader: how many looks there are, and how often it had to say so."""
    whole, told = tmp_path / "whole", 0
    target = writer(whole, **CONFIG)
    write(target, range(12))
    target.end()
    counting = Watched(whole)
    assert look(counting)
    for moment in range(1, counting.looks + 1):
        place = tmp_path / "t.zarr"
        shutil.copytree(whole, place)
        try:
            assert look(Watched(place, moment, lambda place=place: change(place))), f"mixed at look {moment}"
        except StorageError as error:
            if "was emptied or cut back meanwhile" not in str(error):
                raise
            told += 1
        shutil.rmtree(place)
    return counting.looks, told


def test_a_reader_sees_one_commit_whatever_a_writer_does(tmp_path):
    looks, told = explore(tmp_path, goes_on)
    assert looks > 10
    assert told == 0


@pytest.mark.parametrize("change", [cuts_back, writes_anew])
def test_a_reader_notices_another_history_or_sees_one_whole(tmp_path, change):
    looks, told = explore(tmp_path, change)
    assert 0 < told < looks


class LooksBefore(reader_module.StoredFrames):
    """Broken twin: whether the history is still the same is looked at before the reading."""

    def _of_one_history(self):
        self._check_history()
        from contextlib import nullcontext

        return nullcontext()


class TakesTheHistoryAfterwards(reader_module.StoredFrames):
    """Broken twin: the history is that which is there when the logs have been read."""

    def __init__(self, medium):
        super().__init__(medium)
        self._history = medium.open("commits.log")


@pytest.mark.parametrize("twin", [LooksBefore, TakesTheHistoryAfterwards])
def test_a_wrong_order_of_looks_is_found(tmp_path, twin, monkeypatch):
    monkeypatch.setattr("athanor.io.trajectory.StoredFrames", twin)
    with pytest.raises(AssertionError, match="mixed at look"):
        explore(tmp_path, cuts_back)
