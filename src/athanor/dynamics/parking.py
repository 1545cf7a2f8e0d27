"""Systems of a run in flight that wait, with all that rides on them, and are put back later.

Where memory is wanting that is half of the batch; where a finished run goes on, those that there is no room for yet.
What a batch may hold since memory was wanting does not grow again in a run. But where one system alone turns out to be
what there is no memory for, it fails, and what was concluded from batches that it was in is forgotten.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from athanor import _runtime
from athanor._values import shown
from athanor.data._membership import together
from athanor.data.batch import Batch
from athanor.dynamics.caps import Caps, Load
from athanor.dynamics.failures import FailureCode
from athanor.dynamics.sources import Size
from athanor.dynamics.status import exchange_systems, finished_systems
from athanor.errors import AthanorWarning, CapacityError

if TYPE_CHECKING:
    from athanor.dynamics.contract import Owner


class Parking:
    """Systems that wait, and what a batch may hold since the memory did not suffice.

    Parameters
    ----------
    owner
        The engine that is run; its sampler holds the caps.

    Attributes
    ----------
    untested
        What the batch holds, if no step was done since somebody joined or was parked.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._groups: list[_Group] = []
        self._smallest = Size(0, 0)
        self.untested: Load | None = None
        self._found: list[tuple[frozenset[int], float]] = []
        self._did_not_fit: Load | None = None
        self._failed: list[int] = []

    @property
    def ids(self) -> set[int]:
        """Ids of the systems that wait."""
        return {one for group in self._groups for one in group.places}

    def __len__(self) -> int:
        return sum(len(group.places) for group in self._groups)

    def add(self, systems: Batch) -> None:
        """Let systems wait behind those that do, in a batch of which nobody else changes anything."""
        self._groups.append(_Group(systems, {one: n for n, one in enumerate(systems.system_id.reshape(-1).tolist())}))
        self._smallest = Size(0, 0)

    def make_room(self, batch: Batch, sizes: Mapping[int, Size], caps: Caps, reason: str) -> None:
        """Park systems of a batch, so that it holds at most half; one that is alone fails, with the reason; in place.

        Parameters
        ----------
        batch
            As it was after the last whole step, and not taken up by a run.
        sizes
            Size of each system, by id.
        caps
            Gets what a batch may hold from now on.
        reason
            What was raised.

        Raises
        ------
        CapacityError
            If no system of the batch moves, and none can be parked.
        """
        finished = finished_systems(batch, self._owner.exit_status)
        moving = list(range(len(batch))) if finished is None else (~finished).nonzero().flatten().tolist()
        ids = batch.system_id.reshape(-1).tolist()
        if not moving:
            raise CapacityError(f"The memory does not suffice for a batch in which nobody moves: {reason}")
        if len(moving) == 1:
            self.fail(batch, moving[0], caps, reason)
        else:
            most = self.halve(caps, Load(), {ids[place]: sizes[ids[place]] for place in moving})
            staying, held = set(), Load()
            for place in moving:
                more = held.plus(sizes[ids[place]])
                if more.systems <= len(moving) // 2 and caps.bytes_of(more) <= most:
                    staying.add(place)
                    held = more
            self._park(batch, [place for place in moving if place not in staying])
            self.untested = held
        gc.collect()
        if batch.device.type == "cuda":
            torch.cuda.empty_cache()

    def _park(self, batch: Batch, places: list[int]) -> None:
        leaving = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        self.add(batch.index_select(places))
        leaving[places] = True
        exchange_systems(batch, leaving, None)

    def fail(self, batch: Batch, place: int, caps: Caps, reason: str) -> None:
        """Mark a system as one for which alone the memory does not suffice, in place."""
        one = int(batch.system_id[place])
        self._owner.failure_notes[one] = reason
        batch.failure_code[place] = int(FailureCode.OUT_OF_MEMORY)
        was_evaluated = self._owner._driver.systems.rows_of(batch)["evaluated"][place]
        batch.failure_step[place] = (batch.step[place] + was_evaluated).to(batch.failure_step.dtype)
        batch.status[place] = self._owner.exit_status
        self._found = [found for found in self._found if one not in found[0]]
        self._failed.append(one)
        self._did_not_fit = self._did_not_fit or Load(1, batch.num_nodes_list[place])
        caps.working_bytes = min((most for _, most in self._found), default=None)

    def halve(self, caps: Caps, load: Load, sizes: Mapping[int, Size]) -> float:
        """Let a batch hold at most half, from now on, of a `load` and systems that did not fit beside it.

        Returns
        -------
        float
            How many bytes that is.
        """
        for size in sizes.values():
            load = load.plus(size)
        self._found.append((frozenset(sizes), caps.bytes_of(load) / 2))
        caps.working_bytes = min(most for _, most in self._found)
        self._did_not_fit = self._did_not_fit or load
        return caps.working_bytes

    def choose(self, load: Load, sizes: Mapping[int, Size], caps: Caps, most: int | None) -> Batch | None:
        """Return those that fit beside a load, at least one beside nobody; None if none does. They wait still."""
        if load.systems and not self._one_may_fit(load, sizes, caps, most):
            return None
        chosen = []
        for group in self._groups:
            places = []
            for one, place in group.places.items():
                more = load.plus(sizes[one])
                if (caps.allow(more) and (most is None or more.systems <= most)) or not load.systems:
                    places.append(place)
                    load = more
            if places:
                chosen.append(group.systems.index_select(places))
        if not chosen:
            return None
        batch, *others = together(chosen)
        for other in others:
            batch.append(other)
        return batch

    def _one_may_fit(self, load: Load, sizes: Mapping[int, Size], caps: Caps, most: int | None) -> bool:
        """Whether a system would fit that is no larger, in anything, than any that waits: mostly none does."""
        if not self._smallest.atoms:
            waiting = [sizes[one] for one in self.ids]
            self._smallest = Size(min(size.atoms for size in waiting), min(size.edges for size in waiting))
        more = load.plus(self._smallest)
        return caps.allow(more) and (most is None or more.systems <= most)

    def forget(self, ids: Iterable[int]) -> None:
        """Let systems wait no longer: they are in the batch."""
        there = set(ids)
        for group in self._groups:
            group.places = {one: place for one, place in group.places.items() if one not in there}
        self._groups = [group for group in self._groups if group.places]
        self._smallest = Size(0, 0)

    def worked(self, caps: Caps) -> None:
        """Note that a step of a batch that was untested is done, and say what was found if there was an incident."""
        self.untested = None
        if self._did_not_fit is None:
            return
        load, failed = self._did_not_fit, self._failed
        self._did_not_fit, self._failed = None, []
        text = f"The memory did not suffice for a batch of {load.systems} systems and {load.atoms:,} atoms. "
        if failed:
            text += f"It does not suffice for these alone, by their `system_id`, which failed: {shown(failed)}. "
        if caps.working_bytes is None:
            text += "The batch holds as much as before."
        else:
            atoms = caps.working_bytes / caps.bytes_of(load) * load.atoms
            text += f"From here on the batch holds about {atoms:,.0f} atoms"
            text += f"; {len(self)} systems wait until there is room." if len(self) else "."
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs to know: the systems, with all that rides on them, and what was found."""
        waiting = [group.systems.index_select(list(group.places.values())) for group in self._groups]
        return {
            "systems": [some.state_dict() for some in together(waiting)],
            "found": [(sorted(ids), most) for ids, most in self._found],
        }

    def load_state_dict(self, state: dict[str, Any], caps: Caps, device: torch.device) -> None:
        """Take up `state` from `state_dict`."""
        self._groups = []
        for tree in state["systems"]:
            self.add(Batch.from_state_dict(tree, device))
        self._found = [(frozenset(ids), most) for ids, most in state["found"]]
        caps.working_bytes = min((most for _, most in self._found), default=None)
        self.untested = self._did_not_fit = None


@dataclass(slots=True)
class _Group:
    """Systems that came together, and those of them that wait still: id -> place in the batch, in order."""

    systems: Batch
    places: dict[int, int]


def load_of(sizes: Iterable[Size]) -> Load:
    """Return what systems of these sizes are together."""
    load = Load()
    for size in sizes:
        load = load.plus(size)
    return load
