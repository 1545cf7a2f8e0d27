r"""AlignCellHook: turn systems so that their cells are lower triangular, and everything that has a direction with them.

With the unit vectors :math:`e_k` of the turned frame as rows of :math:`Q`, a vector becomes :math:`v\,Q^T`, a row of
the cell too, and a tensor :math:`Q\,T\,Q^T`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._values import check_whole, describe
from athanor.dynamics.state import Parameter, StateVariable
from athanor.errors import ContractError, InputError
from athanor.hooks.due import due_systems
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.context import DynamicsContext

_VECTORS = ("positions", "velocities", "momenta", "forces", "dipole")
_TENSORS = ("stress", "virial", "hessian")
_ISOTROPIC = 1e-10
"""Relative difference from its turned self below which a tensor has no direction."""


class AlignCellHook:
    """Turn systems so that the first lattice vector is along x and the second in the xy plane.

    Positions, velocities, momenta, forces, stress, virial and dipole turn with the cell, and so do the neighbour list
    and what engines remember. Lengths, angles, fractional positions and energies stay. Left alone are molecules,
    systems whose first two vectors span no plane, and cells that are aligned already, to the bit.

    Parameters
    ----------
    frequency
        Steps between calls, counted by each system for itself.

    Raises
    ------
    InputError
        If `frequency` is not at least 1; from a call, if an engine holds something to the axes of space, such as a
        pressure that differs along x, y and z.
    ContractError
        A `TypeError`, from a call: if positions or cell are no floats.

    Notes
    -----
    Results stay valid, as those of a model that does not know directions. A turned system is another trajectory for
    everything that compares positions of different steps: align before the frames from which displacements are taken.
    """

    on_active = True
    counts_each_system = True

    def __init__(self, frequency: int = 1) -> None:
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = DynamicsStage.BEFORE_STEP

    def __repr__(self) -> str:
        return describe(self, "frequency")

    @torch.no_grad()
    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Turn the systems of ``ctx.batch`` that need it, in place. Waits for the device."""
        batch = ctx.batch
        if batch.get("cell") is None or batch.get("pbc") is None:
            return
        for name in ("positions", "cell"):
            if not batch[name].is_floating_point():
                raise ContractError(f"`{name}` has dtype {batch[name].dtype}; AlignCellHook turns floats only.")
        if bool(is_aligned(batch.cell).all()):
            return
        frame, turned = aligned_frame(batch.cell)
        turned &= batch.pbc.any(dim=1)
        due = due_systems(ctx, stage, self.frequency)
        turned = turned if due is None else turned & due
        if not bool(turned.any()):
            return
        frame = torch.where(turned[:, None, None], frame, torch.eye(3).to(frame))
        for engine in (ctx.workflow, *(engine for _, engine in getattr(ctx.workflow, "sub_stages", ()))):
            if engine is not None:
                _turn_state_(engine, batch, frame)
        with batch.keeping_results_fresh():
            turn_fields_(batch, frame, turned)


def is_aligned(cell: Tensor) -> Tensor:
    """Return which cells [B, 3, 3] have their first vector along x and their second one in the xy plane, bool [B]."""
    numbers = cell.detach().flatten(1)
    return (numbers[:, [1, 2, 5]] == 0).all(dim=1) & (numbers[:, [0, 4]] > 0).all(dim=1)


def aligned_frame(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the axes [B, 3, 3], as rows, in which a cell is aligned, and which cells are not yet, bool [B].

    Parameters
    ----------
    cell
        [B, 3, 3], lattice vectors as rows, Å.
    """
    rows = cell.detach().double()
    first, along = _unit(rows[:, 0])
    second, across = rows[:, 1], torch.zeros_like(along)
    for _ in range(2):  # the second pass takes off what rounding left of a small angle
        second = second - _dot(second, first) * first
    second, across = _unit(second)
    frame = torch.stack([first, second, torch.linalg.cross(first, second)], dim=1)
    spans = ((along > 0) & (across > 0))[:, 0]
    return frame, spans & ~is_aligned(cell) & frame.isfinite().flatten(1).all(dim=1)


def turn_fields_(batch: Batch, frame: Tensor, turned: Tensor) -> None:
    """Turn everything on a batch that has a direction, in place: fields of the table, and neighbour lists.

    Parameters
    ----------
    batch
        The batch.
    frame
        [B, 3, 3]; axes of the new frame as rows, the unit matrix where nothing is turned.
    turned
        bool [B]; systems that are turned.
    """
    for names, turn in ((_VECTORS, turn_vectors), (_TENSORS, turn_tensors)):
        for name in names:
            value = batch.get(name)
            if value is not None:
                of_atoms = batch.field_spec(name).level == "node"
                _write_(value, turn(value, frame[batch.batch_idx] if of_atoms else frame), turned, batch, of_atoms)
    _write_(batch.cell, turn_vectors(batch.cell, frame).tril(), turned, batch, False)
    atoms = turned[batch.batch_idx][:, None]
    batch.pair_lists = tuple(
        pairs.replace(
            reference_positions=torch.where(
                atoms, turn_vectors(pairs.reference_positions, frame[batch.batch_idx]), pairs.reference_positions
            ),
            reference_cell=torch.where(
                turned[:, None, None], turn_vectors(pairs.reference_cell, frame), pairs.reference_cell
            ),
        )
        for pairs in batch.pair_lists
    )
    batch.touch()


def turn_vectors(vectors: Tensor, frame: Tensor) -> Tensor:
    """Return vectors [M, 3], or rows of them [M, 3, 3], in other axes [M, 3, 3]; in order, whatever M is."""
    axes = frame.to(vectors.dtype)
    if vectors.ndim == 3:
        return torch.stack([turn_vectors(rows, axes) for rows in vectors.unbind(1)], dim=1)
    return vectors[:, 0:1] * axes[:, :, 0] + vectors[:, 1:2] * axes[:, :, 1] + vectors[:, 2:3] * axes[:, :, 2]


def turn_tensors(tensors: Tensor, frame: Tensor) -> Tensor:
    """Return tensors [M, 3, 3] in other axes [M, 3, 3]."""
    return turn_vectors(turn_vectors(tensors, frame).transpose(1, 2), frame).transpose(1, 2)


def _write_(target: Tensor, value: Tensor, turned: Tensor, batch: Batch, of_atoms: bool) -> None:
    rows = turned[batch.batch_idx] if of_atoms else turned
    target.detach().copy_(torch.where(rows.reshape(-1, *([1] * (target.ndim - 1))), value, target.detach()))


def _turn_state_(engine: Any, batch: Batch, frame: Tensor) -> None:
    """Turn what an engine remembers of the systems, in place.

    Raises
    ------
    InputError
        If it has a direction, and is held to the axes of space, or is not declared to turn.
    """
    rows = batch.state_rows(engine.key)
    for name, variable in StateVariable.declared_in(type(engine)).items():
        value = rows.get(name)
        if value is None or not _has_directions(variable, value):
            continue
        axes = frame[batch.batch_idx] if variable.level == "node" else frame
        # a cell that stretches along x, y and z may have no rate yet, and may not turn with one
        turns = None if getattr(engine, "pressure_coupling", "") == "anisotropic" else variable.turns
        if turns is not None:
            value.copy_({"vector": turn_vectors, "tensor": turn_tensors}[turns](value, axes))
            continue
        whole = torch.diag_embed(value) if value.ndim == 2 else value
        moved = (turn_tensors(whole, axes) - whole).abs().flatten(1).amax(1)
        if value.ndim > 3 or bool((moved > _ISOTROPIC * whole.abs().flatten(1).amax(1)).any()):
            raise InputError(
                f"AlignCellHook can not turn `{name}` of {type(engine).__name__}, which is held to the axes of space. "
                f"Align the cells before the run, give `{name}` as one number, or declare in the class how it turns: "
                f'`StateVariable(..., turns="tensor")`.'
            )


def _has_directions(variable: StateVariable, rows: Tensor) -> bool:
    """Whether rows are vectors or tensors in space; those of a chain of three thermostats are not."""
    shape = rows.shape[1:] if isinstance(variable, Parameter) else variable.shape
    return 3 in shape and rows.is_floating_point()


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Scalar products [B, 1] of vectors [B, 3]."""
    return one[:, 0:1] * other[:, 0:1] + one[:, 1:2] * other[:, 1:2] + one[:, 2:3] * other[:, 2:3]


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors [B, 3] and lengths [B, 1]."""
    length = _dot(vectors, vectors).sqrt()
    return vectors / torch.where(length > 0, length, 1.0), length
