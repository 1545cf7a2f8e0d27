"""Coulomb sums over pairs: public calls and their registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError
from athanor.kernels._energy import Outputs, check_atoms, check_systems, register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles
from athanor.kernels._threads import balanced_bounds, even_bounds, num_parts, run_parts, system_bounds
from athanor.kernels.coulomb import _reference

_cpu = LazyModule("athanor.kernels.coulomb._cpu")
_pairs = LazyModule("athanor.kernels.neighbor_list._cpu_pairs")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def screened_coulomb(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
    charges: torch.Tensor,
    included: torch.Tensor,
    screening: float,
    cutoff: float,
    taper_start: float,
    shift: float,
    tilt: float,
    half: bool,
) -> Results:
    r"""Compute the screened Coulomb energy of pairs within a cutoff, with its first derivatives.

    .. math:: E = \sum_{\text{pairs}} q_i q_j \left[\frac{\operatorname{erfc}(\alpha r)}{r} - c_0 + c_1 (r - r_c)\right]
              S(r), \qquad S = 1 - 10t^3 + 15t^4 - 6t^5, \quad t = \frac{r - r_{on}}{r_c - r_{on}}

    with :math:`S = 1` below :math:`r_{on}`, and pairs at or beyond :math:`r_c` left out.

    ====================  =================
    symbol                variable
    ====================  =================
    :math:`\alpha`        ``screening``
    :math:`r_c`           ``cutoff``
    :math:`r_{on}`        ``taper_start``
    :math:`c_0`           ``shift``
    :math:`c_1`           ``tilt``
    ====================  =================

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å.
    cell
        [B, 3, 3], Å.
    segment_ptr, row_ptr, neighbors, images, wrap_offsets
        As `build_neighbor_list` takes and returns them; the list may hold pairs beyond the cutoff.
    charges
        [N], in units of the elementary charge.
    included
        bool [B]; other systems get zeros.
    screening
        1/Å, not negative.
    cutoff
        Å, positive.
    taper_start
        Å; the cutoff, or more, cuts sharply.
    shift
        1/Å.
    tilt
        1/Å².
    half
        Whether the list holds each pair once.

    Returns
    -------
    energy : torch.Tensor
        [B], in e²/Å: times the Coulomb constant it is in eV. Differentiable by positions, cell and charges.
    forces : torch.Tensor
        [N, 3], e²/Å².
    virial : torch.Tensor
        [B, 3, 3], W = -dE/dstrain, e²/Å.
    potential : torch.Tensor
        [N], dE/dcharge, e/Å.

    Raises
    ------
    InputError
        If `cutoff` is not positive or `screening` is negative.
    ShapeError
        If `charges` has the wrong shape.

    Notes
    -----
    Arithmetic is in double precision, erfc to 14 digits; results have the dtype of `positions`. An atom's row is summed
    in lanes, then the atoms of a system in order, so the bits depend on the system only. All outputs are
    differentiable, through torch operations.

    References
    ----------
    .. [1] P. P. Ewald, Ann. Phys. 369, 253 (1921). doi:10.1002/andp.19213690304
    .. [2] C. J. Fennell, J. D. Gezelter, J. Chem. Phys. 124, 234104 (2006). doi:10.1063/1.2206581
    """
    _runtime.ready()
    if not cutoff > 0.0 or not screening >= 0.0:
        raise InputError(f"`cutoff` is {cutoff} Å and `screening` {screening} 1/Å; use more than 0, and at least 0.")
    check_atoms("charges", charges, positions)
    check_systems(cell, included=included)
    numbers = (float(each) for each in (screening, cutoff, taper_start, shift, tilt))
    lists = (segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    return _screened_coulomb(positions, cell, *lists, charges, included, *numbers, half)


def finite_coulomb(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    charges: torch.Tensor,
    included: torch.Tensor,
) -> Results:
    r"""Compute the Coulomb energy of finite systems from all pairs of atoms, with its first derivatives.

    .. math:: E = \sum_{i<j} \frac{q_i q_j}{r_{ij}}

    Parameters
    ----------
    positions, segment_ptr, charges, included
        As in `screened_coulomb`.
    cell
        [B, 3, 3]; not used.

    Returns
    -------
    tuple of torch.Tensor
        Energy, forces, virial and potential, as from `screened_coulomb`.

    Raises
    ------
    ShapeError
        If `charges` has the wrong shape.
    """
    _runtime.ready()
    check_atoms("charges", charges, positions)
    check_systems(cell, included=included)
    return _finite_coulomb(positions, cell, segment_ptr, charges, included)


def _screened_cpu(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, charges, included, screening, cutoff,
    taper_start, shift, tilt, half,
):  # fmt: skip
    n, systems = positions.shape[0], cell.shape[0]
    ptr, lattice, starts = as_array(segment_ptr), as_doubles(cell), as_array(row_ptr)
    work = 12.0 * neighbors.shape[0] + 20.0 * n
    by_system = system_bounds(ptr, work)
    x = np.empty((n, 4))
    by_atom = [int(ptr[b]) for b in by_system] if half else balanced_bounds(starts, num_parts(work))
    wrapping = (as_doubles(positions), lattice, ptr, as_array(wrap_offsets), x)
    run_parts(_pairs.wrapped_positions, wrapping, even_bounds(n, num_parts(3.0 * n)))
    pairs = (x, lattice, ptr, starts, as_array(neighbors), as_array(images), as_doubles(charges), as_array(included))
    out = Outputs(n, systems)
    form = (screening, cutoff, taper_start, shift, tilt, half)
    run_parts(_cpu.rows, (*pairs, *form, out.forces, out.potential, out.sums), by_atom)
    run_parts(_pairs.totals, (out.sums, ptr, 1.0 if half else 0.5, out.energy, out.virial), by_system)
    return out.tensors(positions, charges)


def _finite_cpu(positions, cell, segment_ptr, charges, included):
    n, systems, ptr = positions.shape[0], cell.shape[0], as_array(segment_ptr)
    out = Outputs(n, systems)
    sizes = np.diff(ptr)
    work = np.repeat(sizes * as_array(included), sizes).cumsum()
    by_atom = balanced_bounds(np.concatenate(([0], work)), num_parts(4.0 * float(work[-1] if n else 0)))
    atoms = (as_doubles(positions), ptr, as_doubles(charges), as_array(included))
    run_parts(_cpu.all_pairs, (*atoms, out.forces, out.potential, out.sums), by_atom)
    _pairs.totals(out.sums, ptr, 0.5, out.energy, out.virial, 0, systems)
    return out.tensors(positions, charges)


_screened_coulomb = register_energy_op(screened_coulomb, cpu=_screened_cpu, energy=_reference.screened_coulomb)
_finite_coulomb = register_energy_op(finite_coulomb, cpu=_finite_cpu, energy=_reference.finite_coulomb)
