"""Brownian dynamics: motion so strongly damped that velocities do not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data._stamp import ComputedFrom
from athanor.dynamics.motion import Motion
from athanor.dynamics.noise import normals_of_atoms
from athanor.dynamics.state import Parameter, check_positive
from athanor.dynamics.updates import put_
from athanor.kernels.philox import Purpose
from athanor.units import BOLTZMANN, per_fs_to_internal_rate

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class Brownian(Motion):
    r"""Brownian dynamics, the limit of strong friction: atoms drift along forces and are kicked about at random.

    .. math:: r_{k+1} = r_k + \frac{\Delta t}{m \gamma}\,F(r_k)
              + \sqrt{\frac{kT\,\Delta t}{2\,m \gamma}}\;(\xi_k + \xi_{k+1})

    Each step shares half of its noise with the next one. Averages over positions are then of second order in
    :math:`\Delta t`, those of the plain scheme with independent noise of first [1]_.

    There are no velocities: those of a batch are dropped, and dynamics after it draws new ones. Diffusion is that of
    the friction given, not of the material.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt
        Time step in fs, a number or one per system; the largest step of an atom should stay below 0.1 Å.
    temperature
        K, a number or one per system.
    friction
        Rate :math:`\gamma` in 1/fs, a number or one per system; positive. A free atom diffuses with
        :math:`kT/(m \gamma)`.
    random_seed
        64-bit seed.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If `dt` or `friction` is not positive, or `temperature` is negative.

    Notes
    -----
    No energy is conserved: `conserved_energy` returns None. Without velocities pressures are static ones: that of the
    ensemble is larger by :math:`N kT/V`.

    References
    ----------
    .. [1] B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013). doi:10.1093/amrx/abs010

    Examples
    --------
    >>> from athanor.dynamics import Brownian
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> Brownian(LennardJonesModelWrapper(0.0104, 3.4, 8.5), dt=5.0, temperature=80.0, friction=0.1).friction
    0.1
    """

    __provides_keys__ = frozenset({"positions"})
    _selects_active = True
    is_motion = False
    temperature = Parameter(check_positive, unit="K", zero_allowed=True)
    friction = Parameter(check_positive, unit="1/fs", convert=per_fs_to_internal_rate)

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        friction: float | Tensor,
        random_seed: int = 42,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.temperature, self.friction = temperature, friction
        super().__init__(model, dt, n_steps, hooks, convergence_hook, random_seed=random_seed, **kwargs)
        self._source: ComputedFrom | None = None
        self._mobility: Tensor
        self._width: Tensor

    def conserved_energy(self, batch: Batch) -> None:
        """Return None: the bath takes up what the forces give."""

    def pre_update(self, batch: Batch) -> None:
        """The whole step, with the forces at hand."""
        self._refresh(batch)
        noise = normals_of_atoms(batch, self.random_seed, Purpose.BROWNIAN)
        noise += normals_of_atoms(batch, self.random_seed, Purpose.BROWNIAN, ahead=1)
        moved = torch.addcmul(batch.positions, batch.forces, self._mobility)
        put_(batch.positions, moved.addcmul_(noise, self._width), self.movable)

    def _refresh(self, batch: Batch) -> None:
        """Recompute mobilities and widths of all atoms, [N, 3], if time steps, masses or parameters changed."""
        state, dt_over_mass = self._state, self._steps.refresh(batch, self._state.dt).dt_over_mass
        source = (dt_over_mass, state.temperature, state.friction)
        if self._source is not None and self._source.holds(*source):
            return
        mobility = dt_over_mass.double() / state.friction.double()[batch.batch_idx][:, None]
        heat = BOLTZMANN * state.temperature.double()[batch.batch_idx][:, None]
        self._mobility = mobility.to(batch.positions.dtype)
        self._width = torch.sqrt(0.5 * heat * mobility).to(batch.positions.dtype)
        self._source = ComputedFrom(*source)
