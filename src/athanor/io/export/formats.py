"""The table of formats that frames can be exported to: what each is called, and what it can hold."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor._optional import OptionalDependency
from athanor._values import did_you_mean, shown
from athanor.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, slots=True)
class Contents:
    """What is known of frames before they are read.

    Parameters
    ----------
    labels
        Id of each system -> what to call it; each label once. Frames without an id have -1.
    sizes
        Id of each system -> atoms of its frames: one number, unless they are of systems that have no id.
    all_periodic
        Whether every frame has a cell.
    """

    labels: Mapping[int, str]
    sizes: Mapping[int, frozenset[int]]
    all_periodic: bool

    def words(self) -> dict[int, str]:
        """Return what each system is called in names of files and groups: letters that all of them take, each once."""
        words = {number: re.sub(r"[^A-Za-z0-9.+-]+", "-", label).strip("-.") for number, label in self.labels.items()}
        if len({word.lower() for word in words.values()} - {""}) == len(words):  # some disks do not tell cases apart
            return words
        return {number: f"{word}-{number}" for number, word in words.items()}

    @staticmethod
    def id_of(atoms: Atoms) -> int:
        """Return the id of the system of a frame; -1 if it has none."""
        return int(atoms.info.get("system_id", -1))


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format.

    Parameters
    ----------
    name
        What `export` calls it.
    title
        What it is, with an article.
    endings
        Endings of file names that mean it, in lower case.
    home
        Module and name of the function that writes it: ``writer(place, images, contents)``.
    holds_many
        Whether frames of different systems may stand in one file.
    holds_sizes
        Whether the frames of one system may differ in their number of atoms.
    holds_open
        Whether frames without a cell have a place.
    beginning
        Of the name of a file that means it, in upper case, whatever its ending.
    is_folder
        Whether it is a folder with a file for each frame.
    package
        What it is written by, if athanor does not need it otherwise.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    home: str
    holds_many: bool
    holds_sizes: bool
    holds_open: bool
    beginning: str = ""
    is_folder: bool = False
    package: OptionalDependency | None = None

    def check(self, contents: Contents) -> None:
        """Refuse frames that the format has no place for.

        Raises
        ------
        InputError
            If there are some; the text names formats that have.
        OptionalDependencyError
            If the package that writes it is not installed.
        """
        if len(contents.labels) > 1 and not self.holds_many:
            some = ", ".join(list(contents.labels.values())[:3]) + (", ..." if len(contents.labels) > 3 else "")
            raise InputError(
                f"{self.title} holds one system, and frames of {len(contents.labels)} were chosen ({some}). Choose "
                f"one: `--system {next(iter(contents.labels.values()))}`; or write {_which(holds_many=True)}."
            )
        if not self.holds_sizes and (mixed := [sizes for sizes in contents.sizes.values() if len(sizes) > 1]):
            raise InputError(
                f"{self.title} holds frames of one size, and these have {min(mixed[0])} to {max(mixed[0])} atoms. "
                f"Write {_which(holds_sizes=True)}."
            )
        if not contents.all_periodic and not self.holds_open:
            raise InputError(
                f"{self.title} holds crystals, and some of these frames have no cell. Choose others with `--system`, "
                f"or write {_which(holds_open=True, **({} if len(contents.labels) == 1 else {'holds_many': True}))}."
            )
        if self.package is not None:
            self.package.load(needed_by=self.title)

    def write(self, place: Path, images: Iterable[Atoms], contents: Contents) -> None:
        """Write frames to `place`, which does not exist."""
        module, _, name = self.home.partition(":")
        getattr(importlib.import_module(module), name)(place, images, contents)


_HERE = "athanor.io.export"
_ASE = f"{_HERE}.ase_files"
FORMATS: dict[str, ExportFormat] = {
    row.name: row
    for row in (
        ExportFormat("extxyz", "An extended XYZ file", (".extxyz", ".xyz"), f"{_ASE}:write_extxyz", True, True, True),
        ExportFormat("traj", "A trajectory of ASE", (".traj",), f"{_ASE}:write_traj", True, True, True),
        ExportFormat("cif", "A CIF", (".cif",), f"{_ASE}:write_cif", True, True, False),
        ExportFormat(
            "xdatcar", "An XDATCAR", (".xdatcar",), f"{_ASE}:write_xdatcar", False, False, False, beginning="XDATCAR"
        ),
        ExportFormat(
            "poscar", "A folder of POSCAR files", (".poscar",), f"{_ASE}:write_poscars", True, True, False,
            is_folder=True,
        ),
        ExportFormat(
            "lammpstrj", "A LAMMPS dump", (".lammpstrj", ".dump"), f"{_HERE}.lammps_dump:write_lammps_dump",
            False, False, True,
        ),
        ExportFormat(
            "xtc", "An XTC file", (".xtc",), f"{_HERE}.xtc:write_xtc", False, False, True,
            package=OptionalDependency.MDANALYSIS,
        ),
        ExportFormat(
            "h5md", "An H5MD file", (".h5md",), f"{_HERE}.h5md:write_h5md", True, False, True,
            package=OptionalDependency.H5PY,
        ),
    )
}  # fmt: skip
"""Format by name."""


def _which(**needed: Any) -> str:
    """Return the names of the formats that hold something, as a sentence lists them."""
    names = [row.name for row in FORMATS.values() if all(getattr(row, key) is value for key, value in needed.items())]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def format_of(path: Path, name: str | None = None) -> ExportFormat:
    """Return the format called `name`, or the one that the name of a file means.

    Raises
    ------
    InputError
        If there is none.
    """
    if name is not None:
        if name not in FORMATS:
            raise InputError(
                f"`format` is {shown(name)}; it is one of {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}"
            )
        return FORMATS[name]
    for row in FORMATS.values():
        if path.suffix.lower() in row.endings or (row.beginning and path.name.upper().startswith(row.beginning)):
            return row
    endings = ", ".join(row.endings[0] for row in FORMATS.values())
    raise InputError(
        f"`{path}` does not say in which format to write. End its name with {endings}, or name one: `--format poscar` "
        f"makes a folder of POSCAR files."
    )
