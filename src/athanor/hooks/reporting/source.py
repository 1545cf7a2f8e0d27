"""Where reporters have their numbers from: what is collected, and how it is reduced over the processes of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from athanor import _runtime
from athanor.errors import InputError
from athanor.hooks.context import HookContext
from athanor.hooks.reporting.scalars import ScalarCallback, ScalarSnapshot, collect_scalars
from athanor.hooks.reporting.state import ReportingState

_REDUCTIONS = {"mean": "SUM", "avg": "SUM", "sum": "SUM", "min": "MIN", "max": "MAX"}


@dataclass(kw_only=True)
class ScalarSource:
    """What a reporter reports.

    Parameters
    ----------
    custom_scalars, include_losses, include_optimizer_lrs
        As in `collect_scalars`.
    rank_reduction
        As in `reduce_scalars`.
    rank_zero_only
        Whether only the first process reports.
    """

    custom_scalars: Mapping[str, ScalarCallback] | None = field(default=None)
    include_losses: bool = True
    include_optimizer_lrs: bool = True
    rank_reduction: str | Any | None = None
    rank_zero_only: bool = True

    def __post_init__(self) -> None:
        _check_reduction(self.rank_reduction)

    @property
    def requires_all_ranks(self) -> bool:
        """Whether every process must take part."""
        return self.rank_reduction is not None

    def snapshot(
        self, ctx: HookContext, stage: Enum, state: ReportingState, *, dynamics: bool, progress: bool = False
    ) -> ScalarSnapshot | None:
        """Return the numbers of an event, reduced; None where this process does not report."""
        snapshot = collect_scalars(
            ctx,
            stage,
            state,
            custom_scalars=self.custom_scalars,
            include_losses=self.include_losses,
            include_optimizer_lrs=self.include_optimizer_lrs,
            include_dynamics=dynamics,
            include_progress=progress,
        )
        reduced = reduce_scalars(snapshot, self.rank_reduction)
        return None if self.rank_zero_only and ctx.global_rank != 0 else reduced


def reduce_scalars(snapshot: ScalarSnapshot, reduction: str | Any | None) -> ScalarSnapshot:
    """Return a snapshot of the numbers of all processes of a job, in one exchange; every process must call it.

    Parameters
    ----------
    snapshot
        Of this process, changed in place; all have the same names.
    reduction
        ``"mean"``, ``"sum"``, ``"min"``, ``"max"``, an operation of `torch.distributed`, or None: as it is.

    Raises
    ------
    InputError
        If there is no such reduction.
    """
    kind, size = _check_reduction(reduction), _runtime.world_size()
    if kind is None or size == 1:
        return snapshot
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor(list(snapshot.scalars.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(values, getattr(torch.distributed.ReduceOp, _REDUCTIONS[kind]))
    if kind in ("mean", "avg"):
        values /= size
    snapshot.scalars = dict(zip(snapshot.scalars, values.tolist(), strict=True))
    return snapshot


def _check_reduction(reduction: str | Any | None) -> str | None:
    kind = None if reduction is None else str(getattr(reduction, "name", reduction)).rpartition(".")[2].lower()
    if kind is not None and kind not in _REDUCTIONS:
        raise InputError(f"`rank_reduction` is {reduction!r}; use one of {', '.join(_REDUCTIONS)}.")
    return kind
