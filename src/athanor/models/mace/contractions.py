r"""The two costly steps of a MACE layer, with the sums taken before the products are written out.

mace-torch multiplies the features of the neighbour by the harmonics of each pair, for every component, and adds the
pairs up later; and it contracts dense tensors of coupling coefficients, which are nearly all zero. On a CPU both are
bound by memory. Here the pairs of an atom are added up by a product of matrices,

.. math:: A_{i,c,lm} = \sum_{j} (R_{ij,lc}\, x_{jc})\, Y_{lm}(r_{ij}),

and the polynomials of the features that make up the contraction are evaluated by their monomials, each once. The same
numbers come out but for rounding, and can be differentiated to any order.
"""

from __future__ import annotations

import copy
import sys
from typing import Any, NamedTuple

import torch
from torch import nn

from athanor.errors import ContractError


def with_sums_first(network: nn.Module) -> nn.Module | None:
    """Return a network that shares all parameters with `network` and has these steps, or ``None`` if none fits.

    A step that does not give what the one of mace-torch gives, tried on random numbers, is left as it is. `network`
    is not changed. What it returns wants the atoms that add up sorted; `receivers_first` sees to that.
    """
    o3 = getattr(sys.modules.get("e3nn"), "o3", None)
    if o3 is None or not hasattr(network, "interactions") or not hasattr(network, "products"):
        return None
    interactions = []
    for block in network.interactions:  # type: ignore[union-attr]
        summed = _or_none(SummedConvolution, getattr(block, "conv_tp", None), o3)
        if summed is None or hasattr(block, "conv_fusion"):
            return None
        by_element = _or_none(ProductByElement, getattr(block, "skip_tp", None), o3)
        twin = _with(block, conv_tp=summed, **({} if by_element is None else {"skip_tp": by_element}))
        twin.__dict__["conv_fusion"] = True  # by which mace-torch knows that the step adds up itself
        interactions.append(twin)
    products = []
    for block in network.products:  # type: ignore[union-attr]
        contraction = _or_none(MonomialContraction, getattr(block, "symmetric_contractions", None), o3)
        products.append(block if contraction is None else _with(block, symmetric_contractions=contraction))
    return _with(network, interactions=nn.ModuleList(interactions), products=nn.ModuleList(products))


def receivers_first(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return inputs of a network with both directions of each pair exchanged: the second atom is then sorted."""
    turned: dict[str, Any] = {
        name: -inputs[name] for name in ("shifts", "unit_shifts", "neighbor_list_shifts") if name in inputs
    }
    return {**inputs, **turned, "edge_index": inputs["edge_index"].flip(0)}


def _with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """Return a module with the same parameters, buffers and children, but for `children`."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = {**module._modules, **children}
    return twin


def _or_none(step: Any, original: Any, o3: Any) -> Any:
    """Return `step` for a module of mace-torch if it does the same, else ``None``."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            made = step(original, o3)
            made.check(original)
    except (AttributeError, ContractError, IndexError, NotImplementedError, RuntimeError, TypeError):
        return None  # another layout, of another version
    return made


def _check_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.abs().max().clamp(min=1e-30)
    if found.shape != expected.shape or not float((found - expected).abs().max() / scale) < 1e-4:
        raise ContractError("A step gives other numbers than the one of mace-torch.")


class SummedConvolution(nn.Module):
    """The tensor product of features of neighbours with harmonics of pairs, summed over the pairs of each atom.

    Parameters
    ----------
    product
        A tensor product of e3nn with weights that are not its own, every path of the mode ``uvu``.
    o3
        The module of e3nn that has coupling coefficients.
    """

    def __init__(self, product: Any, o3: Any) -> None:
        super().__init__()
        inner, harmonics, outer = product.irreps_in1, product.irreps_in2, product.irreps_out
        self._inner, self._harmonics, places = inner.slices(), harmonics.slices(), outer.slices()
        self._paths: dict[int, list[_Path]] = {}  # by the part of the features that they read
        start = 0
        for number, path in enumerate(product.instructions):
            if path.connection_mode != "uvu" or not path.has_weight or harmonics[path.i_in2].mul != 1:
                raise NotImplementedError(f"A path of the mode {path.connection_mode}.")
            degrees = inner[path.i_in1].ir.l, harmonics[path.i_in2].ir.l, outer[path.i_out].ir.l
            coefficients = o3.wigner_3j(*degrees, dtype=torch.float64) * path.path_weight
            self.register_buffer(f"coefficients_{number}", coefficients.flatten(0, 1), persistent=False)
            weights = slice(start, start := start + inner[path.i_in1].mul)
            self._paths.setdefault(path.i_in1, []).append(_Path(number, path.i_in2, weights, places[path.i_out].start))

    def check(self, product: Any) -> None:
        """Raise ContractError unless it gives the sums of what `product` gives."""
        edge_index = torch.tensor([[1, 2, 0, 1], [0, 0, 1, 2]], device=_place_of(product).get("device"))
        features = torch.randn(3, product.irreps_in1.dim, **_place_of(product))
        harmonics = torch.randn(4, product.irreps_in2.dim, **_place_of(product))
        weights = torch.randn(4, product.weight_numel, **_place_of(product))
        expected = features.new_zeros(3, product.irreps_out.dim)
        expected.index_add_(0, edge_index[1], product(features[edge_index[0]], harmonics, weights))
        _check_same(self(features, harmonics, weights, edge_index), expected)

    def forward(
        self, features: torch.Tensor, harmonics: torch.Tensor, weights: torch.Tensor, edge_index: torch.Tensor
    ) -> torch.Tensor:
        """Return [N, width]; the second row of `edge_index`, the atom that adds up, is sorted."""
        sender, receiver = edge_index
        rows = _Rows(receiver, len(features))
        of_pairs = rows.spread(harmonics)
        found: dict[int, torch.Tensor] = {}
        for part, paths in self._paths.items():
            sent = features[:, self._inner[part]][sender]
            channels = paths[0].weights.stop - paths[0].weights.start
            own = torch.stack([weights[:, path.weights] for path in paths], dim=1).unsqueeze(3)
            products = rows.spread((own * sent.view(len(sent), 1, channels, sent.shape[1] // channels)).flatten(1))
            for path, product in zip(paths, products.chunk(len(paths), dim=2), strict=True):
                summed = torch.bmm(of_pairs[..., self._harmonics[path.harmonics]].transpose(1, 2), product)
                summed = summed.unflatten(2, (channels, summed.shape[2] // channels)).permute(0, 2, 3, 1).flatten(2)
                found[path.start] = summed @ getattr(self, f"coefficients_{path.number}").to(summed)
        return torch.cat([found[start].flatten(1) for start in sorted(found)], dim=1)


class _Path(NamedTuple):
    """A path: the harmonics it reads, its columns of the weights, where its output starts."""

    number: int
    harmonics: int
    weights: slice
    start: int


class _Rows:
    """Places of pairs in a table with a row for each atom, which is as wide as the most pairs of one."""

    def __init__(self, receiver: torch.Tensor, num_atoms: int) -> None:
        degrees = torch.bincount(receiver, minlength=num_atoms)
        first = torch.cumsum(degrees, 0) - degrees
        self._num_atoms, self._width = num_atoms, max(int(degrees.max()), 1) if num_atoms else 1
        self._place = torch.arange(len(receiver), device=receiver.device) + (
            torch.arange(num_atoms, device=receiver.device) * self._width - first
        ).index_select(0, receiver)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return [N, width, ...], zero where an atom has no more pairs, of values [E, ...]."""
        table = values.new_zeros(self._num_atoms * self._width, *values.shape[1:])
        return table.index_copy(0, self._place, values).view(self._num_atoms, self._width, *values.shape[1:])


class MonomialContraction(nn.Module):
    """The symmetric contraction of a layer: polynomials of the features of an atom, with coefficients by element.

    Parameters
    ----------
    contraction
        A `SymmetricContraction` of mace-torch, whose weights are read at every call.
    """

    def __init__(self, contraction: Any, o3: Any) -> None:
        super().__init__()
        self._parts = nn.ModuleList(contraction.contractions)
        self._columns: list[list[tuple[int, int]]] = []  # of each degree and part: components and paths
        degrees = max(int(part.correlation) for part in contraction.contractions)
        for degree in range(1, degrees + 1):
            tensors = [_couplings(part, degree) for part in contraction.contractions]
            self._columns.append([(tensor.shape[0], tensor.shape[-1]) for tensor in tensors])
            monomials, matrix = _monomials(tensors, degree)
            self.register_buffer(f"monomials_{degree}", monomials, persistent=False)
            self.register_buffer(f"matrix_{degree}", matrix, persistent=False)

    def check(self, contraction: Any) -> None:
        """Raise ContractError unless it gives what `contraction` gives."""
        channels, components = contraction.irreps_in[0].mul, sum(each.ir.dim for each in contraction.irreps_in)
        features = torch.randn(3, channels, components, **_place_of(contraction))
        elements = _one_hot(3, len(self._parts[0].weights_max), contraction)  # type: ignore[arg-type]
        _check_same(self(features, elements), contraction(features, elements))

    def forward(self, features: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
        """Return [N, width] for `features` [N, channels, components] and one-hot `elements` [N, elements]."""
        atoms, channels, components = features.shape
        rows = features.permute(2, 0, 1).reshape(components, atoms * channels)
        element = elements.argmax(1)
        found: list[Any] = [0.0] * len(self._parts)
        for degree, columns in enumerate(self._columns, start=1):
            monomials: torch.Tensor = getattr(self, f"monomials_{degree}")
            product = rows[monomials[0]]
            for index in monomials[1:]:
                product = product * rows[index]
            values = getattr(self, f"matrix_{degree}").to(product) @ product
            start = 0
            for number, (part, (outs, paths)) in enumerate(zip(self._parts, columns, strict=True)):
                part_values = values[start : start + outs * paths].view(outs, paths, atoms, channels)
                weights = _weights(part, degree)[element].transpose(0, 1)  # [paths, N, channels]
                found[number] = found[number] + (part_values * weights).sum(1)
                start += outs * paths
        return torch.cat([part.permute(1, 2, 0).flatten(1) for part in found], dim=1)


def _place_of(module: Any) -> dict[str, Any]:
    """Return the dtype and device of a module."""
    tensor = next((each for each in (*module.parameters(), *module.buffers()) if each.is_floating_point()), None)
    return {} if tensor is None else {"dtype": tensor.dtype, "device": tensor.device}


def _one_hot(atoms: int, elements: int, module: Any) -> torch.Tensor:
    return torch.eye(elements, **_place_of(module))[torch.arange(atoms) % elements]


def _weights(part: Any, degree: int) -> torch.Tensor:
    return part.weights_max if degree == part.correlation else part.weights[part.correlation - degree - 1]


def _couplings(part: Any, degree: int) -> torch.Tensor:
    """Return [components of the output, components..., paths] of a degree; no path above that of the part."""
    tensor = getattr(part, f"U_matrix_{degree}")
    return tensor if tensor.ndim == degree + 2 else tensor.unsqueeze(0)


def _monomials(tensors: list[torch.Tensor], degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors [degree, M] of all monomials with a coefficient, and the coefficients [rows, M] of each path."""
    size = tensors[0].shape[1]
    columns = [tensor.movedim(-1, 1).flatten(2).flatten(0, 1).to(torch.float64) for tensor in tensors]
    dense = torch.cat(columns)  # [rows, size ** degree]
    places = (dense != 0).any(0).nonzero().view(-1)
    factors = torch.stack([(places // size**power) % size for power in range(degree)]).sort(0).values
    unique, row = torch.unique(factors, dim=1, return_inverse=True)
    matrix = dense.new_zeros(len(dense), unique.shape[1]).index_add(1, row, dense[:, places])
    return unique, matrix


class ProductByElement(nn.Module):
    """The product of features of atoms with their one-hot elements: a matrix for each element.

    Parameters
    ----------
    product
        A fully connected tensor product of e3nn, whose weights are read at every call.
    """

    def __init__(self, product: Any, o3: Any) -> None:
        super().__init__()
        self._product = product
        self._inner, self._outer = product.irreps_in1.slices(), product.irreps_out.slices()
        self._paths = []
        start = 0
        for path in product.instructions:
            irrep, elements = product.irreps_in1[path.i_in1], product.irreps_in2[path.i_in2].mul
            if path.connection_mode != "uvw" or len(product.irreps_in2) != 1 or product.irreps_in2.lmax:
                raise NotImplementedError(f"A path of the mode {path.connection_mode}.")
            shape = (irrep.mul, elements, product.irreps_out[path.i_out].mul)
            scale = path.path_weight / (2 * irrep.ir.l + 1) ** 0.5
            self._paths.append((path.i_in1, path.i_out, shape, start, scale))
            start += irrep.mul * elements * shape[2]

    def check(self, product: Any) -> None:
        """Raise ContractError unless it gives what `product` gives."""
        features = torch.randn(3, product.irreps_in1.dim, **_place_of(product))
        elements = _one_hot(3, product.irreps_in2.dim, product)
        _check_same(self(features, elements), product(features, elements))

    def forward(self, features: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
        """Return [N, width]."""
        element = elements.argmax(1)
        found: dict[int, torch.Tensor] = {}
        groups = [(each, (element == each).nonzero().view(-1)) for each in element.unique().tolist()]
        order = torch.argsort(torch.cat([atoms for _, atoms in groups])) if groups else element
        for inner, outer, shape, start, scale in self._paths:
            weights = self._product.weight[start : start + shape[0] * shape[1] * shape[2]].view(shape)
            own = features[:, self._inner[inner]].unflatten(1, (shape[0], -1)).transpose(1, 2)  # [N, 2l + 1, channels]
            parts = [own[atoms] @ (weights[:, each] * scale) for each, atoms in groups]
            value = (torch.cat(parts)[order] if parts else own @ weights[:, 0]).transpose(1, 2).flatten(1)
            found[outer] = found[outer] + value if outer in found else value
        empty = ((outer, where.stop - where.start) for outer, where in enumerate(self._outer) if outer not in found)
        found |= {outer: features.new_zeros(len(features), width) for outer, width in empty}  # no path leads there
        return torch.cat([found[outer] for outer in sorted(found)], dim=1)
