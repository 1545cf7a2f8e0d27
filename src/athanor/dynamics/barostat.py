"""What integrators at constant pressure share: a cell that moves as Martyna, Tobias and Klein's equations say.

Cell and atoms flow at a symmetric rate E. All moves are exact solutions of parts of the equations, put together
symmetrically, so the error of the conserved energy is of second order in the time step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.motion import Motion
from athanor.dynamics.pressure import UnderPressure, check_coupling, trace
from athanor.dynamics.state import StateVariable
from athanor.dynamics.updates import put_, sum_last
from athanor.kernels import barostat_kick, barostat_maps, cell_shape, moved_by_flow
from athanor.units import BOLTZMANN

if TYPE_CHECKING:
    from athanor.data.batch import Batch

_USUAL_TEMPERATURE = 300.0
"""K; sizes the mass of a barostat without thermostat."""


class Barostatted(UnderPressure, Motion):
    """Base of integrators whose cells move under a target pressure.

    Parameters
    ----------
    model
        Wrapped model that gives forces and stress.
    dt
        Time step in fs, a number or one per system.
    pressure
        eV/Å³ (``units.GPa`` and ``units.bar`` convert), compression positive: a number, or for each system a number
        [B], a diagonal [B, 3] or a symmetric tensor [B, 3, 3].
    barostat_time
        fs, a number or one per system; 500 to 2000 is usual, a hundred time steps at least.
    pressure_coupling
        ``"isotropic"``: cells keep their shape; ``"anisotropic"``: x, y and z stretch on their own; ``"triclinic"``:
        angles change, too.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If a number is not positive or the pressure makes no sense.
    """

    cell_momentum = StateVariable(shape=(3, 3), unit="√eV", dtype=torch.float64)  # mass-weighted rate of strain
    work = StateVariable(
        unit="eV",
        dtype=torch.float64,  # that the cell did against the target pressure, from no volume to the present one
        fresh=lambda engine, batch, made: trace(made["pressure"]) / 3.0 * batch.volume.double(),
    )

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        pressure: float | Tensor,
        barostat_time: float | Tensor,
        pressure_coupling: str = "isotropic",
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.pressure_coupling = check_coupling(pressure_coupling)
        super().__init__(model, dt, n_steps, hooks, convergence_hook, **kwargs)
        self.pressure, self.barostat_time = pressure, barostat_time

    def conserved_energy(self, batch: Batch) -> Tensor | None:
        """Return the energy of atoms and cell with the work against the pressure, less what a bath gave, eV, [B]."""
        total, rows = super().conserved_energy(batch), batch.state_rows(self.key)
        return None if total is None else total + rows["work"] + cell_energy(rows["cell_momentum"])

    @property
    def barostat_mass(self) -> Tensor:
        r"""Mass of each degree of freedom of the cell, :math:`W = (n + 3)\,kT \tau^2/3`, float64 [B]."""
        time = self._state.barostat_time.double()
        return (self._moving.dof + 3.0) / 3.0 * self._barostat_heat * time * time

    @property
    def _barostat_heat(self) -> Tensor | float:
        return BOLTZMANN * _USUAL_TEMPERATURE

    def _half_barostat_(self, batch: Batch, flow: Tensor) -> None:
        """Kick the rate of each cell for half a step, in place, given the flow of momentum."""
        state = self._state
        momentum = barostat_kick(
            state.cell_momentum,
            flow,
            batch.stress,
            cell_shape(batch.cell)[0],
            state.pressure,
            self._moving.dof,
            self.barostat_mass,
            0.5 * state.dt,
            self.coupling,
        )
        self._select_(state.cell_momentum, momentum)

    def _maps(self, fraction: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the flow of cells does in half a kick, and in a drift over a `fraction` of the step."""
        state = self._state
        dof, dt = self._moving.dof, state.dt
        return barostat_maps(state.cell_momentum, self.barostat_mass, dof, fraction * dt, 0.5 * dt)

    def _half_kick_(self, batch: Batch, maps: tuple[Tensor, ...], center: Tensor) -> None:
        """Kick velocities for half a step, in the flow of their cell, in place."""
        flow, push, *_ = maps
        half = self._steps.refresh(batch, self._state.dt).half_dt_over_mass[:, 0]
        moved = moved_by_flow(batch.velocities, flow, batch.forces, push, half, center, batch.batch_ptr)
        put_(batch.velocities, moved, self.movable)

    def _drift_(self, batch: Batch, maps: tuple[Tensor, ...], fraction: float = 1.0) -> None:
        """Move positions and cells over a `fraction` of the step, in place; fixed atoms flow with their cell."""
        *_, flow, push, mean = maps
        steps = self._steps.refresh(batch, self._state.dt).dt[:, 0] * fraction
        if batch.get("fixed") is not None:
            steps = torch.where(batch.fixed, 0.0, steps)
        origin = torch.zeros_like(flow[:, 0])
        moved = moved_by_flow(batch.positions, flow, batch.velocities, push, steps, origin, batch.batch_ptr)
        cell = torch.bmm(batch.cell.double(), flow).to(batch.cell.dtype)
        pull = sum_last((self._state.pressure * self._rate()).flatten(1))
        self._select_(self._state.work, self._state.work + pull * mean * cell_shape(batch.cell)[0].double())
        self._select_(batch.cell, cell)
        everywhere = None if self.active is None or self.active.all else self.active.systems[batch.batch_idx][:, None]
        put_(batch.positions, moved, everywhere)

    def _rate(self) -> Tensor:
        """Rate of strain of each cell, 1/(internal time), [B, 3, 3]."""
        return self._state.cell_momentum / torch.sqrt(self.barostat_mass)[:, None, None]


def cell_energy(momentum: Tensor) -> Tensor:
    """Return the energy of the motion of cells from their mass-weighted rates [B, 3, 3], eV, [B]."""
    return 0.5 * sum_last((momentum * momentum).flatten(1))
