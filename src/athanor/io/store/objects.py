"""A store of objects under keys: a dictionary, or any store of zarr. A log is a row of objects, one for each sync."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from typing import Any

from athanor.errors import StorageError
from athanor.io._store_lock import StoreLock
from athanor.io.store.layout import COMMITS_KEY
from athanor.io.store.medium import Log, LogContent, Medium, Row, Source, part_key, part_number
from athanor.io.store.records import frame
from athanor.io.store.state import MARK


class Objects(Medium):
    """Objects that are put whole. What is put is safe; nothing is appended to."""

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    def put_new(self, key: str, value: bytes) -> None:
        """Put bytes under a key that nobody has used.

        Raises
        ------
        StorageError
            If somebody has.
        """

    def create_log(self, key: str, first: bytes = b"") -> Log:
        """See `Medium.create_log`."""
        old = self.list_keys(f"{key}/")
        number = 1 + part_number(old[-1]) if old else 0
        marked = frame(MARK, uuid.uuid4().bytes) + first  # or two histories could begin with the same bytes
        self.put_new(part_key(key, number), marked)
        log = _ObjectLog(self, key, number + 1, len(marked))
        log.forget_before()
        return log

    def drop_parts(self, key: str, end: int) -> None:
        """Remove the objects of a log whose numbers are lower than `end`."""
        for each in self.list_keys(f"{key}/"):
            if part_number(each) < end:
                self.delete(each)

    def open_log(self, key: str, size: int) -> Log:
        """See `Medium.open_log`."""
        place, number = 0, 0
        for each in self.list_keys(f"{key}/"):
            length = len(self.read(each) or b"")
            if place + length > size:
                self.delete(each)
                continue
            place, number = place + length, 1 + part_number(each)
        return _ObjectLog(self, key, number, place)

    def read_log(self, key: str) -> LogContent | None:
        """See `Medium.read_log`."""
        return self.read_parts(key)

    def delete_log(self, key: str) -> None:
        """See `Medium.delete_log`."""
        for each in self.list_keys(f"{key}/"):
            self.delete(each)

    def open(self, key: str) -> Source | None:
        """See `Medium.open`. Of the commits, what tells their history from another one."""
        if key == COMMITS_KEY:
            numbers = self._row(key)
            return Row(numbers[0], self._identity(key, numbers)) if numbers else None
        return self._open(key)

    def _open(self, key: str) -> Source | None:
        value = self.read(key)
        return None if value is None else _Bytes(value)

    def identity(self, key: str) -> object:
        """See `Medium.identity`. The object with which the row begins; a new history has another one."""
        numbers = self._row(key)
        return self._identity(key, numbers) if numbers else None

    def _row(self, key: str) -> list[int]:
        """Numbers of the objects of a log from the last one down, as far as they follow one another."""
        numbers = sorted(map(part_number, self.list_keys(f"{key}/")), reverse=True)
        return [number for place, number in enumerate(numbers) if number == numbers[0] - place]

    def _identity(self, key: str, numbers: list[int]) -> object:
        return numbers[-1], self.read(part_key(key, numbers[-1]))

    def lock(self) -> StoreLock:
        """See `Medium.lock`."""
        return StoreLock(self.where, None, self.where)


class _Bytes(Source):
    def __init__(self, value: bytes) -> None:
        self._value, self.size = value, len(value)

    def read(self, start: int, count: int) -> bytes:
        """See `Medium.read`."""
        return self._value[start : start + count]


class _ObjectLog(Log):
    """Records wait until they are synced, and become one object then."""

    def __init__(self, objects: Objects, key: str, number: int, size: int) -> None:
        self._objects, self._key, self._number, self.size = objects, key, number, size
        self._waiting: list[bytes] = []

    def forget_before(self) -> None:
        self._objects.drop_parts(self._key, self._number - 1)

    def append(self, record: bytes) -> None:
        self._waiting.append(record)
        self.size += len(record)

    def sync(self) -> None:
        if self._waiting:
            self._objects.put_new(part_key(self._key, self._number), b"".join(self._waiting))
            self._number += 1
            self._waiting = []


class ZarrObjects(Objects):
    """The keys of a zarr store.

    Parameters
    ----------
    store
        A zarr store.
    prefix
        In front of every key, with a ``/`` at its end unless it is empty.
    where
        How messages call the place.
    """

    def __init__(self, store: Any, prefix: str, where: str) -> None:
        super().__init__(where)
        self.store, self.prefix = store, prefix

    def _sync(self, awaitable: Any) -> Any:
        from zarr.core.sync import sync

        return sync(awaitable)

    def read(self, key: str) -> bytes | None:
        """See `Medium.read`."""
        from zarr.core.buffer import default_buffer_prototype

        found = self._sync(self.store.get(self.prefix + key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def put(self, key: str, value: bytes) -> None:
        """See `Medium.put`."""
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer.from_bytes(value)
        self._sync(self.store.set(self.prefix + key, buffer))

    def put_new(self, key: str, value: bytes) -> None:
        """See `Objects.put_new`."""
        if self._sync(self.store.exists(self.prefix + key)):
            raise StorageError(
                f"{self.where} was changed by another writer; nothing was written. Let one writer have it."
            )
        self.put(key, value)

    def delete(self, key: str) -> None:
        """See `Medium.delete`."""
        self._sync(self.store.delete(self.prefix + key))

    def list_keys(self, prefix: str = "") -> list[str]:
        """See `Medium.list_keys`."""

        async def collect() -> list[str]:
            return [key async for key in self.store.list_prefix(self.prefix + prefix)]

        return sorted(key.removeprefix(self.prefix) for key in self._sync(collect()))

    def lock(self) -> StoreLock:
        """See `Medium.lock`."""
        if self.store.read_only or not self.store.supports_writes:
            raise StorageError(f"{self.where} can only be read; nothing was changed. Copy it into a folder first.")
        return StoreLock(f"{self.store} {self.prefix}", None, self.where)
