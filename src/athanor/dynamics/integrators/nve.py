"""Velocity Verlet at constant energy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.dynamics.motion import Motion
from athanor.dynamics.updates import drift_, kick_

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NVE(Motion):
    r"""Newton's equations by velocity Verlet: constant energy, second order, reversible.

    .. math::
        v &\leftarrow v + \tfrac{1}{2}\,\Delta t\,F(r)/m \\
        r &\leftarrow r + \Delta t\,v \\
        v &\leftarrow v + \tfrac{1}{2}\,\Delta t\,F(r)/m

    Use it to test a potential or to sample dynamics without a thermostat. Draw velocities first with
    `initialize_velocities`.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt
        Time step in fs, a number or one per system; 0.5 to 2 for most materials, 0.25 to 0.5 with hydrogen.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If `dt` is not positive and finite.

    References
    ----------
    .. [1] W. C. Swope, H. C. Andersen, P. H. Berens, K. R. Wilson, J. Chem. Phys. 76, 637 (1982).
       doi:10.1063/1.442716

    Examples
    --------
    >>> from athanor.dynamics import NVE
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> NVE(LennardJonesModelWrapper(0.0104, 3.4, 8.5), dt=2.0, n_steps=100)
    NVE(model=LennardJonesModelWrapper, dt=2 fs, n_steps=100, step_count=0)
    """

    _selects_active = True
    conserves_momentum = True

    def pre_update(self, batch: Batch) -> None:
        """Half kick with the old forces, then drift."""
        steps, movable = self._steps.refresh(batch, self._state.dt), self.movable
        kick_(batch.velocities, batch.forces, steps.half_dt_over_mass, movable)
        drift_(batch.positions, batch.velocities, steps.dt, movable)

    def post_update(self, batch: Batch) -> None:
        """Half kick with the new forces."""
        steps = self._steps.refresh(batch, self._state.dt)
        kick_(batch.velocities, batch.forces, steps.half_dt_over_mass, self.movable)
