"""Who leaves a run in flight: each system is given to the sinks once, in order if that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from athanor.data.batch import Batch
from athanor.dynamics.sources import Size
from athanor.errors import CapacityError
from athanor.io.frames import concatenate
from athanor.sinks.base import DataSink

if TYPE_CHECKING:
    from athanor.dynamics.contract import Owner


class Tally(NamedTuple):
    """How many systems have come and gone: ``joined`` is the sum of all others but ``retried``.

    Parameters
    ----------
    joined
        Systems that a run has taken up.
    running
        Those that are in the batch, or wait until there is memory for them.
    finished, failed
        Those that were delivered, by whether they failed.
    held
        Those that are finished and wait for one before them, where results are delivered in order.
    retried
        Those of the delivered ones that had gone back and on with smaller steps.
    """

    joined: int
    running: int
    finished: int
    failed: int
    held: int
    retried: int = 0


class Running(NamedTuple):
    """A system in the batch: its number in the sampler, None if it came otherwise, and its size as that counts it."""

    order: int | None
    size: Size


class Delivery:
    """Who has joined a run, who is still in it, and who was delivered.

    Parameters
    ----------
    owner
        The engine that is run; has `sampler`, `sinks`, `failure_sinks` and `ordered`.

    Attributes
    ----------
    running
        Systems that have joined and were not taken out, by id.
    delivered
        Ids of those of them that were delivered, or wait for their turn.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.running: dict[int, Running] = {}
        self.delivered: set[int] = set()
        self._held: dict[int, Batch] = {}
        self._next = 0
        self.joined = self._finished = self._failed = self._retried = 0

    @property
    def tally(self) -> Tally:
        """How many systems have come and gone."""
        held = len(self._held)
        running = self.joined - self._finished - self._failed - held
        return Tally(self.joined, running, self._finished, self._failed, held, self._retried)

    def join(self, systems: dict[int, Running]) -> None:
        """Count in systems that join."""
        self.running |= systems
        self.joined += len(systems)

    def take_back(self, systems: Batch) -> None:
        """Count systems that were delivered as ones that run."""
        ids, sizes = (
            systems.system_id.reshape(-1).tolist(),
            zip(systems.num_nodes_list, systems.num_edges_list, strict=True),
        )
        self.running |= {one: Running(None, Size(*size)) for one, size in zip(ids, sizes, strict=True)}
        self.delivered.difference_update(ids)
        self._count(systems, -1)

    def forget_all_but(self, ids: set[int]) -> None:
        """Forget those who were taken out."""
        self.running = {one: entry for one, entry in self.running.items() if one in ids}
        self.delivered &= ids

    def deliver(self, batch: Batch, finished: Tensor) -> None:
        """Give the `finished` systems of a mask [B] to the sinks, unless that was done already.

        Raises
        ------
        CapacityError
            If the sinks have no room for them; nothing is written then.
        """
        places = [
            place
            for place in finished.nonzero().flatten().tolist()
            if int(batch.system_id[place]) not in self.delivered
        ]
        frames = batch.without_pairs().index_select(places) if places else None
        if frames is not None and not self._owner.ordered:
            self._write(frames)
        elif frames is not None:
            self._hold(frames)
        self._write_held()

    def _hold(self, frames: Batch) -> None:
        """Let systems wait for their turn."""
        for number, one in enumerate(frames.system_id.reshape(-1).tolist()):
            order = self.running[one].order
            frame = frames.index_select([number])
            if order is None:
                self._write(frame)
            else:
                self._held[order] = frame
                self.delivered.add(one)

    def _write_held(self) -> None:
        """Write the systems whose turn it is, as far as everything before them is done."""
        if not self._held:
            return
        sampler = self._owner.sampler
        before = {entry.order for one, entry in self.running.items() if one not in self.delivered}
        while self._next not in before:
            frame = self._held.get(self._next)
            if frame is not None:
                self._write(frame)
                del self._held[self._next]
            elif sampler is None or not sampler.was_given(self._next):
                return
            self._next += 1

    def _write(self, frames: Batch) -> None:
        """Write systems to the sinks: to the first one that has room, failed ones to those for failures."""
        owner, failed = self._owner, frames.failure_code.reshape(-1) != 0
        parts = [(frames, owner.sinks)]
        if owner.failure_sinks and bool(failed.any()):
            parts = [(frames.index_select(~failed), owner.sinks)] if not bool(failed.all()) else []
            parts.append((frames.index_select(failed), owner.failure_sinks))
        plans = [(part, _plan(len(part), sinks)) for part, sinks in parts if sinks]
        for part, plan in plans:
            first = 0
            for sink, count in plan:
                some = part if count == len(part) else part.index_select(slice(first, first + count))
                sink.write(some)
                self._note_written(some)
                first += count
        for part, sinks in parts:
            if not sinks:
                self._note_written(part)

    def _note_written(self, frames: Batch) -> None:
        self.delivered.update(frames.system_id.reshape(-1).tolist())
        self._count(frames, 1)

    def _count(self, systems: Batch, sign: int) -> None:
        failed = int((systems.failure_code.reshape(-1) != 0).sum())
        self._failed += sign * failed
        self._finished += sign * (len(systems) - failed)
        self._retried += sign * int((systems.retries > 0).sum()) if "retries" in systems else 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs to know beside the batch."""
        return {
            "running": {one: (entry.order, *entry.size) for one, entry in self.running.items()},
            "delivered": sorted(self.delivered & self.running.keys()),
            "held": _joined(self._held),
            "next": self._next,
            "counts": (self.joined, self._finished, self._failed, self._retried),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`."""
        self.running = {one: Running(order, Size(*size)) for one, (order, *size) in state["running"].items()}
        self.delivered = set(state["delivered"])
        self._held = {}
        for orders, frames in state["held"]:
            batch = Batch.from_state_dict(frames)
            self._held |= {order: batch.index_select([place]) for place, order in enumerate(orders)}
        self._next = state["next"]
        self.joined, self._finished, self._failed, self._retried = state["counts"]


def _joined(frames: dict[int, Batch]) -> list[tuple[list[int], dict[str, Any]]]:
    """Return systems that wait as few batches, each of those with the same fields: (their numbers, its tree)."""
    groups: dict[Any, list[int]] = {}
    for order, frame in sorted(frames.items()):
        fields = tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in frame)
        groups.setdefault(fields, []).append(order)
    return [(orders, concatenate([frames[order] for order in orders]).state_dict()) for orders in groups.values()]


def _plan(count: int, sinks: Sequence[DataSink]) -> list[tuple[DataSink, int]]:
    """Return how many of `count` systems go to which sink: the first ones that have room."""
    plan, left = [], count
    for sink in sinks:
        room = left if sink.capacity is None else min(left, sink.capacity - len(sink))
        if room > 0:
            plan.append((sink, room))
            left -= room
    if left:
        raise CapacityError(
            f"The sinks have no room for {left} of {count} finished systems. Nothing was written; `drain()` one of "
            f"them, then go on with `engine.run()`."
        )
    return plan
