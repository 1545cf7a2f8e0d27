"""Constant temperature and pressure by chains of thermostats and a moving cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from athanor.dynamics.barostat import Barostatted
from athanor.dynamics.motion import HeatBath
from athanor.dynamics.nose_hoover import chain_energy, chain_speeds, check_chain
from athanor.dynamics.state import Parameter, check_positive
from athanor.units import fs_to_internal_time

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NPT(HeatBath, Barostatted):
    r"""Martyna, Tobias and Klein's equations: constant temperature and pressure, deterministic.

    The equations of `NPH`, with a chain of Nosé-Hoover thermostats on the atoms and another one on the cell, whose time
    is that of the barostat. A cell has 1, 3 or 6 degrees of freedom under isotropic, anisotropic and triclinic
    coupling. Every step is symmetric: half a step of the chains, half a kick of the cell, half a kick of the atoms,
    drift, and back.

    Use it for liquids and crystals that mix well. From far away it swings around the density before it settles;
    `NPTCRescale` goes there straight, and small, nearly harmonic crystals need one of the stochastic ensembles.

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
    barostat_time
        :math:`\tau_P` in fs, a number or one per system; 500 to 2000 is usual. The mass of each degree of freedom of
        the cell is :math:`W = (n + 3)\,kT\,\tau_P^2/3`.
    thermostat_time
        :math:`\tau` in fs, a number or one per system; 50 to 200 is usual.
    pressure_coupling
        ``"isotropic"``: cells keep their shape; ``"anisotropic"``: x, y and z stretch on their own; ``"triclinic"``:
        angles change, too.
    chain_length
        Thermostats in each chain, 1 to 8.
    yoshida_order
        Parts into which a step of a chain is split: 1, 3 or 5.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If a number is not positive, the pressure makes no sense, or no system has a cell. Molecules, slabs and wires
        beside crystals are set aside.

    Notes
    -----
    `conserved_energy` is that of `NPH`, and of both chains with what their baths took up.

    References
    ----------
    .. [1] G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994). doi:10.1063/1.467468
    .. [2] G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996).
       doi:10.1080/00268979600100761

    Examples
    --------
    >>> from athanor.dynamics import NPT
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> from athanor.units import bar
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> NPT(model, dt=2.0, temperature=80.0, pressure=1.0 * bar, barostat_time=1000.0, thermostat_time=100.0).dt
    2.0
    """

    _selects_active = True
    conserves_momentum = True
    thermostat_time = Parameter(check_positive, unit="fs", convert=fs_to_internal_time)
    chain, cell_chain = chain_speeds(), chain_speeds()

    def __init__(
        self,
        model: Any,
        dt: float | Tensor,
        temperature: float | Tensor,
        pressure: float | Tensor,
        barostat_time: float | Tensor,
        thermostat_time: float | Tensor,
        pressure_coupling: str = "isotropic",
        chain_length: int = 3,
        n_steps: int | None = None,
        hooks: Any = None,
        convergence_hook: Any = None,
        *,
        yoshida_order: int = 3,
        **kwargs: Any,
    ) -> None:
        self.chain_length, self.yoshida_order = check_chain(chain_length, yoshida_order)
        self.temperature, self.thermostat_time = temperature, thermostat_time
        super().__init__(
            model, dt, pressure, barostat_time, pressure_coupling, n_steps, hooks, convergence_hook, **kwargs
        )

    def conserved_energy(self, batch: Batch) -> Tensor | None:
        """Return the energy of atoms, cell and chains with the work, less what the baths gave, eV, float64 [B]."""
        total, rows = super().conserved_energy(batch), batch.state_rows(self.key)
        return None if total is None else total + chain_energy(rows["chain"]) + chain_energy(rows["cell_chain"])

    def pre_update(self, batch: Batch) -> None:
        """Half a step of the chains, half kicks of cell and atoms with the old forces, drift of both."""
        self._half_step_(batch, backward=False)
        self._drift_(batch)

    def post_update(self, batch: Batch) -> None:
        """Half kicks of atoms and cell with the new forces, half a step of the chains."""
        self._half_step_(batch, backward=True)

    @property
    def _chains(self) -> tuple[Tensor, Tensor]:
        return self._state.chain, self._state.cell_chain

    def _take_chains_(self, chain: Tensor, cell_chain: Tensor, uptake: Tensor) -> None:
        self._select_(self._state.chain, chain)
        self._select_(self._state.cell_chain, cell_chain)
        self._book_(-uptake)
