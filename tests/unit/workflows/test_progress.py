"""What is told while a run goes on."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from athanor.workflows import progress as module
from athanor.workflows.progress import Progress
from athanor.workflows.readable import format_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_line_a_minute_where_there_is_no_terminal(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(shown=True, steps=200, stream=stream) as progress:
        for step in range(1, 31):
            clock[0] += 10.0
            progress.update(step, "4 in MD")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "6 of at most 200 steps, 4 in MD, 0.1 steps/s, at most 32 min 20 s left"


def test_steps_that_were_not_needed_make_no_run_look_fast(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(shown=True, steps=2000, stream=stream) as progress:
        clock[0] = 70.0
        progress.update(1120, "relaxing", "2", "about 7 min 20 s")
    assert "1120 of at most 2000 steps" in stream.getvalue()
    assert "2 steps/s, about 7 min 20 s left" in stream.getvalue()


def test_the_bar_ends_with_what_was_last_told(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(shown=True, steps=500, noun="structures", stream=stream) as progress:
        progress.say("one line above")
        clock[0] = 0.01
        progress.update(24, "5 done")
    last = [line for line in re.split(r"[\r\n]", stream.getvalue()) if "5 done" in line][-1]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last)
    assert re.search(r"5 done .* 24/500 structures in 0 s", plain)
    assert "one line above" in stream.getvalue()


def test_silence(clock: list[float]) -> None:
    stream = Terminal()
    with Progress(shown=False, steps=10, stream=stream) as progress:
        progress.say("nothing")
        progress.update(1, "nothing")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_hangup_stops_a_run_unless_it_was_ignored_before() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for ignored in (False, True):
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else lambda number, frame: None)
            with module.stop_between_steps() as flag:
                os.kill(os.getpid(), signal.SIGHUP)
                assert flag.is_set is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stream_that_breaks_is_left_alone() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with Progress(shown=True, steps=3, stream=Gone()) as shown:
        shown.say("no longer heard")
        shown.update(1, "running")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_cuts_the_words_and_keeps_bar_and_count(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(shown=True, steps=9600, stream=stream) as progress:
        clock[0] = 100.0
        progress.update(2800, "31 relaxing, 17 in MD, 36 done, 124 waiting", "4", "at most 28 min 20 s")
        progress._bar.refresh()  # its own thread would do so in a while
        during = plain_lines(stream)[-1]
    after = plain_lines(stream)[-1]
    for line, pace in ((during, "4/s, at most 28 min 20 s left"), (after, "in 1 min 40 s")):
        assert len(line) <= width
        assert "━" in line
        assert f"2800/9600 steps {pace}" in line
        assert line.startswith("31 relaxin" if len(pace) < 15 or width > 70 else "31 re")
    assert "…" in during


def test_lines_below_the_bar_are_cut_to_the_window(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(shown=True, steps=10, stream=stream) as progress:
        clock[0] = 1.0
        details = ["1,990 of 2,000 atoms in the batch; " * 4, "longest: a\x1b[2J, 4 steps"]
        progress.update(5, "5 relaxing", details=details)
        progress._bar.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    below = [line for line in re.split(r"[\r\n]", text) if "atoms in the batch" in line]
    assert below
    assert all(len(line) <= 70 and line.endswith("…") for line in below)
    assert "longest: a\\x1b[2J, 4 steps" in text


def plain_lines(stream: io.StringIO) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    return [line for line in re.split(r"[\r\n]", text) if "steps" in line]


def test_no_name_steers_the_terminal() -> None:
    stream = io.StringIO()
    with Progress(shown=True, steps=3, stream=stream) as progress:
        progress.say("NVT\x1b[2J at 300 K, 1 Å\n\ttwice")
    assert stream.getvalue() == "NVT\\x1b[2J at 300 K, 1 Å\n\ttwice\n"


LEFT_ALONE = (
    "zarr.core.sync",
    "numba.core.caching",
    "llvmlite.binding.executionengine",
    "importlib._bootstrap",
    "athanor.io.store.writer",
    "athanor.sinks.zarr_data",
    "athanor.dynamics.hooks.log_writers",
)


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("name", [*LEFT_ALONE, "torch.nn.modules", "athanor.models.lj"])
def test_a_second_signal_does_not_break_what_loads_code_or_writes(name: str) -> None:
    inner: dict[str, Any] = {"__name__": name, "signal": signal}
    exec("def work():\n  signal.raise_signal(signal.SIGINT)\n  return 1", inner)
    with module.stop_between_steps() as flag:
        flag.is_set = True
        if name in LEFT_ALONE:
            assert inner["work"]() == 1
        else:
            with pytest.raises(KeyboardInterrupt):
                inner["work"]()


@pytest.mark.usefixtures("foreground")
def test_one_that_comes_in_a_callback_is_raised_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    pressed = []

    class Pressed:
        def __del__(self) -> None:  # an exception from here can only be printed
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)

    def wait() -> None:
        Pressed()
        while True:
            time.sleep(0.01)

    with module.stop_between_steps() as flag:
        flag.is_set = True
        with pytest.raises(KeyboardInterrupt):
            wait()
    assert pressed == [1]
    assert capsys.readouterr() == ("", "")
