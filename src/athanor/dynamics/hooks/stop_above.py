"""StopAboveHook: a system leaves the run when one of its values passes a bound."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._values import check_whole, describe
from athanor.data.fields import FIELDS
from athanor.dynamics.convergence import ConvergenceCriterion
from athanor.dynamics.hooks.memory import HookMemory
from athanor.dynamics.rows import Rows
from athanor.errors import InputError
from athanor.hooks.due import due_systems
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.context import DynamicsContext

_REDUCTIONS = {(3,): "norm", (3, 3): "spectral"}
"""Trailing shape of a field -> what is compared of it: the length of a vector, the largest principal value."""


class StopAboveHook:
    """Stop a system when a value that the model gives passes a bound; it stands still from then on, where it is.

    The use is dynamics with a committee (`athanor.models.CommitteeModelWrapper`), which is not to go on where the
    members disagree. A system that stops is no failure.

    Parameters
    ----------
    bounds
        Name of a field -> the largest value at which a system goes on, in the unit of the field. Of a field with a row
        for each atom the largest counts, of a vector its length, of a tensor the largest principal value in size.
    frequency
        Steps of a system between looks.
    stage
        Where in the step.

    Raises
    ------
    InputError
        If there is no bound, or one is no number.
    MissingFieldError
        A `KeyError`, from a call: if the model does not compute a field.

    Notes
    -----
    Its place is the engine that runs, in a fused run the fused stage. The values are computed where the engine does
    without. A system that is above a bound at the start is stopped after its first step. Which bound was passed, and by
    what, is kept for each system on the batch, see `reasons`. Waits for the device.

    Examples
    --------
    >>> from athanor.dynamics.hooks import StopAboveHook
    >>> StopAboveHook({"max_force_deviation": 0.3})
    StopAboveHook(bounds={'max_force_deviation': 0.3})
    """

    on_active = True
    counts_each_system = True

    def __init__(self, bounds: Mapping[str, float], frequency: int = 1, stage: Enum = DynamicsStage.AFTER_STEP) -> None:
        if not isinstance(bounds, Mapping) or not bounds:
            raise InputError(
                f"`bounds` is {bounds!r}; give fields and their bounds, such as {{'max_force_deviation': 0.3}}."
            )
        self.bounds = {name: float(self._criterion(name, bound).threshold) for name, bound in bounds.items()}
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = stage
        self.wants = frozenset(self.bounds)
        self._memory = HookMemory()

    @staticmethod
    def _criterion(name: str, bound: float) -> ConvergenceCriterion:
        shape = FIELDS[name].shape if name in FIELDS else ()
        operation = _REDUCTIONS.get(tuple(size or 0 for size in shape))
        dims = (-2, -1) if operation == "spectral" else -1
        return ConvergenceCriterion(name, bound, reduce_dims=dims, reduce_op=operation)

    def __repr__(self) -> str:
        return describe(self, "bounds")

    def take_on(self, batch: Batch, systems: Tensor) -> None:
        """Note the batch that is run."""
        self._memory.follow(batch)

    @torch.no_grad()
    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Look at the systems of ``ctx.batch`` that moved, and stop those that passed a bound."""
        batch, workflow = ctx.batch, ctx.workflow
        rows = self._memory.of(batch, lambda: _none_passed(batch))
        going_on, due = batch.status.reshape(-1) < workflow.exit_status, due_systems(ctx, stage, self.frequency)
        if due is not None:
            going_on = going_on & due
        for number, (name, bound) in enumerate(self.bounds.items(), 1):
            value = self._criterion(name, bound).measure(batch).double()
            passed = going_on & (value > bound)
            if bool(passed.any()):
                rows["bound"].masked_fill_(passed, number)
                rows["value"].copy_(torch.where(passed, value, rows["value"]))
                batch.status[passed] = workflow.exit_status
                going_on = going_on & ~passed

    def stopped(self, batch: Batch) -> Tensor:
        """Return which systems of a batch passed a bound, bool [B]."""
        rows = self._memory.known(batch)
        if not rows:
            return torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        return rows["bound"] > 0

    def reasons(self, batch: Batch) -> list[str]:
        """Return of each system of a batch which bound it passed, in words; empty of those that passed none."""
        rows = self._memory.known(batch)
        if not rows:
            return [""] * len(batch)
        names = list(self.bounds)
        return [
            _in_words(names[number - 1], value, self.bounds[names[number - 1]]) if number else ""
            for number, value in zip(rows["bound"].tolist(), rows["value"].tolist(), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Who was stopped, and by what."""
        return {"memory": self._memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state`; the next batch must hold the same system ids."""
        self._memory.load_state_dict(state["memory"])


def _none_passed(batch: Batch) -> Rows:
    """Rows of systems that passed no bound; zeros, as those of systems that joined and nobody looked at have."""
    none = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
    return {"bound": none, "value": torch.zeros_like(none, dtype=torch.float64)}


def _in_words(name: str, value: float, bound: float) -> str:
    unit = f" {FIELDS[name].unit}" if name in FIELDS and FIELDS[name].unit else ""
    return f"{name} {value:.3g}{unit} is above {bound:.10g}{unit}"
