"""The half of an engine that is about restarts: what it remembers, as a tree, and how a run goes on from there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from athanor.data._followers import take_key
from athanor.dynamics.checkpoint import SavedCheckpoint
from athanor.dynamics.rows import SavedRows, save_rows
from athanor.dynamics.schedules import Schedule
from athanor.dynamics.state import Parameter, is_schedule
from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.fields import Level
    from athanor.dynamics.contract import Owner
    from athanor.dynamics.driver import Driver
    from athanor.dynamics.in_flight import InFlight
    from athanor.dynamics.sampler import SizeAwareSampler
    from athanor.io.checkpoint import CheckpointFolder


class RestartMixin:
    """Gives an engine its state as a tree, and lets it go on from one."""

    if TYPE_CHECKING:
        key: str
        step_count: int
        saved_rows: SavedRows | None
        saved_run: SavedRows | None
        failure_notes: dict[int, str]
        sampler: SizeAwareSampler | None
        active_batch: Batch | None
        resumed_folder: CheckpointFolder | None
        _driver: Driver
        _in_flight: InFlight
        _assigned: set[str]

        @property
        def variable_levels(self) -> dict[str, Level]:
            """Level of each declared state variable."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs beside the batch: counters, parameters, and the state of its systems.

        The batch that was run last holds the state, and must still be there.
        """
        state = self._state_for(self._driver.systems.batch)
        if self.sampler is not None:
            state |= {"sampler": self.sampler.state_dict(), "in_flight": self._in_flight.state_dict()}
        return state

    def _state_for(self, batch: Batch | None) -> dict[str, Any]:
        rows = self.saved_rows if batch is None else save_rows(batch, self.key, self.variable_levels)
        run = self._driver.systems.saved()
        return {
            "step_count": self.step_count,
            "key": self.key,
            "parameters": {
                name: value.state_dict() if is_schedule(value) else value
                for name, value in ((name, getattr(self, name)) for name in Parameter.names_in(type(self)))
            },
            "failure_notes": dict(self.failure_notes),
            "run_key": self._driver.systems.key,
            "state": None if rows is None else rows._asdict(),
            "run": None if run is None else run._asdict(),
            "last_good": self._driver.last_good_key,
            "older": self._driver.chances.state_dict(batch),
        }

    def resume(self: Owner, folder: str | os.PathLike[str], *, allow: bool = False) -> Batch:
        """Go on from the newest checkpoint of a folder: the next `run` is the one that was interrupted.

        Build the engine as before, with the same model, hooks and sinks; what these have written since is cut back. The
        next run counts the steps that were done before among its own, and ends with the bits of an undisturbed one.

        Parameters
        ----------
        folder
            What a `Checkpoint` hook wrote to.
        allow
            Go on, with a warning, where something that decides about bits is not what it was.

        Returns
        -------
        Batch
            What to run: ``engine.run(batch, n_steps)``, or ``engine.run()``.

        Raises
        ------
        MissingFileError
            If there is no checkpoint.
        StorageError
            If none is whole, another run has the folder, or an output is not what it was.
        InputError
            If the checkpoint is of another job; the text says what differs.
        """
        return SavedCheckpoint.load(folder).restore(self, allow=allow)

    def reopen(self, batch: Batch, systems: Tensor, stage_step: Tensor) -> None:
        """Let finished systems of a mask [B] be in the last stage again, of which they have done so many steps, [B]."""
        self._driver.reopen(batch, systems, stage_step)

    def take_back(self, left: Sequence[Batch]) -> Batch | None:
        """After `resume` of a run in flight: let systems that had left be in it again, see `InFlight.take_back`.

        Returns
        -------
        Batch or None
            The batch to go on with, which is `active_batch` now.
        """
        assert self._driver.resumed is not None
        batch, steps = self._driver.resumed
        self.active_batch = self._in_flight.take_back(batch, left)
        self._driver.resumed = None if self.active_batch is None else (self.active_batch, steps)
        return self.active_batch

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`; the next run must be on a batch of the same system ids.

        Raises
        ------
        InputError
            If `state` is of another number of stages; one of another engine is refused at the next run.
        """
        stages, saved = len(getattr(self, "sub_stages", ())), len(state.get("stages", ()))
        if stages != saved:
            raise InputError(
                f"The state is that of {_describe_kind(saved)}; this {type(self).__name__} is "
                f"{_describe_kind(stages)}. Build the same engine that was saved."
            )
        self.step_count = int(state["step_count"])
        for name, value in state.get("parameters", {}).items():
            setattr(self, name, Schedule.from_state_dict(value) if isinstance(value, dict) else value)
        self.failure_notes.clear()
        self.failure_notes.update(state.get("failure_notes", {}))
        self._driver.systems.key = state.get("run_key", self._driver.systems.key)
        self._assigned.clear()
        self.key = state["key"]
        take_key(self, self.key)
        rows, run = state["state"], state["run"]
        self.saved_rows = None if rows is None else SavedRows(**rows)
        self.saved_run = None if run is None else SavedRows(**run)
        self._driver.last_good_key = state.get("last_good", self._driver.last_good_key)
        if "older" in state:
            self._driver.chances.load_state_dict(state["older"])
        if self.sampler is not None and "sampler" in state:
            self.sampler.load_state_dict(state["sampler"])
            self._in_flight.load_state_dict(state["in_flight"])

    def undo_unfinished_step(self, batch: Batch) -> None:
        """Put `batch` back to the end of its last whole step, after an exception that cut a step short; in place.

        Everything that a step changes: fields, counters, and what engines remember.
        """
        self._driver.undo_unfinished_step(batch)

    def _release_checkpoints(self) -> None:
        """Let others go on from the checkpoint from which this run went on; a hook that writes there does so itself."""
        if self.resumed_folder is not None:
            self.resumed_folder.release()
            self.resumed_folder = None


def _describe_kind(stages: int) -> str:
    return f"a fused run of {stages} stages" if stages else "a plain engine"
