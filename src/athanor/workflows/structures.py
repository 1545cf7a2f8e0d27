"""Where the systems of a run come from: files, named collections, or objects handed in from Python.

Input order is kept. Every system remembers its file, its index there and its name. One that can not be used is a system
too, with its `problem`: the others run without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor._optional import OptionalDependency
from athanor.data.convert.ase import completed_cell
from athanor.errors import InputError
from athanor.io.structures import Structure, find_structures
from athanor.workflows.earlier_runs import is_results, progress_of, structures_of_results
from athanor.workflows.spec import SourceSpec

if TYPE_CHECKING:
    from ase import Atoms

_LAST_ELEMENT = 118
_LEAST_VOLUME = 1e-6
"""Å³."""
_MOST_TOLD = 3
"""Bad systems that an error names."""


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
    id
        By which its noise and its frames go, see `with_ids`.
    problem
        Why it can not be used; empty if it can.
    """

    atoms: Atoms
    name: str
    file: str = ""
    index: int = 0
    repeats: int = 1
    lost_velocities: bool = False
    reference_volume: float | None = None
    source: str = ""
    id: int = -1
    problem: str = ""

    def set_aside(self, problem: str) -> System:
        """Return this system with the reason why it can not be used; the first one found stays."""
        return replace(self, problem=self.problem or problem)

    @property
    def is_periodic(self) -> bool:
        """Whether any direction is periodic."""
        return bool(self.atoms.pbc.any())


def load_sources(sources: Sequence[SourceSpec]) -> list[System]:
    """Read every source of a job, in order; a structure that can not be used has its `problem`.

    Raises
    ------
    InputError
        If a file is not there, or a collection or a choice of frames is none; nothing has run then.
    """
    systems: list[System] = []
    for source in sources:
        loaded = _from_collection(source) if source.collection is not None else _from_file(source)
        for system in loaded:
            if source.compare_cell and not system.problem:
                _keep_cell_as_reference(system)
            systems.append(system)
    return checked(systems)


def from_python(structures: Any) -> list[System]:
    """Make systems of what a caller hands in; a structure that can not be used has its `problem`.

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
    return checked(systems)


def checked(systems: Sequence[System]) -> list[System]:
    """Return the systems, those set aside that no run can take: without atoms, or with senseless positions or cells.

    Raises
    ------
    InputError
        If there is no system.
    """
    if not systems:
        raise InputError("There is no structure to run. Pass at least one file, atoms object or Batch.")
    return [system if system.problem else system.set_aside(_problem_of(system.atoms)) for system in systems]


def usable_indices(systems: Sequence[System], *, strict: bool = False) -> list[int]:
    """Return the indices of the systems that can be used.

    Parameters
    ----------
    systems
        All of them, in order.
    strict
        Whether one that can not be used is a mistake.

    Raises
    ------
    InputError
        If none can be used, or `strict` and not all can; the text says which, and why.
    """
    found = [index for index, system in enumerate(systems) if not system.problem]
    if len(found) == len(systems) or (found and not strict):
        return found
    bad = [(index, system) for index, system in enumerate(systems) if system.problem]
    told = "\n  ".join(f"{describe_system(index, system)}: {system.problem}" for index, system in bad[:_MOST_TOLD])
    more = f"\n  and {len(bad) - _MOST_TOLD} more." if len(bad) > _MOST_TOLD else ""
    raise InputError(told + more)


def with_ids(systems: Sequence[System]) -> list[System]:
    """Return the systems with the ids that their noise and their frames go by.

    One that goes on from an earlier run keeps its id, the first of several with the same. The others get the next ones
    after the largest: their places in the input, if nobody goes on.
    """
    wanted = [progress_of(system.atoms).get("system_id") for system in systems]
    free = max((int(number) + 1 for number in wanted if number is not None), default=0)
    found: list[System] = []
    taken: set[int] = set()
    for system, number in zip(systems, wanted, strict=True):
        if number is None or int(number) in taken:
            number, free = free, free + 1
        taken.add(int(number))
        found.append(replace(system, id=int(number)))
    return found


def describe_system(number: int, system: System) -> str:
    """Return ``system 3 (Cu, frame 0 of `copper.cif`)``."""
    origin = f", frame {system.index} of `{system.file}`" if system.file else ""
    return f"system {number} ({system.name}{origin})"


def _problem_of(atoms: Atoms) -> str:
    """Return why no run can take `atoms`, whatever the model; empty if one can."""
    import numpy as np

    if len(atoms) == 0:
        return "it has no atoms. Leave it out."
    unknown = np.flatnonzero((atoms.numbers < 1) | (atoms.numbers > _LAST_ELEMENT))
    if unknown.size:
        number = int(atoms.numbers[unknown[0]])
        name = "`X`" if number == 0 else f"of atomic number {number}"
        return f"atom {unknown[0]} is {name}, which is no element. Give each atom its element."
    problem = not_finite(atoms, "positions")
    cell = atoms.cell.array
    if problem:
        return problem
    if atoms.pbc.any() and not (np.isfinite(cell).all() and abs(completed_cell(atoms).volume) > _LEAST_VOLUME):
        return (
            f"it is periodic along {_axes(atoms.pbc)}, but its cell has no volume: {cell.tolist()}. Give it a cell, or "
            f"set `pbc` to False."
        )
    return ""


def not_finite(atoms: Atoms, name: str) -> str:
    """Return which atom has vectors called `name`, such as its positions, that are not finite; empty if none has."""
    import numpy as np

    vectors = atoms.arrays.get(name, np.zeros((1, 3)))
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if not bad.size:
        return ""
    found = ", ".join(f"{value:g}" for value in vectors[bad[0]])
    return (
        f"atom {bad[0]} ({atoms.symbols[bad[0]]}) has {name} ({found}); they must be finite. Repair it, or leave this "
        f"frame out with `index`."
    )


def _axes(pbc: Any) -> str:
    return ", ".join(axis for axis, periodic in zip("abc", pbc, strict=True) if periodic)


def _from_file(source: SourceSpec) -> list[System]:
    if source.file is not None and is_results(source.file):
        return [_as_system(item) for item in structures_of_results(source.file, source.time)]
    if source.time is not None:
        raise InputError(f"`{source.file}` is no results folder, so that no `time` of it can be chosen; leave it out.")
    return [_as_system(item) for item in find_structures(str(source.file), index=source.index)]


def _as_system(item: Structure) -> System:
    return System(item.atoms, item.name, item.file, item.index, problem=item.problem)


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
