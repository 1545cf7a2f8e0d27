"""`hessian`: second derivatives of the energy of a model, by differences of its forces or by differentiating twice."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from athanor._values import check_whole, is_real, shown
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ArgumentError, InputError, NotAvailableError
from athanor.models.outputs import asking_for, checked_outputs
from athanor.neighbors.build import compute_neighbors

_MOST_ATOMS = 1000
"""Atoms of one batch of displaced structures: enough to keep two cores busy, and little memory."""


def hessian(
    model: Any, data: Batch | AtomicData, *, step: float | None = 0.01, max_atoms: int = _MOST_ATOMS
) -> list[torch.Tensor]:
    r"""Return the second derivatives of the energy by positions, of each system by itself.

    .. math:: H_{ia,jb} = \frac{\partial^2 E}{\partial r_{ia}\,\partial r_{jb}}
              \approx \frac{F_{jb}(r_{ia} - h) - F_{jb}(r_{ia} + h)}{2h}

    Parameters
    ----------
    model
        A wrapped model. Its `active_outputs` do not matter and stay as they are.
    data
        A batch, or one structure; not changed, and needs no neighbour list. Fixed atoms count like others.
    step
        Displacement h in Å. Differences work with every model that has forces, and say how the energy curves over the
        reach of a vibration. ``None``: differentiate the energy twice, which is exact, where the model can; a network
        that is rough on a scale below `step` curves otherwise there, as CHGNet does.
    max_atoms
        Most atoms in one batch of displaced structures; a system with more is evaluated alone.

    Returns
    -------
    list of torch.Tensor
        [n, 3, n, 3] for each system of n atoms, eV/Å², in the dtype of the positions, detached;
        ``.reshape(3 * n, 3 * n)`` is symmetric.

    Raises
    ------
    InputError
        If `step` is not positive.
    NotAvailableError
        If the model has no forces, or no second derivatives and `step` is ``None``.

    Examples
    --------
    >>> from ase import Atoms
    >>> from athanor import AtomicData, models
    >>> argon = models.get("lennard-jones", epsilon=0.0104, sigma=3.4, cutoff=8.5)
    >>> pair = AtomicData.from_atoms(Atoms("Ar2", [(0, 0, 0), (3.816, 0, 0)]))
    >>> round(models.hessian(argon, pair)[0][0, 0, 0, 0].item(), 2)  # of the bond at its equilibrium, eV/Å²
    0.05
    """
    if not isinstance(data, (Batch, AtomicData)):
        raise ArgumentError(
            f"`data` is a {type(data).__name__}; pass a Batch, such as `Batch.from_data_list([structure])`."
        )
    batch = data if isinstance(data, Batch) else Batch.from_data_list([data])
    if step is not None and not (is_real(step) and 0.0 < step < math.inf):
        raise InputError(f"`step` is {shown(step)}; give a displacement in Å above 0, such as 0.01, or None.")
    check_whole(max_atoms, "max_atoms", 1)
    needed = "energy" if step is None else "forces"
    if needed not in model.model_config.outputs:
        raise NotAvailableError(
            f"{type(model).__name__} computes no {needed}, of which a Hessian is made; it can compute "
            f"{', '.join(sorted(model.model_config.outputs))}. Choose another model."
        )
    dtype = batch.positions.dtype
    plain = batch.without_pairs().to(torch.float64)
    with torch.inference_mode(False), asking_for(model, {needed}):
        found = _by_autograd(model, plain) if step is None else _by_differences(model, plain, float(step), max_atoms)
    return [each.to(dtype) for each in found]


def _evaluate(model: Any, batch: Batch, name: str) -> torch.Tensor:
    config = model.model_config.neighbor_config
    if config is not None:
        compute_neighbors(batch, config=config)
    return checked_outputs(model, batch, model(batch), {name})[name].to(torch.float64)


def _by_autograd(model: Any, batch: Batch) -> list[torch.Tensor]:
    """Differentiate the gradient of all systems at once, by one coordinate of each at a time."""
    positions = batch.positions.detach().clone().requires_grad_(True)
    counts, first = batch.num_nodes_per_graph.long(), batch.batch_ptr[:-1].long()
    rows: list[torch.Tensor] = []
    with torch.enable_grad():
        batch.positions = positions
        energy = _evaluate(model, batch, "energy")
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        for place in range(3 * int(counts.max())):
            chosen = torch.zeros_like(positions)
            chosen[first[3 * counts > place] + place // 3, place % 3] = 1.0
            if gradient.requires_grad:
                chosen = torch.autograd.grad(gradient, positions, chosen, retain_graph=True, materialize_grads=True)[0]
            rows.append(chosen if gradient.requires_grad else torch.zeros_like(positions))
    table = torch.stack(rows)
    return [
        table[: 3 * count, start : start + count].reshape(count, 3, count, 3)
        for count, start in zip(counts.tolist(), first.tolist(), strict=True)
    ]


def _by_differences(model: Any, batch: Batch, step: float, max_atoms: int) -> list[torch.Tensor]:
    """Take central differences, symmetrized, from batches of displaced copies of every system."""
    counts = batch.num_nodes_per_graph.tolist()
    copies = [(system, place) for system, count in enumerate(counts) for place in range(3 * count)]
    found: list[list[torch.Tensor]] = [[] for _ in counts]
    while copies:
        sizes = itertools.accumulate(2 * counts[system] for system, _ in copies)
        number = max(1, sum(1 for _ in itertools.takewhile(lambda atoms: atoms <= max_atoms, sizes)))
        chosen, copies = copies[:number], copies[number:]
        systems, places = torch.tensor(chosen, device=batch.device).repeat_interleave(2, dim=0).unbind(1)
        displaced = batch.index_select(systems)
        positions = displaced.positions.clone()
        signs = positions.new_tensor([1.0, -1.0]).repeat(number)
        positions[displaced.batch_ptr[:-1].long() + places // 3, places % 3] += step * signs
        displaced.positions = positions
        forces = _evaluate(model, displaced, "forces").detach().split(displaced.num_nodes_per_graph.tolist())
        for (system, _), ahead, behind in zip(chosen, forces[::2], forces[1::2], strict=True):
            found[system].append((behind - ahead) / (2.0 * step))
    tables = [torch.stack(rows).reshape(count, 3, count, 3) for count, rows in zip(counts, found, strict=True)]
    return [0.5 * (table + table.permute(2, 3, 0, 1)) for table in tables]
