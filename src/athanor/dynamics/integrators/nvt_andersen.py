"""Andersen's thermostat: atoms meet a heat bath at random times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.motion import ThermostattedMotion
from athanor.dynamics.noise import normals_of_atoms, uniforms_of_atoms
from athanor.dynamics.state import Parameter, check_positive
from athanor.kernels import ornstein_uhlenbeck
from athanor.kernels.philox import Purpose
from athanor.units import per_fs_to_internal_rate

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NVTAndersen(ThermostattedMotion):
    r"""Newton's equations between collisions with a bath, each of which gives an atom a new thermal velocity.

    An atom collides in a step with the probability :math:`1 - e^{-\nu \Delta t}`; its velocity is then drawn from
    Maxwell and Boltzmann's distribution. Collisions come in the middle of the step. Ensembles are right for every rate,
    diffusion is not: use it to sample, not for time correlations.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt
        Time step in fs, a number or one per system.
    temperature
        K, a number or one per system.
    collision_rate
        Rate :math:`\nu` of each atom in 1/fs, a number or one per system; 0.001 to 0.01 is usual.
    random_seed
        64-bit seed.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If `dt` is not positive, or `temperature` or `collision_rate` is negative.

    Notes
    -----
    `conserved_energy` is the total energy less the heat that collisions gave.

    References
    ----------
    .. [1] H. C. Andersen, J. Chem. Phys. 72, 2384 (1980). doi:10.1063/1.439486

    Examples
    --------
    >>> from athanor.dynamics import NVTAndersen
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> NVTAndersen(model, dt=2.0, temperature=80.0, collision_rate=0.005).collision_rate
    0.005
    """

    collision_rate = Parameter(check_positive, unit="1/fs", zero_allowed=True, convert=per_fs_to_internal_rate)

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        collision_rate: float | Tensor,
        random_seed: int = 42,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.collision_rate = collision_rate
        super().__init__(model, dt, temperature, n_steps, hooks, convergence_hook, random_seed=random_seed, **kwargs)

    @property
    def conserves_momentum(self) -> Tensor:  # type: ignore[override]
        """Whether nothing kicks a system: without collisions, bool [B]."""
        return self._state.collision_rate == 0

    def bath_(self, batch: Batch) -> None:
        """Draw the velocities of atoms that collide, in place."""
        state, masses = self._state, self._moving.refresh(batch).masses
        chance = 1.0 - torch.exp(-(state.collision_rate.double() * state.dt.double()))
        collides = uniforms_of_atoms(batch, self.random_seed, Purpose.COLLISIONS) < chance[batch.batch_idx]
        masses = torch.where(collides, masses, 0.0)
        width = torch.sqrt(self._heat[batch.batch_idx] / torch.where(masses > 0, masses.double(), 1.0))
        noise = normals_of_atoms(batch, self.random_seed, Purpose.LANGEVIN)
        drawn = ornstein_uhlenbeck(batch.velocities, noise, torch.zeros_like(chance), width, masses, batch.batch_ptr)
        self._give_velocities_(batch, *drawn)
