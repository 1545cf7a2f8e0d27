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
from athanor.data._followers import new_key
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
    """Has the stress computed every so many steps, for whoever looks at it then: the log, frames and averages.

    Parameters
    ----------
    frequency
        Steps between.
    """

    stage = DynamicsStage.AFTER_STEP
    observes = True
    on_active = True
    wants = frozenset({"stress"})

    def __init__(self, frequency: int) -> None:
        self.frequency = frequency

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Do nothing: what is wanted is there."""


class StoppedFramesHook:
    """Writes the frame in which a system was stopped, which is the one to look at, whenever that is.

    Parameters
    ----------
    sink
        Where frames go.
    stopper
        The hook that stops systems; it stands before this one.
    """

    frequency = 1
    stage = DynamicsStage.AFTER_STEP
    observes = True
    on_active = True

    def __init__(self, sink: Any, stopper: StopAboveHook) -> None:
        self._sink, self._stopper = sink, stopper

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Write the systems that moved in this step and are stopped now."""
        stopped = self._stopper.stopped(ctx.batch) & ctx.active_mask
        if bool(stopped.any()):
            self._sink.write(ctx.batch.without_pairs(), stopped)


class Tracker:
    """Hook that follows every system of a batch through the stages.

    Parameters
    ----------
    stages
        Settings of each stage, in order; the status of a system is the index of its stage.
    engines
        The engines that run them.
    batch
        The batch, before its first step; gets state rows.
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
        batch: Batch,
        notes: Mapping[int, str],
        every: int = 1,
        stopper: StopAboveHook | None = None,
    ) -> None:
        self._stages, self._engines, self.key = list(stages), list(engines), new_key(self)
        self._count, self.notes, self.stopper = batch.num_graphs, notes, stopper
        started = batch.ensure_field("step").reshape(-1).clone()
        dynamics = [isinstance(stage, MDSpec) for stage in stages]
        self.stride = _stride([stage.steps for stage in stages if isinstance(stage, MDSpec)], every)
        # dynamics needs the stress of every step for no other reason than to move the cell
        moves = [is_md and "stress" in engine.__needs_keys__ for is_md, engine in zip(dynamics, engines, strict=True)]
        self._is_dynamics = torch.tensor([*dynamics, False], device=batch.device)
        self._moves_cell = torch.tensor([*moves, False], device=batch.device) if any(moves) else None
        nothing, count = torch.zeros_like(started), len(stages)
        rows = {
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
            "values": torch.full((self._count, count, len(_VALUES)), torch.nan, dtype=torch.float64).to(batch.device),
            "cells": torch.zeros((self._count, count, 3, 3), dtype=batch.positions.dtype, device=batch.device),
        }
        averages = BlockAverages.empty(self._count, len(AVERAGED), batch.device)
        rows |= {"sums": averages.sums, "length": averages.length, "samples": averages.samples}
        batch.set_state_rows(self.key, {name: ("system", tensor) for name, tensor in rows.items()})
        self._in_stage, self._looks = [0] * count, 0

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Record who left which stage in this step, and sample temperatures."""
        self.look(ctx.batch)

    def look(self, batch: Batch) -> None:
        """Record what became of the systems of `batch`, all or some, since the last look, which was a step ago."""
        rows, last = batch.state_rows(self.key), len(self._stages)
        status, step, before = batch.status.reshape(-1), batch.step.reshape(-1), rows["status"]
        failed = batch.failure_code.reshape(-1) > 0
        stepped = step > rows["seen"]
        if "retries" in batch:  # what led to a failure, and was taken back, is in no mean
            self.averages(batch).forget(batch.retries.reshape(-1) != rows["retries"])
            rows["retries"].copy_(batch.retries.reshape(-1))
        where_done = before.clamp(max=last)
        if self._looks % self.stride == 0:
            self._sample(batch, stepped & ~failed & self._is_dynamics[where_done], where_done)
        for where in before[(status != before) & (before < last)].unique().tolist():
            left = (status != before) & (before == where)
            self._leave(batch, rows, where, left & ~failed)
            rows["failed_in"].masked_fill_(left & failed, where)
        entering = (status != before) & self._is_dynamics[status.clamp(max=last)]
        if bool(entering.any()):
            self.averages(batch).forget(entering)
        rows["entered"].copy_(torch.where(status != before, step, rows["entered"]))
        self._looks += 1
        rows["look"].fill_(self._looks)
        rows["last_stage"].copy_(before)
        rows["seen"].copy_(step)
        before.copy_(status)
        self._in_stage = torch.bincount(status.clamp(max=last), minlength=last)[:last].tolist()

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
            sampled |= dict.fromkeys(("volume", "inverse_volume"), due & self._moves_cell[where] & (volume > 0))
        if "stress" in batch and "cell" in batch:
            values["pressure"], sampled["pressure"] = observables.pressure(batch), due & batch.has_cell
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

    @property
    def done(self) -> int:
        """Systems that are in no stage any more."""
        return self._count - sum(self._in_stage)

    def stage_of_step(self, batch: Batch) -> Tensor:
        """Stage of each system in the step that was just done, int64 [B], which is not the one it goes on to.

        Where it stood still, the one in which it failed, or the last.
        """
        rows = batch.state_rows(self.key)
        stood = torch.where(rows["failed_in"] >= 0, rows["failed_in"], len(self._stages) - 1)
        return torch.where(rows["look"] == self._looks, rows["last_stage"], stood).clamp(max=len(self._stages) - 1)

    def averages(self, batch: Batch) -> BlockAverages:
        """Return the averages of each system, of the quantities `AVERAGED`."""
        rows = batch.state_rows(self.key)
        return BlockAverages(rows["sums"], rows["length"], rows["samples"])

    def steps_done(self, batch: Batch) -> Tensor:
        """Return the steps that each system took in this run, int64 [B]."""
        return batch.step.reshape(-1) - batch.state_rows(self.key)["started"]

    def why_stopped(self, batch: Batch) -> list[str]:
        """Return of each system which bound it passed, in words; empty of those that passed none."""
        return [""] * len(batch) if self.stopper is None else self.stopper.reasons(batch)

    def records(self, batch: Batch) -> list[SystemRecord]:
        """Return what happened to each system."""
        rows = {name: tensor.cpu() for name, tensor in batch.state_rows(self.key).items()}
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
