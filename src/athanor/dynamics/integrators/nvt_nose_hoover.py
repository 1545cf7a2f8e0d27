"""Nosé-Hoover chains: deterministic dynamics at constant temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from athanor.dynamics.motion import HeatBath
from athanor.dynamics.nose_hoover import chain_energy, chain_speeds, check_chain
from athanor.dynamics.state import Parameter, check_positive
from athanor.dynamics.updates import drift_, put_
from athanor.kernels import nose_hoover_half_step
from athanor.units import fs_to_internal_time

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NVTNoseHoover(HeatBath):
    r"""Newton's equations with a chain of Nosé-Hoover thermostats: the canonical ensemble, without random numbers.

    .. math::
        \dot r = v, \qquad \dot v = F/m - \dot\eta_1 v, \qquad
        Q_1 \ddot\eta_1 = 2K - n\,kT - Q_1 \dot\eta_1 \dot\eta_2, \qquad \dots

    Every step is symmetric: half a step of the chain, half kick, drift, half kick, half a step of the chain. The chain
    splits its halves by Suzuki and Yoshida. It acts on the heat only: a system that glides goes on to glide.

    Use it for time correlations, as it disturbs the motion little, and for systems that mix well. Small, nearly
    harmonic crystals do not, and ideal gases not at all: there `NVTLangevin` and `NVTCSVR` sample what this may never
    reach.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt
        Time step in fs, a number or one per system.
    temperature
        K, a number or one per system; positive.
    thermostat_time
        :math:`\tau` in fs, a number or one per system; 50 to 200 is usual. The masses are
        :math:`Q_1 = n\,kT\,\tau^2` and :math:`Q_{k>1} = kT\,\tau^2` for :math:`n` degrees of freedom.
    chain_length
        Thermostats in the chain, 1 to 8.
    yoshida_order
        Parts into which a step of the chain is split: 1, 3 or 5.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If a number is not positive, or there is no such order.

    Notes
    -----
    `conserved_energy` is
    :math:`K + U + \tfrac12 \sum_k Q_k \dot\eta_k^2 + n \int kT\,d\eta_1 + \sum_{k>1} \int kT\,d\eta_k`, also while
    `temperature` changes.

    References
    ----------
    .. [1] G. J. Martyna, M. L. Klein, M. E. Tuckerman, J. Chem. Phys. 97, 2635 (1992). doi:10.1063/1.463940
    .. [2] G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996).
       doi:10.1080/00268979600100761

    Examples
    --------
    >>> from athanor.dynamics import NVTNoseHoover
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> NVTNoseHoover(model, dt=2.0, temperature=80.0, thermostat_time=100.0).chain_length
    3
    """

    _selects_active = True
    conserves_momentum = True
    thermostat_time = Parameter(check_positive, unit="fs", convert=fs_to_internal_time)
    chain = chain_speeds()

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        thermostat_time: float | Tensor,
        chain_length: int = 3,
        yoshida_order: int = 3,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.chain_length, self.yoshida_order = check_chain(chain_length, yoshida_order)
        self.temperature, self.thermostat_time = temperature, thermostat_time
        super().__init__(model, dt, n_steps, hooks, convergence_hook, **kwargs)

    def conserved_energy(self, batch: Batch) -> Tensor | None:
        """Return the energy of atoms and chain, less what the bath gave, eV, float64 [B]."""
        total = super().conserved_energy(batch)
        return None if total is None else total + chain_energy(batch.state_rows(self.key)["chain"])

    def pre_update(self, batch: Batch) -> None:
        """Half a step of the chain, half kick with the old forces, drift."""
        self._half_chain_(batch)
        self._half_kick_(batch)
        drift_(batch.positions, batch.velocities, self._steps.dt, self.movable)

    def post_update(self, batch: Batch) -> None:
        """Half kick with the new forces, half a step of the chain."""
        self._half_kick_(batch)
        self._half_chain_(batch)

    def _half_chain_(self, batch: Batch) -> None:
        """Advance the chain by half a step and scale velocities, in place."""
        constants, masses, state = self._constants(batch), self._moving.masses, self._state
        velocities, chain, uptake = nose_hoover_half_step(
            batch.velocities, masses, state.chain, constants, batch.batch_ptr, self.yoshida_order
        )
        put_(batch.velocities, velocities, self.movable)
        self._select_(state.chain, chain)
        self._book_(-uptake)
