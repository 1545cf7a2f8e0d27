"""CSVReporter: one row of numbers for each event."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from athanor.hooks.context import HookContext
from athanor.hooks.csv_file import CsvFile
from athanor.hooks.reporting.scalars import ScalarCallback
from athanor.hooks.reporting.source import ScalarSource
from athanor.hooks.reporting.state import ReportingState

_COUNTERS = ("step_count", "epoch", "elapsed_s")


class CSVReporter:
    """Append the numbers of every event to a CSV file, whose columns are those of the first event.

    Parameters
    ----------
    path
        The file; one that exists is appended to, if it has the same columns.
    custom_scalars, include_losses, include_optimizer_lrs
        As in `collect_scalars`.
    include_dynamics_scalars
        Whether means and counts over systems are written.
    rank_reduction
        As in `reduce_scalars`.
    rank_zero_only
        Whether only the first process writes.

    Raises
    ------
    StorageError
        From a call: if the file can not be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        custom_scalars: Mapping[str, ScalarCallback] | None = None,
        include_losses: bool = True,
        include_optimizer_lrs: bool = True,
        include_dynamics_scalars: bool = True,
        rank_reduction: str | None = None,
        rank_zero_only: bool = True,
    ) -> None:
        self._file, self.path = CsvFile(Path(path)), Path(path)
        self.include_dynamics_scalars = include_dynamics_scalars
        self._source = ScalarSource(
            custom_scalars=custom_scalars,
            include_losses=include_losses,
            include_optimizer_lrs=include_optimizer_lrs,
            rank_reduction=rank_reduction,
            rank_zero_only=rank_zero_only,
        )
        self.rank_zero_only, self.requires_all_ranks = rank_zero_only, self._source.requires_all_ranks

    def report(self, ctx: HookContext, stage: Enum, state: ReportingState) -> None:
        """Append a row. A number that is not in the first row is left out, with a message."""
        snapshot = self._source.snapshot(ctx, stage, state, dynamics=self.include_dynamics_scalars)
        if snapshot is None:
            return
        row = {name: getattr(snapshot, name) for name in _COUNTERS if getattr(snapshot, name) is not None}
        row = {"stage": snapshot.stage} | row | snapshot.scalars
        header = self._file.columns
        for name in [name for name in row if header is not None and name not in header]:
            state.add_message("warning", f"`{name}` is no column of {self.path}", reporter="CSVReporter", ctx=ctx)
            del row[name]
        self._file.write(snapshot.step_count or 0, {name: np.array([value]) for name, value in row.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return how far the file is; what waits is written first."""
        return self._file.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the file was; it is cut back to that."""
        self._file.load_state_dict(state)

    def close(self) -> None:
        """Write what waits."""
        self._file.close()
