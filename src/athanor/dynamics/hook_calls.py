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
    pausing
        What was registered of the hooks that look at the batch between steps, each once.
    """

    def __init__(self, owner: Engine, stages: Sequence[StageSpec], systems: WorkingSet) -> None:
        self._owner, self._stages, self._systems = owner, stages, systems
        members = [stage.engine for stage in stages]
        self.engines = members if members == [owner] else [owner, *members]
        self.changed = False
        self.pausing: list[BoundHook] = []
        self._known: list[Any] = []
        self._places: dict[At, list[Engine]] = {}
        self._changing: list[Any] = []
        self._source: _ModelAndHooks | None = None
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
        every = [bound for bounds in known for bound in bounds]
        pausing = {id(bound.hook): bound for bound in every if bound.between_steps or bound.after_steps}
        self.pausing = list(pausing.values())
        self._changing = [bound.hook for bound in every if bound.runs_at(At.AFTER_COMPUTE) and not bound.observes]

    def source(self) -> Any:
        """Return whose results the run leaves: the model's, or those of the model and the hooks that change them.

        It is the same object as long as these are the same.
        """
        model = self._owner.model
        if self._changing and (self._source is None or not self._source.consists_of(model, self._changing)):
            self._source = _ModelAndHooks(model, self._changing)
        return self._source if self._changing else model

    def show_start(self) -> None:
        """Show the whole batch, as it is before the first step, to each hook that wants to see it, once."""
        every = (bound for engine in self.engines for bound in engine.bound_hooks)
        wanting = {id(bound.hook): bound.on_start for bound in every if bound.on_start is not None}
        if wanting:
            self._systems.write_back()
        for on_start in wanting.values():
            on_start(self._systems.part.whole)

    def hand_over(self, engine: Engine, batch: Batch, systems: Tensor) -> None:
        """Tell hooks that `engine` moves the `systems` of a mask [B] of the whole batch from now on, and others not."""
        for one in self.engines:
            for bound in one.bound_hooks:
                told = bound.take_on if one is engine or one is self._owner else bound.release
                if told is not None:
                    told(batch, systems)

    def show(self, member: str, systems: Tensor) -> None:
        """Show the whole batch to each hook with ``on_join`` or ``on_leave``: who, bool [B], has come, or goes now."""
        every = (bound for engine in self.engines for bound in engine.bound_hooks)
        wanting = {id(bound.hook): getattr(bound, member) for bound in every if getattr(bound, member) is not None}
        if wanting:
            self._systems.write_back()
        for tell in wanting.values():
            tell(self._systems.part.whole, systems)

    def release(self, batch: Batch, systems: Tensor | None = None) -> None:
        """Tell hooks that the `systems` of a mask [B] are not moved any more; nobody is, without one."""
        if systems is None:
            systems = torch.ones(len(batch), dtype=torch.bool, device=batch.device)
        for bound in (bound for engine in self.engines for bound in engine.bound_hooks):
            if bound.release is not None:
                bound.release(batch, systems)

    def change_whole(self, *places: At) -> bool:
        """Whether there is a hook at one of the `places` that may change systems which are not worked on."""
        every = [bound for at in places for engine in self._places.get(at, ()) for bound in engine.bound_hooks]
        return any(
            not (bound.observes or bound.on_active) for bound in every if any(bound.runs_at(at) for at in places)
        )

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
            context.active_mask = self._moved_by(engine)
        bound.call(context, at)
        _check_same_systems(batch, before, at)
        if not bound.observes:
            self.changed = True
            if not on_part:
                part.read_again()

    def _moved_by(self, engine: Engine) -> Tensor:
        """Systems of the part that `engine` moves in this step, bool [B]; the owner moves all that are active."""
        active = self._systems.active
        return next((stage.active for stage in self._stages if stage.engine is engine), active).systems

    def _converged_of(self, engine: Engine) -> Tensor | None:
        """Systems of the part that converged in this step under `engine`, bool [B]."""
        found = [
            stage.converged
            for stage in self._stages
            if stage.converged is not None and (engine is self._owner or stage.engine is engine)
        ]
        return torch.stack(found).any(dim=0) if found else None


class _ModelAndHooks:
    """A model with the hooks that change its results."""

    def __init__(self, model: Any, hooks: list[Any]) -> None:
        self._parts = [model, *hooks]

    def consists_of(self, model: Any, hooks: list[Any]) -> bool:
        """Whether it is this model with these hooks."""
        return [id(part) for part in self._parts] == [id(part) for part in (model, *hooks)]


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
