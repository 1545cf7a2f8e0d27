"""TensorBoardReporter: the numbers of every event on a board."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from athanor import _runtime
from athanor._optional import OptionalDependency
from athanor.errors import InputError
from athanor.hooks.context import HookContext
from athanor.hooks.reporting.scalars import ScalarCallback
from athanor.hooks.reporting.source import ScalarSource
from athanor.hooks.reporting.state import ReportingState

_RANKS = ("{rank}", "{global_rank}")


@runtime_checkable
class TensorBoardWriter(Protocol):
    """What a reporter needs of a writer, such as `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write one number."""

    def flush(self) -> None:
        """Bring what was written to the disk."""

    def close(self) -> None:
        """Close the files."""


def summary_writer(folder: Path, needed_by: str) -> Any:
    """Return TensorBoard's writer, which torch brings and the package tensorboard completes.

    Raises
    ------
    OptionalDependencyError
        If that is not installed.
    """
    OptionalDependency.TENSORBOARD.load(needed_by=needed_by)
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


class TensorBoardReporter:
    """Write the numbers of every event for TensorBoard; needs the extra `tensorboard`.

    Parameters
    ----------
    log_dir
        Folder. If every process writes, it must hold ``{rank}``, which is replaced.
    custom_scalars, include_losses, include_optimizer_lrs
        As in `collect_scalars`.
    rank_reduction
        As in `reduce_scalars`.
    tag_prefix
        Stands before each name, with a slash.
    flush
        Whether every event goes to the disk at once.
    rank_zero_only
        Whether only the first process writes.
    writer
        A `TensorBoardWriter` of yours, which stays open, instead of one for `log_dir`.
    include_dynamics_scalars
        Whether means and counts over systems are written.

    Raises
    ------
    InputError
        If every process would write into one folder.
    OptionalDependencyError
        If tensorboard is not installed, and `writer` is not given.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        custom_scalars: Mapping[str, ScalarCallback] | None = None,
        include_losses: bool = True,
        include_optimizer_lrs: bool = True,
        rank_reduction: str | None = None,
        tag_prefix: str | None = None,
        flush: bool = True,
        rank_zero_only: bool = True,
        writer: TensorBoardWriter | None = None,
        include_dynamics_scalars: bool = False,
    ) -> None:
        template = os.fspath(log_dir)
        if not rank_zero_only and not any(token in template for token in _RANKS):
            raise InputError(f"Every process would write to `{template}`: put `{{rank}}` into `log_dir`.")
        for token in _RANKS:
            template = template.replace(token, str(_runtime.global_rank()))
        self.log_dir = Path(template)
        self.include_dynamics_scalars = include_dynamics_scalars
        self.tag_prefix, self.flush = tag_prefix, flush
        self._source = ScalarSource(
            custom_scalars=custom_scalars,
            include_losses=include_losses,
            include_optimizer_lrs=include_optimizer_lrs,
            rank_reduction=rank_reduction,
            rank_zero_only=rank_zero_only,
        )
        self.rank_zero_only, self.requires_all_ranks = rank_zero_only, self._source.requires_all_ranks
        self._given, self._writer = writer, writer
        if writer is None:
            OptionalDependency.TENSORBOARD.load(needed_by=type(self).__name__)

    def __enter__(self) -> TensorBoardReporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def report(self, ctx: HookContext, stage: Enum, state: ReportingState) -> None:
        """Write one event."""
        snapshot = self._source.snapshot(ctx, stage, state, dynamics=self.include_dynamics_scalars)
        if snapshot is None:
            return
        if self._writer is None:
            self._writer = summary_writer(self.log_dir, type(self).__name__)
        prefix = f"{self.tag_prefix}/" if self.tag_prefix else ""
        for name, value in snapshot.scalars.items():
            self._writer.add_scalar(prefix + name, value, snapshot.step_count)
        if self.flush:
            self._writer.flush()

    def close(self) -> None:
        """Close the files; the next event opens others."""
        if self._given is None and self._writer is not None:
            self._writer.close()
        self._writer = self._given
