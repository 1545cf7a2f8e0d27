"""The Stillinger-Weber potential: public call and its registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import ShapeError
from athanor.kernels._energy import register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles
from athanor.kernels._stored_pairs import StoredPairs
from athanor.kernels._threads import run_parts
from athanor.kernels.three_body import _reference

_cpu = LazyModule("athanor.kernels.three_body._cpu")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def stillinger_weber(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    row_ptr: torch.Tensor,
    neighbors: torch.Tensor,
    images: torch.Tensor,
    wrap_offsets: torch.Tensor,
    types: torch.Tensor,
    pair: torch.Tensor,
    triple: torch.Tensor,
) -> Results:
    r"""Compute energy, forces and virial of the Stillinger-Weber potential.

    .. math:: E = \sum_{i<j} A\left[B\left(\frac{\sigma}{r}\right)^p - \left(\frac{\sigma}{r}\right)^q\right]
              e^{\sigma/(r - c)}
              + \sum_i \sum_{j<k} \Lambda\,(\cos\theta_{jik} - \cos\theta_0)^2\,e^{g/(r_{ij} - c)}\,e^{g/(r_{ik} - c)}

    Sums are over pairs closer than the reach of their types. A, B, p, q, sigma, c and g are those of the two atoms of a
    pair, Lambda and the cosine those of three.

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å. The energy is differentiable with respect to them.
    cell
        [B, 3, 3], Å; likewise.
    segment_ptr, row_ptr, neighbors, images, wrap_offsets
        A full list, as `build_neighbor_list` takes and returns it; it may hold pairs beyond the reach.
    types
        int32 [N], places in the tables.
    pair
        [T, T, 8]: A (eV), B, p, q, sigma, c, reach (at most c) and g (Å); all but g symmetric.
    triple
        [T, T, T, 2], of the atom in the middle and two neighbours, which may change places: Lambda (eV) and the cosine.

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
    ShapeError
        If `types` or a table has the wrong shape.

    Notes
    -----
    Arithmetic is in double precision, results have the dtype of `positions`. What an atom gives is summed in the order
    of its row, then the atoms of a system, so the bits depend on the system only. All three are differentiable, through
    torch operations.

    References
    ----------
    .. [1] F. H. Stillinger, T. A. Weber, Phys. Rev. B 31, 5262 (1985). doi:10.1103/PhysRevB.31.5262
    """
    _runtime.ready()
    count = pair.shape[0]
    if types.shape != positions.shape[:1] or pair.shape != (count,) * 2 + (8,) or triple.shape != (count,) * 3 + (2,):
        raise ShapeError(
            f"`types` has shape {tuple(types.shape)}, `pair` {tuple(pair.shape)}, `triple` {tuple(triple.shape)}; "
            f"{positions.shape[0]} atoms need ({positions.shape[0]},), [T, T, 8] and [T, T, T, 2]."
        )
    lists = (segment_ptr, row_ptr, neighbors, images, wrap_offsets)
    return _stillinger_weber(positions, cell, *lists, types, pair, triple)


def _cpu_call(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, types, pair, triple):
    pairs = StoredPairs(positions, cell, segment_ptr, row_ptr, neighbors, images, wrap_offsets, False, 30.0)
    gradients = np.empty((neighbors.shape[0], 3))
    tables = (as_array(types), as_doubles(pair), as_doubles(triple), gradients)
    forces, sums = pairs.sums(_cpu.rows, *tables)
    run_parts(_cpu.push, (gradients, *pairs.arrays[2:5], forces), pairs.by_system)
    return pairs.totals(forces, sums, 1.0)


_stillinger_weber = register_energy_op(stillinger_weber, cpu=_cpu_call, energy=_reference.stillinger_weber)
