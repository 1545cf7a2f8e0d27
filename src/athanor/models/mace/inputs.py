"""What a MACE network reads of a batch, by its own names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from athanor._values import shown
from athanor.data.batch import Batch
from athanor.data.fields import FIELDS
from athanor.errors import InputError
from athanor.models.network_graph import NetworkGraph

LABELS = {"total_charge": "charge", "total_spin": "spin", "charges": "charges"}
"""What networks read where a batch has it, by their names; and ours."""


def atoms_and_pairs(graph: NetworkGraph, one_hot: torch.Tensor, *, differentiated: bool) -> dict[str, torch.Tensor]:
    """Return what every network reads; see `MACEWrapper.adapt_input`.

    Parameters
    ----------
    graph
        Of the batch.
    one_hot
        [Z, elements], the row of each atomic number.
    differentiated
        Whether the network is to differentiate by positions.
    """
    positions = graph.positions
    if not positions.requires_grad:  # a copy: networks flag it, which the batch must not see
        positions = positions.detach().clone().requires_grad_(differentiated)
    return {
        "positions": positions,
        "node_attrs": one_hot.index_select(0, graph.atomic_numbers).to(graph.dtype),
        "batch": graph.batch_idx,
        "ptr": graph.ptr,
        "edge_index": graph.edge_index,
        "neighbor_list_shifts": graph.unit_shifts,
        "unit_shifts": graph.unit_shifts,
        "shifts": graph.shifts,
        "cell": graph.cell,
    }


def heads_of(batch: Batch, heads: Sequence[str], chosen: int) -> torch.Tensor:
    """Return the place of the head of each system, int64 [B]: of its field ``head``, or the one that was chosen."""
    given = batch.get("head")
    if given is None:
        return batch.batch_ptr.new_full((batch.num_graphs,), chosen, dtype=torch.int64)
    places = given.view(-1).to(torch.int64, copy=True)
    if len(places) != batch.num_graphs or bool(((places < 0) | (places >= len(heads))).any()):
        raise InputError(
            f"`head` of the batch is {shown(given.tolist())}; give one integer for each system, of "
            f"{', '.join(f'{place} ({name})' for place, name in enumerate(heads))}."
        )
    return places


def further(
    graph: NetworkGraph, names: Collection[str], missing: Callable[[str, Batch], Exception]
) -> dict[str, torch.Tensor]:
    """Return what a network reads beside atoms and pairs, in its dtype: [B], or [N] and wider for fields so.

    Parameters
    ----------
    graph
        Of the batch.
    names
        Its own names of these; but for charge and spin they are those of fields.
    missing
        Makes the error for a field that is absent.
    """
    return {name: _one(graph, name, missing) for name in names}


def _one(graph: NetworkGraph, name: str, missing: Callable[[str, Batch], Exception]) -> torch.Tensor:
    batch, field = graph.batch, LABELS.get(name, name)
    if name == "head":  # the only one
        return torch.zeros(batch.num_graphs, dtype=torch.int64, device=batch.device)
    if field in FIELDS and FIELDS[field].assumed is not None:
        return graph.label(field).detach()
    value: Any = batch.get(field)
    if value is None and field == "charges":
        return torch.zeros(batch.num_nodes, dtype=graph.dtype, device=batch.device)
    if value is None:
        raise missing(field, batch)
    return value.detach().to(graph.dtype, copy=True)
