"""NequIPWrapper: the interface between a network of the NequIP framework and a Batch."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._values import usable_device
from athanor.errors import NotAvailableError
from athanor.kernels._library import no_second_derivative
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel, as_batch
from athanor.models.nequip.network import CompiledNetwork, NetworkFacts, energy_model, load_network
from athanor.models.network_blocks import PAIRS_AT_A_TIME
from athanor.models.network_graph import NetworkGraph
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch


class NequIPWrapper(LearnedModel):
    """NequIP and Allegro, equivariant networks, for whole batches; any energy model of the NequIP framework.

    Parameters
    ----------
    model
        A network that a builder of nequip or nequip-allegro returns, in eV and Å.
    types
        Element -> the network's name of its kind of atom, such as ``{"C": "Cbulk"}``, where the names are not the
        symbols of the elements.
    weights_digest
        Digest of the parameters for the card.

    Raises
    ------
    ContractError
        If `model` is no such network.
    InputError
        If `types` does not fit it.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress and atomic_energies can be
    added, and unless it is compiled node_embeddings and graph_embeddings: features of the atoms in NequIP, sums of
    those of the pairs of each atom in Allegro. Geometry and sums of energies are in float64, the rest in the network's
    own dtype, results in that of the positions. Cutoffs that depend on both kinds of atoms are kept. A compiled network
    gives its own forces and stress, so there are no second derivatives. Needs a full neighbour list of at least its
    cutoff.

    References
    ----------
    .. [1] S. Batzner et al., Nat. Commun. 13, 2453 (2022). doi:10.1038/s41467-022-29939-5
    .. [2] A. Musaelian et al., Nat. Commun. 14, 579 (2023). doi:10.1038/s41467-023-36329-y
    """

    _keeps_dtype = True

    pairs_at_a_time = PAIRS_AT_A_TIME

    def __init__(self, model: nn.Module, *, types: Mapping[str, str] | None = None, weights_digest: str = "") -> None:
        facts = NetworkFacts.of(model)
        super().__init__(model, facts.types(types), embedding_width=facts.width)
        self._facts = facts
        self._cutoffs: torch.Tensor | None
        self.register_buffer("_cutoffs", facts.cutoffs, persistent=False)
        allegro = facts.features == "edge_features"
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "atomic_energies", *DERIVATIVES, *(EMBEDDINGS if facts.width else ())}),
            autograd_outputs=DERIVATIVES,
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=facts.cutoff, format=NeighborListFormat.COO),
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name="Allegro" if allegro else "NequIP",
            elements=self.elements,
            dtype=facts.dtype,
            conservative=True,
            equivariant=True,
            smooth=True,
            batch_invariance="no",
            citation="doi:10.1038/s41467-023-36329-y" if allegro else "doi:10.1038/s41467-022-29939-5",
            url="https://github.com/mir-group/nequip",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: Path | str,
        device: torch.device | str = "cpu",
        compile_model: bool = False,
        *,
        model_name: str = "sole_model",
        types: Mapping[str, str] | None = None,
        trust: bool = False,
    ) -> NequIPWrapper:
        """Load a network, in eval mode.

        Parameters
        ----------
        checkpoint_path
            A package (``.nequip.zip``), a checkpoint of a training (``.ckpt``), or a compiled model: ``.nequip.pt2``,
            compiled with ``--target batch``, or ``.nequip.pth``. Or ``"nequip.net:GROUP/MODEL:VERSION"``, which nequip
            downloads once.
        device
            Where to put it.
        compile_model
            Compile a package or checkpoint with `torch.compile` when it is first called: that takes minutes, and there
            are no second derivatives. Batches of one system are evaluated as before.
        model_name
            Which network, where a file has several.
        types
            As in the constructor.
        trust
            Whether to load the file at all: each kind runs code. A package brings the source of its network, a
            checkpoint is a whole pickle, a compiled model is a program.

        Raises
        ------
        InputError
            If an argument does not fit, there is no such file, or it is not trusted, damaged, holds something else, or
            needs another version of a package.
        OptionalDependencyError
            If nequip is not installed.
        """
        place = usable_device(device)
        network, digest = load_network(
            checkpoint_path, place, compile_model=compile_model, model_name=model_name, trust=trust
        )
        return cls(network, types=types, weights_digest=digest).eval()

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the network."""
        return self._facts.dtype

    def network_graph(self, batch: Batch, strain: torch.Tensor | None = None) -> NetworkGraph:
        """Return what the network reads of a batch, in float64; elements that it does not know are refused."""
        self.element_index_of(batch)
        return NetworkGraph(self, batch, self.cutoff, torch.float64, strain)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy of the network, attached; see `BaseModelMixin.attached_energy`."""
        if not isinstance(self.model, CompiledNetwork):
            return super().attached_energy(data, strain, wanted)
        batch = as_batch(data)
        graph = self.network_graph(batch)
        pairs = self._pairs(graph)
        found = self.model(
            {
                **self._atoms(graph),
                "pos": graph.positions,
                "cell": graph.cell,
                "edge_index": graph.edge_index[:, pairs],
                "edge_cell_shift": graph.unit_shifts[pairs],
            }
        )
        volume = torch.linalg.det(graph.cell.detach()).abs().view(-1, 1, 1)
        derivatives = (-found["forces"], volume * found["stress"], graph.batch_idx)
        geometry = (batch.positions, batch.cell_or_zeros, strain)
        energy = _WithDerivatives.apply(found["total_energy"].view(-1), *derivatives, *geometry)
        outputs = {"energy": energy, "atomic_energies": found["atomic_energy"].view(-1)}
        return self.named_outputs(outputs, graph.batch, wanted)

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> Mapping[str, torch.Tensor | None]:
        """Return energies and features; see `LearnedModel.network_outputs`."""
        pairs = self._pairs(graph)
        edges = {"edge_index": graph.edge_index[:, pairs], "edge_vectors": graph.vectors[pairs]}
        found = energy_model(self.model)({**self._atoms(graph), **edges})
        outputs = {"atomic_energies": found["atomic_energy"].view(-1)}
        if self._facts.width and not wanted.isdisjoint(EMBEDDINGS):
            rows = found[self._facts.features]
            if self._facts.features == "edge_features":
                rows = rows.new_zeros(graph.num_nodes, rows.shape[1]).index_add(0, edges["edge_index"][0], rows)
            outputs["node_embeddings"] = rows
        return outputs

    def _atoms(self, graph: NetworkGraph) -> dict[str, torch.Tensor]:
        kinds = self.element_index_of(graph.batch).to(torch.int64, copy=True)
        return {"atom_types": kinds, "batch": graph.batch_idx, "num_atoms": graph.ptr.diff()}

    def _pairs(self, graph: NetworkGraph) -> slice | torch.Tensor:
        """Return which pairs are within the cutoff of their two kinds: all, or bool [E]."""
        if self._cutoffs is None:
            return slice(None)
        kinds = self.element_index_of(graph.batch)[graph.edge_index]
        return graph.vectors.detach().norm(dim=1) < self._cutoffs[kinds[0], kinds[1]]

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the network, without this interface.

        Parameters
        ----------
        path
            File to write.
        as_state_dict
            Write the parameters alone, without pickled code. Else the whole module is pickled, for `torch.load`.

        Raises
        ------
        NotAvailableError
            If the network came from a package or is compiled: the file it came from is all that there is of it.
        StorageError
            If the file can not be written.
        """
        try:
            super().export_model(path, as_state_dict)
        except (TypeError, pickle.PicklingError) as error:
            raise NotAvailableError(
                f"This network can not be pickled: {error}. Copy the file that it came from, or export its parameters "
                f"with `as_state_dict=True`."
            ) from error


class _WithDerivatives(torch.autograd.Function):
    """An energy [B] whose derivatives by positions and strain are known.

    The one by the cell follows from them, as the energy does not change when a system is turned:
    dE/dε = sum_i r_i ⊗ dE/dr_i + hᵀ dE/dh.
    """

    @staticmethod
    def forward(
        ctx: Any,
        energy: torch.Tensor,
        by_positions: torch.Tensor,
        by_strain: torch.Tensor,
        batch_idx: torch.Tensor,
        positions: torch.Tensor,
        cell: torch.Tensor,
        strain: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(by_positions, by_strain, batch_idx, positions, cell)
        return energy.view_as(energy)

    @staticmethod
    def backward(ctx: Any, by_energy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_positions, by_strain, batch_idx, positions, cell = ctx.saved_tensors
        by_positions = by_energy[batch_idx, None] * by_positions
        by_strain = by_energy.view(-1, 1, 1) * by_strain
        found: list[torch.Tensor | None] = [by_positions.to(positions.dtype), None, by_strain]
        if ctx.needs_input_grad[5]:
            with torch.no_grad():
                products = positions.unsqueeze(2) * by_positions.unsqueeze(1)
                rest = by_strain.index_add(0, batch_idx, products, alpha=-1)
                has_cell = (torch.linalg.det(cell) != 0).view(-1, 1, 1)
                by_cell = torch.linalg.solve(torch.where(has_cell, cell, torch.eye(3).to(cell)).to(rest).mT, rest)
                found[1] = torch.where(has_cell, by_cell, 0.0).to(cell.dtype)
        if torch.is_grad_enabled():  # results may be kept with their graph by who never differentiates them
            error = NotAvailableError(
                "A compiled network of the NequIP framework gives its own forces and stress, and has no second "
                "derivatives. Take differences: `athanor.models.hessian(model, batch)`."
            )
            found = [each if each is None else no_second_derivative(each, error, positions, cell) for each in found]
        needed = [each if needs else None for each, needs in zip(found, ctx.needs_input_grad[4:], strict=True)]
        return None, None, None, None, *needed
