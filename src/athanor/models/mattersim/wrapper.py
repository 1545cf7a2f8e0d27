"""MatterSimWrapper: the interface between a MatterSim network and a Batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._values import check_state_dtype, usable_device
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel
from athanor.models.mattersim.network import arguments_of, load_network
from athanor.models.mattersim.triples import triples
from athanor.models.network_blocks import PAIRS_AT_A_TIME
from athanor.models.network_graph import NetworkGraph
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set


class MatterSimWrapper(LearnedModel):
    """MatterSim, a universal potential for bulk materials over temperature and pressure, for whole batches.

    Parameters
    ----------
    model
        A network of the mattersim package, `M3Gnet`.
    name
        What the model is called in its card.
    weights_digest
        Digest of the parameters for the card.

    Raises
    ------
    ContractError
        If `model` is no such network.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress, atomic_energies,
    node_embeddings and graph_embeddings can be added. Pairs reach 5 Å, angles have both sides within 4 Å. Vectors
    between atoms are in the dtype of the positions, the network in its own.

    Where three atoms stand on a line to 0.03°, as in many perfect crystals, the network takes its angle for constant:
    energy and forces are right there, a Hessian by exact second derivatives lacks a part. Take differences,
    `athanor.models.hessian(model, batch)`.

    References
    ----------
    .. [1] H. Yang et al., arXiv:2405.04967 (2024).
    """

    pairs_at_a_time = PAIRS_AT_A_TIME

    def __init__(self, model: nn.Module, *, name: str = "MatterSim", weights_digest: str = "") -> None:
        arguments = arguments_of(model)
        super().__init__(model, range(1, int(arguments["max_z"]) + 1), embedding_width=int(arguments["units"]))
        self._angle_cutoff = float(arguments["threebody_cutoff"])
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "atomic_energies", *DERIVATIVES, *EMBEDDINGS}),
            autograd_outputs=DERIVATIVES,
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=float(arguments["cutoff"]), format=NeighborListFormat.COO),
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name=name,
            kind="materials",
            elements=self.elements,
            dtype=self.dtype,
            conservative=True,
            equivariant=True,
            smooth=True,
            batch_invariance="no",
            licence="MIT",
            citation="doi:10.48550/arXiv.2405.04967",
            url="https://github.com/microsoft/mattersim",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: Path | str = "mattersim-v1.0.0-1m",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> MatterSimWrapper:
        """Load a network, in eval mode.

        Parameters
        ----------
        checkpoint_path
            A file that mattersim published or `Potential.save` wrote; or ``"mattersim-v1.0.0-1m"`` or
            ``"mattersim-v1.0.0-5m"``, which the package downloads once. No code in it is run.
        device
            Where to put it.
        dtype
            Precision of the network.

        Raises
        ------
        InputError
            If there is no such file or name, it can not be downloaded, is damaged, or holds something else.
        OptionalDependencyError
            If mattersim, which needs Python 3.12, is not installed.
        """
        place = usable_device(device)
        network, digest = load_network(checkpoint_path)
        name = Path(checkpoint_path).name.removesuffix(".pth")
        return cls(network.to(place, check_state_dtype(dtype)), name=name, weights_digest=digest).eval()

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> Mapping[str, torch.Tensor | None]:
        """Return the energy of each atom and, of `wanted`, what it knows of it; see `LearnedModel.network_outputs`."""
        edge_index, vectors = graph.edge_index, graph.vectors
        angles = triples(edge_index[0], vectors.detach().norm(dim=1) <= self._angle_cutoff)
        inputs = {
            # atoms at the origin and cells of unit vectors: what is left of the vector of a pair is its "offset"
            "atom_pos": torch.zeros(graph.num_nodes, 3, dtype=self.dtype, device=vectors.device),
            "cell": torch.eye(3, dtype=self.dtype, device=vectors.device).expand(graph.num_graphs, 3, 3),
            "pbc_offsets": vectors,
            "atom_attr": graph.atomic_numbers.view(-1, 1),
            "edge_index": edge_index,
            "three_body_indices": angles,
            "num_triple_ij": torch.bincount(angles[:, 0], minlength=edge_index.shape[1]).view(-1, 1),
            "num_bonds": torch.bincount(graph.batch_idx[edge_index[0]], minlength=graph.num_graphs),
            "num_atoms": graph.ptr.diff(),
            "batch": graph.batch_idx,
        }
        with _watched(self.model) as seen:
            self.model(inputs)
        return seen


@contextmanager
def _watched(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Note the features and the energy of each atom, which the network adds up, for the time of the block."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        model.final.register_forward_pre_hook(lambda _, inputs: seen.update(node_embeddings=inputs[0])),
        model.normalizer.register_forward_hook(lambda _, inputs, energies: seen.update(atomic_energies=energies)),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
