"""Pair potentials: public calls and their registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError, ShapeError
from athanor.kernels._energy import register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor
from athanor.kernels._threads import balanced_bounds, num_parts, run_parts, system_bounds
from athanor.kernels.pair_potential import _reference

_cpu = LazyModule("athanor.kernels.pair_potential._cpu")
_pairs = LazyModule("athanor.kernels.neighbor_list._cpu_pairs")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def lennard_jones(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
    types: torch.Tensor,
    epsilon: torch.Tensor,
    sigma: torch.Tensor,
    cutoff: float,
    switch_width: float,
    shift: bool,
    half: bool,
) -> Results:
    r"""Compute energy, forces and virial of the Lennard-Jones potential.

    .. math:: E = \sum_{\text{pairs}} \left\{ 4\epsilon\left[(\sigma/r)^{12} - (\sigma/r)^6\right] - E_c \right\} S(r),
              \qquad S = 1 - 10x^3 + 15x^4 - 6x^5, \quad x = \frac{r - r_{on}}{r_c - r_{on}}

    with :math:`S = 1` below :math:`r_{on} = \max(r_c - \text{width}, 0)`, and pairs at or beyond :math:`r_c` left out.
    :math:`E_c` is the energy at the cutoff of the pair's types, or 0.

    ====================  =====================
    symbol                variable
    ====================  =====================
    :math:`\epsilon`      ``epsilon``
    :math:`\sigma`        ``sigma``
    :math:`r_c`           ``cutoff``
    ====================  =====================

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å. The energy is differentiable with respect to them.
    cell
        [B, 3, 3], Å; likewise.
    segment_ptr, row_ptr, neighbors, images, wrap_offsets
        As `build_neighbor_list` takes and returns them; the list may hold pairs beyond the cutoff.
    types
        int32 [N], row and column in the two tables.
    epsilon
        [T, T], symmetric, eV.
    sigma
        [T, T], symmetric, Å.
    cutoff
        Å, positive.
    switch_width
        Å; 0 cuts sharply.
    shift
        Subtract the energy at the cutoff.
    half
        Whether the list holds each pair once.

    Returns
    -------
    energy : torch.Tensor
        [B], eV.
    forces : torch.Tensor
        [N, 3], eV/Å.
    virial : torch.Tensor
        [B, 3, 3], eV, W = -dE/dstrain.

    Raises
    ------
    InputError
        If `cutoff` is not positive or `switch_width` is negative.
    ShapeError
        If `types`, `epsilon` or `sigma` have the wrong shape.

    Notes
    -----
    Arithmetic is in double precision, results have the dtype of `positions`. Two atoms in one place give values that
    are not finite. An atom's row is summed in order, then the atoms of a system, so the bits depend on the system only.
    All three are differentiable, through torch operations.

    References
    ----------
    .. [1] J. E. Jones, Proc. R. Soc. A 106, 463 (1924). doi:10.1098/rspa.1924.0082
    """
    _runtime.ready()
    if not cutoff > 0.0 or not switch_width >= 0.0:
        raise InputError(
            f"`cutoff` is {cutoff} and `switch_width` {switch_width}; they must be positive and at least 0 (Å)."
        )
    if types.shape != positions.shape[:1] or epsilon.ndim != 2 or epsilon.shape != sigma.shape:
        raise ShapeError(
            f"`types` has shape {tuple(types.shape)}, `epsilon` {tuple(epsilon.shape)}, `sigma` {tuple(sigma.shape)}; "
            f"{positions.shape[0]} atoms need ({positions.shape[0]},), and two tables [T, T]."
        )
    lists = (segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    return _lennard_jones(
        positions, cell, *lists, types, epsilon, sigma, float(cutoff), float(switch_width), shift, half
    )


def _cpu_call(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, epsilon, sigma, cutoff,
    switch_width, shift, half,
):  # fmt: skip
    n, systems = positions.shape[0], cell.shape[0]
    ptr, lattice, starts = as_array(segment_ptr), as_doubles(cell), as_array(row_ptr)
    energy, forces, virial = np.empty(systems), np.empty((n, 3)), np.empty((systems, 3, 3))
    x, sums = np.empty((n, 3)), np.empty((n, 7))
    work = 8.0 * neighbors.shape[0] + 20.0 * n
    by_system = system_bounds(ptr, work)
    run_parts(_pairs.wrapped_positions, (as_doubles(positions), lattice, ptr, as_array(wrap_offsets), x), by_system)
    by_atom = [int(ptr[b]) for b in by_system] if half else balanced_bounds(starts, num_parts(work))
    pairs = (x, lattice, ptr, starts, as_array(neighbors), as_array(images), as_array(types))
    form = (as_doubles(epsilon), as_doubles(sigma), cutoff, switch_width, shift, half)
    run_parts(_cpu.rows, (*pairs, *form, forces, sums), by_atom)
    run_parts(_pairs.totals, (sums, ptr, 1.0 if half else 0.5, energy, virial), by_system)
    dtype = positions.dtype
    return as_tensor(energy, dtype), as_tensor(forces, dtype), as_tensor(virial, dtype)


_lennard_jones = register_energy_op(lennard_jones, cpu=_cpu_call, energy=_reference.lennard_jones)
