"""Why a system was set aside: the codes, their words, and which of its atoms are to blame. Never called in a step."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import torch

from athanor.data.elements import SYMBOLS

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class FailureCode(IntEnum):
    """Why a system was set aside; stored in the field `failure_code`."""

    NONE = 0
    POSITIONS_NOT_FINITE = 1
    VELOCITIES_NOT_FINITE = 2
    CELL_NOT_FINITE = 3
    ENERGY_NOT_FINITE = 4
    FORCES_NOT_FINITE = 5
    STRESS_NOT_FINITE = 6
    ATOMS_TOO_CLOSE = 7
    ELEMENT_NOT_KNOWN = 8
    PRESSURE_WITHOUT_CRYSTAL = 9
    TOO_DENSE = 10
    MODEL_RAISED = 11
    OUT_OF_MEMORY = 12


_TEXTS = {
    FailureCode.NONE: "healthy",
    FailureCode.POSITIONS_NOT_FINITE: "positions became NaN or infinite, or ran away",
    FailureCode.VELOCITIES_NOT_FINITE: "velocities became NaN or infinite",
    FailureCode.CELL_NOT_FINITE: "the cell became NaN or infinite, collapsed, or ran away",
    FailureCode.ENERGY_NOT_FINITE: "the energy became NaN or infinite",
    FailureCode.FORCES_NOT_FINITE: "forces became NaN or infinite",
    FailureCode.STRESS_NOT_FINITE: "the stress became NaN or infinite",
    FailureCode.ATOMS_TOO_CLOSE: "two atoms came closer than the model allows",
    FailureCode.ELEMENT_NOT_KNOWN: "it holds an element that the model does not know",
    FailureCode.PRESSURE_WITHOUT_CRYSTAL: (
        "a target pressure needs a cell that is periodic in all three directions: on a slab it would act on empty space"
    ),
    FailureCode.TOO_DENSE: "its atoms are so dense that their neighbours can not be searched",
    FailureCode.MODEL_RAISED: "the model raised an error",
    FailureCode.OUT_OF_MEMORY: "the memory did not suffice for it alone",
}


_NOT_OF_ATOMS = (FailureCode.NONE, FailureCode.PRESSURE_WITHOUT_CRYSTAL)
"""Codes for which no atom is to blame."""


def describe_failure(code: int) -> str:
    """Return one line of text for a `failure_code`."""
    return _TEXTS[FailureCode(int(code))]


def closest_pair(batch: Batch, system: int) -> tuple[int, int, float] | None:
    """Return the two closest atoms of a system among its listed pairs, counted inside it, and their distance in Å.

    Parameters
    ----------
    batch
        Needs a pair list.
    system
        Index in the batch.

    Returns
    -------
    tuple or None
        None without a list, or if the system has no pairs. An atom and its own image are a pair too.
    """
    pairs = batch.pair_list
    if pairs is None:
        return None
    i, j, shifts = pairs.pair_index(batch)
    mine = batch.batch_idx[i] == system
    i, j, shifts = i[mine], j[mine], shifts[mine]
    positions, cell = batch.positions.detach(), batch.cell_or_zeros.detach()[system]
    distances = torch.linalg.vector_norm(positions[j] - positions[i] + shifts.to(cell.dtype) @ cell, dim=1)
    if not bool(distances.isfinite().any()):
        return None
    best = int(distances.nan_to_num(torch.inf).argmin())
    first = int(batch.batch_ptr[system])
    return int(i[best]) - first, int(j[best]) - first, float(distances[best])


def explain_failure(
    batch: Batch, system: int, model: Any = None, code: int | None = None, notes: Mapping[int, str] | None = None
) -> str:
    """Return why a system was set aside and, where that can be told, by which of its atoms.

    Parameters
    ----------
    batch
        As the run left it: a failed system is in its last good state.
    system
        Index in the batch.
    model
        The model of the run, whose card knows its elements.
    code
        A `FailureCode`; that of the batch by default.
    notes
        What the model said of systems for which it raised, by `system_id`: ``engine.failure_notes``.
    """
    code = int(batch.failure_code[system]) if code is None else code
    text = describe_failure(code) + _after_retries(batch, system)
    if code == FailureCode.ELEMENT_NOT_KNOWN:
        return text if model is None else text + _unknown_element(batch, system, model)
    if code in (FailureCode.MODEL_RAISED, FailureCode.OUT_OF_MEMORY):
        note = (notes or {}).get(int(batch.system_id[system]))
        return f"{text}: {note}" if note else text
    if code in _NOT_OF_ATOMS:
        return text
    pair = closest_pair(batch, system)
    if pair is None:
        return text
    i, j, distance = pair
    who = f"atoms {i} and {j}" if i != j else f"atom {i} and its image"
    return f"{text}; closest pair {distance:.2f} Å, {who}"


def _after_retries(batch: Batch, system: int) -> str:
    count = int(batch.retries[system]) if "retries" in batch else 0
    return f", after {count} {'retry' if count == 1 else 'retries'} with smaller steps" if count else ""


def _unknown_element(batch: Batch, system: int, model: Any) -> str:
    numbers, known = batch.get_data(system).atomic_numbers.tolist(), model.model_card.elements
    return next((f": {SYMBOLS[z]} (Z = {z}), atom {atom}" for atom, z in enumerate(numbers) if z not in known), "")
