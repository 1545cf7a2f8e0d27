"""The embedded-atom potential: public call and its registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError, ShapeError
from athanor.kernels._energy import register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles
from athanor.kernels._stored_pairs import StoredPairs
from athanor.kernels._threads import run_parts
from athanor.kernels.eam import _reference

_cpu = LazyModule("athanor.kernels.eam._cpu")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def embedded_atom(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
    types: torch.Tensor,
    embedding: torch.Tensor,
    density: torch.Tensor,
    pair: torch.Tensor,
    density_step: float,
    distance_step: float,
    cutoff: float,
    half: bool,
) -> Results:
    r"""Compute energy, forces and virial of an embedded-atom potential from its tables.

    .. math:: E = \sum_i F_{t_i}(\bar\rho_i) + \sum_{\text{pairs}} \frac{z_{t_i t_j}(r)}{r}, \qquad
              \bar\rho_i = \sum_j \rho_{t_i t_j}(r)

    where :math:`t_i` is the type of atom i, and pairs at or beyond the cutoff are left out.

    ====================  ====================
    symbol                variable
    ====================  ====================
    :math:`F`             ``embedding``
    :math:`\rho`          ``density``
    :math:`z`             ``pair``
    ====================  ====================

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å. The energy is differentiable with respect to them.
    cell
        [B, 3, 3], Å; likewise.
    segment_ptr, row_ptr, neighbors, images, wrap_offsets
        As `build_neighbor_list` takes and returns them; the list may hold pairs beyond the cutoff.
    types
        int32 [N], places in the tables.
    embedding
        [T, n, 4], cubic pieces of F, eV: piece k is :math:`\sum_a c_{ka} p^a` for the density
        :math:`(k + p)` times `density_step`. The last row is not read. Beyond the table F is a straight line.
    density
        [T, T, m, 4], pieces in the distance of the density at an atom of the first type due to one of the second.
    pair
        [T, T, m, 4], pieces of the pair energy times the distance, eV Å; symmetric.
    density_step
        Width of the pieces of `embedding`.
    distance_step
        Width of those of the others, Å.
    cutoff
        Å, positive.
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
        If `cutoff` or a step is not positive.
    ShapeError
        If `types` or a table has the wrong shape.

    Notes
    -----
    Arithmetic is in double precision, results have the dtype of `positions`. An atom's row is summed in lanes, then the
    atoms of a system in order, so the bits depend on the system only. All three are differentiable, through torch
    operations; a second derivative jumps where two pieces meet.

    References
    ----------
    .. [1] M. S. Daw, M. I. Baskes, Phys. Rev. B 29, 6443 (1984). doi:10.1103/PhysRevB.29.6443
    .. [2] M. W. Finnis, J. E. Sinclair, Phil. Mag. A 50, 45 (1984). doi:10.1080/01418618408244210
    """
    _runtime.ready()
    if not min(cutoff, density_step, distance_step) > 0.0:
        raise InputError(
            f"`cutoff` is {cutoff}, `density_step` {density_step}, `distance_step` {distance_step}; they must be "
            f"positive."
        )
    count = embedding.shape[0]
    square = (count, count, *density.shape[2:])
    if (
        types.shape != positions.shape[:1] or embedding.ndim != 3 or embedding.shape[2] != 4 or density.ndim != 4
        or density.shape[3] != 4 or density.shape != square or pair.shape != square
        or min(embedding.shape[1], density.shape[2]) < 2
    ):  # fmt: skip
        raise ShapeError(
            f"`types` has shape {tuple(types.shape)}, `embedding` {tuple(embedding.shape)}, `density` "
            f"{tuple(density.shape)}, `pair` {tuple(pair.shape)}; {positions.shape[0]} atoms need "
            f"({positions.shape[0]},), [T, n, 4], and twice [T, T, m, 4], n and m at least 2."
        )
    lists = (segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    steps = (float(density_step), float(distance_step), float(cutoff))
    return _embedded_atom(positions, cell, *lists, types, embedding, density, pair, *steps, half)


def _cpu_call(
    positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, embedding, density, pair,
    density_step, distance_step, cutoff, half,
):  # fmt: skip
    count, kinds = embedding.shape[0], as_array(types)
    densities, products = (as_doubles(each).reshape(count * count, -1, 4) for each in (density, pair))
    pairs = StoredPairs(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, half, 12.0)
    totals, energies, slopes = np.empty((3, pairs.num_atoms))
    tables = (as_doubles(embedding), densities, density_step, distance_step, cutoff)
    run_parts(_cpu.embed, (*pairs.arrays, kinds, half, *tables, totals, energies, slopes), pairs.by_atom)
    form = (densities, products, slopes, count, distance_step, cutoff)
    forces, sums = pairs.sums(_cpu.rows, kinds, half, True, form)
    sums[:, 0] += energies / pairs.pair_weight
    return pairs.totals(forces, sums, pairs.pair_weight)


_embedded_atom = register_energy_op(embedded_atom, cpu=_cpu_call, energy=_reference.embedded_atom)
