"""What happens when the physics of one system breaks down: it goes back to its last good state and stands still.

The check runs every step, after the AFTER_COMPUTE hooks. A system fails if its positions, velocities, cell, energy,
forces or stress are not finite, if two of its atoms come closer than the model card allows, or if it holds an element
that the model does not know. The other systems go on with equal bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.failures import FailureCode, explain_failure
from athanor.dynamics.watched import WatchedField
from athanor.errors import NonFiniteError, SimulationError
from athanor.kernels import cell_shape, minimum_distance

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.dynamics.inactive import ActiveSet


_CHECKED = {
    "positions": FailureCode.POSITIONS_NOT_FINITE,
    "velocities": FailureCode.VELOCITIES_NOT_FINITE,
    "cell": FailureCode.CELL_NOT_FINITE,
    "energy": FailureCode.ENERGY_NOT_FINITE,
    "forces": FailureCode.FORCES_NOT_FINITE,
    "stress": FailureCode.STRESS_NOT_FINITE,
}

_MOVED = ("positions", "velocities", "cell")
"""What an engine or a hook moves; the rest follows from it and is checked in every step."""

_ON_TOP = 0.1
"""Å. Atoms closer than this are on top of each other, whatever the model: a proton in H2 is 0.74 Å from the other."""
_FAR_AWAY = 1e8
"""Å. Beyond it a double can not place an atom to better than 1e-8 Å: the system has exploded."""
_MOST_NEIGHBORS = 2e4
_MOST_IMAGES = 100
"""A cell so dense, or so flat, for the cutoff that it has collapsed; searching its pairs would take all memory."""


class Quarantine:
    """Keeps the last good state of a batch and sets failed systems aside.

    Parameters
    ----------
    exit_status
        Status that a failed system gets, so that no stage takes it up again.
    raise_errors
        Raise at the first failure instead.
    """

    def __init__(self, exit_status: int, raise_errors: bool) -> None:
        self.exit_status = exit_status
        self.raise_errors = raise_errors
        self._fields: dict[str, WatchedField] = {}

    def remember(self, batch: Batch, *, doubted: Any = None) -> None:
        """Take the present state as the last good one (copies).

        A system that was broken since the check, by a hook or by the second half of an update, keeps the state before:
        it is found in the next step and goes back to that. Results are those of the model `doubted`, if hooks ran
        since, which may have written to anything in any way.
        """
        if self.raise_errors:
            return
        fields = self._watch(batch)
        hooks_ran = doubted is not None
        names = {*_MOVED, *((doubted.model_config.active_outputs or ()) if hooks_ran else ())} & fields.keys()
        broken = [_broken(batch, name) for name in names if not fields[name].is_sound(written=hooks_ran)]
        sound = ~torch.stack(broken).any(dim=0) if broken else None
        for name, field in fields.items():
            field.keep(None if sound is None else _rows(batch, name, sound))

    def _watch(self, batch: Batch) -> dict[str, WatchedField]:
        """Return the checked fields that `batch` has, as they are now; what was kept of them stays."""
        for name in _CHECKED:
            tensor, field = batch.get(name), self._fields.get(name)
            if field is not None and tensor is not None and field.view.is_of(tensor):
                continue
            self._fields.pop(name, None)
            if tensor is not None:
                new = self._fields[name] = WatchedField(tensor, _FAR_AWAY if name == "positions" else math.inf)
                if field is not None and field.kept is not None and field.kept.tensor.shape == tensor.shape:
                    new.kept = field.kept
        return self._fields

    def roll_back(self, batch: Batch) -> None:
        """Put every system back to the state that was remembered last, in place."""
        for name, kept in self._kept(batch):
            batch[name].copy_(kept)

    def check_elements(self, batch: Batch, active: ActiveSet, model: Any) -> None:
        """Set aside, before the first forward, systems with elements outside the model card.

        Raises
        ------
        SimulationError
            If errors are to be raised.
        """
        known = model.model_card.elements
        if known is None:
            return
        unknown = ~torch.isin(batch.atomic_numbers, torch.tensor(sorted(known), device=batch.device))
        if bool(unknown.any()):
            codes = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
            codes[batch.batch_idx[unknown]] = int(FailureCode.ELEMENT_NOT_KNOWN)
            codes = torch.where(active.systems, codes, torch.zeros_like(codes))
            if self.raise_errors and bool(codes.any()):
                self._raise(batch, codes, model)
            self._set_aside(batch, codes, restore=False)

    def check_cells(self, batch: Batch, active: ActiveSet, radius: float) -> None:
        """Set aside systems whose moved cell is not finite or has collapsed, before their pairs are searched.

        Parameters
        ----------
        batch
            Changed in place as in `check`.
        active
            Systems that moved.
        radius
            Search radius of the pair list, Å.

        Raises
        ------
        SimulationError
            If errors are to be raised.
        """
        cell = batch.get("cell")
        if cell is None:
            return
        volume, height = cell_shape(cell.detach())
        crowded = volume * (_MOST_NEIGHBORS / (4.0 / 3.0 * math.pi * radius**3)) <= batch.num_nodes_per_graph
        collapsed = (crowded | (height <= radius / _MOST_IMAGES)) & (volume > 0) & batch.pbc.all(dim=1)
        bad = (collapsed | ~torch.isfinite(volume)) & active.systems
        if bool(bad.any()):
            codes = bad.long() * int(FailureCode.CELL_NOT_FINITE)
            if self.raise_errors:
                self._raise(batch, codes)
            self._set_aside(batch, codes, restore=True, stepping=True)

    def check(self, batch: Batch, active: ActiveSet, model: Any, *, stepping: bool) -> Tensor | None:
        """Look for failed systems among the active ones.

        Parameters
        ----------
        batch
            Changed in place where a system failed: restored, `status`, `failure_code`, `failure_step` set.
        active
            Systems that were evaluated.
        model
            For its card's smallest distance.
        stepping
            Whether this is part of a step (else the evaluation before the first one).

        Returns
        -------
        Tensor or None
            bool [B] of newly failed systems, or None if there are none.

        Raises
        ------
        NonFiniteError, SimulationError
            If errors are to be raised; the text names systems, step and closest pair.
        """
        codes = self._codes(batch, active, model) if active.any else None
        if codes is None:
            return None
        if self.raise_errors:
            self._raise(batch, codes)
        self._set_aside(batch, codes, restore=True, stepping=stepping)
        return codes > 0

    def _codes(self, batch: Batch, active: ActiveSet, model: Any) -> Tensor | None:
        floor = model.model_card.minimum_distance
        closest = _closest_pairs(batch) if floor is not None else None
        computed = model.model_config.active_outputs  # a label that came with a structure is no result of this run
        fields = [item for item in self._watch(batch).items() if item[0] in _MOVED or item[0] in computed]
        too_close = closest is not None and bool(((closest < floor) & active.systems).any())
        if not too_close and all(field.is_sound() for _, field in fields):
            return None
        codes = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
        for name, _ in sorted(fields, key=lambda item: _CHECKED[item[0]], reverse=True):
            codes[_broken(batch, name)] = int(_CHECKED[name])
        if floor is None:
            closest = _closest_pairs(batch)
            if closest is not None:  # atoms on top of each other are the cause of what was found
                codes[(closest < _ON_TOP) & (codes > 0)] = int(FailureCode.ATOMS_TOO_CLOSE)
        elif closest is not None:
            codes[(closest < floor) & (codes == 0)] = int(FailureCode.ATOMS_TOO_CLOSE)
        codes = torch.where(active.systems, codes, torch.zeros_like(codes))
        return codes if bool((codes > 0).any()) else None

    def _set_aside(self, batch: Batch, codes: Tensor, *, restore: bool, stepping: bool = False) -> None:
        failed = codes > 0
        if restore:
            for name, kept in self._kept(batch):
                present = batch[name]
                present.copy_(torch.where(_rows(batch, name, failed), kept, present))
        batch.failure_code[failed, 0] = codes[failed].to(batch.failure_code.dtype)
        batch.failure_step[failed] = batch.step[failed].to(batch.failure_step.dtype) + int(stepping)
        batch.status[failed] = self.exit_status

    def _kept(self, batch: Batch) -> list[tuple[str, Tensor]]:
        """What was remembered of the fields that `batch` has."""
        return [(name, field.kept.tensor) for name, field in self._watch(batch).items() if field.kept is not None]

    @staticmethod
    def _raise(batch: Batch, codes: Tensor, model: Any = None) -> None:
        rows = codes.nonzero().flatten().tolist()
        parts = []
        for row in rows[:3]:
            reason = explain_failure(batch, row, model, int(codes[row]))
            parts.append(
                f"system_id {int(batch.system_id[row])} (index {row}): {reason}, after step {int(batch.step[row])}"
            )
        more = f", and {len(rows) - 3} more" if len(rows) > 3 else ""
        kind = SimulationError if int(codes[rows[0]]) >= FailureCode.ATOMS_TOO_CLOSE else NonFiniteError
        raise kind(
            f"{len(rows)} of {batch.num_graphs} systems failed: {'; '.join(parts)}{more}. "
            f"Reduce `dt` or relax these systems first. "
            f'With on_error="quarantine" they would be set aside and the others go on.'
        )


def _broken(batch: Batch, name: str) -> Tensor:
    """Systems with a number in a field that is not finite or beyond its limit, bool [B]."""
    bad = ~(batch[name].abs() < (_FAR_AWAY if name == "positions" else math.inf)).flatten(1).all(dim=1)
    if batch.field_spec(name).level == "system":
        return bad
    counts = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
    return counts.index_add_(0, batch.batch_idx, bad.long()) > 0


def _rows(batch: Batch, name: str, systems: Tensor) -> Tensor:
    """Rows of a field that belong to the systems of a mask [B], shaped to select in the field."""
    rows = systems[batch.batch_idx] if batch.field_spec(name).level == "node" else systems
    return rows.reshape(-1, *([1] * (batch[name].ndim - 1)))


def _closest_pairs(batch: Batch) -> Tensor | None:
    """Smallest listed distance of each system [B], or None without a list."""
    pairs = batch.pair_list
    if pairs is None:
        return None
    return minimum_distance(
        batch.positions.detach(),
        batch.cell_or_zeros.detach(),
        batch.batch_ptr,
        pairs.row_ptr,
        pairs.neighbors,
        pairs.images,
        pairs.wrap_offsets,
    )
