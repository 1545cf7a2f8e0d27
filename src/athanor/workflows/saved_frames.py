"""Which frames of a trajectory belong to one system, or to one moment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from athanor.errors import InputError, StorageError
from athanor.io.trajectory import TrajectoryReader
from athanor.workflows.frame_choice import FrameChoice, margin_of

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

_ATOMS_AT_A_TIME, _FRAMES_AT_A_TIME = 20_000, 256
"""Most that `SavedFrames.stream` holds."""
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
        self.path = path
        self._reader = TrajectoryReader(path)
        self._reader.release()
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
        margin = margin_of(value)
        first, last = stamps[rows].min(), stamps[rows].max()
        if not first - margin <= value <= last + margin:
            unit = _UNITS[name]
            raise InputError(
                f"`{name}={value:g}` has no frame; those of `{self.path}` go from {first:g} to {last:g}{unit}. "
                f"The end of a run is in `run.structures`."
            )
        rows = rows[stamps[rows] <= value + margin][::-1]
        return self._newest_of(rows, system)

    def choose(self, choice: FrameChoice, systems: Sequence[int] | None = None) -> dict[int, np.ndarray]:
        """Return the rows that are chosen of each system, by its id; systems in the order asked for, or of the input.

        Those of a system that stood still are left out, and systems without any.

        Parameters
        ----------
        choice
            What is wanted of each.
        systems
            Ids; by default all.
        """
        ids, step, time = (self._column(name) for name in ("system_id", "step", "time"))
        order = np.argsort(ids, kind="stable")
        found, starts = np.unique(ids[order], return_index=True)
        of_system = dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))
        wanted = sorted(of_system, key=self._number_of) if systems is None else systems
        chosen = {}
        for number in wanted:
            rows = of_system.get(number, np.empty(0, dtype=np.int64))
            if number >= 0:  # frames without an id are of any system
                rows = rows[np.diff(step[rows], prepend=-1) != 0]
            if len(rows := choice.of(rows, time[rows])):
                chosen[number] = rows
        return chosen

    def stream(self, rows: np.ndarray) -> Iterator[AtomicData]:
        """Yield frames one after the other; of a long trajectory a few are held at a time."""
        ends = np.cumsum(self.sizes(rows))
        start = 0
        while start < len(rows):
            before = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, before + _ATOMS_AT_A_TIME, side="right"))
            stop = min(max(stop, start + 1), start + _FRAMES_AT_A_TIME)
            yield from self._rows(rows[start:stop]).to_data_list()
            start = stop

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the atoms of frames."""
        if "atoms" not in self._columns:
            self._columns["atoms"] = self._reader.num_atoms
            self._reader.release()
        return self._columns["atoms"][rows]

    def all_periodic(self, rows: np.ndarray) -> bool:
        """Whether each of these frames is periodic along some vector."""
        if not {"cell", "pbc"} <= {field.name for field in self._reader.fields}:
            return False
        parts = (rows[start : start + _ATOMS_AT_A_TIME] for start in range(0, len(rows), _ATOMS_AT_A_TIME))
        return all(bool(self._reader.system_values("pbc", part).any(dim=1).all()) for part in parts)

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
            raise StorageError(f"`{self.path}` has no frame{which}: the run did not get so far.")
        return self._rows(rows)

    def _rows(self, rows: np.ndarray) -> Batch:
        """Frames by number; no file stays open."""
        try:
            return self._reader.read_rows(rows)
        finally:
            self._reader.release()

    def _column(self, name: str) -> np.ndarray:
        """One number of every frame: a system field, read once."""
        if name not in self._columns:
            values = self._reader.system_values(name).reshape(-1).numpy() if len(self) else np.empty(0)
            self._reader.release()
            self._columns[name] = values
        return self._columns[name]
