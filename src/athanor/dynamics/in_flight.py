"""Runs whose systems come and go: what a sampler gives out joins, what is finished leaves for the sinks.

Each system is delivered once. Systems are delivered first, then taken out of the batch while newcomers come in; which
of them were delivered and are there still, because something raised in between, is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from athanor import _runtime
from athanor._memory import is_out_of_memory
from athanor._values import check_whole
from athanor.data._membership import check_joinable
from athanor.data.batch import Batch
from athanor.dynamics.arguments import check_batch, check_can_fly
from athanor.dynamics.caps import Load
from athanor.dynamics.delivery import Delivery, Running
from athanor.dynamics.evaluate import drop_results
from athanor.dynamics.gate import Draw
from athanor.dynamics.labels import Labels
from athanor.dynamics.parking import Parking, load_of
from athanor.dynamics.sampler import SizeAwareSampler
from athanor.dynamics.sources import Size
from athanor.dynamics.status import (
    DoesNotJoin,
    ensure_bookkeeping,
    exchange_systems,
    finished_systems,
)
from athanor.errors import AthanorError, AthanorWarning, InputError, in_words

if TYPE_CHECKING:
    from athanor.dynamics.contract import Owner


class Exchange(Protocol):
    """Takes the systems of a mask [B] out of a batch and puts those of another one in, who are new or return."""

    def __call__(self, leaving: Tensor, newcomers: Batch | None, *, returns: bool = False) -> None:
        """See `Driver.exchange`."""


class InFlight:
    """What a run in flight remembers beside the batch.

    Parameters
    ----------
    owner
        The engine that is run; has `sampler`, `sinks`, `failure_sinks`, `max_batch_size`, `init_fn` and `ordered`.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.delivery = Delivery(owner)
        self._parking = Parking(owner)

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
        with owner._around_run(batch, self._begin):
            is_left = self._advance(batch, most)
            owner._driver.finish()
            for sink in (*owner.sinks, *owner.failure_sinks):
                sink.flush()
        if is_left:
            return batch
        owner.active_batch, owner.done = None, self.sampler.exhausted
        return None

    def _begin(self, batch: Batch, *, goes_on: bool = False) -> None:
        """Let the driver take up a batch, or what there is memory for of it."""
        while True:
            self._parking.untested = self._load_of(batch)
            try:
                return self._owner._driver.begin(batch, forget_converged=True, goes_on=goes_on)
            except Exception as error:
                if not self._can_make_room(batch, error):
                    raise
                reason = in_words(error)
            self._make_room(batch, reason)  # not in the handler: what the failed pass held is let go of first

    def _advance(self, batch: Batch, most: int | None) -> bool:
        """Step, and refill between steps; return whether systems are left that are not finished."""
        self._owner._driver.pause()
        while True:
            try:
                return self._advance_until(batch, most)
            except Exception as error:
                if not self._can_make_room(batch, error):
                    raise
                reason = in_words(error)
            self._make_room(batch, reason)
            self._begin(batch, goes_on=True)

    def _advance_until(self, batch: Batch, most: int | None) -> bool:
        owner, driver, parking = self._owner, self._owner._driver, self._parking
        while True:
            moving, is_over = driver.systems.active.any, most is not None and driver.done >= most
            at_refill = driver.done > 0 and owner.step_count % owner.refill_frequency == 0
            if not moving or is_over or at_refill:
                finished = driver.finished()
                if finished is not None:
                    driver.let_go(finished)
                elif len(parking):
                    finished = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
                elif not moving:
                    return True
                if finished is not None and not self.refill(batch, finished, driver.exchange):
                    return False
            driver.systems.refresh()
            if is_over:
                return True
            if driver.systems.active.any:
                driver.step()
                driver.done += 1
                if parking.untested is not None:
                    parking.worked(self.sampler.caps)
                driver.pause()

    def _can_make_room(self, batch: Batch, error: Exception) -> bool:
        """Whether an error is want of memory in the midst of a step or an evaluation, and something can be done."""
        if not self._owner._driver.unfinished or not is_out_of_memory(error):
            return False
        return self._owner.on_error != "raise" or self._count_moving(batch) > 1

    def _count_moving(self, batch: Batch) -> int:
        finished = finished_systems(batch, self._owner.exit_status)
        return len(batch) - (0 if finished is None else int(finished.sum()))

    def _make_room(self, batch: Batch, reason: str) -> None:
        """Undo the step that was begun, and let half of the batch wait."""
        self._owner._driver.end(failed=True)
        self._owner._driver.undo_unfinished_step(batch)
        self._parking.make_room(batch, self._sizes, self.sampler.caps, reason)

    @property
    def _sizes(self) -> Mapping[int, Size]:
        return {one: entry.size for one, entry in self.delivery.running.items()}

    def _load_of(self, batch: Batch, chosen: Tensor | None = None) -> Load:
        """Return what systems of a batch, of a mask [B] or all, count against the caps."""
        ids = batch.system_id.reshape(-1)
        running = self.delivery.running
        return load_of(running[one].size for one in (ids if chosen is None else ids[chosen]).tolist())

    def refill_check(self, batch: Batch, exit_status: int) -> Batch | None:
        """Refill a batch that no run has; see `BaseDynamics.refill_check`."""
        ensure_bookkeeping(batch)
        finished = finished_systems(batch, exit_status)
        if finished is None:
            return batch
        self.take_up(batch)

        def exchange(leaving: Tensor, newcomers: Batch | None, *, returns: bool = False) -> None:
            exchange_systems(batch, leaving, newcomers)

        if self.refill(batch, finished, exchange):
            return batch
        self._owner.done = self.sampler.exhausted
        return None

    def _tell_of_nothing(self) -> None:
        """Warn that there is nothing to run, unless something was before."""
        if not self.delivery.joined:
            text = "The sampler has no system that can be run"
            text += f"; {len(self.sampler.set_aside)} were set aside." if self.sampler.set_aside else "."
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())

    # -- who joins -----------------------------------------------------------------------------------------------

    def first_batch(self) -> Batch | None:
        """Return a batch to start with, or None if there is nothing to run."""
        device, self.sampler.gate.entry_status = self._owner.device, self._owner.first_status
        while draws := self.sampler.draw_first(self._owner.max_batch_size, device=device):
            try:
                made = self.sampler.batch_of(draws, device, self._labels)
                there = set() if made is None else set(made.system_id.reshape(-1).tolist())
                fitting = [draw for draw in draws if draw.system_id in there]
                batch = None if made is None else self._ready(fitting, made)
            except BaseException as error:
                self.sampler.give_back(draws)
                if not is_out_of_memory(error):
                    raise
                reason = in_words(error)
            else:
                if batch is None:
                    continue
                self._note(draws, batch)
                return batch
            self._lower(Load(), draws, reason)
        return None

    def take_up(self, batch: Batch) -> None:
        """Count in the systems of a batch that somebody else made, or that an earlier run left."""
        self.sampler.gate.entry_status = self._owner.first_status
        ensure_bookkeeping(batch)
        ids, sizes = batch.system_id.reshape(-1).tolist(), zip(batch.num_nodes_list, batch.num_edges_list, strict=True)
        running = self.delivery.running
        new = {one: Running(None, Size(*size)) for one, size in zip(ids, sizes, strict=True) if one not in running}
        self.delivery.join(new)
        self._parking.forget(ids)  # who was about to be put back, or to be parked, when something else raised
        self.delivery.forget_all_but(self._parking.ids.union(ids))
        self.sampler.gate.reserve_ids(ids)

    def _note(self, draws: Iterable[Draw], batch: Batch) -> None:
        there = set(batch.system_id.reshape(-1).tolist())
        self.delivery.join(
            {draw.system_id: Running(draw.order, draw.size) for draw in draws if draw.system_id in there}
        )

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

        Those that wait because the memory did not suffice come before those that the sampler has.

        Returns
        -------
        bool
            False if all are finished and none joined; they are still there then.
        """
        self.delivery.deliver(batch, finished)
        finished = self._put_back(batch, finished, exchange)
        load = self._load_of(batch, ~finished)
        joined = not len(self._parking) and self._join(batch, finished, load, exchange)
        if not joined and bool(finished.any()):
            if not load.systems:
                return False
            exchange(finished, None)
        self.delivery.forget_all_but(self._parking.ids.union(batch.system_id.reshape(-1).tolist()))
        return True

    def _put_back(self, batch: Batch, leaving: Tensor, exchange: Exchange) -> Tensor:
        """Let parked systems take the place of those that are `leaving`; return who, bool [B], is leaving still."""
        parking = self._parking
        load = self._load_of(batch, ~leaving) if len(parking) else Load()
        if not len(parking) or (load.systems and parking.untested is not None):
            return leaving
        membership = batch.membership
        while True:
            returning = parking.choose(load, self._sizes, self.sampler.caps, self._owner.max_batch_size)
            if returning is None:
                return leaving
            ids = returning.system_id.reshape(-1).tolist()
            try:
                self._let_in(batch, leaving, returning, exchange, returns=True)
                break
            except Exception as error:
                if batch.membership != membership or not is_out_of_memory(error):
                    raise
            finally:
                if batch.membership != membership:
                    parking.forget(ids)
            parking.halve(self.sampler.caps, load, {one: self._sizes[one] for one in ids})
        parking.untested = self._load_of(batch)
        return torch.zeros(len(batch), dtype=torch.bool, device=batch.device)

    def _let_in(
        self, batch: Batch, leaving: Tensor, newcomers: Batch, exchange: Exchange, *, returns: bool = False
    ) -> None:
        """Put systems into a batch; one for which alone the memory does not suffice joins as one that failed."""
        membership = batch.membership
        try:
            exchange(leaving, newcomers, returns=returns)
            return
        except Exception as error:
            is_alone = len(newcomers) == 1 and bool(leaving.all()) and self._owner.on_error != "raise"
            if not is_alone or batch.membership != membership or not is_out_of_memory(error):
                raise
            reason = in_words(error)
        self._parking.fail(newcomers, 0, self.sampler.caps, reason)
        exchange(leaving, newcomers, returns=True)

    def _join(self, batch: Batch, finished: Tensor, load: Load, exchange: Exchange) -> bool:
        """Let systems join that fit beside a load, until one does or none is left."""
        most, membership = self._owner.max_batch_size, batch.membership
        while True:
            draws = self.sampler.draw_more(load, None if most is None else most - load.systems)
            if not draws:
                return False
            try:
                if self._exchange(batch, finished, draws, exchange):
                    self._parking.untested = self._load_of(batch)
                    return True
                continue
            except Exception as error:
                if batch.membership != membership or not is_out_of_memory(error):
                    raise
                reason = in_words(error)
            self._lower(load, draws, reason)

    def _lower(self, load: Load, draws: list[Draw], reason: str) -> None:
        """Draw less from now on: systems that were given back did not fit beside a `load`; one alone is set aside."""
        if len(draws) == 1 and not load.systems:
            self.sampler.refuse(draws[0], f"the memory does not suffice for it alone: {reason}")
        else:
            self._parking.halve(self.sampler.caps, load, {draw.system_id: draw.size for draw in draws})

    def _exchange(self, batch: Batch, finished: Tensor, draws: list[Draw], exchange: Exchange) -> bool:
        """Let systems join, all at once or, if one of them does not fit to the batch, one by one."""
        version = batch.membership
        try:
            newcomers = self._ready(draws, self._joined_into(batch, draws))
            if newcomers is None:
                return False
            self._let_in(batch, finished, newcomers, exchange)
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
            joined = self.sampler.joined(draws, batch.device)
            self._labels.fit(joined, batch)
            check_joinable(batch, joined)  # before anything is computed for those who join
        except AthanorError as error:
            raise DoesNotJoin(in_words(error)) from error
        return joined

    @cached_property
    def _labels(self) -> Labels:
        config = self._owner.model.model_config
        return Labels(config.required_inputs | config.optional_inputs)

    # -- restart -------------------------------------------------------------------------------------------------

    def take_back(self, batch: Batch, left: Sequence[Batch]) -> Batch | None:
        """Let systems that have left be in the run again, with all that rides on them; return the batch to go on with.

        Parameters
        ----------
        batch
            Of the run as it was. Those who have left and stand in it still, as nobody took their place, are taken out.
        left
            Those who are to be in the run again. They wait until there is room for them.

        Returns
        -------
        Batch or None
            The batch, or one of those who wait if nobody is left in it; None if nobody waits either.
        """
        ids = batch.system_id.reshape(-1).tolist()
        gone = [place for place, one in enumerate(ids) if one in self.delivery.delivered]
        for systems in left:
            self.delivery.take_back(systems)
            self._parking.add(systems)
        if len(gone) < len(batch):
            if gone:
                batch.remove_systems(gone)
            return batch
        first = self._parking.choose(Load(), self._sizes, self.sampler.caps, self._owner.max_batch_size)
        if first is not None:
            first.mark_results_fresh(self._owner._driver.results_source, self._owner._driver.needs)
            self._parking.forget(first.system_id.reshape(-1).tolist())
        return first

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs to know beside batch and sampler."""
        return self.delivery.state_dict() | {"parking": self._parking.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`."""
        self.delivery.load_state_dict(state)
        self._parking.load_state_dict(state["parking"], self.sampler.caps, self._owner.device)
