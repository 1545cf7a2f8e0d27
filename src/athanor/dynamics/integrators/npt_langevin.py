"""Constant temperature and pressure by friction and noise on atoms and cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.barostat import Barostatted, cell_energy
from athanor.dynamics.motion import HeatBath
from athanor.dynamics.noise import LangevinNoise, normals_of_cells
from athanor.dynamics.schedules import inverse
from athanor.dynamics.state import Parameter, check_positive
from athanor.dynamics.updates import put_
from athanor.kernels.philox import Purpose
from athanor.units import per_fs_to_internal_rate

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NPTLangevin(HeatBath, Barostatted):
    r"""Langevin dynamics of atoms and cell: constant temperature and pressure for anything, crystals too.

    The equations of `NPH` with friction and noise on velocities and on the rate of the cell [1]_, in the order of
    BAOAB: half kicks of cell and atoms, half a drift, friction and noise, half a drift, half kicks.

    Parameters
    ----------
    model
        Wrapped model that gives forces and stress.
    dt
        Time step in fs, a number or one per system.
    temperature
        K, a number or one per system; positive.
    pressure
        eV/Å³ (``units.GPa`` and ``units.bar`` convert), compression positive: a number, or for each system a number
        [B], a diagonal [B, 3] or a symmetric tensor [B, 3, 3].
    friction
        Rate of the atoms in 1/fs, a number or one per system; 0.001 to 0.05 is usual.
    barostat_time
        :math:`\tau_P` in fs, a number or one per system; 500 to 2000 is usual. The mass of each degree of freedom of
        the cell is :math:`W = (n + 3)\,kT\,\tau_P^2/3`.
    pressure_coupling
        ``"isotropic"``: cells keep their shape; ``"anisotropic"``: x, y and z stretch on their own; ``"triclinic"``:
        angles change, too.
    random_seed
        64-bit seed.
    barostat_friction
        Rate of the cell in 1/fs, a number or one per system; `1 / barostat_time` unless given.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If a number is not positive (friction may be zero), the pressure makes no sense, or no system has a cell.
        Molecules, slabs and wires beside crystals are set aside.

    Notes
    -----
    `conserved_energy` is that of `NPH`, less the heat that friction and noise gave.

    References
    ----------
    .. [1] D. Quigley, M. I. J. Probert, J. Chem. Phys. 120, 11432 (2004). doi:10.1063/1.1755657
    .. [2] B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013). doi:10.1093/amrx/abs010

    Examples
    --------
    >>> from athanor.dynamics import NPTLangevin
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> NPTLangevin(model, dt=2.0, temperature=80.0, pressure=0.0, friction=0.01, barostat_time=1000.0).friction
    0.01
    """

    _selects_active = True
    friction = Parameter(check_positive, unit="1/fs", zero_allowed=True, convert=per_fs_to_internal_rate)
    barostat_friction = Parameter(check_positive, unit="1/fs", zero_allowed=True, convert=per_fs_to_internal_rate)

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        pressure: float | Tensor,
        friction: float | Tensor,
        barostat_time: float | Tensor,
        pressure_coupling: str = "isotropic",
        random_seed: int = 42,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        *,
        barostat_friction: float | Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        self.temperature, self.friction = temperature, friction
        super().__init__(
            model, dt, pressure, barostat_time, pressure_coupling, n_steps, hooks, convergence_hook,
            random_seed=random_seed, **kwargs,
        )  # fmt: skip
        self.barostat_friction = inverse(barostat_time) if barostat_friction is None else barostat_friction
        self._noise = LangevinNoise()

    @property
    def conserves_momentum(self) -> Tensor:  # type: ignore[override]
        """Whether nothing damps or kicks the atoms of a system: without friction, bool [B]."""
        return self._state.friction == 0

    def pre_update(self, batch: Batch) -> None:
        """Half kicks of cell and atoms with the old forces, half a drift, friction and noise, half a drift."""
        self._half_step_(batch, backward=False)
        self._drift_(batch, 0.5)
        self._bath_(batch)
        self._drift_(batch, 0.5)

    def post_update(self, batch: Batch) -> None:
        """Half kicks of atoms and cell with the new forces."""
        self._half_step_(batch, backward=True)

    def _bath_(self, batch: Batch) -> None:
        """Friction and noise of a whole step, on velocities and on the rates of cells, in place."""
        state, masses = self._state, self._moving.refresh(batch).masses
        noise = self._noise.refresh(batch, masses, state.dt, state.temperature, state.friction)
        velocities, heat = noise.applied(batch, masses, self.random_seed)
        put_(batch.velocities, velocities, self.movable)
        before = state.cell_momentum.clone()
        decay = torch.exp(-state.barostat_friction.double() * state.dt.double())[:, None, None]
        width = torch.sqrt(self._heat[:, None, None] * (1.0 - decay * decay))
        drawn = self._projected(normals_of_cells(batch, self.random_seed, Purpose.BAROSTAT))
        self._select_(state.cell_momentum, decay * before + width * drawn)
        self._book_(heat + cell_energy(state.cell_momentum) - cell_energy(before))
