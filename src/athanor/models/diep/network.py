"""A DIEP network with each triplet once.

Three atoms are drawn in a frame that the lengths between them choose, so that both orders of two bonds at an atom have
one picture. The network of the diep package draws it for each; its blocks are called from here with one of the two.
Where two lengths are the same, which side is drawn first is a choice: the picture is one for atoms of one element, but
not its slope. There both orders are drawn, as in the package, and forces have the symmetry of a crystal.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from athanor._optional import OptionalDependency

_SAME_LENGTH = 1e-4
"""Å, within which two sides count as equal. The package takes 1e-6, below the rounding of single precision."""


def draws_triplets_alike(network: Any) -> bool:
    """Whether both orders of a triplet have one picture."""
    return network.use_edges and network.diep_integrator.triplet_frame == "canonical"


def evaluate(network: Any, read: SimpleNamespace, atomic_numbers: torch.Tensor) -> None:
    """Write ``atomic_properties`` [N, 1] and ``node_feat`` of a graph, as a call of the network does.

    Parameters
    ----------
    network
        A `DIEP` that `draws_triplets_alike`, extensive and without state.
    read
        The graph: ``node_type``, ``num_nodes``, ``edge_index``, ``pos``, ``pbc_offshift``, ``batch``.
    atomic_numbers
        [N], in the dtype of the network.
    """
    graphs = OptionalDependency.DIEP.load("graph.compute")
    envelope = OptionalDependency.DIEP.load("utils.cutoff").polynomial_cutoff
    read.bond_vec, read.bond_dist = graphs.compute_pair_vector_and_distance(read)
    graphs.create_line_graph(read, network.threebody_cutoff)
    triplets_once, triplets_twice = _sorted_out(read.triple_index, read.bond_vec.detach())
    first, second = read.triple_index = torch.cat((triplets_once, triplets_twice), 1)
    once = slice(triplets_once.shape[1])
    bonds, triplets = network.diep_integrator(read, atomic_numbers)
    read.rbf = bonds * envelope(read.bond_dist, network.cutoff).unsqueeze(1)
    weights = envelope(read.bond_dist, network.threebody_cutoff)
    triplets = triplets * (weights[first] * weights[second]).unsqueeze(1)
    ends = read.edge_index[1]
    features, of_bonds, _ = network.embedding(read.node_type, read.rbf, None)
    for mixing, convolution in zip(network.three_body_interactions, network.graph_layers, strict=True):
        of_atoms = mixing.update_network_atom(features)
        sums = torch.zeros_like(bonds).index_add(0, first, triplets * of_atoms[ends[second]])
        sums = sums.index_add(0, second[once], triplets[once] * of_atoms[ends[first[once]]])
        of_bonds = of_bonds + mixing.update_network_bond(sums)
        of_bonds, features, _ = convolution(read, of_bonds, features, None)
    read.node_feat = features
    read.atomic_properties = network.final_layer(read)


def _sorted_out(triplets: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one order of the triplets with three lengths of their own, and both orders of the others, [2, T] each."""
    first, second = vectors[triplets[0]], vectors[triplets[1]]
    sides = torch.stack([torch.linalg.vector_norm(side, dim=1) for side in (first, second, first - second)])
    equal = ((sides - sides.roll(1, 0)).abs() < _SAME_LENGTH).any(0)
    return triplets[:, ~equal & (triplets[0] < triplets[1])], triplets[:, equal]
