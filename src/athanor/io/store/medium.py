"""Where the bytes of a store live: files of a folder (`folder`), or objects under keys (`objects`, `shared`).

Nothing here knows what they mean. All give whole objects that never change half way, and logs, to which records are
appended. What `put` and `append` wrote is safe from the death of the process at once, and from a power cut after
`settle` and `Log.sync`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from athanor.errors import StorageError
from athanor.io._store_lock import StoreLock


class SyncError(OSError):
    """The disk did not take what it was to save; it may be gone from the memory of the system as well."""


class ReplacedError(Exception):
    """An object that was opened is no longer there, or another one has taken its place."""


@dataclass(frozen=True, slots=True)
class LogContent:
    """Bytes of a log, and how many of them were acknowledged, so that what is wrong among them is damage."""

    raw: bytes
    acknowledged: int
    fault: str | None = None
    """What is wrong with it as a whole; records may be right all the same."""


class Log(ABC):
    """A log that one writer appends to."""

    size: int
    """Bytes in it."""

    @abstractmethod
    def append(self, record: bytes) -> None:
        """Put a record behind the others; whole, or the next one takes its place."""

    @abstractmethod
    def sync(self) -> None:
        """Acknowledge what was appended: it survives a power cut."""

    def forget_before(self) -> None:  # noqa: B027
        """Drop what stands before the last record that was synced, where those are objects: of an earlier history."""

    def close(self) -> None:  # noqa: B027
        """Free what the system gave."""


class Source(ABC):
    """One object, opened to read parts of it; stays what it was if another one takes its place."""

    size: int
    identity: object = None
    """What `Medium.identity` says while it is in its place."""

    @abstractmethod
    def read(self, start: int, count: int) -> bytes:
        """Return `count` bytes from `start` on; fewer if it ends before.

        Raises
        ------
        ReplacedError
            If it is gone, where it could not be held.
        """

    def close(self) -> None:  # noqa: B027
        """Free what the system gave."""


class Row(Source):
    """A log that is a row of objects: how far it goes and which one it is, not what is in it."""

    def __init__(self, size: int, identity: object) -> None:
        self.size, self.identity = size, identity

    def read(self, start: int, count: int) -> bytes:
        """See `Source.read`."""
        return b""


class Medium(ABC):
    """Keys and bytes. Keys are paths of names with ``/`` between them."""

    where: str
    """How messages call the place."""
    is_shared = False
    """Whether writers of other programs can not be kept away by `lock`."""

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """Bytes under a key, or None."""

    @abstractmethod
    def open(self, key: str) -> Source | None:
        """Open what is under a key, or None."""

    @abstractmethod
    def put(self, key: str, value: bytes) -> None:
        """Put bytes under a key, all or nothing."""

    def put_shard(self, key: str, value: bytes) -> None:
        """Put a shard, in place of one that begins with the same rows or counts in no commit."""
        self.put(key, value)

    def mark(self) -> str:
        """What tells what this writer puts from all that others put; empty where there can be no other."""
        return ""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key; no error if it is absent."""

    @abstractmethod
    def list_keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with `prefix`, a name or a name and ``/``, sorted."""

    @abstractmethod
    def create_log(self, key: str, first: bytes = b"") -> Log:
        """Make a log anew, in place of one that may be there, with its first record; all or nothing."""

    @abstractmethod
    def open_log(self, key: str, size: int) -> Log:
        """Open a log to append behind its first `size` bytes; the others are dropped."""

    @abstractmethod
    def read_log(self, key: str) -> LogContent | None:
        """What a log holds, or None."""

    def read_parts(self, key: str) -> LogContent | None:
        """What a log holds that is a row of objects, or None."""
        parts = self.list_keys(f"{key}/")
        if not parts:
            return None
        numbers = [part_number(each) for each in parts]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise StorageError(f"A part of `{key}` of {self.where} is missing.")
        contents = [self.read(each) or b"" for each in parts]
        if not all(contents[1:]):  # nobody puts an empty one but to begin a log
            raise StorageError(f"`{parts[1 + contents[1:].index(b'')]}` of {self.where} is missing or empty.")
        raw = b"".join(contents)
        return LogContent(raw, len(raw))

    def delete_log(self, key: str) -> None:
        """Remove a log."""
        self.delete(key)

    def strays(self, commit: int, tail: str) -> list[str] | None:
        """Keys that no writer needs if this commit, with this log, is the last; None for all that it does not name."""
        return None

    @abstractmethod
    def lock(self) -> StoreLock:
        """Return the right to write here, to be acquired."""

    def settle(self) -> None:  # noqa: B027
        """Make what was put safe from a power cut."""

    def room(self, prefix: str) -> int | None:
        """Bytes of all that is in a folder, if that can be known cheaply."""
        return None

    def bytes_of(self, keys: Iterable[str]) -> int | None:
        """Bytes of some objects, if that can be known cheaply."""
        return None

    def identity(self, key: str) -> object:
        """What changes when the object under `key` is replaced, as far as that can be known cheaply."""
        return None


def part_key(key: str, number: int) -> str:
    """Key of an object of a log that is a row of objects."""
    return f"{key}/{number:08d}"


def part_number(key: str) -> int:
    """Inverse of `part_key`."""
    return int(key.rpartition("/")[2])
