"""What is compared: the structures of a run, an evaluation or a file, with the results that they carry."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor._optional import OptionalDependency
from athanor.analysis import Configuration
from athanor.data.convert.ase import stored_results, to_atoms
from athanor.errors import InputError
from athanor.io.structures import Structure, find_structures
from athanor.workflows.earlier_runs import is_results, structures_of_results
from athanor.workflows.folder import RUN
from athanor.workflows.results import RunResult
from athanor.workflows.saved_run import SavedRun

if TYPE_CHECKING:
    from ase import Atoms

_MOST_NAMED = 3


@dataclass(slots=True)
class Side:
    """One side of a comparison.

    Parameters
    ----------
    name
        What messages call it.
    structures
        In its order, as a run left them; those that can not be read have a `problem`.
    run
        The run whose frames they are the end of, if there is one.
    energy_key, forces_key
        Names in `info` and `arrays` that win over the results of the calculator.
    images
        Frames of a file that has no run.
    """

    name: str
    structures: list[Structure]
    run: SavedRun | None = None
    energy_key: str = "energy"
    forces_key: str = "forces"
    images: list[Structure] = field(default_factory=list)

    def by_system(self) -> Side:
        """Return this side with one structure for each system, the last one, where a file holds frames of some."""
        if self.run is not None:
            return self
        last = {_identity(each): each for each in self.structures}
        return replace(self, structures=list(last.values()), images=self.structures)

    def energy(self, atoms: Atoms) -> float:
        """Return the energy that `atoms` carry, eV; NaN if there is none."""
        value: Any = atoms.info.get(self.energy_key, stored_results(atoms).get("energy"))
        return float(value) if value is not None and np.size(value) == 1 else float("nan")

    def forces(self, atoms: Atoms) -> np.ndarray | None:
        """Return the forces that `atoms` carry, [N, 3], eV/Å."""
        value: Any = atoms.arrays.get(self.forces_key, stored_results(atoms).get("forces"))
        return np.asarray(value, dtype=float) if np.shape(value) == (len(atoms), 3) else None

    def stress(self, atoms: Atoms) -> np.ndarray | None:
        """Return the stress that `atoms` carry, [6] in Voigt's order, eV/Å³."""
        value: Any = stored_results(atoms).get("stress", atoms.info.get("stress"))
        if np.shape(value) == (3, 3):
            value = np.asarray(value).flat[[0, 4, 8, 5, 2, 1]]
        return np.asarray(value, dtype=float) if np.shape(value) == (6,) else None

    def has_forces(self) -> bool:
        """Whether any of the structures carries forces."""
        return any(self.forces(each.atoms) is not None for each in self.structures)

    def frames(self, place: int) -> dict[int, Atoms]:
        """Return step -> frame of one of `structures`.

        Raises
        ------
        InputError
            If there are no frames, or they do not say their steps.
        """
        if self.run is not None:
            images = self.run.atoms(place)
        else:
            wanted = _identity(self.structures[place])
            images = [each.atoms for each in self.images if _identity(each) == wanted]
        found = {int(image.info["step"]): image for image in images if "step" in image.info}
        if not found:
            raise InputError(
                f"`{self.name}` has no frames: nothing in it says its `step`. Compare results folders of runs, or "
                f"structures written from `run.atoms(...)`."
            )
        return found

    def names(self, places: Sequence[int]) -> str:
        """Return what some of `structures` are called, and how many more there are."""
        names = [self.structures[place].name for place in places[:_MOST_NAMED]]
        return ", ".join(names) + (f" and {len(places) - _MOST_NAMED} more" if len(places) > _MOST_NAMED else "")

    def labels_like(self, word: str) -> list[str]:
        """Return names in `info` and `arrays` that hold `word`: what a user may have meant."""
        found: dict[str, None] = {}
        for structure in self.structures:
            for name in (*structure.atoms.info, *structure.atoms.arrays):
                if word in name.lower() and name != word:
                    found[name] = None
        return list(found)


def _identity(structure: Structure) -> tuple[Any, ...]:
    return structure.name, structure.atoms.info.get("system_id"), structure.atoms.get_chemical_formula()


def side_of(given: Any, name: str = "", *, energy_key: str = "energy", forces_key: str = "forces") -> Side:
    """Read one side.

    Parameters
    ----------
    given
        A results folder, a trajectory store or a file of structures; what a run, an evaluation or `athanor.open`
        returned; ASE atoms, `AtomicData`, a `Batch`, or a list of these.
    name
        What to call it; by default its path.
    energy_key, forces_key
        See `Side`.

    Raises
    ------
    InputError
        If it is none of these, does not exist, or holds no structure.
    StorageError
        If a results folder is damaged.
    """
    run: SavedRun | None = None
    if isinstance(given, RunResult):
        rows = given.rows
        structures = [
            Structure(atoms, row["file"], row["index_in_file"], row["system"])
            for atoms, row in zip(given.structures, rows, strict=True)
        ]
        run = SavedRun(given.folder) if given.folder is not None else None
        name = name or ("" if given.folder is None else str(given.folder))
    elif isinstance(given, SavedRun | str | os.PathLike):
        path = Path(given.folder if isinstance(given, SavedRun) else os.path.expanduser(given))
        name = name or str(path)
        if is_results(path):
            structures = structures_of_results(path, None)
            run = SavedRun(path) if (path / RUN).is_file() else None
        else:
            structures = find_structures(str(path))
    else:
        structures = [
            Structure(atoms, "", index, str(atoms.info.get("name") or atoms.get_chemical_formula()))
            for index, atoms in enumerate(_atoms_of(given))
        ]
    if not structures:
        raise InputError(f"`{name or given!r}` holds no structure; there is nothing to compare.")
    return Side(name, structures, run, energy_key, forces_key)


def configuration_of(atoms: Atoms) -> Configuration:
    """Return where the atoms are, as `athanor.analysis` takes it."""
    return Configuration(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def _atoms_of(given: Any) -> Iterator[Any]:
    """Yield ASE atoms with their results."""
    ase = OptionalDependency.ASE.load(needed_by="Comparing structures")
    if isinstance(given, ase.Atoms):
        yield given
    elif hasattr(given, "num_graphs") and hasattr(given, "to_atoms"):
        yield from given.to_atoms()
    elif hasattr(given, "atomic_numbers"):
        yield to_atoms(given)
    elif isinstance(given, list | tuple):
        for item in given:
            yield from _atoms_of(item)
    else:
        raise InputError(
            f"a {type(given).__name__} can not be compared; pass a results folder, a file of structures, what a run or "
            f"an evaluation returned, or ASE atoms."
        )
