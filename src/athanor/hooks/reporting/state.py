"""What reporters share: the state of the reporting, its messages, and what a reporter is."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from athanor._values import check_whole
from athanor.hooks.context import HookContext


class ReportingErrorPolicy(Enum):
    """What becomes of an error in a reporter: it is raised, warned of, or only noted."""

    RAISE = "raise"
    WARN = "warn"
    IGNORE = "ignore"


@dataclass(frozen=True, kw_only=True)
class ReporterMessage:
    """One line of what happened.

    Parameters
    ----------
    level
        ``"info"``, ``"warning"`` or ``"error"``.
    message
        The text.
    reporter, stage, step_count, global_rank
        Who, where, when and in which process, as far as known.
    timestamp_s
        Seconds since 1970.
    """

    level: str
    message: str
    reporter: str | None = None
    stage: str | None = None
    step_count: int | None = None
    global_rank: int | None = None
    timestamp_s: float = field(default_factory=time.time)


@dataclass(kw_only=True)
class ReportingState:
    """How far the reporting is; given to every reporter.

    Parameters
    ----------
    max_messages
        Messages that are kept, the last ones.
    started_at_s
        Seconds since 1970.
    event_count
        Events so far.
    last_event_at_s, last_stage, last_step_count, last_global_rank
        Of the last event.
    messages
        The last messages.
    metadata
        For reporters to leave something for each other.
    """

    max_messages: int = 100
    started_at_s: float = field(default_factory=time.time)
    event_count: int = 0
    last_event_at_s: float | None = None
    last_stage: str | None = None
    last_step_count: int | None = None
    last_global_rank: int | None = None
    messages: deque[ReporterMessage] = field(default_factory=deque)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.messages = deque(self.messages, maxlen=check_whole(self.max_messages, "max_messages"))

    def mark_event(self, ctx: HookContext, stage: Enum) -> None:
        """Count one event."""
        self.event_count += 1
        self.last_event_at_s, self.last_stage = time.time(), stage.name
        self.last_step_count, self.last_global_rank = getattr(ctx, "step_count", None), ctx.global_rank

    def add_message(
        self,
        level: str,
        message: str,
        *,
        reporter: str | None = None,
        ctx: HookContext | None = None,
        stage: Enum | None = None,
    ) -> ReporterMessage:
        """Keep a message, and return it; the oldest goes if there are too many."""
        entry = ReporterMessage(
            level=level,
            message=message,
            reporter=reporter,
            stage=None if stage is None else stage.name,
            step_count=getattr(ctx, "step_count", None),
            global_rank=getattr(ctx, "global_rank", None),
        )
        self.messages.append(entry)
        return entry


@runtime_checkable
class Reporter(Protocol):
    """Something that reports events: a screen, a file, a board.

    It may have ``rank_zero_only = True`` (only the first process of a job reports), ``requires_all_ranks = True``
    (every process must take part, as it adds up over them), and ``__enter__``/``__exit__`` or ``close()``, around a
    run.
    """

    def report(self, ctx: HookContext, stage: Enum, state: ReportingState) -> None:
        """Report one event."""
        ...
