"""Frames to choose from: those of results folders, stores and files, or handed in from Python; read in blocks.

Of a store, numbers of all frames are read without their atoms; atoms are read of the frames that are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from athanor.data.batch import Batch
from athanor.errors import InputError
from athanor.io.trajectory import TrajectoryReader
from athanor.workflows.build import convert
from athanor.workflows.chunks import split_into_chunks
from athanor.workflows.earlier_runs import is_results, progress_of
from athanor.workflows.folder import RUN, TRAJECTORY
from athanor.workflows.results import RunResult, without_results
from athanor.workflows.saved_run import SavedRun
from athanor.workflows.structures import System, from_python, usable_indices

if TYPE_CHECKING:
    from ase import Atoms


class Source(Protocol):
    """Frames of one place. A frame is known by its row."""

    label: str
    """Where they are from: a folder, a store, a file; empty for what was handed in."""
    model: Any
    """The model of the run as a job names it; None if there was none, or it is not known."""

    @property
    def rows(self) -> np.ndarray:
        """Rows of the frames, each state once."""
        ...

    def sizes(self, rows: np.ndarray) -> list[int]:
        """Return the atoms of each."""
        ...

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray | None:
        """Return one number of each, NaN where it is not known; None if it is of none."""
        ...

    def origin(self, row: int) -> dict[str, Any]:
        """Return ``system`` (its name), ``system_id``, ``step`` and ``time`` (fs) of a frame, as far as known."""
        ...

    def batch(self, rows: np.ndarray, dtype: str) -> Batch:
        """Return frames in one batch."""
        ...

    def structures(self, rows: np.ndarray) -> list[Atoms]:
        """Return frames as ASE atoms, without what a model said of them."""
        ...


class StoredFrames:
    """Frames of a trajectory store.

    Parameters
    ----------
    path
        The store.
    run
        The run that wrote it, if there is its folder.
    """

    def __init__(self, path: Path, run: SavedRun | None = None) -> None:
        self.label = str(path if run is None else run.folder)
        self.model = None if run is None else run.settings.get("model")
        self._reader = TrajectoryReader(path)
        self._names = {} if run is None else dict(zip(run.ids, run.names, strict=True))
        columns = ("system_id", "step", "time")
        self._progress = {name: self._column(name) for name in columns} if len(self._reader) else {}

    def _column(self, name: str) -> np.ndarray:
        values: np.ndarray = self._reader.system_values(name).reshape(-1).numpy()
        return values

    @property
    def rows(self) -> np.ndarray:
        """Rows of the frames; one that shows a system again where it stood still is left out."""
        if not self._progress:
            return np.empty(0, dtype=np.int64)
        states = np.stack([self._progress["system_id"], self._progress["step"]], axis=1)
        return np.sort(np.unique(states, axis=0, return_index=True)[1])

    def sizes(self, rows: np.ndarray) -> list[int]:
        """Return the atoms of each."""
        return self._reader.num_atoms[rows].tolist()

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray | None:
        """Return a system field of each."""
        if not any(field.name == name and field.level == "system" for field in self._reader.fields):
            return None
        values = self._reader.system_values(name).double().flatten(1)
        return values.numpy()[rows, 0] if values.shape[1] == 1 else None

    def origin(self, row: int) -> dict[str, Any]:
        """Return whose frame it is, and of when."""
        number, step, time = (self._progress[name][row] for name in ("system_id", "step", "time"))
        name = self._names.get(int(number), f"system {int(number)}")
        return {"system": name, "system_id": int(number), "step": int(step), "time": float(time)}

    def batch(self, rows: np.ndarray, dtype: str) -> Batch:
        """Return frames in one batch."""
        import torch

        return self._reader.read_rows(rows).to(dtype=getattr(torch, dtype))

    def structures(self, rows: np.ndarray) -> list[Atoms]:
        """Return frames as ASE atoms."""
        return [without_results(atoms) for atoms in self._reader.read_rows(rows).to_atoms()]


class GivenFrames:
    """Frames that a caller hands in, or of a file of structures.

    Parameters
    ----------
    systems
        They; those that can not be used are left out.
    label
        The file.

    Raises
    ------
    InputError
        If none can be used.
    """

    model = None

    def __init__(self, systems: Sequence[System], label: str = "") -> None:
        self.label, self._systems = label, list(systems)
        self._usable = np.array(usable_indices(systems), dtype=np.int64)

    @property
    def rows(self) -> np.ndarray:
        """Places of the frames in what was given."""
        return self._usable

    def sizes(self, rows: np.ndarray) -> list[int]:
        """Return the atoms of each."""
        return [len(self._systems[row].atoms) for row in rows]

    def numbers(self, name: str, rows: np.ndarray) -> np.ndarray | None:
        """Return what stands under `name` in ``info`` of each."""
        values = [self._systems[row].atoms.info.get(name, np.nan) for row in rows]
        numbers = np.array([value if np.isscalar(value) else np.nan for value in values], dtype=np.float64)
        return numbers if np.isfinite(numbers).any() else None

    def origin(self, row: int) -> dict[str, Any]:
        """Return whose frame it is, and of when, if it is of an earlier run."""
        system = self._systems[row]
        progress = progress_of(system.atoms)
        known = {"system_id": int(progress["system_id"]), "step": int(progress["step"])} if progress else {}
        return {"system": system.name, **known, **({"time": float(progress["time"])} if progress else {})}

    def batch(self, rows: np.ndarray, dtype: str) -> Batch:
        """Return frames in one batch."""
        return Batch.from_data_list([convert(self._systems[row], dtype, moves=False) for row in rows])

    def structures(self, rows: np.ndarray) -> list[Atoms]:
        """Return frames as ASE atoms."""
        return [without_results(self._systems[row].atoms) for row in rows]


def sources_of(given: Any) -> list[Source]:
    """Return the sources that a caller names, each once.

    Parameters
    ----------
    given
        A results folder, a trajectory store, a file of structures; `SavedRun`, what a run returned, structures as
        `athanor.relax` takes them, a `Batch` of frames; or a list of these.

    Raises
    ------
    InputError
        If it is none of these.
    StorageError
        If a store can not be read.
    """
    found: dict[str, Source] = {}
    structures: list[Any] = []
    for item in _flat(given):
        source = _stored(item)
        if source is not None:
            found.setdefault(os.path.realpath(source.label), source)
        elif isinstance(item, str | os.PathLike):
            path = os.path.realpath(item)
            if path not in found:
                found[path] = GivenFrames(from_python(item), str(item))
        else:
            structures += item.to_atoms() if isinstance(item, Batch) else [item]
    others: list[Source] = [GivenFrames(from_python(structures))] if structures or not found else []
    return [*found.values(), *others]


def _flat(given: Any) -> Iterator[Any]:
    """Yield what is in lists, and lists in lists; what a run without a folder returned is its structures."""
    if isinstance(given, RunResult) and given.folder is None:
        given = given.structures
    if not isinstance(given, list | tuple):
        yield given
        return
    for item in given:
        yield from _flat(item)


def _stored(item: Any) -> StoredFrames | None:
    """Return the frames on disk that `item` names, if it does."""
    if isinstance(item, RunResult) and item.folder is not None:
        item = item.folder
    if isinstance(item, str | os.PathLike) and is_results(path := Path(os.path.expanduser(item))):
        if not (path / RUN).is_file():
            return StoredFrames(path)
        item = SavedRun(path)
    if not isinstance(item, SavedRun):
        return None
    if not (item.folder / TRAJECTORY).exists():
        raise InputError(f"`{item.folder}` holds no frames: the run wrote none yet, or they were removed.")
    return StoredFrames(item.folder / TRAJECTORY, item)


def blocks_of(source: Source, rows: np.ndarray, max_atoms: int) -> Iterator[np.ndarray]:
    """Yield `rows` in blocks of at most so many atoms."""
    if len(rows):
        for block in split_into_chunks(source.sizes(rows), max_atoms):
            yield rows[block]
