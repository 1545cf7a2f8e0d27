"""Sums over the motion of each system, and scaling it: public calls and their registration with torch."""

from __future__ import annotations

import numpy as np
import torch

from athanor import _runtime
from athanor.errors import ShapeError
from athanor.kernels._library import LazyModule, as_array, as_doubles, as_tensor, register_op
from athanor.kernels._threads import run_parts, system_bounds
from athanor.kernels.flow import _reference

_cpu = LazyModule("athanor.kernels.flow._cpu")

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def momentum_flow(
    velocities: torch.Tensor, masses: torch.Tensor, glides: torch.Tensor, segment_ptr: torch.Tensor
) -> Triple:
    r"""Sum the flow of momentum of each system, without that of its centre of mass where this glides.

    .. math:: \Pi_s = \sum_{i \in s} m_i\,(v_i - u_s) \otimes (v_i - u_s), \qquad
              u_s = \begin{cases} \sum m_i v_i / \sum m_i & \text{gliding} \\ 0 & \text{else} \end{cases}


    Parameters
    ----------
    velocities
        float32 or float64 [N, 3], √(eV/amu).
    masses
        [N], amu; 0 for an atom that must not move, whose velocity then counts nowhere.
    glides
        bool [B].
    segment_ptr
        int32 [B + 1], first atom of each system.

    Returns
    -------
    tuple of torch.Tensor
        Flow [B, 3, 3], eV, symmetric; its trace, which is twice the kinetic energy, [B]; and the velocity of the centre
        :math:`u_s` [B, 3]; all float64. Not differentiable.

    Raises
    ------
    ShapeError
        If the first two do not fit.

    Notes
    -----
    Atoms are added in order and in double precision, so a system's sums depend on its own rows only.
    """
    _runtime.ready()
    if velocities.ndim != 2 or masses.shape != velocities.shape[:1]:
        raise ShapeError(
            f"`velocities` has shape {tuple(velocities.shape)} and `masses` {tuple(masses.shape)}; they must be [N, 3] "
            f"and [N]."
        )
    return _momentum_flow(velocities, masses, glides, segment_ptr)


def scaled(
    vectors: torch.Tensor, factors: torch.Tensor, centers: torch.Tensor, segment_ptr: torch.Tensor
) -> torch.Tensor:
    r"""Scale the vectors of each system about its centre: :math:`x_i' = c_s + f_s\,(x_i - c_s)`.

    Parameters
    ----------
    vectors
        float32 or float64 [N, 3].
    factors
        [B].
    centers
        [B, 3].
    segment_ptr
        int32 [B + 1], first atom of each system.

    Returns
    -------
    torch.Tensor
        [N, 3], dtype of `vectors`. Not differentiable.

    Raises
    ------
    ShapeError
        If `vectors` is not [N, 3].
    """
    _runtime.ready()
    if vectors.ndim != 2 or vectors.shape[1] != 3:
        raise ShapeError(f"`vectors` has shape {tuple(vectors.shape)}; it must be [N, 3].")
    return _scaled(vectors, factors, centers, segment_ptr)


def _flow_cpu(velocities, masses, glides, segment_ptr):
    ptr = as_array(segment_ptr)
    sums = tuple(np.empty((len(ptr) - 1, *shape)) for shape in ((3, 3), (), (3,)))
    arguments = (as_doubles(velocities), as_doubles(masses), as_array(glides), ptr, *sums)
    run_parts(_cpu.flows, arguments, system_bounds(ptr, 5.0 * len(velocities)))
    return tuple(as_tensor(array, torch.float64) for array in sums)


def _scaled_cpu(vectors, factors, centers, segment_ptr):
    ptr, moved = as_array(segment_ptr), np.empty(vectors.shape)
    arguments = (*map(as_doubles, (vectors, factors, centers)), ptr, moved)
    run_parts(_cpu.scale, arguments, system_bounds(ptr, 3.0 * len(moved)))
    return as_tensor(moved, vectors.dtype)


def _flow_fake(velocities, masses, glides, segment_ptr):
    systems = segment_ptr.shape[0] - 1
    return tuple(velocities.new_empty((systems, *shape), dtype=torch.float64) for shape in ((3, 3), (), (3,)))


def _first_fake(vectors, *others):
    return torch.empty_like(vectors)


_momentum_flow = register_op(momentum_flow, cpu=_flow_cpu, reference=_reference.momentum_flow, fake=_flow_fake)
_scaled = register_op(scaled, cpu=_scaled_cpu, reference=_reference.scaled, fake=_first_fake)
