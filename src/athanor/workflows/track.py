"""What happens to each system during a run: when and how it left each stage, and the means of its dynamics.

All of it is state rows of the batch, so it follows a system wherever that goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data import observables
from athanor.dynamics.hooks.memory import HookMemory
from athanor.hooks.stages import DynamicsStage
from athanor.workflows.averages import BlockAverages
from athanor.workflows.stages import MDSpec, StageSpec

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.dynamics.hooks import StopAboveHook

_VALUES = ("energy", "fmax", "smax")
AVERAGED = ("temperature", "energy", "volume", "inverse_volume", "pressure")
"""What is averaged over dynamics: K, eV, Å³, 1/Å³, eV/Å³; volumes where the stage moves the cell."""
_FEWEST_SAMPLES, _MOST_SAMPLES = 200, 2000
"""Samples of a stage that are aimed at; one costs as much as a step of a small system, and neighbours are alike."""

_MOST_STEPS_BETWEEN_REFILLS = 10


@dataclass(slots=True)
class StageRecord:
    """How one system left one stage.

    Parameters
    ----------
    kind
        ``"relax"`` or ``"md"``.
    steps
        Steps taken in the stage.
    converged
        Whether the criteria held; None for dynamics.
    energy, fmax, smax
        At that moment: eV, eV/Å, eV/Å³ (stress plus target pressure; NaN if the cell is fixed).
    cell
        At that moment, rows in Å, [3][3].
    """

    kind: str
    steps: int
    converged: bool | None
    energy: float
    fmax: float
    smax: float
    cell: list[list[float]]


@dataclass(slots=True)
class SystemRecord:
    """What happened to one system: the stages that it left, and the one in which it failed."""

    stages: list[StageRecord] = field(default_factory=list)
    failed_in: str = ""


class StressHook:
    """Has the stress computed in steps of which somebody looks at it: the log, frames and averages.

    Parameters
    ----------
    tracker
        Counts the steps of each system.
    every
        Steps of a system between looks.
    """

    frequency = 1
    stage = DynamicsStage.BEFORE_PRE_UPDATE
    observes = True
    on_active = True
    wants = frozenset({"stress"})

    def __init__(self, tracker: Tracker, every: int) -> None:
        self._tracker, self._every = tracker, every

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Want the stress of the step that begins if it is one of every so many of a system."""
        due = (self._tracker.steps_done(ctx.batch) % self._every == 0) & ctx.active_mask
        self.wants = frozenset({"stress"} if bool(due.any()) else ())


class Tracker:
    """Hook that follows every system of a run through the stages.

    Parameters
    ----------
    stages
        Settings of each stage, in order; the status of a system is the index of its stage.
    engines
        The engines that run them.
    notes
        What the model says of systems for which it raises, by `system_id`.
    every
        Steps between rows of the log, where the stress is computed.
    stopper
        The hook that stops systems above a bound, if there is one.

    Attributes
    ----------
    stride
        Steps between samples of what is averaged over dynamics.

    Notes
    -----
    The last stage of dynamics is sampled some hundred or thousand times, a short one at every step; the pressure where
    the stress is computed. What is the way to equilibrium is left out when means are read: a start from a relaxed
    crystal takes half of the heat.
    """

    frequency = 1
    stage = DynamicsStage.AFTER_STEP
    observes = True
    on_active = True

    def __init__(
        self,
        stages: Sequence[StageSpec],
        engines: Sequence[Any],
        notes: Mapping[int, str],
        every: int = 1,
        stopper: StopAboveHook | None = None,
    ) -> None:
        self._stages, self._engines, self._every = list(stages), list(engines), every
        self._memory, self.notes, self.stopper = HookMemory(), notes, stopper
        dynamics = [isinstance(stage, MDSpec) for stage in stages]
        self.stride = _stride([stage.steps for stage in stages if isinstance(stage, MDSpec)], every)
        # dynamics needs the stress of every step for no other reason than to move the cell
        needs_stress = ["stress" in engine.__needs_keys__ for engine in engines]
        moves = [is_md and needs for is_md, needs in zip(dynamics, needs_stress, strict=True)]
        self._has_stress_always = any(needs_stress)
        self._is_dynamics = torch.tensor([*dynamics, False])
        self._moves_cell = torch.tensor([*moves, False]) if any(moves) else None
        self._in_stage, self._looks = [0] * len(stages), 0

    def take_on(self, batch: Batch, systems: Tensor) -> None:
        """Begin to follow the systems of a batch that are new, before anything moves them."""
        self._memory.follow(batch)
        self._rows(batch)

    def _rows(self, batch: Batch) -> dict[str, Tensor]:
        return self._memory.of(batch, lambda: self._fresh(batch))

    def _fresh(self, batch: Batch) -> dict[str, Tensor]:
        """Return rows of systems that are before the first stage."""
        started, count = batch.step.reshape(-1).clone(), len(self._stages)
        nothing, size = torch.zeros_like(started), len(batch)
        averages = BlockAverages.empty(size, len(AVERAGED), batch.device)
        return {
            "started": started,
            "status": nothing.clone(),
            "entered": started.clone(),  # lifetime step
            "seen": started.clone(),  # lifetime step
            "retries": nothing.clone(),
            "last_stage": nothing.clone(),  # that it was in in its last step
            "look": nothing.clone(),  # number of the look that saw that step
            "failed_in": nothing - 1,
            "steps": nothing[:, None].repeat(1, count) - 1,  # -1: has not left that stage
            "converged": nothing[:, None].repeat(1, count) - 1,  # -1: there is no criterion
            "values": torch.full((size, count, len(_VALUES)), torch.nan, dtype=torch.float64).to(batch.device),
            "cells": torch.zeros((size, count, 3, 3), dtype=batch.positions.dtype, device=batch.device),
            "sums": averages.sums,
            "length": averages.length,
            "samples": averages.samples,
        }

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Record who left which stage in this step, and sample temperatures."""
        self.look(ctx.batch)

    def look(self, batch: Batch) -> None:
        """Record what became of the systems of `batch`, all or some, since the last look, which was a step ago."""
        rows, last = self._rows(batch), len(self._stages)
        status, step, before = batch.status.reshape(-1), batch.step.reshape(-1), rows["status"]
        failed = batch.failure_code.reshape(-1) > 0
        is_dynamics = self._is_dynamics.to(batch.device)
        if "retries" in batch:  # what led to a failure, and was taken back, is in no mean
            self.averages(batch).forget(batch.retries.reshape(-1) != rows["retries"])
            rows["retries"].copy_(batch.retries.reshape(-1))
        where_done = before.clamp(max=last)
        due = (step > rows["seen"]) & ~failed & is_dynamics[where_done] & self.is_due(batch, self.stride)
        self._sample(batch, due, where_done)
        for where in before[(status != before) & (before < last)].unique().tolist():
            left = (status != before) & (before == where)
            self._leave(batch, rows, where, left & ~failed)
            rows["failed_in"].masked_fill_(left & failed, where)
        entering = (status != before) & is_dynamics[status.clamp(max=last)]
        if bool(entering.any()):
            self.averages(batch).forget(entering)
        rows["entered"].copy_(torch.where(status != before, step, rows["entered"]))
        self._looks += 1
        rows["look"].fill_(self._looks)
        rows["last_stage"].copy_(before)
        rows["seen"].copy_(step)
        before.copy_(status)
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        last = len(self._stages)
        self._in_stage = torch.bincount(batch.status.reshape(-1).clamp(max=last), minlength=last)[:last].tolist()

    def is_due(self, batch: Batch, every: int) -> Tensor:
        """Return of which systems the step that was just done is one of every so many of this run, bool [B].

        Each counts its own steps, the first is one of them: others, and when it joined, do not matter.
        """
        return (self.steps_done(batch) - 1) % every == 0

    def _sample(self, batch: Batch, due: Tensor, where: Tensor) -> None:
        """Take one sample of the systems that are `due`, bool [B], in their stages `where`."""
        if not bool(due.any()):
            return
        nothing, never = batch.energy[:, 0], torch.zeros_like(due)
        values = {"temperature": observables.temperature(batch)[:, 0], "energy": batch.energy[:, 0]}
        sampled = dict.fromkeys(values, due)
        if self._moves_cell is not None:
            volume = batch.volume
            values |= {"volume": volume, "inverse_volume": 1.0 / volume}
            moves = self._moves_cell.to(batch.device)[where]
            sampled |= dict.fromkeys(("volume", "inverse_volume"), due & moves & (volume > 0))
        if "stress" in batch and "cell" in batch:
            due_stress = due if self._has_stress_always else due & self.is_due(batch, self._every)
            values["pressure"], sampled["pressure"] = observables.pressure(batch), due_stress & batch.has_cell
        self.averages(batch).add(
            torch.stack([sampled.get(name, never) for name in AVERAGED], dim=1),
            torch.stack([values.get(name, nothing) for name in AVERAGED], dim=1),
        )

    def _leave(self, batch: Batch, rows: dict[str, Tensor], where: int, leaving: Tensor) -> None:
        """Record how the systems `leaving`, bool [B], left the stage number `where`."""
        engine, unknown = self._engines[where], torch.full_like(batch.energy[:, 0], torch.nan)
        measured = {"energy": batch.energy[:, 0]}
        hook = engine.convergence_hook
        if hook is not None:
            for name, criterion in zip(("fmax", "smax"), hook.criteria, strict=False):
                measured[name] = criterion.measure(batch, engine.pressure)
            converged = hook.mask(batch, engine.pressure).to(rows["converged"].dtype)
            rows["converged"][leaving, where] = converged[leaving]
        values = torch.stack([measured.get(name, unknown) for name in _VALUES], dim=1)
        rows["values"][leaving, where] = values[leaving].double()
        rows["cells"][leaving, where] = batch.cell_or_zeros[leaving]
        rows["steps"][leaving, where] = (batch.step.reshape(-1) - rows["entered"])[leaving]

    @property
    def in_stage(self) -> list[int]:
        """Systems in each stage."""
        return self._in_stage

    def stage_of_step(self, batch: Batch) -> Tensor:
        """Stage of each system in the step that was just done, int64 [B], which is not the one it goes on to.

        Where it stood still, the one in which it failed, or the last.
        """
        rows = self._rows(batch)
        stood = torch.where(rows["failed_in"] >= 0, rows["failed_in"], len(self._stages) - 1)
        return torch.where(rows["look"] == self._looks, rows["last_stage"], stood).clamp(max=len(self._stages) - 1)

    def averages(self, batch: Batch) -> BlockAverages:
        """Return the averages of each system, of the quantities `AVERAGED`."""
        rows = self._rows(batch)
        return BlockAverages(rows["sums"], rows["length"], rows["samples"])

    def steps_done(self, batch: Batch) -> Tensor:
        """Return the steps that each system took in this run, int64 [B]."""
        return batch.step.reshape(-1) - self._rows(batch)["started"]

    def why_stopped(self, batch: Batch) -> list[str]:
        """Return of each system which bound it passed, in words; empty of those that passed none."""
        return [""] * len(batch) if self.stopper is None else self.stopper.reasons(batch)

    def came_to_end(self, batch: Batch) -> Tensor:
        """Return which systems went through all stages, and were not stopped above a bound, bool [B]."""
        left = (batch.status[:, 0] >= len(self._stages)) & (self.steps_in_last(batch) >= 0)
        ended = left & (batch.failure_code[:, 0] == 0)
        return ended if self.stopper is None else ended & ~self.stopper.stopped(batch)

    def steps_in_last(self, batch: Batch) -> Tensor:
        """Return the steps with which systems that left it went through the last stage, int64 [B]."""
        return self._memory.known(batch)["steps"][:, -1]

    def shown_progress(self, batch: Batch) -> dict[str, Tensor]:
        """Return `status` and `stage_step`, [B, 1], as frames and the log show them.

        Dynamics that came to the end of the run stands in its stage still: it is shown as if it went on, as it may.
        """
        status, steps = batch.status, batch.stage_step
        if isinstance(self._stages[-1], MDSpec) and bool((ended := self.came_to_end(batch)[:, None]).any()):
            status = torch.where(ended, len(self._stages) - 1, status)
            steps = torch.where(ended, self.steps_in_last(batch)[:, None], steps)
        return {"status": status, "stage_step": steps}

    def reopen(self, batch: Batch, systems: Tensor) -> None:
        """Note that the systems of a mask [B], which came to the end, are in the last stage again; in place."""
        rows, last = self._memory.known(batch), len(self._stages) - 1
        rows["entered"].sub_(torch.where(systems, rows["steps"][:, last], 0))  # it was when they left
        rows["status"].masked_fill_(systems, last)
        for name, unknown in (("steps", -1), ("converged", -1), ("values", torch.nan), ("cells", 0.0)):
            rows[name][systems, last] = unknown

    def state_dict(self) -> dict[str, Any]:
        """What happened to the systems that are in the run, and how often they are sampled."""
        return {"memory": self._memory.state_dict(), "looks": self._looks, "stride": self.stride}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state`; the next batch must hold the same system ids."""
        self._memory.load_state_dict(state["memory"])
        self._looks = state["looks"]
        self.stride = state["stride"]

    def records(self, batch: Batch) -> list[SystemRecord]:
        """Return what happened to each system."""
        rows = {name: tensor.cpu() for name, tensor in self._rows(batch).items()}
        records = []
        for system in range(len(batch)):
            record = SystemRecord()
            for number, settings in enumerate(self._stages):
                steps, converged = int(rows["steps"][system, number]), int(rows["converged"][system, number])
                if steps >= 0:
                    values = dict(zip(_VALUES, rows["values"][system, number].tolist(), strict=True))
                    verdict = None if converged < 0 else bool(converged)
                    cell = rows["cells"][system, number].tolist()
                    record.stages.append(StageRecord(settings.kind, steps, verdict, **values, cell=cell))
            where = int(rows["failed_in"][system])
            record.failed_in = self._stages[where].kind if where >= 0 else ""
            records.append(record)
        return records


def _stride(steps: Sequence[int], every: int) -> int:
    """Steps between samples: a part or a multiple of those between rows of the log, where the stress is computed."""
    shortest = min(steps, default=1)
    most = max(1, shortest // _FEWEST_SAMPLES)
    if most < every:
        return max(stride for stride in range(1, most + 1) if every % stride == 0)
    return every * max(1, shortest // (_MOST_SAMPLES * every))


def steps_between_refills(every: int) -> int:
    """Return how often systems may join, so that those of which a frame is due in a step are due together.

    It is a part of `every`; a few steps in which a place is empty cost little.
    """
    return max(steps for steps in range(1, _MOST_STEPS_BETWEEN_REFILLS + 1) if every % steps == 0)
