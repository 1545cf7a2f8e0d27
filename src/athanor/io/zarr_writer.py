"""Append rows to a trajectory store, so that a kill at any moment loses no committed row and shows no wrong one.

Order of every commit: data first, the commit record last. Rows wait in memory until the durability asks for a commit;
a commit puts them into one block (two store writes), and when the blocks have grown to `buffer_bytes` all of them are
moved into the arrays. A kill leaves either the old record, with more bytes behind it, or the new one. Files are not
synced to disk here: a power cut may lose what the operating system had not written.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from athanor.errors import StorageError
from athanor.io._replace import PARTIAL
from athanor.io._store_lock import LOCK_KEY
from athanor.io._zarr_store import RawStore
from athanor.io.zarr_config import Durability, TrajectoryConfig
from athanor.io.zarr_reader import load_head, load_tail
from athanor.io.zarr_rows import Rows, encode_block, merge_rows
from athanor.io.zarr_schema import (
    FORMAT_KEY,
    GROUPS,
    HEAD_KEY,
    JOINS_LATER,
    OLD_GROUP,
    TAIL_PREFIX,
    Head,
    StoredField,
    StoreExistsError,
    TailBlock,
    chunk_shape,
    end_path,
    field_path,
    fill_value,
    format_bytes,
    tail_key,
)

_KEYS_OF_GROUPS = {group: f"{group}/zarr.json".lstrip("/") for group in GROUPS}
MAX_BLOCKS = 64
"""Blocks after which rows move into the arrays even if they are small."""


class TrajectoryWriter:
    """The one writer of a store: keeps its schema, buffers rows, commits them.

    It has the lock of the store from its opening to `close`, and again from the next `append`.

    Parameters
    ----------
    store
        Path, dict or zarr store.
    mode
        ``"a"`` opens or creates, ``"w"`` empties what is there, ``"x"`` refuses a store that exists.
    durability
        When waiting frames are committed, see `Durability.parse`.
    config
        Layout of a new store.

    Attributes
    ----------
    written
        Systems handed over since this writer was opened, plus those found in the store.
    acknowledged
        Systems that are committed.

    Raises
    ------
    StorageError
        If the place holds something else, or a store that can not be read, or another writer has it; nothing is changed
        then.
    """

    def __init__(self, store: Any, *, mode: str = "a", durability: Durability, config: TrajectoryConfig) -> None:
        self._raw = RawStore(store)
        self._lock = self._raw.lock()
        self._durability = durability
        self._config = config
        self._arrays: dict[str, Any] = {}
        self._waiting: list[Rows] = []
        self._in_tail: list[Rows] = []
        self._writes_waiting = 0
        self._waiting_bytes = 0
        self._last_commit_failed = False
        self._fields: tuple[StoredField, ...] = ()
        self._head = Head()
        self._record: bytes | None = None
        with self._opening():
            self._open(mode)
        self._last_commit = time.monotonic()

    @property
    def acknowledged(self) -> int:
        """Systems that are committed."""
        return self._head.total_systems

    @property
    def written(self) -> int:
        """Systems handed over, committed or waiting."""
        return self._head.total_systems + sum(len(rows.node_counts) for rows in self._waiting)

    @property
    def commit(self) -> int:
        """Number of the last commit."""
        return self._head.commit

    @property
    def raw(self) -> RawStore:
        """The store below."""
        return self._raw

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Give the lock back if the block fails, so that the next try begins with what the store then holds."""
        try:
            yield
        except BaseException as error:
            self._lock.release()
            if not isinstance(error, OSError) or isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{self._raw.where} can not be opened to write: {error.strerror or error}. Choose another place."
            ) from error

    def _open(self, mode: str) -> None:
        self._check_place(mode)
        self._lock.acquire()
        if not self._check_place(mode):  # again: another writer may have been quicker
            self._create_groups()
            self._raw.set(FORMAT_KEY, format_bytes())
        if mode == "w":
            self.zero()
        else:
            self._take_over()

    def _take_over(self) -> None:
        """Go on from what the commit record says, with the lock and nothing waiting."""
        self._forget_waiting()
        self._reload()
        self._fields = self._head.fields

    def _check_place(self, mode: str) -> bool:
        """Whether there is a store; raises if the place can not be used. Changes nothing."""
        raw = self._raw
        if raw.get(FORMAT_KEY) is not None:
            if mode == "x":
                raise StoreExistsError(
                    f"{raw.where} holds a trajectory already. Choose another place, or open it to append."
                )
            return True
        ours = {LOCK_KEY, *_KEYS_OF_GROUPS.values()}
        if any(key not in ours and not key.endswith(PARTIAL) for key in raw.keys("")):
            raise StorageError(f"{raw.where} is not empty and not a trajectory store; nothing was changed. "
                               f"Choose another place.")  # fmt: skip
        return False

    def _create_groups(self) -> None:
        for group, key in _KEYS_OF_GROUPS.items():
            if self._raw.get(key) is None:
                self._raw.create_group(group)

    def _reload(self) -> None:
        """Trust the commit record: take over its rows and cut what an interrupted write left beyond them."""
        raw = self._raw
        self._arrays.clear()
        head, record = load_head(raw), raw.get(HEAD_KEY)
        in_tail = load_tail(raw, head)
        listed = {block.key for block in head.tail}
        for key in raw.keys(f"{TAIL_PREFIX}/"):
            if key not in listed:
                raw.delete(key)
        rows_of = {field_path(item.name): head.rows(item.level) for item in head.fields}
        for path in head.arrays:
            array, rows = self._array(path), rows_of.get(path, head.systems)
            if array.shape[0] < rows:
                raise StorageError(f"Array `{path}` of {raw.where} has {array.shape[0]} rows; "
                                   f"the commit record says {rows}.")  # fmt: skip
            if array.shape[0] > rows:
                array.resize((rows, *array.shape[1:]))
        self._head, self._record, self._in_tail = head, record, in_tail  # all of it, or none
        self._last_commit_failed = False

    def _array(self, path: str) -> Any:
        if path not in self._arrays:
            self._arrays[path] = self._raw.open_array(path)
        return self._arrays[path]

    def append(self, rows: Rows, fields: list[StoredField]) -> None:
        """Take over rows; commit if the durability asks for it.

        Parameters
        ----------
        rows
            Rows on the host that nobody else changes.
        fields
            Description of every column of `rows`.

        Raises
        ------
        StorageError
            If a field differs from the store's, or is new, or another writer has the store; nothing is kept then. Also
            if a commit fails; the rows stay waiting then, and the committed ones are safe.
        """
        if not self._lock.is_held:  # closed before: others may have written meanwhile
            with self._opening():
                self._lock.acquire()
                self._take_over()
        self._fields = self._accept(fields)
        self._waiting.append(rows)
        self._writes_waiting += 1
        due = self._durability.frames is not None and self._writes_waiting >= self._durability.frames
        if self._durability.seconds is not None:
            due = due or time.monotonic() - self._last_commit >= self._durability.seconds
        self._waiting_bytes += rows.nbytes
        if due or self._waiting_bytes >= self._config.buffer_bytes:
            self.flush()

    def _accept(self, fields: list[StoredField]) -> tuple[StoredField, ...]:
        known = {item.name: item for item in self._fields}
        for item in self._fields:
            if item.default is None and not item.is_float and not any(item.name == given.name for given in fields):
                raise StorageError(
                    f"`{item.name}` is missing from the frame and has been in {self._raw.where} so far; it is "
                    f"{item.dtype} and has no default to fill it with. Nothing was written; write it in every frame."
                )
        for item in fields:
            stored = known.get(item.name)
            if stored is item:
                continue
            if stored is None and known and item.name not in JOINS_LATER:
                raise StorageError(
                    f"`{item.name}` is new to {self._raw.where}, whose fields were fixed by the first write; nothing "
                    f"was written. Drop the field, or write it from the first frame on. "
                    f"Fields: {', '.join(sorted(known))}."
                )
            if stored is not None:
                found, wanted = (item.level, item.dtype, item.shape), (stored.level, stored.dtype, stored.shape)
                if found != wanted:
                    raise StorageError(
                        f"`{item.name}` is {found[0]}-level {found[1]} with trailing shape {found[2]}; "
                        f"{self._raw.where} holds {wanted[0]}-level {wanted[1]} with {wanted[2]}. "
                        f"Nothing was written; convert it first."
                    )
        return (*self._fields, *(item for item in fields if item.name not in known))

    def flush(self) -> None:
        """Commit what is waiting.

        Raises
        ------
        StorageError
            If the store refuses; committed rows are safe, waiting ones stay in memory and the next call tries again.
        """
        self._commit(all_into_arrays=False)

    def close(self) -> None:
        """Commit what is waiting, move every block into the arrays, let others write. The writer can go on later."""
        self._commit(all_into_arrays=True)
        self._lock.release()

    def end(self) -> None:
        """Commit what is waiting as one block, or drop what the store refused before, and let others write.

        Makes plain writes only: it may be called at a moment when zarr can not run any more.
        """
        try:
            if self._waiting and self._lock.is_held and not self._last_commit_failed:
                self._check_no_other_writer()
                self._put_block()
        finally:
            self._forget_waiting()
            self._lock.release()

    def zero(self) -> None:
        """Forget all rows and fields; the place stays a valid, empty store."""
        self._lock.acquire()
        record = self._raw.get(HEAD_KEY)
        commit = load_head(self._raw).commit + 1 if record is not None else 0
        self._raw.set(HEAD_KEY, Head(commit=commit).to_bytes())
        for prefix in (*GROUPS[1:], TAIL_PREFIX):
            self._raw.delete_dir(prefix)
        self._create_groups()
        self._take_over()

    def _commit(self, *, all_into_arrays: bool) -> None:
        if not self._lock.is_held:  # closed; or a forked child, in which what waits is that of the parent
            return
        if not self._waiting and not (all_into_arrays and self._in_tail) and not self._last_commit_failed:
            return
        try:
            is_second_try = self._last_commit_failed
            if is_second_try:
                self._recover()
            self._check_no_other_writer()
            nbytes = self._waiting_bytes + sum(block.nbytes for block in self._head.tail)
            moves = all_into_arrays or nbytes >= self._config.buffer_bytes or len(self._in_tail) >= MAX_BLOCKS
            if self._waiting and (is_second_try or not moves):  # a block takes the least room
                self._put_block()
            if moves:
                self._move_into_arrays()
        except BaseException as error:
            self._last_commit_failed = True
            if isinstance(error, StorageError) or not isinstance(error, Exception):
                raise
            reason = getattr(error, "strerror", None) or error
            raise StorageError(
                f"Writing to {self._raw.where} failed: {reason}. The {self.acknowledged} committed frames are safe, "
                f"{self.written - self.acknowledged} more wait in memory. Make room or free the store, then `flush()`."
            ) from error
        self._last_commit = time.monotonic()

    def _recover(self) -> None:
        """After a failed commit: find out whether its record was written, and go on from the record."""
        before = self._head.commit
        self._reload()
        if self._head.commit != before:
            self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._waiting, self._writes_waiting, self._waiting_bytes = [], 0, 0

    def _check_no_other_writer(self) -> None:
        record = self._raw.get(HEAD_KEY)
        if record == self._record and self._lock.is_in_place:
            return
        commit = Head.from_bytes(record, self._raw.where).commit if record is not None else 0
        raise StorageError(
            f"{self._raw.where} was changed by another writer (commit {commit}, expected {self._head.commit}); "
            f"nothing was written. Let one writer have the store."
        )

    def _write_record(self, head: Head) -> None:
        """Write the commit record: from here on the new rows count."""
        record = head.to_bytes()
        self._raw.set(HEAD_KEY, record)
        self._head, self._record = head, record
        self._forget_waiting()

    def _put_block(self) -> None:
        rows = merge_rows(self._waiting, self._fields)
        raw, commit = encode_block(rows), self._head.commit + 1
        counts = rows.counts
        block = TailBlock(tail_key(commit), counts["system"], counts["node"], counts["edge"], len(raw), zlib.crc32(raw))
        self._raw.set(block.key, raw)
        self._write_record(replace(self._head, commit=commit, fields=self._fields, tail=(*self._head.tail, block)))
        self._in_tail.append(rows)

    def _move_into_arrays(self) -> None:
        """Move blocks and waiting rows into the arrays, then drop the blocks."""
        head = self._head
        parts = [*self._in_tail, *self._waiting]
        if not parts:
            return
        rows = merge_rows(parts, self._fields)
        counts = rows.counts
        arrays = {path for path in head.arrays if not path.startswith(OLD_GROUP)}
        self._extend(end_path("node"), head.systems, np.cumsum(rows.node_counts) + head.nodes, arrays, 0)
        if counts["edge"] or end_path("edge") in arrays:
            self._extend(end_path("edge"), head.systems, np.cumsum(rows.edge_counts) + head.edges, arrays, 0)
        for item in self._fields:
            base = head.rows(item.level)
            self._extend(field_path(item.name), base, rows.column(item), arrays, item.missing_rows(1))
        old_blocks = head.tail
        self._write_record(replace(
            head, commit=head.commit + 1, systems=head.systems + counts["system"], nodes=head.nodes + counts["node"],
            edges=head.edges + counts["edge"], fields=self._fields, arrays=tuple(sorted(arrays)), tail=(),
        ))  # fmt: skip
        self._in_tail = []
        for block in old_blocks:
            self._raw.delete(block.key)

    def _extend(self, path: str, base: int, values: np.ndarray, arrays: set[str], earlier: Any) -> None:
        """Put rows behind the `base` committed ones of an array; make it first, filled with `earlier`, if it is new."""
        shape = (base + len(values), *values.shape[1:])
        if path in arrays:
            array = self._array(path)
            array.resize(shape)
        else:
            chunks = chunk_shape(values.dtype, values.shape[1:], self._config.chunk_bytes)
            array = self._raw.create_array(
                path,
                dtype=values.dtype,
                shape=shape,
                chunks=chunks,
                fill=fill_value(values.dtype),
                level=self._config.compression_level,
            )
            self._arrays[path] = array
            arrays.add(path)
            for start in range(0, base, chunks[0]):
                array[start : min(base, start + chunks[0])] = earlier
        if len(values):
            array[base:] = values
