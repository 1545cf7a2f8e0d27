r"""Kinetic energy, degrees of freedom, temperature, pressure and largest force of each system: one definition each.

Engines, hooks and workflows all read these. Sums run over the atoms of a system in order and depend on nothing else,
so a system has the same bits alone and in a batch. Atoms that are ``fixed`` count nowhere. A field that is needed and
absent is a `MissingFieldError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from athanor.errors import MissingFieldError
from athanor.kernels.segment import segment_max, segment_sum
from athanor.units import BOLTZMANN

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def _need(batch: Batch, name: str, who: str) -> torch.Tensor:
    value = batch.get(name)
    if value is None:
        present = ", ".join(sorted(name for name, _ in batch))
        raise MissingFieldError(f"`{name}` is missing from the batch; {who} needs it. Fields present: {present}.")
    return value


def _moving(batch: Batch, values: torch.Tensor) -> torch.Tensor:
    """Per-atom `values` [N] with 0 for fixed atoms."""
    fixed = batch.get("fixed")
    return values if fixed is None else torch.where(fixed, 0.0, values)


def kinetic_energy(batch: Batch) -> torch.Tensor:
    r"""Return the kinetic energy of each system.

    .. math:: K_s = \tfrac{1}{2} \sum_{i \in s} m_i v_i^2

    Returns
    -------
    torch.Tensor
        eV, [B, 1]; fixed atoms are left out.
    """
    velocities = _need(batch, "velocities", "the kinetic energy")
    masses = _need(batch, "atomic_masses", "the kinetic energy")
    x, y, z = velocities.unbind(dim=1)
    each = 0.5 * masses * (x * x + y * y + z * z)
    return segment_sum(_moving(batch, each), batch.batch_ptr).unsqueeze(1)


def count_degrees_of_freedom(batch: Batch, momentum_conserved: bool = False) -> torch.Tensor:
    """Count the degrees of freedom of each system: 3 per moving atom, less 3 if the total momentum is held at zero.

    Parameters
    ----------
    batch
        Any batch.
    momentum_conserved
        Whether the centre of mass stays at rest; counts only for systems without fixed atoms.

    Returns
    -------
    torch.Tensor
        float64, [B, 1]; 0 for one free atom at rest.
    """
    atoms = batch.num_nodes_per_graph.double()
    held = torch.zeros_like(atoms)
    fixed = batch.get("fixed")
    if fixed is not None:
        held = segment_sum(fixed.double(), batch.batch_ptr)
    dof = 3.0 * (atoms - held)
    if momentum_conserved:
        dof = torch.where(held == 0, dof - 3.0, dof)
    return dof.unsqueeze(1)


def degrees_of_freedom(batch: Batch) -> torch.Tensor:
    """Return the degrees of freedom of each system, float64 [B, 1].

    The field ``dof``, which a stage writes because only it knows whether the total momentum is held, counts where it is
    set (0 or more); otherwise 3 for every atom that is not fixed.
    """
    written = batch.get("dof")
    if written is None:
        return count_degrees_of_freedom(batch)
    if bool((written >= 0).all()):
        return written.double()
    return torch.where(written >= 0, written.double(), count_degrees_of_freedom(batch))


def temperature(batch: Batch) -> torch.Tensor:
    r"""Return the kinetic temperature of each system.

    .. math:: T_s = 2 K_s / (n_s k_B)

    with :math:`n_s` from `degrees_of_freedom`.

    Returns
    -------
    torch.Tensor
        K, [B, 1], in the state dtype; 0 where there is no degree of freedom.
    """
    kinetic = kinetic_energy(batch)
    dof = degrees_of_freedom(batch).to(kinetic.dtype)
    return torch.where(dof > 0, 2.0 * kinetic / (dof.clamp(min=1.0) * BOLTZMANN), 0.0)


def pressure(batch: Batch, kinetic: bool = True) -> torch.Tensor:
    r"""Return the pressure of each system.

    .. math:: p_s = \frac{2 K_s}{3 V_s} - \tfrac{1}{3} \operatorname{tr} \sigma_s

    Parameters
    ----------
    batch
        Needs ``stress`` and ``cell``.
    kinetic
        Whether to add the kinetic part; False gives the static pressure, the one that an optimizer works on, whose
        velocities are no motion.

    Returns
    -------
    torch.Tensor
        eV/Å³, [B]; 0 for a system without a cell.
    """
    stress = _need(batch, "stress", "the pressure")
    _need(batch, "cell", "the pressure")
    static = -(stress[:, 0, 0] + stress[:, 1, 1] + stress[:, 2, 2]) / 3.0
    volume = batch.volume
    if kinetic and "velocities" in batch:
        safe = torch.where(volume > 0, volume, 1.0)
        static = static + 2.0 * kinetic_energy(batch)[:, 0] / (3.0 * safe)
    return torch.where(volume > 0, static, 0.0)


def periodic_projector(batch: Batch) -> torch.Tensor:
    """Return the orthogonal projector on the span of each system's periodic lattice vectors.

    Returns
    -------
    torch.Tensor
        [B, 3, 3] in the state dtype; zero for a system without periodicity.
    """
    cell, pbc = batch.cell_or_zeros, batch.pbc_or_false
    eye = torch.eye(3, dtype=cell.dtype, device=cell.device).expand_as(cell)
    periodic = torch.where(pbc[:, :, None], cell, 0.0)
    across = torch.linalg.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]])  # row k: normal to the other two vectors
    line = _outer_of_unit(periodic.sum(1))  # of the one vector, where one is periodic
    plane = eye - _outer_of_unit(torch.where(pbc[:, :, None], 0.0, across).sum(1))  # of two, by their normal
    count = pbc.sum(1)[:, None, None]
    return torch.where(count == 3, eye, torch.where(count == 2, plane, torch.where(count == 1, line, 0.0)))


def _outer_of_unit(vectors: torch.Tensor) -> torch.Tensor:
    """Projectors [B, 3, 3] on the lines along `vectors` [B, 3]; zero for a zero vector."""
    squares = (vectors * vectors).unbind(1)
    square = (squares[0] + squares[1] + squares[2])[:, None, None]
    return vectors[:, :, None] * vectors[:, None, :] / torch.where(square > 0, square, 1.0)


def fmax(batch: Batch) -> torch.Tensor:
    """Return the largest atomic force norm of each system, eV/Å, [B]; fixed atoms do not count, 0 if all are fixed."""
    forces = _need(batch, "forces", "fmax").detach()
    x, y, z = forces.unbind(dim=1)
    squared = _moving(batch, x * x + y * y + z * z)
    return segment_max(squared, batch.batch_ptr).sqrt()


max_force = fmax


def momentum(batch: Batch) -> torch.Tensor:
    """Return the total momentum of the moving atoms of each system, √(eV·amu), [B, 3]."""
    velocities = _need(batch, "velocities", "the momentum")
    masses = _moving(batch, _need(batch, "atomic_masses", "the momentum"))
    return segment_sum(masses.unsqueeze(1) * velocities, batch.batch_ptr)
