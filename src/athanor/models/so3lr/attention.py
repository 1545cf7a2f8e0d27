"""A layer of SO3LR on pairs that are listed once: what is the same from both ends is computed once.

The filters of a pair read its length and what is left of the features at its ends by their difference, squared: neither
knows which end is which. They are the larger part of a layer of the so3krates-torch package, which makes them for each
direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs within the cutoff of the messages, each once.

    Parameters
    ----------
    first, second
        int64 [H], the atoms of each.
    radial
        [H, basis], functions of the distance.
    harmonics
        [2, H, m], of the vectors to the first atom, and to the second.
    cutoffs
        [H, 1].
    """

    first: torch.Tensor
    second: torch.Tensor
    radial: torch.Tensor
    harmonics: torch.Tensor
    cutoffs: torch.Tensor

    @property
    def receivers(self) -> torch.Tensor:
        """int64 [2 H], of the messages in both directions."""
        return torch.cat((self.first, self.second))

    @property
    def senders(self) -> torch.Tensor:
        """int64 [2 H]."""
        return torch.cat((self.second, self.first))


def transformed(
    layer: Any, features: torch.Tensor, equivariant: torch.Tensor, pairs: Pairs
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features after an `EuclideanTransformer` of the package, with its blocks and in its order."""
    attended = _attention(layer.euclidean_attention_block, features, equivariant, pairs)
    features, equivariant = features + attended[0], equivariant + attended[1]
    if layer.layer_normalization_1:
        features = layer.layer_norm_inv_1(features)
    if layer.residual_mlp_1:
        features = features + layer.mlp_1(features)
    exchanged = layer.interaction_block(features, equivariant)
    features, equivariant = features + exchanged[0], equivariant + exchanged[1]
    if layer.residual_mlp_2:
        features = features + layer.mlp_2(features)
    if layer.layer_normalization_2:
        features = layer.layer_norm_inv_2(features)
    return features, equivariant


def _attention(
    block: Any, features: torch.Tensor, equivariant: torch.Tensor, pairs: Pairs
) -> tuple[torch.Tensor, torch.Tensor]:
    invariants = block.so3_conv_invariants(equivariant[pairs.second] - equivariant[pairs.first])
    receivers, senders, number = pairs.receivers, pairs.senders, len(pairs.first)

    def products(heads: int, query: torch.Tensor, key: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        """Sum query times key times filter over the channels of each head, [2, H, heads]."""
        parts = features.unflatten(1, (heads, -1))
        query, key = (block.qk_non_linearity(torch.einsum("nhd,hde->nhe", parts, each)) for each in (query, key))
        both = (query[receivers] * key[senders]).unflatten(0, (2, number))
        return (both * filters.unflatten(1, (heads, -1))).sum(-1)

    weights = products(
        block.inv_heads, block.W_q_inv, block.W_k_inv, block.filter_net_inv(pairs.radial, invariants)
    ) / (block.att_norm_inv)
    values = torch.einsum("nhd,hde->nhe", features.unflatten(1, (block.inv_heads, -1)), block.W_v_inv)
    weights = (weights * pairs.cutoffs).flatten(0, 1).unsqueeze(2)
    sums = values.new_zeros(values.shape).index_add(0, receivers, weights * values[senders])
    of_degrees = products(block.ev_heads, block.W_q_ev, block.W_k_ev, block.filter_net_ev(pairs.radial, invariants)) / (
        block.att_norm_ev
    )
    of_degrees = (of_degrees * pairs.cutoffs).repeat_interleave(block.degree_repeats, -1)
    turned = torch.zeros_like(equivariant).index_add(0, receivers, (of_degrees * pairs.harmonics).flatten(0, 1))
    return sums.flatten(1), turned
