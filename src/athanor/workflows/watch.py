"""How a run goes: the same numbers for the terminal, and as lines of JSON for whatever draws them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor._memory import free_memory, used_memory
from athanor.errors import StorageError
from athanor.hooks.stages import DynamicsStage
from athanor.workflows.progress import Progress, StopFlag
from athanor.workflows.readable import count, format_bytes, format_seconds
from athanor.workflows.underway import Underway

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.dynamics import SizeAwareSampler
    from athanor.dynamics.hooks import Checkpoint

_SECONDS_BETWEEN_LINES = 5.0
_FEWEST_TO_GUESS = 3
"""Systems that have to be done before the steps of the others are guessed from theirs."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a run goes at one moment; the keys of a line of ``--status``.

    Parameters
    ----------
    at
        Date and time, UTC.
    seconds
        Since the run started, or went on.
    systems
        How many there are in all that can be run.
    in_stages
        Systems in each stage, in order.
    waiting, done, failed
        Systems that have not joined yet; that have left; and those of them that failed.
    steps, most_steps
        Steps that are behind, as a mean over all systems, and most steps of one.
    steps_per_second
        Mean steps of a system in a second.
    seconds_left
        How long it may still take; None if nothing is known. `is_guess` says that it is not the most that it can be,
        but guessed from the systems that are done.
    is_guess
        See above.
    atoms, most_atoms
        Atoms that move now, and the cap of the batch.
    memory, free_memory
        Bytes.
    frames, safe_frames
        Frames that were handed over, and those of them that survive a power cut; None if none are kept.
    checkpoint_age
        Seconds since the last checkpoint; None without one.
    slowest
        Name of the system that has taken the most steps, and how many.
    last_failure
        Name and reason of the system that failed last; None if none has.
    """

    at: str
    seconds: float
    systems: int
    in_stages: list[int]
    waiting: int
    done: int
    failed: int
    steps: int
    most_steps: int
    steps_per_second: float
    seconds_left: float | None
    is_guess: bool
    atoms: int
    most_atoms: int
    memory: int
    free_memory: int
    frames: int | None
    safe_frames: int | None
    checkpoint_age: float | None
    slowest: tuple[str, int]
    last_failure: tuple[str, str] | None


class WatchHook:
    """Hook that looks at the run every so often: for the terminal, the status file, and the time limit.

    Parameters
    ----------
    run
        The run.
    sampler
        Gives out its systems.
    progress, flag
        Where to report, and what to set when the time is over.
    checkpoint
        Who writes checkpoints, or None.
    """

    frequency = 1
    stage = DynamicsStage.AFTER_STEP
    observes = True
    on_active = True

    def __init__(
        self,
        run: Underway,
        sampler: SizeAwareSampler,
        progress: Progress,
        flag: StopFlag,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._plan, self._outcomes, self._tracker, self._sampler = run.plan, run.outcomes, run.tracker, sampler
        self._progress, self._flag, self._sink, self._checkpoint = progress, flag, run.sink, checkpoint
        self._when_refused = run.when_refused
        self._file = None if run.plan.spec.status is None else Path(run.plan.spec.status)
        self._started = time.monotonic()
        self._last_line = -math.inf
        self._steps_before = 0

    def begin(self, batch: Batch | None) -> None:
        """Note where the run starts, or goes on: what was done before says nothing of its pace."""
        running = 0
        if batch is not None:
            running = int(self._tracker.steps_done(batch).sum()) + sum(self._outcomes.steps_of_waiting(batch))
        self._steps_before, self._started = self._outcomes.steps + running, time.monotonic()

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Report, and look at the clock."""
        is_line_due = self._file is not None and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
        if is_line_due or self._progress.is_due:
            self._report(ctx.batch, writes=is_line_due)
        self._flag.look_at_the_clock()

    def on_leave(self, batch: Batch, systems: Any) -> None:
        """Report when the last systems leave."""
        if self._file is not None and not len(self._sampler) and bool(systems.all()):
            self._report(batch, writes=True)

    def _report(self, batch: Batch, *, writes: bool) -> None:
        status = self._look(batch)
        left = None if status.seconds_left is None else format_seconds(status.seconds_left)
        self._progress.update(
            status.steps,
            self._in_words(status),
            f"{status.steps_per_second:.3g}",
            "?" if left is None else f"about {left}" if status.is_guess else f"at most {left}",
            list(_details(status)),
        )
        if writes and self._file is not None:
            self._last_line = time.monotonic()
            line = json.dumps(asdict(status), ensure_ascii=False, allow_nan=False)
            try:
                with open(self._file, "a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
            except OSError as error:
                why = f"`{self._file}` can not be written: {error.strerror or error}"
                self._when_refused(StorageError(f"{why}. Choose another file for --status."))

    def _look(self, batch: Batch) -> Status:
        most, total, gone = self._plan.spec.total_steps, len(self._plan.usable), len(self._outcomes)
        moving = (batch.status[:, 0] < len(self._plan.spec.stages)) & (batch.failure_code[:, 0] == 0)
        steps_done = self._tracker.steps_done(batch) * moving
        waiting = self._outcomes.steps_of_waiting(batch)
        running = int(steps_done.sum()) + sum(waiting)
        taken, seconds = running + self._outcomes.steps, time.monotonic() - self._started
        rate = (taken - self._steps_before) / max(seconds, 1e-9)
        is_guess = gone >= _FEWEST_TO_GUESS
        expected = max(total * self._outcomes.steps / gone, taken) if is_guess else total * most
        behind = running + (self._outcomes.steps if is_guess else gone * most)
        slowest = int(steps_done.argmax()) if len(batch) else 0
        names = {system.id: system.name for system in self._plan.systems}
        checkpoint = self._checkpoint
        return Status(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            systems=total,
            in_stages=self._tracker.in_stage,
            waiting=len(self._sampler) + len(waiting),
            done=gone,
            failed=self._outcomes.failed,
            steps=(running + gone * most) // total,
            most_steps=most,
            steps_per_second=rate / total,
            seconds_left=None if rate <= 0 else (expected - behind) / rate,
            is_guess=is_guess,
            atoms=int(batch.num_nodes_per_graph[moving].sum()),
            most_atoms=self._plan.spec.max_atoms or 0,
            memory=used_memory(self._plan.device),
            free_memory=free_memory(self._plan.device),
            frames=None if self._sink is None else len(self._sink),
            safe_frames=None if self._sink is None else int(self._sink.acknowledged),
            checkpoint_age=None if checkpoint is None else checkpoint.age,
            slowest=(names[int(batch.system_id[slowest])], int(steps_done[slowest])),
            last_failure=self._outcomes.last_failure,
        )

    def _in_words(self, status: Status) -> str:
        stages = zip(self._plan.spec.stages, status.in_stages, strict=True)
        where = [f"{number} {stage.method.kind.doing}" for stage, number in stages if number]
        others = {"done": status.done, "waiting": status.waiting}
        return ", ".join(where + [f"{number} {state}" for state, number in others.items() if number])


def _details(status: Status) -> Iterator[str]:
    """Yield what stands below the bar."""
    parts = [f"{status.atoms:,} of {count(status.most_atoms, 'atom')} in the batch"]
    parts.append(f"{format_bytes(status.memory)} in use, {format_bytes(status.free_memory)} free")
    if status.frames is not None:
        parts.append(f"{status.safe_frames:,} of {count(status.frames, 'frame')} safe")
    if status.checkpoint_age is not None:
        parts.append(f"checkpoint {format_seconds(status.checkpoint_age)} ago")
    yield "; ".join(parts)
    name, steps = status.slowest
    slowest = f"longest: {name}, {count(steps, 'step')}"
    if status.last_failure is not None:
        slowest += f"; {status.failed} failed, the last: {': '.join(status.last_failure)}"
    yield slowest
