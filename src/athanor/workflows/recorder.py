"""What a run keeps of its systems while they move, and when they leave: frames, rows of the log, and their last state.

Each system is counted by its own steps, so that what is kept of it does not depend on when others joined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from athanor.data import observables
from athanor.dynamics.hooks import LoggingHook
from athanor.dynamics.hooks.news import News
from athanor.errors import StorageError
from athanor.hooks.stages import DynamicsStage
from athanor.workflows import build
from athanor.workflows.plan import Plan
from athanor.workflows.properties import complete_properties, logged_properties, store_properties
from athanor.workflows.saved_log import VOIGT
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import MDSpec
from athanor.workflows.track import Tracker
from athanor.workflows.underway import Underway

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class Recorder:
    """Hook that writes frames and log, and takes up what became of systems that leave.

    Parameters
    ----------
    run
        The run.
    engines
        As `build_stages` returns them.
    log
        File of the log; None: none.
    when_some_left
        Called when systems have left.
    """

    frequency = 1  # frames of a system are due in its own steps, whenever it joined
    stage = DynamicsStage.AFTER_STEP
    observes = True
    on_active = True

    def __init__(
        self,
        run: Underway,
        engines: list[Any],
        log: Path | None,
        when_some_left: Callable[[], None],
    ) -> None:
        self._plan, self._spec, self._outcomes = run.plan, run.plan.spec, run.outcomes
        self.tracker, self.sink, self._when_refused = run.tracker, run.sink, run.when_refused
        self._when_some_left = when_some_left
        columns = _columns(run.plan, run.tracker, engines)
        self.log = None if log is None else LoggingHook("csv", self._spec.every, log, custom_scalars=columns)
        self._told = News("once")
        self._has_frames = False
        self._run: Any = None

    def on_register(self, engine: Any) -> None:
        """Note who runs the systems."""
        self._run = engine

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Keep what is due of the systems that moved."""
        due = self.tracker.is_due(ctx.batch, self._spec.every) & ctx.active_mask
        if bool(due.any()):
            store_properties(self._plan.model, ctx.batch, self._spec.properties, due)
            self._keep(ctx, due)

    def on_leave(self, batch: Batch, systems: torch.Tensor) -> None:
        """Keep the last state of systems of a mask [B] that leave the run, with all that the model says of it."""
        self.take_up(batch.index_select(systems))
        self._when_some_left()

    def take_up(self, leaving: Batch, error: str = "") -> None:
        """Keep what became of systems that leave, finished or not; `error` is what stopped those that are not."""
        self.tracker.look(leaving)  # at those that failed before their first step, or in one that was cut short
        if not error:
            build.complete_stress(self._plan.model, leaving)
            complete_properties(self._plan.model, leaving, self._spec.properties)
        self._outcomes.add(leaving, self.tracker, error)
        ended = self._ended(leaving)
        if bool(ended.any()):
            self._keep(self._run.make_context(self.stage, leaving), ended)

    def _ended(self, leaving: Batch) -> torch.Tensor:
        """Return of which systems the last step is worth a frame, bool [B]: of relaxations, failures and bounds.

        Dynamics ends in the midst of its frames, which are as far apart as was asked for. Who failed before the first
        step stands among the frames of others; a run without a step has none.
        """
        failed = leaving.failure_code[:, 0] > 0
        ended = failed | (leaving.status[:, 0] >= len(self._spec.stages))
        if isinstance(self._spec.stages[-1], MDSpec):
            stopped = torch.tensor(
                [bool(reason) for reason in self.tracker.why_stopped(leaving)], device=leaving.device
            )
            ended = failed | stopped
        return ended if self._has_frames else ended & (self.tracker.steps_done(leaving) > 0)

    def _keep(self, ctx: Any, systems: torch.Tensor) -> None:
        new, self._has_frames = self._told.of(ctx.batch, systems), True
        if self.sink is not None:
            sink, frames = self.sink, self._frames_of(ctx.batch)
            self._hand_over(lambda: sink.write(frames, new), lambda: len(sink), new)
        if self.log is not None:
            log = self.log
            self._hand_over(lambda: log.record(ctx, new), lambda: log.rows, new)

    def _hand_over(self, write: Callable[[], None], count: Callable[[], int], systems: torch.Tensor | None) -> None:
        """Write; what the disk refuses waits in memory, and is no reason to raise, unless it was not taken at all."""
        before = count()
        try:
            write()
        except StorageError as error:
            if systems is None or count() - before < int(systems.sum()):
                raise
            self._when_refused(error)

    def _frames_of(self, batch: Batch) -> Batch:
        """Return what frames show of a batch."""
        frames = batch.without_pairs()
        for name, values in self.tracker.shown_progress(batch).items():
            frames[name] = values
        return frames

    def state_dict(self) -> dict[str, Any]:
        """Return what became of who has left, and how far log and frames are."""
        log = None if self.log is None else self.log.state_dict()
        told, outcomes = self._told.state_dict(), self._outcomes.state_dict()
        return {"outcomes": outcomes, "told": told, "log": log, "has_frames": self._has_frames}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the log is cut back to what it held."""
        self._outcomes.load_state_dict(state["outcomes"])
        self._told.load_state_dict(state["told"])
        if self.log is not None and state["log"] is not None:
            self.log.load_state_dict(state["log"])
        self._has_frames = state["has_frames"]

    def close(self) -> None:
        """Write what waits, at the end of a run."""
        if self.sink is not None:
            self.sink.flush()


def _columns(plan: Plan[RunSpec], tracker: Tracker, engines: list[Any]) -> dict[str, Any]:
    """Return the columns of the log beside those that every log has."""
    dynamics = [stage for stage in plan.spec.stages if isinstance(stage, MDSpec)]
    columns: dict[str, Any] = {
        "status": lambda ctx: tracker.shown_progress(ctx.batch)["status"],
        "stage": lambda ctx: tracker.stage_of_step(ctx.batch),
    }
    if dynamics:
        columns["density"] = lambda ctx: observables.density(ctx.batch)
    if any(stage.stress for stage in dynamics):
        columns |= {f"stress_{name}": partial(_stress, index) for index, name in enumerate(VOIGT)}
    if dynamics:
        columns["conserved"] = lambda ctx: _conserved(plan.spec, engines, tracker, ctx.batch)
    return columns | {name: partial(_scalar, name) for name in logged_properties(plan.spec.properties, plan.model)}


def _conserved(spec: RunSpec, engines: list[Any], tracker: Tracker, batch: Batch) -> torch.Tensor:
    """Conserved quantity of each system in its stage of dynamics, eV; NaN where its method has none."""
    values = torch.full((len(batch),), torch.nan, dtype=torch.float64, device=batch.device)
    for number, (stage, engine) in enumerate(zip(spec.stages, engines, strict=True)):
        here = tracker.stage_of_step(batch) == number
        if isinstance(stage, MDSpec) and bool(here.any()):
            conserved = engine.conserved_energy(batch)
            values = values if conserved is None else torch.where(here, conserved, values)
    return values


def _scalar(name: str, ctx: Any) -> Any:
    """An output of the model that is one number for each system; NaN where there is none."""
    return math.nan if (value := ctx.batch.get(name)) is None else value


def _stress(component: int, ctx: Any) -> torch.Tensor:
    """One component of the stress of each system, with its kinetic part, eV/Å³; NaN without a stress or a cell."""
    batch = ctx.batch
    if "stress" not in batch or "cell" not in batch:
        return batch.energy[:, 0] * float("nan")
    row, column = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[component]
    return observables.total_stress(batch)[:, row, column]
