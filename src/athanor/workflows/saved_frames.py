"""Which frames of a trajectory belong to one system, or to one moment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from athanor.errors import InputError, StorageError
from athanor.io.trajectory import TrajectoryReader

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.data.batch import Batch

_UNITS = {"step": "", "time": " fs"}


class SavedFrames:
    """The frames of a run, as of the moment it is made.

    Parameters
    ----------
    path
        The trajectory store.
    ids
        Id of each system of the run, in input order; systems are called by their ids without it.

    Raises
    ------
    StorageError
        If it is missing, damaged, or not a store of athanor.
    """

    def __init__(self, path: Path, ids: Sequence[int] | None = None) -> None:
        if not path.exists():
            raise StorageError(f"`{path}` is missing: no frame was written yet, or it was removed.")
        self._path = path
        self._reader = TrajectoryReader(path)
        self._columns: dict[str, np.ndarray] = {}
        self._numbers = {number: place for place, number in enumerate(ids or ())}
        self._ids = None if ids is None else list(ids)

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def last_step(self) -> int:
        """Largest step of any frame; 0 if there is none."""
        return int(self._column("step").max(initial=0))

    def of(self, system: int, first: int = 0, last: int | None = None) -> Batch:
        """All frames of one system in the order of time, or those of the steps `first` to `last`.

        Those of a system that stood still are left out.
        """
        rows = self._rows_of(system)
        rows = rows[np.diff(self._column("step")[rows], prepend=-1) != 0]
        step = self._column("step")[rows]
        return self._read(rows[(step >= first) & (step <= (np.inf if last is None else last))], system)

    def at(self, name: str, value: float, system: int | None = None) -> Batch:
        """The newest frame up to a ``"step"`` or ``"time"``, of one system or of each, in input order."""
        stamps, rows = self._column(name), self._rows_of(system)
        if not rows.size:
            return self._read(rows, system)
        margin = 1e-9 * max(1.0, abs(value))
        first, last = stamps[rows].min(), stamps[rows].max()
        if not first - margin <= value <= last + margin:
            unit = _UNITS[name]
            raise InputError(
                f"`{name}={value:g}` has no frame; those of `{self._path}` go from {first:g} to {last:g}{unit}. "
                f"The end of a run is in `run.structures`."
            )
        rows = rows[stamps[rows] <= value + margin][::-1]
        return self._newest_of(rows, system)

    def newest(self, time: float | None = None, computed: Collection[str] = frozenset()) -> list[Atoms]:
        """The newest frame of each system, up to a time in fs if that is given, as ASE atoms; of some there is none.

        `computed` are the fields that a model computed, see `athanor.data.convert.ase.to_atoms`.
        """
        rows = np.arange(len(self))
        if time is not None:
            rows = rows[self._column("time") <= time * (1.0 + 1e-9)]
        return self._newest_of(rows[::-1], None).to_atoms(computed) if rows.size else []

    @property
    def ids(self) -> list[int]:
        """Id of every system that has a frame, in order."""
        return [int(number) for number in np.unique(self._column("system_id"))]

    def _newest_of(self, rows: np.ndarray, system: int | None) -> Batch:
        """The first of `rows` of each system, in input order."""
        ids, newest = np.unique(self._column("system_id")[rows], return_index=True)
        order = sorted(range(len(ids)), key=lambda place: self._number_of(int(ids[place])))
        return self._read(rows[newest[order]], system)

    def last_steps_and_failures(self) -> dict[int, tuple[int, int]]:
        """Steps that each system with frames had taken at its last one, and its `failure_code` there."""
        ids, step = self._column("system_id"), self._column("step")
        systems, first = np.unique(ids, return_index=True)
        last = len(self) - 1 - np.unique(ids[::-1], return_index=True)[1]
        # the first frame is taken in the first step, unless the system failed before it
        steps, codes = step[last] - step[first] + (step[first] > 0), self._column("failure_code")[last]
        return {
            self._number_of(int(system)): (int(steps[place]), int(codes[place])) for place, system in enumerate(systems)
        }

    def _number_of(self, system_id: int) -> int:
        return self._numbers.get(system_id, system_id)

    def _rows_of(self, system: int | None) -> np.ndarray:
        if system is None:
            return np.arange(len(self))
        return np.flatnonzero(self._column("system_id") == (system if self._ids is None else self._ids[system]))

    def _read(self, rows: np.ndarray, system: int | None) -> Batch:
        if not rows.size:
            which = "" if system is None else f" of system {system}"
            raise StorageError(f"`{self._path}` has no frame{which}: the run did not get so far.")
        return self._reader.read_rows(rows)

    def _column(self, name: str) -> np.ndarray:
        """One number of every frame: a system field, read once."""
        if name not in self._columns:
            values = self._reader.system_values(name).reshape(-1).numpy() if len(self) else np.empty(0)
            self._columns[name] = values
        return self._columns[name]
