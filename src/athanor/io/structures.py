"""Read and write common structure files through ASE.

Every structure carries the file it came from, its index there, and a name; input order is kept. ASE is imported on use.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from athanor._optional import OptionalDependency
from athanor.errors import AthanorWarning, InputError, StorageError
from athanor.io._replace import replacing
from athanor.io.extended_xyz import storable

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
    """

    atoms: Atoms
    file: str
    index: int  # type: ignore[assignment]
    name: str


def read_structures(paths: PathLike | Iterable[PathLike], index: str | int | slice = ":") -> list[Structure]:
    """Read every frame of every file, in the order given.

    Parameters
    ----------
    paths
        One path or several; anything ASE reads. ``file@index`` chooses frames of one file, as in ASE.
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
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: list[Structure] = []
    for path in paths:
        found.extend(_read_file(os.fspath(path), index))
    return found


def _read_file(path: str, index: str | int | slice) -> list[Structure]:
    chosen = _parse_index(index)
    shown, path = path, os.path.expanduser(path)
    if not Path(path).exists() and "@" in Path(path).name:
        path, _, text = path.rpartition("@")
        index, chosen = text, _parse_index(text)
    file = Path(path)
    if not file.exists():
        raise InputError(f"`{shown}` does not exist. Check the path (the current folder is `{Path.cwd()}`).")
    if file.is_dir():
        raise InputError(f"`{shown}` is a folder; pass the files in it, for example `{shown.rstrip('/')}/*`.")
    if file.stat().st_size == 0:
        raise InputError(f"`{shown}` is empty (0 bytes).")
    ase_io = OptionalDependency.ASE.load("io", needed_by="Reading structure files")
    frames: list[Any] = []
    try:
        frames.extend(ase_io.iread(path, index=":", do_not_split_by_at_sign=True))
    except Exception as error:  # ASE's readers raise whatever comes: AssertionError, KeyError, IndexError, ...
        raise InputError(_describe_reading(shown, file, len(frames), error)) from error
    if not frames:
        raise InputError(f"`{shown}` has no frame.")
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
    for number, atoms in picked:
        _check_frame(atoms, shown, number)
        name = atoms.info.get("name")
        if not isinstance(name, str) or not name:
            name = file.stem if len(frames) == 1 else f"{file.stem}:{number}"
        structures.append(Structure(atoms, path, number, name))
    return structures


def _describe_reading(shown: str, file: Path, frames: int, error: Exception) -> str:
    """Say why ASE stopped after some frames of a file, in words of the file and not of the reader."""
    if type(error).__name__ == "UnknownFileTypeError":
        return (
            f"`{shown}` has an ending and a content that ASE does not know. "
            f"Convert it to extended XYZ, or give it the ending of its format (.cif, .xyz, .vasp, .json ...)."
        )
    if isinstance(error, PermissionError):
        return f"`{shown}` can not be opened: {error.strerror}. Give yourself the right to read it."
    start = file.read_bytes()[:100_000]
    if b"\0" in start or isinstance(error, UnicodeDecodeError):
        return f"`{shown}` is not text, or damaged: it can not be read as {file.suffix or 'a structure file'}."
    subject = f"Frame {frames} of `{shown}`" if frames else f"`{shown}`"
    symbol = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(symbol, str) and re.fullmatch("[A-Z][A-Za-z]{0,2}", symbol):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        line = next((number for number, line in enumerate(lines, start=1) if symbol in line.split()), None)
        where = f" in line {line}" if line else ""
        return f"{subject} has the element `{symbol}`{where}, which does not exist. Correct the symbol."
    tells = isinstance(error, ValueError | OSError)  # others are slips of the reader, such as "list index out of range"
    reason = str(error).removeprefix("ase.io.extxyz: ").rstrip(".")
    because = (
        f": {reason}" if reason and tells else f" as {file.suffix or 'a structure file'}: its content does not fit"
    )
    return f"{subject} can not be read{because}. Check its ending and content, or convert it to extended XYZ."


def _parse_index(index: str | int | slice) -> int | slice:
    if isinstance(index, int | slice):
        return index
    try:
        if ":" not in index:
            return int(index)
        parts = [int(part) if part.strip() else None for part in index.split(":")]
        if len(parts) > 3:
            raise ValueError
        return slice(*parts)
    except ValueError:
        raise InputError(
            f'`index={index!r}` is not an index. Use an integer or a slice such as ":" or "::10".'
        ) from None


def _check_frame(atoms: Any, file: str, number: int) -> None:
    if len(atoms) == 0:
        raise InputError(f"Frame {number} of `{file}` has no atoms.")
    for site in (atoms.info.get("occupancy") or {}).values():
        if len(site) > 1 or any(abs(value - 1.0) > 1e-3 for value in site.values()):
            mixture = ", ".join(f"{symbol} {value:g}" for symbol, value in site.items())
            raise InputError(
                f"Frame {number} of `{file}` has partly occupied sites ({mixture}). A simulation needs whole atoms: "
                f"build an ordered structure first, for example with pymatgen's OrderDisorderedStructureTransformation."
            )


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
