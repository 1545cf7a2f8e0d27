"""What a run that goes on must share with the one that was stopped, and what it finds in the results folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from athanor.dynamics.checkpoint import SavedCheckpoint
from athanor.dynamics.hooks import Checkpoint
from athanor.errors import InputError, StorageError
from athanor.workflows.extension import check_can_be_longer, saved_steps, with_length, with_times
from athanor.workflows.folder import CHECKPOINTS, CHECKSUMS, FINAL, LOG
from athanor.workflows.plan import Plan
from athanor.workflows.saved_record import read_record, running_process, state_of
from athanor.workflows.saved_run import SavedRun
from athanor.workflows.spec import RunSpec

_MAY_CHANGE = (
    "title",
    "structures",
    "threads",
    "silence",
    "output",
    "checkpoint",
    "time_limit",
    "status",
    "allow_failures",
)
"""Keys of a job that decide nothing about what is computed; structures are compared as they were read."""


def describe_job(plan: Plan[RunSpec]) -> dict[str, Any]:
    """Return what a checkpoint holds of the job beside the state of its engines, as a tree."""
    problems = {
        index: system.problem.encode("utf-8", "replace").decode()
        for index, system in enumerate(plan.systems)
        if system.problem
    }
    return {"job": _in_words(plan.spec), "structures": _digest(plan), "problems": problems}


def _in_words(spec: RunSpec) -> dict[str, str]:
    job = with_times(spec).to_job()
    return {key: repr(value) for key, value in job.items() if key not in _MAY_CHANGE}


def take_up_job(checkpoint: SavedCheckpoint, plan: Plan[RunSpec], folder: Path, *, may_be_longer: bool) -> bool:
    """Note in `plan` which systems were set aside so far; return whether its last stage is longer than it was.

    Raises
    ------
    InputError
        If the checkpoint of `folder` is of another job, naming what differs; nothing was changed then. Its last stage
        `may_be_longer`.
    """
    saved, now = checkpoint.extra, describe_job(plan)
    steps = saved_steps(checkpoint, plan.spec) if may_be_longer else None
    is_longer = False
    if steps is not None and steps < plan.spec.stages[-1].steps:
        is_longer, now["job"] = True, _in_words(with_length(plan.spec, steps))
    if not isinstance(saved, dict) or saved.keys() != now.keys():
        raise StorageError(f"The checkpoint in `{folder}` was not written by a run of athanor.")
    keys = dict.fromkeys((*saved["job"], *now["job"]))
    other = [
        f"`{key}` was {saved['job'].get(key)}, and is {now['job'].get(key)}"
        for key in keys
        if saved["job"].get(key) != now["job"].get(key)
    ]
    if saved["structures"] != now["structures"]:
        other.append("the structures are not those that it started with")
    if other:
        raise InputError(
            f"`{folder}` holds the run of another job: {'; '.join(other)}. Go on with what it was started with, or "
            f"choose another folder."
        )
    for index, problem in saved["problems"].items():
        if not plan.systems[index].problem:
            plan.set_aside([index], problem)
    return is_longer


def _digest(plan: Plan[RunSpec]) -> str:
    """Return what tells the systems of a run from others: every field, as it was converted."""
    digest = hashlib.sha256()
    for name, tensor in sorted(plan.state, key=lambda field: field[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_can_go_on(folder: Path, *, longer: bool = False) -> dict[str, Any] | None:
    """Return the record of a run that was stopped or killed; None if it never began. Changes nothing.

    One that is to get `longer` may be finished.

    Before its first step a run writes a checkpoint; without one, frames and a log there is nothing to go on from, and
    nothing that is lost if it starts again.

    Raises
    ------
    InputError
        If there is none, it goes on, or it is finished.
    StorageError
        If its record is damaged.
    """
    record = read_record(folder)
    writer = running_process(folder)
    if writer is not None:
        raise InputError(f"`{folder}` is being written by a run that goes on, process {writer}. Wait for its end.")
    is_finished = state_of(record) == "finished"
    if longer:
        check_can_be_longer(folder, record, has_checkpoint=not is_finished or Checkpoint.is_in(folder / CHECKPOINTS))
    elif is_finished:
        raise InputError(f"The run in `{folder}` is finished; nothing is left to do.")
    if not Checkpoint.is_in(folder / CHECKPOINTS):
        if not (folder / LOG).exists() and not SavedRun(folder).num_frames:
            return None
        raise InputError(
            f"`{folder}` has no checkpoint, so the run can not go on. Start it anew: add --overwrite, or take another "
            f"folder."
        )
    return record


def with_batch_of(record: Mapping[str, Any], spec: RunSpec) -> RunSpec:
    """Return a description with the size of batches of an earlier run, where it leaves that to the free memory."""
    most = record["job"].get("max_atoms")
    return spec.model_copy(update={"max_atoms": most}) if spec.max_atoms is None and type(most) is int else spec


def check_frames(store: Path, found: int, sinks: Sequence[Mapping[str, Any]]) -> None:
    """Raise unless a trajectory holds the frames that it held when a checkpoint was written.

    Raises
    ------
    StorageError
        If it holds fewer.
    """
    wanted = sum(int(sink["frames"]) for sink in sinks)
    if found < wanted:
        raise StorageError(
            f"`{store}` has {found:,} frames; it had {wanted:,} when the checkpoint was written. Put back the store "
            f"that the run wrote, or start the run anew."
        )


def remove_ends(folder: Path) -> None:
    """Remove the files that a run writes when it stops; they are written again.

    Raises
    ------
    StorageError
        If that is refused.
    """
    for name in (CHECKSUMS, FINAL):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"`{folder / name}` can not be replaced: {error.strerror or error}.") from error
