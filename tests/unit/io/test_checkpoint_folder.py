"""A checkpoint is there as a whole or not at all, whatever happens to the program, the disk or the bytes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from athanor.dynamics.failures import FailureCode
from athanor.errors import ArgumentError, AthanorWarning, MissingFileError, StorageError
from athanor.io.checkpoint import CheckpointFolder, files, folder
from athanor.io.checkpoint.tensors import DTYPES
from athanor.io.store.folder import Disk

from .power import RecordingDisk, State, put_on_disk


def tree(number: int = 0) -> dict[str, Any]:
    """A small state with everything that a state may hold; `number` is in all of it."""
    generator = torch.Generator().manual_seed(number)
    rows = {name: (torch.rand(3, 2, generator=generator) * 5).to(dtype) for name, dtype in DTYPES.items()}
    return {
        "number": number,
        "rows": rows,
        "none": {name: torch.zeros(0, 3, dtype=dtype) for name, dtype in DTYPES.items()},
        "one": {name: torch.ones((), dtype=dtype) for name, dtype in DTYPES.items()},
        "turned": torch.rand(4, 5, generator=generator).T,
        "large": torch.full((300,), float(number)),
        "numbers": [1.5, -0.0, float("inf"), -float("inf"), float("nan"), 1e-310, 0.1, 10**40, True, None],
        "keys": {1: 2, "a": {}, -3: (1, (2,), [])},
        "$tensor": {"$dict": {"$float": "é\ud800"}},
    }


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal to the bit, types and order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        bits = [each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def filled(place: Path, count: int = 2, **options: Any) -> CheckpointFolder:
    """A folder with the checkpoints of the trees 1, 2, ..., which nobody has."""
    found = CheckpointFolder(place, **options)
    with found.held():
        for number in range(1, count + 1):
            assert found.write(tree(number)) == number
    return found


def loaded(place: Path) -> int:
    """Number of the checkpoint that is loaded; asserts that it is right."""
    found = CheckpointFolder(place).load()
    assert same(found.tree, tree(found.number))
    return found.number


def contents(place: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(place.iterdir())}


# -- what is written is read -----------------------------------------------------------------------------------------


def test_a_tree_comes_back_to_the_bit_and_is_a_function_of_itself(tmp_path):
    assert loaded(filled(tmp_path / "a").path) == 2
    with_others = filled(tmp_path / "b" / "c", 5)
    assert with_others.numbers() == [4, 5]
    assert sorted(each.name for each in with_others.path.iterdir()) == ["00000004", "00000005", "LOCK"]
    one, other = CheckpointFolder(tmp_path / "d"), CheckpointFolder(tmp_path / "e")
    one.write(tree(7))
    other.write(tree(3))
    other.write(tree(7))
    assert contents(one.path / "00000001") == contents(other.path / "00000002")
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=one.path / "00000001", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_what_is_nearly_plain_comes_back_plain(tmp_path):
    odd = {"a": np.float64(0.1), "b": np.int32(3), "c": np.bool_(True), "d": FailureCode.TOO_DENSE, "e": Pair(1, "x")}
    found = CheckpointFolder(tmp_path)
    found.write(OrderedDict(odd))
    assert same(found.load().tree, {"a": 0.1, "b": 3, "c": True, "d": int(FailureCode.TOO_DENSE), "e": (1, "x")})


class Pair(NamedTuple):
    number: int
    text: str


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), b"x", {(1, 2): 3}, {True: 1}, np.zeros(2), torch.zeros(2).to_sparse()]
)
def test_what_a_state_does_not_hold_is_told_with_its_place_and_nothing_is_written(tmp_path, value):
    found = filled(tmp_path)
    with pytest.raises(ArgumentError, match=r"\['engine'\]|layout"):
        found.write({"engine": [value]})
    assert found.numbers() == [1, 2]
    assert not list(tmp_path.glob(".*"))
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ArgumentError, match="may hold itself"):
        found.write(cycle)


def test_one_run_at_a_time(tmp_path):
    found = filled(tmp_path)
    found.acquire()
    for use in (lambda other: other.write({}), lambda other: other.drop_after(1), lambda other: other.acquire()):
        with pytest.raises(StorageError, match="is being written by another run of this program"):
            use(CheckpointFolder(tmp_path))
    assert loaded(tmp_path) == 2
    found.release()
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "f.write('process 7 on a machine'); f.flush(); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "LOCK")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(
            StorageError, match=r"by process 7 on a machine; nothing was changed\. Wait until it has ended"
        ):
            found.write({})
        other.communicate(b"\n")
    assert found.write(tree(3)) == 3


def test_later_checkpoints_go_when_a_run_goes_on_from_an_earlier_one(tmp_path):
    found = filled(tmp_path, 3, keep=3)
    assert found.load(2).number == 2
    found.drop_after(2)
    assert found.numbers() == [1, 2]
    with pytest.raises(MissingFileError, match="no checkpoint 3"):
        found.load(3)
    with pytest.raises(MissingFileError, match="no checkpoint"):
        CheckpointFolder(tmp_path / "nothing").load()


# -- the program ends, the disk refuses ------------------------------------------------------------------------------


class Killed(BaseException):
    """The program is gone."""


class FaultyDisk(Disk):
    """Fails at one call, and for ever after if the program was killed there."""

    def __init__(self, fail_at: int, error: BaseException) -> None:
        self.calls, self._fail_at, self._error = 0, fail_at, error

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self._fail_at or (self.calls > self._fail_at and isinstance(self._error, Killed)):
            raise self._error


def _counted(name: str) -> Any:
    def call(self: FaultyDisk, *arguments: Any) -> Any:
        if name != "close":
            self._count()
        if name == "write" and self.calls + 1 == self._fail_at:  # half of it gets there
            arguments = (arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
        return getattr(Disk, name)(self, *arguments)

    return call


for _name in ("create", "write", "sync", "rename", "remove", "make_folder", "remove_folder", "sync_folder", "close"):
    setattr(FaultyDisk, _name, _counted(_name))


@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_parts_are_there_as_a_whole_or_not_at_all(tmp_path, error):
    """A part is written, then a checkpoint that names it, then the part before is not needed."""
    calls = made = 0
    while made >= calls:
        calls += 1
        place = tmp_path / str(calls)
        before = CheckpointFolder(place)
        with before.held():
            before.write({"parts": [before.write_part(tree(1))]})
        disk = FaultyDisk(calls, error)
        writing = CheckpointFolder(place, disk=disk)
        with contextlib.suppress(StorageError, Killed), writing.held():
            part = writing.write_part(tree(2))
            writing.write({"parts": [part]})
            writing.keep_parts([part])
        found = CheckpointFolder(place)
        (number,) = found.load().tree["parts"]
        assert same(found.load_part(number), tree(number))
        with found.held():
            found.write({"parts": []})
            found.keep_parts([])
        assert not list(place.glob("*part-*")), "something was left"
        made = disk.calls
    assert calls > 20


def test_a_part_that_is_not_there_or_damaged_is_told(tmp_path):
    found = filled(tmp_path)
    with pytest.raises(StorageError, match="part-00000007` is no folder"):
        found.load_part(7)
    with found.held():
        number = found.write_part(tree(1))
    assert found.parts() == [number]
    assert found.numbers() == [1, 2]
    with found.held():
        found.write(tree(3))
        found.keep_parts([])
        assert found.write_part(tree(2)) > number, "an old checkpoint would take it for its own"
    (tmp_path / "part-00000004" / "state.json").write_text("{}")
    with pytest.raises(StorageError, match=r"part-00000004/state\.json` is damaged"):
        found.load_part(4)


def faults(place: Path, error: BaseException) -> list[int]:
    """Write checkpoint 3 with a fault at each call; the number that is loaded after each, and that one goes on."""
    outcomes, number = [], 0
    while True:
        number += 1
        there = place / str(number)
        filled(there)
        disk = FaultyDisk(number, error)
        writing = CheckpointFolder(there, disk=disk)
        try:
            with writing.held():
                writing.write(tree(3))
        except (StorageError, Killed):
            pass
        if disk.calls < number:
            return outcomes
        outcomes.append(loaded(there))
        again = CheckpointFolder(there)
        with again.held():
            following = again.write(tree(max(again.numbers()) + 1))
        assert loaded(there) == following
        assert len(list(there.iterdir())) == 3, "something was left"


@pytest.mark.parametrize(
    "error", [Killed(), OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O")]
)
def test_at_whatever_call_it_ends_a_whole_one_is_loaded(tmp_path, error):
    outcomes = faults(tmp_path, error)
    assert len(outcomes) > 15
    assert set(outcomes) == {2, 3}
    assert outcomes == sorted(outcomes)


def test_a_full_disk_is_told(tmp_path):
    filled(tmp_path)
    writing = CheckpointFolder(tmp_path, disk=FaultyDisk(4, OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(
        StorageError, match=r"No space left on device\. The checkpoints in it are as they were\. Make room"
    ):
        writing.write(tree(3))


def lose_power(place: Path) -> int:
    """Write three checkpoints, and load what a power cut at any moment leaves; number of states that differ."""
    disk = RecordingDisk(place / "disk")
    (place / "disk").mkdir()
    writing = CheckpointFolder(place / "disk" / "C", disk=disk)
    with writing.held():
        for number in (1, 2, 3):
            writing.write({"number": number, "rows": torch.arange(20) + number})
            disk.acknowledge(number)
    state, generator, seen = State(), random.Random(7), set()
    for operation in disk.operations:
        state.add(operation)
        for left, folders in (*state.outcomes(generator, 2), *state.subsets(7, generator, 30)):
            digest = hashlib.sha256(repr((sorted(left.items()), sorted(folders), state.acknowledged)).encode()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            put_on_disk(left, folders, place / "cut")
            if state.acknowledged:
                found = CheckpointFolder(place / "cut" / "C").load()
                assert found.number >= state.acknowledged
                assert same(found.tree, {"number": found.number, "rows": torch.arange(20) + found.number})
            elif (place / "cut" / "C").exists():
                with contextlib.suppress(MissingFileError, StorageError):
                    assert CheckpointFolder(place / "cut" / "C").load().tree["number"] == 1
    return len(seen)


@pytest.mark.filterwarnings("ignore::athanor.errors.AthanorWarning")
def test_a_power_cut_leaves_the_one_before_or_the_new_one(tmp_path):
    assert lose_power(tmp_path) > 100


def _without(name: str) -> Any:
    return lambda self, *arguments: None


def _removes_first(self: CheckpointFolder, tree: Any) -> int:
    """Broken twin: room is made before the new one is there."""
    self.acquire()
    number = max(self.numbers(), default=0) + 1
    for old in self.numbers():
        self._remove(self.path / f"{old:08d}")
    self._write_as(self.path / f"{number:08d}", tree)
    return number


def _in_place(self: CheckpointFolder, final: Path, tree: Any) -> None:
    """Broken twin: written under the name that it shall have."""
    self._disk.make_folder(final)
    files.write_files(final, tree, self._disk)
    self._disk.sync_folder(self.path)


TWINS = {
    "files are not synced": (RecordingDisk, "sync", lambda self, descriptor: None),
    "names are not synced": (RecordingDisk, "sync_folder", lambda self, path: None),
    "older ones go first": (CheckpointFolder, "write", _removes_first),
}


@pytest.mark.parametrize("twin", TWINS.values(), ids=list(TWINS))
@pytest.mark.filterwarnings("ignore::athanor.errors.AthanorWarning")
def test_a_missing_sync_is_found(tmp_path, twin, monkeypatch):
    monkeypatch.setattr(*twin)
    with pytest.raises((AssertionError, StorageError, MissingFileError)):
        lose_power(tmp_path)


def test_twins_of_the_faults_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointFolder, "_write_as", _in_place)
    monkeypatch.setattr(files, "_digests", lambda place: {files.STATE: "", files.TENSORS: ""})
    with pytest.raises((AssertionError, StorageError)):
        faults(tmp_path / "a", Killed())


# -- the bytes are others --------------------------------------------------------------------------------------------


def damaged(place: Path) -> int:
    """Cut every file of the newest checkpoint at each 64th, and change each 97th byte; cases that were told."""
    found = filled(place)
    newest, told = found.path / "00000002", 0
    for name, whole in contents(newest).items():
        cuts = {len(whole) * part // 64 for part in range(64)}
        cases = [whole[:size] for size in sorted(cuts)]
        cases += [whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
        for case in [*cases, whole + b"x", None]:
            (newest / name).unlink() if case is None else (newest / name).write_bytes(case)
            with pytest.warns(AthanorWarning, match=f"goes on from checkpoint 1 .*{name}"):
                assert loaded(place) == 1
            told += 1
        (newest / name).write_bytes(whole)
    assert loaded(place) == 2
    return told


def test_damage_is_told_and_the_one_before_is_loaded(tmp_path):
    assert damaged(tmp_path) > 200


def test_without_a_look_at_digests_damage_is_found(tmp_path, monkeypatch):
    class Right(str):
        """A digest that is that of everything."""

        __slots__ = ()
        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    real = files._digests
    monkeypatch.setattr(files, "_digests", lambda place: {key: Right(text) for key, text in real(place).items()})
    with pytest.raises((AssertionError, StorageError, pytest.fail.Exception)):
        damaged(tmp_path)


def test_none_that_is_whole_is_told_with_what_was_found(tmp_path):
    found = filled(tmp_path)
    for number in (1, 2):
        (found.path / f"{number:08d}" / "state.json").write_bytes(b"{}")
    with pytest.raises(StorageError, match=r"No checkpoint of .* can be used.*00000002/state.json` is damaged.*anew"):
        found.load()


def hostile(place: Path, state: Any, tensors: bytes = b"") -> None:
    """A checkpoint whose digests are right, and whose state is not."""
    text = state if isinstance(state, bytes) else json.dumps(state).encode()
    here = place / "00000001"
    here.mkdir(parents=True, exist_ok=True)
    (here / "state.json").write_bytes(text)
    (here / "tensors.bin").write_bytes(tensors)
    lines = [
        f"{hashlib.sha256(raw).hexdigest()}  {name}\n" for name, raw in (("state.json", text), ("tensors.bin", tensors))
    ]
    (here / "SHA256SUMS").write_text("".join(lines))


def state_of(table: Any, inside: Any) -> dict[str, Any]:
    return {"format": "athanor-checkpoint", "version": 1, "tensors": table, "tree": inside}


HOSTILE = {
    "deep": b"[" * 400_000 + b"]" * 400_000,
    "deep inside": b'{"format":"athanor-checkpoint","version":1,"tensors":[],"tree":' + b"[" * 900 + b"]" * 900 + b"}",
    "wide": b"[" + b"[]," * 5_000_000 + b"0]",
    "long": b"[" + b"0," * 9_000_000 + b"0]",
    "number": b"[" + b"9" * 5000 + b"]",
    "nan": b"[NaN]",
    "nothing": b"",
    "text": b"\xff\xfe",
    "a list": [],
    "no table": {"format": "athanor-checkpoint", "version": 1, "tree": 1},
    "huge": state_of([["float64", [1 << 40, 1 << 40]]], {"$tensor": 0}),
    "huge and empty": state_of([["float64", [0, 1 << 60]]], {"$tensor": 0}),
    "long axes": state_of([["float64", [1] * 100]], {"$tensor": 0}),
    "negative": state_of([["float64", [-1]]], {"$tensor": 0}),
    "a bool": state_of([["float64", [True]]], {"$tensor": 0}),
    "another dtype": state_of([["object", [1]]], {"$tensor": 0}),
    "twice": state_of([["float64", [0]]], [{"$tensor": 0}, {"$tensor": 0}]),
    "nowhere": state_of([["float64", [0]]], []),
    "no such tensor": state_of([], {"$tensor": 7}),
    "a true tensor": state_of([["float64", [0]], ["float64", [0]]], [{"$tensor": True}, {"$tensor": 0}]),
    "unknown kind": state_of([], {"$pickle": "x"}),
    "two kinds": state_of([], {"$float": "7ff0000000000000", "$tuple": []}),
    "no number": state_of([], {"$float": "x"}),
    "odd keys": state_of([], {"$dict": [[1, 2], [1, 3]]}),
    "list keys": state_of([], {"$dict": [[[], 2]]}),
    "key twice": b'{"format":"athanor-checkpoint","version":1,"tensors":[],"tree":{"a":1,"a":2}}',
}


@pytest.mark.parametrize("state", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_state_is_told_soon_and_in_little_memory(tmp_path, state):
    hostile(tmp_path, state)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(StorageError, match="00000001"):
        CheckpointFolder(tmp_path).load()
    assert time.process_time() - started < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_bools_that_are_none_and_files_that_are_none_are_told(tmp_path):
    hostile(tmp_path, state_of([["bool", [2]]], {"$tensor": 0}), b"\x01\x02")
    with pytest.raises(StorageError, match="holds something else"):
        CheckpointFolder(tmp_path).load()
    for number, make in enumerate((os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)), 1):
        there = tmp_path / str(number)
        found = filled(there)
        (there / "00000002" / "tensors.bin").unlink()
        make(there / "00000002" / "tensors.bin")
        with pytest.warns(AthanorWarning, match="tensors.bin"):
            assert found.load().number == 1
    found = filled(tmp_path / "linked")
    (found.path / "00000003").symlink_to(found.path / "00000001")
    (found.path / "00000004").write_text("x")
    with pytest.warns(AthanorWarning, match="is no folder"):
        assert found.load().number == 2


def test_another_version_is_no_damage(tmp_path):
    filled(tmp_path)
    hostile(tmp_path / "other", {"format": "athanor-checkpoint", "version": 2})
    (tmp_path / "other" / "00000001").rename(tmp_path / "00000003")
    with pytest.raises(StorageError, match="is of version 2 of the format; this athanor reads 1"):
        CheckpointFolder(tmp_path).load()


def test_a_folder_that_can_not_be_made_or_read_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="can not be"):
        CheckpointFolder(tmp_path / "file" / "C").write({})
    with pytest.raises(StorageError, match="can not be"):
        CheckpointFolder(tmp_path / "file").write({})
    assert folder._NUMBER.fullmatch("00000001")
