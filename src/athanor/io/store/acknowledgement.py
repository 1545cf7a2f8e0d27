"""How a frame becomes acknowledged, and what is told if it can not be.

Its record waits in memory, is written to the log, and is acknowledged when the log is synced, which the durability
says. What the log refuses waits on, for the next try. A sync that fails is the end of the writer: nobody knows then
what the disk has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from athanor.errors import StorageError
from athanor.io.store.config import Durability
from athanor.io.store.history import History
from athanor.io.store.medium import SyncError


class Acknowledgement:
    """Frames handed over to a writer: which wait, which are in the log, which are acknowledged.

    Parameters
    ----------
    history
        Has the log that they go to.
    durability
        When they are acknowledged.

    Attributes
    ----------
    written
        Frames handed over, acknowledged or not.
    acknowledged
        Frames that survive a power cut.
    fault
        Why nothing more can be written.
    """

    def __init__(self, history: History, durability: Durability) -> None:
        self._history, self._where, self._durability = history, history.medium.where, durability
        self._waiting: list[tuple[bytes, int, int]] = []
        """Records that are not in the log, as it refused them; the frames that each holds, and where it is to end."""
        self.written = self.acknowledged = 0
        self._writes_unsynced = 0
        self._last_sync = time.monotonic()
        self.fault: str | None = None

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are in memory only."""
        return sum(len(record) for record, *_ in self._waiting)

    def add(self, record: bytes, frames: int) -> None:
        """Let a record wait."""
        assert self._history.log is not None
        begin = self._waiting[-1][2] if self._waiting else self._history.log.size
        self._waiting.append((record, frames, begin + len(record)))
        self.written += frames
        self._writes_unsynced += 1

    def write(self) -> None:
        """Append what waits to the log, and acknowledge it if that is due."""
        self._drain()
        due = self._durability.frames is not None and self._writes_unsynced >= self._durability.frames
        if self._durability.seconds is not None:
            due = due or time.monotonic() - self._last_sync >= self._durability.seconds
        if due:
            self.sync()

    def _drain(self) -> None:
        log = self._history.log
        assert log is not None
        while self._waiting:
            record, _, end = self._waiting[0]
            if log.size < end:  # else Ctrl-C came between this line and the next
                log.append(record)
            del self._waiting[0]

    def sync(self) -> None:
        """Acknowledge what is in the log."""
        assert self._history.log is not None
        self._history.log.sync()
        self.acknowledged = self.written - sum(frames for _, frames, _ in self._waiting)
        self._writes_unsynced, self._last_sync = 0, time.monotonic()

    def sync_if_needed(self) -> None:
        """Acknowledge what is in the log, if some of it is not."""
        if self._writes_unsynced:
            self.sync()

    def flush(self) -> None:
        """Append what waits, and acknowledge all."""
        self.check()
        with self.telling():
            self._drain()
            self.sync_if_needed()

    def drop(self) -> None:
        """Forget what waits."""
        self._waiting = []

    def check(self) -> None:
        """Raise if nothing more can be written."""
        if self.fault is not None:
            raise StorageError(f"{self.fault} This sink writes no more; open the store again when the cause is gone.")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Say what is safe if the block fails."""
        try:
            yield
        except SyncError as error:
            self.give_up(error)
        except Exception as error:
            if isinstance(error, StorageError):
                raise
            if self._waiting and isinstance(error, OSError):  # what the log has taken is safe all the same
                try:
                    self.sync()
                except SyncError as worse:
                    self.give_up(worse)
                self._writes_unsynced = len(self._waiting)
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"Writing to {self._where} failed: {reason}. The {self.acknowledged} committed frames are safe, "
                f"{self.written - self.acknowledged} more wait in memory. Make room or free the store, then `flush()`."
            ) from error

    def give_up(self, error: SyncError) -> NoReturn:
        """Write no more, as the disk did not take what it was to save."""
        self.fault = (
            f"The disk did not take what was written to {self._where}: {error.strerror or error}. The "
            f"{self.acknowledged} acknowledged frames are safe, {self.written - self.acknowledged} more may be lost."
        )
        raise StorageError(f"{self.fault} Free the disk or take another one, then open the store again.") from error
