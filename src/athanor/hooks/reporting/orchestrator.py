"""ReportingOrchestrator: the one hook that hands events to reporters, and keeps their errors from the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from athanor import _runtime
from athanor._values import check_whole
from athanor.errors import AthanorWarning, ContractError, InputError, in_words
from athanor.hooks.context import HookContext
from athanor.hooks.reporting.state import Reporter, ReportingErrorPolicy, ReportingState

_USUAL_STAGES = ("AFTER_OPTIMIZER_STEP", "AFTER_STEP")


class ReportingOrchestrator:
    """Hand events of a run to reporters.

    Parameters
    ----------
    reporters
        One, or several; called in order, and closed in the opposite one.
    frequency
        Steps between events.
    stages
        Stages, or names of them; by default AFTER_STEP, and AFTER_OPTIMIZER_STEP of a training.
    rank_zero_only
        Whether only the first process of a job reports. Reporters that need every process do so in any case.
    error_policy
        `ReportingErrorPolicy` or its value. Under ``"warn"`` and ``"ignore"`` an error in a reporter becomes a message
        in `state` and the others go on; one that can not be opened is left out.
    state
        A state to go on with.

    Raises
    ------
    ContractError
        A `TypeError`: if a reporter has no ``report(ctx, stage, state)``.
    InputError
        If there is no reporter or stage, or a value makes no sense.
    """

    observes = True

    def __init__(
        self,
        reporters: Reporter | Iterable[Reporter],
        *,
        frequency: int = 1,
        stages: Enum | str | Iterable[Enum | str] | None = None,
        rank_zero_only: bool = False,
        error_policy: ReportingErrorPolicy | str = ReportingErrorPolicy.RAISE,
        state: ReportingState | None = None,
    ) -> None:
        self.reporters: list[Any] = [reporters] if isinstance(reporters, Reporter) else list(reporters)
        for reporter in self.reporters:
            if not callable(getattr(reporter, "report", None)):
                raise ContractError(f"{type(reporter).__name__} is no reporter; it has no `report(ctx, stage, state)`.")
        wanted = _USUAL_STAGES if stages is None else [stages] if isinstance(stages, Enum | str) else list(stages)
        if not self.reporters or not wanted:
            raise InputError("There is nothing to report: give at least one reporter and one stage.")
        self.stages = frozenset(wanted)
        self.stage: Enum | None = None
        self.frequency = check_whole(frequency, "frequency", 1)
        self.rank_zero_only = rank_zero_only
        try:
            self.error_policy = ReportingErrorPolicy(error_policy)
        except ValueError:
            raise InputError(f'`error_policy` is {error_policy!r}; use "raise", "warn" or "ignore".') from None
        self.state = ReportingState() if state is None else state
        self._depth = 0
        self._disabled: list[Any] = []

    @property
    def global_rank(self) -> int:
        """Rank of this process among all of a job."""
        return _runtime.global_rank()

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the first process of a job."""
        return self.global_rank == 0

    def _runs_on_stage(self, stage: Enum) -> bool:
        return stage in self.stages or stage.name in self.stages

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Hand one event to the reporters of this process; without any it is not counted."""
        active = [reporter for reporter in self.reporters if self._reports(reporter, ctx.global_rank)]
        if active:
            self.state.mark_event(ctx, stage)
        for reporter in active:
            self._guard(reporter, reporter.report, ctx, stage, self.state, ctx=ctx, stage=stage)

    def _reports(self, reporter: Any, rank: int) -> bool:
        first_only = self.rank_zero_only or getattr(reporter, "rank_zero_only", False)
        everywhere = getattr(reporter, "requires_all_ranks", False) or not first_only
        return reporter not in self._disabled and (everywhere or rank == 0)

    def __enter__(self) -> ReportingOrchestrator:
        self._depth += 1
        if self._depth > 1:
            return self
        self._disabled = []
        for place, reporter in enumerate(self.reporters):
            enter = getattr(reporter, "__enter__", None)
            try:
                if enter is not None and self._reports(reporter, self.global_rank) and not self._guard(reporter, enter):
                    self._disabled.append(reporter)
            except BaseException as error:
                self._depth = 0
                self._close(self.reporters[:place], error)
                raise
        return self

    def __exit__(self, exc_type: Any, exc: BaseException | None, tb: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth == 0:
            self._close(self.reporters, exc)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the reporters that have one, by their place."""
        return {"reporters": [_state_of(reporter) for reporter in self.reporters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the states of the reporters, which must be the same in the same order."""
        for reporter, each in zip(self.reporters, state["reporters"], strict=True):
            if each is not None:
                reporter.load_state_dict(each)

    def close(self) -> None:
        """Close the reporters, however often they were entered."""
        self._depth = 0
        self._close(self.reporters, None)

    def _close(self, reporters: list[Any], running: BaseException | None) -> None:
        """Close all, the last first; the first error is raised at the end, unless another one is under way."""
        failed: BaseException | None = None
        for reporter in reversed(reporters):
            if not self._reports(reporter, self.global_rank):
                continue
            leave, close = getattr(reporter, "__exit__", None), getattr(reporter, "close", None)
            what = (type(running), running, getattr(running, "__traceback__", None)) if running else (None, None, None)
            try:
                if leave is not None:
                    self._guard(reporter, leave, *what)
                elif close is not None:
                    self._guard(reporter, close)
            except BaseException as error:
                failed = failed or error
        if failed is not None and running is None:
            raise failed

    def _guard(
        self,
        reporter: Any,
        call: Callable[..., Any],
        *arguments: Any,
        ctx: HookContext | None = None,
        stage: Enum | None = None,
    ) -> bool:
        """Call something of a reporter under the policy; return whether it went well."""
        name = type(reporter).__name__
        try:
            call(*arguments)
        except Exception as error:
            self.state.add_message("error", in_words(error), reporter=name, ctx=ctx, stage=stage)
            if self.error_policy is ReportingErrorPolicy.RAISE:
                raise
            if self.error_policy is ReportingErrorPolicy.WARN:
                text = f"{name} failed, and the run goes on: {in_words(error)}"
                warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
            return False
        return True


def _state_of(reporter: Any) -> dict[str, Any] | None:
    return reporter.state_dict() if hasattr(reporter, "state_dict") and hasattr(reporter, "load_state_dict") else None
