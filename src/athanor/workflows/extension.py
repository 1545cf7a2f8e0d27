"""Runs that get longer: the dynamics at the end of a job, be it finished or stopped, goes on for some more time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.errors import InputError
from athanor.workflows.courses import Course
from athanor.workflows.methods import MD
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import MDSpec, positive_time

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.dynamics import FusedStage
    from athanor.dynamics.checkpoint import SavedCheckpoint
    from athanor.workflows.outcomes import Outcomes
    from athanor.workflows.track import Tracker

EXTENDED = "extended_from"
"""Key of a record: the steps that the last stage had before each time that it got longer."""


def check_can_be_longer(folder: Path, record: Mapping[str, Any], *, has_checkpoint: bool) -> None:
    """Raise InputError unless the run of a results folder ends with dynamics and its systems can go on."""
    (kind,) = record["job"]["stages"][-1]
    if kind != MD.name:
        raise InputError(f"The run in `{folder}` ends with a relaxation, which has no time that could be longer.")
    if not has_checkpoint:
        raise InputError(
            f"`{folder}` does not hold what its systems need to go on exactly: it was written without checkpoints, or "
            f"by an older athanor. `athanor md {folder} -o OTHER` goes on from their last structures, in a folder of "
            f"its own."
        )


def made_longer(spec: RunSpec, record: Mapping[str, Any] | None, time: Any) -> RunSpec:
    """Return the description of a run whose last stage is longer by a time than it is on record.

    Raises
    ------
    InputError
        If that is no dynamics, or the time is none.
    """
    last = spec.stages[-1]
    if not isinstance(last, MDSpec):
        raise InputError("`extend` needs dynamics at the end of the run; a relaxation has no time.")
    more = max(1, round(positive_time(time, "extend") / last.timestep))
    return with_length(spec, (recorded_steps(record) or last.steps) + more)


def recorded_steps(record: Mapping[str, Any] | None) -> int | None:
    """Return the steps of the last stage on record; None if nothing is."""
    if record is None:
        return None
    (settings,) = record["job"]["stages"][-1].values()
    steps = settings.get("steps")
    return steps if type(steps) is int else None


def with_recorded_length(spec: RunSpec, record: Mapping[str, Any]) -> RunSpec:
    """Return the description with which a run started as one of the run that it is now, if it was made longer since."""
    steps, before = recorded_steps(record), record.get(EXTENDED)
    if steps is None or not isinstance(before, list) or spec.stages[-1].steps not in before:
        return spec
    return with_length(spec, steps)


def with_length(spec: RunSpec, steps: int) -> RunSpec:
    """Return a run whose last stage has so many steps; what changes evenly until its end has changed where that was."""
    *others, last = with_times(spec).stages
    return spec.model_copy(update={"stages": (*others, last.model_copy(update={"steps": steps}))})


def with_times(spec: RunSpec) -> RunSpec:
    """Return a run with a time in place of the end of the last stage, where a setting changes until then."""
    *others, last = spec.stages
    courses = {
        name: Course(tuple(value.within(last.steps * last.timestep)))
        for name, value in last
        if isinstance(value, Course)
    }
    return spec.model_copy(update={"stages": (*others, last.model_copy(update=courses))})


def saved_steps(saved: SavedCheckpoint, spec: RunSpec) -> int | None:
    """Return the steps that the last stage had when a checkpoint was written; None if it says nothing of them."""
    try:
        return int(saved.about["stages"][str(len(spec.stages) - 1)]["n_steps"])
    except (KeyError, TypeError, ValueError):
        return None


def let_go_on(saved: SavedCheckpoint, fused: FusedStage, tracker: Tracker, outcomes: Outcomes) -> Batch:
    """Let systems that came to the end of the last stage, which is longer by now, go on in it.

    Parameters
    ----------
    saved
        What the stages were restored from.
    fused, tracker
        The stages, and what follows systems through them.
    outcomes
        What became of who has left.

    Returns
    -------
    Batch
        Of the run that goes on. Who finds no room in it waits, with all that rides on it.

    Raises
    ------
    InputError
        If nobody is left who could go on.
    """
    again = []
    for some in saved.left(fused):
        ended = tracker.came_to_end(some)
        if bool(ended.any()):
            again.append(some.index_select(ended))
    assert fused.active_batch is not None
    for some in (fused.active_batch, *again):
        ended = tracker.came_to_end(some)
        fused.reopen(some, ended, tracker.steps_in_last(some).clone())
        tracker.reopen(some, ended)
    outcomes.reopen(one for some in again for one in some.system_id.reshape(-1).tolist())
    batch = fused.take_back(again)
    if batch is None:
        raise InputError("No system of the run came to its end, so none can go on.")
    return batch
