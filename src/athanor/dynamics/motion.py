"""What integrators share: motion in time steps, and a bath that acts in the middle of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data._stamp import ComputedFrom
from athanor.data.observables import count_degrees_of_freedom, kinetic_energy
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.state import Parameter, StateVariable, check_positive, is_scalar
from athanor.dynamics.updates import AtomSteps, drift_, kick_, put_
from athanor.kernels import momentum_flow
from athanor.units import BOLTZMANN, fs_to_internal_time, internal_time_to_fs

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class Motion(BaseDynamics):
    """Base of integrators: positions and velocities advance by `dt`.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt
        Time step in fs, a number or one per system.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.
    """

    __needs_keys__ = frozenset({"forces"})
    __provides_keys__ = frozenset({"positions", "velocities"})
    entered = StateVariable(
        unit="fs", dtype=torch.float64, fresh=lambda engine, batch, made: batch.time[:, 0].double().clone()
    )
    halvings = StateVariable(dtype=torch.long)  # of the time step, after failures
    dt = Parameter(check_positive, unit="fs", convert=fs_to_internal_time, shrinks=True)

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.dt = dt
        super().__init__(model, hooks, convergence_hook, n_steps, **kwargs)
        self._steps, self._moving, self._constants_source = AtomSteps(), MovingAtoms(), SystemConstants()
        self._never_halved = ComputedFrom()

    @property
    def time_step(self) -> float | Tensor:
        """Time step in fs: one for all, or one per system [B]."""
        if not is_scalar(self.dt):
            return internal_time_to_fs(self._state.dt)
        dt, halvings = float(self.dt), self.times_halved
        if halvings is not None and not self._never_halved.holds(halvings):
            if bool(halvings.any()):
                return dt * 0.5 ** halvings.double()
            self._never_halved = ComputedFrom(halvings)
        return dt

    def conserved_energy(self, batch: Batch) -> Tensor | None:
        """Return the total energy, less what a bath gave, eV, float64 [B]."""
        total = (batch.energy + kinetic_energy(batch)).reshape(-1).double()
        given = batch.state_rows(self.key).get("bath_energy")
        return total if given is None else total - given

    def _half_kick_(self, batch: Batch) -> None:
        """Advance velocities by half a step under the forces at hand, in place; renews the steps of atoms."""
        steps = self._steps.refresh(batch, self._state.dt)
        kick_(batch.velocities, batch.forces, steps.half_dt_over_mass, self.movable)

    def _select_(self, rows: Tensor, values: Tensor) -> None:
        """Write `values` into `rows` of the state, [B, ...], in place, for the systems that move."""
        if self.active is None:
            rows.copy_(values)
        else:
            self.active.select_(rows, values)

    def _constants(self, batch: Batch) -> Tensor:
        """What kernels take of each system, [B, 6]."""
        state = self._state
        return self._constants_source.refresh(
            self._moving.refresh(batch),
            state.dt,
            state.temperature,
            getattr(state, "thermostat_time", None),
            getattr(state, "barostat_time", None),
        )

    def _motion_of(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Flow of momentum [B, 3, 3], twice the kinetic energy [B] and velocity of the centre [B, 3] of each system."""
        moving = self._moving.refresh(batch)
        return momentum_flow(batch.velocities, moving.masses, moving.glides, batch.batch_ptr)


class HeatBath(Motion):
    """Base of integrators with a bath at `temperature`, and the account of what it gives."""

    temperature = Parameter(check_positive, unit="K")
    bath_energy = StateVariable(unit="eV", dtype=torch.float64)  # given so far

    def temperature_at_start(self, batch: Batch) -> Tensor:
        """Return that of the bath, K, [B], unless `start_temperature` is given."""
        given = super().temperature_at_start(batch)
        return self._state.temperature if given is None else given

    @property
    def _heat(self) -> Tensor:
        """Temperature times Boltzmann's constant, eV, float64 [B]."""
        return BOLTZMANN * self._state.temperature.double()

    def _book_(self, energy: Tensor) -> None:
        """Book `energy`, eV [B], as given by the bath, where systems move."""
        self._select_(self._state.bath_energy, self._state.bath_energy + energy)


class ThermostattedMotion(HeatBath):
    r"""Base of integrators whose bath acts on velocities in the middle of the step: kick, drift, bath, drift, kick.

    A subclass gives `bath_`. Positions between kicks are then sampled with a smaller error than with a bath at the ends
    of the step [1]_.

    Parameters
    ----------
    model, dt
        As in `Motion`.
    temperature
        K, a number or one per system.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    References
    ----------
    .. [1] B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013). doi:10.1093/amrx/abs010
    """

    _selects_active = True
    temperature = Parameter(check_positive, unit="K", zero_allowed=True)

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.temperature = temperature
        super().__init__(model, dt, n_steps, hooks, convergence_hook, **kwargs)

    def bath_(self, batch: Batch) -> None:
        """Act on velocities for a whole step, in place, and book what that gives."""

    def pre_update(self, batch: Batch) -> None:
        """Half kick with the old forces, half drift, bath, half drift."""
        self._half_kick_(batch)
        steps, movable = self._steps, self.movable
        drift_(batch.positions, batch.velocities, steps.half_dt, movable)
        self.bath_(batch)
        drift_(batch.positions, batch.velocities, steps.half_dt, movable)

    def post_update(self, batch: Batch) -> None:
        """Half kick with the new forces."""
        self._half_kick_(batch)

    def _give_velocities_(self, batch: Batch, velocities: Tensor, energy: Tensor) -> None:
        """Take on new `velocities` [N, 3], by which the bath gives `energy`, eV [B], where atoms may move."""
        put_(batch.velocities, velocities, self.movable)
        self._book_(energy)


class SystemConstants:
    """What kernels of thermostats and barostats take of each system, kept until something changes."""

    def __init__(self) -> None:
        self._source: ComputedFrom | None = None
        self._rows: Tensor

    def refresh(
        self,
        moving: MovingAtoms,
        dt: Tensor,
        temperature: Tensor,
        thermostat_time: Tensor | None = None,
        barostat_time: Tensor | None = None,
    ) -> Tensor:
        """Return the columns of `athanor.kernels.thermostat.Constant`, float64 [B, 6]; 1 for times that are absent.

        Temperature in K, times in internal time, each [B].
        """
        source = (moving.dof, moving.glides, dt, temperature, thermostat_time, barostat_time)
        if self._source is None or not self._source.holds(*source):
            ones = torch.ones_like(moving.dof)
            times = (ones if each is None else each.double() for each in (thermostat_time, barostat_time))
            heat = BOLTZMANN * temperature.double()
            self._rows = torch.stack((moving.dof, moving.glides.double(), dt.double(), heat, *times), dim=1)
            self._source = ComputedFrom(*source)
        return self._rows


class MovingAtoms:
    """What counts as heat in a batch, kept until something changes.

    Attributes
    ----------
    masses
        amu, [N]; 0 for fixed atoms.
    dof
        Degrees of freedom, float64 [B].
    glides
        Whether the momentum of the centre is conserved, and so no heat, bool [B].
    """

    def __init__(self) -> None:
        self._source: ComputedFrom | None = None
        self.masses: Tensor
        self.dof: Tensor
        self.glides: Tensor

    def refresh(self, batch: Batch) -> MovingAtoms:
        """Recompute unless masses, fixed atoms and degrees of freedom are those of the last call; return self."""
        masses, fixed, dof = batch.atomic_masses, batch.get("fixed"), batch.dof
        if self._source is None or not self._source.holds(masses, fixed, dof):
            self.masses = masses if fixed is None else torch.where(fixed, 0.0, masses)
            self.dof = dof.reshape(-1).double()
            self.glides = self.dof <= count_degrees_of_freedom(batch).reshape(-1) - 3.0
            self._source = ComputedFrom(masses, fixed, dof)
        return self
