"""What a hook must have, and what it may have.

Must: `frequency`, `stage`, ``__call__(ctx, stage)``. May: ``default_stage`` (used when neither the registration nor
`stage` names one), ``_runs_on_stage(stage)`` (several stages), ``on_register(engine)``, ``__enter__``/``__exit__`` or
``close()`` (once around each run), ``on_start(batch)`` (sees the batch before the first step, with results, and changes
nothing), ``on_join(batch, systems)`` and ``on_leave(batch, systems)`` (see the batch, and change nothing, when systems
have joined a run, with results, and before they leave it), ``take_on(batch, systems)`` and ``release(batch, systems)``
(before the engine begins to move systems, and when it moves them no more), ``between_steps(engine, batch)`` and
``after_steps(engine, batch)`` (see the whole batch, and change nothing, before the first step and after every one, when
all is counted and nobody has left or joined yet; and once more when the steps of a run are over), ``is_due(engine)``
(whether ``between_steps`` is to be called this time), ``raises_on_failure = True`` (a system that
fails raises instead of being set aside), ``observes = True`` (it changes nothing of the batch), ``on_active = True``
(it treats each system for itself and is given the active ones only), ``counts_each_system = True`` (it is called at
every step, and counts `frequency` by the steps of each system), ``wants = {"stress"}`` (outputs of the model that it
reads, computed in the steps in which it is due, also where the engine does without; what it is in the step counts),
``state_dict``/``load_state_dict``. The registry looks for these once, at registration.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol, runtime_checkable

from athanor.hooks.context import HookContext


@runtime_checkable
class Hook(Protocol):
    """A callable that an engine calls at a stage, every `frequency` steps.

    Attributes
    ----------
    frequency
        Steps between calls, at least 1. Every hook is due at step 0. Read once, at registration.
    stage
        Where in the step; ``None`` leaves it to the registration.
    """

    frequency: int
    stage: Enum | None

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Do the work of this hook; the return value is ignored."""
        ...


@runtime_checkable
class CheckpointableHook(Protocol):
    """A hook with memory that a checkpoint must carry."""

    def state_dict(self) -> dict[str, Any]:
        """Return the memory of the hook as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the memory that `state_dict` returned."""
        ...
