"""Further outputs of the model, such as magnetic moments: where they are computed, and what of them is in the table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import torch

from athanor._values import did_you_mean
from athanor.data.fields import FIELDS
from athanor.dynamics.evaluate import compute_apart, field_for, is_of_model
from athanor.errors import InputError
from athanor.neighbors.build import compute_neighbors

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_ALWAYS = frozenset({"energy", "forces", "stress"})
"""What a run computes and shows anyway."""


def check_properties(names: Iterable[str], model: Any) -> None:
    """Refuse names that are no outputs of a model.

    Raises
    ------
    InputError
        With the name, the nearest one, and all there are.
    """
    outputs = model.model_config.outputs
    for name in names:
        if name not in outputs:
            called = model.model_card.name or type(model).__name__
            raise InputError(
                f"`properties` names {name!r}, which {called} does not compute.{did_you_mean(name, outputs)} "
                f"It computes {', '.join(sorted(outputs))}."
            )


def computed_properties(names: Collection[str], model: Any) -> frozenset[str]:
    """Return what a run with `model` computes beyond energy, forces and stress: `names`, and what is active anyway."""
    config = model.model_config
    return (frozenset(names) | (frozenset(config.active_outputs or ()) & config.outputs)) - _ALWAYS


def logged_properties(names: Collection[str], model: Any) -> list[str]:
    """Return which of the `computed_properties` are one number for each system, as a column of the log is."""
    rows = {name: FIELDS[name] for name in computed_properties(names, model) if name in FIELDS}
    return sorted(name for name, row in rows.items() if row.level == "system" and row.shape == (1,))


def store_properties(model: Any, batch: Batch, names: Collection[str], systems: torch.Tensor) -> torch.Tensor:
    """Compute outputs of some systems as they stand and write them to the batch, in place; what is fresh stays so.

    Parameters
    ----------
    model
        A wrapped model.
    batch
        Changed in place: what is not known of the others is NaN, or what it was.
    names
        Outputs of the model. What is there anyway is left out, as is what belongs to pairs, or to nothing in the batch.
    systems
        Bool [B]. Of those that failed, and where the model raises, nothing becomes known.

    Returns
    -------
    torch.Tensor
        Bool [B]: of which systems they are known now.
    """
    names, systems = frozenset(names) - _ALWAYS, systems & (batch.failure_code[:, 0] == 0)
    if not names or not bool(systems.any()):
        return torch.zeros_like(systems)
    systems = systems & batch.energy[:, 0].isfinite()
    if not bool(systems.any()):
        return systems
    part = batch.index_select(systems).without_pairs()
    if (config := model.model_config.neighbor_config) is not None:
        compute_neighbors(part, config=config)
    try:
        found = compute_apart(model, part, frozenset(names))
    except Exception as error:
        if not is_of_model(error):
            raise
        places, known = systems.nonzero()[:, 0], torch.zeros_like(systems)
        if len(places) > 1:  # the run goes on; what the model can not say of a system stays unknown
            for half in places.tensor_split(2):
                chosen = torch.zeros_like(systems)
                chosen[half] = True
                known |= store_properties(model, batch, names, chosen)
        return known
    rows = {"system": systems, "node": systems[batch.batch_idx]}
    with batch.keeping_results_fresh():
        for name, value in found.items():
            spec = field_for(part, name, value, model)
            if spec is None or spec.level == "edge":
                continue
            if name not in batch:
                if spec.name in part.custom_fields and name not in batch.custom_fields:
                    batch.register_field(spec)
                unknown = math.nan if value.is_floating_point() else 0
                batch.set_field(name, value.new_full((len(rows[spec.level]), *value.shape[1:]), unknown))
            batch[name][rows[spec.level]] = value.to(batch[name].dtype)
    return systems


def complete_properties(model: Any, batch: Batch, names: Collection[str]) -> None:
    """Compute outputs of every healthy system where it ended, in place; those of the others are unknown."""
    everybody = torch.ones(len(batch), dtype=torch.bool, device=batch.device)
    unknown = ~store_properties(model, batch, names, everybody)
    for name in frozenset(names) - _ALWAYS:
        if name in batch and batch[name].is_floating_point():
            of_atoms = batch.field_spec(name).level == "node"
            batch[name][unknown[batch.batch_idx] if of_atoms else unknown] = math.nan


def property_columns(batch: Batch, place: int, names: Iterable[str]) -> dict[str, float]:
    """Return the columns of the table on the outputs `names` of one system, if they are numbers.

    One of each system is a column of its name. One of each atom gives two: its sum, and the one largest in size.

    Examples
    --------
    Moments of 2.1, -2.2 and 0.3 µB are ``magmoms_sum`` 0.2 and ``magmoms_largest`` -2.2.
    """
    atoms, columns = batch.batch_idx == place, {}
    for name in sorted(names):
        value = batch.get(name)
        if value is None or value.dtype == torch.bool or value.is_complex():
            continue
        if batch.field_spec(name).level == "system" and value[place].numel() == 1:
            columns[name] = float(value[place].item())
        elif batch.field_spec(name).level == "node" and value.shape[1:].numel() == 1:
            of_atoms = value[atoms].reshape(-1).double()
            columns |= {
                f"{name}_sum": float(of_atoms.sum()),
                f"{name}_largest": float(of_atoms[of_atoms.abs().argmax()]),
            }
    return columns
