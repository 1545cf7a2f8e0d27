"""H5MD 1.1 files (https://nongnu.org/h5md): HDF5 with a group for each system, in which every quantity has its unit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor._optional import OptionalDependency
from athanor.io.export.ase_files import charges_of
from athanor.io.export.formats import Contents
from athanor.io.export.standard_cell import standard_frame
from athanor.units import kJ_per_mol

if TYPE_CHECKING:
    from ase import Atoms

_ALONE = "trajectory"
"""What the group of the only system is called: MDAnalysis looks for it."""
_UNITS = {
    "position": "Angstrom", "box/edges": "Angstrom", "velocity": "Angstrom fs-1", "charge": "e", "time": "fs",
    "force": "kJ mol-1 Angstrom-1", "potential_energy": "eV",
}  # fmt: skip
"""Of forces it is the only one with an energy that MDAnalysis knows, and it refuses files with another."""
_BUFFER_BYTES, _CHUNK_BYTES = 1 << 20, 1 << 16


def write_h5md(place: Path, images: Iterable[Atoms], contents: Contents) -> None:
    """Write elements, masses, positions and cells, with velocities, forces, charges and energies where they are known.

    What is known of some frames of a system only is NaN in the others.
    """
    h5py = OptionalDependency.H5PY.load(needed_by="An H5MD file")
    from athanor import __version__

    with h5py.File(place, "w") as file:
        head = file.create_group("h5md")
        head.attrs["version"] = (1, 1)
        head.create_group("author").attrs["name"] = "athanor"
        head.create_group("creator").attrs.update({"name": "athanor", "version": __version__})
        words = contents.words() if len(contents.labels) > 1 else dict.fromkeys(contents.labels, _ALONE)
        current, system = None, None
        for atoms in images:
            if system is None or contents.id_of(atoms) != current:
                if system is not None:
                    system.flush()
                current = contents.id_of(atoms)
                system = _System(file, words[current], atoms)
            system.add(atoms)
        if system is not None:
            system.flush()


class _System:
    """The groups of one system, and frames of it that wait to be written together."""

    def __init__(self, file: Any, label: str, atoms: Atoms) -> None:
        self._particles = file.create_group(f"particles/{label}")
        self._observables = file.create_group(f"observables/{label}")
        boundary = ["periodic" if periodic else "none" for periodic in atoms.pbc]
        self._particles.create_group("box").attrs.update({"dimension": 3, "boundary": np.array(boundary, dtype="S")})
        self._particles["species"] = atoms.numbers
        self._particles["mass"] = atoms.get_masses()
        self._particles["mass"].attrs["unit"] = "u"
        self._columns: dict[str, Any] = {}
        self._waiting: list[dict[str, Any]] = []
        self._written = self._bytes = 0

    def add(self, atoms: Atoms) -> None:
        """Take a frame, and write those that wait if they are many."""
        frame, results = standard_frame(atoms), (atoms.calc.results if atoms.calc else {})
        values = {
            "step": int(atoms.info.get("step", 0)),
            "time": float(atoms.info.get("time", 0.0)),
            "position": frame.positions,
            "box/edges": frame.cell,
            "velocity": frame.velocities,
            "force": None if frame.forces is None else frame.forces / kJ_per_mol,
            "charge": charges_of(atoms),
            "potential_energy": results.get("energy"),
        }
        known = {name: np.asarray(value) for name, value in values.items() if value is not None}
        self._waiting.append(known)
        self._bytes += sum(value.nbytes for value in known.values())
        if self._bytes >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the frames that wait."""
        for frame in self._waiting:
            for name in [name for name in frame if name not in self._columns]:
                self._columns[name] = self._make(name, frame[name])
        after = self._written + len(self._waiting)
        for name, column in self._columns.items():
            absent = np.full(column.shape[1:], np.nan)
            column.resize(after, axis=0)
            column[self._written :] = np.stack([frame.get(name, absent) for frame in self._waiting])
        self._written, self._waiting, self._bytes = after, [], 0

    def _make(self, name: str, like: np.ndarray) -> Any:
        """Return a new column, which is NaN in the frames before; step and time are the same two for all."""
        if name in ("step", "time"):
            group = self._particles.require_group("position")
        else:
            group = (self._observables if name == "potential_energy" else self._particles).require_group(name)
            for stamp in ("step", "time"):
                if stamp not in group:
                    group[stamp] = self._columns[stamp]
        column = group.create_dataset(
            name if name in ("step", "time") else "value",
            shape=(self._written, *like.shape),
            maxshape=(None, *like.shape),
            chunks=(max(1, min(_CHUNK_BYTES // like.nbytes, len(self._waiting))), *like.shape),
            dtype=like.dtype,
            fillvalue=np.nan if like.dtype.kind == "f" else 0,
        )
        if name in _UNITS:
            column.attrs["unit"] = _UNITS[name]
        return column
