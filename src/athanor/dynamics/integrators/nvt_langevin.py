"""Langevin dynamics at constant temperature, BAOAB splitting."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.motion import ThermostattedMotion
from athanor.dynamics.noise import LangevinNoise
from athanor.dynamics.state import Parameter, check_positive, is_schedule
from athanor.errors import AthanorWarning
from athanor.units import per_fs_to_internal_rate

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def _warn_of_strong_friction(friction: float | Tensor, dt: float | Tensor) -> None:
    """Warn if friction stops all motion within one step: a rate of 1/ps given in 1/fs, most often."""
    if is_schedule(friction) or is_schedule(dt):
        return
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


class NVTLangevin(ThermostattedMotion):
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
        self.friction = friction
        _warn_of_strong_friction(friction, dt)
        super().__init__(model, dt, temperature, n_steps, hooks, convergence_hook, random_seed=random_seed, **kwargs)
        self._noise = LangevinNoise()

    @property
    def conserves_momentum(self) -> Tensor:  # type: ignore[override]
        """Whether nothing damps or kicks a system: without friction, bool [B]."""
        return self._state.friction == 0

    def bath_(self, batch: Batch) -> None:
        """O: exact solution of the friction and noise part over one step, in place."""
        state, masses = self._state, self._moving.refresh(batch).masses
        noise = self._noise.refresh(batch, masses, state.dt, state.temperature, state.friction)
        self._give_velocities_(batch, *noise.applied(batch, masses, self.random_seed))
