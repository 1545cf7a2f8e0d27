r"""The convolution of SevenNet in blocks of pairs that fit the cache, with the parameters of the package's layer.

A message is the product of features of a neighbour, harmonics of the vector to it and a weight for each channel:

.. math:: m_{ecu} = w_{epu} \sum_a A_{eca}\, x_{j(e)au}, \qquad A_{eca} = \sum_b C_{cab}\, Y_{eb},

a row of irreps of features, c of messages, b of harmonics, u channels, p the path that c belongs to. The layer forms
the product of features and harmonics for every channel first, and keeps that for the backward pass; here the harmonics
meet the coupling coefficients first, which have no channels, and messages are made again where they are needed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from athanor._optional import OptionalDependency

_BLOCK_BYTES = 2**20
"""What messages of a block may take. With 1 MB of cache for a core, half as much takes 14 % longer, all at once 48."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Paths that read the same features: those of one irrep.

    Parameters
    ----------
    inputs
        Where its features stand in a row of the layer's input.
    channels, dimension
        Number of channels u, and of rows a.
    coupling
        [b, c * a], the coefficients C of its paths.
    outputs
        Of each path where its messages stand in a row of the layer's output, and its first and last row c.
    """

    inputs: slice
    channels: int
    dimension: int
    coupling: torch.Tensor
    outputs: list[tuple[slice, int, int]]

    @property
    def num_rows(self) -> int:
        return self.outputs[-1][2]

    @property
    def num_weights(self) -> int:
        return self.channels * len(self.outputs)


class Convolution:
    """A convolution layer of a SevenNet network, evaluated from the outside.

    Parameters
    ----------
    layer
        An `IrrepsConvolution` of the package, whose parameters are read in each call.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        reference = layer.denominator
        wigner_3j = OptionalDependency.E3NN.load("o3").wigner_3j
        product = layer.convolution
        starts = _starts(product.weight_numel, [each.path_shape[0] for each in product.instructions])
        order, self._groups = [], []
        for place, (first, _) in enumerate(_slices(product.irreps_in1)):
            paths = [(n, each) for n, each in enumerate(product.instructions) if each.i_in1 == place]
            if not paths:
                continue
            irrep, blocks, outputs, row = product.irreps_in1[place], [], [], 0
            for n, path in paths:
                harmonic, message = product.irreps_in2[path.i_in2], product.irreps_out[path.i_out]
                block = reference.new_zeros(product.irreps_in2.dim, message.ir.dim, irrep.ir.dim)
                symbols = wigner_3j(irrep.ir.l, harmonic.ir.l, message.ir.l, dtype=torch.float64)
                where, _ = _slices(product.irreps_in2)[path.i_in2]
                block[where : where + harmonic.ir.dim] = (symbols * path.path_weight).permute(1, 2, 0)
                blocks.append(block)
                begin, end = _slices(product.irreps_out)[path.i_out]
                outputs.append((slice(begin, end), row, row + message.ir.dim))
                row += message.ir.dim
                order.append(torch.arange(starts[n], starts[n] + irrep.mul))
            inputs, coupling = slice(first, first + irrep.dim), torch.cat(blocks, 1).flatten(1)
            self._groups.append(_Group(inputs, irrep.mul, irrep.ir.dim, coupling, outputs))
        self._order = torch.cat(order).to(reference.device)

    @staticmethod
    def evaluates(layer: Any) -> bool:
        """Whether `layer` is one: paths without mixing of channels, with weights of their own, on ordinary kernels."""
        paths = getattr(getattr(layer, "convolution", None), "instructions", ())
        return (
            type(layer).__name__ == "IrrepsConvolution"
            and not layer.is_parallel
            and type(layer.convolution).__name__ == "TensorProduct"
            and all(each.connection_mode == "uvu" and each.has_weight and each.path_shape[1] == 1 for each in paths)
        )

    def fits(self, reference: torch.Tensor) -> bool:
        """Whether this was made for the dtype and the device of `reference`."""
        coupling = self._groups[0].coupling
        return coupling.dtype == reference.dtype and coupling.device == reference.device

    def __call__(
        self, features: torch.Tensor, harmonics: torch.Tensor, radial: torch.Tensor, ends: torch.Tensor
    ) -> Any:
        """Return the sums of messages to each atom.

        Parameters
        ----------
        features
            [N, width].
        harmonics, radial
            [E, b] and [E, basis], of each pair.
        ends
            [2, E], centre and neighbour of each.
        """
        *first, last = self._layer.weight_nn.children()
        for layer in first:
            radial = layer(radial)
        scale = (last.h_in * last.var_in / last.var_out) ** 0.5
        weight = (last.weight.detach() / scale)[:, self._order]
        sums = _Convolved.apply(features, harmonics, radial, weight, ends, self._groups)
        return sums / self._layer.denominator.detach()


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        harmonics: torch.Tensor,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        ends: torch.Tensor,
        groups: Sequence[_Group],
    ) -> torch.Tensor:
        ctx.save_for_backward(features, harmonics, hidden, weight, ends)
        ctx.groups = groups
        inputs = [_rows_of(features, group) for group in groups]
        sums = [features.new_zeros(len(features), group.num_rows, group.channels) for group in groups]
        for pairs in _blocks(ends, sums):
            center, neighbor = ends[:, pairs]
            weights = _weights(hidden[pairs], weight, groups)
            for group, rows, total, own in zip(groups, inputs, sums, weights, strict=True):
                coupled = _coupled(harmonics[pairs], group)
                total.index_add_(0, center, _weighted(torch.bmm(coupled, rows[neighbor]), own, group))
        return _joined(sums, groups)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        features, harmonics, hidden, weight, ends = ctx.saved_tensors
        groups = ctx.groups
        if torch.is_grad_enabled():
            # as nodes of their own, so that a derivative by one does not go through what another was computed from
            views = features.view_as(features), harmonics.view_as(harmonics), hidden.view_as(hidden)
            places = [place for place, needed in enumerate(ctx.needs_input_grad[:3]) if needed]
            again = _differentiable(*views, weight, ends, groups)
            derivatives = torch.autograd.grad(again, [views[place] for place in places], gradient, create_graph=True)
            found = dict(zip(places, derivatives, strict=True))
            return *(found.get(place) for place in range(3)), None, None, None
        inputs = [_rows_of(features, group) for group in groups]
        outer = _split(gradient, groups)
        by_features = [torch.zeros_like(rows) for rows in inputs]
        by_harmonics, by_hidden = torch.zeros_like(harmonics), torch.empty_like(hidden)
        for pairs in _blocks(ends, outer):
            center, neighbor = ends[:, pairs]
            weights, by_weights = _weights(hidden[pairs], weight, groups), []
            for group, rows, total, into, own in zip(groups, inputs, outer, by_features, weights, strict=True):
                coupled, near, wanted = _coupled(harmonics[pairs], group), rows[neighbor], total[center]
                products = torch.bmm(coupled, near).mul_(wanted)
                by_weights += [products[:, begin:end].sum(1) for _, begin, end in group.outputs]
                wanted = _weighted(wanted, own, group)
                into.index_add_(0, neighbor, torch.bmm(coupled.transpose(1, 2), wanted))
                by_coupled = torch.bmm(wanted, near.transpose(1, 2)).flatten(1)
                by_harmonics[pairs].addmm_(by_coupled, group.coupling.T)
            torch.mm(torch.cat(by_weights, 1), weight.T, out=by_hidden[pairs])
        joined = torch.zeros_like(features)
        for group, rows in zip(groups, by_features, strict=True):
            joined[:, group.inputs] = rows.transpose(1, 2).flatten(1)
        return joined, by_harmonics, by_hidden, None, None, None


def _differentiable(
    features: torch.Tensor,
    harmonics: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ends: torch.Tensor,
    groups: Sequence[_Group],
) -> torch.Tensor:
    """Compute the same in one block, of operations that torch differentiates."""
    sums = []
    for group, own in zip(groups, _weights(hidden, weight, groups), strict=True):
        messages = torch.bmm(_coupled(harmonics, group), _rows_of(features, group)[ends[1]])
        paths = [messages[:, begin:end] * own[:, n : n + 1] for n, (_, begin, end) in enumerate(group.outputs)]
        total = features.new_zeros(len(features), group.num_rows, group.channels)
        sums.append(total.index_add(0, ends[0], torch.cat(paths, 1)))
    return _joined(sums, groups)


def _weights(hidden: torch.Tensor, weight: torch.Tensor, groups: Sequence[_Group]) -> list[torch.Tensor]:
    """Return the weights [e, p, u] of each group."""
    parts = (hidden @ weight).split([group.num_weights for group in groups], 1)
    return [part.unflatten(1, (-1, group.channels)) for part, group in zip(parts, groups, strict=True)]


def _coupled(harmonics: torch.Tensor, group: _Group) -> torch.Tensor:
    """Return A [e, c, a]."""
    return (harmonics @ group.coupling).unflatten(1, (-1, group.dimension))


def _weighted(messages: torch.Tensor, weights: torch.Tensor, group: _Group) -> torch.Tensor:
    """Multiply each path of `messages` [e, c, u] by its weights, in place."""
    for n, (_, begin, end) in enumerate(group.outputs):
        messages[:, begin:end] *= weights[:, n : n + 1]
    return messages


def _rows_of(features: torch.Tensor, group: _Group) -> torch.Tensor:
    """Return the features that a group reads, [N, a, u]."""
    return features[:, group.inputs].unflatten(1, (group.channels, group.dimension)).transpose(1, 2).contiguous()


def _joined(sums: Sequence[torch.Tensor], groups: Sequence[_Group]) -> torch.Tensor:
    """Return rows [N, width] as the layer writes them, of sums [N, c, u]."""
    parts = [
        (where.start, total[:, begin:end].transpose(1, 2).flatten(1))
        for total, group in zip(sums, groups, strict=True)
        for where, begin, end in group.outputs
    ]
    return torch.cat([part for _, part in sorted(parts, key=lambda each: each[0])], 1)


def _split(rows: torch.Tensor, groups: Sequence[_Group]) -> list[torch.Tensor]:
    """Undo `_joined`."""
    return [
        torch.cat([rows[:, where].unflatten(1, (group.channels, -1)).transpose(1, 2) for where, *_ in group.outputs], 1)
        for group in groups
    ]


def _blocks(ends: torch.Tensor, sums: Sequence[torch.Tensor]) -> Iterator[slice]:
    """Cut the pairs into blocks; on other devices than the CPU there is one."""
    number = ends.shape[1]
    size = number
    if not ends.is_cuda:
        size = max(64, _BLOCK_BYTES // max(total[:1].numel() * total.element_size() for total in sums))
    for start in range(0, number, max(size, 1)):
        yield slice(start, min(start + size, number))


def _slices(irreps: Any) -> list[tuple[int, int]]:
    return [(each.start, each.stop) for each in irreps.slices()]


def _starts(total: int, sizes: Sequence[int]) -> list[int]:
    """Return where the weights of each path begin."""
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    assert ends[-1] == total
    return ends[:-1]
