"""How far a run is: a bar with rate and time left on a terminal, a line a minute elsewhere, and a clean stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from athanor._interrupts import must_finish, raised_again
from athanor.hooks.stages import DynamicsStage
from athanor.workflows.readable import format_seconds, printable

TIME_IS_OVER = "the time limit"
_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_REFRESHES = 0.2
_GAPS = 3
"""Blanks between the columns of the bar."""
_LEAST_DESCRIPTION = 8
_STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
"""Signals that end a run in order; Windows has no hangup, and batch schedulers warn with SIGUSR1."""
_WRITERS = ("athanor.io", "athanor.sinks", "athanor.dynamics.hooks")
"""Modules that write to files, which is not cut short; it does not take long."""


class StopRequested(KeyboardInterrupt):
    """Ctrl-C was pressed; raised between two steps, so that every system is in a whole state."""


@dataclass(slots=True)
class StopFlag:
    """Set by Ctrl-C, another signal, or when the time is over; read between steps.

    Attributes
    ----------
    is_set
        Whether to stop after the present step.
    why
        What set it.
    is_writing
        Whether results are being written, which Ctrl-C must not cut short.
    ends
        When the time is over, on the monotonic clock.
    when_set
        Called when it is set, perhaps in a signal handler.
    """

    is_set: bool = False
    why: str = ""
    is_writing: bool = False
    ends: float | None = None
    when_set: Callable[[], None] | None = None

    def set(self, why: str) -> None:
        """Ask for a stop after the present step."""
        self.is_set, self.why = True, self.why or why
        if self.when_set is not None:
            self.when_set()

    def look_at_the_clock(self) -> None:
        """Set it if the time is over."""
        if self.ends is not None and not self.is_set and time.monotonic() >= self.ends:
            self.set(TIME_IS_OVER)


@contextmanager
def stop_between_steps() -> Iterator[StopFlag]:
    """Turn the first Ctrl-C, SIGTERM, SIGUSR1 or hangup into a stop after the present step; the second one interrupts.

    While results or frames are written, or kernels are loaded, neither does; the run then stops after the present step,
    too. What was ignored before (``nohup``, a job in the background) stays ignored.
    Outside the main thread nothing is installed, and Ctrl-C behaves as ever.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def on_interrupt(number: int, frame: Any) -> None:
        if flag.is_set and not flag.is_writing and not must_finish(frame, _WRITERS):
            raise KeyboardInterrupt
        flag.set(signal.Signals(number).name)

    caught = [number for number in _STOP_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, on_interrupt) for number in caught}
    try:
        with raised_again():
            yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """Shows steps done, rate, active systems and time left; silent if `shown` is False.

    A stream that can no longer be written to, as that of a terminal that was closed, is left alone from then on.

    Parameters
    ----------
    shown
        Show anything at all.
    steps
        How many there are at most.
    noun
        What a step is called.
    stream
        Where to write; stderr unless given.
    """

    def __init__(self, *, shown: bool, steps: int, noun: str = "steps", stream: Any = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._shown, self._steps, self._noun = shown and self._stream is not None, steps, noun
        self._done = 0
        self._description = ""
        self._started = self._last_shown = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._shown and self._stream.isatty():
            self._bar = _make_bar(self._stream, self._noun)
            self._bar.start()
            self._task = self._bar.add_task("starting", total=self._steps, pace="")
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._bar is not None:
            with self._while_it_can_be_written():
                self._bar.details = ()
                self._draw(f"in {format_seconds(time.monotonic() - self._started)}")
                self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line of text above the bar."""
        if not self._shown:
            return
        text = printable(text)
        with self._while_it_can_be_written():
            if self._bar is not None:
                self._bar.console.print(text, highlight=False, markup=False)
            else:
                print(text, file=self._stream, flush=True)

    @contextmanager
    def _while_it_can_be_written(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # a closed pipe, a full disk; a stream that was closed
            self._shown, self._bar = False, None

    @property
    def is_due(self) -> bool:
        """Whether an update would show anything."""
        pause = _SECONDS_BETWEEN_LINES if self._bar is None else _SECONDS_BETWEEN_REFRESHES
        return self._shown and time.monotonic() - self._last_shown >= pause

    def update(self, done: int, description: str, rate: str = "", left: str = "", details: Sequence[str] = ()) -> None:
        """Note that `done` steps are behind.

        Parameters
        ----------
        done
            How many of all steps.
        description
            What is going on.
        rate, left
            Steps in a second, and the time that is left, in words; worked out from `done` unless given.
        details
            Lines that stand below the bar.
        """
        self._done, self._description = done, description
        if not self.is_due:
            return
        now = self._last_shown = time.monotonic()
        pace = self._pace(now, rate, left)
        if self._bar is not None:
            with self._while_it_can_be_written():
                self._bar.details = [printable(line) for line in details]
                self._draw(pace)
        else:
            self.say(f"{self._done} of at most {self._steps} {self._noun}, {description}, {pace}")

    def _draw(self, pace: str) -> None:
        others = _bar_width(self._bar.console) + len(f"{self._steps}/{self._steps} {self._noun} {pace}") + _GAPS
        room = max(_LEAST_DESCRIPTION, self._bar.console.width - others)
        description = self._description
        if len(description) > room:  # cut here: rich would rather leave out the bar and the count
            description = f"{description[: room - 1]}…"
        self._bar.update(self._task, completed=self._done, description=description, pace=pace)

    def _pace(self, now: float, rate: str, left: str) -> str:
        per_second = self._done / max(now - self._started, 1e-9)
        at_most = format_seconds((self._steps - self._done) / per_second) if per_second > 0 else "?"
        noun = "" if self._bar is not None else f" {self._noun}"  # beside a bar it stands there already
        return f"{rate or f'{per_second:.3g}'}{noun}/s, {left or f'at most {at_most}'} left"


class StopHook:
    """Hook that stops a run between two steps, when everybody before it has seen them.

    Parameters
    ----------
    flag
        Whether to stop.
    """

    frequency = 1
    stage = DynamicsStage.AFTER_STEP
    observes = True
    on_active = True

    def __init__(self, flag: StopFlag) -> None:
        self._flag = flag

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Do nothing: runs are stopped between two steps."""

    def is_due(self, engine: Any) -> bool:
        """Whether to stop."""
        return self._flag.is_set

    def between_steps(self, engine: Any, batch: Any) -> None:
        """Raise `StopRequested`."""
        raise StopRequested


def _bar_width(console: Any) -> int:
    return 12 if console.width >= 80 else 4


def _make_bar(stream: Any, noun: str) -> Any:
    from rich.console import Console, Group
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class BarWithDetails(Bar):
        """A bar with lines below it, which are cut rather than wrapped."""

        details: Sequence[str] = ()

        def get_renderable(self) -> Any:
            """Return the bar and its lines."""
            lines = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self.details]
            return Group(super().get_renderable(), *lines)

    console = Console(file=stream)
    return BarWithDetails(
        TextColumn("{task.description}"),
        BarColumn(bar_width=_bar_width(console)),
        MofNCompleteColumn(),
        TextColumn(f"{noun} {{task.fields[pace]}}"),
        console=console,
        refresh_per_second=4,
    )
