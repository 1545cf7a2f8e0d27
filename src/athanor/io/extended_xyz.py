"""What extended XYZ can hold of ASE atoms, so that a file that was written can be read.

ASE's writer stumbles over labels called like a result, and writes text, keys and columns that its reader takes for
something else. Numbers of the structure itself and its results pass through here untouched.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import numpy as np

from athanor._optional import OptionalDependency

_COLUMN = re.compile(r"[A-Za-z_][\w.-]*")
_WRITTEN_BY_ASE = frozenset({"Lattice", "Properties", "pbc", "move_mask"})


def storable(atoms: Any) -> tuple[Any, list[str]]:
    """Return a copy of `atoms` that survives extended XYZ, and the names of what had to be left out.

    Results of the calculator replace labels of the same name in ``info`` and ``arrays``. Text that a reader would take
    for something else, such as ``"001"`` or several lines, is written as JSON, as ASE does with lists.

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
        if key in _WRITTEN_BY_ASE or not _survives_round_trip(key, 1) or not _is_readable_tensor(key, value):
            left_out.append(key)
        else:
            copy.info[key] = _as_text(key, value)
    for name, column in atoms.arrays.items():
        if name not in ("numbers", "positions") and (name in results or not _is_column(name, column)):
            del copy.arrays[name]
            left_out += [] if name in results else [name]
    return copy, left_out


def _as_text(key: str, value: Any) -> Any:
    """Return `value`, as JSON if ASE would read it back as something else."""
    empty = isinstance(value, np.ndarray) and value.size == 0
    if not (value is None or empty or (isinstance(value, str) and not _survives_round_trip(key, str(value)))):
        return value
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    return "_JSON " + json.dumps(plain).replace("\\", "\\\\")  # the reader takes away one of two


@functools.lru_cache(maxsize=1024)
def _survives_round_trip(key: str, value: str | int) -> bool:
    """Whether ASE reads back what it writes of an entry, and of the one behind it."""
    extxyz = OptionalDependency.ASE.load("io.extxyz", needed_by="Writing structure files")
    entries = {key: value, "behind": 1}
    line = extxyz.key_val_dict_to_str(entries)
    if len(line.splitlines()) != 1:
        return False
    try:
        line.encode()  # a file name need not be text
        found = extxyz.key_val_str_to_dict(line)
    except (ValueError, IndexError):
        return False
    return list(found) == list(entries) and type(found[key]) in (str, np.int64) and found[key] == value


def _is_readable_tensor(key: str, value: Any) -> bool:
    """Whether the reader takes it, if it is a stress or virial: an array of nine numbers, or of six for a stress."""
    if key not in ("stress", "virial"):
        return True
    sizes = (6, 9) if key == "stress" else (9,)
    return isinstance(value, np.ndarray) and value.dtype.kind in "if" and value.size in sizes


def _is_column(name: str, values: np.ndarray) -> bool:
    """Whether an array of atoms is one that the format has a type for; text must be words."""
    if name in _WRITTEN_BY_ASE or not _COLUMN.fullmatch(name) or values.ndim > 2 or values.size == 0:
        return False
    if values.dtype.kind == "U":
        return all(len(word.split()) == 1 for word in values.ravel().tolist())
    return values.dtype.kind in "fib"
