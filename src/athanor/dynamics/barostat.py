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
from athanor.kernels import barostat_drift, barostat_half_step

if TYPE_CHECKING:
    from athanor.data.batch import Batch


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

    yoshida_order = 3
    cell_momentum = StateVariable(  # mass-weighted rate of strain
        shape=(3, 3), unit="√eV", dtype=torch.float64, turns="tensor"
    )
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
    def _chains(self) -> tuple[Tensor, Tensor]:
        """Speeds of the chains of atoms and cell, [B, L]; none here."""
        none = self._state.cell_momentum[:, :0, 0]
        return none, none

    def _take_chains_(self, chain: Tensor, cell_chain: Tensor, uptake: Tensor) -> None:
        """Take on new speeds of the chains, and book what their baths took up, in place."""

    def _half_step_(self, batch: Batch, *, backward: bool) -> None:
        """Kick cells and atoms for half a step, with their thermostats before that, or after it; in place."""
        state, constants, chains = self._state, self._constants(batch), self._chains
        velocities, momentum, chain, cell_chain, uptake = barostat_half_step(
            batch.velocities, batch.forces, self._moving.masses, state.cell_momentum, *chains, batch.stress, batch.cell,
            state.pressure, constants, batch.batch_ptr, self.coupling, self.yoshida_order, backward,
        )  # fmt: skip
        put_(batch.velocities, velocities, self.movable)
        self._select_(state.cell_momentum, momentum)
        self._take_chains_(chain, cell_chain, uptake)

    def _drift_(self, batch: Batch, fraction: float = 1.0) -> None:
        """Move positions and cells over a `fraction` of the step, in place; fixed atoms flow with their cell."""
        state, constants = self._state, self._constants(batch)
        positions, cell, work = barostat_drift(
            batch.positions, batch.velocities, self._moving.masses, batch.cell, state.cell_momentum, state.pressure,
            constants, batch.batch_ptr, fraction,
        )  # fmt: skip
        self._select_(batch.cell, cell)
        self._select_(state.work, state.work + work)
        everywhere = None if self.active is None or self.active.all else self.active.systems[batch.batch_idx][:, None]
        put_(batch.positions, positions, everywhere)


def cell_energy(momentum: Tensor) -> Tensor:
    """Return the energy of the motion of cells from their mass-weighted rates [B, 3, 3], eV, [B]."""
    return 0.5 * sum_last((momentum * momentum).flatten(1))
