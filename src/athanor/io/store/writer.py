"""Append frames to a trajectory store, so that what was acknowledged survives a kill and a power cut.

A frame goes into the log at once, as one checksummed record, and is acknowledged when the log is synced, which the
durability says. When the log has grown to `buffer_bytes`, its rows move into the arrays: full shards first, then a new
log that begins with the rows that fill no shard, then the commit record that names both, then the old log goes. Each of
these is synced before the next. A stop at any moment leaves the old record with all it names, or the new one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NoReturn

import numpy as np

from athanor._values import check_whole
from athanor.errors import InputError, StorageError
from athanor.io._replace import PARTIAL
from athanor.io._store_lock import LOCK_KEY
from athanor.io.store.buffer import ArrayBuffer
from athanor.io.store.config import Durability, TrajectoryConfig
from athanor.io.store.fold import next_commit, with_frames
from athanor.io.store.layout import (
    COMMITS_KEY,
    FORMAT_KEY,
    GROUPS,
    JOINS_LATER,
    Commit,
    StoredField,
    StoreExistsError,
    array_spec,
    check_format,
    format_bytes,
    tail_key,
    version_of,
)
from athanor.io.store.medium import Log, Medium, SyncError
from athanor.io.store.packing import pack_arrays
from athanor.io.store.reader import StoredFrames
from athanor.io.store.records import crc32c, frame
from athanor.io.store.rows import Rows
from athanor.io.store.salvage import what_is_left
from athanor.io.store.shards import ShardReader, group_document, to_json
from athanor.io.store.state import COMMIT, REMAINDER, SEAL, Frames, State, load_state
from athanor.io.store.structures import StructureTable

_KEYS_OF_GROUPS = tuple(f"{group}/zarr.json".lstrip("/") for group in GROUPS)


class TrajectoryWriter:
    """The one writer of a store: keeps its fields, appends rows, commits them.

    It has the lock of the store from its opening to `close`, and again from the next `append`.

    Parameters
    ----------
    medium
        Where the store is.
    mode
        ``"a"`` opens or creates, ``"w"`` empties what is there, ``"x"`` refuses a store that exists.
    durability
        When frames are acknowledged, see `Durability.parse`.
    config
        How the store is cut.

    Attributes
    ----------
    acknowledged
        Frames that survive a power cut.

    Raises
    ------
    StorageError
        If the place holds something else, or a store that can not be read, or another writer has it; nothing is changed
        then.
    """

    def __init__(self, medium: Medium, *, mode: str = "a", durability: Durability, config: TrajectoryConfig) -> None:
        self.medium = medium
        self._lock = medium.lock()
        self._durability, self._config = durability, config
        self._log: Log | None = None
        self._commits: Log | None = None
        self._state = State()
        self._begin()
        if mode == "repair":
            return
        with self._opening():
            self._open(mode)

    def _begin(self) -> None:
        """Forget what belongs to the store as it was."""
        self._waiting: list[tuple[bytes, int, int]] = []
        """Records that are not in the log, as it refused them; the frames that each holds, and where it is to end."""
        self._buffers: dict[str, ArrayBuffer] = {}
        self._written = self.acknowledged = 0
        self._writes_unsynced = 0
        self._last_sync = time.monotonic()
        self._fault: str | None = None
        self._fold_at = self._config.buffer_bytes
        self._is_consolidated: bool | None = None
        self._accepted: tuple[StoredField, ...] = ()
        """Fields of the frame before, which fit."""

    @property
    def written(self) -> int:
        """Frames handed over, acknowledged or not."""
        return self._written

    @property
    def commit(self) -> tuple[int, int]:
        """What changes whenever there is something new to read."""
        return self._state.commit.number, self._written

    @property
    def _fields(self) -> tuple[StoredField, ...]:
        return self._state.fields

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Give the lock back if the block fails, so that the next try begins with what the store then holds."""
        try:
            yield
        except BaseException as error:
            self._let_go()
            if not isinstance(error, OSError) or isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{self.medium.where} can not be opened to write: {error.strerror or error}. Choose another place."
            ) from error

    def _open(self, mode: str) -> None:
        self._check_place(mode)
        self._lock.acquire()
        if not self._check_place(mode):  # again: another writer may have been quicker
            self.medium.put(FORMAT_KEY, format_bytes())
            self.medium.settle()  # before all else: without it nobody knows whose the rest is
            for key in _KEYS_OF_GROUPS:
                self.medium.put(key, to_json(group_document()))
        if mode == "w":
            self.zero()
        else:
            self._take_over()

    def _check_place(self, mode: str) -> bool:
        """Whether there is a store; raises if the place can not be used. Changes nothing."""
        medium = self.medium
        found = medium.read(FORMAT_KEY)
        if found is not None:
            version_of(found, medium.where) if mode == "w" else check_format(found, medium.where)
            if mode == "x":
                raise StoreExistsError(
                    f"{medium.where} holds a trajectory already. Choose another place, or open it to append."
                )
            return True
        ours = {LOCK_KEY, *_KEYS_OF_GROUPS}
        if any(key not in ours and not key.endswith(PARTIAL) for key in medium.list_keys()):
            if medium.read(FORMAT_KEY) is not None:  # made since we looked
                return self._check_place(mode)
            raise StorageError(f"{medium.where} is not empty and not a trajectory store; nothing was changed. "
                               f"Choose another place.")  # fmt: skip
        return False

    def _take_over(self, state: State | None = None) -> None:
        """Go on from what the store holds, with the lock."""
        state = load_state(self.medium) if state is None else state
        self._begin()
        buffers = self._buffers_of(state)
        self._drop_strays(state)
        if not state.commit.tail:
            self._state = state
            self._start(Commit(tail=self._new_key(0)), {})
        else:
            self._state = state
            self._log = self.medium.open_log(state.commit.tail, state.tail_size)
            self._commits = self.medium.open_log(COMMITS_KEY, state.commits_size)
            self._log.sync()
            self._commits.sync()
            if not (state.commit.previous or state.lost):  # the first of its history
                self._commits.forget_before()
        self._buffers = buffers
        structures = state.commit.structures + sum(each.structures for each in state.frames)
        self._structures = StructureTable(structures)
        self._written = self.acknowledged = state.systems
        if state.sealed is not None:
            self._fold(whole=False)

    def _buffers_of(self, state: State) -> dict[str, ArrayBuffer]:
        """The end of each array; of a part-filled shard as well, which a longer one is to replace."""
        buffers = {}
        shards = ShardReader(self.medium)
        for path, stored in state.commit.arrays.items():
            spec = array_spec(path, stored, state.commit.fields)
            buffer = buffers[path] = ArrayBuffer(spec, stored.rows - stored.rows % spec.shard_rows)
            buffer.add(shards.read(spec, np.arange(buffer.base, stored.rows), stored.rows))
            buffer.stored = stored.rows
            buffer.add(state.remainder.get(path, buffer.rows[:0]))
        shards.forget()
        return buffers

    def _drop_strays(self, state: State) -> None:
        """Remove what an interrupted writer left, and what belongs to an earlier history."""
        strays = self.medium.strays(state.commit.number, state.commit.tail)
        if strays is not None:
            for key in strays:
                self.medium.delete(key)
            return
        kept = {LOCK_KEY, FORMAT_KEY, *_KEYS_OF_GROUPS}
        for path, stored in state.commit.arrays.items():
            spec = array_spec(path, stored, state.commit.fields)
            kept |= {f"{path}/zarr.json", *map(spec.key, range(-(-stored.rows // spec.shard_rows)))}
        for key in self.medium.list_keys():
            is_ours = key in kept or key.startswith((COMMITS_KEY, state.commit.tail or "/"))
            if key.endswith(PARTIAL) or not is_ours:
                self.medium.delete(key)

    def _start(self, commit: Commit, remainder: dict[str, np.ndarray], frames: Sequence[Frames] = ()) -> None:
        """Begin another history, with this commit as its first and `frames` behind it."""
        log = self._new_tail(commit, remainder)
        for each in frames:
            log.append(each.to_record())
        log.sync()
        self.medium.settle()  # before the record that names it
        payload = commit.to_bytes()
        self._commits = self.medium.create_log(COMMITS_KEY, frame(COMMIT, payload))
        self.medium.settle()
        self._now_at(commit, payload, log)

    def _new_key(self, commit: int) -> str:
        return tail_key(commit, self.medium.mark())

    def _new_tail(self, commit: Commit, remainder: dict[str, np.ndarray]) -> Log:
        return self.medium.create_log(commit.tail, frame(REMAINDER, pack_arrays(remainder)) if remainder else b"")

    def _write_commit(self, commit: Commit, log: Log) -> None:
        """Write the commit record: from here on it counts, and frames go into the log that it names."""
        assert self._commits is not None
        payload = commit.to_bytes()
        self._commits.append(frame(COMMIT, payload))
        try:
            self._commits.sync()
        except Exception as error:  # it may count already, and then not what comes behind the old log
            raise SyncError(getattr(error, "errno", None), str(getattr(error, "strerror", None) or error)) from error
        self._now_at(commit, payload, log)

    def _now_at(self, commit: Commit, payload: bytes, log: Log) -> None:
        assert self._commits is not None
        old, self._log = self._log, log
        self._state = State(commit, commit.fields, {}, [], crc32c(payload), self._commits.size, log.size)
        if old is not None:
            old.close()

    def append(self, rows: Rows, fields: tuple[StoredField, ...]) -> None:
        """Take over rows; they are acknowledged if the durability asks for it.

        Parameters
        ----------
        rows
            Rows on the host; they are copied.
        fields
            Description of every column of `rows`.

        Raises
        ------
        StorageError
            If a field differs from the store's, or is new, or another writer has the store; nothing is kept then. Also
            if the store can not be written: acknowledged frames are safe then, and others wait in memory.
        """
        if not self._lock.is_held:  # closed before: others may have written meanwhile
            with self._opening():
                self._lock.acquire()
                self._take_over()
        with self._telling():
            self._check_usable()
        if self._state.sealed is not None:  # moving the rows of the log failed; it takes no more
            with self._telling():
                self._fold(whole=False)
        accepted = self._accept(fields)
        constants, data = Rows(rows.node_counts), Rows(rows.node_counts)
        for item in fields:
            (constants if item.constant else data).columns[item.name] = rows.columns[item.name]
        numbers, new_structures = self._structures.take(constants, fields)
        frames = Frames.of(data, numbers, new_structures, accepted[len(self._fields) :])
        record = frames.to_record()
        assert self._log is not None
        begin = self._waiting[-1][2] if self._waiting else self._log.size
        self._waiting.append((record, len(rows), begin + len(record)))
        self._state.frames.append(frames)
        self._state.fields = accepted
        self._accepted = fields
        self._written += len(rows)
        self._writes_unsynced += 1
        with self._telling():
            self._drain()
            due = self._durability.frames is not None and self._writes_unsynced >= self._durability.frames
            if self._durability.seconds is not None:
                due = due or time.monotonic() - self._last_sync >= self._durability.seconds
            if due:
                self._sync()
            assert self._log is not None
            if self._log.size >= self._fold_at:
                self._fold(whole=False)

    def _accept(self, fields: tuple[StoredField, ...]) -> tuple[StoredField, ...]:
        if fields is self._accepted:
            return self._fields
        known = {item.name: item for item in self._fields}
        for item in self._fields:
            if item.default is None and not item.is_float and not any(item.name == given.name for given in fields):
                raise StorageError(
                    f"`{item.name}` is missing from the frame and has been in {self.medium.where} so far; it is "
                    f"{item.dtype} and has no default to fill it with. Nothing was written; write it in every frame."
                )
        for item in fields:
            stored = known.get(item.name)
            if stored is item:
                continue
            if stored is None and known and item.name not in JOINS_LATER:
                raise StorageError(
                    f"`{item.name}` is new to {self.medium.where}, whose fields were fixed by the first write; nothing "
                    f"was written. Drop the field, or write it from the first frame on. "
                    f"Fields: {', '.join(sorted(known))}."
                )
            if stored is not None:
                found, wanted = (item.level, item.dtype, item.shape), (stored.level, stored.dtype, stored.shape)
                if found != wanted:
                    raise StorageError(
                        f"`{item.name}` is {found[0]}-level {found[1]} with trailing shape {found[2]}; "
                        f"{self.medium.where} holds {wanted[0]}-level {wanted[1]} with {wanted[2]}. "
                        f"Nothing was written; convert it first."
                    )
        return (*self._fields, *(item for item in fields if item.name not in known))

    def _check_usable(self) -> None:
        if self._fault is not None:
            raise StorageError(f"{self._fault} This sink writes no more; open the store again when the cause is gone.")
        if not self._lock.is_in_place:
            raise StorageError(
                f"{self.medium.where} was replaced by another one; nothing was written. Let one writer have it."
            )
        if sum(len(record) for record, *_ in self._waiting) > self._config.buffer_bytes:
            self.flush()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what is safe if the block fails."""
        try:
            yield
        except SyncError as error:
            self._give_up(error)
        except Exception as error:
            if isinstance(error, StorageError):
                raise
            if self._waiting and isinstance(error, OSError):  # what the log has taken is safe all the same
                try:
                    self._sync()
                except SyncError as worse:
                    self._give_up(worse)
                self._writes_unsynced = len(self._waiting)
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"Writing to {self.medium.where} failed: {reason}. The {self.acknowledged} committed frames are safe, "
                f"{self.written - self.acknowledged} more wait in memory. Make room or free the store, then `flush()`."
            ) from error

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Begin another history; if the block fails, the next call goes by what the store then holds."""
        before = self._written, self.acknowledged
        try:
            yield
        except BaseException as error:
            self._written, self.acknowledged = before
            if isinstance(error, SyncError):
                self._give_up(error)
            self._let_go()
            if isinstance(error, StorageError) or not isinstance(error, Exception):
                raise
            raise StorageError(
                f"{self.medium.where} was not emptied or cut back: {getattr(error, 'strerror', None) or error}. It is "
                f"as it was, or as it should be. Try again when the cause is gone."
            ) from error

    def _give_up(self, error: SyncError) -> NoReturn:
        self._fault = (
            f"The disk did not take what was written to {self.medium.where}: {error.strerror or error}. The "
            f"{self.acknowledged} acknowledged frames are safe, {self.written - self.acknowledged} more may be lost."
        )
        raise StorageError(f"{self._fault} Free the disk or take another one, then open the store again.") from error

    def _drain(self) -> None:
        """Append what waits to the log."""
        assert self._log is not None
        while self._waiting:
            record, _, end = self._waiting[0]
            if self._log.size < end:  # else Ctrl-C came between this line and the next
                self._log.append(record)
            del self._waiting[0]

    def _sync(self) -> None:
        assert self._log is not None
        self._log.sync()
        self.acknowledged = self._written - sum(frames for _, frames, _ in self._waiting)
        self._writes_unsynced, self._last_sync = 0, time.monotonic()

    def _fold(self, *, whole: bool, anew: bool = False) -> None:
        """Move rows from the log into the arrays; those of one system stand together there.

        With `whole` no row stays behind, and ``zarr.json`` of the store lists the arrays, so that zarr need not look
        for them; with `anew` the metadata of every array and group are written again.
        """
        state, commit = self._state, self._state.commit
        self._fold_at = (self._log.size if self._log else 0) + self._config.buffer_bytes  # if this fails
        if self._writes_unsynced:
            self._sync()
        buffers = with_frames(self._buffers, state, self._seal())
        changed = [path for path, buffer in buffers.items()
                   if buffer.write(self.medium, self._config.compression_level, whole=whole)]  # fmt: skip
        documents = {path: buffers[path].metadata(self._config.compression_level) for path in buffers}
        for path in documents if anew else changed:
            self.medium.put(f"{path}/zarr.json", to_json(documents[path]))
        for key in _KEYS_OF_GROUPS if anew else ():
            self.medium.put(key, to_json(group_document()))
        if whole or self._is_consolidated is not False:
            self.medium.put("zarr.json", to_json(group_document(documents if whole else None)))
        new = next_commit(state, buffers, self.medium.mark())
        remainder = {path: behind for path, buffer in buffers.items() if len(behind := buffer.behind)}
        log = self._new_tail(new, remainder)
        self.medium.settle()
        self._write_commit(new, log)
        self._buffers, self._is_consolidated = buffers, whole
        self._fold_at = log.size + self._config.buffer_bytes
        with suppress(OSError):  # a stray one is dropped by the next writer
            self.medium.delete_log(commit.tail)

    def _seal(self) -> int:
        """Let no frame come into the log behind those that are moved; return how the arrays are cut."""
        if not self.medium.is_shared:
            return self._config.shard_bytes
        assert self._log is not None
        if self._state.sealed is None:
            self._state.sealed = self._config.shard_bytes  # before it is there, as an answer may be lost
            self._log.append(frame(SEAL, to_json({"shard_bytes": self._state.sealed})))
        self._log.sync()
        return self._state.sealed

    def flush(self) -> None:
        """Acknowledge what was written.

        Raises
        ------
        StorageError
            If the store refuses; acknowledged frames are safe, others stay in memory and the next call tries again.
        """
        if not self._lock.is_held:  # closed; or a forked child, in which what waits is that of the parent
            return
        if self._fault is not None:
            self._check_usable()
        with self._telling():
            self._drain()
            if self._writes_unsynced:
                self._sync()

    def close(self) -> None:
        """Acknowledge all, move every row into the arrays, let others write. The writer can go on later."""
        self.flush()
        if self._lock.is_held:
            with self._telling():
                if self._state.frames or any(len(buffer.behind) for buffer in self._buffers.values()):
                    self._fold(whole=True)
                elif not self._others_see_it():
                    self._fold(whole=True, anew=True)
            self._let_go()

    def _others_see_it(self) -> bool:
        """Whether ``zarr.json`` lists the arrays as they are; it does not if they were cut back since."""
        documents = {path: buffer.metadata(self._config.compression_level) for path, buffer in self._buffers.items()}
        return self.medium.read("zarr.json") == to_json(group_document(documents))

    def end(self) -> None:
        """Acknowledge what was written, or drop what the store refused before, and let others write."""
        try:
            if self._lock.is_held and self._fault is None and self._log is not None:
                self._sync()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for log in (self._log, self._commits):
            if log is not None:
                log.close()
        self._log = self._commits = None
        self._waiting = []
        self._lock.release()

    def truncate_to(self, frames: int) -> None:
        """Forget every frame but the first `frames`, for good.

        Raises
        ------
        InputError
            If there are fewer.
        StorageError
            If the store can not be read or written; it is then as it was, or as it should be.
        """
        if not self._lock.is_held:
            with self._opening():
                self._lock.acquire()
                self._take_over()
        self.flush()
        if not 0 <= check_whole(frames, "frames", 0) <= self._written:
            raise InputError(f"`frames={frames}`: {self.medium.where} holds {self._written}.")
        if frames == self._written:
            return
        with self._renewing():
            self._go_on_from(StoredFrames(self.medium).first(frames), self._state.commit.number + 1)

    def _go_on_from(self, kept: State, number: int) -> None:
        """Begin another history with what is kept of this one."""
        commit = replace(kept.commit, number=number, fields=kept.fields, previous=0, tail=self._new_key(number))
        self._start(commit, kept.remainder, kept.frames)
        self._take_over()

    def repair(self) -> list[str]:
        """Go on from what can be read, move it into the arrays, and write anew what other programs read of them.

        Returns what is lost, one line each. Acknowledged frames behind a damaged record are given up; if the log is
        gone, all that is in no shard.
        """
        with self._opening():
            self._lock.acquire()
            state = load_state(self.medium, all_of_it=False)
            lost = state.lost
            if state.has_log:
                self._take_over(state)
            else:
                self._go_on_from(what_is_left(self.medium, state), state.commit.number + 1)
                gone = state.commit.systems - self._written
                lost.append(f"Of the {state.commit.systems} frames of the last commit {gone} are lost, and all that "
                            f"came after it.")  # fmt: skip
        with self._telling():
            self._fold(whole=True, anew=True)
        self.close()
        return lost

    def zero(self) -> None:
        """Forget all rows and fields; the place stays a valid, empty store."""
        with self._opening():
            self._lock.acquire()
        number = 0
        with suppress(StorageError):
            number = load_state(self.medium).commit.number + 1
        with self._renewing():
            self.medium.put(FORMAT_KEY, format_bytes())
            self._start(Commit(number, tail=self._new_key(number)), {})
            self._take_over()
