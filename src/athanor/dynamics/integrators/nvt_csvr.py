"""Stochastic velocity rescaling: constant temperature with one random number that matters for each system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.motion import ThermostattedMotion
from athanor.dynamics.noise import normals_of_atoms
from athanor.dynamics.state import Parameter, check_positive
from athanor.kernels import rescaling_factor, scaled
from athanor.kernels.philox import Purpose
from athanor.units import fs_to_internal_time

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NVTCSVR(ThermostattedMotion):
    r"""Canonical sampling through velocity rescaling: velocities are scaled so that the kinetic energy is canonical.

    .. math::
        dK = (\bar K - K)\,\frac{dt}{\tau} + 2 \sqrt{\frac{K \bar K}{n}}\,\frac{dW}{\sqrt\tau}, \qquad
        \bar K = \tfrac12\,n\,kT

    solved exactly over each step, in the middle of it: half kick, half drift, rescaling, half drift, half kick. It acts
    on the heat only, so momentum is conserved, and disturbs the motion little. It reaches the right temperature from
    anywhere without oscillating; parts of a system exchange heat by their own dynamics alone.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt
        Time step in fs, a number or one per system.
    temperature
        K, a number or one per system.
    thermostat_time
        :math:`\tau` in fs, a number or one per system; 50 to 500 is usual.
    random_seed
        64-bit seed.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If `dt` or `thermostat_time` is not positive, or `temperature` is negative.

    Notes
    -----
    `conserved_energy` is the total energy less the heat that the rescaling gave.

    References
    ----------
    .. [1] G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007). doi:10.1063/1.2408420

    Examples
    --------
    >>> from athanor.dynamics import NVTCSVR
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> NVTCSVR(model, dt=2.0, temperature=80.0, thermostat_time=100.0).thermostat_time
    100.0
    """

    conserves_momentum = True
    thermostat_time = Parameter(check_positive, unit="fs", convert=fs_to_internal_time)

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        thermostat_time: float | Tensor,
        random_seed: int = 42,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.thermostat_time = thermostat_time
        super().__init__(model, dt, temperature, n_steps, hooks, convergence_hook, random_seed=random_seed, **kwargs)

    def bath_(self, batch: Batch) -> None:
        """Scale velocities to a kinetic energy drawn for the end of the step, in place."""
        state = self._state
        _, twice_kinetic, center = self._motion_of(batch)
        noise = normals_of_atoms(batch, self.random_seed, Purpose.VELOCITY_RESCALING)
        decay = torch.exp(-state.dt.double() / state.thermostat_time.double())
        factor = rescaling_factor(noise, twice_kinetic, self._moving.dof, self._heat, decay, batch.batch_ptr)
        velocities = scaled(batch.velocities, factor, center, batch.batch_ptr)
        self._give_velocities_(batch, velocities, 0.5 * twice_kinetic * (factor * factor - 1.0))
