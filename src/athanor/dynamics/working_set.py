"""Which systems of a batch are worked on, and what the driver remembers of each.

While some systems are finished, the active ones are in a batch of their own (`Part`), which is made when the set of
active systems changes, and written back when somebody looks at the whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data._followers import new_key, take_key
from athanor.data._part import Part
from athanor.data._stamp import ComputedFrom
from athanor.dynamics.active import ActiveSet
from athanor.dynamics.arguments import check_distinct
from athanor.dynamics.contract import Engine
from athanor.dynamics.last_good import LastGood
from athanor.dynamics.rows import Rows, SavedRows, save_rows, take_up_rows
from athanor.dynamics.second_chances import SecondChances
from athanor.dynamics.status import StageSpec

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.fields import Level

ARRIVED = -1
"""Status in which a system that joined was last seen."""


class WorkingSet:
    """The active systems of the batch that is run.

    Parameters
    ----------
    owner, stages
        As in `athanor.dynamics.driver.Driver`.
    last_good, chances
        Follow the active systems.

    Attributes
    ----------
    part
        The active systems, in a batch of their own unless all are active. There while a batch is run.
    run
        What the driver remembers of them, rows [B]: ``known_status`` in which a system was last seen, whether it
        ``converged`` in a plain engine, whether it was ``evaluated`` where it is, whether it ``waits`` while newcomers
        are evaluated, or until the end of a step in which it failed, to try again; whether it ``has_past`` to go back
        to then, and whether hooks were ``shown`` it.
    active
        All active systems; each stage has its own `StageSpec.active`.
    has_arrivals, has_newcomers
        Whether systems may have changed stage, or become active, since somebody looked.
    """

    def __init__(self, owner: Engine, stages: Sequence[StageSpec], last_good: LastGood, chances: SecondChances) -> None:
        self._owner, self._stages, self._last_good, self._chances = owner, stages, last_good, chances
        self._key = new_key(self)
        self._forget_batch()
        self.part: Part
        self.active: ActiveSet
        self.run: Rows

    def __getstate__(self) -> dict[str, Any]:
        """Return it without the batch: what it remembers rides on that, and is found there by the key."""
        kept = ("_owner", "_stages", "_last_good", "_chances", "_key")
        return {name: value for name, value in vars(self).items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        take_key(self, self.key)
        self._forget_batch()

    def _forget_batch(self) -> None:
        self._batch: weakref.ref[Batch] | None = None
        self._membership = -1
        self._ids = ComputedFrom()
        self._chosen: Tensor | None = None
        self.is_taken_up = self.has_arrivals = self.has_newcomers = False

    @property
    def key(self) -> str:
        """Under which what the driver remembers rides on a batch, and is found there by whoever goes on."""
        return self._key

    @key.setter
    def key(self, key: str) -> None:
        self._key = key
        take_key(self, key)

    # -- the batch -----------------------------------------------------------------------------------------------

    @property
    def batch(self) -> Batch | None:
        """The batch that was taken up last, if it is still there."""
        return None if self._batch is None else self._batch()

    def rows_of(self, batch: Batch) -> Rows:
        """Return what the driver remembers of the systems of a batch; nothing if it never ran it."""
        return batch.state_rows(self.key)

    def saved(self) -> SavedRows | None:
        """Return what a restart needs to know of the run."""
        batch = self.batch
        return self._owner.saved_run if batch is None else save_rows(batch, self.key, {})

    def take_up(self, batch: Batch) -> None:
        """Put state on a batch, of the engines and of the run itself, unless it is there and nobody joined."""
        restarts = any(engine.saved_run is not None for engine in (self._owner, *self._members))
        keys = {self.key, *(engine.key for engine in self._members)}
        is_known = self.batch is batch and self._membership == batch.membership and keys <= batch.state_keys
        if is_known and self._ids.holds(batch.system_id) and not restarts:
            return
        batch.drop_orphaned_state()
        nobody = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        fresh = {"known_status": batch.status.reshape(-1).clone(), "converged": nobody}
        fresh |= {name: nobody.clone() for name in ("evaluated", "waits", "has_past", "shown")}
        rows, known = take_up_rows(batch, self.key, fresh, {}, self._owner.saved_run)
        if bool(known.any()):  # else the run starts with all of them
            rows["known_status"][~known] = ARRIVED
        for engine in self._members:
            take_up_rows(batch, engine.key, engine.fresh_rows(batch), engine.variable_levels, engine.saved_rows)
            engine.saved_rows = engine.saved_run = None
        self._owner.saved_run = None
        self._note_batch(batch)

    def take_up_joined(self, newcomers: Batch, *, returns: bool) -> None:
        """Take up systems that are about to join: they arrive, unless each `returns`, and get state."""
        self.take_up(newcomers)
        if not returns:
            self.rows_of(newcomers)["known_status"].fill_(ARRIVED)
        self.start(newcomers)

    def go_on(self, batch: Batch) -> None:
        """Go on with a batch after an exchange: all of its systems have state."""
        self._note_batch(batch)
        self.start(batch)

    def _note_batch(self, batch: Batch) -> None:
        check_distinct(batch.system_id.reshape(-1))
        self._batch, self._membership = weakref.ref(batch), batch.membership
        self._ids = ComputedFrom(batch.system_id)

    @property
    def _members(self) -> list[Engine]:
        return [stage.engine for stage in self._stages]

    def release(self) -> None:
        """Let go of the batch."""
        if self.is_taken_up:
            del self.part
            self.is_taken_up = False
            self._last_good.release()
            self._chances.release()

    # -- the active systems --------------------------------------------------------------------------------------

    def start(self, batch: Batch) -> None:
        """Choose the active systems of a batch at the start of a run."""
        self._chosen = None
        self._choose(batch)

    def _choose(self, whole: Batch) -> None:
        """Put the systems that are active into a batch of their own, unless all are."""
        run = self.rows_of(whole)
        masks = self.masks_of(whole)
        if self._chosen is not None:  # who stood still may have been changed meanwhile
            run["evaluated"].logical_and_(self._chosen | run["waits"])
        self._chosen = torch.stack(masks).any(dim=0)
        if not all(engine.works_on_part(whole) for engine in self._members):
            self._chosen = torch.ones_like(self._chosen)
        self.part, self.is_taken_up = Part(whole, self._chosen), True
        self.run = self.rows_of(self.part.batch)
        self.use_rows_of(self.part.batch)
        variables: dict[tuple[str, str], tuple[Level, Tensor]] = {
            (self.key, name): ("system", tensor) for name, tensor in self.run.items() if name != "shown"
        }
        for engine in self._members:
            levels = engine.variable_levels
            variables |= {
                (engine.key, name): (levels.get(name, "system"), tensor) for name, tensor in engine.kept_rows().items()
            }
        computed = frozenset(self._owner.model.model_config.active_outputs or ())
        self._last_good.follow(self.part.batch, variables, computed)
        self._chances.follow(self.part.batch, variables, computed)
        self._mask_stages()
        self._note_seen()

    def settled(self, batch: Batch) -> Tensor:
        """Return which systems of a batch are in the stage in which they were last seen, or are new, bool [B]."""
        known = self.rows_of(batch)["known_status"]
        return (known == batch.status.reshape(-1)) | (known == ARRIVED)

    def masks_of(self, batch: Batch) -> list[Tensor]:
        """Return which systems of a batch each stage moves, bool [B]."""
        rows = self.rows_of(batch)
        moving = ~(rows["converged"] | rows["waits"])
        return [stage.mask(batch, self._owner.exit_status) & moving for stage in self._stages]

    def _mask_stages(self) -> None:
        """Say which systems of the part are in which stage."""
        batch = self.part.batch
        masks = self.masks_of(batch)
        self.active = ActiveSet(torch.stack(masks).any(dim=0), batch)
        for stage, mask in zip(self._stages, masks, strict=True):
            stage.active = self.active if len(masks) == 1 else ActiveSet(mask, batch)
        self.has_arrivals = self.has_newcomers = True

    def _note_seen(self) -> None:
        """Note on what the choice of the active systems depends."""
        self._seen = ComputedFrom(*self._deciding(self.part.batch))
        self._seen_of_whole = ComputedFrom(*self._deciding(self.part.whole))

    def _deciding(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """What decides which systems of a batch are active."""
        held = (self.run["converged"], self.run["waits"]) if batch is self.part.batch else (None, None)
        return batch.status, batch.failure_code, batch.get("fixed"), *held

    def refresh(self) -> None:
        """Choose the active systems again if a status, a failure, `fixed` or the converged systems changed."""
        part = self.part
        others_changed = not part.is_whole and not self._seen_of_whole.holds(*self._deciding(part.whole))
        if not others_changed and self._seen.holds(*self._deciding(part.batch)):
            return
        if not others_changed and bool(torch.stack(self.masks_of(self.part.batch)).any(dim=0).all()):
            self._mask_stages()
            self._note_seen()
        else:
            part.write_back()
            self._choose(part.whole)

    @property
    def all_move(self) -> bool:
        """Whether every system of the whole batch is active still."""
        return self.part.is_whole and self.active.all and self._seen.holds(*self._deciding(self.part.batch))

    @contextmanager
    def newcomers_alone(self) -> Iterator[None]:
        """Work for a while on those active systems that were not evaluated yet, while the others wait."""
        whole = self.part.whole
        self.write_back()
        run = self.rows_of(whole)
        run["waits"].copy_(run["evaluated"])
        try:
            self._choose(whole)
            yield
            self.part.write_back()
            if self._chosen is not None:
                self._chosen = self._chosen | run["waits"]
        finally:
            run["waits"].zero_()
            self.run["waits"].zero_()
        self._choose(whole)

    def leave_out_failed(self) -> None:
        """Move systems that failed no further in this step. They stay in the part, so that the step can be undone."""
        if not self._seen.holds(*self._deciding(self.part.batch)):
            self._mask_stages()

    # -- the whole batch -----------------------------------------------------------------------------------------

    def write_back(self) -> None:
        """Write the part onto the whole batch, where that is no news about who is active."""
        known = self._seen_of_whole.holds(*self._deciding(self.part.whole))
        self.part.write_back()
        if known:
            self._seen_of_whole = ComputedFrom(*self._deciding(self.part.whole))

    @contextmanager
    def on_whole(self) -> Iterator[Batch]:
        """Work on the whole batch for a while: parameters of engines have a row for each of its systems."""
        part = self.part
        if part.is_whole:
            yield part.batch
            return
        self.write_back()
        self.use_rows_of(part.whole)
        yield part.whole
        part.read_again()
        self.use_rows_of(part.batch)

    def use_rows_of(self, batch: Batch) -> None:
        """Let every engine work on its rows of a batch."""
        for engine in self._members:
            engine.use_rows(batch.state_rows(engine.key))
