"""For which systems a hook is due, counted by the steps of each system itself, so that companions do not matter."""

from __future__ import annotations

from enum import Enum

import torch

from athanor.hooks.context import HookContext
from athanor.hooks.stages import DynamicsStage

_AFTER_THE_COUNT = (DynamicsStage.AFTER_STEP, DynamicsStage.ON_CONVERGE)


def due_systems(ctx: HookContext, stage: Enum, frequency: int) -> torch.Tensor | None:
    """Return the systems that a hook with `on_active` and `counts_each_system` works on now, bool [B]; None for all.

    Parameters
    ----------
    ctx
        What the hook was given.
    stage
        Where it was called.
    frequency
        Steps of a system between two calls.
    """
    due: torch.Tensor | None = getattr(ctx, "active_mask", None)
    step = ctx.batch.get("step") if frequency > 1 else None
    if step is not None:
        done = step.reshape(-1) - int(stage in _AFTER_THE_COUNT)  # steps that each system had done before this one
        now = done % frequency == 0
        due = now if due is None else due & now
    return None if due is None or bool(due.all()) else due
