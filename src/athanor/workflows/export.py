"""`export`: frames of a run or a store, as a file that other programs open."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor._values import check_whole, shown
from athanor.errors import InputError, StorageError
from athanor.io._replace import replacing, replacing_folder
from athanor.io.export.formats import Contents, ExportFormat, format_of
from athanor.workflows.earlier_runs import is_results
from athanor.workflows.folder import RUN, TRAJECTORY
from athanor.workflows.frame_choice import FrameChoice
from athanor.workflows.output import check_place
from athanor.workflows.plot_lines import labels_of
from athanor.workflows.progress import Progress
from athanor.workflows.results import RunResult
from athanor.workflows.saved_frames import SavedFrames
from athanor.workflows.saved_run import SavedRun

if TYPE_CHECKING:
    from ase import Atoms

_POSCAR = "POSCAR_"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes
    ----------
    path
        The file, or the folder of a format that is one.
    format
        What it is written in.
    frames, systems
        How many.
    size
        In bytes, all files together.
    """

    path: Path
    format: str
    frames: int
    systems: int
    size: int


def export(
    source: Any,
    out: str | os.PathLike[str],
    *,
    system: int | str | Iterable[int | str] | None = None,
    frames: str | int | slice = ":",
    every: int = 1,
    start: float | str | None = None,
    end: float | str | None = None,
    wrap: bool = False,
    format: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Exported:
    """Write frames of a run as a file that other programs open.

    Frames are read and written one after the other, so that they may be more than memory holds. The file appears whole:
    it is written beside its place, and renamed.

    Parameters
    ----------
    source
        A results folder or a trajectory store; or what `athanor.open` or a run returned.
    out
        The file. Its ending says the format: ``.extxyz``, ``.traj``, ``.cif``, ``.xdatcar`` (or a name that begins with
        ``XDATCAR``), ``.lammpstrj``, ``.xtc`` or ``.h5md``.
    system
        Number, name, or the file that a system is from; or several. Of a store the id. By default all.
    frames
        Which of each system, by their place: a slice, text such as ``"10:20"`` or ``"-5:"``, or one number. Frames of a
        system that stood still count once.
    every
        One in so many of these.
    start, end
        Earliest and latest time, fs (or text such as ``"1 ps"``); places are counted between them.
    wrap
        Put every atom into the cell, along periodic vectors. Else atoms are where they went.
    format
        One of ``"extxyz"``, ``"traj"``, ``"cif"``, ``"xdatcar"``, ``"poscar"`` (a folder with a file for each frame),
        ``"lammpstrj"``, ``"xtc"`` and ``"h5md"``, if the ending does not say it.
    overwrite
        Replace `out`.
    progress
        Show a bar on a terminal, a line a minute elsewhere.

    Returns
    -------
    Exported
        What was written.

    Raises
    ------
    InputError
        If the format has no place for these frames, nothing was chosen, or an argument makes no sense.
    OptionalDependencyError
        If the package that writes the format is not installed; the text names the command that installs it.
    StorageError
        If frames can not be read, or `out` can not be written. Nothing is left of it then.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    >>> crystal = bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 2)
    >>> run = athanor.md(crystal, model=argon, temperature=30, steps=20, timestep=2.0, every=5, out="argon")
    >>> athanor.export(run, "argon.extxyz", frames="1:").frames
    3
    """
    place = Path(os.path.expanduser(out))
    kind = format_of(place, format)
    _check_place(place, kind, overwrite)
    given = _Given(source)
    if given.frames.path.resolve() in place.resolve().parents:
        raise InputError(f"`{place}` lies in the store that is read; choose another place.")
    chosen = given.frames.choose(FrameChoice.parse(frames, every, start, end), given.ids_of(system))
    if not chosen:
        raise InputError(f"No frame of `{given.path}` was chosen; it has {len(given.frames)} of all systems together.")
    rows = np.concatenate(list(chosen.values()))
    sizes = {number: frozenset(given.frames.sizes(of_system).tolist()) for number, of_system in chosen.items()}
    contents = Contents(given.labels_of(chosen), sizes, given.frames.all_periodic(rows))
    kind.check(contents)
    with Progress(shown=progress, steps=len(rows), noun="frames") as bar:
        images = _images(given, rows, wrap=wrap, bar=bar)
        try:
            with (replacing_folder if kind.is_folder else replacing)(place) as beside:
                kind.write(beside, images, contents)
        except OSError as error:
            raise StorageError(
                f"`{place}` can not be written: {error.strerror or error}. Make room or choose another place."
            ) from error
    return Exported(place, kind.name, len(rows), len(chosen), _size_of(place))


class _Given:
    """A run, or a store without one."""

    def __init__(self, source: Any) -> None:
        if isinstance(source, RunResult):
            if source.folder is None:
                raise InputError("The run kept no frames, as it was given no folder. Repeat it with `out=...`.")
            source = source.folder
        self.run: SavedRun | None = source if isinstance(source, SavedRun) else None
        if isinstance(source, str | os.PathLike):
            path = Path(os.path.expanduser(source))
            if not is_results(path) or (path / RUN).is_file():
                self.run = SavedRun(path)
        elif self.run is None:
            raise InputError(
                f"`source` is a {type(source).__name__}; pass a results folder, a trajectory store, or what "
                f"`athanor.open` or a run returned."
            )
        self.path = path if self.run is None else self.run.folder
        if self.run is not None and not self.run.num_frames:
            raise InputError(f"`{self.path}` holds no frames: the run wrote none yet, or they were removed.")
        self.frames = SavedFrames(path) if self.run is None else SavedFrames(self.path / TRAJECTORY, self.run.ids)

    def ids_of(self, system: Any) -> list[int] | None:
        """Return the ids of systems given by number, name or file, or by id in a store; None for all."""
        if self.run is not None:
            return self.run.ids_of(system)
        if system is None:
            return None
        words = [system] if isinstance(system, str) or not isinstance(system, Iterable) else list(system)
        return list(dict.fromkeys(map(self._id_in_store, words)))

    def _id_in_store(self, word: int | str) -> int:
        number = int(word) if isinstance(word, str) and word.isdecimal() else word
        known = self.frames.ids
        if not isinstance(number, str) and check_whole(number, "system", None) in known:
            return number
        some = ", ".join(map(str, known[:8])) + (" ..." if len(known) > 8 else "")
        raise InputError(f"`{self.path}` is a store, whose systems go by their ids: {some}. It has no {shown(word)}.")

    def labels_of(self, ids: Iterable[int]) -> dict[int, str]:
        """Return what systems are called, each by a name of its own."""
        if self.run is None:
            return {number: f"system-{number}" if number >= 0 else "frames" for number in ids}
        numbers = {number: place for place, number in enumerate(self.run.ids)}
        rows = [self.run.summary[numbers[number]] for number in ids]
        return dict(zip(ids, labels_of(rows), strict=True))

    @property
    def names(self) -> dict[int, str]:
        """Name of each system of a run."""
        return {} if self.run is None else dict(zip(self.run.ids, self.run.names, strict=True))


def _images(given: _Given, rows: np.ndarray, *, wrap: bool, bar: Progress) -> Iterator[Atoms]:
    """Yield frames as ASE atoms, and say so."""
    computed = () if given.run is None else given.run.properties
    names = given.names
    for number, data in enumerate(given.frames.stream(rows), 1):
        atoms = data.to_atoms(computed)
        name = names.get(atoms.info.get("system_id", -1), "")
        if name:
            atoms.info["name"] = name
        if wrap:
            atoms.wrap()
        yield atoms
        bar.update(number, name)


def _check_place(place: Path, kind: ExportFormat, overwrite: bool) -> None:
    """Refuse a place where the file, or the folder, may not be written."""
    if not (kind.is_folder and place.is_dir()):
        check_place(place, overwrite=overwrite and not kind.is_folder, example=f"frames{kind.endings[0]}")
        return
    if any(not entry.name.startswith(_POSCAR) for entry in place.iterdir()):
        raise InputError(f"`{place}` is a folder of something else than POSCAR files; choose another name.")
    if not overwrite:
        raise InputError(f"`{place}` exists. Choose another name, or add --overwrite to replace it.")


def _size_of(place: Path) -> int:
    return sum(file.stat().st_size for file in (place.iterdir() if place.is_dir() else [place]))
