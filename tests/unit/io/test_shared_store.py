"""Writers at a server of objects, which nothing keeps from each other but conditions on puts."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

from athanor.errors import OptionalDependencyError, StorageError
from athanor.io.store import writer as writer_module
from athanor.io.store.check import check_store
from athanor.io.store.folder import Folder
from athanor.io.store.history import History
from athanor.io.store.medium import Medium
from athanor.io.store.shared import NEW, TRIES, RefusedError, TakenError
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData

from .clouds import Cloud, Server, Turns
from .stores import make_rows, writer

FIELDS = ("atomic_numbers", "positions", "system_id", "step")
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 1500}
STEPS = 4


def steps_of(medium: Medium) -> list[int]:
    """Steps of all frames, each of which has its right values."""
    found = TrajectoryReader(medium).rows(slice(None))
    steps = found.columns.get("step", np.empty((0, 1), int))[::2, 0].tolist()
    for name in FIELDS if steps else ():
        wanted = np.concatenate([make_rows(step, names=FIELDS)[0].columns[name] for step in steps])
        np.testing.assert_array_equal(found.columns[name], wanted, err_msg=name)
    return steps


def assert_whole(server: Server) -> list[int]:
    report = check_store(Cloud(server))
    assert report.problems == []
    return steps_of(Cloud(server))


def run(server: Server, kind: type[Cloud] = Cloud) -> int:
    """Write, close, go on, close; the frames that were acknowledged until the server failed for good."""
    acknowledged, target = 0, None
    try:
        target = writer(kind(server), "frame", **CONFIG)
        for step in range(STEPS):
            target.append(*make_rows(step, names=FIELDS))
            acknowledged = step + 1
            if step == 1:
                target.close()
        target.close()
    except StorageError:
        pass
    finally:
        if target is not None:
            target._let_go()
    return acknowledged


def requests(*kinds: str) -> list[int]:
    """Numbers of the requests of `run`, or of those of some kinds."""
    server = Server()
    run(server)
    return [number for number, (kind, _) in enumerate(server.requests, 1) if not kinds or kind in kinds]


CHANGES = "put", "delete"
"""Where it matters whether a request that is not answered was done."""


def fail_once(ending: str, kind: type[Cloud] = Cloud) -> None:
    for number in requests(*(CHANGES if ending == "lost" else ())):
        server = Server(lambda each, number=number: ending if each == number else "")
        assert run(server, kind) == STEPS, f"request {number}, {server.requests[number - 1]}"
        server.ending = lambda each: ""
        assert assert_whole(server) == list(range(STEPS))


@pytest.mark.parametrize("ending", ["busy", "lost"])
def test_any_request_may_fail_once(ending):
    """Nobody hears of it, and what was done without an answer is not done twice."""
    fail_once(ending)


def stop_anywhere(last: str, kind: type[Cloud] = Cloud) -> None:
    for number in requests(*(CHANGES if last == "lost" else ())):
        server = Server(lambda each, number=number: last if each == number else "busy" if each > number else "")
        acknowledged = run(server, kind)
        server.ending = lambda each: ""
        try:
            steps = steps_of(Cloud(server))
        except FileNotFoundError:
            assert acknowledged == 0
            steps = []
        assert steps == list(range(len(steps)))
        assert acknowledged <= len(steps) <= acknowledged + 1
        after = writer(kind(server, "the next one"), "frame", **CONFIG)
        for step in range(len(steps), STEPS + 1):
            after.append(*make_rows(step, names=FIELDS))
        after.close()
        assert assert_whole(server) == list(range(STEPS + 1))


@pytest.mark.parametrize("last", ["busy", "lost"])
def test_any_request_may_be_the_last(last):
    """The server is gone from there on; the last request was done, or not. The next writer goes on."""
    stop_anywhere(last)


def test_an_outage_ends_and_the_writer_goes_on():
    """Frames wait meanwhile. Only a commit whose answer never came ends the writer, and loses no frame."""
    for number in requests():
        server = Server()
        down = range(number, number + TRIES)
        server.ending = lambda each, down=down: "lost" if each in down else ""
        try:
            target = writer(Cloud(server), "every:2", **CONFIG)
        except StorageError:
            continue
        for step in range(STEPS):
            with suppress(StorageError):
                target.append(*make_rows(step, names=FIELDS))
        with suppress(StorageError):
            target.flush()
        acknowledged = target.acknowledged // 2
        with suppress(StorageError):
            target.close()
        if target._acknowledgement.fault is None:
            target.close()
            acknowledged = STEPS
        target.end()
        server.ending = lambda each: ""
        assert assert_whole(server)[:acknowledged] == list(range(acknowledged)), f"down from request {number} on"


def test_a_second_writer_is_told_and_nothing_is_lost():
    """Another writer comes in at any request, writes, closes or not; each frame that either was promised is there."""
    told = 0
    for comes in ("writes", "closes"):
        for number in requests():
            server = Server()
            promised: list[int] = []

            def second(server=server, promised=promised, comes=comes) -> None:
                other = writer(Cloud(server, "the second"), "frame", shard_bytes=2048, buffer_bytes=1500)
                for step in range(100, 102):
                    other.append(*make_rows(step, names=FIELDS))
                    promised.append(step)
                if comes == "closes":
                    other.close()
                other._let_go()

            def turn(server=server, second=second, number=number) -> None:
                if len(server.requests) + 1 == number:
                    server.requests.append(("second", ""))
                    second()

            told += first(server, turn, promised)
            steps = assert_whole(server)
            assert set(promised) <= set(steps), f"{comes} at {number}: {promised} promised, {steps} there"
            assert len(set(steps)) == len(steps)
    assert told > 60  # else nothing was tried


def first(server: Server, turn: Callable[[], None], promised: list[int]) -> bool:
    """The first writer; whether it was told of another one."""
    target = None
    try:
        target = writer(Cloud(server, "the first", turn), "frame", **CONFIG)
        for step in range(STEPS):
            target.append(*make_rows(step, names=FIELDS))
            promised.append(step)
        target.close()
    except StorageError as error:
        if "another writer" not in str(error) and "is missing" not in str(error):
            raise
        return True
    finally:
        if target is not None:
            target._let_go()
    return False


def take_turns(seed: int, kind: type[Cloud] = Cloud, programs: int = 2, frames: int = 6, *, cuts: bool = False) -> int:
    """Some writers and a reader, one request at a time in an order that the seed gives. Errors that writers were told.

    With `cuts` writers cut the store back now and then; frames may be gone then, and none is wrong.
    """
    generator = random.Random(seed)
    server, promised, seen, told = Server(), [[] for _ in range(programs)], [], []
    server.ending = lambda number: generator.choices(["", "busy", "lost"], [0.94, 0.03, 0.03])[0]
    turns = Turns(seed)

    def write(number: int, turn: Callable[[], None]) -> None:
        target, step = None, 1000 * number
        choices = random.Random(f"{seed} {number}")
        for _ in range(10 * frames):
            if step == 1000 * number + frames:
                break
            try:
                if target is None:
                    medium = kind(server, f"writer {number}", turn)
                    target = writer(medium, "frame", shard_bytes=1024 << number, buffer_bytes=1500)
                step += 1
                target.append(*make_rows(step, names=FIELDS))
                promised[number].append(step)
                if choices.random() < 0.4:
                    target.close()
                if cuts and choices.random() < 0.1:
                    target.truncate_to(2 * choices.randrange(target.written // 2 + 1))
            except StorageError as error:
                told.append(str(error))
                if target is not None:
                    target._let_go()
                target = None
        if target is not None:
            target._let_go()

    def read(turn: Callable[[], None]) -> None:
        for _ in range(3):
            try:
                seen.append(steps_of(kind(server, "a reader", turn)))
            except FileNotFoundError:
                continue
            except StorageError as error:
                if not (cuts and "emptied or cut back" in str(error)):
                    raise

    for number in range(programs):
        turns.add(lambda turn, number=number: write(number, turn))
    turns.add(read)
    turns.go()
    server.ending = lambda number: ""
    steps = assert_whole(server)
    assert len(set(steps)) == len(steps)
    if cuts:
        return len(told)
    for each in promised:
        assert set(each) <= set(steps), f"{sorted(set(each) - set(steps))} were promised and are lost"
        own = [step for step in steps if step // 1000 == each[0] // 1000] if each else []
        assert own == sorted(own)
    for each in seen:
        assert steps[: len(each)] == each, "the history is not one line"
    return len(told)


def test_writers_in_any_order():
    told = sum(take_turns(seed) for seed in range(25)) + sum(take_turns(seed, programs=3) for seed in range(25, 35))
    assert told > 50  # else nothing was tried
    for seed in range(10):
        take_turns(seed, cuts=True)


class Overwrites(Cloud):
    """Broken twin: an object of a log takes the place of another writer's."""

    def put_new(self, key, value):
        self._patiently(self.store, key, value)


class DoesNotLook(Cloud):
    """Broken twin: a writer does not look whether another one has made a commit."""

    def check_last(self):
        pass


class ReplacesShards(Cloud):
    """Broken twin: a shard is put, whatever is there."""

    def put_shard(self, key, value):
        self.put(key, value)


class ClearsAway(Cloud):
    """Broken twin: what no commit names is removed, as in a folder that one writer has locked."""

    def strays(self, commit, tail):
        return None


class SharesLogs(Cloud):
    """Broken twin: two writers that begin the log of the same commit give it the same name."""

    def mark(self):
        return ""


class NotItsOwn(Cloud):
    """Broken twin: an object that is there already is that of another writer, whatever is in it."""

    def put_new(self, key, value):
        try:
            self._patiently(self.store, key, value, NEW)
        except TakenError:
            raise self._lost() from None


class NoSeal(History):
    """Broken twin: frames may come into a log whose rows are being moved, and two writers may cut the arrays each."""

    def seal(self, shard_bytes):
        return shard_bytes


def explore(kind: type[Cloud]) -> None:
    for seed in range(100):
        take_turns(seed, kind)


@pytest.mark.parametrize("twin", [Overwrites, DoesNotLook, ReplacesShards, ClearsAway])
def test_a_writer_that_is_not_careful_is_found(twin):
    with pytest.raises((AssertionError, StorageError)):
        explore(twin)


def test_a_log_that_is_not_sealed_is_found(monkeypatch):
    monkeypatch.setattr(writer_module, "History", NoSeal)
    with pytest.raises((AssertionError, StorageError)):
        explore(Cloud)


def test_a_lost_answer_that_is_not_known_again_is_found():
    with pytest.raises(AssertionError, match="request"):
        fail_once("lost", NotItsOwn)


def test_logs_of_one_name_are_found():
    with pytest.raises(StorageError, match="another writer"):
        stop_anywhere("lost", SharesLogs)


def test_of_two_writers_of_the_same_bytes_one_is_acknowledged():
    server = Server()
    first, second = writer(Cloud(server, "one")), writer(Cloud(server, "two"))
    first.append(*make_rows(0, names=FIELDS))
    with pytest.raises(StorageError, match=r"the cloud of two has another writer, which was quicker"):
        second.append(*make_rows(0, names=FIELDS))
    assert (first.acknowledged, second.acknowledged) == (2, 0)
    assert assert_whole(server) == [0]


def test_a_server_that_ignores_conditions_is_refused():
    class Ignores(Cloud):
        def store(self, key, value, condition=None):
            super().store(key, value)

    server = Server()
    with pytest.raises(StorageError, match="takes a put whose condition does not hold"):
        writer(Ignores(server))
    assert not [key for key in server.objects if key.startswith("commits.log")]


def test_an_outage_is_waited_for_with_longer_and_longer_pauses():
    pauses: list[float] = []
    server = Server()
    target = writer(cloud := Cloud(server), "every:2")
    cloud._pause = pauses.append
    target.append(*make_rows(0, names=FIELDS))
    server.ending = lambda number: "busy"
    with pytest.raises(StorageError, match=r"503 Slow Down. The 0 committed frames are safe, 4 more wait in memory"):
        target.append(*make_rows(1, names=FIELDS))
    assert len(pauses) == TRIES - 1
    assert all(0.05 * 2**number <= pause <= 0.1 * 2**number for number, pause in enumerate(pauses[:6]))
    assert max(pauses) <= 5.0
    server.ending = lambda number: ""
    target.flush()
    assert target.acknowledged == 4
    assert assert_whole(server) == [0, 1]


def test_a_refusal_is_not_asked_for_again():
    class Forbids(Cloud):
        def store(self, key, value, condition=None):
            self.server.requests.append(("put", key))
            raise RefusedError("403 Forbidden")

    server = Server()
    with pytest.raises(StorageError, match=r"can not be opened to write: 403 Forbidden"):
        writer(Forbids(server))
    assert [what for what, _ in server.requests].count("put") == 1


def test_a_reader_stays_at_its_commit_while_shards_are_replaced():
    server = Server()
    target = writer(Cloud(server), "frame", shard_bytes=1024, buffer_bytes=10**6)
    target.append(*make_rows(0, names=FIELDS))
    target.close()
    reader = TrajectoryReader(Cloud(server))
    assert len(reader.rows(slice(None)).columns["step"]) == 2
    reader._frames._shards._chunks.clear()  # so that it reads again what has been replaced
    target.append(*make_rows(1, names=FIELDS))
    target.close()
    found = reader.rows(slice(None))
    np.testing.assert_array_equal(found.columns["positions"], make_rows(0, names=FIELDS)[0].columns["positions"])
    target.zero()
    with pytest.raises(StorageError, match="was emptied or cut back meanwhile"):
        reader.rows(slice(None))


def test_a_frame_is_read_by_ranges():
    server = Server()
    target = writer(Cloud(server), "close", shard_bytes=1 << 22, buffer_bytes=1 << 24)
    for step in range(200):
        target.append(*make_rows(step, sizes=(50, 60), names=FIELDS))
    target.close()
    sizes: list[int] = []

    class Counts(Cloud):
        def fetch(self, key, start=0, count=None, version=None):
            found = super().fetch(key, start, count, version)
            if key.startswith("data/positions"):
                sizes.append(len(found))
            return found

    TrajectoryReader(Counts(server)).read_rows([7])
    whole = sum(len(value) for key, (value, _) in server.objects.items() if key.startswith("data/positions/c"))
    assert sum(sizes) < whole / 3


def test_a_copy_in_a_folder_is_read(tmp_path):
    server = Server()
    target = writer(Cloud(server), "frame", **CONFIG)
    for step in range(3):
        target.append(*make_rows(step, names=FIELDS))
    for key, (value, _) in server.objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(value)
    assert check_store(Folder(tmp_path)).problems == []
    assert steps_of(Folder(tmp_path)) == [0, 1, 2]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match="can not be opened to write"):
        writer(Folder(tmp_path), "frame")
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "LOCK"}) == before


def test_a_damaged_commit_is_told():
    server = Server()
    target = writer(Cloud(server), "frame", **CONFIG)
    for step in range(2):
        target.append(*make_rows(step, names=FIELDS))
    target.close()
    last = max(key for key in server.objects if key.startswith("commits.log/"))
    value, version = server.objects[last]
    server.objects[last] = value[:-9] + b"x" + value[-8:], version
    with pytest.raises(StorageError, match="is damaged behind byte"):
        TrajectoryReader(Cloud(server))


@pytest.mark.parametrize(
    "url", ["s3://bucket/t.zarr", "gs://b/t", "az://b/t", "https://b.s3.eu-west-1.amazonaws.com/t"]
)
def test_a_place_that_needs_a_package_names_it(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(OptionalDependencyError, match=r"needs the package obstore.*pip install .athanor-md\[remote\]"):
        ZarrData(url)
