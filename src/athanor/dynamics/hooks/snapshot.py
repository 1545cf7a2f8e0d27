"""SnapshotHook and ConvergedSnapshotHook: hand the state to a sink.

Frames hold no neighbour list and no other pair data: lists are rebuilt from positions, and their size changes.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from athanor._values import check_whole, describe
from athanor.dynamics.hooks.news import News
from athanor.errors import ContractError
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.hooks.context import DynamicsContext
    from athanor.sinks.base import DataSink


class _SinkHook:
    """What both snapshot hooks share: a sink that is flushed at the end of each run."""

    observes = True

    def __init__(self, sink: DataSink, frequency: int, stage: Enum) -> None:
        if not callable(getattr(sink, "write", None)):
            raise ContractError(
                f"`sink` is a {type(sink).__name__}; pass a sink, for example `ZarrData('frames.zarr')` or "
                f"`HostMemory(capacity=1000)` of `athanor.sinks`."
            )
        self.sink = sink
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = stage

    def __repr__(self) -> str:
        return describe(self, "sink", "frequency")

    def close(self) -> None:
        """Flush the sink; called at the end of each run. The sink stays open for the next one."""
        flush = getattr(self.sink, "flush", None)
        if flush is not None:
            flush()

    def state_dict(self) -> dict[str, Any]:
        """Frames in the sink, so that a restart can tell where its trajectory stood."""
        return {"stored": len(self.sink)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up: the frames are in the sink."""


class SnapshotHook(_SinkHook):
    """Write every system of the batch to a sink, every `frequency` steps.

    Parameters
    ----------
    sink
        Where the frames go; it copies.
    frequency
        Steps between snapshots, at least 1. The first is taken in step 0, so 100 steps at ``frequency=10`` give 10
        snapshots, after steps 1, 11, ..., 91. Each frame carries `step`, `time` and `system_id`.
    stage
        Where in the step.
    finished
        ``"every"`` writes a system that has finished, or was set aside, again each time. ``"once"`` writes it once
        more, as it then is, and no longer: of a system of which step, status and failure are those of its last frame
        in this run there is nothing new to tell.

    Raises
    ------
    InputError
        If `frequency` is not at least 1, or `finished` is another word.

    Notes
    -----
    Systems of all stages of a fused run are written together. Data goes to the host in the step, so a GPU run waits.

    Examples
    --------
    >>> from athanor.dynamics.hooks import SnapshotHook
    >>> from athanor.sinks import HostMemory
    >>> hook = SnapshotHook(sink=HostMemory(capacity=1000), frequency=10)
    >>> hook.frequency
    10
    """

    def __init__(
        self,
        sink: DataSink,
        frequency: int = 1,
        stage: Enum = DynamicsStage.AFTER_STEP,
        *,
        finished: str = "every",
    ) -> None:
        super().__init__(sink, frequency, stage)
        self.finished, self._news = finished, News(finished)

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write ``ctx.batch``."""
        batch = ctx.batch.without_pairs()
        self.sink.write(batch, self._news.of(batch))

    def close(self) -> None:
        """Flush the sink, and forget what was written: the next run is another one."""
        self._news.forget()
        super().close()


class ConvergedSnapshotHook(_SinkHook):
    """Write each system once, when it converges.

    Parameters
    ----------
    sink
        Where the frames go; it copies.
    frequency
        Steps between looks. Above 1, systems that converge in a step between are written at the next look of this
        hook only if the engine names them then.
    stage
        Where in the step.
    """

    def __init__(self, sink: DataSink, frequency: int = 1, stage: Enum = DynamicsStage.ON_CONVERGE) -> None:
        super().__init__(sink, frequency, stage)

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write the systems of ``ctx.converged_mask``; nothing if it is None or all False."""
        mask = ctx.converged_mask
        if mask is None or not bool(mask.any()):
            return
        chosen = ctx.batch.index_select(torch.nonzero(mask).flatten())
        self.sink.write(chosen.without_pairs())
