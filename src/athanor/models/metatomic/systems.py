"""The systems of a batch as metatomic has them: one object each, with pairs for every list that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from athanor._optional import OptionalDependency
from athanor.data.fields import FIELDS
from athanor.errors import InputError, MissingFieldError

if TYPE_CHECKING:
    from athanor.models.network_graph import NetworkGraph

_LABELS: dict[tuple[str, str], tuple[str, str, str]] = {
    ("charge", "system"): ("charge", "charge", "e"),
    ("spin_multiplicity", "system"): ("spin", "spin_multiplicity", ""),
    ("mass", "atom"): ("atomic_masses", "mass", "u"),
    ("charge", "atom"): ("charges", "charge", "e"),
}
"""What a model may ask for, and of what -> our field, name of its property, and unit."""


def fields_of(requested: Mapping[str, Any]) -> dict[str, str]:
    """Return the field of a batch for each quantity that a model asks for.

    Raises
    ------
    InputError
        If it asks for something that a batch does not have.
    """
    for name, options in requested.items():
        if (name, options.sample_kind) not in _LABELS:
            raise InputError(
                f"This model of metatomic asks for `{name}` of each {options.sample_kind}, which a batch does not "
                f"have. It has {', '.join(f'{each} of each {kind}' for each, kind in _LABELS)}."
            )
    return {name: _LABELS[name, options.sample_kind][0] for name, options in requested.items()}


class SystemMaker:
    """Makes the systems of a batch; attached to what the graph is differentiated by.

    Parameters
    ----------
    lists
        Neighbour lists that the model asks for, and the cutoff of each in Å.
    requested
        Quantities that it asks for beside positions, by name.
    """

    def __init__(self, lists: Sequence[tuple[Any, float]], requested: Mapping[str, Any]) -> None:
        self._lists, self._requested = lists, requested
        self._longest = max((cutoff for _, cutoff in lists), default=0.0)
        self._package = OptionalDependency.METATOMIC.load()
        metatensor = OptionalDependency.METATENSOR.load()
        self._labels, self._block, self._map = metatensor.Labels, metatensor.TensorBlock, metatensor.TensorMap
        fields_of(requested)

    def __call__(self, graph: NetworkGraph) -> list[Any]:
        """Return one system for each of `graph`."""
        batch = graph.batch
        pbc = batch.pbc_or_false
        cell = torch.where(pbc.unsqueeze(2), graph.cell, 0.0)
        sizes = graph.ptr.diff().tolist()
        parts = (
            graph.atomic_numbers.to(torch.int32).split(sizes),
            graph.positions.split(sizes),
            cell.unbind(),
            pbc.unbind(),
        )
        systems = [self._package.System(*each) for each in zip(*parts, strict=True)]
        for options, cutoff in self._lists:
            for system, block in zip(systems, self._pairs(graph, options, cutoff), strict=True):
                system.add_neighbor_list(options, block)
        for name, options in self._requested.items():
            for system, values in zip(systems, self._values(graph, name, options, sizes), strict=True):
                system.add_data(name, values)
        return systems

    def _pairs(self, graph: NetworkGraph, options: Any, cutoff: float) -> list[Any]:
        """Return the pairs of each system within `cutoff`, in both directions or in one."""
        i, j = graph.edge_index
        vectors, images = graph.vectors, graph.images
        kept = _once(i, j, images) if not options.full_list else None
        if cutoff < self._longest:
            inside = (vectors.detach() ** 2).sum(1) < cutoff**2
            kept = inside if kept is None else kept & inside
        if kept is not None:
            i, j, images, vectors = i[kept], j[kept], images[kept], vectors[kept]
        system = graph.batch_idx[i]
        first = graph.ptr[system]
        samples = torch.cat((torch.stack((i - first, j - first), 1), images), 1).to(torch.int32)
        lengths = torch.bincount(system, minlength=graph.num_graphs).tolist()
        names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
        device = vectors.device
        components = [self._labels(["xyz"], torch.arange(3, dtype=torch.int32, device=device).view(3, 1))]
        properties = self._labels(["distance"], torch.zeros((1, 1), dtype=torch.int32, device=device))
        return [
            self._block(values, self._labels(names, rows, assume_unique=True), components, properties)
            for rows, values in zip(samples.split(lengths), vectors.unsqueeze(2).split(lengths), strict=True)
        ]

    def _values(self, graph: NetworkGraph, name: str, options: Any, sizes: list[int]) -> list[Any]:
        """Return the values of a quantity for each system."""
        field, of, unit = _LABELS[name, options.sample_kind]
        if FIELDS[field].assumed is not None:
            values = graph.label(field)
        elif (given := graph.batch.get(field)) is None:
            raise MissingFieldError(f"`{field}` is missing: this model of metatomic reads it. Set `batch.{field}`.")
        else:
            values = given.to(graph.dtype)
        parts = values.view(-1, 1).split(1 if options.sample_kind == "system" else sizes)
        return [self._quantity(part, of, unit, options.sample_kind == "atom") for part in parts]

    def _quantity(self, values: torch.Tensor, of: str, unit: str, of_atoms: bool) -> Any:
        rows = torch.arange(len(values), dtype=torch.int32, device=values.device).view(-1, 1)
        names, samples = ["system"], torch.zeros_like(rows)
        if of_atoms:
            names, samples = ["system", "atom"], torch.cat((samples, rows), 1)
        zero = torch.zeros((1, 1), dtype=torch.int32, device=values.device)
        block = self._block(values, self._labels(names, samples, assume_unique=True), [], self._labels([of], zero))
        found = self._map(self._labels(["_"], zero), [block])
        found.set_info("unit", unit)
        return found


def _once(i: torch.Tensor, j: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return which pairs of a full list make a half one; of an atom and its image, the one whose first shift is up."""
    a, b, c = images.unbind(1)
    up = (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))
    return (i < j) | ((i == j) & up)
