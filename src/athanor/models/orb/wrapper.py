"""OrbWrapper: the interface between an ORB network and a Batch.

Networks of one kind give an energy, of which forces and stress are the slopes. Those of the other predict forces and
stress beside the energy, which are the slopes of nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor import _runtime
from athanor._values import check_state_dtype, usable_device
from athanor.errors import ArgumentError, AthanorWarning, NotAvailableError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS
from athanor.models.network_graph import NetworkGraph
from athanor.models.orb.nearest import nearest
from athanor.models.orb.network import default_dtype, load_network, package, width_of
from athanor.models.predicted import PredictingModel
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set


_NUM_ELEMENTS = 117
"""Networks index 118 rows by atomic number, from 0."""


class OrbWrapper(PredictingModel):
    """ORB, message passing without built-in symmetry, for whole batches; conservative networks and direct ones.

    Parameters
    ----------
    model
        A network of the orb-models package, `ConservativeForcefieldRegressor` or `DirectForcefieldRegressor`.
    cutoff
        Radius of its pairs, Å.
    max_num_neighbors
        How many neighbours of an atom the network reads, the nearest; published networks have 20 or 120.
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
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress, node_embeddings and
    graph_embeddings can be added, and charges where the network has them. ``charge`` and ``spin`` of a system are read
    by networks that were trained with them; they are 0 and 1 where absent.

    A conservative network is differentiated, with vectors between atoms in float64. A direct one predicts forces and
    stress; they do not add up to its energy along a path, so that a run at constant energy drifts. In a sum of models
    they are added as they are, and the slope of its energy is left out. As its package does, it takes the mean off the
    forces, and their torque where nothing is periodic.

    Like its package, the network reads the nearest `max_num_neighbors` of an atom. Where an atom has more within the
    cutoff, energy and forces jump when two neighbours change places, and in a perfect crystal it is left to rounding
    which of equally near ones count. 20 are always met in a solid; that 120 are met is warned about once.

    The energy of most networks is a function of the mean over all atoms of a system: of two molecules far apart it is
    not the sum. Energies turn a little with the system, as the network is not equivariant.

    Networks with electrostatics evaluate systems without periodic axes only; others are refused.

    References
    ----------
    .. [1] B. Rhodes et al., arXiv:2504.06231 (2025). M. Neumann et al., arXiv:2410.22570 (2024).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        cutoff: float = 6.0,
        max_num_neighbors: int = 120,
        name: str = "ORB",
        weights_digest: str = "",
    ) -> None:
        width = width_of(model)
        heads: Any = model.heads
        if max_num_neighbors < 1:
            raise ArgumentError(f"`max_num_neighbors` is {max_num_neighbors}; give a number of neighbours above zero.")
        super().__init__(model, range(1, _NUM_ELEMENTS + 1), embedding_width=width)
        self.max_num_neighbors = max_num_neighbors
        self.is_conservative = hasattr(model, "grad_forces_name")
        self._has_labels = getattr(model.model, "conditioner", None) is not None
        self._warned_of_limit = max_num_neighbors < 120
        derivatives = DERIVATIVES if self.is_conservative else DERIVATIVES & heads.keys()
        self.predicted = frozenset() if self.is_conservative else derivatives
        self.model_config = ModelConfig(
            outputs=frozenset(
                {"energy", *derivatives, *EMBEDDINGS, *({"charges"} if "latent_charges" in heads else ())}
            ),
            autograd_outputs=DERIVATIVES if self.is_conservative else frozenset(),
            optional_inputs=frozenset({"charge", "spin"} if self._has_labels else ()),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=cutoff, format=NeighborListFormat.COO),
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name=name,
            elements=self.elements,
            dtype=self.dtype,
            conservative=self.is_conservative,
            equivariant=False,
            smooth=max_num_neighbors >= 120,
            short_ranged=False,
            batch_invariance="no",
            licence="Apache-2.0",
            citation="doi:10.48550/arXiv.2504.06231",
            url="https://github.com/orbital-materials/orb-models",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        name: str = "orb-v3-conservative-inf-omat",
        weights_path: Path | str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        max_num_neighbors: int | None = None,
        compile_model: bool = False,
    ) -> OrbWrapper:
        """Load a published network, or one that was trained from it, in eval mode.

        Parameters
        ----------
        name
            Of the network, such as ``"orb-v3-conservative-inf-omat"``, ``"orb-v3-direct-20-omat"`` or ``"orbmol-v2"``.
        weights_path
            A file of its parameters, or of those that were trained from them; without, orb-models downloads the
            published ones once. No code in it is run.
        device
            Where to put it.
        dtype
            Precision of the network.
        max_num_neighbors
            As in the constructor; that of the published network by default.
        compile_model
            Compile the message passing with `torch.compile` on its first call.

        Raises
        ------
        InputError
            If there is no such network or file, or the file can not be downloaded, is damaged, or holds something else.
        OptionalDependencyError
            If orb-models, which needs Python 3.12, is not installed.
        """
        place = usable_device(device)
        found = load_network(name, None if weights_path is None else Path(weights_path))
        network = found.network.to(place, check_state_dtype(dtype))
        if compile_model:
            network.model.compile(dynamic=True)  # type: ignore[union-attr]
        limit = found.max_num_neighbors if max_num_neighbors is None else max_num_neighbors
        title = name if weights_path is None else f"{name}, {Path(weights_path).name}"
        return cls(
            network, cutoff=found.cutoff, max_num_neighbors=limit, name=title, weights_digest=found.digest
        ).eval()

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> Mapping[str, torch.Tensor | None]:
        """Return the energy and, of `wanted`, what the network has; see `LearnedModel.network_outputs`."""
        with default_dtype(self.dtype):  # constants times atomic numbers have that
            return self._readouts(self._atom_graphs(graph), wanted)

    def _readouts(self, atoms: Any, wanted: Set[str]) -> dict[str, torch.Tensor | None]:
        model: Any = self.model
        heads, nodes = model.heads, model.model(atoms)["node_features"]
        found: dict[str, torch.Tensor | None] = {"node_embeddings": nodes}
        labels = {}
        if "latent_charges" in heads:
            labels["per_atom_charges"] = heads["latent_charges"](nodes, atoms)
            found["charges"] = labels["per_atom_charges"].view(-1)
            if "latent_spins" in heads:
                labels["per_atom_spins"] = heads["latent_spins"](nodes, atoms)
        energy = heads["energy"](nodes, atoms, **labels)
        repulsion = model.pair_repulsion_fn(atoms) if model.pair_repulsion else {}
        if repulsion:
            energy = energy + repulsion["energy"]
        if "stress" in repulsion:  # it was divided by the determinant of the cell, which may be negative
            repulsion["stress"] = repulsion["stress"] * torch.linalg.det(atoms.system_features["cell"]).sign().view(
                -1, 1
            )
        if getattr(model, "coulomb_module", None) is not None:
            energy = energy + model.coulomb_module(labels["per_atom_charges"], atoms)[0]
        found["energy"] = heads["energy"].absolute_energy(energy, atoms)
        for key in sorted(self.predicted & wanted):
            value = heads[key](nodes, atoms)
            found[key] = value + repulsion[key] if repulsion else value
        if (stress := found.get("stress")) is not None:
            found["stress"] = stress[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].view(-1, 3, 3)  # Voigt xx, yy, zz, yz, xz, xy
        return found

    def _atom_graphs(self, graph: NetworkGraph) -> Any:
        """Return what the network calls a batch; of pairs, the nearest of each atom."""
        (i, j), vectors = graph.edge_index, graph.vectors
        kept = nearest(i, vectors.detach().norm(dim=1), self.max_num_neighbors, graph.num_nodes)
        if kept is not None:
            self._tell_of_limit(graph)
            i, j, vectors = i[kept], j[kept], vectors[kept]
        periodic = self._periodic(graph)
        charge = {"total_charge": graph.label("charge"), "spin_multiplicity": graph.label("spin")}
        return package("common.atoms.batch.graph_batch").AtomGraphs(
            senders=i,
            receivers=j,
            n_node=graph.ptr.diff(),
            n_edge=torch.bincount(graph.batch_idx[i], minlength=graph.num_graphs),
            node_features={
                "positions": graph.local_positions,
                "atomic_numbers": graph.atomic_numbers,
                "atomic_numbers_embedding": nn.functional.one_hot(graph.atomic_numbers, _NUM_ELEMENTS + 1).to(
                    self.dtype
                ),
            },
            edge_features={"vectors": vectors},
            system_features={
                # zeros, which the network reads as "not periodic", where a molecule stands in a box
                "cell": torch.where(periodic.any(1).view(-1, 1, 1), graph.cell, 0.0),
                "pbc": periodic,
                **(charge if self._has_labels else {}),
            },
            node_targets={},
            edge_targets={},
            system_targets={},
            system_id=None,
            fix_atoms=None,
            tags=None,
            radius=self.cutoff,
            max_num_neighbors=torch.tensor([self.max_num_neighbors]),
        )

    def _periodic(self, graph: NetworkGraph) -> torch.Tensor:
        periodic = graph.pbc
        if getattr(self.model, "coulomb_module", None) is not None and bool(periodic.any()):
            systems = periodic.any(1).nonzero().view(-1).tolist()
            raise NotAvailableError(
                f"{self.model_card.name} has electrostatics of its own, evaluated without periodic axes only; "
                f"the system of index {', '.join(map(str, systems[:3]))} is periodic. Leave it out, or choose a "
                f"network without electrostatics, such as `orb-v3-conservative-omol`."
            )
        return periodic

    def _tell_of_limit(self, graph: NetworkGraph) -> None:
        if self._warned_of_limit:
            return
        self._warned_of_limit = True
        degrees = torch.bincount(graph.edge_index[0], minlength=graph.num_nodes)
        systems = graph.batch_idx[degrees > self.max_num_neighbors].unique().tolist()
        where, most = ", ".join(map(str, systems[:3])), int(degrees.max())
        text = (
            f"Atoms of the system of index {where} have up to {most} neighbours within {self.cutoff:g} Å, "
            f"of which {self.model_card.name} reads the nearest {self.max_num_neighbors}, as its package does: the "
            f"energy jumps when two of them change places. This is told once."
        )
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
