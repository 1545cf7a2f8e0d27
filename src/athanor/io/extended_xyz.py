"""What extended XYZ can hold of ASE atoms, so that a file that was written can be read, with the same content.

ASE's writer stumbles over labels called like a result, and writes text, keys and columns that its reader takes for
something else. Each entry is tried: it is written as ASE would, or as JSON, if the reader gives it back equal, and left
out if it does not. Numbers of the structure itself and its results pass through here untouched.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from athanor._optional import OptionalDependency

_COLUMN = re.compile(r"[A-Za-z_][\w.-]*")
_WRITTEN_BY_ASE = frozenset({"Lattice", "Properties", "pbc", "move_mask"})
_READ_AS_ANOTHER = frozenset({"Z", "charge", "pos", "species", "symbols"})
"""Columns that the reader takes for the structure itself, or calls otherwise."""
_NOTHING = object()


def storable(atoms: Any) -> tuple[Any, list[str]]:
    """Return a copy of `atoms` that survives extended XYZ, and the names of what had to be left out.

    Results of the calculator replace labels of the same name in ``info`` and ``arrays``. Columns of real numbers keep
    the eight decimals of the format.

    Parameters
    ----------
    atoms
        ASE atoms; they are not changed.
    """
    copy = atoms.copy()
    copy.calc = atoms.calc
    results = getattr(atoms.calc, "results", None) or {}
    left_out = []
    copy.info = {}
    for key, value in atoms.info.items():
        key = str(key)
        if key in results:
            continue
        written = _NOTHING if key in _WRITTEN_BY_ASE or key in copy.info else _as_written(key, value)
        if written is _NOTHING:
            left_out.append(key)
        else:
            copy.info[key] = written
    taken = {f"{name}{axis}" for name in ("positions", "pos") for axis in range(3)}
    for name, values in atoms.arrays.items():
        if name in ("numbers", "positions"):
            continue
        column, names = _as_column(name, values), _names_of_columns(name, values)
        if name in results or column is None or names & taken:
            del copy.arrays[name]
            left_out += [] if name in results else [name]
            continue
        copy.arrays[name] = column
        taken |= names
    return copy, left_out


def _as_written(key: str, value: Any) -> Any:
    """Return `value` in the form in which it comes back equal, as it is or as JSON; `_NOTHING` if there is none."""
    if type(value).__name__ == "Spacegroup":  # of ASE's CIF reader; its writer gives the symbol
        value = value.symbol
    return next((form for form in (value, _as_json(value)) if _comes_back(key, form, value)), _NOTHING)


def _as_json(value: Any) -> Any:
    try:
        text = json.dumps(value, default=lambda entry: entry.tolist())
    except (AttributeError, TypeError, ValueError, RecursionError):
        return _NOTHING
    return "_JSON " + text.replace("\\", "\\\\")  # the reader takes away one of two


def _comes_back(key: str, form: Any, value: Any) -> bool:
    """Whether ASE, given `form` to write, reads `value`, and the entry behind it."""
    extxyz = OptionalDependency.ASE.load("io.extxyz", needed_by="Writing structure files")
    behind = "behind" if key != "behind" else "after"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it skips is not there
            line = extxyz.key_val_dict_to_str({key: form, behind: 1})
            line.encode()  # a file name need not be text
            found = extxyz.key_val_str_to_dict(line)
            if key in extxyz.per_config_properties:  # the reader makes a result of it, and ends where it can not
                extxyz.SinglePointCalculator(extxyz.Atoms(), **{key: found[key]}).results[key]
    except Exception:  # of ASE, for what it has no form for
        return False
    return len(line.splitlines()) == 1 and list(found) == [key, behind] and _is_same(value, found[key])


def _is_same(given: Any, found: Any) -> bool:
    """Whether `found` is what was `given`: a list may come back as an array, and a tuple as a list."""
    if isinstance(given, np.ndarray):
        return given.shape == np.shape(found) and _is_same(given.tolist(), found)
    if isinstance(found, np.ndarray):
        return _is_same(given, found.tolist())
    if isinstance(given, list | tuple):
        return isinstance(found, list) and len(given) == len(found) and all(map(_is_same, given, found))
    if isinstance(given, Mapping):
        return (
            isinstance(found, dict)
            and given.keys() == found.keys()
            and all(map(_is_same, given.values(), found.values()))
        )
    if isinstance(given, bool | np.bool_) or isinstance(found, bool | np.bool_):
        return isinstance(given, bool | np.bool_) and isinstance(found, bool | np.bool_) and bool(given == found)
    if isinstance(given, Real) and isinstance(found, Real):
        return isinstance(given, Integral) <= isinstance(found, Integral) and (
            given == found or given != given != found
        )
    return type(given) is type(found) and given == found


def _as_column(name: str, values: np.ndarray) -> np.ndarray | None:
    """Return an array of atoms as the format has a type for it; None if it would come back as something else."""
    formats = OptionalDependency.ASE.load("io.extxyz", needed_by="Writing structure files")
    reserved = _WRITTEN_BY_ASE | _READ_AS_ANOTHER | set(formats.per_config_properties)
    if name in reserved or not _COLUMN.fullmatch(name) or values.ndim > 2 or values.size == 0:
        return None
    if values.dtype.kind in "fb":
        return values if values.dtype.itemsize <= 8 else None
    if values.dtype.kind in "iu":
        range_of_format = np.iinfo(np.int32)
        fits = int(values.min()) >= range_of_format.min and int(values.max()) <= range_of_format.max
        return values.astype(np.int32) if fits else None
    if values.dtype.kind in "UO" and name not in formats.per_atom_properties:  # the reader makes numbers of these
        words = values.ravel().tolist()
        good = all(isinstance(word, str) and word.split() == [word] and word.isprintable() for word in words)
        return values.astype(object) if good else None
    return None


def _names_of_columns(name: str, values: np.ndarray) -> set[str]:
    """Return what the reader calls the columns of an array."""
    if values.ndim < 2 or values.shape[1] == 1:
        return {name}
    return {f"{name}{column}" for column in range(values.shape[1])}
