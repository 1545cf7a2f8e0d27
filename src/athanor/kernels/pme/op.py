"""Ewald sums on a mesh: the public call and its registration with torch."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError, ShapeError
from athanor.kernels._energy import Outputs, check_atoms, check_systems, register_energy_op
from athanor.kernels._library import LazyModule, as_array, as_doubles
from athanor.kernels._threads import balanced_bounds, even_bounds, num_parts, run_parts, system_bounds
from athanor.kernels.pme import _reference

_cpu = LazyModule("athanor.kernels.pme._cpu")
_pairs = LazyModule("athanor.kernels.neighbor_list._cpu_pairs")

Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

ORDERS = range(3, 17)
"""Orders of splines: force and energy are continuous from 3 on."""


def pme_reciprocal(
    positions: torch.Tensor,
    cell: torch.Tensor,
    segment_ptr: torch.Tensor,
    charges: torch.Tensor,
    included: torch.Tensor,
    screening: float,
    mesh: torch.Tensor,
    order: int,
    derivatives: bool,
) -> Results:
    r"""Compute the reciprocal part of an Ewald sum on a mesh, by smooth particle-mesh Ewald, with its derivatives.

    .. math:: E = \frac{1}{2V} \sum_{k \neq 0} \frac{4\pi}{k^2}\, e^{-k^2 / 4\alpha^2}\,
              \frac{|\tilde\rho(k)|^2}{|b_1 b_2 b_3|^2}, \qquad
              b_a = \sum_{j=0}^{p-1} M_p(j + 1)\, e^{2\pi i n_a j / K_a}

    where :math:`\tilde\rho` is the discrete Fourier transform of the charges spread over the mesh by cardinal B-splines
    :math:`M_p` of each direction. Of an even number of mesh points the vectors with :math:`n_a = K_a / 2` are left out,
    which the mesh does not tell from their negatives.

    ====================  =================
    symbol                variable
    ====================  =================
    :math:`\alpha`        ``screening``
    :math:`K`             ``mesh``
    :math:`p`             ``order``
    ====================  =================

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å, inside the cell or not.
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
    mesh
        int64 [B, 3], points along each lattice vector, at least `order`; of systems that are not included anything.
    order
        Of the splines, from 3 to 16: the energy has ``order - 2`` continuous derivatives.
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
        If `screening` is not positive, `order` is out of range, or a mesh has fewer points than `order`.
    ShapeError
        If `charges` or `mesh` has the wrong shape.

    Notes
    -----
    Forces, virial and potential are exact derivatives of the energy of the mesh; forces do not add up to exactly zero.
    Arithmetic is in double precision, results have the dtype of `positions`. A system's bits depend on that system
    only, if those of ``torch.fft`` do not depend on the number of threads. All outputs are differentiable, through
    torch operations.

    References
    ----------
    .. [1] U. Essmann, L. Perera, M. L. Berkowitz, T. Darden, H. Lee, L. G. Pedersen, J. Chem. Phys. 103, 8577 (1995).
       doi:10.1063/1.470117
    """
    _runtime.ready()
    if not screening > 0.0:
        raise InputError(f"`screening` is {screening} 1/Å; use a positive number.")
    if order not in ORDERS:
        raise InputError(f"`order` is {order}; B-splines of order {ORDERS[0]} to {ORDERS[-1]} are offered.")
    check_atoms("charges", charges, positions)
    check_systems(cell, included=included)
    if mesh.shape != cell.shape[:2]:
        raise ShapeError(f"`mesh` has shape {tuple(mesh.shape)}; {len(cell)} systems need ({len(cell)}, 3).")
    return _pme_reciprocal(positions, cell, segment_ptr, charges, included, float(screening), mesh, order, derivatives)


def _pme_cpu(positions, cell, segment_ptr, charges, included, screening, mesh, order, derivatives):
    n, systems = positions.shape[0], cell.shape[0]
    ptr, q, counted, sizes = as_array(segment_ptr), as_doubles(charges), as_array(included), as_array(mesh)
    for b in np.flatnonzero((sizes.min(axis=1, initial=order) < order) & counted):
        _reference.check_mesh(sizes[b].tolist(), order, b)
    padding = -(-order // 4) * 4
    volumes, reciprocal = np.zeros(systems), np.zeros((systems, 3, 3))
    plane_ptr, mesh_ptr, half_ptr, padded_ptr = np.zeros((4, systems + 1), np.int64)
    starts = (plane_ptr, mesh_ptr, half_ptr, padded_ptr)
    _cpu.layout(as_doubles(cell), counted, sizes, order, padding, volumes, reciprocal, *starts)

    base, offset, places = np.zeros((n, 3), np.int64), np.zeros((n, 3)), np.empty(n, np.int64)
    values, slopes = np.empty((2, n, 3, padding))
    by_atom = even_bounds(n, num_parts(50.0 * n))
    run_parts(_cpu.locate, (as_doubles(positions), ptr, counted, reciprocal, sizes, base, offset), by_atom)
    plane_start = np.zeros(int(plane_ptr[-1]) + systems, np.int64)
    run_parts(_cpu.sort, (ptr, counted, sizes, plane_ptr, base, plane_start, places), system_bounds(ptr, 20.0 * n))
    run_parts(_cpu.splines, (offset, places, order, values, slopes), by_atom)

    points = np.repeat(np.diff(mesh_ptr) / np.maximum(np.diff(plane_ptr), 1), np.diff(plane_ptr))
    running = np.concatenate(([0.0], np.cumsum(points)))
    by_plane = balanced_bounds(running, num_parts(1.0 * float(mesh_ptr[-1])))
    atoms_of_plane = np.repeat(np.diff(ptr) / np.maximum(np.diff(plane_ptr), 1), np.diff(plane_ptr))
    spreading = running + np.concatenate(([0.0], np.cumsum(atoms_of_plane))) * (0.5 * order**3)
    density = torch.empty(int(mesh_ptr[-1]), dtype=torch.float64).numpy()
    run_parts(
        _cpu.spread,
        (sizes, plane_ptr, mesh_ptr, plane_start, places, base, q, order, values, density),
        balanced_bounds(spreading, num_parts(float(spreading[-1]))),
    )
    amplitudes = _spectra(density, mesh_ptr, sizes, counted)
    sums, spline = np.empty((int(plane_ptr[-1]), 7)), _spline_at_points(order)
    lattice = (sizes, plane_ptr, half_ptr, volumes, reciprocal)
    run_parts(_cpu.convolve, (*lattice, screening, order, spline, amplitudes, sums), by_plane)
    out = Outputs(n, systems)
    _pairs.totals(sums, plane_ptr, 1.0, out.energy, out.virial, 0, systems)
    if not derivatives:
        out.forces[:], out.potential[:] = 0.0, 0.0
        return out.tensors(positions, charges)
    potentials = _potentials(amplitudes, half_ptr, sizes, counted)
    padded = np.empty(int(padded_ptr[-1]))
    run_parts(_cpu.pad, (sizes, plane_ptr, mesh_ptr, padded_ptr, order, padding, potentials, padded), by_plane)
    atoms = (places, base, q, order, values, slopes, padded, out.forces, out.potential)
    by_atom = even_bounds(n, num_parts(0.5 * order**3 * n))
    run_parts(_cpu.gather, (sizes, ptr, counted, reciprocal, padded_ptr, *atoms), by_atom)
    return out.tensors(positions, charges)


@cache
def _spline_at_points(order):
    return _reference.b_splines(torch.zeros((), dtype=torch.float64), order).numpy()


# The mesh of each system is transformed by itself, and from the start of a cache line: the bits of several together
# depend on who is beside whom, and those of a library may depend on where in memory its input begins.


def _spectra(density, mesh_ptr, sizes, counted):
    """Return the transforms of all meshes, [points, 2]."""
    meshes = [(b, tuple(sizes[b].tolist())) for b in np.flatnonzero(counted)]
    tensors = [torch.from_numpy(density[mesh_ptr[b] : mesh_ptr[b + 1]]).view(shape) for b, shape in meshes]
    return _joined([torch.view_as_real(torch.fft.rfftn(_aligned(each))).view(-1, 2) for each in tensors], (0, 2))


def _potentials(amplitudes, half_ptr, sizes, counted):
    """Return the back transforms of all meshes, [points]."""
    potentials = []
    for b in np.flatnonzero(counted):
        shape = tuple(sizes[b].tolist())
        spectrum = _aligned(torch.view_as_complex(torch.from_numpy(amplitudes[half_ptr[b] : half_ptr[b + 1]])))
        potentials.append(torch.fft.irfftn(spectrum.view(*shape[:2], -1), s=shape, norm="forward").view(-1))
    return _joined(potentials, (0,))


def _aligned(tensor):
    return tensor if tensor.data_ptr() % 64 == 0 else tensor.clone()


def _joined(tensors, shape_of_none):
    if not tensors:
        return np.zeros(shape_of_none)
    return (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).contiguous().numpy()


_pme_reciprocal = register_energy_op(pme_reciprocal, cpu=_pme_cpu, energy=_reference.pme_reciprocal)
