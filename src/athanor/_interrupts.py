"""Ctrl-C when Python can not raise it: in a callback that a library of C code calls, or while it tidies up."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_LOADERS = ("importlib", "llvmlite", "numba", "zarr")
"""Packages that are left in a state of which nobody knows if they are interrupted: they load code, or keep threads."""
_SECONDS = 0.02


@contextmanager
def raised_again() -> Iterator[None]:
    """Raise a KeyboardInterrupt a moment later that otherwise would only be printed, with a traceback of a library."""
    before, timers = sys.unraisablehook, []

    def on_unraisable(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        timers.append(threading.Timer(_SECONDS, _thread.interrupt_main))  # not here and now: it would be raised in here
        timers[-1].start()

    sys.unraisablehook = on_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


def must_finish(frame: FrameType | None, modules: tuple[str, ...]) -> bool:
    """Whether `frame` or one that led to it is in one of `modules`, or loads a module or a kernel."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith((*_LOADERS, *modules)):
            return True
        frame = frame.f_back
    return False
