"""The one step loop, over a list of stages. Read `Driver.step` to see what a step does, in order.

An engine is a run of one stage, a `FusedStage` of several; neither has a loop of its own. The driver owns what is
common: when results are fresh, entry into a stage, failures, counters, migration, and the last whole step, to which an
unfinished one is undone. Which systems are worked on is in `working_set`, who is called when in `hook_calls`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._memory import is_out_of_memory
from athanor.data._followers import take_key
from athanor.data.fields import FIELDS
from athanor.dynamics.admission import search_radius
from athanor.dynamics.contract import Engine
from athanor.dynamics.evaluate import NOT_OF_A_SYSTEM, drop_results, evaluate, evaluate_apart
from athanor.dynamics.hook_calls import HookCalls
from athanor.dynamics.last_good import LastGood, systems_where
from athanor.dynamics.quarantine import Quarantine
from athanor.dynamics.rows import mask_of_rows
from athanor.dynamics.second_chances import SecondChances
from athanor.dynamics.status import StageSpec, count_step, ensure_bookkeeping, exchange_systems, finished_systems
from athanor.dynamics.working_set import ARRIVED, WorkingSet
from athanor.errors import InputError
from athanor.hooks.stages import DynamicsStage as At

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class Driver:
    """Advance a batch through stages, one forward pass a step.

    Parameters
    ----------
    owner
        The engine that the user runs: holds the model, its own hooks, `exit_status`, `on_error`, `step_count`.
    stages
        Stages in order. For a plain engine the only one is the owner itself.

    Attributes
    ----------
    unfinished
        Whether a step, or an evaluation before one, has begun and not come to its end.
    done
        Steps of the present run.
    resumed
        A batch of which the next run is one that was interrupted, and the steps that this had done.
    """

    def __init__(self, owner: Engine, stages: Sequence[StageSpec]) -> None:
        self.owner, self.stages = owner, list(stages)
        self._moves_cell = any(stage.engine.moves_cell for stage in stages)
        self._last_good = LastGood()
        self.chances = SecondChances(owner, self.stages)
        self.systems = WorkingSet(owner, self.stages, self._last_good, self.chances)
        self._call_hooks = HookCalls(owner, self.stages, self.systems)
        self.unfinished = False
        self._needs: frozenset[str]
        self._computed: frozenset[str]
        self.done = 0
        self.resumed: tuple[Batch, int] | None = None

    # -- the step ------------------------------------------------------------------------------------------------

    def step(self) -> Tensor | None:
        """Advance every active system by one step and return the indices that finished in it, or None."""
        systems, call_hooks = self.systems, self._call_hooks
        self.unfinished = True
        call_hooks.look()
        for stage in self.stages:
            stage.converged = None
        call_hooks.changed = False
        call_hooks(At.BEFORE_STEP)
        if call_hooks.changed:
            systems.refresh()
        self._enter_stages()
        self._evaluate_newcomers()
        self.chances.look(systems.active.systems, systems.run["has_past"])
        batch = systems.part.batch
        for stage in self.stages:
            call_hooks(At.BEFORE_PRE_UPDATE, stage)
            if stage.active.any:
                stage.engine.update("pre_update", batch, stage.active)
            call_hooks(At.AFTER_PRE_UPDATE, stage)
        batch.touch()
        if self._moves_cell:
            self._check_cells()
        self._compute(stepping=True)
        time_steps = [stage.engine.time_step for stage in self.stages]
        for stage in self.stages:
            call_hooks(At.BEFORE_POST_UPDATE, stage)
            if stage.active.any:
                stage.engine.update("post_update", batch, stage.active)
            call_hooks(At.AFTER_POST_UPDATE, stage)
        if systems.active.any:
            count_step(systems.part, self.stages, time_steps)
        self._give_second_chances()
        finished = self._migrate()
        remember = self._quarantine.remember
        remember()  # from here on the step is done: if a hook raises, neither it nor what hooks before did is undone
        self.unfinished = False
        call_hooks(At.AFTER_STEP, owner_last=True, after_change=remember)
        call_hooks(At.ON_CONVERGE, after_change=remember)
        for engine in call_hooks.engines:
            engine.step_count += 1
        return finished

    # -- before and around a run ---------------------------------------------------------------------------------

    def begin(self, batch: Batch, *, forget_converged: bool, goes_on: bool = False) -> None:
        """Take up `batch`: fields, identities, engine state, and results if they are stale.

        Systems that converged in an earlier run of a plain engine move again if that is to be forgotten. A run that was
        resumed begins where it was: nothing is forgotten, nor computed or decided again. Hooks are shown the start of a
        run, unless it `goes_on` after it had to let go of its batch: then those who joined meanwhile.
        """
        self.unfinished = True
        resumes = self.resumed is not None
        if self.resumed is not None and self.resumed[0] is not batch:
            raise InputError(
                f"{type(self.owner).__name__} is to go on from a checkpoint, with the batch that `resume` returned. "
                f"Run that one: `engine.run(batch)`."
            )
        self.systems.release()
        ensure_bookkeeping(batch)
        for name in ("velocities", "velocities_present", "dof"):
            batch.ensure_field(name)
        systems = self.systems
        systems.take_up(batch)
        if forget_converged and not resumes:
            systems.rows_of(batch)["converged"].zero_()
        self._needs = self.needs
        self._count_from_here(batch)
        self._call_hooks.look()
        fresh = batch.results_fresh(self._call_hooks.source(), self._needs)
        self._computed = self._needs if fresh else frozenset()
        if not resumes:
            evaluated = systems.rows_of(batch)["evaluated"].fill_(fresh)
            for name in self._needs if fresh else ():  # NaN in a system that stood still whenever the model was called
                evaluated &= ~systems_where(batch, name, batch[name].isnan())
        raises = any(engine.hooks_raise_on_failure for engine in self._call_hooks.engines)
        raises = raises or self.owner.on_error == "raise"
        notes = self.owner.failure_notes
        self._quarantine = Quarantine(self.owner.exit_status, raises, systems, self._last_good, notes, self.chances)
        if self.chances.are_given:
            batch.ensure_field("retries")
        systems.use_rows_of(batch)
        self._hand_over(batch, takes_on=not resumes)
        systems.start(batch)
        if not resumes:  # else it was done then, and what is remembered of it rides on the batch
            if self.chances.are_given:
                systems.run["has_past"].logical_and_(~self._last_good.changed_since())
            self._leave_out_misfits()
            self._evaluate_newcomers()
            if not systems.active.any:
                self._leave_results_unknown(batch)
            self._quarantine.remember()
        self.unfinished = False
        if not goes_on:
            self._call_hooks.show_start()
            self._note_shown()
            self.done, self.resumed = 0 if self.resumed is None else self.resumed[1], None
        self._show_joined()

    def _hand_over(self, batch: Batch, *, takes_on: bool = True) -> None:
        """Let hooks know who is in which stage, and each stage take on its systems of a batch, unless it did.

        Who changed stage at the end of an earlier step enters in the next one.
        """
        settled = self.systems.settled(batch)
        for stage, mask in zip(self.stages, self.systems.masks_of(batch), strict=True):
            self._call_hooks.hand_over(stage.engine, batch, mask & settled)
            if takes_on:
                stage.engine.take_on(batch, mask & settled)

    def advance(self, most_steps: int | None) -> None:
        """Step until no system is active, or the run has `most_steps`."""
        self.pause()
        while self.systems.active.any and (most_steps is None or self.done < most_steps):
            self.step()
            self.systems.refresh()
            self.done += 1
            self.pause()
        self.finish()

    def pause(self) -> None:
        """Between two steps: show the whole batch to each hook that wants to see it now."""
        for bound in self._call_hooks.pausing:
            if bound.between_steps is not None and (bound.is_due is None or bound.is_due(self.owner)):
                bound.between_steps(self.owner, self._written_whole())

    def finish(self) -> None:
        """When the steps of a run are over: show the whole batch to each hook that wants to see it then."""
        for bound in self._call_hooks.pausing:
            if bound.after_steps is not None:
                bound.after_steps(self.owner, self._written_whole())

    def _written_whole(self) -> Batch:
        """Return the whole batch as it is now; its results are fresh if those of the systems that move are."""
        self.systems.write_back()
        part = self.systems.part
        fresh = None if part.is_whole else part.batch.fresh_results()
        if fresh is not None:
            part.whole.mark_results_fresh(*fresh)
        return part.whole

    @property
    def results_source(self) -> Any:
        """Whose results a run leaves, see `HookCalls.source`."""
        self._call_hooks.look()
        return self._call_hooks.source()

    @property
    def hooks(self) -> list[Any]:
        """The hooks of all engines of a run, each object once, in the order in which they are called."""
        self._call_hooks.look()
        every = (bound.hook for engine in self._call_hooks.engines for bound in engine.bound_hooks)
        return list({id(hook): hook for hook in every}.values())

    def finished(self) -> Tensor | None:
        """Return which systems of the whole batch are past the last stage or failed, bool [B]; None if none is."""
        if self.systems.all_move:
            return None
        self.systems.write_back()
        return finished_systems(self.systems.part.whole, self.owner.exit_status)

    def let_go(self, leaving: Tensor) -> None:
        """Tell hooks that systems of the whole batch, bool [B], are about to leave it."""
        self._call_hooks.release(self.systems.part.whole, leaving)
        self._call_hooks.show("on_leave", leaving)

    def exchange(self, leaving: Tensor, newcomers: Batch | None, *, returns: bool = False) -> None:
        """Between two steps: take systems out of the whole batch, bool [B], and put `newcomers` behind the others.

        These get state, velocities and results as the systems do that a run starts with, unless each `returns`: then
        it goes on where it was. They get it before they join, so no bit of the others changes, and if something raises
        the others are as they were.
        """
        systems = self.systems
        systems.write_back()
        whole, fresh = systems.part.whole, systems.part.batch.fresh_results()
        self.unfinished = True
        try:
            if newcomers is not None:
                self._prepare(newcomers, returns=returns)
            exchange_systems(whole, leaving, newcomers)
        except BaseException:
            self.unfinished = False
            raise
        finally:
            systems.go_on(whole)
            if fresh is not None:
                systems.part.batch.mark_results_fresh(*fresh)
            for stage in self.stages:  # hooks that note the batch which is run have seen the newcomers' last
                self._call_hooks.hand_over(stage.engine, whole, torch.zeros_like(whole.status[:, 0], dtype=torch.bool))
        self._count_from_here(whole)
        self.unfinished = False
        self._show_joined()

    def reopen(self, batch: Batch, systems: Tensor, stage_step: Tensor) -> None:
        """Let finished systems of a mask [B] be in the last stage again, of which they have done so many steps, [B]."""
        code = self.stages[-1].code or 0
        kept = batch.state_rows(self.last_good_key)
        for name, values in (("status", torch.full_like(stage_step, code)), ("stage_step", stage_step)):
            for rows in (batch[name], kept[name]):
                rows.copy_(torch.where(systems[:, None], values[:, None].to(rows.dtype), rows))
        self.systems.rows_of(batch)["known_status"].masked_fill_(systems, code)

    def _prepare(self, newcomers: Batch, *, returns: bool) -> None:
        """Let systems that are about to join enter their stage, and compute their results, in place."""
        systems = self.systems
        systems.take_up_joined(newcomers, returns=returns)
        if returns:
            self._hand_over(newcomers)
        self._enter_stages(systems.rows_of(newcomers)["known_status"] == ARRIVED)
        self._evaluate_newcomers()
        self._quarantine.remember()
        fresh = systems.part.batch.fresh_results()
        systems.write_back()
        if fresh is not None:
            newcomers.mark_results_fresh(*fresh)

    def _show_joined(self) -> None:
        """Show the whole batch to hooks that want to see who has joined, each system once."""
        whole = self.systems.part.whole
        unseen = ~self.systems.rows_of(whole)["shown"]
        if bool(unseen.any()):
            self._call_hooks.show("on_join", unseen)
            self._note_shown()

    def _note_shown(self) -> None:
        for batch in (self.systems.part.whole, self.systems.part.batch):
            self.systems.rows_of(batch)["shown"].fill_(True)

    def end(self, *, failed: bool) -> None:
        """Write what the run did onto the whole batch; if it `failed`, its last step can still be undone."""
        if not self.systems.is_taken_up:
            whole = self.systems.batch
            if whole is not None:  # hooks may have taken it on already
                self._call_hooks.release(whole)
            return
        part = self.systems.part
        part.write_back()
        if not part.is_whole:
            fresh = part.batch.fresh_results()
            if fresh is not None:
                part.whole.mark_results_fresh(*fresh)
            self.systems.use_rows_of(part.whole)
        self._call_hooks.release(part.whole)
        if not failed:
            self.systems.release()

    def undo_unfinished_step(self, batch: Batch) -> None:
        """Put `batch` back to the end of its last whole step, if it was taken up at all."""
        systems = self.systems
        if not systems.is_taken_up or systems.part.whole is not batch or not self._last_good.is_of_same_systems:
            return
        self._last_good.put_back()
        drop_results(systems.part.batch, except_for=self._last_good.fields)  # of the step that is undone
        computed = self._computed & self._last_good.fields
        if computed:  # an undisturbed run would have taken these results, too
            systems.part.batch.mark_results_fresh(self._call_hooks.source(), computed)
        self.end(failed=False)
        done = int((batch.step - self._first_step).max())  # a signal may come between a step and its count
        for engine, before in zip(self._call_hooks.engines, self._counts, strict=True):
            engine.step_count = before + done

    @property
    def last_good_key(self) -> str:
        """Under which the last good states of systems ride on a batch, and are found there by whoever goes on."""
        return self._last_good.key

    @last_good_key.setter
    def last_good_key(self, key: str) -> None:
        self._last_good.key = key
        take_key(self._last_good, key)

    def _count_from_here(self, batch: Batch) -> None:
        """Note the counts of steps, to know after an interruption how many were done since."""
        self._first_step, self._counts = batch.step.clone(), [engine.step_count for engine in self._call_hooks.engines]

    @property
    def needs(self) -> frozenset[str]:
        """Model outputs that the stages and their criteria read."""
        return frozenset().union(*(stage.engine.needs for stage in self.stages))

    # -- parts of the step ---------------------------------------------------------------------------------------

    def _enter_stages(self, joined: Tensor | None = None) -> None:
        """Take up new parameters, and call `on_enter` for systems that changed stage or arrived.

        With a mask of those that have `joined` just now, bool [B], for these alone: the others enter in the next step.
        """
        systems = self.systems
        renewed = joined is None and any(stage.engine.has_new_parameters for stage in self.stages)
        if not systems.has_arrivals and not renewed:
            return
        systems.has_arrivals = joined is not None
        changed = systems.part.batch.status.reshape(-1) != systems.run["known_status"]
        if joined is not None:
            changed &= systems.part.of_whole(joined)
        if not renewed and not bool(changed.any()):
            return
        assigned: list[tuple[str, str]] = []
        with systems.on_whole() as batch:
            changed_of_whole = systems.part.to_whole(changed)
            for stage in self.stages:
                if renewed:
                    assigned += [(stage.engine.key, name) for name in stage.engine.renew_parameters(batch)]
                arrived = changed_of_whole & stage.mask(batch, self.owner.exit_status)
                if bool(arrived.any()):
                    batch.stage_step[arrived] = 0
                    self._call_hooks.hand_over(stage.engine, batch, arrived)
                    stage.engine.on_enter(batch, arrived)
        known, status = systems.run["known_status"], systems.part.batch.status.reshape(-1)
        known.copy_(torch.where(changed, status, known))
        self._last_good.keep_variables(assigned)  # a user assigned them before this step, and not as a part of it
        systems.refresh()  # a hook may hold other atoms now
        self._leave_out_misfits()

    def _leave_out_misfits(self) -> None:
        """Set aside systems that a stage which they are in, or come to, can not move."""
        systems = self.systems
        for stage in self.stages:
            ahead = systems.active.systems
            if stage.code is not None:
                ahead = ahead & (systems.part.batch.status.reshape(-1) <= stage.code)
            if self._quarantine.check_fitness(stage.engine, ahead):
                systems.refresh()

    def _check_cells(self) -> None:
        """Set collapsed cells aside before a hook searches their pairs."""
        self._quarantine.check_cells(search_radius(self.systems.part.batch, self.owner.model))
        self.systems.leave_out_failed()

    def _evaluate_newcomers(self) -> None:
        """Compute results of systems that have none for where they are; the others keep theirs, to the bit."""
        systems = self.systems
        if not systems.has_newcomers:
            return
        systems.has_newcomers = False
        evaluated = systems.run["evaluated"]
        if bool(evaluated.all()):
            return
        if not bool(evaluated.any()) or self._call_hooks.change_whole(At.BEFORE_COMPUTE, At.AFTER_COMPUTE):
            self._evaluate_all()
            return
        fresh = systems.part.batch.fresh_results()
        with systems.newcomers_alone():
            self._evaluate_all()
        if fresh is not None:
            systems.part.batch.mark_results_fresh(*fresh)

    def _evaluate_all(self) -> None:
        """Compute results of the systems that are worked on, and keep those of who was evaluated before."""
        systems = self.systems
        self._quarantine.check_newcomers(self.owner.model)
        systems.refresh()
        evaluated = systems.run["evaluated"]
        self._quarantine.remember(~evaluated if bool(evaluated.any()) else None)
        self._compute(stepping=False)
        systems.refresh()

    def _give_second_chances(self) -> None:
        """Let systems that failed in this step, and may try again, go on from some steps back with smaller ones."""
        systems, chances = self.systems, self.chances
        if not chances.waiting:
            return
        batch, again = systems.part.batch, systems.run["waits"].clone()
        fresh = batch.fresh_results()
        chances.go_back(again)
        with systems.on_whole() as whole:
            of_whole = systems.part.to_whole(again)
            for stage in self.stages:
                stage.engine.take_smaller_steps(whole, of_whole & stage.mask(whole, self.owner.exit_status))
        for name in ("step", "stage_step", "retries"):  # a step that failed is one: no noise is drawn twice
            batch[name].add_(again[:, None])
        run = systems.run
        run["waits"].masked_fill_(again, False)
        run["known_status"].copy_(torch.where(again, batch.status.reshape(-1), run["known_status"]))
        systems.leave_out_failed()
        chances.keep(again)
        if fresh is not None:
            batch.mark_results_fresh(*fresh)

    def _leave_results_unknown(self, batch: Batch) -> None:
        """Create the results that nobody computed, as NaN: whoever looks at systems that never started finds them."""
        for name in {"energy", *self._needs} & FIELDS.keys():
            if name not in batch:
                batch.ensure_field(name).fill_(torch.nan)

    def _compute(self, *, stepping: bool) -> None:
        """One forward pass with its hooks, between the checks for failed systems."""
        self._call_hooks(At.BEFORE_COMPUTE)
        systems, model = self.systems, self.owner.model
        if self._quarantine.check_distances(model, stepping=stepping):
            systems.leave_out_failed() if stepping else systems.refresh()
        if stepping and systems.active.all:
            self._evaluate_with_hooks(stepping=True)
        elif systems.active.any:
            with self._leaving_results_alone(stepping=stepping):
                self._evaluate_with_hooks(stepping=stepping)
        else:
            self._call_hooks(At.AFTER_COMPUTE)
        failed = self._quarantine.check(stepping=stepping)
        if systems.active.any and not stepping:
            systems.run["evaluated"].fill_(True)
        if failed:
            systems.leave_out_failed()

    def _evaluate_with_hooks(self, *, stepping: bool) -> None:
        """Call the model, then the hooks that look at results or change them."""
        batch = self.systems.part.batch
        self._computed = self._evaluate(batch, stepping=stepping)
        if At.AFTER_COMPUTE in self._call_hooks:
            self._call_hooks(At.AFTER_COMPUTE)
            batch.mark_results_fresh(self._call_hooks.source(), self._computed)

    def _evaluate(self, batch: Batch, *, stepping: bool) -> frozenset[str]:
        """Call the model, and return what it computed. Systems for which it raises are set aside, if it is not all."""
        model, wanted = self.owner.model, self._call_hooks.wanted_outputs() if stepping else frozenset()
        try:
            return frozenset(evaluate(model, batch, self._needs, wanted))
        except (*NOT_OF_A_SYSTEM, Warning):
            raise
        except Exception as error:
            is_parked = self.owner.inflight_mode and is_out_of_memory(error)  # who runs in flight knows what to do
            if self._quarantine.raise_errors or len(batch) == 1 or is_parked:
                raise
        computed, errors = evaluate_apart(model, batch, self._needs, wanted)  # what the failed pass held is let go of
        if len(errors) == len(batch):
            raise errors[0]
        self._quarantine.set_aside_raising(errors, stepping=stepping)
        self.systems.leave_out_failed()
        return computed

    @contextmanager
    def _leaving_results_alone(self, *, stepping: bool) -> Iterator[None]:
        """Put back results of systems that do not move and, outside a step, of those that were evaluated before.

        Where nobody ever computed any, they stay unknown, which is NaN.
        """
        systems, last_good = self.systems, self._last_good
        batch, resting, known = systems.part.batch, ~systems.active.systems, systems.run["evaluated"]
        keeping = resting if stepping else resting | known
        if not bool(keeping.any()):
            yield
            return
        before = last_good.copies_of_computed(batch)
        yield
        for name, now in last_good.copies_of_computed(batch).items():
            old, put_back = before.get(name), keeping
            if old is None:
                old, put_back = torch.full_like(now, torch.nan), resting & ~known
            rows = mask_of_rows(batch, put_back, batch.field_spec(name).level, now)
            batch[name].copy_(torch.where(rows, old, now))

    def _migrate(self) -> Tensor | None:
        """Apply criteria and budgets, then move systems to their next status; at most one stage a step."""
        systems = self.systems
        batch = systems.part.batch
        for stage in self.stages:
            moving, default = stage.active, stage.criterion
            stage.converged = stage.engine.judge(batch, moving.systems, default) if moving.any else None
        if self._holds_finished:
            return self._hold(self.stages[0].converged)
        crossed = torch.zeros_like(systems.active.systems)
        for stage in self.stages:
            leaving = stage.leaving(batch)
            if leaving is not None and bool(leaving.any()):
                assert stage.next_status is not None
                batch.status[leaving] = stage.next_status
                batch.stage_step[leaving] = 0
                if stage.next_status >= self.owner.exit_status:
                    crossed |= leaving
        return systems.part.to_whole(crossed).nonzero().flatten() if bool(crossed.any()) else None

    @property
    def _holds_finished(self) -> bool:
        """Whether converged systems stay where they are, and in their status: in a plain engine that none leaves."""
        return [stage.engine for stage in self.stages] == [self.owner] and not self.owner.inflight_mode

    def _hold(self, converged: Tensor | None) -> Tensor | None:
        """Keep converged systems of a plain engine still, without touching their status; return all that are."""
        if self.owner.convergence_hook is None:
            return None
        run, part = self.systems.run, self.systems.part
        if converged is not None:
            run["converged"].logical_or_(converged)
        held = part.to_whole(run["converged"]) | self.systems.rows_of(part.whole)["converged"]
        return held.nonzero().flatten() if bool(held.any()) else None


def check_can_produce(model: Any, needs: frozenset[str], who: str) -> None:
    """Raise InputError unless `model` lists every output in `needs`."""
    missing = sorted(needs - set(model.model_config.outputs))
    if missing:
        names = ", ".join(f"`{key}`" for key in missing)
        raise InputError(
            f"{who} needs {names}, which {type(model).__name__} can not compute. "
            f"It computes {', '.join(sorted(model.model_config.outputs))}. "
            f"Use another model, or an engine that does without."
        )
