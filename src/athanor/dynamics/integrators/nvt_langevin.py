"""Langevin dynamics at constant temperature, BAOAB splitting."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data._stamp import ComputedFrom
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.state import Parameter, check_positive, is_scalar
from athanor.dynamics.updates import AtomSteps, drift_, kick_
from athanor.errors import AthanorWarning
from athanor.kernels import philox_normal
from athanor.kernels.philox import Purpose
from athanor.units import BOLTZMANN, fs_to_internal_time, internal_time_to_fs, per_fs_to_internal_rate

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def _warn_of_strong_friction(friction: float | Tensor, dt: float | Tensor) -> None:
    """Warn if friction stops all motion within one step: a rate of 1/ps given in 1/fs, most often."""
    rates, steps = (torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (friction, dt))
    if rates.numel() > 1 and steps.numel() > 1 and rates.numel() != steps.numel():
        return  # refused when there is a batch
    rates, steps = torch.broadcast_tensors(rates, steps)
    worst = int((rates * steps).argmax())
    rate, step = float(rates[worst]), float(steps[worst])
    if rate * step >= 1.0:
        text = (
            f"`friction={rate:g}` is given in 1/fs and damps motion within {1.0 / rate:.2g} fs, no longer than one "
            f"step (`dt={step:g}` fs). Typical values are 0.001 to 0.05."
        )
        warnings.warn(AthanorWarning(text, "friction"), stacklevel=3)


class NVTLangevin(BaseDynamics):
    r"""Langevin dynamics with the BAOAB splitting: canonical sampling with small configurational error.

    .. math::
        \text{B:}\quad v &\leftarrow v + \tfrac{1}{2}\,\Delta t\,F/m \\
        \text{A:}\quad r &\leftarrow r + \tfrac{1}{2}\,\Delta t\,v \\
        \text{O:}\quad v &\leftarrow c\,v + \sqrt{(1 - c^2)\,k_B T/m}\;\xi,\qquad c = e^{-\gamma\,\Delta t} \\
        \text{A:}\quad r &\leftarrow r + \tfrac{1}{2}\,\Delta t\,v \\
        \text{B:}\quad v &\leftarrow v + \tfrac{1}{2}\,\Delta t\,F/m

    The noise is a function of seed, system id, lifetime step and atom: a system follows the same path in any batch,
    slot or restart.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt
        Time step in fs, a number or one per system.
    temperature
        K, a number or one per system.
    friction
        Rate γ in 1/fs, a number or one per system; 0.001 to 0.05 is usual. Zero gives NVE.
    random_seed
        64-bit seed.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If `dt` is not positive, or `temperature` or `friction` is negative.

    References
    ----------
    .. [1] B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013). doi:10.1093/amrx/abs010

    Examples
    --------
    >>> from athanor.dynamics import NVTLangevin
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> NVTLangevin(model, dt=2.0, temperature=80.0, friction=0.01, n_steps=9)
    NVTLangevin(model=LennardJonesModelWrapper, dt=2 fs, temperature=80 K, friction=0.01 1/fs, n_steps=9, step_count=0)
    """

    __needs_keys__ = frozenset({"forces"})
    __provides_keys__ = frozenset({"positions", "velocities"})
    _selects_active = True
    dt = Parameter(check_positive, unit="fs", convert=fs_to_internal_time)
    temperature = Parameter(check_positive, unit="K", zero_allowed=True)
    friction = Parameter(check_positive, unit="1/fs", zero_allowed=True, convert=per_fs_to_internal_rate)

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
        self.dt, self.temperature, self.friction = dt, temperature, friction
        _warn_of_strong_friction(friction, dt)
        super().__init__(model, hooks, convergence_hook, n_steps, random_seed=random_seed, **kwargs)
        self._steps = AtomSteps()
        self._noise_source: ComputedFrom | None = None

    @property
    def conserves_momentum(self) -> Tensor:  # type: ignore[override]
        """Whether nothing damps or kicks a system: without friction, bool [B]."""
        return self._state.friction == 0

    def temperature_at_start(self, batch: Batch) -> Tensor:
        """Return that of the thermostat, K, [B], unless `start_temperature` is given."""
        given = super().temperature_at_start(batch)
        return self._state.temperature if given is None else given

    @property
    def time_step(self) -> float | Tensor:
        """Time step in fs: one for all, or one per system [B]."""
        return float(self.dt) if is_scalar(self.dt) else internal_time_to_fs(self._state.dt)

    def pre_update(self, batch: Batch) -> None:
        """B, A, O, A."""
        steps, movable = self._steps.refresh(batch, self._state.dt), self.movable
        kick_(batch.velocities, batch.forces, steps.half_dt_over_mass, movable)
        drift_(batch.positions, batch.velocities, steps.half_dt, movable)
        self._ornstein_uhlenbeck_(batch, movable)
        drift_(batch.positions, batch.velocities, steps.half_dt, movable)

    def post_update(self, batch: Batch) -> None:
        """B with the new forces."""
        steps = self._steps.refresh(batch, self._state.dt)
        kick_(batch.velocities, batch.forces, steps.half_dt_over_mass, self.movable)

    def _ornstein_uhlenbeck_(self, batch: Batch, movable: Tensor | None) -> None:
        """O: exact solution of the friction and noise part over one step, in place."""
        self._refresh_noise(batch)
        noise = philox_normal(
            batch.batch_ptr,
            batch.system_id.view(-1),
            batch.step.view(-1),
            self.random_seed,
            int(Purpose.LANGEVIN),
            3,
            batch.velocities.dtype,
        )
        velocities = batch.velocities
        if movable is None:
            velocities.mul_(self._decay).addcmul_(noise, self._width)
        else:
            moved = torch.addcmul(self._decay * velocities, noise, self._width)
            velocities.copy_(torch.where(movable, moved, velocities))

    def _refresh_noise(self, batch: Batch) -> None:
        """Recompute decay and noise width of each atom, [N, 3], if time steps, masses or parameters changed."""
        state, steps = self._state, self._steps.dt_over_mass
        source = (steps, state.dt, state.temperature, state.friction)
        if self._noise_source is not None and self._noise_source.holds(*source):
            return
        decay = torch.exp(-(state.friction.double() * state.dt.double()))
        width = BOLTZMANN * state.temperature.double() * (1.0 - decay * decay) / state.dt.double()
        index, dtype = batch.batch_idx, batch.velocities.dtype
        self._decay = decay[index].to(dtype)[:, None].expand(-1, 3).contiguous()
        self._width = torch.sqrt(width[index][:, None] * steps.double()).to(dtype)
        self._noise_source = ComputedFrom(*source)
