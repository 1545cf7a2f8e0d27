"""FIRE, the fast inertial relaxation engine: on atoms, and on atoms and cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from athanor.data import observables
from athanor.data._stamp import ComputedFrom
from athanor.data.stress import is_partly_periodic, spectral_norm
from athanor.dynamics.active import ActiveSet
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.failures import FailureCode
from athanor.dynamics.optimizers.variable_cell import cell_force, check_pressure, strain_
from athanor.dynamics.state import IntegratorState, Parameter, StateVariable, check_positive
from athanor.dynamics.updates import sum_last
from athanor.errors import InputError
from athanor.kernels import fire_moves, fire_sums, segment_sum

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class FIRE(BaseDynamics):
    r"""Relax atoms with FIRE.

    With power :math:`P = F \cdot v`, per system:

    .. math::
        P > 0:&\quad v \leftarrow (1-\alpha)\,v + \alpha\,|v|\,F/|F|;\quad
            \text{after } n_\text{min} \text{ such steps } \Delta t \leftarrow
            \min(f_\text{inc}\,\Delta t,\ \Delta t_\text{max}),\ \alpha \leftarrow f_\alpha\,\alpha \\
        P \le 0:&\quad v \leftarrow 0,\quad \Delta t \leftarrow \max(f_\text{dec}\,\Delta t,\ \Delta t_\text{min}),
            \quad \alpha \leftarrow \alpha_\text{start} \\
        &\quad v \leftarrow v + \Delta t\,F/m,\qquad r \leftarrow r + \Delta t\,v

    A step from rest is neutral: it changes neither :math:`\Delta t` nor :math:`\alpha`. No atom moves further than
    `maxstep` in one step.

    Parameters
    ----------
    model
        Wrapped model that gives forces.
    dt, dt_max, dt_min
        First, largest (default 10 dt) and smallest (default 0.02 dt) time step, in internal time Å·√(amu/eV), not fs.
    maxstep
        Largest displacement of an atom in one step, Å.
    n_min, f_dec, f_inc, alpha_start, f_alpha
        Parameters of the method; the defaults are those of the paper.
    uphill
        Accepted for compatibility; the step never looks at the energy.
    mass_scale
        ``"real"``: atoms have their masses. ``"mean"``: masses are divided by the mean mass of the system, so that
        the number of steps does not grow with the weight of the elements.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If a parameter is not positive, or `mass_scale` is unknown.

    References
    ----------
    .. [1] E. Bitzek, P. Koskinen, F. Gähler, M. Moseler, P. Gumbsch, Phys. Rev. Lett. 97, 170201 (2006).
       doi:10.1103/PhysRevLett.97.170201

    Examples
    --------
    >>> from athanor.dynamics import FIRE
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> FIRE(LennardJonesModelWrapper(0.0104, 3.4, 8.5), dt=0.1, n_steps=200).dt_max
    1.0
    """

    __needs_keys__ = frozenset({"forces"})
    __provides_keys__ = frozenset({"positions"})
    _selects_active = True
    dt = Parameter(check_positive, unit="internal time", shrinks=True)
    dt_max = Parameter(check_positive, unit="internal time", shrinks=True)
    dt_min = Parameter(check_positive, unit="internal time", zero_allowed=True, shrinks=True)
    maxstep = Parameter(check_positive, unit="Å", shrinks=True)
    n_min = Parameter(check_positive, zero_allowed=True)
    f_dec = Parameter(check_positive, most=1.0)
    f_inc = Parameter(check_positive)
    alpha_start = Parameter(check_positive, most=1.0)
    f_alpha = Parameter(check_positive, most=1.0)
    is_motion = False
    velocities = StateVariable("node", (3,), "√(eV/amu)", turns="vector")  # of the method; they are no motion
    alpha = StateVariable(fresh=lambda engine, batch, made: made["alpha_start"].clone())
    n_steps_positive = StateVariable(dtype=torch.long)  # downhill steps in a row
    halvings = StateVariable(dtype=torch.long)  # of its steps, after failures

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        dt_max: float | Tensor | None = None,
        dt_min: float | Tensor | None = None,
        maxstep: float | Tensor = 0.2,
        n_min: int | Tensor = 5,
        f_dec: float | Tensor = 0.5,
        f_inc: float | Tensor = 1.1,
        alpha_start: float | Tensor = 0.1,
        f_alpha: float | Tensor = 0.99,
        uphill: bool | Tensor = False,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        *,
        mass_scale: str = "real",
        **kwargs: Any,
    ) -> None:
        if mass_scale not in ("real", "mean"):
            raise InputError(f'`mass_scale` is {mass_scale!r}; use "real" or "mean".')
        self.dt, self.maxstep, self.n_min = dt, maxstep, n_min
        self.dt_max = 10.0 * dt if dt_max is None else dt_max
        self.dt_min = 0.02 * dt if dt_min is None else dt_min
        self.f_dec, self.f_inc, self.alpha_start, self.f_alpha = f_dec, f_inc, alpha_start, f_alpha
        super().__init__(model, hooks, convergence_hook, n_steps, **kwargs)
        self.mass_scale = mass_scale
        self._masses = _Masses(mass_scale)

    def pre_update(self, batch: Batch) -> None:
        """The whole update, with the forces at hand."""
        active = self.active or _everyone(batch)
        forces = _movable_forces(batch, active)
        decision = _decide(self._state, fire_sums(self._state.velocities, forces, batch.batch_ptr))
        _adapt_(self._state, decision, active)
        _move_(batch, self._state, *self._atom_moves(batch, forces, decision), active)

    def _atom_moves(self, batch: Batch, forces: Tensor, decision: _Decision) -> tuple[Tensor, Tensor]:
        """New velocities and displacements of all atoms, [N, 3], the latter no longer than `maxstep`."""
        return fire_moves(
            self._state.velocities,
            forces,
            self._masses.refresh(batch).inverse,
            batch.batch_ptr,
            decision.downhill,
            decision.keep,
            decision.steer,
            self._state.dt,
            self._state.maxstep,
        )


class FIREVariableCell(FIRE):
    r"""Relax atoms and cell together with FIRE, against a target pressure.

    The cell moves along :math:`u = N \log(\text{strain})`, with :math:`N` atoms, so that atoms and cell see forces of
    the same size whatever the size of the system [2]_. In each step the increment :math:`\delta u` strains the
    present cell and everything in it; the force on it and the strain are symmetric, so the cell does not rotate:

    .. math:: f_u = -\frac{V}{N}\,(\sigma + p\,I),\qquad
        h \leftarrow h\,e^{\delta u/N},\quad r \leftarrow (r + \delta r)\,e^{\delta u/N}

    Along non-periodic directions nothing is strained; a system without a cell relaxes its atoms only. Atoms held by
    `fixed` keep their fractional positions.

    Parameters
    ----------
    model
        Wrapped model that gives forces and stress.
    pressure
        Target pressure in eV/Å³ (``units.GPa`` converts), a number or one per system. A slab or a wire can have none
        and is set aside: how far it gives way would depend on the empty space in its cell.
    dt, dt_max, dt_min, maxstep, n_min, f_dec, f_inc, alpha_start, f_alpha, mass_scale
        As in `FIRE`; `maxstep` also bounds the largest principal value of :math:`\delta u`.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        As in `FIRE`, if the pressure is not finite or beyond 1000 GPa, or, at the start of a run, if no system of the
        batch has a cell.

    References
    ----------
    .. [1] E. Bitzek, P. Koskinen, F. Gähler, M. Moseler, P. Gumbsch, Phys. Rev. Lett. 97, 170201 (2006).
       doi:10.1103/PhysRevLett.97.170201
    .. [2] E. B. Tadmor, G. S. Smith, N. Bernstein, E. Kaxiras, Phys. Rev. B 59, 235 (1999).
       doi:10.1103/PhysRevB.59.235
    """

    __needs_keys__ = frozenset({"forces", "stress"})
    __provides_keys__ = frozenset({"positions", "cell"})
    _selects_active = True
    pressure = Parameter(check_pressure, unit="eV/Å³ (1 GPa is `athanor.units.GPa`)")
    cell_velocity = StateVariable(shape=(3, 3), turns="tensor")
    projector = StateVariable(
        shape=(3, 3), fresh=lambda engine, batch, made: observables.periodic_projector(batch), turns="tensor"
    )

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        dt_max: float | Tensor | None = None,
        dt_min: float | Tensor | None = None,
        maxstep: float | Tensor = 0.2,
        n_min: int | Tensor = 5,
        f_dec: float | Tensor = 0.5,
        f_inc: float | Tensor = 1.1,
        alpha_start: float | Tensor = 0.1,
        f_alpha: float | Tensor = 0.99,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        *,
        pressure: float | Tensor = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model, dt, dt_max, dt_min, maxstep, n_min, f_dec, f_inc, alpha_start, f_alpha, False, n_steps, hooks,
            convergence_hook, **kwargs,
        )  # fmt: skip
        self.pressure = pressure

    def make_state(self, batch: Batch) -> IntegratorState | None:
        """State as declared; refused if no system has a cell."""
        if "cell" not in batch:
            raise InputError(
                f"{type(self).__name__} needs a `cell`; none of the {len(batch)} systems has one. Use FIRE, which "
                f"moves atoms only."
            )
        return super().make_state(batch)

    def misfits(self, batch: Batch) -> Tensor | None:
        """Slabs and wires, if they are to be under pressure: how far they gave way would depend on their vacuum."""
        wrong = is_partly_periodic(batch) & (self._state.pressure != 0)
        return wrong.long() * int(FailureCode.PRESSURE_WITHOUT_CRYSTAL) if bool(wrong.any()) else None

    def pre_update(self, batch: Batch) -> None:
        """The whole update of atoms and cell, with the forces and stress at hand."""
        state, active = self._state, self.active or _everyone(batch)
        forces = _movable_forces(batch, active)
        pull = cell_force(batch, state.pressure, state.projector)
        sums = fire_sums(state.velocities, forces, batch.batch_ptr) + _cell_sums(state.cell_velocity, pull)
        decision = _decide(state, sums)
        _adapt_(state, decision, active)
        velocities, moves = self._atom_moves(batch, forces, decision)
        moving, increment = self._cell_move(batch, pull, decision)
        active.select_(state.cell_velocity, moving)
        _move_(batch, state, velocities, moves, active)
        strain_(batch, increment / batch.num_nodes_per_graph.to(increment.dtype)[:, None, None], active)

    def _cell_move(self, batch: Batch, pull: Tensor, decision: _Decision) -> tuple[Tensor, Tensor]:
        """New cell velocity and the increment of u, bounded by `maxstep`, both [B, 3, 3]."""
        state = self._state
        mass = self._masses.refresh(batch).of_cell
        velocity = decision.keep[:, None, None] * state.cell_velocity + decision.steer[:, None, None] * pull
        velocity = torch.where(decision.downhill[:, None, None], velocity, torch.zeros_like(velocity))
        velocity = velocity + (state.dt / mass)[:, None, None] * pull
        increment = state.dt[:, None, None] * velocity
        largest = spectral_norm(increment)  # not the longest row, which depends on how the system is turned
        bound = torch.where(largest > state.maxstep, state.maxstep / largest, torch.ones_like(largest))
        return velocity, increment * bound[:, None, None]


class _Masses:
    """Masses as FIRE sees them, kept until those of the batch change."""

    def __init__(self, scale: str) -> None:
        self._scale = scale
        self._source: ComputedFrom | None = None
        self.inverse: Tensor  # [N]; 0 for an atom without mass
        self.of_cell: Tensor  # [B]

    def refresh(self, batch: Batch) -> _Masses:
        """Recompute if need be; return self."""
        masses = batch.atomic_masses
        if self._source is not None and self._source.holds(masses):
            return self
        self._source = ComputedFrom(masses)
        self.of_cell = segment_sum(masses[:, None], batch.batch_ptr)[:, 0] / batch.num_nodes_per_graph
        if self._scale == "mean":
            masses = masses / self.of_cell[batch.batch_idx]
            self.of_cell = torch.ones_like(self.of_cell)
        self.inverse = torch.where(masses > 0, 1.0 / masses, torch.zeros_like(masses))
        return self


class _Decision(NamedTuple):
    """What FIRE decided for each system, [B]: go on or stop, and how to mix v and F."""

    downhill: Tensor
    keep: Tensor
    steer: Tensor
    dt: Tensor
    alpha: Tensor
    n_steps_positive: Tensor


def _everyone(batch: Batch) -> ActiveSet:
    return ActiveSet(torch.ones(batch.num_graphs, dtype=torch.bool, device=batch.device), batch)


def _movable_forces(batch: Batch, active: ActiveSet) -> Tensor:
    """Forces with zeros on atoms that must not move, so that they count in no sum."""
    movable = active.atoms
    return batch.forces if movable is None else torch.where(movable, batch.forces, torch.zeros_like(batch.forces))


def _cell_sums(velocity: Tensor, force: Tensor) -> Tensor:
    """F·v, v·v and F·F of the cell of each system, [B, 3]."""
    products = torch.stack((force * velocity, velocity * velocity, force * force), dim=1)
    return sum_last(products.flatten(2))


def _decide(state: IntegratorState, sums: Tensor) -> _Decision:
    """Compare force and velocity of each system; a system at rest keeps its time step and alpha."""
    power, speed, force = sums.unbind(1)
    rest = speed == 0
    downhill = power > 0
    count = torch.where(downhill, state.n_steps_positive + 1, 0)
    grow = downhill & (count >= state.n_min)
    dt = torch.where(grow, torch.minimum(state.dt * state.f_inc, state.dt_max), state.dt)
    alpha = torch.where(grow, state.alpha * state.f_alpha, state.alpha)
    stop = ~(downhill | rest)
    dt = torch.where(stop, torch.maximum(state.dt * state.f_dec, state.dt_min), dt)
    alpha = torch.where(stop, state.alpha_start, alpha)
    ratio = torch.sqrt(speed / torch.where(force > 0, force, 1.0))  # without force there is nothing to steer along
    return _Decision(downhill, 1.0 - alpha, alpha * ratio, dt, alpha, count)


def _adapt_(state: IntegratorState, decision: _Decision, active: ActiveSet) -> None:
    """Write the new time step, alpha and count of active systems into `state`, in place."""
    active.select_(state.dt, decision.dt)
    active.select_(state.alpha, decision.alpha)
    active.select_(state.n_steps_positive, decision.n_steps_positive)


def _move_(batch: Batch, state: IntegratorState, velocities: Tensor, moves: Tensor, active: ActiveSet) -> None:
    """Apply velocities and displacements to the atoms that may move, in place."""
    movable = active.atoms
    if movable is None:
        state.velocities.copy_(velocities)
        batch.positions.add_(moves)
    else:
        state.velocities.copy_(torch.where(movable, velocities, state.velocities))
        batch.positions.copy_(torch.where(movable, batch.positions + moves, batch.positions))
