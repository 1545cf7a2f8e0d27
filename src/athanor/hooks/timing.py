"""StageTimingHook: how long each part of a step takes, on the host or on the device."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from athanor._values import check_whole, describe, shown
from athanor.errors import InputError
from athanor.hooks.context import HookContext
from athanor.hooks.csv_file import CsvFile
from athanor.hooks.stages import DynamicsStage

_PRESETS = {
    "all": tuple(stage for stage in DynamicsStage if stage is not DynamicsStage.ON_CONVERGE),
    "detailed": tuple(stage for stage in DynamicsStage if stage is not DynamicsStage.ON_CONVERGE),
    "step": (DynamicsStage.BEFORE_STEP, DynamicsStage.AFTER_STEP),
}
_BACKENDS = ("auto", "cuda_event", "perf_counter")
_KEPT = 1000
"""Single times of each pair of stages that are kept; sums go on for ever."""


class StageTimingHook:
    """Measure the time between the stages of a step at which it is called.

    Parameters
    ----------
    profiled_stages
        ``"all"`` or ``"detailed"`` (every stage but ON_CONVERGE), ``"step"`` (a whole step), or at least two members of
        a stage enumeration. Times are taken between one and the next of them in the same step.
    frequency
        Steps between measured ones.
    enable_nvtx
        Mark ranges ``athanor/STAGE/step`` for NVIDIA's tools, where there is CUDA.
    timer_backend
        ``"perf_counter"`` for the wall clock, ``"cuda_event"`` for the time on the device, ``"auto"`` by the device of
        the batch. Times of the device are read when it has come so far; nothing in a step waits for it.
    log_path
        CSV file for every single time: ``rank, step, stage, t_since_init_s, delta_s``. It is appended to.
    show_console
        Print the means to stderr, every `console_frequency` steps.
    console_frequency
        Steps between two lines.
    stage
        Accepted for compatibility.

    Attributes
    ----------
    timings
        ``"A->B"`` -> the last times, s.

    Raises
    ------
    InputError
        If a preset or backend is unknown, there are fewer than two stages, or a frequency is not at least 1.

    Examples
    --------
    >>> from athanor.hooks import StageTimingHook
    >>> StageTimingHook("step").summary()
    {}
    """

    observes = True
    on_active = True

    def __init__(
        self,
        profiled_stages: str | Iterable[Enum] = "all",
        *,
        frequency: int = 1,
        enable_nvtx: bool = True,
        timer_backend: str = "auto",
        log_path: str | os.PathLike[str] | None = None,
        show_console: bool = False,
        console_frequency: int = 1,
        stage: Enum | None = None,
    ) -> None:
        self.profiled_stages = _ordered(profiled_stages)
        if timer_backend not in _BACKENDS:
            raise InputError(f"`timer_backend` is {shown(timer_backend)}; use one of {', '.join(_BACKENDS)}.")
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage = stage
        self.timer_backend, self.log_path = timer_backend, log_path
        self.show_console, self.console_frequency = show_console, check_whole(console_frequency, "console_frequency", 1)
        self._nvtx = enable_nvtx and torch.cuda.is_available()
        self._file = None if log_path is None else CsvFile(Path(log_path))
        self._place = {stage: place for place, stage in enumerate(self.profiled_stages)}
        self._started = time.perf_counter()
        self._last: tuple[Enum, int, Any] | None = None
        self.reset()

    def __repr__(self) -> str:
        return describe(self, "frequency", "timer_backend", "log_path")

    def _runs_on_stage(self, stage: Enum) -> bool:
        return stage in self._place

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Note the time, and the one since the stage before."""
        step = int(getattr(ctx, "step_count", 0))
        before, now = self._last, (stage, step, self._now(ctx))
        if self._nvtx:
            self._end_range()
        self._last = now
        if before is not None and before[1] == step and self._place[before[0]] < self._place[stage]:
            since = time.perf_counter() - self._started
            self._waiting.append((ctx.global_rank, step, f"{before[0].name}->{stage.name}", since, before[2], now[2]))
            self._collect(wait=False)
        is_last = stage is self.profiled_stages[-1]
        if is_last:
            self._last = None
        elif self._nvtx:
            torch.cuda.nvtx.range_push(f"athanor/{stage.name}/{step}")
            self._in_range = True
        if is_last and self.show_console and step % self.console_frequency == 0:
            print(f"step {step}: {self._in_words()}", file=sys.stderr)

    def _now(self, ctx: HookContext) -> Any:
        backend = self.timer_backend
        if backend == "auto":
            backend = "cuda_event" if ctx.batch.device.type == "cuda" else "perf_counter"
        if backend == "perf_counter":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _collect(self, *, wait: bool) -> None:
        """Take up the times that the device has measured by now, or all of them."""
        while self._waiting:
            rank, step, label, since, start, end = self._waiting[0]
            if isinstance(end, float):
                seconds = end - start
            else:
                if wait:
                    end.synchronize()
                elif not end.query():
                    return
                seconds = 1e-3 * start.elapsed_time(end)
            self._waiting.popleft()
            self._sums.setdefault(label, _Sums()).add(seconds)
            self.timings.setdefault(label, deque(maxlen=_KEPT)).append(seconds)
            if self._file is not None:
                row = {"rank": rank, "step": step, "stage": label, "t_since_init_s": since, "delta_s": seconds}
                self._file.write(step, {name: np.array([value]) for name, value in row.items()})

    def summary(self) -> dict[str, dict[str, float]]:
        """Return ``"A->B"`` -> mean_s, std_s, min_s, max_s, total_s and n_samples. Waits for the device."""
        self._collect(wait=True)
        return {label: sums.summary() for label, sums in self._sums.items()}

    def reset(self) -> None:
        """Forget all times."""
        self.timings: dict[str, deque[float]] = {}
        self._sums: dict[str, _Sums] = {}
        self._waiting: deque[tuple[int, int, str, float, Any, Any]] = deque()
        self._last, self._in_range = None, False

    def close(self) -> None:
        """Take up what is still being measured, and write it; times are kept."""
        self._end_range()
        self._last = None
        self._collect(wait=True)
        if self._file is not None:
            self._file.close()

    def _end_range(self) -> None:
        if self._in_range:
            torch.cuda.nvtx.range_pop()
            self._in_range = False

    def _in_words(self) -> str:
        return ", ".join(f"{label} {1e3 * sums.mean:.3f} ms" for label, sums in self._sums.items())


class _Sums:
    """Mean and spread of numbers, one after the other."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.total = 0, 0.0, 0.0, 0.0
        self.smallest, self.largest = math.inf, -math.inf

    def add(self, value: float) -> None:
        self.count += 1
        difference = value - self.mean
        self.mean += difference / self.count
        self.squares += difference * (value - self.mean)
        self.total += value
        self.smallest, self.largest = min(self.smallest, value), max(self.largest, value)

    def summary(self) -> dict[str, float]:
        return {
            "mean_s": self.mean,
            "std_s": math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0,
            "min_s": self.smallest,
            "max_s": self.largest,
            "total_s": self.total,
            "n_samples": self.count,
        }


def _ordered(stages: str | Iterable[Enum]) -> tuple[Enum, ...]:
    """Return stages in the order in which a step passes them."""
    if isinstance(stages, str):
        if stages not in _PRESETS:
            raise InputError(f"`profiled_stages` is {stages!r}; use one of {', '.join(_PRESETS)}, or a set of stages.")
        return _PRESETS[stages]
    found = set(stages)
    if len(found) < 2 or not all(isinstance(stage, Enum) for stage in found):
        raise InputError(f"`profiled_stages` is {shown(stages)}; give at least two members of a stage enumeration.")
    return tuple(sorted(found, key=lambda stage: [*type(stage).__members__].index(stage.name)))
