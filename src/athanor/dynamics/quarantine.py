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
from athanor.dynamics.last_good import FAR_AWAY, LastGood
from athanor.errors import NonFiniteError, SimulationError
from athanor.kernels import cell_shape, minimum_distance

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.dynamics.active import ActiveSet
    from athanor.dynamics.contract import Engine
    from athanor.dynamics.working_set import WorkingSet


_CODES = {
    "positions": FailureCode.POSITIONS_NOT_FINITE,
    "velocities": FailureCode.VELOCITIES_NOT_FINITE,
    "cell": FailureCode.CELL_NOT_FINITE,
    "energy": FailureCode.ENERGY_NOT_FINITE,
    "forces": FailureCode.FORCES_NOT_FINITE,
    "stress": FailureCode.STRESS_NOT_FINITE,
}

_ON_TOP = 0.1
"""Å. Atoms closer than this are on top of each other, whatever the model: a proton in H2 is 0.74 Å from the other."""
_MOST_NEIGHBORS = 2e4
_MOST_IMAGES = 100
"""A cell so dense, or so flat, for the cutoff that it has collapsed; searching its pairs would take all memory."""


class Quarantine:
    """Sets failed systems aside, in the state that was good last.

    Parameters
    ----------
    exit_status
        Status that a failed system gets, so that no stage takes it up again.
    raise_errors
        Raise at the first failure instead.
    systems
        Those that are worked on; their batch is changed in place where a system failed.
    last_good
        What is kept of them.
    """

    def __init__(self, exit_status: int, raise_errors: bool, systems: WorkingSet, last_good: LastGood) -> None:
        self.exit_status = exit_status
        self.raise_errors = raise_errors
        self._systems, self._last_good = systems, last_good

    def remember(self, newcomers: Tensor | None = None) -> None:
        """Take the present state as the last good one, or that of `newcomers` alone, bool [B].

        A system that was broken since the check, by a hook or by the second half of an update, keeps the state before:
        it is found in the next step and goes back to that.
        """
        if newcomers is not None or not self._last_good.keep_if_sound():
            batch = self._systems.part.batch
            fields = [name for name in self._last_good.checked if name in batch]
            sound = ~torch.stack([_broken(batch, name) for name in fields]).any(dim=0)
            self._last_good.keep(sound if newcomers is None else sound & newcomers)

    def check_fitness(self, engine: Engine, systems: Tensor) -> bool:
        """Set aside those of the `systems` of a mask [B] that `engine` can not move; return whether there are any.

        Raises
        ------
        SimulationError
            If errors are to be raised.
        """
        codes = engine.misfits(self._systems.part.batch)
        if codes is None:
            return False
        codes = torch.where(systems, codes, torch.zeros_like(codes))
        if not bool(codes.any()):
            return False
        self._refuse(codes, None)
        return True

    def check_elements(self, model: Any) -> None:
        """Set aside, before the first forward, systems with elements outside the model card.

        Raises
        ------
        SimulationError
            If errors are to be raised.
        """
        known, batch = model.model_card.elements, self._systems.part.batch
        if known is None:
            return
        unknown = ~torch.isin(batch.atomic_numbers, torch.tensor(sorted(known), device=batch.device))
        if bool(unknown.any()):
            codes = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
            codes[batch.batch_idx[unknown]] = int(FailureCode.ELEMENT_NOT_KNOWN)
            codes = torch.where(self._systems.active.systems, codes, torch.zeros_like(codes))
            if bool(codes.any()):
                self._refuse(codes, model)

    def check_cells(self, radius: float) -> None:
        """Set aside systems whose moved cell is not finite or has collapsed, before their pairs are searched.

        Parameters
        ----------
        radius
            Search radius of the pair list, Å.

        Raises
        ------
        SimulationError
            If errors are to be raised.
        """
        batch = self._systems.part.batch
        cell = batch.get("cell")
        if cell is None:
            return
        volume, height = cell_shape(cell.detach())
        crowded = volume * (_MOST_NEIGHBORS / (4.0 / 3.0 * math.pi * radius**3)) <= batch.num_nodes_per_graph
        collapsed = (crowded | (height <= radius / _MOST_IMAGES)) & (volume > 0) & batch.pbc.all(dim=1)
        bad = (collapsed | ~torch.isfinite(volume)) & self._systems.active.systems
        if bool(bad.any()):
            self._set_aside(bad.long() * int(FailureCode.CELL_NOT_FINITE), stepping=True)

    def check(self, model: Any, *, stepping: bool) -> bool:
        """Look for failed systems among the active ones, and set them aside; return whether there are any.

        Parameters
        ----------
        model
            For its card's smallest distance.
        stepping
            Whether this is part of a step (else the evaluation before the first one).

        Raises
        ------
        NonFiniteError, SimulationError
            If errors are to be raised; the text names systems, step and closest pair.
        """
        active = self._systems.active
        codes = self._codes(self._systems.part.batch, active, model) if active.any else None
        if codes is None:
            return False
        self._set_aside(codes, stepping=stepping)
        return True

    def _codes(self, batch: Batch, active: ActiveSet, model: Any) -> Tensor | None:
        floor = model.model_card.minimum_distance
        closest = _closest_pairs(batch) if floor is not None else None
        too_close = closest is not None and bool(((closest < floor) & active.systems).any())
        if not too_close and self._last_good.is_sound():
            return None
        fields = [name for name in self._last_good.checked if name in batch]
        codes = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
        for name in sorted(fields, key=_CODES.__getitem__, reverse=True):
            codes[_broken(batch, name)] = int(_CODES[name])
        if floor is None:
            closest = _closest_pairs(batch)
            if closest is not None:  # atoms on top of each other are the cause of what was found
                codes[(closest < _ON_TOP) & (codes > 0)] = int(FailureCode.ATOMS_TOO_CLOSE)
        elif closest is not None:
            codes[(closest < floor) & (codes == 0)] = int(FailureCode.ATOMS_TOO_CLOSE)
        codes = torch.where(active.systems, codes, torch.zeros_like(codes))
        return codes if bool((codes > 0).any()) else None

    def _set_aside(self, codes: Tensor, *, stepping: bool) -> None:
        """Put the systems with a code back to their last good state, and mark them as failed."""
        if self.raise_errors:
            self._raise(codes, None)
        self._last_good.put_back(codes > 0, counters=False)
        self._mark(codes, stepping=stepping)

    def _refuse(self, codes: Tensor, model: Any) -> None:
        """Mark systems as failed that nobody has moved yet, and leave them as they are."""
        if self.raise_errors:
            self._raise(codes, model)
        self._mark(codes, stepping=False)

    def _mark(self, codes: Tensor, *, stepping: bool) -> None:
        batch, failed = self._systems.part.batch, codes > 0
        self._last_good.forget_results(failed & ~self._systems.run["evaluated"])
        batch.failure_code[failed, 0] = codes[failed].to(batch.failure_code.dtype)
        batch.failure_step[failed] = batch.step[failed].to(batch.failure_step.dtype) + int(stepping)
        batch.status[failed] = self.exit_status

    def _raise(self, codes: Tensor, model: Any) -> None:
        part = self._systems.part
        batch, rows = part.batch, codes.nonzero().flatten().tolist()
        places = part.to_whole(codes > 0).nonzero().flatten().tolist()
        parts = []
        for row, place in zip(rows[:3], places, strict=False):
            reason = explain_failure(batch, row, model, int(codes[row]))
            parts.append(
                f"system_id {int(batch.system_id[row])} (index {place}): {reason}, after step {int(batch.step[row])}"
            )
        more = f", and {len(rows) - 3} more" if len(rows) > 3 else ""
        kind = SimulationError if int(codes[rows[0]]) >= FailureCode.ATOMS_TOO_CLOSE else NonFiniteError
        raise kind(
            f"{len(rows)} of {part.whole.num_graphs} systems failed: {'; '.join(parts)}{more}. "
            f"Reduce `dt` or relax these systems first. "
            f'With on_error="quarantine" they would be set aside and the others go on.'
        )


def _broken(batch: Batch, name: str) -> Tensor:
    """Systems with a number in a field that is not finite or beyond its limit, bool [B]."""
    return systems_where(batch, name, ~(batch[name].abs() < (FAR_AWAY if name == "positions" else math.inf)))


def systems_where(batch: Batch, name: str, marked: Tensor) -> Tensor:
    """Systems with a marked number in a field, bool [B]; `marked` is bool, of the shape of the field."""
    bad = marked.flatten(1).any(dim=1)
    if batch.field_spec(name).level == "system":
        return bad
    counts = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
    return counts.index_add_(0, batch.batch_idx, bad.long()) > 0


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
