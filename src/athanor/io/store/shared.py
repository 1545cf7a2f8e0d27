"""Objects that several programs can reach, where nothing but a condition on a put keeps one writer from another.

A server that many reach has no locks. What it has is a put that is refused if the key is taken (``If-None-Match``), or
if the object is not the one that was looked at (``If-Match``). That is enough:

- A log is a row of objects with numbers; each is put only if its number is free. Of two writers that stand at the same
  place one gets the number, and the other one is told. Every object begins with a mark of its own, so that a writer
  whose put was done and whose answer was lost knows its own object again.
- A commit is such an object too, and the one with the highest number counts. What a writer puts into a log counts only
  if there is no later commit than its own when the put is done: it looks, and then acknowledges.
- Before rows move into the arrays the log is sealed, so that no frame comes in behind those that move. Whoever finds a
  sealed log moves its rows, in the same order and cut alike, before it writes. So shards of several writers that move
  the same log hold the same rows, whoever wins the commit.
- A shard is put where none is. Where one is, it is replaced if it is still the one that stood there when our commit was
  the last one. A writer that fell behind can not touch what a later commit counts.
- Logs have names that no other writer uses, and shards a mark, so that no version of an object ever comes back.
"""

from __future__ import annotations

import random
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from athanor.errors import StorageError
from athanor.io.store.layout import COMMITS_KEY, FORMAT_KEY, TAIL_PREFIX
from athanor.io.store.medium import Log, LogContent, ReplacedError, Source, part_key, part_number
from athanor.io.store.objects import Objects
from athanor.io.store.records import frame, records
from athanor.io.store.state import MARK

TRIES = 10
LONGEST_PAUSE = 5.0
LONGEST_TIME = 120.0
"""Seconds after which a request is not tried again."""
_AT_ONCE = 8
NEW = object()
"""Condition of a put: the key is free."""

T = TypeVar("T")


class TakenError(Exception):
    """The condition of a put does not hold."""


class UnansweredError(OSError):
    """The server was busy, or did not answer; what was asked for may be done or not."""


class RefusedError(OSError):
    """The server answered that it will not, and would say so again."""


class SharedObjects(Objects):
    """Objects of a server, behind five requests. Each of them may fail with `UnansweredError`, and is tried again.

    Parameters
    ----------
    where
        How messages call the place.
    pause
        Waits some seconds.
    """

    is_shared = True

    def __init__(self, where: str, pause: Callable[[float], None] = time.sleep) -> None:
        super().__init__(where)
        self._pause = pause
        self._random = random.Random()
        self._numbers: dict[str, int] = {}
        """By log: the number behind the last object that was read."""
        self._commits: _SharedLog | None = None
        self._is_proven = False

    @abstractmethod
    def fetch(self, key: str, start: int = 0, count: int | None = None, version: Any = None) -> bytes | None:
        """Return bytes of an object, or None; raises `TakenError` unless it is of that version."""

    @abstractmethod
    def look_at(self, key: str) -> tuple[int, Any] | None:
        """Return size and version of an object, or None."""

    @abstractmethod
    def store(self, key: str, value: bytes, condition: Any = None) -> None:
        """Put an object whole, if the condition holds: None, `NEW`, or the version that it replaces.

        Raises
        ------
        TakenError
            If it does not hold.
        """

    @abstractmethod
    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; no error for those that are absent."""

    @abstractmethod
    def keys(self, prefix: str, after: str = "") -> list[str]:
        """Keys under a name, those behind `after` in their order."""

    def _patiently(self, request: Callable[..., T], *arguments: Any) -> T:
        """Ask again while the server does not answer, for a bounded time."""
        start = time.monotonic()
        for number in range(TRIES):
            try:
                return request(*arguments)
            except UnansweredError:
                if number + 1 == TRIES or time.monotonic() - start > LONGEST_TIME:
                    raise
            self._pause(min(0.1 * 2**number, LONGEST_PAUSE) * self._random.uniform(0.5, 1.0))
        raise AssertionError

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"`{key}` of {self.where} can not be read: {error.strerror or error}.") from error

    def read(self, key: str) -> bytes | None:
        """See `Medium.read`."""
        with self._reading(key):
            return self._patiently(self.fetch, key)

    def _open(self, key: str) -> Source | None:
        with self._reading(key):
            found = self._patiently(self.look_at, key)
        return None if found is None else _Ranges(self, key, *found)

    def list_keys(self, prefix: str = "") -> list[str]:
        """See `Medium.list_keys`."""
        with self._reading(prefix):
            return sorted(self._patiently(self.keys, prefix))

    def put(self, key: str, value: bytes) -> None:
        """See `Medium.put`."""
        self._patiently(self.store, key, value)

    def delete(self, key: str) -> None:
        """See `Medium.delete`."""
        self._remove_all([key])

    def put_new(self, key: str, value: bytes) -> None:
        """See `Objects.put_new`. An object that is there already is ours if it is `value`, which begins with a mark."""
        for _ in range(TRIES):
            try:
                return self._patiently(self.store, key, value, NEW)
            except TakenError:
                found = self._patiently(self.fetch, key)
                if found == value:
                    return None
                if found is not None:
                    raise self._lost() from None
        raise UnansweredError(f"`{key}` is said to be there and is not")

    def put_shard(self, key: str, value: bytes) -> None:
        """See `Medium.put_shard`."""
        condition = NEW
        for _ in range(TRIES):
            try:
                return self._patiently(self.store, key, value, condition)
            except TakenError:
                found = self._patiently(self.look_at, key)
                self.check_last()  # afterwards: what was found is then no shard of a later commit
                condition = NEW if found is None else found[1]
        raise UnansweredError(f"`{key}` changes all the time")

    def check_last(self) -> None:
        """Raise unless our commit is the last one.

        Raises
        ------
        StorageError
            If another writer has made one.
        """
        if self._commits is not None:
            own = part_key(COMMITS_KEY, self._commits.number - 1)
            if self._patiently(self.keys, COMMITS_KEY, own):
                raise self._lost()

    def _lost(self) -> StorageError:
        return StorageError(
            f"{self.where} has another writer, which was quicker; nothing of this one counts from here on. Frames that "
            f"were acknowledged are safe. Let one writer have it, then open it again to go on."
        )

    def mark(self) -> str:
        """See `Medium.mark`."""
        return uuid.uuid4().hex[:16]

    def create_log(self, key: str, first: bytes = b"") -> Log:
        """See `Medium.create_log`."""
        if key != COMMITS_KEY:
            log = _SharedLog(self, key, 0, 0)
            log.append(first)
            log.put()
            return log
        self._prove()
        if key not in self._numbers:
            parts = self._patiently(self.keys, key)
            self._numbers[key] = 1 + part_number(max(parts)) if parts else 0
        self._commits = log = _SharedLog(self, key, self._numbers[key], 0)
        log.append(first)
        log.sync()
        log.forget_before()
        return log

    def drop_parts(self, key: str, end: int) -> None:
        """See `Objects.drop_parts`."""
        self._remove_all([each for each in self._patiently(self.keys, key) if part_number(each) < end])

    def _remove_all(self, keys: list[str]) -> None:
        if keys:
            self._patiently(self.remove, keys)

    def open_log(self, key: str, size: int) -> Log:
        """See `Medium.open_log`."""
        log = _SharedLog(self, key, self._numbers[key], size)
        if key == COMMITS_KEY:
            self._prove()
            self._commits = log
        return log

    def _prove(self) -> None:
        """Put an object that is there once more, on the condition that it is not."""
        if self._is_proven or (found := self._patiently(self.fetch, FORMAT_KEY)) is None:
            return
        try:
            self._patiently(self.store, FORMAT_KEY, found, NEW)
        except TakenError:
            self._is_proven = True
            return
        raise StorageError(
            f"{self.where} takes a put whose condition does not hold, so that two writers could damage it; nothing was "
            f"changed. Write to a folder, or to a server that knows `If-None-Match`."
        )

    def _let_go(self, log: Log) -> None:
        if self._commits is log:
            self._commits = None

    def read_log(self, key: str) -> LogContent | None:
        """See `Medium.read_log`. Of the commits only the last is read, and those before it if it is damaged."""
        parts = self.list_keys(key)
        self._numbers[key] = 1 + part_number(parts[-1]) if parts else 0
        if not parts:
            return None
        if key != COMMITS_KEY:
            if [part_number(each) for each in parts] != list(range(len(parts))):
                raise StorageError(f"A part of `{key}` of {self.where} is missing.")
            raw = b"".join(self._read_all(parts))
            return LogContent(raw, len(raw))
        raw = b""
        for each in reversed(parts):
            raw = b"".join(self._read_all([each])) + raw
            if any(kind != MARK for kind, _, _ in records(raw)):
                break
        return LogContent(raw, len(raw))

    def _read_all(self, keys: list[str]) -> list[bytes]:
        if len(keys) == 1:
            found = [self.read(keys[0])]
        else:
            with ThreadPoolExecutor(min(_AT_ONCE, len(keys)), "athanor-read") as pool:
                found = list(pool.map(self.read, keys))
        if None in found:
            raise StorageError(f"`{keys[found.index(None)]}` of {self.where} is missing.")
        return found  # type: ignore[return-value]

    def delete_log(self, key: str) -> None:
        """See `Medium.delete_log`."""
        self._remove_all(self._patiently(self.keys, key))

    def strays(self, commit: int, tail: str) -> list[str]:
        """See `Medium.strays`. Only logs of earlier commits: all else may be what another writer is about to commit."""
        found = []
        for key in self.list_keys(TAIL_PREFIX) if tail else ():
            number = key.removeprefix(TAIL_PREFIX)[:10]
            if not key.startswith(f"{tail}/") and number.isdigit() and int(number) <= commit:
                found.append(key)
        return found


class _Ranges(Source):
    """Ranges of one version of an object."""

    def __init__(self, objects: SharedObjects, key: str, size: int, version: Any) -> None:
        self._objects, self._key, self.size, self._version = objects, key, size, version

    def read(self, start: int, count: int) -> bytes:
        count = min(count, self.size - start)
        if count <= 0:
            return b""
        objects, key = self._objects, self._key
        with objects._reading(key):
            try:
                found = objects._patiently(objects.fetch, key, start, count, self._version)
            except TakenError:
                found = None
        if found is None:
            raise ReplacedError(f"`{key}` of {objects.where} was replaced")
        return found


class _SharedLog(Log):
    """A row of objects. Records wait until `sync`; what was sent is sent again, as it was, until it is there."""

    def __init__(self, objects: SharedObjects, key: str, number: int, size: int) -> None:
        self._objects, self._key, self.number, self.size = objects, key, number, size
        self._waiting: list[bytes] = []
        self._sent: bytes | None = None
        self._is_seen = True

    def append(self, record: bytes) -> None:
        self._waiting.append(record)
        self.size += len(record)

    def forget_before(self) -> None:
        self._objects.drop_parts(self._key, self.number - 1)

    def put(self) -> None:
        """Put what waits; it does not count yet."""
        while self._waiting or self._sent is not None:
            if self._sent is None:
                mark = frame(MARK, uuid.uuid4().bytes)
                self._sent, self._waiting = b"".join((mark, *self._waiting)), []
                self.size += len(mark)
            self._is_seen = False
            self._objects.put_new(part_key(self._key, self.number), self._sent)
            self.number, self._sent = self.number + 1, None

    def sync(self) -> None:
        self.put()
        if not self._is_seen:
            self._objects.check_last()
            self._is_seen = True

    def close(self) -> None:
        self._objects._let_go(self)
