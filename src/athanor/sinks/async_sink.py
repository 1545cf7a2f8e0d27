"""AsyncSink: a run hands its frames over and goes on; a thread stores them."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import Any

import numpy as np
import torch

from athanor._values import check_whole
from athanor.data.batch import Batch
from athanor.io.frames import FrameSchema
from athanor.sinks._background import Line, Streams, Waiting
from athanor.sinks.base import DataSink, check_sink


class AsyncSink(DataSink):
    """Store frames in another sink, in the background and in order.

    A write takes one copy and returns. On a GPU that waits for nothing: the copy goes on beside the run, into pinned
    memory. While `max_writes` copies wait, the next write waits for the sink, so memory is bounded and no frame is left
    out. `flush`, `close`, `read` and the end of the program wait until everything is stored; a program that is killed
    loses what waits, which is not among the `acknowledged` frames.

    What goes wrong in the background is raised by the next call, as a StorageError that says what is safe. What waits
    stays, in order, the frame of that call with it, and is tried again, unless `abandon` or `zero` drops it. In a
    forked child nothing waits.

    Parameters
    ----------
    sink
        Where the frames go. Nobody else should write to it.
    max_writes
        Largest number of writes that wait.

    Raises
    ------
    ContractError
        If `sink` is none.
    InputError
        If `max_writes` is not at least 1.

    Examples
    --------
    >>> from athanor.sinks import AsyncSink, HostMemory
    >>> sink = AsyncSink(HostMemory(capacity=100))
    >>> sink.capacity, sink.max_writes
    (100, 8)
    """

    def __init__(self, sink: DataSink, max_writes: int = 8) -> None:
        self.sink = check_sink(sink)
        self.max_writes = check_whole(max_writes, "max_writes", 1)
        self._mutex = threading.RLock()
        self._schema = FrameSchema()
        self._streams: Streams = {}
        self._line = Line(sink, self.max_writes)
        self._finalizer = weakref.finalize(self, self._line.end)
        _alive[next(_numbers)] = self

    @property
    def capacity(self) -> int | None:
        """Largest number of systems of the sink, or None."""
        return self.sink.capacity

    def __len__(self) -> int:
        return self._line.systems

    @property
    def acknowledged(self) -> int:
        """Systems that are as safe as the sink can make them; none of those that wait."""
        return self.sink.acknowledged

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Copy the systems of `batch`, to be stored in the background, see `DataSink.write`.

        Raises
        ------
        StorageError
            What went wrong since the last call; the frame waits behind the others all the same, unless the text says
            that it was not taken. Or if a field does not fit those of earlier frames.
        """
        with self._mutex:
            self._check_arguments(batch, mask)
            self._line.wait_for_room()
            wanted = None
            if mask is None or self.capacity is not None or mask.device.type == "cpu":
                wanted = self._wanted_systems(batch, mask, full=f"{type(self.sink).__name__} is full")
                if wanted is None:
                    self._line.tell()
                    return
            self._schema.add(batch)
            with torch.no_grad():
                self._line.add(self._copy(batch, mask, wanted))
            self._line.tell()

    def _copy(self, batch: Batch, mask: torch.Tensor | None, wanted: np.ndarray | None) -> Waiting:
        """Copy the wanted systems to the host; from a device, which would have to be told which, all and the mask."""
        if wanted is not None and wanted.all():
            return Waiting.copying(batch, None, self._streams)
        if wanted is None or batch.device.type != "cpu":
            return Waiting.copying(batch, mask, self._streams)
        chosen = batch.without_pairs().index_select(wanted)
        return Waiting(lambda: chosen, chosen.num_graphs)

    def read(self) -> Batch:
        """Return what is stored when everything is, see `DataSink.read`."""
        with self._mutex:
            self._line.wait_until_empty()
            return self.sink.read()

    def zero(self) -> None:
        """Remove everything, also what waits and what went wrong."""
        with self._mutex:
            self._line.drop()
            self.sink.zero()
            self._line.stored = len(self.sink)
            self._schema = FrameSchema()

    def state_dict(self) -> dict[str, Any]:
        """Wait until everything is stored, and return where the sink is, see `DataSink.state_dict`."""
        with self._mutex:
            self._line.wait_until_empty()
            return self.sink.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the sink go back to where it was."""
        with self._mutex:
            self._line.drop()
            self.sink.load_state_dict(state)
            self._line.stored = len(self.sink)

    def flush(self) -> None:
        """Wait until everything is stored, then `flush` the sink."""
        with self._mutex:
            self._line.wait_until_empty()
            self.sink.flush()

    def close(self) -> None:
        """Wait until everything is stored, end the thread, then `close` the sink; both can go on later."""
        with self._mutex:
            self._line.end()
            self.sink.close()

    def abandon(self) -> None:
        """Drop what waits, and `abandon` the sink."""
        with self._mutex:
            self._line.drop()
            self.sink.abandon()


_numbers = itertools.count()
_alive: weakref.WeakValueDictionary[int, AsyncSink] = weakref.WeakValueDictionary()
_held: list[AsyncSink] = []


def _hold_before_fork() -> None:
    """Fork between two writes: a child has no thread that could finish one. One sink in another is held after that."""
    for _, sink in sorted(_alive.items(), reverse=True):
        sink._line.hold()
        _held.append(sink)


def _release_in_parent() -> None:
    while _held:
        _held.pop()._line.release()


def _begin_in_child() -> None:
    while _held:
        sink = _held.pop()
        sink._mutex = threading.RLock()
        sink._line.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_before_fork, after_in_parent=_release_in_parent, after_in_child=_begin_in_child)
