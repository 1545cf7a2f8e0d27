"""The line in front of a sink: writes wait in it, and one thread hands them over in order.

The thread knows the line and not the `AsyncSink`, so that a sink which nobody holds any more can go, after what waits
was handed over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from athanor.errors import StorageError, in_words
from athanor.io.frames import copy_fields, copy_frame

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.sinks.base import DataSink

_HOST = torch.device("cpu")
Streams = dict[torch.device, torch.cuda.Stream]
"""Of each device the one that brings copies to the host."""


class Waiting:
    """One write that waits: a copy of its frame on the host, complete when the device has `done` it.

    Parameters
    ----------
    make_frame
        Puts the copies together as a batch on the host, which can wait as well.
    systems
        How many there are in it.
    mask
        Which of them are to be stored, bool [B] on the host; None for all.
    done
        What the device passes when all is copied; None if it is.
    """

    def __init__(
        self,
        make_frame: Callable[[], Batch],
        systems: int,
        mask: torch.Tensor | None = None,
        done: torch.cuda.Event | None = None,
    ) -> None:
        self.make_frame, self.mask, self._done = make_frame, mask, done
        self._systems = systems if mask is None else None

    @property
    def systems(self) -> int:
        """How many systems it stores; waits for the device if only that knows."""
        if self._systems is None:
            self.wait()
            assert self.mask is not None
            self._systems = int(self.mask.sum())
        return self._systems

    def wait(self) -> None:
        """Wait until the device has copied."""
        if self._done is not None:
            self._done.synchronize()

    @classmethod
    def copying(
        cls, frame: Batch, mask: torch.Tensor | None, streams: dict[torch.device, torch.cuda.Stream]
    ) -> Waiting:
        """Copy a frame and a mask to the host, without waiting for the device.

        On a GPU the frame is first copied there, in the order of what the run does, because the run writes over its
        tensors as soon as it goes on; a stream of its own brings that copy into pinned memory.
        """
        device, systems = frame.device, frame.num_graphs
        if device.type != "cuda":
            on_host = copy_fields(frame, _HOST, lambda value: value.to(_HOST, copy=True))
            return cls(on_host, systems, None if mask is None else mask.to(_HOST, copy=True))
        side = streams.get(device)
        if side is None:
            side = streams[device] = torch.cuda.Stream(device)
        snapshot, mask = copy_frame(frame, device), None if mask is None else mask.clone()
        side.wait_stream(torch.cuda.current_stream(device))

        def to_host(tensor: torch.Tensor) -> torch.Tensor:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device=_HOST, pin_memory=True)
            pinned.copy_(tensor, non_blocking=True)
            tensor.record_stream(side)
            return pinned

        with torch.cuda.stream(side):
            on_host = copy_fields(snapshot, _HOST, to_host)
            chosen = mask if mask is None or mask.device == _HOST else to_host(mask)
            done = torch.cuda.Event()
            done.record(side)
        return cls(on_host, systems, chosen, done)


class Line:
    """Writes that wait for a sink, and the thread that hands them over.

    Parameters
    ----------
    sink
        Where they go.
    most
        How many may wait.

    Attributes
    ----------
    stored
        Systems in the sink, without those that wait.
    """

    def __init__(self, sink: DataSink, most: int) -> None:
        self._sink, self._most = sink, most
        self.begin()

    def begin(self) -> None:
        """Start with nothing waiting and no thread, as in a forked child: what waits belongs to its parent."""
        self._changed = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._writer: int | None = None
        self._is_ending = False
        self.stored = len(self._sink)

    @property
    def systems(self) -> int:
        """Systems in the sink and waiting for it."""
        with self._changed:
            return self.stored + sum(write.systems for write in self._waiting)

    # ---------------------------------------------------------------------------------------- from other threads
    def wait_for_room(self) -> None:
        """Wait until one more write may wait. Beside what went wrong, which `tell` raises, there is a place for one."""
        with self._changed:
            self._ensure_thread()
            self._changed.wait_for(lambda: len(self._waiting) < self._most or self._error is not None)
            if len(self._waiting) > self._most:
                self._raise_error(" The frame of this call was not taken.")

    def tell(self) -> None:
        """Raise what went wrong, if something did."""
        if self._error is not None:
            with self._changed:
                self._raise_error()

    def wait_until_empty(self) -> None:
        """Wait until everything is handed over; raises what went wrong."""
        with self._changed:
            self._ensure_thread()
            self._changed.wait_for(lambda: not self._waiting or self._error is not None)
            self._raise_error()

    def add(self, write: Waiting) -> None:
        """Let a write wait behind the others."""
        with self._changed:
            self._waiting.append(write)
            self._changed.notify_all()
            self._ensure_thread()

    def _ensure_thread(self) -> None:
        if self._thread is not None or not self._waiting:
            return
        thread = threading.Thread(target=self._hand_over_all, name="athanor-sink", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the program is ending
            while self._waiting and self._error is None:
                self._writer = threading.get_ident()
                self._hand_over_first()
        else:
            self._thread = thread

    def drop(self) -> None:
        """Forget what waits, and what went wrong; the write that is under way is waited for."""
        with self._changed:
            while len(self._waiting) > (self._writer is not None):
                self._waiting.pop()
            self._changed.wait_for(lambda: self._writer is None)
            self._waiting.clear()
            self._error = None

    def end(self) -> None:
        """Hand over everything that waits and end the thread, which the next write starts again.

        Raises
        ------
        StorageError
            If something could not be handed over.
        """
        with self._changed:
            self._ensure_thread()
            self._is_ending = True
            self._changed.notify_all()
            thread = self._thread
        if thread is threading.current_thread():  # the garbage collector came by there
            return
        if thread is not None:
            thread.join()
        with self._changed:
            self._is_ending, self._thread = False, None
            self._raise_error()

    def _raise_error(self, this_call: str = "") -> None:
        error, self._error = self._error, None
        if error is None:
            return
        self._changed.notify_all()
        name, waiting, safe = type(self._sink).__name__, len(self._waiting), self.stored
        with suppress(Exception):
            safe = min(safe, self._sink.acknowledged)
        writes = "1 waiting write is" if waiting == 1 else f"{waiting} waiting writes are"
        rest = f" {writes} tried again, in order; `abandon()` drops what waits." if waiting else ""
        raise StorageError(
            f"{name} failed in the background: {in_words(error)} It has {self.stored} frames, of which {safe} are "
            f"acknowledged.{rest}{this_call}"
        ) from error

    # -------------------------------------------------------------------------------------------- in the thread
    def _hand_over_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_ending or (self._waiting and self._error is None))
                if not self._waiting or self._error is not None:
                    return
                self._writer = threading.get_ident()
            self._hand_over_first()

    def _hand_over_first(self) -> None:
        write, error, stored = self._waiting[0], None, False
        try:
            write.wait()
            before = len(self._sink)
            try:
                if write.systems:
                    self._sink.write(write.make_frame(), write.mask)
                stored = True
            finally:  # a sink may have what it could not make safe
                stored = stored or len(self._sink) == before + write.systems
        except BaseException as raised:
            error = raised
        with self._changed:
            if stored:
                self._waiting.popleft()
                self.stored += write.systems
            self._error, self._writer = error, None
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------ at a fork
    def hold(self) -> None:
        """Wait until nobody else writes to the sink, and keep it so until `release`."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._writer in (None, threading.get_ident()))

    def release(self) -> None:
        """Let the thread go on."""
        self._changed.release()
