"""Ewald sums: public calls and their registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError
from athanor.kernels._energy import Outputs, check_atoms, check_systems, register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles
from athanor.kernels._threads import balanced_bounds, num_parts, run_parts, system_bounds
from athanor.kernels.ewald import _reference

_cpu = LazyModule("athanor.kernels.ewald._cpu")
_corrections = LazyModule("athanor.kernels.ewald._cpu_corrections")
_pairs = LazyModule("athanor.kernels.neighbor_list._cpu_pairs")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def ewald_reciprocal(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    charges: torch.Tensor,
    included: torch.Tensor,
    screening: float,
    taper_start: float,
    radius: float,
    derivatives: bool,
) -> Results:
    r"""Compute the reciprocal part of an Ewald sum, with its first derivatives.

    .. math:: E = \frac{1}{2V} \sum_{0 < |k| < k_c} \frac{4\pi}{k^2}\, e^{-k^2 / 4\alpha^2}\, S(k)\, |\rho(k)|^2,
              \qquad \rho(k) = \sum_i q_i e^{i k \cdot r_i}

    with :math:`S = 1` below :math:`k_{on}` and :math:`1 - 10t^3 + 15t^4 - 6t^5` from there,
    :math:`t = (k - k_{on}) / (k_c - k_{on})`: the energy is a smooth function of the cell, as no vector drops out of
    the sum with a jump.

    ====================  =================
    symbol                variable
    ====================  =================
    :math:`\alpha`        ``screening``
    :math:`k_{on}`        ``taper_start``
    :math:`k_c`           ``radius``
    ====================  =================

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å.
    cell
        [B, 3, 3], Å, rows are lattice vectors of either hand.
    segment_ptr
        int32 [B + 1], first atom of each system.
    charges
        [N], in units of the elementary charge.
    included
        bool [B]; other systems get zeros, and their cells may span no volume.
    screening
        1/Å, positive.
    taper_start, radius
        1/Å, 0 < taper_start < radius.
    derivatives
        Whether forces and potentials are wanted; else they are zeros, and must not be differentiated.

    Returns
    -------
    energy : torch.Tensor
        [B], e²/Å: times the Coulomb constant it is in eV. Differentiable by positions, cell and charges.
    forces : torch.Tensor
        [N, 3], e²/Å².
    virial : torch.Tensor
        [B, 3, 3], W = -dE/dstrain, e²/Å.
    potential : torch.Tensor
        [N], dE/dcharge, e/Å.

    Raises
    ------
    InputError
        If `screening` is not positive, or not 0 < taper_start < radius.
    ShapeError
        If `charges` has the wrong shape.

    Notes
    -----
    A system with more than 1e8 vectors gets an energy that is not a number. Arithmetic is in double precision, results
    have the dtype of `positions`. A system's bits depend on that system only. All outputs are differentiable, through
    torch operations.

    References
    ----------
    .. [1] P. P. Ewald, Ann. Phys. 369, 253 (1921). doi:10.1002/andp.19213690304
    """
    _runtime.ready()
    if not screening > 0.0 or not 0.0 < taper_start < radius:
        raise InputError(
            f"`screening` is {screening}, `taper_start` {taper_start} and `radius` {radius} (1/Å); use a positive "
            f"screening and 0 < taper_start < radius."
        )
    check_atoms("charges", charges, positions)
    check_systems(cell, included=included)
    numbers = (float(screening), float(taper_start), float(radius))
    return _ewald_reciprocal(positions, cell, segment_ptr, charges, included, *numbers, derivatives)


def charge_corrections(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    charges: torch.Tensor,
    included: torch.Tensor,
    open_axis: torch.Tensor,
    self_term: float,
    background: float,
) -> Results:
    r"""Compute what an Ewald sum needs beside its sums over pairs and k, with its first derivatives.

    .. math:: E = -s \sum_i q_i^2 - b\,\frac{Q^2}{V}
              + \frac{2\pi}{V} \left(M^2 - Q M_2 - \frac{Q^2 L^2}{12}\right)

    The self energy; the uniform background that neutralizes a net charge :math:`Q`; and for slabs the term that takes
    away the field between their images, with :math:`M = \sum_i q_i z_i`, :math:`M_2 = \sum_i q_i z_i^2`, z along the
    normal of the slab and L the height of the cell.

    Parameters
    ----------
    positions, cell, segment_ptr, charges, included
        As in `ewald_reciprocal`.
    open_axis
        int64 [B]: lattice vector without periodicity, -1 for bulk.
    self_term
        s, 1/Å; the screening over the square root of pi.
    background
        b, Å²; pi over twice the square of the screening.

    Returns
    -------
    tuple of torch.Tensor
        Energy, forces, virial and potential, as from `ewald_reciprocal`.

    Raises
    ------
    ShapeError
        If `charges` has the wrong shape.

    References
    ----------
    .. [1] I.-C. Yeh, M. L. Berkowitz, J. Chem. Phys. 111, 3155 (1999). doi:10.1063/1.479595
    .. [2] V. Ballenegger, A. Arnold, J. J. Cerdà, J. Chem. Phys. 131, 094107 (2009). doi:10.1063/1.3216473
    """
    _runtime.ready()
    check_atoms("charges", charges, positions)
    check_systems(cell, included=included, open_axis=open_axis)
    numbers = (float(self_term), float(background))
    return _charge_corrections(positions, cell, segment_ptr, charges, included, open_axis, *numbers)


def _reciprocal_cpu(positions, cell, segment_ptr, charges, included, screening, taper_start, radius, derivatives):
    n, systems = positions.shape[0], cell.shape[0]
    x, ptr, q, counted = as_doubles(positions), as_array(segment_ptr), as_doubles(charges), as_array(included)
    reach, volumes, reciprocal = np.zeros((systems, 3), np.int64), np.zeros(systems), np.zeros((systems, 3, 3))
    column_ptr = np.zeros(systems + 1, np.int64)
    plan = (as_doubles(cell), counted, radius, reach, volumes, reciprocal, column_ptr)
    count = _cpu.columns(*plan, np.zeros((1, 5), np.int64), False)
    table = np.zeros((count + 1, 5), np.int64)
    _cpu.columns(*plan, table, True)

    most = reach.max(axis=0, initial=0) + 1
    first, second = np.empty((2, most[0], n)), np.empty((2, most[1], n))
    third = np.empty((n, most[2], 2))
    sizes = np.diff(ptr)
    atoms_of_column = sizes[table[:-1, 0]]
    terms = np.concatenate(([0], np.cumsum(atoms_of_column * (table[:-1, 3] + 2))))
    parts = num_parts(1.0 * float(terms[-1]))
    by_column = balanced_bounds(terms, parts)
    atoms = (x, q, ptr, counted, reach, reciprocal)
    run_parts(_cpu.phases, (*atoms, first, second, third), balanced_bounds(np.arange(n + 1), parts))
    coefficients, sums = np.empty((int(table[-1, 4]), 4)), np.empty((count, 7))
    form = (screening, taper_start, radius)
    lattice = (table, ptr, volumes, reciprocal)
    run_parts(_cpu.structure_factors, (*lattice, first, second, third, *form, coefficients, sums), by_column)
    out = Outputs(n, systems)
    _pairs.totals(sums, column_ptr, 1.0, out.energy, out.virial, 0, systems)
    for b in np.flatnonzero(np.isnan(volumes)):
        out.energy[b], out.virial[b] = np.nan, np.nan
    if not derivatives:
        out.forces[:], out.potential[:] = 0.0, 0.0
        return out.tensors(positions, charges)
    of_system = table[column_ptr, 4]
    by_atom = balanced_bounds(np.concatenate(([0], np.cumsum(np.repeat(np.diff(of_system), sizes)))), parts)
    run_parts(_cpu.forces_of_atoms, (*atoms, column_ptr, table, coefficients, out.forces, out.potential), by_atom)
    for b in np.flatnonzero(np.isnan(volumes)):
        out.forces[ptr[b] : ptr[b + 1]], out.potential[ptr[b] : ptr[b + 1]] = np.nan, np.nan
    return out.tensors(positions, charges)


def _corrections_cpu(positions, cell, segment_ptr, charges, included, open_axis, self_term, background):
    n, systems, ptr = positions.shape[0], cell.shape[0], as_array(segment_ptr)
    out = Outputs(n, systems)
    atoms = (as_doubles(positions), as_doubles(cell), ptr, as_doubles(charges), as_array(included), as_array(open_axis))
    results = (np.empty((systems, 3, 3)), out.energy, out.forces, out.virial, out.potential)
    run_parts(_corrections.corrections, (*atoms, self_term, background, *results), system_bounds(ptr, 5.0 * n))
    return out.tensors(positions, charges)


_ewald_reciprocal = register_energy_op(ewald_reciprocal, cpu=_reciprocal_cpu, energy=_reference.ewald_reciprocal)
_charge_corrections = register_energy_op(charge_corrections, cpu=_corrections_cpu, energy=_reference.charge_corrections)
