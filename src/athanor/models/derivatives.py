"""Forces and stress from an energy by automatic differentiation, and the strain that makes the stress possible.

Stress is the Cauchy stress, tensile positive: +1/V dE/dstrain in eV/Å³. Lattice vectors are rows, so a strained
position is r (1 + ε).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set
from functools import reduce
from typing import Any, Literal, Protocol

import torch

from athanor.errors import ContractError, InputError

Convention = Literal["tensile", "compressive"]


class GivesAttachedEnergy(Protocol):
    """A model whose energy others may differentiate; `BaseModelMixin` says what the method returns."""

    def attached_energy(self, data: Any, strain: torch.Tensor | None, wanted: Set[str]) -> dict[str, torch.Tensor]:
        """See `BaseModelMixin.attached_energy`."""
        ...


def energy_and_derivatives(
    model: GivesAttachedEnergy, data: Any, wanted: Set[str], *, keep_graph: bool = False
) -> OrderedDict[str, torch.Tensor]:
    """Evaluate the energy of a model, and differentiate it in one backward pass.

    Parameters
    ----------
    model
        A model that gives an attached energy.
    data
        A batch, or one structure if no stress is wanted; not changed.
    wanted
        Outputs that are asked for. Of these, ``forces`` and ``stress`` are made here.
    keep_graph
        Whether results stay attached, as training needs; they do whenever positions or cell of `data` carry a graph.

    Returns
    -------
    OrderedDict
        ``energy`` [B, 1] and what else the model gives; ``forces`` [N, 3] and ``stress`` [B, 3, 3] if wanted, in the
        dtype of the energy.

    Raises
    ------
    ContractError
        If the energy of the model does not depend on what it is to be differentiated by.
    """
    keep_graph = keep_graph or carries_graph(data)
    with torch.inference_mode(False), torch.set_grad_enabled(keep_graph or not wanted.isdisjoint(("forces", "stress"))):
        view = data.shallow_view()
        variables = leaves(view, wanted)
        outputs = OrderedDict(model.attached_energy(view, variables.get("stress"), wanted))
        if variables:
            energy = outputs["energy"]
            check_attached(model, energy)
            outputs |= differentiate([(energy, torch.ones_like(energy))], variables, view, keep_graph)
    return outputs if keep_graph else OrderedDict((key, value.detach()) for key, value in outputs.items())


def leaves(view: Any, wanted: Set[str]) -> dict[str, torch.Tensor]:
    """Return what an energy is differentiated by to get those of ``forces`` and ``stress`` that are wanted, by name.

    Positions, which are flagged in `view`, and zeros that the energy has to depend on as on a strain, float64
    [B, 3, 3].
    """
    variables: dict[str, torch.Tensor] = {}
    if "forces" in wanted:
        variables["forces"] = view.positions.requires_grad_(True)
    if "stress" in wanted:
        shape = (view.num_graphs, 3, 3)
        variables["stress"] = torch.zeros(shape, dtype=torch.float64, device=view.device, requires_grad=True)
    return variables


def differentiate(
    roots: Sequence[tuple[torch.Tensor, torch.Tensor]],
    variables: dict[str, torch.Tensor],
    view: Any,
    keep_graph: bool,
) -> dict[str, torch.Tensor]:
    """Return forces and stress from one backward pass.

    Parameters
    ----------
    roots
        Where it starts: tensors, and the gradient of the total energy by each; ones for an energy. Results have the
        widest of their dtypes.
    variables
        Of `leaves`; those that are left out give no output.
    view
        The batch, for its cells.
    keep_graph
        Whether the result is to be differentiated again.
    """
    starts, weights = zip(*roots, strict=True)
    gradients = torch.autograd.grad(starts, tuple(variables.values()), weights, create_graph=keep_graph)
    found = dict(zip(variables, gradients, strict=True))
    if "forces" in found:
        found["forces"] = -found["forces"]
    if "stress" in found:
        found["stress"] = stress_of_strain_gradient(found["stress"], view.cell_or_zeros.to(torch.float64))
    dtype = reduce(torch.promote_types, (start.dtype for start in starts))
    return {name: value.to(dtype) for name, value in found.items()}


def carries_graph(data: Any) -> bool:
    """Whether somebody differentiates by positions or cell of `data`, so that results are to stay attached."""
    return any(tensor is not None and tensor.requires_grad for tensor in (data.get("positions"), data.get("cell")))


def check_attached(model: Any, energy: torch.Tensor) -> None:
    """Raise ContractError unless the energy of `model` can be differentiated."""
    if not energy.requires_grad:
        raise ContractError(
            f"The energy of {type(model).__name__} is not attached to the positions it was computed from, so it "
            f"has no derivative. Compute it without `detach` and outside `torch.no_grad`."
        )


def strained_view(data: Any, strain: torch.Tensor | None) -> Any:
    """Return a view of a batch whose positions and cells are strained, or `data` itself if `strain` is ``None``.

    Parameters
    ----------
    data
        A batch.
    strain
        [B, 3, 3], as `energy_and_derivatives` hands it to models.
    """
    if strain is None:
        return data
    view = data.shallow_view(())
    displacement = strain.to(data.positions.dtype)
    view.positions, cell = apply_strain(data.positions, data.cell_or_zeros, data.batch_idx, displacement)
    if "cell" in data:
        view.cell = cell
    return view


def autograd_forces(
    energy: torch.Tensor, positions: torch.Tensor, training: bool = False, retain_graph: bool = False
) -> torch.Tensor:
    r"""Return the forces :math:`F = -\partial E/\partial r`.

    Parameters
    ----------
    energy
        Any shape, attached to `positions`, eV.
    positions
        [N, 3], Å, requires grad.
    training
        Keep the graph of the result, to differentiate again.
    retain_graph
        Keep the graph of `energy`, to differentiate it again.

    Returns
    -------
    torch.Tensor
        [N, 3], eV/Å.
    """
    (gradient,) = _gradients(energy, (positions,), training, retain_graph)
    return -gradient


def autograd_stresses(
    energy: torch.Tensor,
    displacement: torch.Tensor,
    cell: torch.Tensor,
    num_graphs: int,
    training: bool = False,
    retain_graph: bool = False,
    *,
    convention: Convention = "tensile",
) -> torch.Tensor:
    r"""Return the stress :math:`\sigma = +\frac{1}{V}\,\partial E/\partial\varepsilon`.

    Parameters
    ----------
    energy
        Any shape, attached to `displacement`, eV.
    displacement
        [B, 3, 3], the strain from `prepare_strain`.
    cell
        [B, 3, 3], the cell before straining, Å. Systems of zero volume get zero stress.
    num_graphs
        Number of systems, B.
    training, retain_graph
        As in `autograd_forces`.
    convention
        ``"tensile"``, or ``"compressive"`` for the opposite sign.

    Returns
    -------
    torch.Tensor
        [B, 3, 3], eV/Å³.
    """
    (gradient,) = _gradients(energy, (displacement,), training, retain_graph)
    return _stress(gradient, cell, num_graphs, convention)


def autograd_forces_and_stresses(
    energy: torch.Tensor,
    positions: torch.Tensor,
    displacement: torch.Tensor,
    cell: torch.Tensor,
    num_graphs: int,
    training: bool = False,
    retain_graph: bool = False,
    *,
    convention: Convention = "tensile",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return forces and stress from one backward pass; see `autograd_forces` and `autograd_stresses`."""
    force_gradient, strain_gradient = _gradients(energy, (positions, displacement), training, retain_graph)
    return -force_gradient, _stress(strain_gradient, cell, num_graphs, convention)


def _gradients(
    energy: torch.Tensor, inputs: tuple[torch.Tensor, ...], training: bool, retain_graph: bool
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(
        energy,
        inputs,
        grad_outputs=torch.ones_like(energy),
        create_graph=training,
        retain_graph=retain_graph or training,
    )


def _stress(gradient: torch.Tensor, cell: torch.Tensor, num_graphs: int, convention: Convention) -> torch.Tensor:
    if convention not in ("tensile", "compressive"):
        raise InputError(f"`convention` is {convention!r}; it must be 'tensile' or 'compressive'.")
    stress = stress_of_strain_gradient(gradient.view(num_graphs, 3, 3), cell.reshape(-1, 3, 3))
    return stress if convention == "tensile" else -stress


def stress_of_strain_gradient(gradient: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """Return the stress +1/V dE/dstrain, tensile positive.

    Parameters
    ----------
    gradient
        [B, 3, 3], dE/dstrain (minus the virial), eV.
    cell
        [B, 3, 3], Å.

    Returns
    -------
    torch.Tensor
        [B, 3, 3], eV/Å³; zero for systems whose cell spans no volume.
    """
    volume = torch.linalg.det(cell).abs().view(-1, 1, 1)
    has_volume = volume > 0
    return torch.where(has_volume, gradient / torch.where(has_volume, volume, 1.0), 0.0)


def apply_strain(
    positions: torch.Tensor,
    cell: torch.Tensor,
    batch_idx: torch.Tensor,
    displacement: torch.Tensor,
    cell_displacement: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Deform positions and cells by the symmetric part of a strain.

    .. math:: r' = r\,(1 + \tfrac{1}{2}(D + D^T)), \qquad h' = h\,(1 + \tfrac{1}{2}(D + D^T))

    Parameters
    ----------
    positions
        [N, 3], Å.
    cell
        [B, 3, 3], lattice vectors as rows, Å.
    batch_idx
        [N], system of each atom.
    displacement
        [B, 3, 3], D.
    cell_displacement
        [B, 3, 3], another D for the cell; `displacement` by default.

    Returns
    -------
    tuple of torch.Tensor
        Positions [N, 3] and cells [B, 3, 3]. At D = 0 they have the bits of the inputs.
    """
    strain = 0.5 * (displacement + displacement.transpose(-1, -2))
    cell_strain = strain
    if cell_displacement is not None:
        cell_strain = 0.5 * (cell_displacement + cell_displacement.transpose(-1, -2))
    shift = torch.bmm(positions.unsqueeze(1), strain.index_select(0, batch_idx)).squeeze(1)
    return positions + shift, cell + torch.bmm(cell, cell_strain)


def prepare_strain(
    positions: torch.Tensor, cell: torch.Tensor, batch_idx: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attach a zero strain to positions and cells, so that an energy of them can be differentiated by it.

    Parameters
    ----------
    positions
        [N, 3], Å.
    cell
        [B, 3, 3], lattice vectors as rows, Å.
    batch_idx
        [N], system of each atom.

    Returns
    -------
    tuple of torch.Tensor
        Strained positions [N, 3], strained cells [B, 3, 3], and the strain [B, 3, 3]: a leaf of zeros that requires
        grad. Take forces as the gradient with respect to the strained positions.
    """
    num_graphs = cell.reshape(-1, 3, 3).shape[0]
    cell = cell.reshape(num_graphs, 3, 3)
    displacement = torch.zeros(num_graphs, 3, 3, dtype=positions.dtype, device=positions.device, requires_grad=True)
    strained_positions, strained_cell = apply_strain(positions, cell, batch_idx, displacement)
    return strained_positions, strained_cell, displacement


def cell_cache_needs_update(
    cell: torch.Tensor, cached_cell: torch.Tensor | None, rtol: float = 1e-5, atol: float | None = None
) -> bool:
    """Whether something computed for `cached_cell` has to be computed again for `cell`.

    Parameters
    ----------
    cell, cached_cell
        Cells of any shape, Å; ``None`` for a cache that is empty.
    rtol, atol
        Tolerances of the comparison; `atol` is ``max(1e-6, eps)`` of the dtype by default.

    Notes
    -----
    Waits for the device.
    """
    if cached_cell is None or cell.shape != cached_cell.shape:
        return True
    if cell.device != cached_cell.device or cell.dtype != cached_cell.dtype:
        return True
    if atol is None:
        atol = max(1e-6, torch.finfo(cell.dtype).eps)
    return not torch.allclose(cell, cached_cell, rtol=rtol, atol=atol)
