"""SnapshotHook and ConvergedSnapshotHook: hand the state to a sink.

Frames hold no neighbour list and no other pair data: lists are rebuilt from positions, and their size changes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from athanor._values import check_state_dtype, check_whole, describe, did_you_mean
from athanor.data.batch import Batch
from athanor.data.fields import FIELDS, PAIR_VIEWS, REQUIRED
from athanor.dynamics.hooks.news import News
from athanor.errors import ContractError, InputError, MissingFieldError
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.hooks.context import DynamicsContext
    from athanor.sinks.base import DataSink

_IN_EVERY_FRAME = frozenset({*REQUIRED, "cell", "pbc", "system_id", "step", "time"})
"""What says where atoms are, of which system, and when."""


class _SinkHook:
    """What both snapshot hooks share: a sink that is flushed at the end of each run, and what a frame holds."""

    observes = True

    def __init__(
        self,
        sink: DataSink,
        frequency: int,
        stage: Enum,
        fields: Iterable[str] | None,
        dtype: torch.dtype | None,
    ) -> None:
        if not callable(getattr(sink, "write", None)):
            raise ContractError(
                f"`sink` is a {type(sink).__name__}; pass a sink, for example `ZarrData('frames.zarr')` or "
                f"`HostMemory(capacity=1000)` of `athanor.sinks`."
            )
        self.sink = sink
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = stage
        self.fields = None if fields is None else _checked_names(fields)
        self.dtype = None if dtype is None else check_state_dtype(dtype)

    def __repr__(self) -> str:
        return describe(self, "sink", "frequency")

    def _frame_of(self, batch: Batch) -> Batch:
        """Return the fields of `batch` that are stored, in the dtype in which they are; most tensors are shared."""
        frame = batch.without_pairs()
        if self.fields is not None:
            for name in self.fields:
                if name not in frame and name not in FIELDS:
                    known = (*FIELDS, *frame.custom_fields)
                    raise MissingFieldError(
                        f"`fields` of {type(self).__name__} names `{name}`, which the batch does not have."
                        f"{did_you_mean(name, known)}"
                    )
            kept = self.fields | _IN_EVERY_FRAME
            kept = kept | {"velocities_present"} if "velocities" in kept else kept
            for name in [name for name, _ in frame if name not in kept]:
                if name in frame:  # it may have gone with another one
                    del frame[name]
        return frame if self.dtype is None else frame.to(dtype=self.dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.close()

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


def _checked_names(fields: Iterable[str]) -> frozenset[str]:
    if isinstance(fields, str):
        raise InputError(f"`fields={fields!r}` is one text; pass the names in a list: `fields=[{fields!r}]`.")
    names = frozenset(fields)
    for name in names:
        of_pairs = name in PAIR_VIEWS or (name in FIELDS and FIELDS[name].level == "edge")
        if of_pairs or not isinstance(name, str):
            raise InputError(f"`fields` names {name!r}; a frame holds fields of atoms and of systems, and no pairs.")
    return names


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
    fields
        Names of the fields that are stored, beside those that say where the atoms are, of which system and when
        (`positions`, `atomic_numbers`, `cell`, `pbc`, `system_id`, `step`, `time`). None stores all that the batch has.
    dtype
        ``torch.float32`` stores floating fields in single precision; `time` keeps its digits. None: as they are.
    first
        Also write the state before the first step of each run.
    last
        Also write the state after the last step of each run, of the systems whose last frame is older; not of a run
        that ends with an error.

    Raises
    ------
    InputError
        If `frequency` is not at least 1, `finished` is another word, or `fields` names no field of atoms or systems.
    MissingFieldError
        From a call: if `fields` names something that is neither in the batch nor in the field table.

    Notes
    -----
    Systems of all stages of a fused run are written together. Data goes to the host in the step, so a GPU run waits;
    with `athanor.sinks.AsyncSink` around the sink it does not.

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
        fields: Iterable[str] | None = None,
        dtype: torch.dtype | None = None,
        first: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__(sink, frequency, stage, fields, dtype)
        self.finished, self.first, self.last = finished, first, last
        self._news, self._told = News(finished), News("once" if last else "every")
        self._batch: weakref.ref[Batch] | None = None
        self._goes_on = False

    def on_start(self, batch: Batch) -> None:
        """Write `batch` as it is before the first step of a run, if that is asked for."""
        if self.first and self._batch is None and not self._goes_on:
            self._write(batch)
        self._batch = weakref.ref(batch)

    def on_join(self, batch: Batch, systems: torch.Tensor) -> None:
        """Write systems of a mask [B] that have joined a run, as they are before their first step, if asked for."""
        if self.first:
            self._news.of(batch, systems)
            self.sink.write(self._frame_of(batch), self._told.of(batch, systems))

    def on_leave(self, batch: Batch, systems: torch.Tensor) -> None:
        """Write the last state of systems of a mask [B] that are about to leave a run, if asked for."""
        if self.last:
            self.sink.write(self._frame_of(batch), self._told.of(batch, systems))

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write ``ctx.batch``."""
        self._write(ctx.batch)

    def _write(self, batch: Batch) -> None:
        self._told.of(batch)
        self.sink.write(self._frame_of(batch), self._news.of(batch))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if exc_type is not None:
            self._batch = None  # it may be in the midst of a step
        self.close()

    def close(self) -> None:
        """Write the last state if that is asked for, flush the sink, and forget: the next run is another one."""
        batch = None if self._batch is None or not self.last else self._batch()
        try:
            if batch is not None:
                self.sink.write(self._frame_of(batch), self._told.of(batch))
        finally:
            self._batch, self._goes_on = None, False
            self._news.forget()
            self._told.forget()
            super().close()

    def state_dict(self) -> dict[str, Any]:
        """Frames in the sink; during a run also which systems were written, and how far they were."""
        if self._batch is None:
            return super().state_dict()
        return {**super().state_dict(), "news": self._news.state_dict(), "told": self._told.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a run that had begun: its start is not written again."""
        self._goes_on = "news" in state
        if self._goes_on:
            self._news.load_state_dict(state["news"])
            self._told.load_state_dict(state["told"])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_batch": None}


class ConvergedSnapshotHook(_SinkHook):
    """Write each system once in a run, as it is when it converges; in a fused run once for each stage.

    Registered with the engine of one stage, it writes those that converge there.

    Parameters
    ----------
    sink
        Where the frames go; it copies.
    frequency
        Steps between writes. Above 1, copies of systems that converge in a step between wait for the next write, or the
        end of the run.
    stage
        Where in the step.
    fields, dtype
        As in `SnapshotHook`.
    """

    counts_each_system = True  # called at every step: a system is named once

    def __init__(
        self,
        sink: DataSink,
        frequency: int = 1,
        stage: Enum = DynamicsStage.ON_CONVERGE,
        *,
        fields: Iterable[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(sink, frequency, stage, fields, dtype)
        self._known: set[tuple[int, int]] = set()
        self._waiting: list[Batch] = []

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write the systems of ``ctx.converged_mask``; nothing if it is None or all False."""
        if ctx.converged_mask is not None:
            places = self._new_places(ctx.batch, ctx.converged_mask)
            if places:
                self._waiting.append(self._frame_of(ctx.batch.index_select(places)))
        if ctx.step_count % self.frequency == 0:
            self._write_waiting()

    def _new_places(self, batch: Batch, converged: torch.Tensor) -> list[int]:
        """Return the converged systems that were not written yet, and remember them. Waits for the device."""
        places: list[int] = converged.nonzero().flatten().tolist()
        if not places or "system_id" not in batch:
            return places
        stages = batch["status"] if "status" in batch else torch.zeros_like(batch["system_id"])
        told = torch.cat((batch["system_id"], stages), dim=1)[converged].tolist()
        new = {(system, status): place for place, (system, status) in zip(places, told, strict=True)}
        new = {key: place for key, place in new.items() if key not in self._known}
        self._known.update(new)
        return sorted(new.values())

    def _write_waiting(self) -> None:
        while self._waiting:
            self.sink.write(self._waiting[0])
            del self._waiting[0]

    def close(self) -> None:
        """Write what waits, flush the sink, and forget: the next run is another one."""
        self._known.clear()
        try:
            self._write_waiting()
        finally:
            super().close()

    def state_dict(self) -> dict[str, Any]:
        """Frames in the sink, and which systems have converged in this run."""
        waiting = {"waiting": [frame.state_dict() for frame in self._waiting]} if self._waiting else {}
        return {**super().state_dict(), "converged": sorted(self._known), **waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up which systems have converged, and those that wait to be written."""
        self._waiting = [Batch.from_state_dict(frame) for frame in state.get("waiting", ())]
        self._known = {(system, status) for system, status in state.get("converged", ())}
