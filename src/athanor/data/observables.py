r"""Kinetic energy, degrees of freedom, temperature, pressure and largest force of each system: one definition each.

Engines, hooks and workflows all read these. Sums run over the atoms of a system in order and depend on nothing else,
so a system has the same bits alone and in a batch. Atoms that are ``fixed`` count nowhere. A field that is needed and
absent is a `MissingFieldError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from athanor.errors import MissingFieldError
from athanor.kernels.segment import segment_max, segment_sum
from athanor.units import BOLTZMANN, g_per_cm3

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


def known_velocities(batch: Batch) -> torch.Tensor:
    """Return whether the velocities of each system are known, bool [B, 1].

    They are where a user gave them, zeros too, where dynamics left them, and where one of them is not zero. They are
    not where nobody gave any, and after a relaxation.
    """
    velocities, present = batch.get("velocities"), batch.get("velocities_present")
    if velocities is None or present is None:
        return torch.full((len(batch), 1), velocities is not None, device=batch.device)
    is_moving = (velocities != 0).any(dim=1).to(velocities.dtype)
    return present | (segment_max(is_moving, batch.batch_ptr) > 0).unsqueeze(1)


def kinetic_energy(batch: Batch) -> torch.Tensor:
    r"""Return the kinetic energy of each system, that of its centre of mass too.

    .. math:: K_s = \tfrac{1}{2} \sum_{i \in s} m_i v_i^2

    Returns
    -------
    torch.Tensor
        eV, [B, 1]; fixed atoms are left out. NaN where velocities are not known, see `known_velocities`.
    """
    return _Motion.of(batch).kinetic_energy()


def thermal_kinetic_energy(batch: Batch) -> torch.Tensor:
    r"""Return the kinetic energy that counts as heat: without that of the centre of mass, where a stage conserves it.

    .. math:: K_s - \frac{|P_s|^2}{2 M_s}

    with the momentum :math:`P_s` and the mass :math:`M_s` of the moving atoms, where `degrees_of_freedom` are three
    less than three per moving atom; else :math:`K_s`.

    Returns
    -------
    torch.Tensor
        eV, [B, 1]; NaN where velocities are not known.
    """
    return _Motion.of(batch).thermal_kinetic_energy()


def count_degrees_of_freedom(batch: Batch, momentum_conserved: bool | torch.Tensor = False) -> torch.Tensor:
    """Count the degrees of freedom of each system: 3 per moving atom, less 3 if the total momentum is conserved.

    Parameters
    ----------
    batch
        Any batch.
    momentum_conserved
        Whether the momentum of the centre of mass is a constant of motion, for all or for each system [B]; counts only
        for systems without fixed atoms.

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
    conserved = torch.as_tensor(momentum_conserved, device=dof.device) & (held == 0)
    return torch.where(conserved, dof - 3.0, dof).unsqueeze(1)


def degrees_of_freedom(batch: Batch) -> torch.Tensor:
    """Return the degrees of freedom of each system, float64 [B, 1].

    The field ``dof``, which a stage writes because only it knows whether the total momentum is conserved, counts where
    it is set (0 or more); otherwise 3 for every atom that is not fixed.
    """
    everything, written = count_degrees_of_freedom(batch), batch.get("dof")
    return everything if written is None else torch.where(written >= 0, written.double(), everything)


def temperature(batch: Batch) -> torch.Tensor:
    r"""Return the kinetic temperature of each system.

    .. math:: T_s = 2 K_s / (n_s k_B)

    with :math:`n_s` from `degrees_of_freedom` and the energy from `thermal_kinetic_energy`: what a stage conserves is
    taken off both.

    Returns
    -------
    torch.Tensor
        K, [B, 1], in the state dtype; 0 where there is no degree of freedom, NaN where velocities are not known.
    """
    kinetic, dof = thermal_kinetic_energy(batch), degrees_of_freedom(batch)
    return torch.where(dof > 0, 2.0 * kinetic / (dof.clamp(min=1.0).to(kinetic.dtype) * BOLTZMANN), 0.0)


def pressure(batch: Batch, kinetic: bool = True) -> torch.Tensor:
    r"""Return the pressure of each system.

    .. math:: p_s = \frac{2 K_s}{3 V_s} - \tfrac{1}{3} \operatorname{tr} \sigma_s

    Parameters
    ----------
    batch
        Needs ``stress`` and ``cell``.
    kinetic
        Whether to add the kinetic part, from `thermal_kinetic_energy`, where velocities are known. False gives the
        static pressure.

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
        heat = thermal_kinetic_energy(batch)[:, 0]
        static = static + torch.where(heat.isnan(), 0.0, 2.0 * heat / (3.0 * torch.where(volume > 0, volume, 1.0)))
    return torch.where(volume > 0, static, 0.0)


def density(batch: Batch) -> torch.Tensor:
    """Return the mass density of each system, g/cm³, [B]; NaN for a system without a cell."""
    masses, volume = _need(batch, "atomic_masses", "the density"), batch.volume
    mass = segment_sum(masses.unsqueeze(1), batch.batch_ptr)[:, 0]
    return torch.where(volume > 0, mass / (g_per_cm3 * torch.where(volume > 0, volume, 1.0)), torch.nan)


def total_stress(batch: Batch) -> torch.Tensor:
    r"""Return the stress of each system with its kinetic part.

    .. math:: \sigma_s - \frac{1}{V_s} \sum_{i \in s} m_i\,(v_i - u_s) \otimes (v_i - u_s)

    with the velocity :math:`u_s` of the centre of mass where a stage conserves it, else 0. Its trace is -3 times
    `pressure`.

    Returns
    -------
    torch.Tensor
        eV/Å³, [B, 3, 3], tensile positive; 0 for a system without a cell, without the kinetic part where velocities
        are not known.
    """
    stress = _need(batch, "stress", "the stress")
    volume = batch.volume[:, None, None]
    if "velocities" in batch:
        flow = torch.where(known_velocities(batch)[:, :, None], _Motion.of(batch).momentum_flow(), 0.0)
        stress = stress - flow / torch.where(volume > 0, volume, 1.0)
    return torch.where(volume > 0, stress, 0.0)


class _Motion(NamedTuple):
    """Sums over the moving atoms of each system from which everything above follows."""

    batch: Batch
    momenta: torch.Tensor  # of each atom, [N, 3]; 0 if it is fixed
    squares: torch.Tensor  # sums of m v², by component, [B, 3]
    momentum: torch.Tensor  # [B, 3]
    mass: torch.Tensor  # [B, 1]

    @classmethod
    def of(cls, batch: Batch) -> _Motion:
        velocities = _need(batch, "velocities", "the kinetic energy")
        masses = _moving(batch, _need(batch, "atomic_masses", "the kinetic energy")).unsqueeze(1)
        momenta = masses * velocities
        sums = segment_sum(torch.cat([momenta * velocities, momenta, masses], dim=1), batch.batch_ptr)
        return cls(batch, momenta, *sums.split([3, 3, 1], dim=1))

    def kinetic_energy(self) -> torch.Tensor:
        energy, present = 0.5 * _sum_of_three(self.squares), self.batch.get("velocities_present")
        return energy if present is None else torch.where(present | (energy > 0), energy, torch.nan)

    def thermal_kinetic_energy(self) -> torch.Tensor:
        whole = self.kinetic_energy()
        gliding = 0.5 * _sum_of_three(self.momentum * self._velocity_of_centre())
        return torch.where(self._glides(), (whole - gliding).clamp_min(0.0), whole)

    def momentum_flow(self) -> torch.Tensor:
        """Sum of m v ⊗ v without that of the centre of mass where it is conserved, [B, 3, 3]."""
        velocities, momentum = self.batch.velocities, self.momentum
        flow = segment_sum((self.momenta[:, :, None] * velocities[:, None, :]).flatten(1), self.batch.batch_ptr)
        flow, of_centre = flow.reshape(-1, 3, 3), momentum[:, :, None] * self._velocity_of_centre()[:, None, :]
        return torch.where(self._glides()[:, :, None], flow - of_centre, flow)

    def _velocity_of_centre(self) -> torch.Tensor:
        return self.momentum / torch.where(self.mass > 0, self.mass, 1.0)

    def _glides(self) -> torch.Tensor:
        """Whether the motion of the centre of mass is conserved, and so no heat, bool [B, 1]."""
        return degrees_of_freedom(self.batch) <= count_degrees_of_freedom(self.batch) - 3.0


def _sum_of_three(values: torch.Tensor) -> torch.Tensor:
    """Sum over the columns of [B, 3], [B, 1]; in order, as torch's sum depends on B."""
    return (values[:, 0] + values[:, 1] + values[:, 2]).unsqueeze(1)


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
    return _Motion.of(batch).momentum
