"""Read and write common structure files through ASE.

Every structure carries the file it came from, its index there, and a name; input order is kept. ASE is imported on use.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from athanor._optional import OptionalDependency
from athanor._values import is_real
from athanor.errors import AthanorWarning, InputError, StorageError
from athanor.io._replace import replacing
from athanor.io.extended_xyz import storable
from athanor.io.pipes import STANDARD_INPUT
from athanor.io.readers import frames_of, parsed

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

PathLike = str | os.PathLike[str]


class Structure(NamedTuple):
    """One structure and where it came from.

    Attributes
    ----------
    atoms
        ASE atoms.
    file
        Path as the caller wrote it.
    index
        Number of the frame inside the file, from 0.
    name
        ``atoms.info["name"]`` if the file has one, else the file's stem, with ``:index`` if it has several frames.
    problem
        Why it can not be used; empty if it can. Where nothing could be read, `atoms` has no atoms.
    """

    atoms: Atoms
    file: str
    index: int  # type: ignore[assignment]
    name: str
    problem: str = ""


def read_structures(paths: PathLike | Iterable[PathLike], index: str | int | slice = ":") -> list[Structure]:
    """Read every frame of every file, in the order given.

    Parameters
    ----------
    paths
        One path or several; anything ASE reads, ``-`` for standard input, or a pipe of text. ``file@index`` chooses
        frames of one file, as in ASE.
    index
        Which frames of each file: an integer, a slice, or its text (``":"``, ``"-1"``, ``"::10"``).

    Returns
    -------
    list of Structure
        In input order.

    Raises
    ------
    InputError
        If a file is missing, empty, a folder or not readable, if a frame has no atoms or partly occupied sites, or if
        no frame is left; the text names the file and the frame.
    """
    found = find_structures(paths, index)
    problem = next((item.problem for item in found if item.problem), "")
    if problem:
        raise InputError(problem)
    return found


def find_structures(paths: PathLike | Iterable[PathLike], index: str | int | slice = ":") -> list[Structure]:
    """Read as `read_structures` does, but give a file or frame that can not be used its `problem`, and read the others.

    Raises
    ------
    InputError
        If a path names nothing or a folder, or `index` no frame of a file that can be read.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    return [item for path in paths for item in _find(os.fspath(path), index)]


def _find(path: str, index: str | int | slice) -> list[Structure]:
    chosen = _parse_index(index)
    shown, path = path, os.path.expanduser(path)
    if path != STANDARD_INPUT:
        if not os.path.lexists(path) and "@" in Path(path).name:
            path, _, text = path.rpartition("@")
            index, chosen = text, _parse_index(text)
        if not os.path.lexists(path):
            raise InputError(f"`{shown}` does not exist. Check the path (the current folder is `{Path.cwd()}`).")
        if os.path.isdir(path):
            raise InputError(f"`{shown}` is a folder; pass the files in it, for example `{shown.rstrip('/')}/*`.")
    stem = "stdin" if path == STANDARD_INPUT else Path(path).stem
    try:
        frames = frames_of(path, shown)
    except InputError as error:
        return [_unreadable(path, 0, stem, str(error))]
    except OSError as error:
        problem = f"`{shown}` can not be opened: {error.strerror}. Give yourself the right to read it."
        return [_unreadable(path, 0, stem, problem)]
    if not frames:
        return [_unreadable(path, 0, stem, f"`{shown}` has no frame.")]
    numbered = list(enumerate(frames))
    try:
        picked = numbered[chosen]
    except IndexError:
        raise InputError(f"`index={index}` is out of range: `{shown}` has {len(frames)} frames.") from None
    if isinstance(picked, tuple):
        picked = [picked]
    if not picked:
        raise InputError(f"`index={index}` leaves no frame of `{shown}`, which has {len(frames)}.")
    structures = []
    for number, frame in picked:
        atoms, _, _, problem = parsed(frame, number, shown)
        name = stem if len(frames) == 1 else f"{stem}:{number}"
        if atoms is None:
            structures.append(_unreadable(path, number, name, problem))
            continue
        given = atoms.info.get("name")
        name = given if isinstance(given, str) and given else name
        structures.append(Structure(atoms, path, number, name, _problem_of(atoms, shown, number)))
    return structures


def _unreadable(path: str, number: int, name: str, problem: str) -> Structure:
    ase = OptionalDependency.ASE.load(needed_by="Reading structure files")
    return Structure(ase.Atoms(), path, number, name, problem)


def _parse_index(index: str | int | slice) -> int | slice:
    if isinstance(index, int | slice):
        return index
    try:
        if ":" not in index:
            return int(index)
        parts = [int(part) if part.strip() else None for part in index.split(":")]
        if len(parts) > 3 or 0 in parts[2:]:
            raise ValueError
        return slice(*parts)
    except ValueError:
        raise InputError(
            f'`index={index!r}` is not an index. Use an integer or a slice such as ":" or "::10".'
        ) from None


def _problem_of(atoms: Any, file: str, number: int) -> str:
    """Return why a frame is no structure, whatever the model; empty if it is one."""
    if len(atoms) == 0:
        return f"Frame {number} of `{file}` has no atoms."
    sites = atoms.info.get("occupancy")
    for site in sites.values() if isinstance(sites, dict) else ():
        if not isinstance(site, dict) or (len(site) == 1 and all(_is_whole(value) for value in site.values())):
            continue
        mixture = ", ".join(f"{symbol} {value}" for symbol, value in site.items())
        return (
            f"Frame {number} of `{file}` has partly occupied sites ({mixture}). A simulation needs whole atoms: "
            f"build an ordered structure first, for example with pymatgen's OrderDisorderedStructureTransformation; "
            f"or write 1 where a site is full."
        )
    return ""


def _is_whole(occupancy: Any) -> bool:
    return is_real(occupancy) and abs(float(occupancy) - 1.0) <= 1e-3


def write_structures(
    path: PathLike, structures: Batch | Sequence[AtomicData | Atoms | Structure], *, append: bool = False
) -> None:
    """Write structures as extended XYZ, with energy, forces, stress and ``info`` where they have them.

    Results replace labels of the same name in ``info`` and ``arrays``.

    Parameters
    ----------
    path
        File to write. It is replaced whole, by rename, unless `append`.
    structures
        A `Batch`, or a list of `AtomicData`, ASE atoms or `Structure`.
    append
        Add behind what the file holds.

    Raises
    ------
    InputError
        If there is nothing to write, or an item is of another type.
    StorageError
        If the disk refuses; unless `append`, what was there before stands.
    """
    ase_io = OptionalDependency.ASE.load("io", needed_by="Writing structure files")
    images, left_out = [], set()
    for atoms in _to_atoms_list(structures):
        image, names = storable(atoms)
        images.append(image)
        left_out.update(names)
    if not images:
        raise InputError("`structures` is empty; there is nothing to write.")
    target = Path(path)
    try:
        with (
            nullcontext(target) if append else replacing(target) as place,
            place.open("a" if append else "w", encoding="utf-8") as file,  # ASE would take that of the locale
        ):
            ase_io.write(file, images, format="extxyz")
    except OSError as error:
        raise StorageError(
            f"`{target}` can not be written: {error.strerror}. Make room or choose another place."
        ) from error
    if left_out:
        text = (
            f"`{target}` was written without {', '.join(f'`{name}`' for name in sorted(left_out))}, of `info` or "
            f"`arrays`: extended XYZ has no place for them. Rename them, or keep them elsewhere."
        )
        warnings.warn(AthanorWarning(text), stacklevel=2)


def _to_atoms_list(structures: Any) -> list[Any]:
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch
    from athanor.data.convert.ase import to_atoms

    if isinstance(structures, Batch):
        return list(structures.to_atoms())
    ase = OptionalDependency.ASE.load(needed_by="Writing structure files")
    images = []
    for item in structures:
        if isinstance(item, Structure):
            item = item.atoms
        if isinstance(item, AtomicData):
            images.append(to_atoms(item))
        elif isinstance(item, ase.Atoms):
            images.append(item)
        else:
            raise InputError(f"`structures` holds a {type(item).__name__}; pass AtomicData or ASE atoms.")
    return images
