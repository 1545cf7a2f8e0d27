"""SO3LR networks: what is computed with the blocks of one, and where it comes from.

The blocks are those of the so3krates-torch package. They are called from here instead of by the network, which leaves
its intermediate results behind as attributes, differentiates itself, and depends on the default dtype of the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._optional import OptionalDependency
from athanor.errors import ContractError, InputError
from athanor.models.so3lr.attention import Pairs, transformed
from athanor.models.tensor_file import read_tensor_file

if TYPE_CHECKING:
    from athanor.models.network_graph import NetworkGraph

SHIPPED: dict[str, tuple[str, str]] = {
    "so3lr": (
        "pretrained/so3lr/so3lr.model",
        "b5145564911ff983ed076ccb2bca5ce63454b74c9c8291092695463f1e6732be",
    )
}
"""Name -> file below the folder of the package, SHA-256 of that file."""


class Energies:
    """Energies and features of the atoms of a graph, as a network gives them.

    Parameters
    ----------
    network
        A `So3krates` or `SO3LR` of the package.
    graph
        Atoms and pairs to the long-range cutoff, differentiated by its vectors.
    switch_width
        Å over which dispersion goes to zero at the long-range cutoff.

    Attributes
    ----------
    atomic_energies
        [N], eV.
    features
        [N, width], invariant.
    charges, hirshfeld_ratios
        [N], e and volume in units of that of the free atom; ``None`` where the network has none.
    """

    charges: torch.Tensor | None = None
    hirshfeld_ratios: torch.Tensor | None = None

    def __init__(self, network: Any, graph: NetworkGraph, long_range_cutoff: float, switch_width: float) -> None:
        self._network, self._graph = network, graph
        ends, vectors = _each_pair_once(graph)
        self._lengths = torch.linalg.vector_norm(vectors, dim=1)
        near = (self._lengths.detach() < network.r_max).nonzero().squeeze(1)
        self._near = _both_directions(ends[:, near], self._lengths[near])
        self._far = _both_directions(ends, self._lengths)
        self._one_hot = nn.functional.one_hot(graph.atomic_numbers - 1, network.num_elements).to(graph.dtype)
        self.features = self._invariant_features(ends[:, near], vectors[near], self._lengths[near].unsqueeze(1))
        energies = network.atomic_energy_output_block(self.features, {"node_attrs": self._one_hot})
        if getattr(network, "zbl_repulsion_bool", False):
            energies = energies + self._repulsion()
        if getattr(network, "electrostatic_energy_bool", False):
            self.charges = self._partial_charges()
            energies = energies + self._electrostatic(long_range_cutoff)
        if getattr(network, "dispersion_energy_bool", False):
            self.hirshfeld_ratios = network.hirshfeld_output_block(self.features, graph.atomic_numbers)
            energies = energies + self._dispersion(long_range_cutoff, switch_width)
        self.atomic_energies = energies.squeeze(1)

    def _invariant_features(self, ends: torch.Tensor, vectors: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        network, graph = self._network, self._graph
        features = network.inv_feature_embedding(self._one_hot)
        if network.use_charge_embed:
            features = features + self._label_embedding(network.charge_embedding, graph.label("charge"))
        if network.use_spin_embed:
            features = features + self._label_embedding(network.spin_embedding, graph.label("spin") - 1.0)
        features = features / network.embedding_scale
        harmonics = network.spherical_harmonics(-vectors)  # of the vector from neighbour to centre
        signs = [(-1.0) ** degree for degree in network.degrees for _ in range(2 * degree + 1)]
        harmonics = torch.stack((harmonics, harmonics * harmonics.new_tensor(signs)))
        cutoffs = network.cutoff_fn(lengths)
        pairs = Pairs(ends[0], ends[1], network.radial_embedding(lengths), harmonics, cutoffs)
        equivariant = network.ev_embedding(
            sh_vectors=harmonics.flatten(0, 1),
            cutoffs=cutoffs.repeat(2, 1),
            receivers=pairs.receivers,
            avg_num_neighbors=network.avg_num_neighbors,
            num_nodes=graph.num_nodes,
        )
        for layer in network.euclidean_transformers:
            features, equivariant = transformed(layer, features, equivariant, pairs)
        return features

    def _label_embedding(self, block: Any, label: torch.Tensor) -> torch.Tensor:
        """Embed the charge, or the number of unpaired electrons, [B] of each system."""
        graph = self._graph
        return block(
            elements_one_hot=self._one_hot, psi=label, batch_segments=graph.batch_idx, num_graphs=graph.num_graphs
        )

    def _partial_charges(self) -> torch.Tensor:
        """Return charges that add up to those of the systems; the block divides in the default dtype."""
        graph, block = self._graph, self._network.partial_charges_output_block
        raw = block.transform_inv_features(self.features) + block.atomic_embedding(graph.atomic_numbers)
        raw, system = raw.squeeze(1), graph.batch_idx
        missing = graph.label("charge").index_add(0, system, raw, alpha=-1)
        return raw + (missing / graph.ptr.diff().to(raw.dtype))[system]

    def _repulsion(self) -> torch.Tensor:
        receivers, senders, lengths = self._near
        return self._network.zbl_repulsion(
            atomic_numbers=self._graph.atomic_numbers,
            cutoffs=self._network.cutoff_fn(lengths.unsqueeze(1)),
            senders=senders,
            receivers=receivers,
            lengths=lengths.unsqueeze(1),
            num_nodes=self._graph.num_nodes,
        )

    def _electrostatic(self, cutoff: float) -> torch.Tensor:
        receivers, senders, lengths = self._far
        return self._network.electrostatic_potential(
            partial_charges=self.charges,
            senders_lr=senders,
            receivers_lr=receivers,
            lengths_lr=lengths,
            num_nodes=self._graph.num_nodes,
            cutoff_lr=cutoff,
            electrostatic_energy_scale=self._network.electrostatic_energy_scale,
        )

    def _dispersion(self, cutoff: float, switch_width: float) -> torch.Tensor:
        receivers, senders, lengths = self._far
        return self._network.dispersion_potential(
            hirshfeld_ratios=self.hirshfeld_ratios,
            atomic_numbers=self._graph.atomic_numbers,
            senders_lr=senders,
            receivers_lr=receivers,
            lengths_lr=lengths,
            num_nodes=self._graph.num_nodes,
            cutoff_lr=cutoff,
            cutoff_lr_damping=switch_width,
            dispersion_energy_scale=self._network.dispersion_energy_scale,
        )


def _each_pair_once(graph: NetworkGraph) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ends [2, H] and the vectors [H, 3] of the pairs of a full list in one of their directions."""
    i, j = graph.edge_index
    x, y, z = graph.images.unbind(
        1
    )  # of an atom with its own image one of the two directions, by the first that differs
    forward = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    once = ((i < j) | ((i == j) & forward)).nonzero().squeeze(1)
    return graph.edge_index[:, once], graph.vectors[once]


def _both_directions(ends: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return receivers, senders and lengths [2 H] of both directions of each pair."""
    return torch.cat((ends[0], ends[1])), torch.cat((ends[1], ends[0])), torch.cat((lengths, lengths))


def checked(network: Any) -> Any:
    """Return `network` if it is one that `Energies` evaluates.

    Raises
    ------
    ContractError
        If it is no network of the package.
    InputError
        If it has several heads, or charges on a mesh.
    """
    blocks = ("euclidean_transformers", "atomic_energy_output_block", "inv_feature_embedding", "radial_embedding")
    if any(not hasattr(network, each) for each in blocks):
        raise ContractError(
            f"`model` is a {type(network).__name__}; pass a network of so3krates-torch, or use "
            f"`SO3LRWrapper.from_checkpoint()`."
        )
    if hasattr(network, "num_output_heads") or getattr(network, "use_pme", False):
        what = "several heads" if hasattr(network, "num_output_heads") else "charges on a mesh (`use_pme`)"
        raise InputError(f"This network has {what}, which SO3LRWrapper does not evaluate. Use one without.")
    return network


def load_network(name: str | Path, *, trust: bool) -> tuple[nn.Module, str]:
    """Return the network in a file, or of a shipped name, on the CPU, and the digest of its file.

    Raises
    ------
    InputError
        For an unknown name, other contents than expected, or a file that is damaged, holds something else, or is a
        whole pickle and neither known nor to be trusted.
    OptionalDependencyError
        If so3krates-torch is not installed.
    """
    package, digest = OptionalDependency.SO3KRATES.load("modules.models", needed_by="SO3LRWrapper"), ""
    path = Path(name)
    if str(name) in SHIPPED:
        relative, digest = SHIPPED[str(name)]
        path = Path(str(package.__file__)).parents[1] / relative
    elif not path.exists():
        raise InputError(f"`{name}` is neither a file nor one of the shipped networks: {', '.join(SHIPPED)}.")
    network, digest = read_tensor_file(path, trust=trust, digest=digest, name=str(name))
    if not isinstance(network, nn.Module):
        raise InputError(
            f"`{path}` holds a {type(network).__name__}, no network: parameters alone do not say which one. Pass the "
            f"file that ends in `.model`, which the training of so3krates-torch and `export_model` write."
        )
    return network, digest
