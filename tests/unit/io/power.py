"""A disk that remembers what was synced, and every state in which a power cut may leave it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from athanor.io._replace import PARTIAL
from athanor.io.store.folder import Disk, Folder
from athanor.io.store.medium import Source


class Operation(NamedTuple):
    """One call: `what`, the file or folder that it concerns, and its arguments."""

    what: str
    target: Any
    arguments: tuple[Any, ...] = ()


class RecordingDisk(Disk):
    """Does everything, and keeps a record of it. Files are known by number, as they change their names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self._numbers: dict[str, int] = {}
        self._open: dict[int, int] = {}
        self._count = 0

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def acknowledge(self, frames: int) -> None:
        self.operations.append(Operation("acknowledged", frames))

    def create(self, path: Path) -> int:
        name = self._name(path)
        if name not in self._numbers:
            self._count += 1
            self._numbers[name] = self._count
            self.operations.append(Operation("create", name, (self._count,)))
        descriptor = super().create(path)
        self._open[descriptor] = self._numbers[name]
        return descriptor

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self.operations.append(Operation("write", self._open[descriptor], (offset, bytes(data))))
        super().write(descriptor, data, offset)

    def truncate(self, descriptor: int, size: int) -> None:
        self.operations.append(Operation("truncate", self._open[descriptor], (size,)))
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self.operations.append(Operation("sync", self._open[descriptor]))

    def rename(self, old: Path, new: Path) -> None:
        if old.is_dir():
            before, after = self._name(old), self._name(new)
            self._numbers = {_moved(name, before, after): number for name, number in self._numbers.items()}
            self.operations.append(Operation("rename_folder", before, (after,)))
            super().rename(old, new)
            return
        number = self._numbers[self._name(new)] = self._numbers.pop(self._name(old))
        self.operations.append(Operation("rename", self._name(old), (self._name(new), number)))
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._numbers.pop(self._name(path), None)
        self.operations.append(Operation("remove", self._name(path)))
        super().remove(path)

    def make_folder(self, path: Path) -> None:
        self.operations.append(Operation("make_folder", self._name(path)))
        super().make_folder(path)

    def remove_folder(self, path: Path) -> None:
        self.operations.append(Operation("remove_folder", self._name(path)))
        super().remove_folder(path)

    def sync_folder(self, path: Path) -> None:
        if path.is_relative_to(self.root):
            self.operations.append(Operation("sync_folder", self._name(path)))


def _moved(name: str, old: str, new: str) -> str:
    """What a name is called when the folder `old` that it may be in, or be, is called `new`."""
    return new + name[len(old) :] if name == old or name.startswith(f"{old}/") else name


def _folder(name: str) -> str:
    return os.path.dirname(name) or "."


class State:
    """What is on the disk for sure, and what may be there, in the order in which it was done."""

    def __init__(self) -> None:
        self.files: dict[int, bytearray] = {}
        self.names: dict[str, int] = {}
        self.folders: set[str] = {"."}
        self.data: list[Operation] = []
        self.changes: list[Operation] = []
        self.acknowledged = 0

    def add(self, operation: Operation) -> None:
        what, target, _ = operation
        if what == "acknowledged":
            self.acknowledged = target
        elif what == "sync":
            for each in [each for each in self.data if each.target == target]:
                self._write(self.files, each)
            self.data = [each for each in self.data if each.target != target]
        elif what == "sync_folder":
            mine = [each for each in self.changes if _folder(each.target) == target]
            for each in mine:
                self._change(self.names, self.folders, each)
            self.changes = [each for each in self.changes if each not in mine]
        elif what in ("write", "truncate"):
            self.data.append(operation)
        else:
            self.changes.append(operation)

    @staticmethod
    def _write(files: dict[int, bytearray], operation: Operation) -> None:
        content = files.setdefault(operation.target, bytearray())
        if operation.what == "truncate":
            del content[operation.arguments[0] :]
            return
        offset, data = operation.arguments
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    @staticmethod
    def _change(names: dict[str, int], folders: set[str], operation: Operation) -> None:
        what, target, arguments = operation
        if what == "make_folder":
            folders.add(target)
        elif what == "create":
            names[target] = arguments[0]
        elif what == "remove":
            names.pop(target, None)
        elif what == "remove_folder":
            folders.discard(target)
        elif what == "rename_folder":
            if target in folders:
                for found in (names, folders):
                    for old in [name for name in found if _moved(name, target, "?") != name]:
                        new = _moved(old, target, arguments[0])
                        names.update({new: names.pop(old)}) if found is names else folders.add(new)
                folders -= {name for name in folders if _moved(name, target, "?") != name}
        else:
            names.pop(target, None)
            names[arguments[0]] = arguments[1]

    def left(self, changes: list[Operation], data: list[Operation]) -> tuple[dict[str, bytes], set[str]]:
        """Files and folders if of the unsynced calls just these came to the disk."""
        files = {number: bytearray(content) for number, content in self.files.items()}
        names, folders = dict(self.names), set(self.folders)
        for each in changes:
            self._change(names, folders, each)
        for each in data:
            self._write(files, each)
        found = {name: bytes(files.get(number, b"")) for name, number in names.items()}
        return {name: content for name, content in found.items() if _reachable(name, folders)}, folders

    def outcomes(self, generator: random.Random, more: int) -> Iterator[tuple[dict[str, bytes], set[str]]]:
        """Nothing unsynced, all of it, names without data, names with zeros for data, and some subsets."""
        behind = [  # a block that is there is written or not; one that is new may hold zeros
            each for each in self.data
            if each.what == "truncate" or each.arguments[0] >= len(self.files.get(each.target, b""))
        ]  # fmt: skip
        zeros = [
            each if each.what == "truncate" else each._replace(arguments=_zeros(*each.arguments)) for each in behind
        ]
        yield self.left([], [])
        yield self.left(self.changes, self.data)
        yield self.left(self.changes, [])
        yield self.left(self.changes, zeros)
        yield self.left([], self.data)
        for _ in range(more):
            keep = [[each for each in part if generator.random() < 0.5] for part in (self.changes, self.data)]
            yield self.left(*keep)

    def subsets(self, most: int, generator: random.Random, more: int) -> Iterator[tuple[dict[str, bytes], set[str]]]:
        """Every subset of the unsynced calls if there are at most so many of them; else `more` subsets of any size.

        A name that only a file which is not whole yet has is looked for by nobody, so it is not among them.
        """
        changes = [each for each in self.changes if each.what != "create" or not each.target.endswith(PARTIAL)]
        pending = [*changes, *(part for each in self.data for part in _halves(each))]
        if len(pending) <= most:
            kept = itertools.product((True, False), repeat=len(pending))
        else:
            chances = [generator.choice((0.2, 0.5, 0.8, 0.95)) for _ in range(more)]
            kept = (tuple(generator.random() < chance for _ in pending) for chance in chances)
        for keep in kept:
            chosen = list(itertools.compress(pending, keep))
            yield self.left(
                [each for each in chosen if each.what not in ("write", "truncate")],
                [each for each in chosen if each.what in ("write", "truncate")],
            )


def _halves(call: Operation) -> Iterator[Operation]:
    """A long write may be on the disk in part."""
    if call.what == "truncate" or len(call.arguments[1]) < _SECTOR:
        yield call
        return
    offset, data = call.arguments
    middle = len(data) // 2
    yield call._replace(arguments=(offset, data[:middle]))
    yield call._replace(arguments=(offset + middle, data[middle:]))


_SECTOR = 64
"""Bytes that a disk writes at once, and fewer than any does; the header of a log is shorter."""


def _zeros(offset: int, data: bytes) -> tuple[int, bytes]:
    return offset, bytes(len(data))


def _reachable(name: str, folders: set[str]) -> bool:
    folder = _folder(name)
    while folder != ".":
        if folder not in folders:
            return False
        folder = _folder(folder)
    return True


def put_on_disk(files: dict[str, bytes], folders: set[str], place: Path) -> None:
    """Make a folder look as a power cut left it."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for folder in sorted(folders):
        if _reachable(f"{folder}/x", folders):
            (place / folder).mkdir(exist_ok=True, parents=True)
    for name, content in files.items():
        (place / name).write_bytes(content)


class Left(Folder):
    """A folder as a power cut left it, in memory, to be read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(Path("left"))
        self.files = {name: content for name, content in files.items() if not name.endswith(PARTIAL)}

    def read(self, key: str) -> bytes | None:
        return self.files.get(key)

    def open(self, key: str) -> Source | None:
        return _Content(self.files[key]) if key in self.files else None

    def list_keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.files if key.startswith(prefix))

    def identity(self, key: str) -> object:
        return None

    def room(self, prefix: str) -> int | None:
        return sum(len(content) for key, content in self.files.items() if key.startswith(f"{prefix}/"))


class _Content(Source):
    def __init__(self, content: bytes) -> None:
        self._content, self.size = content, len(content)

    def read(self, start: int, count: int) -> bytes:
        return self._content[start : start + count]
