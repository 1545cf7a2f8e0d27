"""Read a results folder back: settings, the table, frames of one system or one moment, and what was logged.

Nothing is read before it is asked for, nothing is kept open, and nothing is written, so a folder can be looked at while
its run still goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from athanor._values import check_whole
from athanor.errors import InputError, StorageError
from athanor.io.pipes import STANDARD_INPUT
from athanor.workflows.checksums import check_file
from athanor.workflows.columns import data_frame, outcome_columns
from athanor.workflows.folder import CHECKPOINTS, FINAL, LOG, NOT_STARTED, RUN, SUMMARY_JSON, TRAJECTORY
from athanor.workflows.frame_choice import FrameChoice
from athanor.workflows.methods import KINDS
from athanor.workflows.quantities import TIME, parse_quantity
from athanor.workflows.readable import count
from athanor.workflows.saved_analysis import SavedAnalysis
from athanor.workflows.saved_record import find_system, is_elsewhere, read_record, read_summary, state_of

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch
    from athanor.workflows.saved_frames import SavedFrames
    from athanor.workflows.saved_log import SavedLog, Series


class SavedRun(SavedAnalysis):
    """A results folder, read when asked.

    Wherever a system is asked for, its number in the input (from 0) or its name will do.

    Parameters
    ----------
    path
        The results folder.

    Attributes
    ----------
    folder
        Where it is.
    record
        Content of ``run.yaml``.

    Raises
    ------
    InputError
        If `path` is not a results folder.
    StorageError
        If ``run.yaml`` can not be read. Other files are read, and their errors raised, when they are asked for.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    >>> crystal = bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 2)
    >>> _ = athanor.md(crystal, model=argon, temperature=30, steps=20, timestep=2.0, every=5, out="argon")
    >>> run = athanor.open("argon")
    >>> run.state, run.names, run.series(0).time.tolist()
    ('finished', ['Ar32'], [2.0, 12.0, 22.0, 32.0])
    >>> run.frames("Ar32").positions.shape
    torch.Size([128, 3])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.expanduser(path))
        self.record = read_record(self.folder)

    def __len__(self) -> int:
        return int(self.record["systems"])

    def __repr__(self) -> str:
        return f"SavedRun({str(self.folder)!r}: {count(len(self), 'system')}, {self.state})"

    # -------------------------------------------------------------------------------------------------- what was run
    @property
    def state(self) -> str:
        """``"finished"``, ``"interrupted"``, ``"failed"``, ``"running"``, or ``"killed"`` (its process is gone).

        Whether a run on another machine still goes on can not be seen from here: it counts as running.
        """
        return state_of(self.record)

    @property
    def has_ended(self) -> bool:
        """Whether the run came to an end and wrote its results, be it the planned end or not."""
        return self.record["state"] != "running"

    @property
    def can_go_on(self) -> bool:
        """Whether it was stopped before its end and has a checkpoint from which it can be resumed."""
        from athanor.io.checkpoint import CheckpointFolder

        is_over = self.state in ("interrupted", "failed", "killed")
        return is_over and bool(CheckpointFolder(self.folder / CHECKPOINTS).numbers())

    @property
    def is_elsewhere(self) -> bool:
        """Whether a run that has not ended was started on another machine."""
        return is_elsewhere(self.record)

    @property
    def last_written(self) -> float:
        """When frames, log or table were last written, in seconds as `time.time` counts them."""
        places = [self.folder / name for name in (RUN, LOG, SUMMARY_JSON, TRAJECTORY)]
        return max(place.stat().st_mtime for place in places if place.exists())

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved job: a mapping that, written as YAML, repeats the run, as ``run.yaml`` itself does."""
        job = dict(self.record["job"])
        if "structures" in job:  # on record relative to the folder, as those of a job are
            job["structures"] = [
                source | {"file": os.path.normpath(self.folder / source["file"])}
                if source.get("file", STANDARD_INPUT) != STANDARD_INPUT
                else source
                for source in job["structures"]
            ]
        return job

    @property
    def model(self) -> dict[str, Any]:
        """Name, weights, licence and the like of the potential."""
        return dict(self.record["model"])

    @property
    def versions(self) -> dict[str, str]:
        """Versions of athanor and of the packages it ran with."""
        return {"athanor": str(self.record["athanor"]), **self.record["versions"]}

    @property
    def citations(self) -> list[str]:
        """What to cite."""
        return list(self.record["citations"])

    @property
    def stages(self) -> list[tuple[str, dict[str, Any]]]:
        """Kind (``"relax"`` or ``"md"``) and settings of each stage."""
        return [next(iter(stage.items())) for stage in self.record["job"]["stages"]]

    # ------------------------------------------------------------------------------------------------- what came out
    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """One row for each system, in input order; see `to_pandas` for a DataFrame.

        In a run that has not come to its end, systems that were reached have the status ``"running"`` or ``"killed"``
        and the steps of their last frame.
        """
        rows = read_summary(self.folder, len(self))
        if not self.has_ended and self._has_store:
            from athanor.dynamics.failures import describe_failure

            waiting = outcome_columns(NOT_STARTED)["status"]
            for number, (steps, code) in self._frames.last_steps_and_failures().items():
                if rows[number]["status"] == waiting:
                    reason = f"failed: {describe_failure(code)}" if code else self.state
                    rows[number] |= {"steps": steps} | outcome_columns(reason)
        return rows

    @property
    def names(self) -> list[str]:
        """Name of each system, in input order."""
        return [row["system"] for row in self.summary]

    @property
    def failed(self) -> list[int]:
        """Numbers of the systems that were set aside."""
        return [row["index"] for row in self.summary if row["status"] == "failed"]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """What is known of each system that was set aside.

        Returns
        -------
        list of dict
            `index`, `system`, `formula`, `file` and `index_in_file` as in `summary`; `stage` in which it failed, None
            if it did not get so far; `step` after which, `retries` before it was given up, `reason`; and `last_good`:
            file and index of its last good frame, or of the structure that it came with.
        """
        return [self._failure(self.summary[number]) for number in self.failed]

    def _failure(self, row: dict[str, Any]) -> dict[str, Any]:
        kept = {name: row[name] for name in ("index", "system", "formula", "file", "index_in_file")}
        reason, stage = row["reason"], None
        for kind in KINDS.values():
            if reason.endswith(f" ({kind.noun})"):
                reason, stage = reason.removesuffix(f" ({kind.noun})"), kind.noun
        path, index = (FINAL, row["index"]) if self.has_ended else (TRAJECTORY, None)
        place = {"file": str(self.folder / path), "index": index}
        return kept | {
            "stage": stage,
            "step": row["steps"],
            "retries": row.get("retries") or 0,
            "reason": reason,
            "last_good": place,
        }

    def to_pandas(self) -> Any:
        """Return the summary as a pandas DataFrame, one row for each system.

        Raises
        ------
        OptionalDependencyError
            If pandas is not installed; the text names the command that installs it.
        """
        return data_frame(self.summary)

    @cached_property
    def structures(self) -> list[Atoms]:
        """ASE atoms as the run left them, in input order, with energy, forces and stress.

        Raises
        ------
        StorageError
            If the run has not come to its end; the last frames are there.
        """
        from athanor.io.regular_file import open_regular
        from athanor.io.structures import read_structures

        path = self.folder / FINAL
        if not path.exists():
            raise StorageError(
                f"`{path}` is missing; it is written when a run ends, and this one is {self.state}. "
                f"Take the last frames: `run.frames(step=run.last_step)`."
            )
        check_file(path)
        try:
            open_regular(path).close()  # what the structures of a run are read from is never a pipe
            structures = [item.atoms for item in read_structures(path)]
        except InputError as error:
            raise StorageError(str(error)) from error
        except OSError as error:
            raise StorageError(f"`{path}` can not be read: {error.strerror or error}.") from error
        if len(structures) != len(self):
            raise StorageError(f"`{path}` holds {len(structures)} structures; the run has {len(self)} systems.")
        return structures

    # -------------------------------------------------------------------------------------------------------- frames
    @property
    def num_frames(self) -> int:
        """Frames on disk, all systems together."""
        return len(self._frames) if self._has_store else 0

    @property
    def _has_store(self) -> bool:
        """Whether there is a trajectory, be it damaged; what was killed or refused while one was made has none."""
        from athanor.io.store.layout import COMMITS_KEY, FORMAT_KEY

        return any((self.folder / TRAJECTORY / name).exists() for name in (FORMAT_KEY, COMMITS_KEY, "zarr.json"))

    @property
    def last_step(self) -> int:
        """Largest step of any frame; 0 if there is none."""
        return self._frames.last_step if self.num_frames else 0

    def frames(
        self, system: int | str | None = None, *, step: int | None = None, time: float | str | None = None
    ) -> Batch:
        """Return all frames of one system, or all systems as they were at one moment, or one system then.

        Parameters
        ----------
        system
            Number or name.
        step, time
            Lifetime step of the system, or its time in fs (or text such as ``"1 ps"``); at most one of the two. Each
            system is given by its newest frame up to then, and stands still once it is done: `step` and `time` of the
            batch tell which it is.
            Systems that had no frame yet are left out.

        Returns
        -------
        Batch
            On the CPU. Of one system in the order of time; of one moment in input order, see `system_id`.

        Raises
        ------
        InputError
            If there is no such system, or nothing was kept that early or that late.
        StorageError
            If there are no frames, or they are damaged.
        """
        if step is not None and time is not None:
            raise InputError("give `step` or `time`, not both.")
        number = None if system is None else self.number_of(system)
        if step is not None:
            return self._frames.at("step", check_whole(step, "step"), number)
        if time is not None:
            return self._frames.at("time", parse_quantity(time, TIME), number)
        if number is None:
            raise InputError("say which frames: `system=...`, `step=...` or `time=...` (fs).")
        return self._frames.of(number)

    def atoms(
        self, system: int | str | None = None, *, step: int | None = None, time: float | str | None = None
    ) -> list[Atoms]:
        """Return the same as `frames`, as ASE atoms, with the name of the system in ``info``."""
        images = self.frames(system, step=step, time=time).to_atoms(self.properties)
        for image in images:
            image.info["name"] = self.names[self.ids.index(image.info["system_id"])]
        return images

    def stream(
        self,
        system: int | str | Iterable[int | str] | None = None,
        *,
        frames: str | int | slice = ":",
        every: int = 1,
        start: float | str | None = None,
        end: float | str | None = None,
    ) -> Iterator[AtomicData]:
        """Return frames one after the other, by system in input order and time; few of them are in memory at a time.

        Parameters
        ----------
        system
            Number, name, or the file that a system is from; or several. By default all.
        frames
            Which of each system, by their place: a slice, text such as ``"10:20"`` or ``"-5:"``, or one number. Frames
            of a system that stood still count once.
        every
            One in so many of these.
        start, end
            Earliest and latest time, fs (or text such as ``"1 ps"``); places are counted between them.

        Yields
        ------
        AtomicData
            On the CPU; see its `to_atoms`.

        Raises
        ------
        InputError
            If there is no such system, or an argument makes no sense.
        StorageError
            If there are no frames, or they are damaged.
        """
        chosen = self._frames.choose(FrameChoice.parse(frames, every, start, end), self.ids_of(system))
        return self._frames.stream(np.concatenate(list(chosen.values())) if chosen else np.empty(0, dtype=np.int64))

    def ids_of(self, system: int | str | Iterable[int | str] | None) -> list[int] | None:
        """Return the ids of systems given by number, name or file, each once; None for all."""
        if system is None:
            return None
        words = [system] if isinstance(system, str) or not isinstance(system, Iterable) else list(system)
        return list(dict.fromkeys(self.ids[number] for word in words for number in self._numbers_of(word)))

    def _numbers_of(self, word: int | str) -> list[int]:
        if isinstance(word, str) and word not in self.names:
            files = [row["file"] for row in self.summary]
            found = [number for number, file in enumerate(files) if file and word in (file, Path(file).name)]
            if found:
                return found
        return [self.number_of(word)]

    @property
    def properties(self) -> tuple[str, ...]:
        """Further outputs of the model that frames and last structures hold, such as ``magmoms``."""
        return tuple(map(str, self.record["job"].get("properties") or ()))

    @cached_property
    def ids(self) -> list[int]:
        """Id of each system, in input order: `system_id` of its frames."""
        try:
            return [int(row.get("system_id", row["index"])) for row in read_summary(self.folder, len(self))]
        except StorageError:  # who asks for the table is told; frames of most runs are found without
            return list(range(len(self)))

    @cached_property
    def _frames(self) -> SavedFrames:
        from athanor.workflows.saved_frames import SavedFrames

        return SavedFrames(self.folder / TRAJECTORY, self.ids)

    # ----------------------------------------------------------------------------------------------------- scalars
    @overload
    def series(self, system: int | str) -> Series: ...
    @overload
    def series(self, system: list[Any]) -> list[Series]: ...
    def series(self, system: int | str | list[Any]) -> Series | list[Series]:
        """Return energy, temperature, volume, fmax and pressure of a system against step and time, as arrays.

        Parameters
        ----------
        system
            Number or name; or a list of them, which is quicker than one call for each.

        Returns
        -------
        Series or list of Series
            Without rows for a system that was not reached.

        Raises
        ------
        InputError
            If there is no such system.
        StorageError
            If ``log.csv`` is missing or damaged.
        """
        if isinstance(system, str) or not isinstance(system, Iterable):
            return self._series_of(self.number_of(system))
        return self._log.of([self.ids[self.number_of(each)] for each in system])

    def _series_of(self, number: int) -> Series:
        return self._log.of([self.ids[number]])[0]

    @cached_property
    def _log(self) -> SavedLog:
        from athanor.workflows.saved_log import SavedLog

        return SavedLog(self.folder / LOG, len(self.stages))

    def number_of(self, system: int | str) -> int:
        """Return the number of a system, given by number or name.

        Raises
        ------
        InputError
            If there is none, or several have the name; the text says which there are.
        """
        if isinstance(system, str):
            return find_system(self.summary, system, f"`{self.folder}`")
        number = check_whole(system, "system", None)
        if not 0 <= number < len(self):
            raise InputError(f"`system={number}` is not in `{self.folder}`; its systems are 0 to {len(self) - 1}.")
        return number


def open(path: str | os.PathLike[str]) -> SavedRun:
    """Open a results folder to read it; see `SavedRun`.

    Parameters
    ----------
    path
        The folder that a run was told to write. The run may be finished, interrupted, killed or still going on; what
        is on disk when something is first asked for is what is seen.

    Raises
    ------
    InputError
        If it is not a results folder.
    StorageError
        If its ``run.yaml`` can not be read.
    """
    return SavedRun(path)
