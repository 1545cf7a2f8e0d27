"""Systems that failed go some steps back, and on from there with smaller ones: who may, and what they go back to.

The last good state is too late: when a number stops being finite, a system has been on its way out for ten steps or so,
with energies beyond all sense. So each system keeps two older states, one of every `EVERY` steps of its own, and goes
back to the older one, which it left between `EVERY` and twice as many steps ago, or to where it entered the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data._followers import take_key
from athanor.dynamics.contract import Engine
from athanor.dynamics.last_good import LastGood, Variables
from athanor.dynamics.rows import SavedRows
from athanor.dynamics.status import StageSpec

if TYPE_CHECKING:
    from athanor.data.batch import Batch

EVERY = 20
"""Steps between two states that are kept. A crystal that a time step is too large for was found broken 4 to 13 steps
after its energy had left what is physical, by 1 eV or 0.01 eV an atom."""

_MOST_HALVINGS = 40  # beyond which nobody waits so many steps


class SecondChances:
    """Keeps older states of the systems that move, on their batch, and puts failed ones back to them.

    Parameters
    ----------
    owner, stages
        As in `athanor.dynamics.driver.Driver`.

    Attributes
    ----------
    waiting
        Whether a system failed in this step that goes on.
    """

    def __init__(self, owner: Engine, stages: Sequence[StageSpec]) -> None:
        self._owner, self._stages = owner, stages
        self._states = (LastGood(("time",)), LastGood(("time",)))
        self._batch: Batch | None = None
        self._saved: list[SavedRows] | None = None
        self.waiting = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_batch": None}

    @property
    def are_given(self) -> bool:
        """Whether the run gives any."""
        return self._owner.on_error == "retry"

    def follow(self, batch: Batch, variables: Variables, computed: frozenset[str]) -> None:
        """Keep older states of `batch` from now on; as in `LastGood.follow`. Those that were loaded come onto it."""
        if not self.are_given:
            return
        engines = [stage.engine for stage in self._stages]
        names = {(engine.key, name) for engine in engines for name in engine.rows_of_motion}
        kept = {name: rows for name, rows in variables.items() if name in names}
        self._batch = batch
        for state, saved in zip(self._states, self._saved or (None, None), strict=True):
            state.follow(batch, kept, computed)
            if saved is not None:
                state.take_up(saved)
        self._saved = None

    def release(self) -> None:
        """Let go of the batch."""
        self._batch, self.waiting = None, False
        for state in self._states:
            state.release()

    def look(self, active: Tensor, has_past: Tensor) -> None:
        """At the start of a step: keep the state of `active` systems, bool [B], that begin, or for which it is time.

        Those that have no past to go back to, bool [B], begin; they have one then, in place.
        """
        self.waiting = False
        if not self.are_given:
            return
        made = self._steps_made
        begins = active & ((made == 0) | ~has_past)
        if not bool((begins | (active & (made % EVERY == 0))).any()):
            return
        periods = self._periods
        due = begins | (active & (made % periods == 0))
        for place, state in enumerate(self._states):
            state.keep(begins | (due & (made // periods % 2 == place)))
        has_past.logical_or_(due)

    def keep(self, systems: Tensor) -> None:
        """Take the present state of the `systems` of a mask [B] as what they go back to, whatever was before."""
        if bool(systems.any()):
            for state in self._states:
                state.keep(systems)

    def grant(self, failed: Tensor) -> Tensor | None:
        """Return which of the `failed` systems of a mask [B] may try again, bool [B]; None if none may."""
        if not self.are_given:
            return None
        may = torch.zeros_like(failed)
        for stage in self._stages:
            halvings = stage.engine.times_halved
            if halvings is not None:
                may |= stage.active.systems & (halvings < self._owner.max_retries)
        again = failed & may
        self.waiting |= bool(again.any())
        return again if self.waiting else None

    def go_back(self, systems: Tensor) -> None:
        """Put the `systems` of a mask [B] back to the older of their states, in place; counters but `time` stay."""
        older = (self._steps_made // self._periods + 1) % 2
        for place, state in enumerate(self._states):
            state.put_back(systems & (older == place))

    @property
    def _periods(self) -> Tensor:
        """Steps between two states of each system, int64 [B]: with smaller steps it takes more of them to break."""
        assert self._batch is not None
        halvings = torch.zeros_like(self._steps_made)
        for stage in self._stages:
            halved = stage.engine.times_halved
            if halved is not None:
                halvings = torch.where(stage.mask(self._batch, self._owner.exit_status), halved, halvings)
        return EVERY << halvings.clamp(max=_MOST_HALVINGS)

    def state_dict(self, batch: Batch | None) -> dict[str, Any]:
        """Return what a restart needs to know: under which keys older states ride on a batch, and those of `batch`."""
        rows = self._saved
        if rows is None and batch is not None and self.are_given:
            rows = [state.saved_from(batch) for state in self._states]
        return {"keys": [state.key for state in self._states], "rows": [each._asdict() for each in rows or ()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned, at the next run; without rows, those that ride on its batch."""
        for mine, key in zip(self._states, state["keys"], strict=True):
            mine.key = key
            take_key(mine, key)
        self._saved = [SavedRows(**rows) for rows in state["rows"]] or None

    @property
    def _steps_made(self) -> Tensor:
        """Steps of each system in its stage, int64 [B]."""
        assert self._batch is not None
        return self._batch.stage_step.reshape(-1)
