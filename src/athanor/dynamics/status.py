"""Status codes, step budgets and the counters of a system.

A stage owns a status code; a system is in the stage whose code is its status. Systems leave by a criterion or a step
budget, at most one stage a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from athanor.data import _membership
from athanor.data.fields import IDENTITY
from athanor.errors import AthanorError, InputError, in_words

if TYPE_CHECKING:
    from athanor.data._part import Part
    from athanor.data.batch import Batch
    from athanor.dynamics.active import ActiveSet
    from athanor.dynamics.contract import Engine
    from athanor.dynamics.convergence import ConvergenceHook


class DoesNotJoin(InputError):
    """Systems can not be in one batch with those that are there."""


@dataclass(slots=True)
class StageSpec:
    """One stage of a run.

    Parameters
    ----------
    engine
        Integrator or optimizer that moves the systems.
    code
        Status of the systems in this stage, or None for every system below the exit status.
    next_status
        Status that a system gets when it leaves; None in a plain engine, where nothing leaves.
    criterion
        When a system has converged in it, unless its engine says so.

    Attributes
    ----------
    active
        Its systems that move.
    converged
        Those that satisfied its criteria in this step, bool [B]; None if none did.
    """

    engine: Engine
    code: int | None
    next_status: int | None
    criterion: ConvergenceHook | None = None
    active: ActiveSet = field(init=False)
    converged: Tensor | None = field(init=False, default=None)

    def mask(self, batch: Batch, exit_status: int) -> Tensor:
        """Healthy systems of this stage, bool [B]."""
        status = batch.status.reshape(-1)
        here = status < exit_status if self.code is None else status == self.code
        return here & (batch.failure_code.reshape(-1) == 0)

    def leaving(self, batch: Batch) -> Tensor | None:
        """Active systems that converged in this step or used up the budget, bool [B]; None if none can."""
        budget = self.engine.n_steps
        if budget is None or not self.active.any:
            return self.converged
        spent = self.active.systems & (batch.stage_step.reshape(-1) >= budget)
        return spent if self.converged is None else spent | self.converged


def count_step(part: Part, stages: Sequence[StageSpec], time_steps: Sequence[float | Tensor | None]) -> None:
    """Count one step of the systems that moved, in place: `step`, `stage_step`, and `time` where steps advance it.

    Parameters
    ----------
    part
        Its batch holds the counters [B, 1].
    stages
        Stages, with the systems that were active in each.
    time_steps
        fs of each stage: a number, or one for each system, of the part or of the whole batch; None for optimizers.
    """
    batch = part.batch
    for stage, time_step in zip(stages, time_steps, strict=True):
        if not stage.active.any:
            continue
        moved: Tensor | int = 1 if stage.active.all else stage.active.systems[:, None]
        batch.step.add_(moved)
        batch.stage_step.add_(moved)
        if time_step is None:
            continue
        if isinstance(time_step, Tensor):
            time_step = part.of_whole(time_step).reshape(-1, 1).to(batch.time.dtype)
        if stage.active.all:
            batch.time.add_(time_step)
        else:
            batch.time.copy_(torch.where(stage.active.systems[:, None], batch.time + time_step, batch.time))


def finished_systems(batch: Batch, exit_status: int) -> Tensor | None:
    """Return which systems are past the last stage or failed, bool [B]; None if none is. Waits for the device."""
    finished = (batch.status.reshape(-1) >= exit_status) | (batch.failure_code.reshape(-1) != 0)
    return finished if bool(finished.any()) else None


def exchange_systems(batch: Batch, leaving: Tensor, newcomers: Batch | None) -> None:
    """Take the systems of a mask [B] out of `batch`, and put `newcomers` behind those that stay, if any; in place.

    Raises
    ------
    DoesNotJoin
        If they do not fit to those that are there; nothing was changed then.
    """
    places, membership = leaving.nonzero().flatten().cpu().numpy(), batch.membership
    try:
        if newcomers is not None:
            _membership.exchange(batch, places, newcomers)
        else:
            _membership.remove(batch, places)
    except AthanorError as error:
        if batch.membership != membership:
            raise
        raise DoesNotJoin(in_words(error)) from error


def ensure_bookkeeping(batch: Batch) -> None:
    """Create missing identity and progress fields, and number systems that have no id, in place.

    Systems without an id get the next free numbers after the largest present.
    """
    for name in IDENTITY:
        if name not in batch:
            batch.ensure_field(name)
    ids = batch.system_id
    missing = ids.reshape(-1) < 0
    if bool(missing.any()):
        start = int(ids.max()) + 1 if bool((~missing).any()) else 0
        ids[missing] = torch.arange(start, start + int(missing.sum()), dtype=ids.dtype, device=ids.device)[:, None]
