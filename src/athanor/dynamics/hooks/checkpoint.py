"""Checkpoint: save a run between two of its steps, so that it can be resumed with equal bits."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from athanor._values import check_whole, describe, is_real
from athanor.data._membership import together
from athanor.dynamics.checkpoint import SavedCheckpoint, about_run, tree_of_run
from athanor.errors import ContractError, InputError, StorageError
from athanor.hooks.stages import DynamicsStage
from athanor.io.checkpoint import CheckpointFolder
from athanor.models.digest import model_digest

if TYPE_CHECKING:
    from torch import Tensor

    from athanor.data.batch import Batch
    from athanor.hooks.context import DynamicsContext


class Checkpoint:
    """Save a run into a folder: before its first step, then every so often, and at its end.

    A run that ended in whatever way goes on from there with `BaseDynamics.resume`. Sinks and logs are flushed at each
    checkpoint, and cut back to it by `resume`.

    Parameters
    ----------
    folder
        Where the checkpoints go, each a folder with a number; made if it is not there.
    every
        Steps between checkpoints; None leaves it to `seconds`.
    seconds
        Seconds between checkpoints; None leaves it to `every`.
    keep
        How many are kept; older ones are removed when a new one is on the disk.
    extra
        Called without arguments at each checkpoint; returns a tree of plain values and tensors, which
        `SavedCheckpoint.extra` gives back.
    overwrite
        Write into a folder that holds checkpoints of another run; these go as new ones come.
    when_refused, when_saved
        Called with the error when the disk refuses a checkpoint, before it is tried once more; and when there is one.
    keep_left
        Keep systems that leave a run in flight and have not failed, with all that rides on them, so that they could go
        on: each is written once, with the next checkpoint. `SavedCheckpoint.left` gives them back.

    Raises
    ------
    InputError
        If a number makes no sense, or both `every` and `seconds` are None. At the start of a run that was not resumed:
        if the folder holds checkpoints of another one.
    StorageError
        From a run: if the folder can not be written, or another run has it.

    Examples
    --------
    >>> from athanor.dynamics.hooks import Checkpoint
    >>> Checkpoint("CHECKPOINTS", seconds=300.0)
    Checkpoint(every=None, seconds=300.0, keep=2)
    """

    frequency = 1
    observes = True
    on_active = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int | None = None,
        seconds: float | None = 60.0,
        keep: int = 2,
        *,
        extra: Callable[[], Any] | None = None,
        overwrite: bool = False,
        when_refused: Callable[[StorageError], None] | None = None,
        when_saved: Callable[[], None] | None = None,
        keep_left: bool = False,
    ) -> None:
        self.folder = CheckpointFolder(folder, keep)
        self.every = None if every is None else check_whole(every, "every", 1)
        if seconds is not None and not (is_real(seconds) and seconds >= 0.0):
            raise InputError(f"`seconds` is {seconds!r}; it is a number from 0 on, or None.")
        if every is None and seconds is None:
            raise InputError("Without `every` and `seconds` nothing would be saved. Give one of them.")
        if extra is not None and not callable(extra):
            raise ContractError(f"`extra` is a {type(extra).__name__}; pass a function that returns a tree.")
        self.seconds, self.extra, self.overwrite, self.keep_left = seconds, extra, overwrite, keep_left
        self._when_refused, self._when_saved = when_refused, when_saved
        self.stage: Enum | None = DynamicsStage.AFTER_STEP
        self.last_number: int | None = None
        self._left: list[Batch] = []
        self._parts: list[int] = []
        self._named: deque[list[int]] = deque(maxlen=keep)
        self._is_asked = False
        self._saved_at: int | None = None
        self._saved_when = 0.0
        self._model: Any = None
        self._digest = ""

    @property
    def keep(self) -> int:
        """How many checkpoints are kept."""
        return self.folder.keep

    @property
    def age(self) -> float | None:
        """Seconds since the last checkpoint of this program; None before the first."""
        return None if self._saved_at is None else time.monotonic() - self._saved_when

    def __repr__(self) -> str:
        return describe(self, "every", "seconds", "keep")

    @staticmethod
    def is_in(folder: str | os.PathLike[str]) -> bool:
        """Whether a folder holds checkpoints, whole or damaged."""
        return bool(CheckpointFolder(folder).numbers())

    load = SavedCheckpoint.load

    @property
    def last_bytes(self) -> int:
        """Bytes of the last checkpoint of this program."""
        return 0 if self.last_number is None else self.folder.bytes_of(self.last_number)

    def request(self) -> None:
        """Save at the next step boundary, whatever the time; may be called by a signal handler."""
        self._is_asked = True

    # -- called by the engine ------------------------------------------------------------------------------------

    def on_register(self, engine: Any) -> None:
        """Note the model of the engine."""
        if self._model is not engine.model:
            self._model, self._digest = engine.model, ""

    def __enter__(self) -> Self:
        self.folder.acquire()
        self._digest = self._digest or model_digest(self._model)  # before the first evaluation, which may change it
        if self._saved_at is None and not self.overwrite and self.folder.numbers():
            self.folder.release()
            raise InputError(
                f"`{self.folder.path}` holds checkpoints of another run. Go on from them with `engine.resume(...)`, "
                f"give another folder, or pass `overwrite=True`."
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.folder.release()

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Do nothing: a run is saved between two steps."""

    def on_leave(self, batch: Batch, systems: Tensor) -> None:
        """Keep the healthy ones of the systems of a mask [B] that leave, as they are."""
        healthy = systems & (batch.failure_code[:, 0] == 0)
        if self.keep_left and bool(healthy.any()):
            self._left.append(batch.index_select(healthy))

    def is_due(self, engine: Any) -> bool:
        """Whether it is time to save."""
        if self._is_asked or self._saved_at is None:
            return True
        steps = engine._driver.done
        if self.every is not None and steps - self._saved_at >= self.every:
            return True
        return self.seconds is not None and time.monotonic() - self._saved_when >= self.seconds

    def between_steps(self, engine: Any, batch: Batch) -> None:
        """Save the run."""
        try:
            self._save(engine, batch)
        except StorageError as error:
            if self._when_refused is None:
                raise
            self._when_refused(error)
            self._save(engine, batch)
        if self._when_saved is not None:
            self._when_saved()

    def after_steps(self, engine: Any, batch: Batch) -> None:
        """Save the run as it is at its end."""
        self.between_steps(engine, batch)

    def go_on(self, steps: int, parts: Sequence[int] = ()) -> None:
        """Note that the next run goes on from a checkpoint of the folder, taken after so many steps, with its parts."""
        self._saved_at, self._saved_when = steps, time.monotonic()
        self._left, self._parts, self._named = [], list(parts), deque([list(parts)], maxlen=self.keep)

    def forget_left(self) -> None:
        """Keep those who have left no longer: they are in the run again."""
        self._left, self._parts = [], []

    def keep_newest(self) -> None:
        """Keep the newest checkpoint alone, when a run is over."""
        with self.folder.held():
            self.folder.keep_newest()
            self.folder.keep_parts(self._parts)

    def _save(self, engine: Any, batch: Batch) -> None:
        self._is_asked = False
        extra = None if self.extra is None else self.extra()
        about = about_run(engine, batch, self._digest)
        self._left = together(self._left)
        tree = tree_of_run(engine, batch, about, extra, self._left)
        if self._left:
            self._parts = [*self._parts, self.folder.write_part({"left": tree["left"]})]
            self._left = []
        self.last_number = self.folder.write(tree | {"left": self._parts})
        self._saved_at, self._saved_when = engine._driver.done, time.monotonic()
        self._named.append(self._parts)
        self.folder.keep_parts({number for parts in self._named for number in parts})
