"""Runs whose systems come and go: what a sampler gives out joins, what is finished leaves for the sinks.

Each system is delivered once. Systems are delivered first, then taken out of the batch while newcomers come in; which
of them were delivered and are there still, because something raised in between, is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from athanor import _runtime
from athanor._values import check_whole
from athanor.data.batch import Batch
from athanor.dynamics.arguments import check_batch
from athanor.dynamics.evaluate import drop_results
from athanor.dynamics.sampler import Draw, Load, SizeAwareSampler
from athanor.dynamics.sources import Size
from athanor.dynamics.state import Parameter, is_schedule
from athanor.dynamics.status import (
    DoesNotJoin,
    StageSpec,
    ensure_bookkeeping,
    exchange_systems,
    finished_systems,
)
from athanor.errors import AthanorError, AthanorWarning, CapacityError, ContractError, InputError, in_words
from athanor.io.frames import concatenate
from athanor.sinks.base import DataSink, check_sink

if TYPE_CHECKING:
    from athanor.dynamics.engine import BaseDynamics

Exchange = Callable[[Tensor, Batch | None], None]
"""Takes the systems of a mask [B] out of a batch and puts those of another one in."""


class Tally(NamedTuple):
    """How many systems have come and gone: ``joined`` is the sum of all others but ``retried``.

    Parameters
    ----------
    joined
        Systems that a run has taken up.
    running
        Those that are in the batch.
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


class _Running(NamedTuple):
    """A system in the batch: its number in the sampler, None if it came otherwise, and its size as that counts it."""

    order: int | None
    size: Size


class InFlight:
    """What a run in flight remembers beside the batch.

    Parameters
    ----------
    owner
        The engine that is run; has `sampler`, `sinks`, `failure_sinks`, `max_batch_size`, `init_fn` and `ordered`.
    """

    def __init__(self, owner: BaseDynamics) -> None:
        self._owner = owner
        self._running: dict[int, _Running] = {}
        self._delivered: set[int] = set()
        self._held: dict[int, Batch] = {}
        self._next = 0
        self._joined = self._finished = self._failed = self._retried = 0

    @property
    def tally(self) -> Tally:
        """How many systems have come and gone."""
        held = len(self._held)
        running = self._joined - self._finished - self._failed - held
        return Tally(self._joined, running, self._finished, self._failed, held, self._retried)

    @property
    def sampler(self) -> SizeAwareSampler:
        """Gives out the systems."""
        assert self._owner.sampler is not None
        return self._owner.sampler

    # -- running -------------------------------------------------------------------------------------------------

    def run(self, batch: Batch | None, n_steps: int | None) -> Batch | None:
        """Run until the sampler is exhausted and all are finished, or for so many steps; see `BaseDynamics.run`."""
        owner, most = self._owner, None if n_steps is None else check_whole(n_steps, "n_steps")
        check_can_fly(owner, owner._driver.stages, most)
        owner.done, batch = False, owner.active_batch if batch is None else batch
        if batch is None:
            batch = self.first_batch()
            if batch is None:
                self._tell_of_nothing()
                owner.done = self.sampler.exhausted
                return None
        else:
            check_batch(batch, owner)
            self.take_up(batch)
            owner._check_statuses(batch)
        owner.active_batch = batch
        with owner._around_run(batch):
            is_left = self._advance(batch, most)
            owner._driver.finish()
            for sink in (*owner.sinks, *owner.failure_sinks):
                sink.flush()
        if is_left:
            return batch
        owner.active_batch, owner.done = None, self.sampler.exhausted
        return None

    def _advance(self, batch: Batch, most: int | None) -> bool:
        """Step, and refill between steps; return whether systems are left that are not finished."""
        owner, driver = self._owner, self._owner._driver
        driver.pause()
        while True:
            moving, is_over = driver.systems.active.any, most is not None and driver.done >= most
            at_refill = driver.done > 0 and owner.step_count % owner.refill_frequency == 0
            if not moving or is_over or at_refill:
                finished = driver.finished()
                if finished is not None:
                    driver.let_go(finished)
                    if not self.refill(batch, finished, driver.exchange):
                        return False
                elif not moving:
                    return True
            driver.systems.refresh()
            if is_over:
                return True
            if driver.systems.active.any:
                driver.step()
                driver.done += 1
                driver.pause()

    def refill_check(self, batch: Batch, exit_status: int) -> Batch | None:
        """Refill a batch that no run has; see `BaseDynamics.refill_check`."""
        ensure_bookkeeping(batch)
        finished = finished_systems(batch, exit_status)
        if finished is None:
            return batch
        self.take_up(batch)
        if self.refill(batch, finished, partial(exchange_systems, batch)):
            return batch
        self._owner.done = self.sampler.exhausted
        return None

    def _tell_of_nothing(self) -> None:
        """Warn that there is nothing to run, unless something was before."""
        if not self._joined:
            text = "The sampler has no system that can be run"
            text += f"; {len(self.sampler.set_aside)} were set aside." if self.sampler.set_aside else "."
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())

    # -- who joins -----------------------------------------------------------------------------------------------

    def first_batch(self) -> Batch | None:
        """Return a batch to start with, or None if there is nothing to run."""
        device, self.sampler.entry_status = self._owner.device, self._owner.first_status
        while draws := self.sampler.draw_first(self._owner.max_batch_size, device=device):
            try:
                made = self.sampler.batch_of(draws, device)
                batch = None if made is None else self._ready(draws, made)
            except BaseException:
                self.sampler.give_back(draws)
                raise
            if batch is not None:
                self._note(draws, batch)
                return batch
        return None

    def take_up(self, batch: Batch) -> None:
        """Count in the systems of a batch that somebody else made, or that an earlier run left."""
        self.sampler.entry_status = self._owner.first_status
        ensure_bookkeeping(batch)
        ids, sizes = batch.system_id.reshape(-1).tolist(), zip(batch.num_nodes_list, batch.num_edges_list, strict=True)
        new = {one: _Running(None, Size(*size)) for one, size in zip(ids, sizes, strict=True)}
        self._joined += len(new.keys() - self._running.keys())
        self._running = {one: self._running.get(one, entry) for one, entry in new.items()}
        self._delivered &= new.keys()
        self.sampler.reserve_ids(ids)

    def _note(self, draws: Iterable[Draw], batch: Batch) -> None:
        there = set(batch.system_id.reshape(-1).tolist())
        joined = {draw.system_id: _Running(draw.order, draw.size) for draw in draws if draw.system_id in there}
        self._running |= joined
        self._joined += len(joined)

    def _ready(self, draws: list[Draw], batch: Batch) -> Batch | None:
        """Return a batch of systems as one that is ready to join; None if every one of them had to be set aside."""
        initialized = None if self._owner.init_fn is None else self._owner.init_fn(batch)
        batch = initialized if isinstance(initialized, Batch) else batch
        if batch.system_id.reshape(-1).tolist() != [draw.system_id for draw in draws]:
            raise InputError(
                "`init_fn` changed which systems join. Let it change what they are like, and no `system_id`."
            )
        batch.separate_memory()
        ensure_bookkeeping(batch)
        for name in ("velocities", "velocities_present", "dof"):
            batch.ensure_field(name)
        drop_results(batch, except_for=())
        astray = self._owner.without_stage(batch)
        if astray:
            by_id = {draw.system_id: draw for draw in draws}
            for place, problem in astray.items():
                self.sampler.refuse(by_id[int(batch.system_id[place])], problem)
            batch.remove_systems(list(astray))
        return batch if len(batch) else None

    # -- between two steps ---------------------------------------------------------------------------------------

    def refill(self, batch: Batch, finished: Tensor, exchange: Exchange) -> bool:
        """Deliver the `finished` systems of a mask [B], and let others take their place; in place.

        Returns
        -------
        bool
            False if all are finished and none joined; they are still there then.
        """
        self.deliver(batch, finished)
        staying = ~finished
        anyone = bool(staying.any())
        ids = batch.system_id.reshape(-1)[staying].tolist()
        load = Load()
        for one in ids:
            load = load.plus(self._running[one].size)
        joined = self._join(batch, finished, load, exchange)
        if not joined and anyone:
            exchange(finished, None)
            joined = True
        if joined:
            self._forget_all_but(batch)
        return joined

    def _join(self, batch: Batch, finished: Tensor, load: Load, exchange: Exchange) -> bool:
        """Let systems join that fit beside a load, until one does or none is left."""
        most = self._owner.max_batch_size
        while True:
            draws = self.sampler.draw_more(load, None if most is None else most - load.systems)
            if not draws:
                return False
            if self._exchange(batch, finished, draws, exchange):
                return True

    def _exchange(self, batch: Batch, finished: Tensor, draws: list[Draw], exchange: Exchange) -> bool:
        """Let systems join, all at once or, if one of them does not fit to the batch, one by one."""
        version = batch.membership
        try:
            newcomers = self._ready(draws, self._joined_into(batch, draws))
            if newcomers is None:
                return False
            exchange(finished, newcomers)
        except DoesNotJoin as error:
            if len(draws) == 1:
                self.sampler.refuse(draws[0], in_words(error))
                return False
            joined = False
            for place, draw in enumerate(draws):
                try:
                    leaving = finished if batch.membership == version else torch.zeros_like(batch.status[:, 0] > 0)
                    joined |= self._exchange(batch, leaving, [draw], exchange)
                except BaseException:
                    self.sampler.give_back(draws[place + 1 :])
                    raise
            return joined
        except BaseException:
            if batch.membership == version:
                self.sampler.give_back(draws)
            else:
                self._note(draws, batch)
            raise
        self._note(draws, batch)
        return True

    def _joined_into(self, batch: Batch, draws: list[Draw]) -> Batch:
        try:
            return self.sampler.joined(draws, batch.device)
        except AthanorError as error:
            raise DoesNotJoin(in_words(error)) from error

    def _forget_all_but(self, batch: Batch) -> None:
        there = set(batch.system_id.reshape(-1).tolist())
        self._running = {one: entry for one, entry in self._running.items() if one in there}
        self._delivered &= there

    # -- who leaves ----------------------------------------------------------------------------------------------

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
            if int(batch.system_id[place]) not in self._delivered
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
            order = self._running[one].order
            frame = frames.index_select([number])
            if order is None:
                self._write(frame)
            else:
                self._held[order] = frame
                self._delivered.add(one)

    def _write_held(self) -> None:
        """Write the systems whose turn it is, as far as everything before them is done."""
        if not self._held:
            return
        before = {entry.order for one, entry in self._running.items() if one not in self._delivered}
        while self._next not in before:
            frame = self._held.get(self._next)
            if frame is not None:
                self._write(frame)
                del self._held[self._next]
            elif not self.sampler.was_given(self._next):
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
        self._delivered.update(frames.system_id.reshape(-1).tolist())
        failed = int((frames.failure_code.reshape(-1) != 0).sum())
        self._failed += failed
        self._finished += len(frames) - failed
        self._retried += int((frames.retries > 0).sum()) if "retries" in frames else 0

    # -- restart -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs to know beside batch and sampler."""
        return {
            "running": {one: (entry.order, *entry.size) for one, entry in self._running.items()},
            "delivered": sorted(self._delivered & self._running.keys()),
            "held": _joined(self._held),
            "next": self._next,
            "counts": (self._joined, self._finished, self._failed, self._retried),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`."""
        self._running = {one: _Running(order, Size(*size)) for one, (order, *size) in state["running"].items()}
        self._delivered = set(state["delivered"])
        self._held = {}
        for orders, frames in state["held"]:
            batch = Batch.from_state_dict(frames)
            self._held |= {order: batch.index_select([place]) for place, order in enumerate(orders)}
        self._next = state["next"]
        self._joined, self._finished, self._failed, self._retried = state["counts"]


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


def check_sampler(sampler: Any, engine: str) -> SizeAwareSampler | None:
    """Return `sampler` if it is one, or None; raises ContractError otherwise."""
    if sampler is None or isinstance(sampler, SizeAwareSampler):
        return sampler
    raise ContractError(
        f"`sampler` of {engine} is a {type(sampler).__name__}; pass `SizeAwareSampler(systems, max_atoms=...)`, which "
        f"takes data sets, lists, stores, folders and generators."
    )


def check_sinks(sinks: Any, name: str) -> list[DataSink]:
    """Return `sinks` as a list; one alone is a list of one.

    Raises
    ------
    ContractError
        If one is no sink.
    """
    if sinks is None:
        return []
    listed = [sinks] if isinstance(sinks, DataSink) or not isinstance(sinks, Iterable) else list(sinks)
    return [check_sink(sink, name) for sink in listed]


def check_can_fly(engine: BaseDynamics, stages: Sequence[StageSpec], most: int | None) -> None:
    """Refuse what can not be run in flight, and warn if nobody keeps the results.

    Raises
    ------
    InputError
        If systems would never leave, or a parameter has one value for each system of a batch.
    """
    last = stages[-1].engine
    if most is None and last.n_steps is None and last.convergence_hook is None:
        raise InputError(
            f"Systems never leave {type(last).__name__}: it has neither `n_steps` nor a `convergence_hook`. Give it "
            f"one of them, or let the run end after some steps: `run(n_steps=...)`."
        )
    for stage in stages:
        for name in Parameter.names_in(type(stage.engine)):
            value = getattr(stage.engine, name)
            rows = value.is_per_system if is_schedule(value) else isinstance(value, Tensor) and value.numel() > 1
            if rows:
                raise InputError(
                    f"`{name}` of {type(stage.engine).__name__} has one value for each system of a batch, and systems "
                    f"of a sampler come and go. Give one number."
                )
    hooks = [hook for member in (engine, *engine._members()) for hook in member.hooks]
    if not engine.sinks and not any(getattr(hook, "sink", None) or hasattr(hook, "on_leave") for hook in hooks):
        text = (
            f"Finished systems leave {type(engine).__name__}, and nobody keeps them: it has neither `sinks` nor a hook "
            f"that writes. Give it `sinks=[HostMemory(capacity=1000)]`."
        )
        warnings.warn(AthanorWarning(text, "nothing is kept"), stacklevel=_runtime.level_of_caller())
