"""The D3 dispersion correction: public call and its registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime, units
from athanor.errors import InputError, ShapeError
from athanor.kernels._energy import register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor
from athanor.kernels._threads import balanced_bounds, num_parts, run_parts, system_bounds
from athanor.kernels.dispersion import _reference

_cpu = LazyModule("athanor.kernels.dispersion._cpu")
_tiles = LazyModule("athanor.kernels.dispersion._cpu_tiles")
_three_body = LazyModule("athanor.kernels.dispersion._cpu_three_body")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def dftd3(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    pbc: torch.Tensor,
    atomic_numbers: torch.Tensor,
    rcov: torch.Tensor,
    r4r2: torch.Tensor,
    r0ab: torch.Tensor,
    reference_cn: torch.Tensor,
    reference_c6: torch.Tensor,
    rational: bool,
    s6: float,
    s8: float,
    s9: float,
    first: float,
    second: float,
    alpha: int,
    k1: float,
    k3: float,
    cutoff: float,
    cn_cutoff: float,
    three_body_cutoff: float,
    smoothing_fraction: float,
) -> Results:
    r"""Compute energy, forces and virial of the D3 dispersion correction; searches its pairs itself.

    .. math:: E = -\sum_{\text{pairs}} \left[s_6 C_6 g_6(r) + s_8 C_8 g_8(r)\right] S(r) + s_9 E_{ATM}, \qquad
              C_8 = 3 C_6 q_i q_j

    .. math:: g_n = \frac{1}{r^n + (a_1 \sqrt{C_8/C_6} + a_2)^n} \text{ (rational)}, \qquad
              g_n = \frac{r^{-n}}{1 + 6 (r / (r_{s,n} R_0))^{-\alpha_n}} \text{ (zero)}

    .. math:: C_6 = \sum_{pq} w_p(n_i) w_q(n_j) C_6^{pq}, \qquad w_p \propto e^{k_3 (n - n_p)^2}, \qquad
              n_i = \sum_j \frac{S(r)}{1 + e^{-k_1((R_i + R_j)/r - 1)}}

    .. math:: E_{ATM} = \sum_{\text{triples}} \sqrt{C_6^{ij} C_6^{jk} C_6^{ki}}
              \frac{3\cos\theta_i\cos\theta_j\cos\theta_k + 1}{r^9 (1 + 6 (r / (\frac43 R_0))^{-16})} S S S

    with :math:`r^3` and :math:`R_0^3` the products over the sides of the triple, :math:`\alpha_6 = \alpha`,
    :math:`\alpha_8 = \alpha + 2`, and S going from 1 to 0 in the last `smoothing_fraction` of each cutoff:
    :math:`1 - 10t^3 + 15t^4 - 6t^5`.

    ==========================================  ====================================
    symbol                                      variable
    ==========================================  ====================================
    :math:`a_1, a_2` or :math:`r_{s6}, r_{s8}`  ``first``, ``second``
    :math:`q, R, R_0`                           ``r4r2``, ``rcov``, ``r0ab``
    :math:`n_p, C_6^{pq}`                       ``reference_cn``, ``reference_c6``
    ==========================================  ====================================

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å. The energy is differentiable with respect to them.
    cell
        [B, 3, 3], Å; likewise. Vectors without periodicity are ignored.
    segment_ptr
        int32 [B + 1], first atom of each system.
    pbc
        bool [B, 3].
    atomic_numbers
        int64 [N], below Z.
    rcov, r4r2, r0ab
        [Z], [Z] and [Z, Z], bohr: scaled covalent radii, :math:`\sqrt{Q/2}`, cutoff radii of pairs.
    reference_cn
        [Z, P], coordination numbers of the references of each element; negative where there is none.
    reference_c6
        [Z, Z, P, P], hartree·bohr⁶.
    rational
        Damping of Becke and Johnson, else zero damping.
    s6, s8, s9
        Scales; 0 for `s9` leaves the three-body term out.
    first, second
        ``a1`` and ``a2`` (bohr), or ``rs6`` and ``rs8``.
    alpha
        Even exponent of zero damping.
    k1, k3
        Steepness of the counting function, and of the weights (negative).
    cutoff, cn_cutoff, three_body_cutoff
        Å.
    smoothing_fraction
        From 0, which cuts sharply, to below 1.

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
        If a cutoff is not positive, periodic vectors lie in a plane, or a cell is so small for its cutoff that there
        are more than a million images.
    ShapeError
        If `atomic_numbers` or `pbc` has the wrong shape.

    Notes
    -----
    Arithmetic is in double precision, results have the dtype of `positions`. A system that is not finite gets NaN. Sums
    are cut into parts that depend on the system only, so its bits do too. All three are differentiable, through torch
    operations.

    References
    ----------
    .. [1] S. Grimme, J. Antony, S. Ehrlich, H. Krieg, J. Chem. Phys. 132, 154104 (2010). doi:10.1063/1.3382344
    .. [2] S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011). doi:10.1002/jcc.21759
    """
    _runtime.ready()
    if not min(cutoff, cn_cutoff, three_body_cutoff) > 0.0:
        raise InputError(
            f"`cutoff` is {cutoff}, `cn_cutoff` {cn_cutoff} and `three_body_cutoff` {three_body_cutoff}; they must be "
            f"positive (Å)."
        )
    if not 0.0 <= smoothing_fraction < 1.0 or alpha % 2:
        raise InputError(
            f"`smoothing_fraction` is {smoothing_fraction} and `alpha` {alpha}; use at least 0 and below 1, and "
            f"an even number."
        )
    if atomic_numbers.shape != positions.shape[:1] or pbc.shape != cell.shape[:2]:
        raise ShapeError(
            f"`atomic_numbers` has shape {tuple(atomic_numbers.shape)} and `pbc` {tuple(pbc.shape)}; "
            f"{positions.shape[0]} atoms in {cell.shape[0]} systems need ({positions.shape[0]},) and "
            f"({cell.shape[0]}, 3)."
        )
    return _dftd3(
        positions, cell, segment_ptr, pbc, atomic_numbers, rcov, r4r2, r0ab, reference_cn, reference_c6, rational,
        float(s6), float(s8), float(s9), float(first), float(second), alpha, float(k1), float(k3), float(cutoff),
        float(cn_cutoff), float(three_body_cutoff), float(smoothing_fraction),
    )  # fmt: skip


def _cpu_call(
    positions, cell, segment_ptr, pbc, atomic_numbers, rcov, r4r2, r0ab, reference_cn, reference_c6, rational, s6, s8,
    s9, first, second, alpha, k1, k3, cutoff, cn_cutoff, three_body_cutoff, smoothing_fraction,
):  # fmt: skip
    n, systems = positions.shape[0], cell.shape[0]
    ptr, periodic, bohr = as_array(segment_ptr), as_array(pbc), units.BOHR
    cutoffs = [each / bohr for each in (cutoff, cn_cutoff, three_body_cutoff)]
    far = max(cutoffs[: 3 if s9 != 0.0 else 2])
    x, full = np.empty((n, 3)), np.empty((systems, 3, 3))
    copies, status = np.empty((systems, 3), np.int64), np.empty(systems, np.int64)
    neighbors = np.empty(systems)
    by_system = system_bounds(ptr, 60.0 * n)
    geometry = (as_doubles(positions), as_doubles(cell), periodic, ptr, bohr, far)
    run_parts(_tiles.plan, (*geometry, x, full, copies, status, neighbors), by_system)
    _refuse(status)

    atoms = np.where(status == _tiles.USABLE, np.diff(ptr), 0)
    images = copies.prod(axis=1)
    per_tile = np.maximum(_tiles.TILE // images, 1)
    tiles = -(-atoms // per_tile)
    place_ptr, tile_ptr = _running(atoms * images), _running(tiles)
    atomic_numbers, reference_cn = as_array(atomic_numbers), as_doubles(reference_cn)
    if n and not 0 <= atomic_numbers.min() <= atomic_numbers.max() < len(reference_cn):
        raise InputError(f"`atomic_numbers` must be from 0 to {len(reference_cn) - 1}, the last in the tables.")
    order, numbers = np.empty(n, np.int64), np.empty(n, np.int64)
    places, corners = np.empty((5, place_ptr[-1])), np.empty((tile_ptr[-1], 12))
    layout = (ptr, place_ptr, tile_ptr, places, corners, numbers)
    elements = (atomic_numbers, as_doubles(rcov), as_doubles(r4r2))
    run_parts(_tiles.arrange, (x, full, copies, status, *elements, order, *layout), by_system)

    reference_ptr = np.empty(systems + 1, np.int64)
    _tiles.list_references(atomic_numbers, ptr, status, reference_cn, np.empty((0, 2), np.int64), reference_ptr)
    references = np.empty((reference_ptr[-1], 2), np.int64)
    _tiles.list_references(atomic_numbers, ptr, status, reference_cn, references, reference_ptr)
    own_weights, own_slopes = np.empty((2, n, reference_cn.shape[1]))
    weight_ptr = _running(np.diff(reference_ptr) * atoms)
    weights, weight_slopes = np.empty((2, weight_ptr[-1]))
    weighted = (own_weights, own_slopes, weights, weight_slopes, weight_ptr)

    group = np.where((tiles > 1) & (tiles < 8), np.maximum(per_tile // 4, 1), per_tile)  # a few tiles share badly
    chunks = np.minimum(-(-atoms // group), _tiles.CHUNKS)
    unit_ptr = _running(chunks)
    unit_system = np.repeat(np.arange(systems), chunks)
    unit_atoms = _running(atoms[unit_system])
    chunk = np.arange(unit_ptr[-1]) - unit_ptr[unit_system]
    work_units = np.stack([unit_system, chunk, chunks[unit_system], group[unit_system], unit_atoms[:-1]], axis=1)
    unit_rows, unit_forces = np.empty(unit_atoms[-1]), np.empty((3, unit_atoms[-1]))
    unit_sums, by_number = np.empty((unit_ptr[-1], 7)), np.empty(n)
    form = (rational, s6, s8, first, second, alpha, k1)

    cost = _running((20.0 * neighbors * atoms / np.maximum(chunks, 1))[unit_system])
    by_unit = balanced_bounds(cost, min(num_parts(cost[-1]), max(len(work_units), 1)))

    def sweep(kind, radius):
        tiled = (kind, full, periodic, copies, *layout, references, reference_ptr, work_units)
        tables = (as_doubles(r0ab), as_doubles(reference_c6), *weighted)
        switched = (by_number, *form, radius, radius * (1.0 - smoothing_fraction))
        run_parts(_cpu.sweep, (*tiled, *tables, *switched, unit_rows, unit_forces, unit_sums), by_unit)

    sweep(_cpu.COUNT, cutoffs[1])
    sums = (work_units, unit_ptr, unit_rows)
    weighing = (numbers, references, reference_ptr, reference_cn, k3, *weighted)
    run_parts(_cpu.coordination_weights, (ptr, status, *sums, *weighing), by_system)
    sweep(_cpu.ENERGY, cutoffs[0])
    if s9 != 0.0:
        tables = (as_doubles(r0ab), as_doubles(reference_c6), own_weights, own_slopes, s9, (alpha + 2) // 2)
        reach = (cutoffs[2], cutoffs[2] * (1.0 - smoothing_fraction), unit_rows, unit_forces, unit_sums)
        run_parts(_three_body.sweep, (full, periodic, copies, *layout, work_units, *tables, *reach), by_unit)
    run_parts(_cpu.add_rows, (ptr, *sums, by_number), by_system)
    sweep(_cpu.SLOPE, cutoffs[1])
    energy, forces, virial = np.empty(systems), np.empty((n, 3)), np.empty((systems, 3, 3))
    added = (ptr, status, order, work_units, unit_ptr, unit_forces, unit_sums, units.HARTREE, bohr)
    run_parts(_cpu.totals, (*added, energy, forces, virial), by_system)
    dtype = positions.dtype
    return as_tensor(energy, dtype), as_tensor(forces, dtype), as_tensor(virial, dtype)


def _running(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, counts.dtype), np.cumsum(counts)])


def _refuse(status: np.ndarray) -> None:
    for code, fault in (
        (_tiles.FLAT_CELL, "has periodic cell vectors that lie in one plane or line; its cell must span a volume"),
        (_tiles.TOO_MANY_IMAGES, "has more than a million images within the cutoff; its cell is too small for it"),
    ):
        if (status == code).any():
            raise InputError(f"System {int((status == code).argmax())} {fault}.")


_dftd3 = register_energy_op(dftd3, cpu=_cpu_call, energy=_reference.dftd3)
