"""NaNDetectorHook: stop the run as soon as a quantity is not finite."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

import torch

from athanor._values import check_whole, describe
from athanor.errors import NonFiniteError
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.context import DynamicsContext

_CHECKED = ("forces", "energy")
_SHOWN = 3


class NaNDetectorHook:
    """Raise if forces, energy or another field holds NaN or infinity.

    Registering it asks the engine to raise as well, instead of setting a failed system aside.

    Parameters
    ----------
    frequency
        Steps between checks, at least 1.
    extra_keys
        Further fields to check; those that the batch lacks are skipped.
    stage
        Where in the step.

    Raises
    ------
    NonFiniteError
        A `RuntimeError`, from the call; it names the step, the fields with counts, and the systems.
    """

    raises_on_failure = True
    observes = True

    def __init__(
        self,
        frequency: int = 1,
        extra_keys: Iterable[str] | None = None,
        stage: Enum = DynamicsStage.AFTER_COMPUTE,
    ) -> None:
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = stage
        self.extra_keys = (extra_keys,) if isinstance(extra_keys, str) else tuple(extra_keys or ())

    def __repr__(self) -> str:
        return describe(self, "frequency", "extra_keys")

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Check ``ctx.batch``. Waits for the device."""
        batch = ctx.batch
        bad = torch.zeros(batch.num_graphs, dtype=torch.bool, device=batch.device)
        counts: dict[str, int] = {}
        for name in dict.fromkeys((*_CHECKED, *self.extra_keys)):
            value = batch.get(name, None)
            if value is None or not value.is_floating_point():
                continue
            wrong = ~torch.isfinite(value)
            if bool(wrong.any()):
                counts[name] = int(wrong.sum())
                bad |= _systems_of_rows(batch, name, wrong.reshape(wrong.shape[0], -1).any(dim=1))
        if counts:
            raise NonFiniteError(_report(ctx, batch, counts, torch.nonzero(bad).flatten().tolist()))


def _systems_of_rows(batch: Batch, name: str, rows: torch.Tensor) -> torch.Tensor:
    """Systems to which rows of a field belong; bool [B]."""
    level = batch.field_spec(name).level
    if level == "system":
        return rows
    flags = torch.zeros(batch.num_graphs, dtype=torch.bool, device=rows.device)
    if level == "node":
        flags[batch.batch_idx[rows].long()] = True
        return flags
    return flags | True


def _report(ctx: DynamicsContext, batch: Batch, counts: dict[str, int], indices: list[int]) -> str:
    fields = ", ".join(f"`{name}` ({count} values)" for name, count in counts.items())
    ids = batch.get("system_id", None)
    who = []
    for index in indices[:_SHOWN]:
        system = "" if ids is None else f"system_id {int(ids[index].reshape(-1)[0])} "
        who.append(f"{system}(graph {index})")
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    return (
        f"Not finite at step {ctx.step_count}: {fields} in {len(indices)} of {batch.num_graphs} systems: "
        f"{', '.join(who)}{more}. Graph indices: {indices[:20]}. Reduce `dt` or relax these systems first; without "
        f"NaNDetectorHook they are set aside and the rest goes on."
    )
