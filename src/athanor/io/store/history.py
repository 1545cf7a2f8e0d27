"""The commits of a store, of which the last one counts, and the log that it names, into which frames go.

A commit that comes behind the last keeps what was. One that begins another history takes the place of all: of a new
store, or of what is kept when a store is emptied, cut back or repaired. Either counts from one call on, before which
all that it names is safe; a stop at any moment leaves the old one or the new one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from athanor.io._replace import PARTIAL
from athanor.io._store_lock import LOCK_KEY
from athanor.io.store.layout import COMMITS_KEY, FORMAT_KEY, KEYS_OF_GROUPS, Commit, array_spec, tail_key
from athanor.io.store.medium import Log, Medium, SyncError
from athanor.io.store.packing import pack_arrays
from athanor.io.store.records import crc32c, frame
from athanor.io.store.shards import to_json
from athanor.io.store.state import COMMIT, REMAINDER, SEAL, State


class History:
    """The logs of a store, for its writer.

    Parameters
    ----------
    medium
        Where the store is.

    Attributes
    ----------
    state
        The last commit, and the frames in its log or on their way there.
    log
        What frames are appended to; None while closed.
    """

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.state = State()
        self.log: Log | None = None
        self._commits: Log | None = None

    def go_on(self, state: State) -> None:
        """Open the logs behind what was read of them; begin them if there are none."""
        self._drop_strays(state)
        self.state = state
        if not state.commit.tail:
            self.begin(State(), 0)
            return
        self.log = self.medium.open_log(state.commit.tail, state.tail_size)
        self._commits = self.medium.open_log(COMMITS_KEY, state.commits_size)
        self.log.sync()
        self._commits.sync()
        if not (state.commit.previous or state.lost):  # the first of its history
            self._commits.forget_before()

    def _drop_strays(self, state: State) -> None:
        """Remove what an interrupted writer left, and what belongs to an earlier history."""
        strays = self.medium.strays(state.commit.number, state.commit.tail)
        if strays is not None:
            for key in strays:
                self.medium.delete(key)
            return
        kept = {LOCK_KEY, FORMAT_KEY, *KEYS_OF_GROUPS}
        for path, stored in state.commit.arrays.items():
            spec = array_spec(path, stored, state.commit.fields)
            kept |= {f"{path}/zarr.json", *map(spec.key, range(-(-stored.rows // spec.shard_rows)))}
        for key in self.medium.list_keys():
            is_ours = key in kept or key.startswith((COMMITS_KEY, state.commit.tail or "/"))
            if key.endswith(PARTIAL) or not is_ours:
                self.medium.delete(key)

    def begin(self, kept: State, number: int) -> None:
        """Begin another history: its first commit is what is kept of the one before, with its frames behind it."""
        tail = tail_key(number, self.medium.mark())
        commit = replace(kept.commit, number=number, fields=kept.fields, previous=0, tail=tail)
        log = self.new_log(commit, kept.remainder)
        for each in kept.frames:
            log.append(each.to_record())
        log.sync()
        self.medium.settle()  # before the record that names it
        payload = commit.to_bytes()
        self._commits = self.medium.create_log(COMMITS_KEY, frame(COMMIT, payload))
        self.medium.settle()
        self._now_at(commit, payload, log)

    def new_log(self, commit: Commit, remainder: dict[str, np.ndarray]) -> Log:
        """Make the log that a commit names; it begins with the rows that no shard holds."""
        return self.medium.create_log(commit.tail, frame(REMAINDER, pack_arrays(remainder)) if remainder else b"")

    def add(self, commit: Commit, log: Log) -> None:
        """Write a commit record: from here on it counts, and frames go into the log that it names."""
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
        old, self.log = self.log, log
        self.state = State(commit, commit.fields, {}, [], crc32c(payload), self._commits.size, log.size)
        if old is not None:
            old.close()

    def seal(self, shard_bytes: int) -> int:
        """Let no frame come into the log behind those that are moved; return how the arrays are cut."""
        if not self.medium.is_shared:
            return shard_bytes
        assert self.log is not None
        if self.state.sealed is None:
            self.state.sealed = shard_bytes  # before it is there, as an answer may be lost
            self.log.append(frame(SEAL, to_json({"shard_bytes": shard_bytes})))
        self.log.sync()
        return self.state.sealed

    def close(self) -> None:
        """Free what the system gave."""
        for log in (self.log, self._commits):
            if log is not None:
                log.close()
        self.log = self._commits = None
