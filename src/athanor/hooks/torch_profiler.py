"""TorchProfilerHook: what torch and the device do during a run, by `torch.profiler`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, PrivateAttr, field_validator
from torch.profiler import ProfilerActivity, profile, supported_activities

from athanor import _runtime
from athanor._config import Config
from athanor.hooks.context import HookContext

_ENDS_OF_STEPS = ("AFTER_STEP", "AFTER_BATCH")
_STARTS_OF_STEPS = ("BEFORE_STEP", "BEFORE_BATCH")
_LONGEST_TABLE = 40


class TorchProfilerHook(Config):
    """Record a trace of every operation, with `torch.profiler`, while an engine or a training runs.

    Each trace becomes a file ``NAME_N.json``, for Perfetto or ``chrome://tracing``, and a table ``NAME_N.txt`` of the
    operations that took longest, in ``OUTPUT_DIR/rank_R``.

    Parameters
    ----------
    output_dir
        Folder for traces.
    activities
        ``"cpu"``, ``"cuda"`` or members of `torch.profiler.ProfilerActivity`; by default all that there are.
    schedule
        A `torch.profiler.schedule`, to record some steps of a long run; without one everything is one trace.
    record_shapes, profile_memory, with_flops, with_stack
        As in `torch.profiler.profile`.
    on_trace_ready_path
        Another folder for traces.
    frequency
        Steps between two advances of the schedule.
    name
        Start of the names of files.
    rank_subdirs
        Whether files stand in a folder of their rank; in a run of several processes they always do.

    Raises
    ------
    InputError
        A `ValueError`: if an argument is unknown or makes no sense.

    Notes
    -----
    A trace holds every operation, a few kB a step: use a schedule for more than some hundred steps.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    observes: ClassVar[bool] = True
    on_active: ClassVar[bool] = True

    output_dir: Path
    activities: tuple[ProfilerActivity, ...] | None = None
    schedule: Callable[..., Any] | None = None
    record_shapes: bool = True
    profile_memory: bool = True
    with_flops: bool = True
    with_stack: bool = False
    on_trace_ready_path: Path | None = None
    frequency: int = Field(1, ge=1)
    name: str = "torch"
    rank_subdirs: bool = True
    _profile: profile | None = PrivateAttr(None)
    _stage: Enum | None = PrivateAttr(None)

    @field_validator("activities", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Take ``"cpu"`` and ``"cuda"`` for what they name."""
        if value is None:
            return None
        known = {"cpu": ProfilerActivity.CPU, "cuda": ProfilerActivity.CUDA}
        listed = (value,) if isinstance(value, str | ProfilerActivity) else tuple(value)
        unknown = [entry for entry in listed if not isinstance(entry, ProfilerActivity) and entry not in known]
        if unknown or not listed:
            raise ValueError(f'`activities` holds {unknown or "nothing"} to record; use "cpu" or "cuda"')
        return tuple(known.get(entry, entry) if isinstance(entry, str) else entry for entry in listed)

    @property
    def stage(self) -> Enum | None:
        """What the registration said; the hook is called at the ends of a step."""
        return self._stage

    @stage.setter
    def stage(self, stage: Enum | None) -> None:
        self._stage = stage

    @property
    def folder(self) -> Path:
        """Where the files of this process go."""
        folder = self.on_trace_ready_path or self.output_dir
        alone = _runtime.world_size() == 1
        return folder if alone and not self.rank_subdirs else folder / f"rank_{_runtime.global_rank()}"

    def _runs_on_stage(self, stage: Enum) -> bool:
        return stage.name in (*_STARTS_OF_STEPS, *_ENDS_OF_STEPS)

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Begin to record at the first step; say to the schedule that one is over."""
        self._start()
        if stage.name in _ENDS_OF_STEPS and self._profile is not None:
            self._profile.step()

    def __enter__(self) -> TorchProfilerHook:
        self._start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and write what was recorded; the next run begins another trace."""
        running, self._profile = self._profile, None
        if running is not None:
            running.stop()

    def _start(self) -> None:
        if self._profile is None:
            self._profile = profile(
                activities=self.activities or tuple(supported_activities()),
                schedule=self.schedule,
                on_trace_ready=self._write,
                record_shapes=self.record_shapes,
                profile_memory=self.profile_memory,
                with_flops=self.with_flops,
                with_stack=self.with_stack,
            )
            self._profile.start()

    def _write(self, finished: profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = (f"{self.name}_{number}" for number in itertools.count())
        path = next(self.folder / stem for stem in numbers if not (self.folder / f"{stem}.json").exists())
        finished.export_chrome_trace(f"{path}.json")
        table = finished.key_averages().table(sort_by="self_cpu_time_total", row_limit=_LONGEST_TABLE)
        Path(f"{path}.txt").write_text(table, encoding="utf-8")
