"""HookRegistryMixin: registers hooks, calls those that are due, opens and closes them around a run.

Optional members of a hook are probed exactly once, in `HookRegistryMixin.register_hook`, into a bound record; the
loop reads records only. Hooks of one stage run in the order in which they were registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar

from athanor.errors import ContractError, InputError
from athanor.hooks.context import HookContext
from athanor.hooks.hook_list import HookList

_METHODS = (
    "_runs_on_stage", "on_register", "on_start", "on_join", "on_leave", "__enter__", "__exit__", "take_on", "release",
    "between_steps", "after_steps", "is_due",
)  # fmt: skip
"""Members that a hook may have and that must be callable."""


@dataclass(frozen=True, slots=True)
class BoundHook:
    """One registration: the hook with everything the loop needs to know about it."""

    hook: Any
    call: Callable[[Any, Enum], Any]
    stage: Enum | None
    frequency: int
    runs_on_stage: Callable[[Enum], bool] | None
    enter: Callable[[], Any] | None
    leave: Callable[..., Any] | None
    on_start: Callable[[Any], Any] | None
    on_join: Callable[[Any, Any], Any] | None
    on_leave: Callable[[Any, Any], Any] | None
    take_on: Callable[[Any, Any], Any] | None
    release: Callable[[Any, Any], Any] | None
    between_steps: Callable[[Any, Any], Any] | None
    after_steps: Callable[[Any, Any], Any] | None
    is_due: Callable[[Any], bool] | None
    raises_on_failure: bool
    on_active: bool
    observes: bool
    wants: frozenset[str]

    def runs_at(self, stage: Enum) -> bool:
        """Whether it is called at `stage` at all."""
        return self.stage == stage if self.runs_on_stage is None else bool(self.runs_on_stage(stage))


class HookRegistryMixin:
    """Gives an engine its hooks.

    The engine provides `step_count` and overrides `make_context`.
    """

    _stage_type: ClassVar[type[Enum] | tuple[type[Enum], ...] | None] = None
    """Enumerations whose members are accepted as stages; ``None`` accepts any."""

    step_count: int = 0
    bound_hooks: tuple[BoundHook, ...] = ()
    """What was registered, in order; another tuple after every change."""
    _hooks_at: Mapping[Enum, Sequence[BoundHook]] = MappingProxyType({})
    _multi_stage_hooks: Sequence[BoundHook] = ()
    _opened: ExitStack | None = None

    @property
    def hooks(self) -> HookList:
        """The registered hooks in order, as a list: one that is appended is registered."""
        return HookList(self)

    @hooks.setter
    def hooks(self, hooks: Iterable[Any] | None) -> None:
        self.replace_hooks(hooks)

    def replace_hooks(self, hooks: Iterable[Any] | None) -> None:
        """Make `hooks` those of the engine, in that order. The new ones are registered, as by `register_hook`.

        Raises
        ------
        InputError, ContractError
            As in `register_hook`; the hooks are then those of before.
        """
        if hooks is not None and not isinstance(hooks, Iterable):
            raise ContractError(f"`hooks` is a {type(hooks).__name__}; pass a list of hooks: `hooks=[hook]`.")
        wanted, before = list(hooks or ()), self.bound_hooks
        known: dict[int, list[BoundHook]] = {}
        for bound in before:  # an object may be there at several stages
            known.setdefault(id(bound.hook), []).append(bound)
        self._arrange(())
        try:
            for hook in wanted:
                if known.get(id(hook)):
                    self._arrange((*self.bound_hooks, known[id(hook)].pop(0)))
                else:
                    self.register_hook(hook)
        except BaseException:
            self._arrange(before)
            raise

    def register_hook(self, hook: Any, stage: Enum | None = None) -> None:
        """Add a hook behind those already there.

        Parameters
        ----------
        hook
            See `athanor.hooks.Hook`.
        stage
            Where the hook runs; written to ``hook.stage``. Without it ``hook.stage`` counts, then
            ``hook.default_stage``.

        Raises
        ------
        InputError
            A `ValueError`: if ``hook.frequency`` is not an int of at least 1.
        ContractError
            A `TypeError`: if there is no stage, or it is not one this engine passes, or a member that must be
            callable is not.
        """
        bound = self._bind(hook, stage)
        if stage is not None:
            hook.stage = stage
        on_register = getattr(hook, "on_register", None)
        if on_register is not None:
            on_register(self)
        self._arrange((*self.bound_hooks, bound))

    def _arrange(self, bound: tuple[BoundHook, ...]) -> None:
        """Take over what is registered; new sequences, because a loop may be reading the present ones."""
        self.bound_hooks = bound
        self._multi_stage_hooks = [one for one in bound if one.runs_on_stage is not None]
        stages = {one.stage for one in bound if one.runs_on_stage is None and one.stage is not None}
        self._hooks_at = {
            at: [one for one in bound if one.runs_on_stage is not None or one.stage == at] for at in stages
        }

    def _bind(self, hook: Any, stage: Enum | None) -> BoundHook:
        """Check `hook` and probe its optional members, once."""
        name = type(hook).__name__
        if isinstance(hook, type):
            raise ContractError(f"{hook.__name__} is a class; register an object: `{hook.__name__}(...)`.")
        if not callable(hook):
            hint = " Register each hook of the list by itself." if isinstance(hook, Sequence) else ""
            raise ContractError(f"{name} is not callable; a hook needs `__call__(ctx, stage)`.{hint}")
        _check_signature(name, hook)
        if not hasattr(hook, "frequency"):
            raise ContractError(f"{name} has no `frequency`. Set it to the number of steps between calls, such as 1.")
        frequency = hook.frequency
        if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
            raise InputError(f"`frequency` of {name} is {frequency!r}; it must be an int of at least 1.")
        members = {key: getattr(hook, key, None) for key in _METHODS}
        for key, member in members.items():
            if member is not None and not callable(member):
                raise ContractError(f"`{key}` of {name} is a {type(member).__name__}; it must be callable.")
        runs_on_stage = members["_runs_on_stage"]
        if stage is None:
            stage = getattr(hook, "stage", None)
        if stage is None:
            stage = getattr(hook, "default_stage", None)
        if runs_on_stage is None:
            self._check_stage(name, stage)
        leave = members["__exit__"]
        if leave is None:
            close = getattr(hook, "close", None)
            if callable(close):
                leave = partial(_without_arguments, close)  # which is copied with its hook
        return BoundHook(
            hook=hook,
            call=hook,
            stage=stage,
            frequency=1 if getattr(hook, "counts_each_system", False) else frequency,
            runs_on_stage=runs_on_stage,
            enter=members["__enter__"],
            leave=leave,
            on_start=members["on_start"],
            on_join=members["on_join"],
            on_leave=members["on_leave"],
            take_on=members["take_on"],
            release=members["release"],
            between_steps=members["between_steps"],
            after_steps=members["after_steps"],
            is_due=members["is_due"],
            raises_on_failure=bool(getattr(hook, "raises_on_failure", False)),
            on_active=bool(getattr(hook, "on_active", False)),
            observes=bool(getattr(hook, "observes", False)),
            wants=frozenset(getattr(hook, "wants", ())),
        )

    def _check_stage(self, name: str, stage: Enum | None) -> None:
        if stage is None:
            raise ContractError(f"{name} has no stage. Register it with `register_hook(hook, stage=...)`.")
        accepted = self._stage_type
        if accepted is not None and not isinstance(stage, accepted):
            kinds = accepted if isinstance(accepted, tuple) else (accepted,)
            wanted = " | ".join(kind.__name__ for kind in kinds)
            raise ContractError(
                f"Stage {stage!r} of {name} is not a {wanted}, which {type(self).__name__} passes."
                f"{_nearest_stage(stage, kinds)}"
            )

    def has_hooks(self, stage: Enum) -> bool:
        """Whether any hook may run at `stage`; costs one look-up."""
        return bool(self._hooks_at.get(stage, self._multi_stage_hooks))

    @property
    def hooks_raise_on_failure(self) -> bool:
        """Whether a registered hook asks that a failed system raises."""
        return any(bound.raises_on_failure for bound in self.bound_hooks)

    def make_context(self, stage: Enum, batch: Any, converged: Any = None) -> HookContext:
        """Return what hooks are given; engines override it."""
        return HookContext(batch=batch, model=getattr(self, "model", None), workflow=self)

    def wanted_outputs(self) -> frozenset[str]:
        """Return the outputs of the model that hooks want which are due in this step."""
        step_count = self.step_count
        due = (bound for bound in self.bound_hooks if bound.wants and step_count % bound.frequency == 0)
        wanting = [bound.hook.wants for bound in due]  # by now: a hook may want something in some steps only
        return frozenset().union(*wanting)

    def due_hooks(self, stage: Enum) -> list[BoundHook]:
        """Return the hooks that are due at `stage`, in order of registration."""
        step_count = self.step_count
        return [
            bound
            for bound in self._hooks_at.get(stage, self._multi_stage_hooks)
            if step_count % bound.frequency == 0 and bound.runs_at(stage)
        ]

    def call_hooks(self, stage: Enum, batch: Any) -> None:
        """Call the hooks that are due at `stage`, if any; a context is made only then."""
        due = self.due_hooks(stage)
        if due:
            context = self.make_context(stage, batch)
            for bound in due:
                bound.call(context, stage)

    def open_hooks(self, *others: HookRegistryMixin) -> None:
        """Enter each distinct hook of this registry and of `others` once, in order of registration.

        If one fails to enter, those already entered are closed and the error is raised.

        Raises
        ------
        InputError
            If they are open already.
        """
        if self._opened is not None:
            raise InputError(f"The hooks of this {type(self).__name__} are open already; close them first.")
        seen: set[int] = set()
        with ExitStack() as stack:
            for registry in (self, *others):
                for bound in registry.bound_hooks:
                    if id(bound.hook) in seen:
                        continue
                    seen.add(id(bound.hook))
                    if bound.enter is not None:
                        bound.enter()
                    if bound.leave is not None:
                        stack.push(_never_swallowing(bound.leave))
            self._opened = stack.pop_all()

    def close_hooks(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close what `open_hooks` opened, last first; a running exception is handed to each ``__exit__``.

        All hooks are closed even if one of them raises. A hook can not swallow the exception of the run.
        """
        stack, self._opened = self._opened, None
        if stack is not None:
            stack.__exit__(exc_type, exc, traceback)


def _check_signature(name: str, hook: Any) -> None:
    """Raise ContractError if `hook` can not be called as ``hook(ctx, stage)``."""
    try:
        inspect.signature(hook).bind(None, None)
    except ValueError:  # has no signature that can be read
        return
    except TypeError as error:
        text = f"{name} can not be called as `hook(ctx, stage)`: {error}. Give it these arguments."
        raise ContractError(text) from error


def _nearest_stage(stage: object, kinds: tuple[type[Enum], ...]) -> str:
    """Return a sentence that names the stage which a text or number stands for, or an example."""
    members = [member for kind in kinds for member in kind]
    near = [m for m in members if stage == m.value or str(stage).upper().rpartition(".")[2] == m.name] or members[-1:]
    return f" Use `{type(near[0]).__name__}.{near[0].name}`."


def _without_arguments(close: Callable[[], Any], *exc_info: Any) -> None:
    close()


def _never_swallowing(leave: Callable[..., Any]) -> Callable[..., bool]:
    def exit_(*exc_info: Any) -> bool:
        leave(*exc_info)
        return False

    return exit_
