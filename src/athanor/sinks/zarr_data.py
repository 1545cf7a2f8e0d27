"""ZarrData: snapshots in a Zarr store on disk, in memory or far away, which a later run may continue.

The layout is in `athanor.io.store.layout`, the order of writes in `athanor.io.store.writer`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from athanor._values import check_whole
from athanor.data.batch import Batch
from athanor.errors import InputError, StorageError
from athanor.io.frames import batch_to_rows
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks.base import DataSink

if TYPE_CHECKING:
    import numpy as np

    from athanor.io.store.writer import TrajectoryWriter

MODES = ("a", "r", "w", "x")


class ZarrData(DataSink):
    """Append frames to a Zarr store; read all of it, chosen rows, or the frames of one system.

    Every row is one system at one moment and carries `system_id`, `step` and `time` (-1, 0 and 0 if the batch has
    none). Fields, dtypes and trailing shapes are fixed by the first write. A field that a later batch lacks is filled
    with the default of the field table or NaN, and refused if it can have neither; so is one of another kind, and a new
    one unless the table says what its absence means (`velocities`, `charge`). Pair lists and edge-level fields are not
    stored.

    One sink writes to a store at a time, from its opening to `close` or its end, whichever program it is in; another
    one is refused before it changes anything. Readers (``mode="r"``) are free to look on. At a server
    of objects no program can be kept away: of two writers one gets each commit, the other one a `StorageError`.

    Parameters
    ----------
    store
        A path (``str`` or ``Path``), a ``dict``, a zarr ``Store`` or ``StorePath``, a store of obstore, or a URL:
        ``s3://`` (also ``gs://``, ``az://``, ``abfs://``; untested) by obstore, extra ``remote``; others by fsspec, for
        one writer and untested.
    capacity
        Largest number of systems; None for no bound.
    config
        How it is written: a mapping with `shard_bytes`, `buffer_bytes` or `compression_level`.
    mode
        ``"a"`` opens or creates, ``"r"`` only reads, ``"w"`` empties what is there, ``"x"`` refuses one that exists.
    durability
        When frames are acknowledged, that is brought to the disk: ``frame``, ``every:k`` (writes), ``interval:s``
        (seconds, looked at when a frame is written), joined by commas; ``close`` leaves it to `flush` and `close`, and
        ``none`` to the system. A frame survives the death of the process when `write` has returned, and a power cut
        when it is acknowledged. Where there are no files, it waits in memory until it is acknowledged.

    Attributes
    ----------
    written
        Systems handed over; also what ``len`` gives.
    acknowledged
        Systems that survive a power cut.

    Raises
    ------
    InputError
        If `mode`, `durability`, `config` or `capacity` is not usable.
    OptionalDependencyError
        If the address needs a package that is not installed.
    StorageError
        If the store is missing (mode ``"r"``), there already (``"x"``), damaged, something else, or being written by
        another sink.

    Examples
    --------
    >>> from athanor.sinks import ZarrData
    >>> sink = ZarrData({}, durability="every:10,interval:5")
    >>> len(sink), sink.capacity
    (0, None)
    """

    def __init__(
        self,
        store: Any,
        capacity: int | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        mode: str = "a",
        durability: str = "every:10,interval:5",
    ) -> None:
        from athanor.io.store.config import Durability, parse_config
        from athanor.io.store.places import open_medium
        from athanor.io.store.writer import TrajectoryWriter

        self._capacity = None if capacity is None else check_whole(capacity, "capacity", 1)
        if mode not in MODES:
            raise InputError(f"`mode={mode!r}` is unknown. Use one of {', '.join(map(repr, MODES))}.")
        layout, when = parse_config(config), Durability.parse(durability)
        self.mode = mode
        self._mutex = threading.RLock()
        self._writer: TrajectoryWriter | None = None
        self._reader: TrajectoryReader | None = None
        if mode == "r":
            self._reader = TrajectoryReader(store)
            return
        medium = open_medium(store, synced=when.is_synced)
        self._writer = TrajectoryWriter(medium, mode=mode, durability=when, config=layout)
        self._finalizer = weakref.finalize(self, _close_at_end, self._writer)

    @property
    def capacity(self) -> int | None:
        """Largest number of systems, or None."""
        return self._capacity

    @property
    def written(self) -> int:
        """Systems handed over."""
        if self._writer is not None:
            return self._writer.written
        assert self._reader is not None
        return len(self._reader)

    @property
    def acknowledged(self) -> int:
        """Systems that survive a power cut."""
        return self.written if self._writer is None else self._writer.acknowledged

    def __len__(self) -> int:
        return self.written

    def _open_writer(self) -> TrajectoryWriter:
        if self._writer is None:
            raise StorageError("This ZarrData was opened to read; open it with `mode='a'` to write.")
        return self._writer

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Append copies of the systems of `batch`, see `DataSink.write`; acknowledged as `durability` says.

        Raises
        ------
        StorageError
            If a field does not fit the store or another sink has it (nothing is kept then), or the store can not be
            written (frames wait).
        """
        writer = self._open_writer()
        with self._mutex:
            chosen = self._chosen_systems(batch, mask, full="Store is full")
            if chosen is not None:
                writer.append(*batch_to_rows(chosen))

    def reader(self) -> TrajectoryReader:
        """Return a reader of everything written so far, which is acknowledged first."""
        with self._mutex:
            if self._writer is not None:
                self._writer.flush()
                if self._reader is None:
                    self._reader = TrajectoryReader(self._writer.medium)
                elif self._reader.commit != self._writer.commit:
                    self._reader.refresh()
            assert self._reader is not None
            return self._reader

    def _filled_reader(self) -> TrajectoryReader:
        if len(self) == 0:
            raise self._refuse_empty()
        return self.reader()

    def read(self) -> Batch:
        """Return every stored row as one CPU batch, see `DataSink.read`."""
        with self._mutex:
            return self._filled_reader().read()

    def read_rows(self, indices: Sequence[int] | slice | np.ndarray | torch.Tensor) -> Batch:
        """Return chosen rows, in the order asked for; only the chunks that hold them are read."""
        with self._mutex:
            return self._filled_reader().read_rows(indices)

    def frames(self, system_id: int) -> Batch:
        """Return all frames of one system, in the order of writing."""
        with self._mutex:
            return self._filled_reader().frames(system_id)

    def truncate_to(self, frames: int) -> None:
        """Forget every system but the first `frames`, for good, so that a run can go on from an earlier moment.

        Raises
        ------
        InputError
            If there are fewer.
        StorageError
            If the store can not be read or written; it is as it was then, or as it was to be.
        """
        with self._mutex:
            self._open_writer().truncate_to(frames)

    def state_dict(self) -> dict[str, Any]:
        """Return how many frames there are, and which is the last one; all of them are acknowledged first."""
        with self._mutex:
            state = super().state_dict()
            return {**state, "last": self._frame_before(state["frames"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the frames that there were, see `DataSink.load_state_dict`; other frames are refused."""
        with self._mutex:
            frames = int(state["frames"])
            if frames <= len(self) and self._frame_before(frames) != state["last"]:
                raise StorageError(
                    f"The store holds other frames than when the checkpoint was written: number {frames - 1} is "
                    f"{self._frame_before(frames)} and was {state['last']} (system, step). Open the store that the run "
                    f"wrote to."
                )
            super().load_state_dict(state)

    def _frame_before(self, frames: int) -> list[int]:
        """Return `system_id` and `step` of the last of so many frames; nothing without any."""
        if not frames:
            return []
        row = self.read_rows([frames - 1])
        return [int(row.system_id[0]), int(row.step[0])]

    def zero(self) -> None:
        """Empty the store; it stays valid, and the next write fixes its fields anew."""
        with self._mutex:
            self._open_writer().zero()

    def flush(self) -> None:
        """Commit what waits."""
        with self._mutex:
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        """Commit what waits, leave a store of plain arrays and let others write to it; the sink can go on later."""
        with self._mutex:
            if self._writer is not None:
                self._reader = None  # which keeps files open
                self._writer.close()

    def abandon(self) -> None:
        """Let others write, after a `close` that failed: frames that the store refused are dropped."""
        with self._mutex:
            if self._writer is not None:
                self._reader = None
                self._writer.end()


def _close_at_end(writer: TrajectoryWriter) -> None:
    """Commit what waits when the sink goes or the program ends."""
    if threading.current_thread() is not threading.main_thread() and asyncio._get_running_loop() is not None:
        # the garbage collector came by in the thread of zarr's event loop, which can not wait for itself
        threading.Thread(target=writer.end, name="athanor-flush").start()
    else:
        writer.end()
