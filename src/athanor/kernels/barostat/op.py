r"""Motion of cells: public calls and their registration with torch. Energies are in eV, times in internal time.

The cell of a system flows at the symmetric rate :math:`E`, and its atoms with it: :math:`\dot h = h E`. What is
advanced is the mass-weighted rate :math:`w = \sqrt W E`, [B, 3, 3], √eV, so that the energy of the motion is
:math:`\tfrac12 \sum_{ab} w_{ab}^2` whatever the mass :math:`W = (n + 3)\,kT \tau_P^2/3`.
"""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import InputError, ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_op
from athanor.kernels._threads import run_parts, system_bounds
from athanor.kernels.barostat import _reference
from athanor.kernels.thermostat._reference import WEIGHTS
from athanor.kernels.thermostat.op import check_chain

_cpu = LazyModule("athanor.kernels.barostat._cpu")

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Five = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def barostat_half_step(
    velocities: torch.Tensor,
    forces: torch.Tensor,
    masses: torch.Tensor,
    momentum: torch.Tensor,
    chain: torch.Tensor,
    cell_chain: torch.Tensor,
    stress: torch.Tensor,
    cell: torch.Tensor,
    pressure: torch.Tensor,
    constants: torch.Tensor,
    segment_ptr: torch.Tensor,
    coupling: int,
    order: int,
    backward: bool,
) -> Five:
    r"""Kick cells and atoms for half a step, with what their thermostats do outside of that.

    In this order, or backward: half a step of the chain of the atoms, half a step of the chain of the cell, both as in
    `nose_hoover_half_step`; kick of the cell; kick of the atoms, exactly for a constant rate:

    .. math::
        w &\leftarrow w + \frac{\Delta t}{2\sqrt W}\,\mathcal P\!\left[
              \Pi - V(\sigma + p) + \frac{\operatorname{tr} \Pi}{n}\,I \right],
              \qquad \Pi = \textstyle\sum_i m_i\,v_i \otimes v_i \\
        v &\leftarrow v\,e^{-A \Delta t/2} + \frac{\Delta t}{2}\,\frac{F}{m}\,\varphi(-A \Delta t/2),
              \qquad A = E + \operatorname{tr} E / n,\quad \varphi(X) = \int_0^1 e^{sX} ds

    The projection :math:`\mathcal P` keeps the mean of the diagonal (coupling 0), the diagonal (1), or all (2), with 1,
    3 or 6 degrees of freedom for the chain of the cell, whose time is :math:`\tau_P`. Velocities count from that of the
    centre where its momentum is conserved.

    Parameters
    ----------
    velocities
        float32 or float64 [N, 3], √(eV/amu).
    forces
        [N, 3], eV/Å.
    masses
        [N], amu; an atom of mass 0 must not move, and keeps its velocity.
    momentum
        :math:`w`, [B, 3, 3], √eV.
    chain, cell_chain
        Mass-weighted speeds of the chains, [B, L], √eV; of no links without thermostats.
    stress, pressure
        [B, 3, 3], eV/Å³; stress is tensile positive, and the target compression positive.
    cell
        [B, 3, 3], rows are lattice vectors, Å.
    constants
        float64 [B, 6], see `athanor.kernels.thermostat.Constant`.
    segment_ptr
        int32 [B + 1], first atom of each system.
    coupling
        0, 1 or 2.
    order
        Parts of a step of a chain: 1, 3 or 5.
    backward
        Whether to go from the kick of the atoms to the chains, as at the end of a step.

    Returns
    -------
    tuple of torch.Tensor
        Velocities [N, 3] in their dtype, and in float64 mass-weighted rates [B, 3, 3], speeds of both chains [B, L],
        and energy that the baths took up [B]. Not differentiable.

    Raises
    ------
    InputError
        If `coupling` or `order` is none of these.
    ShapeError
        If shapes do not fit.

    Notes
    -----
    Functions of matrices are series in double precision, right for norms below 0.3, so a system gets the same bits in
    any batch.

    References
    ----------
    .. [1] G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994). doi:10.1063/1.467468
    .. [2] G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996).
       doi:10.1080/00268979600100761
    """
    _runtime.ready()
    _check(velocities, forces, momentum, cell)
    check_chain(chain, constants, order)
    if coupling not in (0, 1, 2):
        raise InputError(f"`coupling` is {coupling}; use 0 (isotropic), 1 (three diagonal rates) or 2 (all).")
    return _barostat_half_step(
        velocities, forces, masses, momentum, chain, cell_chain, stress, cell, pressure, constants, segment_ptr,
        coupling, order, backward,
    )  # fmt: skip


def barostat_drift(
    positions: torch.Tensor,
    velocities: torch.Tensor,
    masses: torch.Tensor,
    cell: torch.Tensor,
    momentum: torch.Tensor,
    pressure: torch.Tensor,
    constants: torch.Tensor,
    segment_ptr: torch.Tensor,
    fraction: float,
) -> Triple:
    r"""Move atoms and cells under constant velocities and rates, exactly, over a `fraction` :math:`f` of the step.

    .. math::
        r &\leftarrow r\,e^{E f \Delta t} + f \Delta t\,v\,\varphi(E f \Delta t), \\
        h &\leftarrow h\,e^{E f \Delta t} \\
        \text{work} &= \int (p : E)\,V\,dt
              = (p : E)\,V f\Delta t\,\varphi(\operatorname{tr} E\,f \Delta t)

    Parameters
    ----------
    positions
        float32 or float64 [N, 3], Å.
    velocities
        [N, 3], √(eV/amu).
    masses
        [N], amu; an atom of mass 0 only flows with its cell.
    cell, momentum, pressure, constants, segment_ptr
        As in `barostat_half_step`.
    fraction
        Of the time step.

    Returns
    -------
    tuple of torch.Tensor
        Positions and cells in their dtypes, and the work that each cell did against the pressure, eV, float64 [B]. Not
        differentiable.

    Raises
    ------
    ShapeError
        If shapes do not fit.
    """
    _runtime.ready()
    _check(positions, velocities, momentum, cell)
    return _barostat_drift(positions, velocities, masses, cell, momentum, pressure, constants, segment_ptr, fraction)


def _check(vectors: torch.Tensor, others: torch.Tensor, momentum: torch.Tensor, cell: torch.Tensor) -> None:
    if vectors.shape != others.shape or vectors.ndim != 2:
        raise ShapeError(
            f"two fields of atoms have shapes {tuple(vectors.shape)} and {tuple(others.shape)}; not [N, 3]."
        )
    if momentum.shape != cell.shape or momentum.shape[1:] != (3, 3):
        raise ShapeError(
            f"`momentum` has shape {tuple(momentum.shape)} and `cell` {tuple(cell.shape)}; both must be [B, 3, 3]."
        )


def _half_step_cpu(
    velocities, forces, masses, momentum, chain, cell_chain, stress, cell, pressure, constants, segment_ptr, coupling,
    order, backward,
):  # fmt: skip
    ptr, moved = as_array(segment_ptr), as_doubles(velocities).copy()
    rows = tuple(as_doubles(each).copy() for each in (momentum, chain, cell_chain))
    uptake = np.empty(len(ptr) - 1)
    arguments = (
        moved, as_doubles(forces), as_doubles(masses), *rows, as_doubles(stress), as_doubles(cell), as_array(pressure),
        as_array(constants), ptr, coupling, np.array(WEIGHTS[order]), backward, uptake,
    )  # fmt: skip
    run_parts(_cpu.half_steps, arguments, system_bounds(ptr, 12.0 * len(moved) + 1000.0 * len(ptr)))
    return (as_tensor(moved, velocities.dtype), *(as_tensor(each, torch.float64) for each in (*rows, uptake)))


def _drift_cpu(positions, velocities, masses, cell, momentum, pressure, constants, segment_ptr, fraction):
    ptr, moved, new_cell = as_array(segment_ptr), np.empty(positions.shape), np.empty(cell.shape)
    work = np.empty(len(ptr) - 1)
    arguments = (
        *map(as_doubles, (positions, velocities, masses, cell, momentum, pressure, constants)), ptr, fraction, moved,
        new_cell, work,
    )  # fmt: skip
    run_parts(_cpu.drifts, arguments, system_bounds(ptr, 6.0 * len(moved) + 400.0 * len(ptr)))
    return as_tensor(moved, positions.dtype), as_tensor(new_cell, cell.dtype), as_tensor(work, torch.float64)


def _half_step_fake(velocities, forces, masses, momentum, chain, cell_chain, *others):
    shapes = (momentum.shape, chain.shape, cell_chain.shape, momentum.shape[:1])
    return (torch.empty_like(velocities), *(momentum.new_empty(shape, dtype=torch.float64) for shape in shapes))


def _drift_fake(positions, velocities, masses, cell, momentum, *others):
    work = momentum.new_empty(momentum.shape[:1], dtype=torch.float64)
    return torch.empty_like(positions), torch.empty_like(cell), work


_barostat_half_step = register_op(
    barostat_half_step, cpu=_half_step_cpu, reference=_reference.barostat_half_step, fake=_half_step_fake
)
_barostat_drift = register_op(barostat_drift, cpu=_drift_cpu, reference=_reference.barostat_drift, fake=_drift_fake)
