"""Maxwell-Boltzmann velocities, and removal of overall motion.

Random numbers are keyed by seed, system identity, lifetime step and atom, so a system gets the same velocities in any
batch and slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from athanor.dynamics.state import check_positive, per_system
from athanor.errors import InputError
from athanor.kernels import philox_normal, segment_sum
from athanor.kernels.philox import Purpose
from athanor.units import BOLTZMANN


def initialize_velocities(
    velocities: Tensor,
    masses: Tensor,
    temperature: float | Tensor,
    batch_idx: Tensor,
    random_seed: int = 42,
    remove_com: bool = True,
    remove_rotations: bool = False,
    rescale: bool = True,
    positions: Tensor | None = None,
    *,
    system_id: Tensor | None = None,
    step: Tensor | None = None,
    fixed: Tensor | None = None,
) -> Tensor:
    r"""Draw velocities from the Maxwell-Boltzmann distribution, in place.

    .. math:: v_{i} = \sqrt{k_B T / m_i}\;\xi_i,\qquad \xi_i \sim N(0, 1)

    Parameters
    ----------
    velocities
        [N, 3], √(eV/amu). Changed in place.
    masses
        [N], amu. Massless atoms get no velocity.
    temperature
        K; a number or one value per system, [B].
    batch_idx
        System of each atom, [N], non-decreasing.
    random_seed
        Seed, 64 bits.
    remove_com, remove_rotations
        Remove the momentum of the centre of mass, and the angular momentum (needs `positions`). Systems that hold
        fixed atoms keep both, since neither is conserved there.
    rescale
        After a removal, scale each system to exactly `temperature`, counting the degrees of freedom that are left.
    positions
        [N, 3], Å, for `remove_rotations`.
    system_id, step
        Identity and lifetime step of each system, [B]; 0..B-1 and zeros if left out.
    fixed
        bool [N]: atoms that get no velocity.

    Returns
    -------
    Tensor
        `velocities`.

    Raises
    ------
    InputError
        If the temperature is negative or not finite, or rotations are to be removed without positions.
    """
    check_positive(temperature, "temperature", "K", zero_allowed=True)
    if remove_rotations and positions is None:
        raise InputError("`remove_rotations=True` needs `positions`; pass the batch's positions, [N, 3] in Å.")
    num_systems = int(system_id.numel()) if system_id is not None else int(batch_idx.max()) + 1
    index = batch_idx.long()
    counts = torch.bincount(index, minlength=num_systems)
    pointer = torch.zeros(num_systems + 1, dtype=torch.int32, device=index.device)
    pointer[1:] = counts.cumsum(0)
    ids = torch.arange(num_systems, device=index.device) if system_id is None else system_id.reshape(-1).long()
    steps = torch.zeros_like(ids) if step is None else step.reshape(-1).long()
    kT = BOLTZMANN * per_system(temperature, "temperature", velocities, num_systems)
    noise = philox_normal(pointer, ids, steps, random_seed, int(Purpose.INITIAL_VELOCITIES), 3, velocities.dtype)
    movable = masses > 0 if fixed is None else (masses > 0) & ~fixed
    scale = torch.where(movable, torch.sqrt(kT[index] / masses), torch.zeros_like(masses))
    velocities.copy_(noise * scale[:, None])

    free = torch.ones(num_systems, dtype=torch.bool, device=index.device)
    if fixed is not None:
        free = ~(segment_sum(fixed.to(velocities.dtype)[:, None], pointer)[:, 0] > 0)
    removed = torch.zeros(num_systems, dtype=velocities.dtype, device=index.device)
    if remove_com:
        _remove_com_(velocities, masses, index, pointer, free)
        removed += 3.0 * free
    if remove_rotations and positions is not None:
        rank = _remove_rotations_(velocities, masses, positions, index, pointer, free)
        removed += rank * free
    if rescale and (remove_com or remove_rotations):
        atoms = segment_sum(movable.to(velocities.dtype)[:, None], pointer)[:, 0]
        dof = (3.0 * atoms - removed).clamp_min(0.0)
        twice_kinetic = segment_sum(masses[:, None] * velocities * velocities, pointer)
        twice_kinetic = twice_kinetic[:, 0] + twice_kinetic[:, 1] + twice_kinetic[:, 2]
        good = (twice_kinetic > 0) & (dof > 0)
        factor = torch.sqrt(dof * kT / torch.where(good, twice_kinetic, torch.ones_like(twice_kinetic)))
        velocities.mul_(torch.where(good, factor, torch.zeros_like(factor))[index][:, None])
    return velocities


def _remove_com_(velocities: Tensor, masses: Tensor, index: Tensor, pointer: Tensor, free: Tensor) -> None:
    """Subtract the centre-of-mass velocity of each free system; a lone atom ends exactly at rest."""
    weight = masses[:, None]
    total = segment_sum(torch.cat([weight * velocities, weight], dim=1), pointer)
    mean = total[:, :3] / total[:, 3:].clamp_min(torch.finfo(masses.dtype).tiny)
    mean = torch.where(free[:, None], mean, torch.zeros_like(mean))
    velocities.sub_(mean[index])
    alone = (pointer[1:] - pointer[:-1] == 1) & free
    velocities[alone[index]] = 0.0


def _remove_rotations_(
    velocities: Tensor, masses: Tensor, positions: Tensor, index: Tensor, pointer: Tensor, free: Tensor
) -> Tensor:
    """Subtract the rigid rotation that carries each system's angular momentum; return how many axes it has, [B]."""
    weight = masses[:, None]
    total = segment_sum(torch.cat([weight * positions, weight], dim=1), pointer)
    arm = positions - (total[:, :3] / total[:, 3:])[index]
    spin = segment_sum(weight * torch.linalg.cross(arm, velocities), pointer)
    eye = torch.eye(3, dtype=arm.dtype, device=arm.device)
    parts = weight[:, :, None] * ((arm * arm).sum(1)[:, None, None] * eye - arm[:, :, None] * arm[:, None, :])
    inertia = segment_sum(parts.reshape(-1, 9), pointer).reshape(-1, 3, 3)
    moments, axes = torch.linalg.eigh(inertia)
    real = moments > 1e-6 * moments[:, -1:].clamp_min(1e-12)
    along = torch.einsum("bji,bj->bi", axes, spin)
    rate = torch.where(real, along / torch.where(real, moments, torch.ones_like(moments)), torch.zeros_like(along))
    omega = torch.einsum("bij,bj->bi", axes, rate) * free[:, None]
    velocities.sub_(torch.linalg.cross(omega[index], arm))
    return real.sum(dim=1).to(velocities.dtype)
