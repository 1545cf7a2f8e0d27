r"""WrapPeriodicHook: bring atoms back into the cell along its periodic axes.

Atoms move by whole lattice vectors of periodic axes and by nothing else. The stored pair list counts images from
wrapped positions, so only its wrap offsets and reference positions follow: no list becomes stale.
"""

from __future__ import annotations

from enum import Enum

import torch

from athanor._values import check_whole, describe
from athanor.hooks.context import HookContext
from athanor.hooks.due import due_systems
from athanor.hooks.stages import DynamicsStage

_MAX_PASSES = 4
"""Two settle every atom but those that rounding keeps on a face; these are then put next to it."""


class WrapPeriodicHook:
    """Wrap positions into the cell, fractional coordinates in [0, 1) along periodic axes; a second call moves nothing.

    Parameters
    ----------
    frequency
        Steps between calls, counted by each system for itself, so that it does not matter when others joined.
    stage
        Where the hook runs; AFTER_POST_UPDATE unless given.

    Notes
    -----
    Changes ``batch.positions`` in place and keeps the results and the pair list of the batch valid. Systems that stand
    still, because they are finished or failed, are left as they are.
    """

    default_stage = DynamicsStage.AFTER_POST_UPDATE
    on_active = True
    counts_each_system = True

    def __init__(self, frequency: int = 1, stage: Enum | None = None) -> None:
        self.frequency = check_whole(frequency, "frequency", 1)
        self.stage: Enum | None = self.default_stage if stage is None else stage
        self._cells: _CellOfEachAtom | None = None

    def __repr__(self) -> str:
        return describe(self, "frequency")

    @torch.no_grad()
    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Wrap ``ctx.batch`` in place."""
        batch = ctx.batch
        cell, pbc = getattr(batch, "cell", None), getattr(batch, "pbc", None)
        if cell is None or pbc is None or batch.num_nodes == 0:
            return
        due = due_systems(ctx, stage, self.frequency)
        if due is not None and not bool(due.any()):
            return
        cell, pbc = cell.detach().reshape(-1, 3, 3), pbc.reshape(-1, 3)
        if self._cells is None or not self._cells.were_made_for(cell, pbc, batch.batch_idx):
            self._cells = _CellOfEachAtom(cell, pbc, batch.batch_idx)
        positions = batch.positions.detach()
        wrapped, offsets = self._cells.wrap(positions)
        if offsets is None:
            return
        if due is not None:
            atoms = due[batch.batch_idx].unsqueeze(1)
            wrapped, offsets = torch.where(atoms, wrapped, positions), offsets * atoms
            if torch.equal(wrapped, positions):
                return
        with batch.keeping_results_fresh():
            batch.positions.copy_(wrapped)
            batch.touch()
            batch.pair_lists = tuple(
                pairs.move_by_lattice_vectors(offsets, batch.batch_idx) for pairs in batch.pair_lists
            )


def wrap_positions(
    positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, batch_idx: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return wrapped positions and the whole lattice vectors subtracted from each atom.

    Parameters
    ----------
    positions
        [N, 3], Å. Atoms that are not finite stay.
    cell
        [B, 3, 3], lattice vectors as rows, Å; rows of non-periodic axes may be zero.
    pbc
        bool [B, 3].
    batch_idx
        [N], system of each atom.

    Returns
    -------
    tuple
        Positions [N, 3], and int32 [N, 3]; the latter ``None`` if no atom moves.
    """
    return _CellOfEachAtom(cell, pbc, batch_idx).wrap(positions)


class _CellOfEachAtom:
    """Cells and their inverses atom by atom; kept by the hook while cells and atoms stay, as in a run at fixed cell."""

    def __init__(self, cell: torch.Tensor, pbc: torch.Tensor, batch_idx: torch.Tensor) -> None:
        self.made_for = (cell.clone(), pbc.clone(), batch_idx.clone())
        complete = complete_cell(cell, pbc)
        self.cell, self.complete_cell = cell[batch_idx], complete[batch_idx]
        self.inverse, self.periodic = torch.linalg.inv(complete)[batch_idx], pbc[batch_idx]

    def were_made_for(self, *now: torch.Tensor) -> bool:
        """Whether the values are those that this was made for."""
        return all(
            before.device == after.device and before.dtype == after.dtype and torch.equal(before, after)
            for before, after in zip(self.made_for, now, strict=True)
        )

    def wrap(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `wrap_positions`."""
        total: torch.Tensor | None = None
        for _ in range(_MAX_PASSES):
            offsets = torch.where(self.periodic, _transform_rows(positions, self.inverse).floor(), 0.0)
            if not bool(offsets.any()):
                break
            offsets = torch.where(offsets.isfinite(), offsets, 0.0)
            total = offsets if total is None else total + offsets
            positions = positions - _transform_rows(offsets, self.cell)
        else:
            positions = _step_off_faces(positions, self.inverse, self.complete_cell, self.periodic)
        return positions, None if total is None else total.to(torch.int32)


def _transform_rows(vectors: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Row vectors [N, 3] times matrices [N, 3, 3], in an order of operations that does not depend on N."""
    return vectors[:, 0:1] * matrices[:, 0] + vectors[:, 1:2] * matrices[:, 1] + vectors[:, 2:3] * matrices[:, 2]


def _step_off_faces(
    positions: torch.Tensor, inverse: torch.Tensor, cell: torch.Tensor, periodic: torch.Tensor
) -> torch.Tensor:
    """Move atoms that rounding holds on a periodic face just inside it; all others keep their bits."""
    fractional = _transform_rows(positions, inverse)
    margin = 64 * torch.finfo(positions.dtype).eps
    outside = periodic & fractional.isfinite() & ((fractional < 0.0) | (fractional >= 1.0))
    inside = torch.where(periodic, fractional.clamp(margin, 1.0 - margin), fractional)
    moved = _transform_rows(inside, cell)
    return torch.where(outside.any(dim=1, keepdim=True), moved, positions)


def complete_cell(cell: torch.Tensor, pbc: torch.Tensor) -> torch.Tensor:
    """Return cells that can be inverted: rows that are zero are replaced by unit vectors normal to the others.

    A cell that stays singular (or has no periodic axis) becomes the unit matrix.
    """
    zero = (cell == 0).all(dim=2)
    if bool(zero.any()):
        cell = cell.clone()
        for system in zero.any(dim=1).nonzero().flatten().tolist():
            rows = cell[system]
            kept = rows[~zero[system]]
            # right singular vectors beyond the rank span what the given rows leave open
            _, _, basis = torch.linalg.svd(kept, full_matrices=True) if len(kept) else (None, None, torch.eye(3))
            rows[zero[system]] = basis[len(kept) :].to(rows)
    singular = ~(torch.linalg.det(cell).abs() > 0) | ~pbc.any(dim=1)
    return torch.where(singular.view(-1, 1, 1), torch.eye(3, dtype=cell.dtype, device=cell.device), cell)
