"""What the hooks of a run share: what is run, what became of it so far, and where it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from athanor.errors import StorageError
from athanor.workflows.outcomes import Outcomes
from athanor.workflows.plan import Plan
from athanor.workflows.spec import RunSpec
from athanor.workflows.track import Tracker

if TYPE_CHECKING:
    from athanor.sinks.base import DataSink


@dataclass(frozen=True, slots=True, eq=False)
class Underway:
    """A run that is under way.

    Parameters
    ----------
    plan
        What is run.
    outcomes
        What became of who has left.
    tracker
        Follows the others, as `build_stages` returns it.
    sink
        Where frames go; None: nowhere.
    when_refused
        To be called with the error when the disk refuses what is not lost by that; may raise.
    """

    plan: Plan[RunSpec]
    outcomes: Outcomes
    tracker: Tracker
    sink: DataSink | None
    when_refused: Callable[[StorageError], None]
