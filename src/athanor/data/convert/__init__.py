"""Structures from and to other programs' objects, looked up by the type's name so that nothing foreign is imported.

`from_any` takes ASE atoms and pymatgen structures; the converters are in `ase` and `pymatgen` beside this file.
"""

from __future__ import annotations

from typing import Any

from athanor.data.atomic_data import AtomicData
from athanor.errors import InputError

_CONVERTERS = {
    ("ase", "Atoms"): AtomicData.from_atoms,
    ("pymatgen", "SiteCollection"): AtomicData.from_structure,
}


def from_any(structure: Any, **kwargs: Any) -> AtomicData:
    """Make a structure of whatever is known: `AtomicData`, ASE atoms, a pymatgen Structure or Molecule.

    Parameters
    ----------
    structure
        The object; never changed.
    **kwargs
        Handed to the converter.

    Raises
    ------
    InputError
        If no converter knows the type.
    """
    if isinstance(structure, AtomicData):
        return structure
    for base in type(structure).__mro__:
        converter = _CONVERTERS.get((base.__module__.partition(".")[0], base.__name__))
        if converter is not None:
            return converter(structure, **kwargs)
    raise InputError(
        f"A {type(structure).__module__}.{type(structure).__qualname__} can not be made a structure. "
        f"Pass AtomicData, ASE Atoms, or a pymatgen Structure or Molecule."
    )


__all__ = ["from_any"]
