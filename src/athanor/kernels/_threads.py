"""Spread a kernel over threads: plain Python threads around compiled code that releases the interpreter lock.

Kernels take ``(..., start, stop)`` and write only what belongs to their range, so the cut points never change a bit.
The number of threads is torch's. Waiting threads sleep instead of spinning, and a forked child starts its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

_Task = tuple[Callable[..., Any], tuple[Any, ...], "SimpleQueue[BaseException | None]"]

SERIAL_WORK = 200_000
"""Estimated nanoseconds below which a call stays on one thread."""
WAKING = 50_000
"""Nanoseconds that a sleeping thread takes to begin."""


class _Workers:
    """Threads that wait for tasks; started when first needed, never stopped (daemons)."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[_Task] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0

    def submit(self, task: _Task) -> None:
        self._inbox.put(task)

    def ensure(self, count: int) -> None:
        if self._count >= count:
            return
        with self._lock:
            while self._count < count:
                threading.Thread(target=self._loop, name="athanor-kernel", daemon=True).start()
                self._count += 1

    def _loop(self) -> None:
        while True:
            function, arguments, done = self._inbox.get()
            try:
                function(*arguments)
            except BaseException as error:
                done.put(error)
            else:
                done.put(None)
            del function, arguments, done


_workers = _Workers()


def _forget_workers() -> None:
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def num_parts(work: float) -> int:
    """Return into how many parts to cut a call that takes about `work` nanoseconds on one thread."""
    if work < SERIAL_WORK:
        return 1
    return max(1, min(torch.get_num_threads(), int(work // (SERIAL_WORK // 2))))


def even_bounds(count: int, parts: int) -> list[int]:
    """Return ``parts + 1`` cut points of ``range(count)``."""
    return [count * part // parts for part in range(parts + 1)]


def system_bounds(segment_ptr: np.ndarray, work: float) -> list[int]:
    """Return cut points of the systems of a batch for a call that takes about `work` nanoseconds on one thread."""
    return balanced_bounds(segment_ptr, min(num_parts(work), max(len(segment_ptr) - 1, 1)))


def run_parts(kernel: Callable[..., Any], arguments: tuple[Any, ...], bounds: Sequence[int]) -> None:
    """Call ``kernel(*arguments, start, stop)`` for consecutive `bounds`, the last part in the calling thread."""
    parts = len(bounds) - 1
    if parts == 1:
        kernel(*arguments, bounds[0], bounds[1])
        return
    _workers.ensure(parts - 1)
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    for part in range(parts - 1):
        _workers.submit((kernel, (*arguments, bounds[part], bounds[part + 1]), done))
    error: BaseException | None = None
    try:
        kernel(*arguments, bounds[-2], bounds[-1])
    except BaseException as mine:
        error = mine
    for _ in range(parts - 1):
        theirs = done.get()
        error = error or theirs
    if error is not None:
        raise error


def balanced_bounds(running_total: np.ndarray, parts: int, lead: float = 0.0) -> list[int]:
    """Return cut points of ``range(len(running_total) - 1)`` that give each part about the same share of the total.

    The last one, which the calling thread takes, gets `lead` of the total more: it begins while the others wake up.
    """
    count = len(running_total) - 1
    if parts <= 1:
        return [0, count]
    targets = [running_total[-1] * (1.0 - lead) * part / parts for part in range(1, parts)]
    return [0, *np.searchsorted(running_total, targets).tolist(), count]
