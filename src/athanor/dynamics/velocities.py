"""Maxwell-Boltzmann velocities, and removal of overall motion.

Random numbers are keyed by seed, system identity, lifetime step and atom, so a system gets the same velocities in any
batch and slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from athanor.dynamics.state import check_positive, per_system
from athanor.errors import InputError
from athanor.kernels import philox_normal, segment_sum
from athanor.kernels.philox import Purpose
from athanor.units import BOLTZMANN

if TYPE_CHECKING:
    from athanor.data.batch import Batch


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
    dof: Tensor | None = None,
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
        After a removal, scale each system to exactly `temperature`, counted with `dof`.
    positions
        [N, 3], Å, for `remove_rotations`.
    system_id, step
        Identity and lifetime step of each system, [B]; 0..B-1 and zeros if left out.
    fixed
        bool [N]: atoms that get no velocity.
    dof
        Degrees of freedom that the temperature counts, [B] or [B, 1]; 3 per moving atom if left out, so that a later
        stage that conserves the momentum, and counts three less, reads a temperature higher by N/(N-1). Engines that
        draw velocities themselves count as they will read. Given, all systems are scaled.

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
    if remove_com:
        _remove_com_(velocities, masses, index, pointer, free)
    if remove_rotations and positions is not None:
        _remove_rotations_(velocities, masses, positions, index, pointer, free)
    if rescale and (remove_com or remove_rotations or dof is not None):
        if dof is None:
            dof = 3.0 * segment_sum(movable.to(velocities.dtype)[:, None], pointer)
        _rescale_(velocities, masses, kT * dof.reshape(-1).to(velocities.dtype), index, pointer)
    return velocities


def draw_velocities_(
    batch: Batch, systems: Tensor, temperature: Tensor, random_seed: int, momentum_conserved: bool | Tensor
) -> None:
    """Draw the velocities of some systems at a temperature, counted as the stage that moves them will; in place.

    Parameters
    ----------
    batch
        Its `velocities` change, and are known from then on; `dof` is what the stage counts.
    systems
        Which, bool [B].
    temperature
        K, [B].
    random_seed
        Seed, 64 bits.
    momentum_conserved
        Whether the stage conserves the momentum, for all or for each system [B]: it is zero there.
    """
    velocities, index = torch.empty_like(batch.velocities), batch.batch_idx.long()
    at_rest = torch.as_tensor(momentum_conserved, device=index.device) & torch.ones_like(systems)
    identity = {"system_id": batch.system_id, "step": batch.step, "fixed": batch.get("fixed")}
    for mask, remove_com in ((systems & at_rest, True), (systems & ~at_rest, False)):
        if bool(mask.any()):
            initialize_velocities(
                velocities, batch.atomic_masses, temperature, index, random_seed, remove_com, dof=batch.dof, **identity
            )
            batch.velocities.copy_(torch.where(mask[index][:, None], velocities, batch.velocities))
    batch.velocities_present.logical_or_(systems[:, None])


def _rescale_(velocities: Tensor, masses: Tensor, twice_wanted: Tensor, index: Tensor, pointer: Tensor) -> None:
    """Scale the velocities of each system so that twice its kinetic energy is `twice_wanted`, eV [B]."""
    squares = segment_sum(masses[:, None] * velocities * velocities, pointer)
    twice_kinetic = squares[:, 0] + squares[:, 1] + squares[:, 2]
    good = (twice_kinetic > 0) & (twice_wanted > 0)
    factor = torch.sqrt(twice_wanted / torch.where(good, twice_kinetic, torch.ones_like(twice_kinetic)))
    velocities.mul_(torch.where(good, factor, torch.zeros_like(factor))[index][:, None])


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
) -> None:
    """Subtract the rigid rotation that carries each system's angular momentum."""
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
