"""Who is called at which point of a step, in which order, and with which batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.contract import Engine
from athanor.dynamics.status import StageSpec
from athanor.dynamics.working_set import WorkingSet
from athanor.errors import InputError
from athanor.hooks.stages import DynamicsStage as At

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.registry import BoundHook


_NOTHING: frozenset[str] = frozenset()


class HookCalls:
    """Calls the hooks of a run.

    Parameters
    ----------
    owner, stages
        As in `athanor.dynamics.driver.Driver`.
    systems
        The systems that are worked on.

    Attributes
    ----------
    changed
        Whether a hook that may change the batch was called since this was set to False.
    """

    def __init__(self, owner: Engine, stages: Sequence[StageSpec], systems: WorkingSet) -> None:
        self._owner, self._stages, self._systems = owner, stages, systems
        members = [stage.engine for stage in stages]
        self.engines = members if members == [owner] else [owner, *members]
        self.changed = False
        self._known: list[Any] = []
        self._places: dict[At, list[Engine]] = {}
        self._wanting: list[Engine] = []

    def look(self) -> None:
        """Note at which points there are hooks at all; looked up again when one was registered."""
        known = [engine.bound_hooks for engine in self.engines]
        if len(known) == len(self._known) and all(a is b for a, b in zip(known, self._known, strict=True)):
            return
        self._known = known
        found = {at: [engine for engine in self.engines if engine.has_hooks(at)] for at in At}
        self._places = {at: engines for at, engines in found.items() if engines}
        self._wanting = [engine for engine in self.engines if any(bound.wants for bound in engine.bound_hooks)]

    def wanted_outputs(self) -> frozenset[str]:
        """Return the outputs of the model that hooks want which are due in this step."""
        return frozenset().union(*(engine.wanted_outputs() for engine in self._wanting)) if self._wanting else _NOTHING

    def __contains__(self, at: At) -> bool:
        return at in self._places

    def __call__(
        self,
        at: At,
        stage: StageSpec | None = None,
        *,
        owner_last: bool = False,
        after_change: Callable[[], None] | None = None,
    ) -> None:
        """Call the hooks that are due at `at`, and `after_change` after each that may change the batch.

        Without `stage`, the owner's hooks come first, or last. Around a stage's update, the owner's hooks run once:
        before the first stage or after the last.
        """
        if at not in self._places:
            return
        for engine in self._callers(at, stage, owner_last):
            for bound in engine.due_hooks(at):
                self._call(engine, bound, at)
                if after_change is not None and not bound.observes:
                    after_change()

    def _callers(self, at: At, stage: StageSpec | None, owner_last: bool) -> list[Engine]:
        if stage is None:
            return [*self.engines[1:], self.engines[0]] if owner_last else self.engines
        if stage.engine is self._owner:
            return [self._owner]
        if at in (At.BEFORE_PRE_UPDATE, At.BEFORE_POST_UPDATE):
            return [self._owner, stage.engine] if stage is self._stages[0] else [stage.engine]
        return [stage.engine, self._owner] if stage is self._stages[-1] else [stage.engine]

    def _call(self, engine: Engine, bound: BoundHook, at: At) -> None:
        """Call one hook, on the whole batch unless it treats each system for itself."""
        part, converged = self._systems.part, self._converged_of(engine)
        if at is At.ON_CONVERGE and converged is None:
            return
        on_part = part.is_whole or bound.on_active
        batch = part.batch if on_part else part.whole
        if not on_part:
            self._systems.write_back()
            converged = None if converged is None else part.to_whole(converged)
        before = (len(batch), batch.membership, batch.system_id, batch.system_id._version)
        context = engine.make_context(at, batch, converged)
        if bound.on_active:
            context.active_mask = self._systems.active.systems
        bound.call(context, at)
        _check_same_systems(batch, before, at)
        if not bound.observes:
            self.changed = True
            if not on_part:
                part.read_again()

    def _converged_of(self, engine: Engine) -> Tensor | None:
        """Systems of the part that converged in this step under `engine`, bool [B]."""
        found = [
            stage.converged
            for stage in self._stages
            if stage.converged is not None and (engine is self._owner or stage.engine is engine)
        ]
        return torch.stack(found).any(dim=0) if found else None


def _check_same_systems(batch: Batch, before: tuple[int, int, Tensor, int], at: At) -> None:
    """Raise InputError if a hook exchanged systems: they join and leave between two runs, or two steps."""
    count, membership, ids, version = before
    if membership == batch.membership and batch.system_id is ids and ids._version == version:
        return
    exchanged = f"by exchanging some of its {count} systems"
    what = exchanged if len(batch) == count else f"from {count} to {len(batch)} systems"
    raise InputError(
        f"A hook at {at.name} changed the batch {what} in the middle of a run. "
        f"Let systems join or leave between two runs; those that stay go on where they are."
    )
