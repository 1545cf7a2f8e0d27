"""Where the systems of a run come from: files, named collections, or objects handed in from Python.

Input order is kept. Every system remembers its file, its index there and its name; `supercell` repeats their cells.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor._optional import OptionalDependency
from athanor.errors import InputError
from athanor.io.structures import read_structures
from athanor.workflows.spec import SourceSpec

if TYPE_CHECKING:
    from ase import Atoms

_LAST_ELEMENT = 118


@dataclass(slots=True)
class System:
    """One system of a run, as it came in.

    Parameters
    ----------
    atoms
        ASE atoms.
    name, file, index
        What to call it, the file or collection it came from, its number there.
    repeats
        How many source cells it holds.
    lost_velocities
        Whether it had velocities before it was repeated.
    reference_volume
        Volume of the source's cell in Å³, if it is a value from the literature.
    source
        Where that value comes from.
    """

    atoms: Atoms
    name: str
    file: str = ""
    index: int = 0
    repeats: int = 1
    lost_velocities: bool = False
    reference_volume: float | None = None
    source: str = ""

    @property
    def is_periodic(self) -> bool:
        """Whether any direction is periodic."""
        return bool(self.atoms.pbc.any())


def load_sources(sources: Sequence[SourceSpec]) -> list[System]:
    """Read every source of a job, in order.

    Raises
    ------
    InputError
        If a file or collection can not be used; nothing has run then.
    """
    systems: list[System] = []
    for source in sources:
        loaded = _from_collection(source) if source.collection is not None else _from_file(source)
        for system in loaded:
            if source.compare_cell:
                _keep_cell_as_reference(system)
            systems.append(system)
    check_systems(systems)
    return systems


def from_python(structures: Any) -> list[System]:
    """Make systems of what a caller hands in.

    Parameters
    ----------
    structures
        ASE atoms, a path, `AtomicData`, a `Batch`, or a sequence of these in any mixture; or what a run returned.

    Raises
    ------
    InputError
        If an item is of another type, or there is none.
    """
    systems: list[System] = []
    for item in _one_by_one(structures):
        if isinstance(item, str | os.PathLike):
            systems.extend(_from_file(SourceSpec(file=Path(item))))
        else:
            atoms = _as_atoms(item)
            name = str(atoms.info.get("name") or atoms.get_chemical_formula())
            systems.append(System(atoms, name, index=len(systems)))
    check_systems(systems)
    return systems


def check_systems(systems: Sequence[System]) -> None:
    """Refuse what no run can take: no system, no atoms, positions or cells that make no sense.

    Raises
    ------
    InputError
        The text names the system and the file.
    """
    if not systems:
        raise InputError("There is no structure to run. Pass at least one file, atoms object or Batch.")
    for number, system in enumerate(systems):
        _check_system(system.atoms, describe_system(number, system))


def describe_system(number: int, system: System) -> str:
    """Return ``system 3 (Cu, frame 0 of `copper.cif`)``."""
    origin = f", frame {system.index} of `{system.file}`" if system.file else ""
    return f"system {number} ({system.name}{origin})"


def _check_system(atoms: Atoms, where: str) -> None:
    import numpy as np

    if len(atoms) == 0:
        raise InputError(f"{where} has no atoms. Leave it out.")
    unknown = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > _LAST_ELEMENT))
    if unknown.size:
        number = int(atoms.numbers[unknown[0]])
        name = "`X`" if number == 0 else f"of atomic number {number}"
        raise InputError(f"atom {unknown[0]} of {where} is {name}, which is no element. Give each atom its element.")
    for name in ("positions", "momenta"):
        values = atoms.arrays.get(name, np.zeros((1, 3)))
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            found = ", ".join(f"{value:g}" for value in values[bad[0]])
            raise InputError(
                f"atom {bad[0]} ({atoms.symbols[bad[0]]}) of {where} has {name} ({found}); they must be finite. "
                f"Repair it, or leave this frame out with `index`."
            )
    cell = atoms.cell.array
    if atoms.pbc.any() and not (np.isfinite(cell).all() and abs(atoms.cell.volume) > 1e-6):
        raise InputError(
            f"{where} is periodic along {_axes(atoms.pbc)}, but its cell has no volume: {cell.tolist()}. "
            f"Give it a cell, or set `pbc` to False."
        )


def _axes(pbc: Any) -> str:
    return ", ".join(axis for axis, periodic in zip("abc", pbc, strict=True) if periodic)


def _from_file(source: SourceSpec) -> list[System]:
    found = read_structures(str(source.file), index=source.index)
    return [System(item.atoms, item.name, item.file, item.index) for item in found]


def _from_collection(source: SourceSpec) -> list[System]:
    text = str(source.collection)
    library, _, name = text.partition(":")
    if library != "ase" or not name:
        raise InputError(f"`collection: {text}` is not known; write `ase:NAME`, for example `ase:dcdft`.")
    collections = OptionalDependency.ASE.load("collections", needed_by="Reading a collection")
    collection = getattr(collections, name, None)
    if collection is None or not hasattr(collection, "names"):
        known = [
            entry for entry in dir(collections) if hasattr(getattr(collections, entry), "names") and entry.islower()
        ]
        raise InputError(f"ASE has no collection {name!r}; it has {', '.join(known)}.")
    chosen = source.names or tuple(collection.names)
    unknown = [entry for entry in chosen if entry not in collection.names]
    if unknown:
        raise InputError(
            f"`{text}` has no {', '.join(unknown[:3])}; it has {', '.join(list(collection.names)[:8])} ..."
        )
    systems = []
    for entry in chosen:
        atoms = collection[entry]
        index = list(collection.names).index(entry)
        systems.append(System(atoms, str(entry), text, index, source=text))
    return systems


def _keep_cell_as_reference(system: System) -> None:
    if not system.atoms.pbc.all():
        raise InputError(
            f"`compare_cell` is set, but {system.name} of `{system.file}` is not periodic in 3 directions."
        )
    system.reference_volume = float(system.atoms.cell.volume)
    system.source = str(system.atoms.info.get("source", system.source or system.file))


def _one_by_one(structures: Any) -> Iterator[Any]:
    """Yield each structure of what a caller hands in; those of a batch as ASE atoms."""
    of_a_run = getattr(structures, "structures", None)
    if isinstance(of_a_run, list):
        structures = of_a_run
    elif not isinstance(structures, Iterable) or isinstance(structures, str | os.PathLike) or _is_system(structures):
        structures = [structures]
    for item in structures:
        yield from item.to_atoms() if hasattr(item, "num_graphs") and hasattr(item, "to_atoms") else [item]


def _is_system(item: Any) -> bool:
    """Whether it is ASE atoms, `AtomicData` or a `Batch`, which are iterable too."""
    return any(hasattr(item, name) for name in ("get_chemical_formula", "atomic_numbers", "num_graphs"))


def _as_atoms(item: Any) -> Any:
    ase = OptionalDependency.ASE.load(needed_by="Running structures")
    if isinstance(item, ase.Atoms):
        return item.copy()
    if hasattr(item, "atomic_numbers") and hasattr(item, "positions"):
        from athanor.data.convert.ase import to_atoms

        return to_atoms(item)
    raise InputError(
        f"`structures` holds a {type(item).__name__}; pass ASE atoms, paths of files, AtomicData, a Batch, or "
        f"what a run returned."
    )
