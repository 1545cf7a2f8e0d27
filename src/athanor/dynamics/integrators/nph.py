"""Constant enthalpy and pressure: a cell that moves, without a thermostat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.dynamics.barostat import Barostatted
from athanor.dynamics.state import StateVariable

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class NPH(Barostatted):
    r"""Martyna, Tobias and Klein's equations without thermostats: constant enthalpy, reversible.

    With the rate :math:`E` of the cell, its mass :math:`W` per degree of freedom, and :math:`n` degrees of freedom:

    .. math::
        \dot r &= v + r E, \qquad \dot h = h E, \qquad
        \dot v = F/m - v\,(E + \operatorname{tr} E / n) \\
        W \dot E &= \textstyle\sum_i m_i\,v_i \otimes v_i - V (\sigma + p) + (2K/n)\,I

    Every step is symmetric: half a kick of the cell, half a kick of the atoms, drift of both, and back. Each part is
    solved exactly. Pressure and volume oscillate around the target with a period of about
    :math:`2\pi\tau\sqrt{kT n \beta/(3V)}`, with the compressibility :math:`\beta`; nothing damps them.

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
        :math:`\tau` in fs, a number or one per system; 500 to 2000 is usual. :math:`W = (n + 3)\,kT\,\tau^2/3`, at 300
        K.
    pressure_coupling
        ``"isotropic"``: cells keep their shape; ``"anisotropic"``: x, y and z stretch on their own; ``"triclinic"``:
        angles change, too.
    n_steps, hooks, convergence_hook, **kwargs
        As in `BaseDynamics`.

    Raises
    ------
    InputError
        If a number is not positive, the pressure makes no sense, or no system has a cell. Molecules, slabs and wires
        beside crystals are set aside.

    Notes
    -----
    `conserved_energy` is :math:`K + U + pV + \tfrac{W}{2} \sum E^2`. Under a pressure that differs between directions,
    or changes, the work done against it stands for :math:`pV`.

    References
    ----------
    .. [1] G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994). doi:10.1063/1.467468
    .. [2] G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996).
       doi:10.1080/00268979600100761

    Examples
    --------
    >>> from athanor.dynamics import NPH
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> from athanor.units import GPa
    >>> NPH(LennardJonesModelWrapper(0.0104, 3.4, 8.5), dt=2.0, pressure=0.1 * GPa, barostat_time=1000.0).dt
    2.0
    """

    _selects_active = True
    conserves_momentum = True
    temperature = StateVariable(unit="K", fresh=300.0)  # sizes the mass of the cell, and nothing else

    def pre_update(self, batch: Batch) -> None:
        """Half kicks of cell and atoms with the old forces, drift of both."""
        self._half_step_(batch, backward=False)
        self._drift_(batch)

    def post_update(self, batch: Batch) -> None:
        """Half kicks of atoms and cell with the new forces."""
        self._half_step_(batch, backward=True)
