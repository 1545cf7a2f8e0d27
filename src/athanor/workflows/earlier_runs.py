"""Systems that go on from an earlier run: who they are, how far they got, and where a results folder keeps them.

Noise is a function of the id and the lifetime step of a system, so one that goes on must keep both.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from athanor._optional import OptionalDependency
from athanor._values import is_real
from athanor.errors import InputError, StorageError
from athanor.io.structures import Structure
from athanor.workflows.folder import FINAL, RUN, TRAJECTORY

PROGRESS = ("system_id", "step", "time")
"""What frames and results carry in `info`; notes of another program that are called so are not all there."""
_BELOW = (2**31, 2**55, 2**55)
"""Half of what noise takes, so that there are numbers left for systems without an id, and for the steps to come."""


def progress_of(atoms: Any) -> dict[str, Any]:
    """Return id, lifetime steps and time (fs) that `atoms` bring from an earlier run; nothing if they are from none."""
    found = {name: atoms.info.get(name) for name in PROGRESS}
    ours = all(is_real(value) and 0 <= value < most for value, most in zip(found.values(), _BELOW, strict=True))
    return found if ours and found["system_id"] % 1 == found["step"] % 1 == 0 else {}


def is_results(path: Path) -> bool:
    """Whether `path` is a results folder or a trajectory store."""
    return (path / RUN).is_file() or _is_store(path)


def model_of_results(folder: Path) -> str:
    """Return what the model of a run is called; empty if `folder` is none, or does not say."""
    from athanor.workflows.saved_run import SavedRun

    try:
        return str(SavedRun(folder).model.get("card", ""))
    except (InputError, StorageError):
        return ""


def structures_of_results(path: Path, time: float | None) -> list[Structure]:
    """Return the systems of a results folder, or of a trajectory store, as they were at the end or at a moment.

    Parameters
    ----------
    path
        The folder, of a run in whatever state, or the store.
    time
        fs: the newest frame of each system up to then is taken; one that has none that early has a `problem`. By
        default the structures as the run left them, or the last frames of one that did not come to its end.

    Raises
    ------
    InputError
        If nothing was kept yet.
    StorageError
        If what is needed is missing or damaged.
    """
    from athanor.workflows.saved_run import SavedRun

    if _is_store(path):
        return _newest_frames(path, time)
    run = SavedRun(path)
    if time is None and (path / FINAL).exists():
        return [
            Structure(image, str(path / FINAL), index, run.names[index]) for index, image in enumerate(run.structures)
        ]
    if not run.num_frames:
        raise InputError(
            f"`{path}` has no structures yet: its run is {run.state} and kept no frame. Start from its input, or "
            f"repeat it: `athanor run {path / RUN}`."
        )
    return _newest_frames(path / TRAJECTORY, time, dict(zip(run.ids, run.names, strict=True)), run.properties)


def _newest_frames(
    store: Path, time: float | None, names: dict[int, str] | None = None, computed: Collection[str] = ()
) -> list[Structure]:
    """Return the newest frame up to `time` of each system of a store, or of those that have `names`, by their ids.

    `computed` are the fields that the model of the run computed.
    """
    ase = OptionalDependency.ASE.load(needed_by="Going on from frames")
    from athanor.workflows.saved_frames import SavedFrames

    frames = SavedFrames(store)
    found = {int(image.info["system_id"]): image for image in frames.newest(time, computed)}
    structures = []
    for index, (number, name) in enumerate((names or dict.fromkeys(frames.ids, "")).items()):
        image, problem = found.get(number), ""
        if image is None:
            image, name = ase.Atoms(), name or f"system {number}"
            problem = "it has no frame." if time is None else f"it has no frame up to {time:g} fs. Take a later one."
        name = name or str(image.info.get("name") or image.get_chemical_formula())
        structures.append(Structure(image, str(store), index, name, problem))
    return structures


def _is_store(path: Path) -> bool:
    return (path / "format.json").is_file() or (path / "zarr.json").is_file()
