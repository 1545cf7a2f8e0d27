"""Formats that ASE writes, one frame after the other."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from athanor._optional import OptionalDependency
from athanor.errors import AthanorWarning, InputError
from athanor.io.export.formats import Contents
from athanor.io.extended_xyz import storable

if TYPE_CHECKING:
    from ase import Atoms

_NEEDED_BY = "Writing structure files"


def write_extxyz(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write extended XYZ: everything, with eight decimals."""
    extxyz = OptionalDependency.ASE.load("io.extxyz", needed_by=_NEEDED_BY)
    left_out: set[str] = set()
    with place.open("w", encoding="utf-8") as file:
        for atoms in images:
            image, names = storable(atoms)
            left_out.update(names)
            extxyz.write_extxyz(file, [image])
    if left_out:
        text = f"Left out, as extended XYZ has no place for it: {', '.join(f'`{name}`' for name in sorted(left_out))}."
        warnings.warn(AthanorWarning(text), stacklevel=2)


def write_traj(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write a trajectory of ASE: everything, exact."""
    trajectory = OptionalDependency.ASE.load("io.trajectory", needed_by=_NEEDED_BY)
    with trajectory.TrajectoryWriter(place, "w") as writer:
        for atoms in images:
            writer.write(atoms)


def write_cif(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write one CIF of many blocks: elements, cell and fractional positions."""
    cif = OptionalDependency.ASE.load("io.cif", needed_by=_NEEDED_BY)
    with place.open("wb") as file:
        cif.write_cif(file, images, wrap=False)


def write_xdatcar(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write an XDATCAR: elements, cell of each frame and fractional positions."""
    vasp = OptionalDependency.ASE.load("io.vasp", needed_by=_NEEDED_BY)
    with place.open("w", encoding="utf-8") as file:
        vasp.write_vasp_xdatcar(file, map(_open, of_one_composition(images, "An XDATCAR")))


def _open(atoms: Atoms) -> Atoms:
    """Return atoms that ASE 3.27 does not wrap when it writes them."""
    copy = atoms.copy()
    copy.pbc = False
    return copy


def write_poscars(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write a folder of POSCAR files by system and step: elements, cell, positions, velocities, what is fixed."""
    vasp = OptionalDependency.ASE.load("io.vasp", needed_by=_NEEDED_BY)
    place.mkdir()
    words = contents.words()
    numbers: Counter[int] = Counter()
    for atoms in images:
        system = contents.id_of(atoms)
        number = atoms.info.get("step", 0) if system >= 0 else numbers[system]
        numbers[system] += 1
        text = io.StringIO()
        vasp.write_vasp(text, atoms)
        (place / f"POSCAR_{words[system]}_{number:08d}").write_text(text.getvalue(), encoding="utf-8")


def of_one_composition(images: Iterable[Atoms], title: str) -> Iterator[Atoms]:
    """Yield frames, whose atoms must be those of the first one.

    Raises
    ------
    InputError
        At the first one that has others.
    """
    first: np.ndarray | None = None
    for number, atoms in enumerate(images):
        if first is None:
            first = atoms.numbers
        elif not np.array_equal(first, atoms.numbers):
            raise InputError(
                f"{title} holds one system, and frame {number} has other atoms than frame 0. Nothing was written; "
                f"choose one system, or write extxyz, traj or poscar."
            )
        yield atoms


def charges_of(atoms: Atoms) -> np.ndarray | None:
    """Return charges, which a model computed or the user gave."""
    computed = (atoms.calc.results if atoms.calc else {}).get("charges")
    return atoms.get_initial_charges() if computed is None and atoms.has("initial_charges") else computed
