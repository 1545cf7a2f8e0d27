"""Stochastic cell rescaling: constant pressure of first order, straight to the density."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.integrators.nvt_csvr import NVTCSVR
from athanor.dynamics.noise import normals_of_cells
from athanor.dynamics.optimizers.variable_cell import strain_
from athanor.dynamics.pressure import UnderPressure, check_coupling
from athanor.dynamics.state import Parameter, StateVariable, check_positive
from athanor.dynamics.updates import put_, sum_last
from athanor.kernels import cell_shape, strained
from athanor.kernels.philox import Purpose
from athanor.units import GPa

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NPTCRescale(UnderPressure, NVTCSVR):
    r"""Stochastic rescaling of velocities and cells: constant temperature and pressure, straight to the density.

    In the middle of each step, after the rescaling of velocities, the cell is strained with everything in it;
    velocities are strained inversely:

    .. math::
        \delta\epsilon = \frac{\beta}{3 \tau_P}\,(P - p)\,\Delta t
            + \sqrt{\frac{2\,kT \beta\,\Delta t}{3\,V \tau_P}}\;\Xi, \qquad
        h \leftarrow h\,e^{\delta\epsilon},\quad r \leftarrow r\,e^{\delta\epsilon},\quad
        v \leftarrow v\,e^{-\delta\epsilon}

    with the pressure tensor :math:`P` at hand and a symmetric matrix of normal numbers :math:`\Xi`, both restricted to
    what the coupling allows. There is no inertia: volumes decay to their average within :math:`\tau_P`, from anywhere,
    and fluctuate as the ensemble asks.

    Parameters
    ----------
    model
        Wrapped model that gives forces and stress.
    dt
        Time step in fs, a number or one per system.
    temperature
        K, a number or one per system.
    pressure
        eV/Å³ (``units.GPa`` and ``units.bar`` convert), compression positive: a number, or for each system a number
        [B], a diagonal [B, 3] or a symmetric tensor [B, 3, 3].
    barostat_time
        :math:`\tau_P` in fs, a number or one per system; 500 to 2000 is usual.
    thermostat_time
        Of `NVTCSVR` in fs, a number or one per system; 50 to 500 is usual.
    pressure_coupling
        ``"isotropic"``: cells keep their shape; ``"anisotropic"``: x, y and z stretch on their own; ``"triclinic"``:
        angles change, too.
    compressibility
        :math:`\beta` in Å³/eV (``1 / units.GPa`` converts), a number or one per system. Only :math:`\beta/\tau_P`
        matters, and averages do not depend on it: with that of the material, :math:`\tau_P` is its relaxation time. The
        default, 0.1/GPa, lies between metals (0.01) and water (0.45).
    random_seed
        64-bit seed.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If a number is not positive, the pressure makes no sense, or no system has a cell. Molecules, slabs and wires
        beside crystals are set aside.

    Notes
    -----
    `conserved_energy` is the total energy less what the rescaling gave, of velocities and of cells. The work of a
    strain is taken from the stress before and after the step, so on a cell as small as a few atoms it drifts a little.

    Averages are of first order in the step over the time in which the cell relaxes: at a twenty-fifth of it, volume and
    kinetic energy of a cell of a few atoms are correlated by -0.04, at a hundredth nothing shows.

    References
    ----------
    .. [1] M. Bernetti, G. Bussi, J. Chem. Phys. 153, 114107 (2020). doi:10.1063/5.0020514
    .. [2] V. Del Tatto, P. Raiteri, M. Bernetti, G. Bussi, Appl. Sci. 12, 1139 (2022). doi:10.3390/app12031139

    Examples
    --------
    >>> from athanor.dynamics import NPTCRescale
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> NPTCRescale(model, dt=2.0, temperature=80.0, pressure=0.0, barostat_time=1000.0, thermostat_time=100.0).dt
    2.0
    """

    _selects_active = True
    compressibility = Parameter(check_positive, unit="Å³/eV")
    strain = StateVariable(shape=(3, 3), dtype=torch.float64, turns="tensor")  # of the step under way

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        pressure: float | Tensor,
        barostat_time: float | Tensor,
        thermostat_time: float | Tensor,
        pressure_coupling: str = "isotropic",
        compressibility: float | Tensor = 0.1 / GPa,
        random_seed: int = 42,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        **kwargs: Any,
    ) -> None:
        self.pressure_coupling = check_coupling(pressure_coupling)
        super().__init__(
            model, dt, temperature, thermostat_time, random_seed, n_steps, hooks, convergence_hook, **kwargs
        )
        self.pressure, self.barostat_time, self.compressibility = pressure, barostat_time, compressibility

    def bath_(self, batch: Batch) -> None:
        """Rescale velocities, then strain cells, and everything in them; in place."""
        super().bath_(batch)
        state = self._state
        flow, twice_kinetic, center = self._motion_of(batch)
        volume = cell_shape(batch.cell)[0].double()
        strain = self._drawn_strain(batch, flow / volume[:, None, None])
        self._select_(state.strain, strain)
        center = center.to(batch.velocities.dtype)[batch.batch_idx]
        slower, _ = strained(batch.velocities - center, batch.cell, -strain, batch.batch_ptr)
        put_(batch.velocities, slower + center, self.movable)
        self._book_(0.5 * (self._motion_of(batch)[1] - twice_kinetic) + self._half_work(batch))
        assert self.active is not None
        strain_(batch, strain, self.active)

    def post_update(self, batch: Batch) -> None:
        """Half kick with the new forces."""
        super().post_update(batch)
        self._book_(self._half_work(batch))

    def _drawn_strain(self, batch: Batch, kinetic: Tensor) -> Tensor:
        """Draw the strain of this step, [B, 3, 3], given the kinetic part of the pressure."""
        state = self._state
        share = state.compressibility.double() * state.dt.double() / (3.0 * state.barostat_time.double())
        excess = self._projected(kinetic - 0.5 * (batch.stress + batch.stress.mT).double() - state.pressure)
        noise = self._projected(normals_of_cells(batch, self.random_seed, Purpose.BAROSTAT))
        width = torch.sqrt(2.0 * self._heat * share / cell_shape(batch.cell)[0].double())
        return share[:, None, None] * excess + width[:, None, None] * noise

    def _half_work(self, batch: Batch) -> Tensor:
        """Half of the potential energy that a strain gives, eV, [B], by the stress at hand."""
        work = sum_last((self._state.strain * batch.stress.double()).flatten(1))
        return 0.5 * cell_shape(batch.cell)[0].double() * work
