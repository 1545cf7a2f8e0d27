"""Columns of the table of a run, as ``summary.csv`` and ``summary.json`` have them. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from athanor._optional import OptionalDependency
from athanor.workflows.readable import count

ANGLES = ("alpha", "beta", "gamma")
"""Angles of a cell: between b and c, a and c, a and b."""


def in_words(status: str) -> str:
    """Return a status as part of a sentence: ``at the step limit``."""
    return _IN_WORDS.get(status, status)


_IN_WORDS = {"step_limit": "at the step limit", "not_started": "not started"}


def outcome_columns(reason: str) -> dict[str, Any]:
    """Return the columns of the table that say how a system ended: `status`, one word, and `reason` of a failure.

    Examples
    --------
    >>> outcome_columns("step limit"), outcome_columns("failed: atoms too close")
    ({'status': 'step_limit', 'reason': None}, {'status': 'failed', 'reason': 'atoms too close'})
    """
    status, _, why = reason.partition(": ")
    return {"status": status.replace(" ", "_"), "reason": why or None}


def count_outcomes(outcomes: Mapping[str, int]) -> str:
    """Return ``83 systems: 80 converged, 3 failed``."""
    parts = ", ".join(f"{number} {in_words(status)}" for status, number in outcomes.items())
    return f"{count(sum(outcomes.values()), 'system')}: {parts}"


def cell_columns(cell: Any, pbc: Any, atoms: int) -> dict[str, float | None]:
    """Return the columns of the table on a cell: its lengths (Å), angles (degrees), volume (Å³) and volume per atom.

    Only periodic directions count: a slab has no third length, and no volume. `cell` is [3, 3], `pbc` [3].

    Examples
    --------
    >>> columns = cell_columns([[3, 0, 0], [0, 3, 0], [0, 0, 25]], (True, True, False), atoms=4)
    >>> {name: value for name, value in columns.items() if value is not None}
    {'a': 3.0, 'b': 3.0, 'gamma': 90.0}
    """
    from ase.geometry import cell_to_cellpar

    lengths, angles = np.split(cell_to_cellpar(cell), 2)
    between = [bool(pbc[axis - 2] and pbc[axis - 1]) for axis in range(3)]  # the other two directions
    volume = float(abs(np.linalg.det(cell))) if all(pbc) else None
    return {
        **{name: float(lengths[axis]) if pbc[axis] else None for axis, name in enumerate("abc")},
        **{name: float(angles[axis]) if between[axis] else None for axis, name in enumerate(ANGLES)},
        "volume": volume,
        "volume_per_atom": None if volume is None else volume / atoms,
    }


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return the table as a pandas DataFrame, whose index is that of the systems.

    Raises
    ------
    OptionalDependencyError
        If pandas is not installed.
    """
    pandas = OptionalDependency.PANDAS.load(needed_by="to_pandas")
    return pandas.DataFrame(list(rows), columns=None if rows else ["index"]).set_index("index")


def tell_apart(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that tell systems of one name apart: their numbers and what else differs; none if names do."""
    same: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        same.setdefault(row["system"], []).append(row)
    groups = [group for group in same.values() if len(group) > 1]
    found = [name for name in _APART if any(len({row.get(name) for row in group}) > 1 for group in groups)]
    if "index_in_file" in found and all(row["index_in_file"] == row["index"] for row in rows):
        found.remove("index_in_file")  # the number says it
    return found


def note_apart(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return ``3, Cu4, from 200 fs``: what `columns`, as of `tell_apart`, say of a system."""
    return ", ".join(_APART[name].format(row[name]) for name in columns if row.get(name) is not None)


_APART = {"index": "{}", "formula": "{}", "file": "{}", "index_in_file": "frame {}", "start_time": "from {:.10g} fs"}
