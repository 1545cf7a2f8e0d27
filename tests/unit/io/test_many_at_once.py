"""Readers of a store that changes: at every look that they take, a writer may have done anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import MemoryStore

from athanor.errors import StorageError
from athanor.io.store import objects, shared
from athanor.io.store import reader as reader_module
from athanor.io.store.folder import Folder
from athanor.io.store.layout import COMMITS_KEY
from athanor.io.store.maintenance import rewrite_store
from athanor.io.store.medium import Medium
from athanor.io.store.objects import ZarrObjects
from athanor.io.store.rows import Rows
from athanor.io.store.writer import TrajectoryWriter
from athanor.io.trajectory import TrajectoryReader

from .clouds import Cloud, Server
from .stores import make_rows, writer

NAMES = ("atomic_numbers", "positions", "system_id", "step")
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 1500}


def write(target: TrajectoryWriter, steps: range) -> None:
    for step in steps:
        target.append(*make_rows(step, names=NAMES))


class Place:
    """Somewhere a store is: a folder, a dictionary, a server."""

    def __init__(self, root: Path, objects: dict) -> None:
        self.root, self.objects = root, objects

    def copy(self, root: Path) -> Place:
        if self.root.is_dir():
            shutil.copytree(self.root, root, dirs_exist_ok=True)
        return type(self)(root, dict(self.objects))

    def clear(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.objects.clear()

    def medium(self, look: Callable[[], None] = lambda: None) -> Medium:
        """A way to it; `look` is called before each look that a reader takes."""
        raise NotImplementedError


class OnDisk(Place):
    def medium(self, look=lambda: None):
        return watched(Folder, look)(self.root)


class InMemory(Place):
    def medium(self, look=lambda: None):
        return watched(ZarrObjects, look)(MemoryStore(self.objects), "", "the store in memory")


class OnServer(Place):
    def medium(self, look=lambda: None):
        server = Server()
        server.objects = self.objects
        return Cloud(server, turn=look)


PLACES = (OnDisk, InMemory, OnServer)


def watched(kind: type, look: Callable[[], None]) -> type:
    """The kind of medium, which tells of each look."""

    def telling(name: str) -> Callable:
        def method(self, *arguments):
            look()
            return getattr(kind, name)(self, *arguments)

        return method

    return type(kind.__name__, (kind,), {name: telling(name) for name in ("read", "open", "list_keys", "identity")})


class Moment:
    """Before the look of this number something is done."""

    def __init__(self, number: int = -1, change: Callable[[], None] = lambda: None) -> None:
        self.looks, self.number, self.change = 0, number, change

    def __call__(self) -> None:
        self.looks += 1
        if self.looks == self.number:
            self.change()


def goes_on(place: Place) -> None:
    target = writer(place.medium(), "every:4", **CONFIG)
    write(target, range(12, 15))
    target.close()


def cuts_back(place: Place) -> None:
    target = writer(place.medium(), "every:4", **CONFIG)
    target.truncate_to(3)
    write(target, range(100, 110))
    target.close()


def empties(place: Place) -> None:
    target = writer(place.medium(), "every:4", "w", **CONFIG)
    write(target, range(100, 110))
    target.close()


def begins_anew(place: Place) -> None:
    """Somebody removes all of it; the next store there has the numbers of the one before."""
    place.clear()
    target = writer(place.medium(), "every:4", **CONFIG)
    write(target, range(100, 110))
    target.close()


def stops_while_cutting_back(place: Place) -> None:
    """Between the record with which a history begins and the removal of those before it; the next writer goes on."""
    target = writer(place.medium(), "every:4", **CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        for log in (objects._ObjectLog, shared._SharedLog):
            patch.setattr(log, "forget_before", stop)
        with pytest.raises(Stopped):
            target.truncate_to(3)
    target._let_go()
    target = writer(place.medium(), "every:4", **CONFIG)
    write(target, range(100, 110))
    target.close()


class Stopped(BaseException):
    pass


def stop(log) -> None:
    if log._key == COMMITS_KEY:
        raise Stopped


def writes_anew(place: Place) -> None:
    rewrite_store(place.root)


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


def look(medium: Medium) -> bool:
    """Two readers, one of few values and one of all."""
    if not is_one_history(TrajectoryReader(medium).system_values("step").flatten().numpy()):
        return False
    return are_right(TrajectoryReader(medium).rows(slice(None)))


def explore(kind: type[Place], tmp_path: Path, change: Callable[[Place], None]) -> tuple[int, int]:
    """Let a store change before every look of a reader: how many looks there are, and how often it had to say so."""
    whole, told = kind(tmp_path / "whole", {}), 0
    target = writer(whole.medium(), **CONFIG)
    write(target, range(12))
    target.end()
    counting = Moment()
    assert look(whole.medium(counting))
    for number in range(1, counting.looks + 1):
        place = whole.copy(tmp_path / "t.zarr")
        moment = Moment(number, lambda place=place: change(place))
        try:
            assert look(place.medium(moment)), f"mixed at look {number}"
        except StorageError as error:
            if "was emptied or cut back meanwhile" not in str(error):
                raise
            told += 1
        place.clear()
    return counting.looks, told


@pytest.mark.parametrize("kind", PLACES)
def test_a_reader_sees_one_commit_whatever_a_writer_does(tmp_path, kind):
    looks, told = explore(kind, tmp_path, goes_on)
    assert looks > 10
    assert told == 0


CHANGES = [(kind, change) for kind in PLACES for change in (cuts_back, empties, begins_anew)] + [
    (OnDisk, writes_anew), (InMemory, stops_while_cutting_back), (OnServer, stops_while_cutting_back)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_a_reader_notices_another_history_or_sees_one_whole(tmp_path, kind, change):
    looks, told = explore(kind, tmp_path, change)
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


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("twin", [LooksBefore, TakesTheHistoryAfterwards])
def test_a_wrong_order_of_looks_is_found(tmp_path, kind, twin, monkeypatch):
    monkeypatch.setattr("athanor.io.trajectory.StoredFrames", twin)
    with pytest.raises(AssertionError, match="mixed at look"):
        explore(kind, tmp_path, cuts_back)


def by_the_first_number(medium, key, numbers):
    """Broken twin: a row of objects is known by the number with which it begins."""
    return numbers[-1]


def not_at_all(medium, key, numbers):
    """Broken twin: one row of objects is as good as another."""
    return


@pytest.mark.parametrize(("twin", "change"), [(by_the_first_number, begins_anew), (not_at_all, cuts_back)])
@pytest.mark.parametrize("kind", [InMemory, OnServer])
def test_a_history_that_is_known_by_too_little_is_found(tmp_path, kind, twin, change, monkeypatch):
    monkeypatch.setattr(objects.Objects, "_identity", twin)
    with pytest.raises((AssertionError, StorageError), match=r"mixed at look|damaged|missing|does not hold"):
        explore(kind, tmp_path, change)


@pytest.mark.parametrize("kind", [InMemory, OnServer])
def test_objects_of_an_earlier_history_that_stay_are_found(tmp_path, kind, monkeypatch):
    """Broken twin: the next writer leaves what an interrupted one has not removed."""
    for log in (objects._ObjectLog, shared._SharedLog):
        monkeypatch.setattr(log, "forget_before", lambda log: None)

    with pytest.raises((AssertionError, StorageError), match=r"mixed at look|damaged|missing|does not hold"):
        explore(kind, tmp_path, cuts_back)
