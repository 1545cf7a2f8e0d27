"""LearnedModel: what wrappers have in common whose network gives an energy that torch differentiates."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn

from athanor.data.batch import Batch
from athanor.errors import DtypeError
from athanor.models.derivatives import carries_graph, energy_and_derivatives
from athanor.models.element_table import ElementTable
from athanor.models.mixin import BaseModelMixin
from athanor.models.network_blocks import evaluated_in_blocks
from athanor.models.network_graph import NetworkGraph, system_sums
from athanor.models.stored_list import require_pairs
from athanor.models.tensor_file import write_bytes, write_tensor_file

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData

DERIVATIVES = frozenset({"forces", "stress"})
EMBEDDINGS = frozenset({"node_embeddings", "graph_embeddings"})


class LearnedModel(nn.Module, BaseModelMixin):
    """Base of models around a network: energy from the network, forces and stress by one backward pass.

    A wrapper sets `model_config`, whose neighbour configuration has the cutoff, and `model_card`, and defines
    `network_outputs`.

    Parameters
    ----------
    model
        The network.
    element_index
        Atomic numbers that the network knows, or its own index of each.
    embedding_width
        Width of its ``node_embeddings``; 0 if it has none.

    Notes
    -----
    Results are detached unless a parameter is trained or the positions handed in carry a graph; they have the dtype of
    the positions. One structure is evaluated as a batch of one. Systems without a cell have zero stress.
    """

    model: nn.Module
    pairs_at_a_time: int | None = None
    """Pairs of the systems that a CPU evaluates at a time, where results are detached; None: a batch at once."""
    _keeps_dtype = False
    """Whether the network computes in the precision it was made in, and in no other."""

    def __init__(
        self, model: nn.Module, element_index: Mapping[int, int] | Collection[int], *, embedding_width: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        known = element_index if isinstance(element_index, Mapping) else {number: number for number in element_index}
        self._element_index = ElementTable(
            known,
            torch.int64,
            type(self).__name__,
            advice="Leave the system out, or choose a model that knows its elements.",
        )
        self._embedding_width = embedding_width

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> Mapping[str, torch.Tensor | None]:
        """Return what the network gives, attached, in any floating dtype.

        Parameters
        ----------
        graph
            Atoms and pairs; differentiated by its positions, cell and vectors.
        wanted
            Outputs that are asked for.

        Returns
        -------
        dict
            ``energy`` [B], or ``atomic_energies`` [N], which are then added up; of `wanted` what there is beyond forces
            and stress. ``graph_embeddings`` are the sums of ``node_embeddings`` unless given.
        """
        raise NotImplementedError

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that the network knows."""
        return self._element_index.elements

    @property
    def cutoff(self) -> float:
        """Largest distance of a pair that the network sees, Å."""
        config = self.model_config.neighbor_config
        return 0.0 if config is None else config.cutoff

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the network."""
        return next(each.dtype for each in self.model.parameters() if each.is_floating_point())

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """``node_embeddings`` and ``graph_embeddings``, if the network has them."""
        return dict.fromkeys(sorted(EMBEDDINGS), (self._embedding_width,)) if self._embedding_width else {}

    def element_index_of(self, batch: Batch) -> torch.Tensor:
        """Return the network's own index of the element of each atom, int64 [N].

        Raises
        ------
        InputError
            If it does not know an element; the text names it, and the system.
        """
        return self._element_index.of(batch.atomic_numbers, batch.batch_idx)

    def network_graph(self, batch: Batch, strain: torch.Tensor | None = None) -> NetworkGraph:
        """Return what the network reads of a batch; elements that it does not know are refused."""
        self.element_index_of(batch)
        return NetworkGraph(self, batch, self.cutoff, self.dtype, strain)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move or convert the network, as `to` does; the card tells the precision that it then computes in."""
        dtype = self.dtype
        if self._keeps_dtype and fn(torch.empty(0, dtype=dtype)).dtype != dtype:
            raise DtypeError(
                f"{type(self).__name__} computes in {str(dtype).removeprefix('torch.')}, as its network was made, and "
                f"can not be converted. Load one that was made in the other precision; results have the dtype of the "
                f"positions in any case."
            )
        super()._apply(fn, recurse)
        if self.model_card.dtype is not None:
            self.model_card = replace(self.model_card, dtype=self.dtype)
        return self

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return what the network reads, by name; nothing of `data` is changed.

        Raises
        ------
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list is half, too short or out of date, or the network does not know an element.
        """
        graph = self.network_graph(as_batch(data))
        names = ("atomic_numbers", "positions", "cell", "edge_index", "unit_shifts", "vectors", "batch_idx", "ptr")
        return {name: getattr(graph, name) for name in names}

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs; energy alone takes no backward pass. Works under ``no_grad`` too."""
        batch = as_batch(data)
        return self.adapt_output(self._in_blocks(batch, self.output_data(), keep_graph=self._trains), batch)

    def evaluated(self, batch: Batch, wanted: Set[str], *, keep_graph: bool) -> Mapping[str, torch.Tensor]:
        """Return what is wanted of systems that are evaluated together; see `energy_and_derivatives`."""
        return energy_and_derivatives(self, batch, wanted, keep_graph=keep_graph)

    def _in_blocks(self, batch: Batch, wanted: Set[str], *, keep_graph: bool) -> Mapping[str, torch.Tensor]:
        """Return what is wanted of a batch, evaluated at once or in blocks of systems that fit the caches."""
        most = self.pairs_at_a_time
        if most is None or batch.device.type != "cpu" or keep_graph or carries_graph(batch):
            return self.evaluated(batch, wanted, keep_graph=keep_graph)
        self.element_index_of(batch)  # of all systems, which messages count
        pairs = require_pairs(self, batch, self.cutoff)
        return evaluated_in_blocks(lambda block: self.evaluated(block, wanted, keep_graph=False), batch, pairs, most)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy of the network, attached; see `BaseModelMixin.attached_energy`."""
        graph = self.network_graph(as_batch(data), strain)
        return self.named_outputs(self.network_outputs(graph, wanted), graph.batch, wanted)

    def named_outputs(
        self, found: Mapping[str, torch.Tensor | None], batch: Batch, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return what the network gave and somebody wants, in the shapes and the dtype of the interface."""
        outputs = {key: value for key, value in found.items() if value is not None}
        if "energy" not in outputs and "atomic_energies" in outputs:
            outputs["energy"] = system_sums(outputs["atomic_energies"].view(-1), batch)
        if "energy" in outputs:
            outputs["energy"] = outputs["energy"].view(-1, 1)
        if "node_embeddings" in outputs and "graph_embeddings" in wanted:
            outputs.setdefault("graph_embeddings", system_sums(outputs["node_embeddings"], batch))
        if "stress" in outputs:  # of networks that predict it
            outputs["stress"] = torch.where(batch.has_cell.view(-1, 1, 1), outputs["stress"], 0.0)
        dtype = batch.positions.dtype
        return {key: value.to(dtype) for key, value in outputs.items() if key in {"energy", *wanted}}

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Write to `data` the features of each atom, and their sums over each system; nothing else changes."""
        batch = as_batch(data)
        names = sorted(self.embedding_shapes)
        outputs = self._in_blocks(batch, EMBEDDINGS, keep_graph=False) if names else {}
        if not isinstance(data, Batch):
            for name in names:
                setattr(data, name, outputs[name])
            return data
        with data.keeping_results_fresh():
            for name in names:
                data.set_field(name, outputs[name])
        return data

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the network, without this interface.

        Parameters
        ----------
        path
            File to write.
        as_state_dict
            Write the parameters alone, without pickled code. Else the whole module is pickled.

        Raises
        ------
        StorageError
            If the file can not be written.
        """
        if as_state_dict:
            write_tensor_file(path, self.model.state_dict())
            return
        stream = io.BytesIO()
        torch.save(self.model, stream)
        write_bytes(path, stream.getvalue())


def as_batch(data: AtomicData | Batch) -> Batch:
    """Return `data`, or a batch of one structure."""
    return data if isinstance(data, Batch) else Batch.from_data_list([cast("Any", data)])
