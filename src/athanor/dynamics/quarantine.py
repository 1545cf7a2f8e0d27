"""What happens when the physics of one system breaks down: it goes back to its last good state and stands still.

The checks run every step: before the forward whether two atoms are closer than the model card allows, after the
AFTER_COMPUTE hooks whether positions, velocities, cell, energy, forces and stress are finite. Before its first forward,
a system fails if it holds an element that the model does not know, or can not be searched. The other systems go on
with equal bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._memory import is_out_of_memory
from athanor.dynamics.admission import (
    closest_pairs,
    collapsed_cells,
    has_sound_cells,
    search_radius,
    too_dense,
    unknown_elements,
)
from athanor.dynamics.failures import FailureCode, explain_failure
from athanor.dynamics.last_good import FAR_AWAY, LastGood, systems_where
from athanor.dynamics.second_chances import SecondChances
from athanor.errors import NonFiniteError, SimulationError, in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from athanor.data.batch import Batch
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
    notes
        Gets what the model said of systems for which it raised, by `system_id`.
    chances
        Says who goes on with smaller steps instead.
    """

    def __init__(
        self,
        exit_status: int,
        raise_errors: bool,
        systems: WorkingSet,
        last_good: LastGood,
        notes: dict[int, str],
        chances: SecondChances,
    ) -> None:
        self.exit_status = exit_status
        self.raise_errors = raise_errors
        self._systems, self._last_good, self.notes, self._chances = systems, last_good, notes, chances

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
        return codes is not None and self._refuse(torch.where(systems, codes, 0), None)

    def check_newcomers(self, model: Any) -> None:
        """Set aside, before their first search and forward, systems that can not be searched or hold other elements.

        Raises
        ------
        SimulationError
            If errors are to be raised.
        """
        batch = self._systems.part.batch
        radius = search_radius(batch, model)
        codes = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
        codes[too_dense(batch, radius)] = int(FailureCode.TOO_DENSE)
        codes[collapsed_cells(batch, radius)] = int(FailureCode.CELL_NOT_FINITE)
        codes[unknown_elements(batch, model)] = int(FailureCode.ELEMENT_NOT_KNOWN)
        newcomers = self._systems.active.systems & ~self._systems.run["evaluated"]
        self._refuse(torch.where(newcomers, codes, 0), model)

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
        if "cell" in batch and not has_sound_cells(batch, radius):
            bad = collapsed_cells(batch, radius) & self._systems.active.systems
            self._set_aside(bad.long() * int(FailureCode.CELL_NOT_FINITE), stepping=True)

    def check_distances(self, model: Any, *, stepping: bool) -> bool:
        """Set aside, before the forward, systems with atoms closer than the model allows; return whether there are any.

        Parameters
        ----------
        model
            The model, for its card's smallest distance.
        stepping
            Whether this is part of a step (else the evaluation before the first one).

        Raises
        ------
        SimulationError
            If errors are to be raised.
        """
        floor = model.model_card.minimum_distance
        closest = closest_pairs(self._systems.part.batch) if floor is not None else None
        if closest is None:
            return False
        bad = (closest < floor) & self._systems.active.systems
        codes = bad.long() * int(FailureCode.ATOMS_TOO_CLOSE)
        return self._set_aside(codes, stepping=True) if stepping else self._refuse(codes, model)

    def check(self, *, stepping: bool) -> bool:
        """Look for active systems with numbers that are not finite, and set them aside; return whether there are any.

        Parameters
        ----------
        stepping
            Whether this is part of a step (else the evaluation before the first one).

        Raises
        ------
        NonFiniteError, SimulationError
            If errors are to be raised; the text names systems, step and closest pair.
        """
        active = self._systems.active
        if not active.any or self._last_good.is_sound():
            return False
        batch = self._systems.part.batch
        codes = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
        for name in sorted((n for n in self._last_good.checked if n in batch), key=_CODES.__getitem__, reverse=True):
            codes[_broken(batch, name)] = int(_CODES[name])
        closest = closest_pairs(batch)
        if closest is not None:  # atoms on top of each other are the cause of what was found
            codes[(closest < _ON_TOP) & (codes > 0)] = int(FailureCode.ATOMS_TOO_CLOSE)
        return self._set_aside(torch.where(active.systems, codes, 0), stepping=stepping)

    def set_aside_raising(self, errors: Mapping[int, Exception], *, stepping: bool) -> None:
        """Set aside systems for which the model raised, and note what it said.

        Parameters
        ----------
        errors
            What was raised, by the index of the system among those that are worked on.
        stepping
            As in `check`.
        """
        batch = self._systems.part.batch
        codes = torch.zeros(batch.num_graphs, dtype=torch.long, device=batch.device)
        for index, error in errors.items():
            wanted_memory = is_out_of_memory(error)
            codes[index] = int(FailureCode.OUT_OF_MEMORY if wanted_memory else FailureCode.MODEL_RAISED)
            self.notes[int(batch.system_id[index])] = in_words(error)
        self._set_aside(torch.where(self._systems.active.systems, codes, 0), stepping=stepping)

    def _set_aside(self, codes: Tensor, *, stepping: bool) -> bool:
        """Put the systems with a code, int64 [B], back to their last good state; mark them; return whether any has."""
        if not bool(codes.any()):
            return False
        if self.raise_errors:
            self._raise(codes, None)
        again = self._chances.grant(codes > 0) if stepping else None
        self._last_good.put_back(codes > 0, counters=False)
        if again is not None:
            self._systems.run["waits"].logical_or_(again)
            codes = codes.masked_fill(again, 0)
        self._mark(codes, stepping=stepping)
        return True

    def _refuse(self, codes: Tensor, model: Any) -> bool:
        """Mark as failed, as they are, the systems with a code, which nobody has moved yet; return whether any has."""
        if not bool(codes.any()):
            return False
        if self.raise_errors:
            self._raise(codes, model)
        self._mark(codes, stepping=False)
        return True

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
