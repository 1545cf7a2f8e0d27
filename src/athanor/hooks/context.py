"""What a hook is given when it is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from athanor.data.batch import Batch


@dataclass(kw_only=True)
class HookContext:
    """What every hook gets.

    Parameters
    ----------
    batch
        The batch as it stands at this stage; hooks may change it.
    model
        The model in use, if any.
    global_rank
        Rank of this process among all of the run.
    workflow
        The object that calls the hook: the engine.
    """

    batch: Batch
    model: Any = None
    global_rank: int = 0
    workflow: Any = None


@dataclass(kw_only=True)
class DynamicsContext(HookContext):
    """What a hook of an engine gets.

    Parameters
    ----------
    step_count
        Steps done by the engine before this one; the same at all stages of one step.
    converged_mask
        bool [B]: systems that converged in this step; ``None`` where there was no check.
    active_mask
        bool [B]: systems that the engine of the hook moves in this step, for hooks that work on these alone
        (`on_active`); else ``None``.
    """

    step_count: int = 0
    converged_mask: torch.Tensor | None = None
    active_mask: torch.Tensor | None = None


@dataclass(kw_only=True)
class TrainContext(HookContext):
    """What a hook of a training gets.

    Parameters
    ----------
    step_count, global_step_count, batch_count, epoch_step_count, epoch
        Steps of this process and of all, batches, steps of this epoch, and epochs done before.
    loss, losses
        The loss that is minimised, and what it is made of, by name.
    models, optimizers, lr_schedulers
        Those that are trained, and what trains them.
    gradients, grad_scaler, validation
        What a training loop hands on, if it does.
    """

    step_count: int = 0
    global_step_count: int = 0
    batch_count: int = 0
    epoch_step_count: int = 0
    epoch: int = 0
    loss: Any = None
    losses: Any = None
    models: Any = None
    optimizers: list[Any] = field(default_factory=list)
    lr_schedulers: list[Any] = field(default_factory=list)
    gradients: Any = None
    grad_scaler: Any = None
    validation: Any = None
