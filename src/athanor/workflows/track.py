"""What happens to each system during a run: when and how it left each stage, and how warm it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor.data import observables
from athanor.hooks.stages import DynamicsStage
from athanor.workflows.averages import BlockAverages
from athanor.workflows.stages import MDSpec, RelaxSpec

if TYPE_CHECKING:
    import torch

    from athanor.data.batch import Batch


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
    energy, fmax, smax, volume
        At that moment: eV, eV/Å, eV/Å³ (stress plus target pressure; NaN if the cell is fixed), Å³.
    """

    kind: str
    steps: int
    converged: bool | None
    energy: float
    fmax: float
    smax: float
    volume: float


@dataclass(slots=True)
class SystemRecord:
    """Everything that is kept of one system while it runs."""

    stages: list[StageRecord] = field(default_factory=list)
    failed_in: str = ""


class Tracker:
    """Hook that follows every system of a batch through the stages.

    Parameters
    ----------
    stages
        Settings of each stage, in order; the status of a system is the index of its stage.
    engines
        The engines that run them.
    batch
        The batch, before its first step.

    Attributes
    ----------
    records
        What happened to each system.
    stage_of_step
        Stage of each system in the step that was just done, which is not the one it goes on to; the number of stages
        where it stood still.

    Notes
    -----
    Temperatures are averaged over the second half of the steps of a dynamics stage, so that the start from a relaxed
    crystal, which takes half of the heat, does not count.
    """

    frequency = 1
    stage = DynamicsStage.AFTER_STEP

    def __init__(self, stages: Sequence[RelaxSpec | MDSpec], engines: Sequence[Any], batch: Batch) -> None:
        self._stages, self._engines = list(stages), list(engines)
        self.started = batch.ensure_field("step").clone()
        self.records = [SystemRecord() for _ in range(batch.num_graphs)]
        self.temperatures = BlockAverages(batch.num_graphs)
        self.stage_of_step = np.zeros(batch.num_graphs, dtype=np.int64)
        self._status = np.zeros(batch.num_graphs, dtype=np.int64)
        self._steps_here = np.zeros(batch.num_graphs, dtype=np.int64)
        self._half = np.array([stage.steps // 2 if isinstance(stage, MDSpec) else -1 for stage in stages])

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Record who left which stage in this step, and sample temperatures."""
        batch = ctx.batch
        status = _host(batch.status)
        failed = _host(batch.failure_code) > 0
        running = (self._status < len(self._stages)) & ~failed
        self._steps_here[running] += 1
        self._sample(batch, running)
        for index in np.flatnonzero(status != self._status):
            where = int(self._status[index])
            if failed[index]:
                self.records[index].failed_in = self._stages[where].kind if where < len(self._stages) else ""
            elif where < len(self._stages):
                self.records[index].stages.append(self._leave(batch, where, int(index)))
            self._steps_here[index] = 0
        self.stage_of_step, self._status = self._status, status

    @property
    def active(self) -> int:
        """Systems that are still in a stage."""
        return int((self._status < len(self._stages)).sum())

    @property
    def in_stage(self) -> list[int]:
        """Systems in each stage."""
        return [int((self._status == number).sum()) for number in range(len(self._stages))]

    def _sample(self, batch: Batch, running: np.ndarray) -> None:
        half = self._half[np.minimum(self._status, len(self._stages) - 1)]
        due = np.flatnonzero(running & (half >= 0) & (self._steps_here > half))
        if due.size:
            self.temperatures.add(due, _host(observables.temperature(batch))[due])

    def _leave(self, batch: Batch, where: int, index: int) -> StageRecord:
        settings, engine = self._stages[where], self._engines[where]
        hook = engine.convergence_hook
        values = {"fmax": float("nan"), "smax": float("nan")}
        converged = None
        if hook is not None:
            for name, criterion in zip(values, hook.criteria, strict=False):
                values[name] = float(criterion.measure(batch, engine.pressure)[index])
            converged = bool(hook.mask(batch, engine.pressure)[index])
        volume = float(batch.volume[index]) if bool(batch.has_cell[index]) else float("nan")
        energy = float(batch.energy[index])
        return StageRecord(settings.kind, int(self._steps_here[index]), converged, energy, volume=volume, **values)


def _host(value: torch.Tensor) -> np.ndarray:
    return value.detach().reshape(-1).cpu().numpy().copy()
