"""DIEPWrapper: the interface between a DIEP potential and a Batch.

The network reads places of atoms and shifts of images, and takes differences. It is given the vectors between atoms as
shifts of images of atoms that all sit at the origin.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._optional import OptionalDependency
from athanor._values import check_state_dtype, usable_device
from athanor.data.elements import number_of_symbol
from athanor.errors import ContractError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.diep.network import draws_triplets_alike, evaluate
from athanor.models.diep.weights import SHIPPED, load_potential
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel
from athanor.models.network_blocks import PAIRS_AT_A_TIME
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.models.network_graph import NetworkGraph

_MINIMUM_DISTANCE = 0.5
"""Å. The shortest bond of all, H-H, is 0.74 Å and stays above 0.6 Å when hot."""


class DIEPWrapper(LearnedModel):
    """DIEP, message passing with two- and three-body integrals of a model potential, for whole batches.

    Parameters
    ----------
    model
        A `Potential` of the diep package around an extensive `DIEP` network without state.
    name
        What the model is called in its card.
    weights_digest
        Digest of the parameters for the card.

    Raises
    ------
    ContractError
        If `model` is none.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress, atomic_energies,
    node_embeddings and graph_embeddings can be added. Needs a full neighbour list of at least its cutoff, 5 Å. Geometry
    and sums are in float64, the network in its own dtype. Systems without a cell have zero stress.

    The energy has steps: three atoms are put in order by the lengths between them, and where two lengths change places
    between different elements, as they do in every symmetric compound, the energy jumps by about 1 meV. Forces are its
    slope between the steps.

    References
    ----------
    .. [1] S. A. Tawfik et al., Digital Discovery (2024). doi:10.1039/d4dd00246f
    """

    pairs_at_a_time = PAIRS_AT_A_TIME

    def __init__(self, model: nn.Module, *, name: str = "DIEP", weights_digest: str = "") -> None:
        network: Any = getattr(model, "model", None)
        if not hasattr(network, "diep_integrator") or not hasattr(model, "data_std"):
            raise ContractError(
                f"`model` is a {type(model).__name__}; pass a `Potential` of the diep package, or use "
                f"`DIEPWrapper.from_checkpoint()`."
            )
        if network.is_intensive or network.include_state:
            raise ContractError("`model` is around a network whose output is no sum over atoms, or that reads a state.")
        element_index = {number_of_symbol(symbol): place for place, symbol in enumerate(network.element_types)}
        width = network.embedding.dim_node_embedding
        super().__init__(model, element_index, embedding_width=width)
        steps = network.diep_integrator.triplet_frame == "canonical"
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "atomic_energies", *DERIVATIVES, *EMBEDDINGS}),
            autograd_outputs=DERIVATIVES,
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=float(network.cutoff), format=NeighborListFormat.COO),
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name=name,
            kind="materials",
            elements=self.elements,
            minimum_distance=_MINIMUM_DISTANCE,
            dtype=self.dtype,
            conservative=None if steps else True,  # at a step there is no slope; symmetric compounds sit on one
            equivariant=True,
            smooth=not steps,
            batch_invariance="no",
            licence="BSD-3-Clause",
            citation="doi:10.1039/d4dd00246f",
            url="https://github.com/materialsalchemist/diep",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path = "r2scan",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> DIEPWrapper:
        """Load a potential, in eval mode. Nothing has to be trusted: its files run no code.

        Parameters
        ----------
        checkpoint
            ``"r2scan"`` from the installed diep package, whose SHA-256 is checked; or the path of a folder that
            ``Potential.save`` wrote.
        device
            Where to put it.
        dtype
            Precision of the network.

        Raises
        ------
        InputError
            For an unknown name, other contents than expected, or files that are damaged or no potential of DIEP.
        OptionalDependencyError
            If diep is not installed.
        """
        place = usable_device(device)
        potential, digest = load_potential(checkpoint)
        potential = potential.to(place, check_state_dtype(dtype))
        name = f"DIEP {checkpoint}" if str(checkpoint) in SHIPPED else "DIEP"
        return cls(potential, name=name, weights_digest=digest).eval()

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> dict[str, torch.Tensor | None]:
        """Return energies and features of atoms, attached; see `LearnedModel.network_outputs`."""
        potential: Any = self.model
        element_index = self.element_index_of(graph.batch)
        read = SimpleNamespace(
            node_type=element_index,
            num_nodes=graph.num_nodes,
            edge_index=graph.edge_index,
            pos=graph.vectors.new_zeros((graph.num_nodes, 3)),
            pbc_offshift=graph.vectors,
            batch=graph.batch_idx,
        )
        with self._network_dtype(), potential._apply_use_edges():
            if draws_triplets_alike(potential.model):
                evaluate(potential.model, read, graph.atomic_numbers.to(self.dtype))
            else:
                potential.model(read)
        atomic_energies = read.atomic_properties.squeeze(1) * potential.data_std
        if potential.element_refs is not None:
            atomic_energies = atomic_energies + potential.element_refs.property_offset[element_index]
        energy = graph.system_sums(atomic_energies) + potential.data_mean
        if potential.calc_repuls:
            energy = energy + potential.repuls(potential.model.element_types, read).view(-1)
        return {"energy": energy, "atomic_energies": atomic_energies, "node_embeddings": read.node_feat}

    @contextmanager
    def _network_dtype(self) -> Iterator[None]:
        """Let the package compute in the dtype of its parameters: it casts what it reads to a dtype of its module."""
        config = _config()
        before, config.float_th = config.float_th, self.dtype
        try:
            yield
        finally:
            config.float_th = before


@cache
def _config() -> Any:
    """Return the module; kept here, as a model that kept it could not be copied."""
    return OptionalDependency.DIEP.load("config", needed_by="DIEPWrapper")
