"""Which systems a run takes: each is converted and looked at alone, and one that can not be used stops nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from athanor._memory import free_memory
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.fields import FIELDS
from athanor.dynamics.admission import (
    MOST_NEIGHBORS,
    closest_pairs,
    expected_neighbors,
    flat_cells,
    unknown_elements,
)
from athanor.dynamics.failures import FailureCode, explain_failure
from athanor.errors import MissingFieldError, in_words
from athanor.neighbors.skin import build_pair_list
from athanor.workflows import build
from athanor.workflows.readable import format_bytes
from athanor.workflows.spec import CalculationSpec, RunSpec
from athanor.workflows.structures import System

_BYTES_PER_PAIR = 16
"""Of a list while it is searched: what is found is remembered, then written."""


def admit(spec: CalculationSpec, systems: Sequence[System], model: Any) -> tuple[list[System], Batch]:
    """Return the systems, more of them set aside, and a batch of those that `model` can be asked about.

    Parameters
    ----------
    spec
        What will be done with them.
    systems
        In input order, repeated already.
    model
        A wrapped model.

    Notes
    -----
    The batch is empty if no system is left.
    """
    found, data, config = list(systems), {}, model.model_config
    reads, moves = config.required_inputs | config.optional_inputs, isinstance(spec, RunSpec)
    for index, system in enumerate(systems):
        if not system.problem:
            try:
                data[index] = _with_labels(build.convert(system, spec.dtype, reads=reads, moves=moves), model)
            except Exception as error:  # of libraries that read what others wrote
                found[index] = system.set_aside(in_words(error))
    if not data:
        return found, Batch.empty()
    state, places = Batch.from_data_list(list(data.values())), list(data)
    problems = problems_of(state, model)
    for row, problem in problems.items():
        found[places[row]] = found[places[row]].set_aside(problem)
    good = [row for row in range(len(state)) if row not in problems]
    if not good:
        return found, Batch.empty()
    return found, state.index_select(torch.tensor(good)) if problems else state


def _with_labels(data: AtomicData, model: Any) -> AtomicData:
    """Return a structure that has the labels which `model` needs; one without is set aside by itself.

    Raises
    ------
    MissingFieldError
        If it lacks one; the text names it.
    """
    for name in sorted(model.model_config.required_inputs & FIELDS.keys() - {"cell", "pbc"}):
        if data.get(name) is None and FIELDS[name].assumed is None:
            raise MissingFieldError(
                f"it has no `{name}`, which {model.model_card.name or type(model).__name__} needs: "
                f"{FIELDS[name].meaning}. Give it in the file, or to the model, if that takes it."
            )
    return data


def problems_of(batch: Batch, model: Any) -> dict[int, str]:
    """Return why `model` can not be asked about systems of a batch, by their index; nothing is computed.

    Parameters
    ----------
    batch
        Any systems; they are not changed.
    model
        A wrapped model; its card says which elements and distances it takes.
    """
    config, floor = model.model_config.neighbor_config, model.model_card.minimum_distance
    unknown = unknown_elements(batch, model).nonzero().flatten().tolist()
    found = {row: explain_failure(batch, row, model, FailureCode.ELEMENT_NOT_KNOWN) for row in unknown}
    if config is None:
        return found
    radius = config.cutoff + (config.skin or build.SKIN)
    found = _not_searchable(batch, radius) | found
    searchable = [row for row in range(len(batch)) if row not in found]
    if floor is None or not searchable:
        return found
    apart = batch.index_select(torch.tensor(searchable))
    build_pair_list(apart, floor, floor, half=True)
    closest = closest_pairs(apart)
    assert closest is not None
    for row in (closest < floor).nonzero().flatten().tolist():
        found[searchable[row]] = explain_failure(apart, row, model, FailureCode.ATOMS_TOO_CLOSE)
    return found


def _not_searchable(batch: Batch, radius: float) -> dict[int, str]:
    """Return why the pairs of a system can not be searched or held, by its index."""
    neighbors, atoms = expected_neighbors(batch, radius).tolist(), batch.num_nodes_list
    flat, free = flat_cells(batch, radius).tolist(), free_memory()
    found = {}
    for row, (count, size) in enumerate(zip(neighbors, atoms, strict=True)):
        needed = _BYTES_PER_PAIR * count * size
        if flat[row]:
            found[row] = (
                f"its cell is too flat for pairs within {radius:g} Å: {batch.cell[row].tolist()}. Correct it; lengths "
                f"are in Å."
            )
        elif count > MOST_NEIGHBORS or needed > free:
            memory = f", {format_bytes(round(needed))} of pairs" if needed > free else ""
            found[row] = (
                f"its {size:,} atoms are too dense: about {count:,.0f} neighbours within {radius:g} Å of each{memory}. "
                f"Correct positions or cell; lengths are in Å."
            )
    return found
