"""Pair potentials: public calls and their registration with torch."""

from __future__ import annotations

import torch

from athanor import _runtime
from athanor.errors import InputError, ShapeError
from athanor.kernels._energy import register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles
from athanor.kernels._stored_pairs import StoredPairs
from athanor.kernels.pairs import _reference
from athanor.kernels.pairs.forms import FORMS, NUM_COEFFICIENTS

_cpu = LazyModule("athanor.kernels.pairs._cpu")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def pair_potential(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
    types: torch.Tensor,
    table: torch.Tensor,
    form: str,
    cutoff: float,
    switch_width: float,
    half: bool,
    virial: bool = True,
) -> Results:
    r"""Compute energy, forces and virial of a pair potential.

    .. math:: E = \sum_{\text{pairs}} \left\{ u(r) - E_0 \right\} S(r),
              \qquad S = 1 - 10x^3 + 15x^4 - 6x^5, \quad x = \frac{r - r_{on}}{r_c - r_{on}}

    with :math:`S = 1` below :math:`r_{on} = \max(r_c - \text{width}, 0)`, and pairs at or beyond :math:`r_c` left out.
    :math:`u` is one of the forms in `athanor.kernels.pairs.FORMS`.

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å. The energy is differentiable with respect to them.
    cell
        [B, 3, 3], Å; likewise.
    segment_ptr, row_ptr, neighbors, images, wrap_offsets
        As `build_neighbor_list` takes and returns them; the list may hold pairs beyond the cutoff.
    types
        int32 [N], row and column in the table.
    table
        [T, T, 8], what `athanor.kernels.pairs.pair_table` makes of the parameters: coefficients of the form,
        and :math:`E_0`; symmetric.
    form
        ``"lennard-jones"``, ``"morse"``, ``"buckingham"`` or ``"zbl"``.
    cutoff
        Å, positive.
    switch_width
        Å; 0 cuts sharply.
    half
        Whether the list holds each pair once.
    virial
        Whether to compute the virial, which takes a quarter of the time; it is if the cell requires grad. The rest has
        the same bits either way.

    Returns
    -------
    energy : torch.Tensor
        [B], eV.
    forces : torch.Tensor
        [N, 3], eV/Å.
    virial : torch.Tensor
        [B, 3, 3], eV, W = -dE/dstrain; [0, 3, 3] if it was not asked for.

    Raises
    ------
    InputError
        If there is no such form, `cutoff` is not positive or `switch_width` is negative.
    ShapeError
        If `types` or `table` have the wrong shape.

    Notes
    -----
    Arithmetic is in double precision, results have the dtype of `positions`. Two atoms in one place give values that
    are not finite. An atom's row is summed in eight lanes, term m in lane m mod 8, then the atoms of a system in order,
    so that the bits depend on the system only. All three are differentiable, through torch operations.

    References
    ----------
    .. [1] J. E. Jones, Proc. R. Soc. A 106, 463 (1924). doi:10.1098/rspa.1924.0082
    .. [2] P. M. Morse, Phys. Rev. 34, 57 (1929). doi:10.1103/PhysRev.34.57
    .. [3] R. A. Buckingham, Proc. R. Soc. A 168, 264 (1938). doi:10.1098/rspa.1938.0173
    .. [4] J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Matter, Pergamon (1985).
    """
    _runtime.ready()
    if form not in FORMS:
        raise InputError(f"`form` is {form!r}; it must be one of {', '.join(FORMS)}.")
    if not cutoff > 0.0 or not switch_width >= 0.0:
        raise InputError(
            f"`cutoff` is {cutoff} and `switch_width` {switch_width}; they must be positive and at least 0 (Å)."
        )
    width = NUM_COEFFICIENTS + 1
    if types.shape != positions.shape[:1] or table.ndim != 3 or table.shape != (table.shape[0], table.shape[0], width):
        raise ShapeError(
            f"`types` has shape {tuple(types.shape)}, `table` {tuple(table.shape)}; {positions.shape[0]} atoms need "
            f"({positions.shape[0]},) and [T, T, {width}]."
        )
    lists = (segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    lengths = (float(cutoff), float(switch_width))
    return _pair_potential(positions, cell, *lists, types, table, form, *lengths, half, virial or cell.requires_grad)


def _cpu_call(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, table, form, cutoff,
    switch_width, half, virial,
):  # fmt: skip
    count = table.shape[0]
    formula = (as_doubles(table).reshape(count * count, -1), count, cutoff, max(cutoff - switch_width, 0.0))
    pairs = StoredPairs(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, half, 1.3)
    forces, sums = pairs.sums(_cpu.rows_of(form), as_array(types), half, virial, formula, with_virial=virial)
    return pairs.totals(forces, sums, pairs.pair_weight, virial)


_pair_potential = register_energy_op(pair_potential, cpu=_cpu_call, energy=_reference.pair_potential)
