"""What the driver asks of an engine, and nothing else: the same of an integrator, an optimizer and a fused stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from athanor.dynamics.rows import Rows, SavedRows

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.fields import Level
    from athanor.dynamics.active import ActiveSet
    from athanor.dynamics.convergence import ConvergenceHook
    from athanor.dynamics.sampler import SizeAwareSampler
    from athanor.hooks.registry import BoundHook
    from athanor.io.checkpoint import CheckpointFolder
    from athanor.sinks.base import DataSink


class Engine(Protocol):
    """One stage of a run, or the owner of several."""

    key: str
    model: Any
    n_steps: int | None
    exit_status: int
    on_error: str
    max_retries: int
    convergence_hook: ConvergenceHook | None
    step_count: int
    bound_hooks: tuple[BoundHook, ...]
    saved_rows: SavedRows | None
    saved_run: SavedRows | None
    failure_notes: dict[int, str]

    @property
    def inflight_mode(self) -> bool:
        """Whether systems leave its runs when they are finished, and others join."""
        ...

    @property
    def hooks_raise_on_failure(self) -> bool:
        """Whether one of its hooks asks that a failed system raises."""
        ...

    @property
    def has_new_parameters(self) -> bool:
        """Whether a parameter was assigned since the last step."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Model outputs that its updates and criteria read."""
        ...

    @property
    def moves_cell(self) -> bool:
        """Whether its updates change cells."""
        ...

    @property
    def time_step(self) -> float | Tensor | None:
        """Time step in fs, one for all or one per system [B]; None if steps do not advance time."""
        ...

    @property
    def variable_levels(self) -> Mapping[str, Level]:
        """Level of each state variable that is not one row for each system."""
        ...

    def works_on_part(self, batch: Batch) -> bool:
        """Whether it can be given some of the systems of `batch`: nothing outside its state has a row for each."""
        ...

    def misfits(self, batch: Batch) -> Tensor | None:
        """Return a failure code for each system that it can not move, else 0, int64 [B]; None if it can move all."""
        ...

    def take_on(self, batch: Batch, mask: Tensor) -> None:
        """Write what holds for the systems of a mask [B] while it moves them: `dof`, and velocities if unknown."""
        ...

    def fresh_rows(self, batch: Batch) -> Rows:
        """Return fresh state for every system."""
        ...

    def use_rows(self, rows: Rows) -> None:
        """Work on `rows` from now on."""
        ...

    def kept_rows(self) -> Rows:
        """Return the rows that a step changes, histories left out."""
        ...

    def renew_parameters(self, batch: Batch) -> set[str]:
        """Bring the state up to parameters that were assigned since the last step, in place; return their names."""
        ...

    @property
    def halves_steps(self) -> bool:
        """Whether a system that failed can go on with smaller steps."""
        ...

    @property
    def times_halved(self) -> Tensor | None:
        """How many times each system had its steps halved in this stage, int64 [B]; None if that can not be done."""
        ...

    @property
    def rows_of_motion(self) -> frozenset[str]:
        """Names of the rows that go back with a system some steps, and make it go on from there as before."""
        ...

    def take_smaller_steps(self, batch: Batch, systems: Tensor) -> None:
        """Halve the steps of the `systems` of a mask [B], in place; what does not go back with them is fresh."""
        ...

    def on_enter(self, batch: Batch, mask: Tensor) -> None:
        """Prepare systems that arrive, in place: degrees of freedom, then state, then velocities."""
        ...

    def update(self, half: str, batch: Batch, active: ActiveSet) -> None:
        """Do ``pre_update`` or ``post_update`` for the active systems, in place."""
        ...

    def judge(self, batch: Batch, systems: Tensor, default: ConvergenceHook | None = None) -> Tensor | None:
        """Return which of the `systems` of a mask [B] satisfy its criteria, bool [B]; None if none does.

        The criteria are those of `default` if it has none.
        """
        ...

    def wanted_outputs(self) -> frozenset[str]:
        """Return the outputs of the model that hooks want which are due in this step."""
        ...

    def has_hooks(self, stage: Enum) -> bool:
        """Whether any hook may run at `stage`."""
        ...

    def due_hooks(self, stage: Enum) -> Sequence[BoundHook]:
        """Return the hooks that are due at `stage`, in order."""
        ...

    def make_context(self, stage: Enum, batch: Batch, converged: Tensor | None) -> Any:
        """Return what hooks are given."""
        ...


class Owner(Engine, Protocol):
    """The engine that a user runs: what runs in flight and checkpoints ask of it beyond what the driver does."""

    _driver: Any
    sampler: SizeAwareSampler | None
    sinks: list[DataSink]
    failure_sinks: list[DataSink]
    refill_frequency: int
    max_batch_size: int | None
    init_fn: Callable[[Batch], Any] | None
    ordered: bool
    first_status: int
    active_batch: Batch | None
    done: bool
    resumed_folder: CheckpointFolder | None

    @property
    def device(self) -> torch.device:
        """Where the model is, and a batch belongs."""
        ...

    @property
    def hooks(self) -> Sequence[Any]:
        """Its hooks."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs beside the batch."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`."""
        ...

    def without_stage(self, batch: Batch) -> dict[int, str]:
        """Return why systems of a batch would never be moved, by their place."""
        ...

    def _members(self) -> Sequence[Owner]: ...

    def _check_statuses(self, batch: Batch) -> None: ...

    def _around_run(self, batch: Batch, begin: Any = None) -> AbstractContextManager[None]: ...
