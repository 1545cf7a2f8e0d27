"""Append frames to a trajectory store, so that what was acknowledged survives a kill and a power cut.

A frame goes into the log at once, as one checksummed record, and is acknowledged when the log is synced, which the
durability says. When the log has grown to `buffer_bytes`, its rows move into the arrays: full shards first, then a new
log that begins with the rows that fill no shard, then the commit record that names both, then the old log goes. Each of
these is synced before the next. A stop at any moment leaves the old record with all it names, or the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from athanor._values import check_whole
from athanor.errors import InputError, StorageError
from athanor.io.store.acknowledgement import Acknowledgement
from athanor.io.store.buffer import ArrayBuffer
from athanor.io.store.config import Durability, TrajectoryConfig
from athanor.io.store.fold import buffers_of, next_commit, with_frames
from athanor.io.store.history import History
from athanor.io.store.layout import FORMAT_KEY, KEYS_OF_GROUPS, StoredField, format_bytes
from athanor.io.store.medium import Medium, SyncError
from athanor.io.store.places import holds_store
from athanor.io.store.reader import StoredFrames
from athanor.io.store.rows import Rows, with_fields
from athanor.io.store.salvage import what_is_left
from athanor.io.store.shards import group_document, to_json
from athanor.io.store.state import Frames, State, load_state
from athanor.io.store.structures import StructureTable


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
        self._history = History(medium)
        self._begin()
        if mode == "repair":
            return
        with self._opening():
            self._open(mode)

    def _begin(self) -> None:
        """Forget what belongs to the store as it was."""
        self._acknowledgement = Acknowledgement(self._history, self._durability)
        self._buffers: dict[str, ArrayBuffer] = {}
        self._fold_at = self._config.buffer_bytes
        self._is_consolidated: bool | None = None
        self._accepted: tuple[StoredField, ...] = ()
        """Fields of the frame before, which fit."""

    @property
    def written(self) -> int:
        """Frames handed over, acknowledged or not."""
        return self._acknowledgement.written

    @property
    def acknowledged(self) -> int:
        """Frames that survive a power cut."""
        return self._acknowledgement.acknowledged

    @property
    def commit(self) -> tuple[int, int]:
        """What changes whenever there is something new to read."""
        return self._history.state.commit.number, self.written

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
        holds_store(self.medium, mode)
        self._lock.acquire()
        if not holds_store(self.medium, mode):  # again: another writer may have been quicker
            self.medium.put(FORMAT_KEY, format_bytes())
            self.medium.settle()  # before all else: without it nobody knows whose the rest is
            for key in KEYS_OF_GROUPS:
                self.medium.put(key, to_json(group_document()))
        if mode == "w":
            self.zero()
        else:
            self._take_over()

    def _take_over(self, state: State | None = None) -> None:
        """Go on from what the store holds, with the lock."""
        state = load_state(self.medium) if state is None else state
        self._begin()
        buffers = buffers_of(self.medium, state)
        self._history.go_on(state)
        self._buffers = buffers
        structures = state.commit.structures + sum(each.structures for each in state.frames)
        self._structures = StructureTable(structures)
        self._acknowledgement.written = self._acknowledgement.acknowledged = state.systems
        if state.sealed is not None:
            self._fold(whole=False)

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
        history, acknowledgement = self._history, self._acknowledgement
        with acknowledgement.telling():
            self._check_usable()
        if history.state.sealed is not None:  # moving the rows of the log failed; it takes no more
            with acknowledgement.telling():
                self._fold(whole=False)
        state = history.state
        accepted = state.fields if fields is self._accepted else with_fields(state.fields, fields, self.medium.where)
        constants, data = Rows(rows.node_counts), Rows(rows.node_counts)
        for item in fields:
            (constants if item.constant else data).columns[item.name] = rows.columns[item.name]
        numbers, new_structures = self._structures.take(constants, fields)
        frames = Frames.of(data, numbers, new_structures, accepted[len(state.fields) :])
        acknowledgement.add(frames.to_record(), len(rows))
        state.frames.append(frames)
        state.fields = accepted
        self._accepted = fields
        with acknowledgement.telling():
            acknowledgement.write()
            assert history.log is not None
            if history.log.size >= self._fold_at:
                self._fold(whole=False)

    def _check_usable(self) -> None:
        self._acknowledgement.check()
        if not self._lock.is_in_place:
            raise StorageError(
                f"{self.medium.where} was replaced by another one; nothing was written. Let one writer have it."
            )
        if self._acknowledgement.waiting_bytes > self._config.buffer_bytes:
            self.flush()

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Begin another history; if the block fails, the next call goes by what the store then holds."""
        before = self.written, self.acknowledged
        try:
            yield
        except BaseException as error:
            self._acknowledgement.written, self._acknowledgement.acknowledged = before
            if isinstance(error, SyncError):
                self._acknowledgement.give_up(error)
            self._let_go()
            if isinstance(error, StorageError) or not isinstance(error, Exception):
                raise
            raise StorageError(
                f"{self.medium.where} was not emptied or cut back: {getattr(error, 'strerror', None) or error}. It is "
                f"as it was, or as it should be. Try again when the cause is gone."
            ) from error

    def _fold(self, *, whole: bool, anew: bool = False) -> None:
        """Move rows from the log into the arrays; those of one system stand together there.

        With `whole` no row stays behind, and ``zarr.json`` of the store lists the arrays, so that zarr need not look
        for them; with `anew` the metadata of every array and group are written again.
        """
        history, state = self._history, self._history.state
        self._fold_at = (history.log.size if history.log else 0) + self._config.buffer_bytes  # if this fails
        self._acknowledgement.sync_if_needed()
        buffers = with_frames(self._buffers, state, history.seal(self._config.shard_bytes))
        changed = [path for path, buffer in buffers.items()
                   if buffer.write(self.medium, self._config.compression_level, whole=whole)]  # fmt: skip
        documents = {path: buffers[path].metadata(self._config.compression_level) for path in buffers}
        for path in documents if anew else changed:
            self.medium.put(f"{path}/zarr.json", to_json(documents[path]))
        for key in KEYS_OF_GROUPS if anew else ():
            self.medium.put(key, to_json(group_document()))
        if whole or self._is_consolidated is not False:
            self.medium.put("zarr.json", to_json(group_document(documents if whole else None)))
        new = next_commit(state, buffers, self.medium.mark())
        remainder = {path: behind for path, buffer in buffers.items() if len(behind := buffer.behind)}
        log = history.new_log(new, remainder)
        self.medium.settle()
        history.add(new, log)
        self._buffers, self._is_consolidated = buffers, whole
        self._fold_at = log.size + self._config.buffer_bytes
        with suppress(OSError):  # a stray one is dropped by the next writer
            self.medium.delete_log(state.commit.tail)

    def flush(self) -> None:
        """Acknowledge what was written.

        Raises
        ------
        StorageError
            If the store refuses; acknowledged frames are safe, others stay in memory and the next call tries again.
        """
        if not self._lock.is_held:  # closed; or a forked child, in which what waits is that of the parent
            return
        self._acknowledgement.flush()

    def close(self) -> None:
        """Acknowledge all, move every row into the arrays, let others write. The writer can go on later."""
        self.flush()
        if self._lock.is_held:
            with self._acknowledgement.telling():
                if self._history.state.frames or any(len(buffer.behind) for buffer in self._buffers.values()):
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
            if self._lock.is_held and self._acknowledgement.fault is None and self._history.log is not None:
                self._acknowledgement.sync()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._history.close()
        self._acknowledgement.drop()
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
        if not 0 <= check_whole(frames, "frames", 0) <= self.written:
            raise InputError(f"`frames={frames}`: {self.medium.where} holds {self.written}.")
        if frames == self.written:
            return
        with self._renewing():
            self._go_on_from(StoredFrames(self.medium).first(frames), self._history.state.commit.number + 1)

    def _go_on_from(self, kept: State, number: int) -> None:
        """Begin another history with what is kept of this one."""
        self._history.begin(kept, number)
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
                gone = state.commit.systems - self.written
                lost.append(f"Of the {state.commit.systems} frames of the last commit {gone} are lost, and all that "
                            f"came after it.")  # fmt: skip
        with self._acknowledgement.telling():
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
            self._go_on_from(State(), number)
