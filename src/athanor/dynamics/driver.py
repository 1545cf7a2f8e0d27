"""The one step loop, over a list of stages. Read `Driver.step` to see what a step does, in order.

An engine is a run of one stage, a `FusedStage` of several; neither has a loop of its own. The driver owns what is
common: which systems are active, when results are fresh, entry into a stage, failures, counters, migration, the order
of the hooks, and the last whole step, to which an unfinished one is undone.

Only systems that are active are worked on: while some are finished, the others are in a batch of their own (`Part`),
which is made when the set of active systems changes, and written back when somebody looks at the whole.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data._followers import new_key
from athanor.data._part import Part
from athanor.data._stamp import ComputedFrom
from athanor.data.fields import RESULTS
from athanor.dynamics.active import ActiveSet
from athanor.dynamics.arguments import check_distinct
from athanor.dynamics.contract import Engine
from athanor.dynamics.evaluate import evaluate
from athanor.dynamics.last_good import LastGood
from athanor.dynamics.quarantine import Quarantine, systems_where
from athanor.dynamics.rows import SavedRows, save_rows, take_up_rows
from athanor.dynamics.status import StageSpec, count_step, ensure_bookkeeping
from athanor.errors import InputError
from athanor.hooks.stages import DynamicsStage as At

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.registry import BoundHook

ARRIVED = -1
"""Status in which a system that joined was last seen."""


class Driver:
    """Advance a batch through stages, one forward pass a step.

    Parameters
    ----------
    owner
        The engine that the user runs: holds the model, its own hooks, `exit_status`, `on_error`, `step_count`.
    stages
        Stages in order. For a plain engine the only one is the owner itself.
    """

    def __init__(self, owner: Engine, stages: Sequence[StageSpec]) -> None:
        self.owner, self.stages = owner, list(stages)
        members = [stage.engine for stage in stages]
        self.is_plain = members == [owner]
        self.engines: list[Engine] = members if self.is_plain else [owner, *members]
        self._moves_cell = any(engine.moves_cell for engine in members)
        self._key = new_key(self)
        self._last_good = LastGood()
        self._batch: weakref.ref[Batch] | None = None
        self._membership = -1
        self._places: dict[At, list[Engine]] = {}
        self._known_hooks: list[Any] = []
        self._changed_by_hooks = False
        self._converged_changed = self._status_changed = self._has_newcomers = False
        self._chosen: Tensor | None = None
        self._has_part = False
        self.part: Part
        self.active: ActiveSet
        self._needs: frozenset[str]
        self._computed: frozenset[str]

    # -- the step ------------------------------------------------------------------------------------------------

    def step(self) -> Tensor | None:
        """Advance every active system by one step and return the indices that finished in it, or None."""
        self._look_for_hooks()
        for stage in self.stages:
            stage.converged = None
        self._fire(At.BEFORE_STEP)
        if self._changed_by_hooks:
            self._quarantine.remember(self.part.batch)
            self._refresh_active()
        self._enter_stages()
        self._evaluate_newcomers()
        batch = self.part.batch
        time_steps = [stage.engine.time_step for stage in self.stages]
        for stage in self.stages:
            self._fire(At.BEFORE_PRE_UPDATE, stage)
            if stage.active.any:
                stage.engine.update("pre_update", batch, stage.active)
            self._fire(At.AFTER_PRE_UPDATE, stage)
        batch.touch()
        if self._moves_cell:
            self._check_cells()
        self._compute(stepping=True)
        batch = self.part.batch
        for stage in self.stages:
            self._fire(At.BEFORE_POST_UPDATE, stage)
            if stage.active.any:
                stage.engine.update("post_update", batch, stage.active)
            self._fire(At.AFTER_POST_UPDATE, stage)
        if self.active.any:
            count_step(batch, self.stages, time_steps)
        finished = self._migrate()
        self._quarantine.remember(batch)  # from here on the step is done, and not undone, whatever hooks do
        self._changed_by_hooks = False
        self._fire(At.AFTER_STEP, owner_last=True)
        if any(stage.converged is not None for stage in self.stages):
            self._fire(At.ON_CONVERGE)
        for engine in self.engines:
            engine.step_count += 1
        return finished

    # -- before and around a run ---------------------------------------------------------------------------------

    def begin(self, batch: Batch) -> None:
        """Take up `batch`: fields, identities, engine state, and results if they are stale."""
        ensure_bookkeeping(batch)
        for name in ("velocities", "dof"):
            batch.ensure_field(name)
        if self.batch is not batch or self._membership != batch.membership or self._restored:
            self._take_up(batch)
        self._needs, self._computed = self.needs, frozenset()
        self._first_step, self._counts = batch.step.clone(), [engine.step_count for engine in self.engines]
        self._look_for_hooks()
        fresh = batch.results_fresh(self.owner.model, self._needs)
        evaluated = batch.state_rows(self._key)["evaluated"].fill_(fresh)
        for name in self._needs if fresh else ():  # NaN in a system that stood still whenever the model was called
            evaluated &= ~systems_where(batch, name, batch[name].isnan())
        self._chosen = None
        self._choose_active(batch)
        for stage in self.stages:
            stage.engine.take_on(self.part.batch, stage.active.systems)
        self._evaluate_newcomers()
        self._quarantine.remember(self.part.batch)

    def advance(self, most_steps: int | None) -> None:
        """Step until no system is active, at most `most_steps` times."""
        done = 0
        while self.active.any and (most_steps is None or done < most_steps):
            self.step()
            self._refresh_active()
            done += 1

    def end(self, *, failed: bool) -> None:
        """Write what the run did onto the whole batch; if it `failed`, its last step can still be undone."""
        if not self._has_part:
            return
        part = self.part
        part.write_back()
        if not part.is_whole:
            fresh = part.batch.fresh_results()
            if fresh is not None:
                part.whole.mark_results_fresh(*fresh)
            self._use_rows_of(part.whole)
        if not failed:
            del self.part
            self._has_part = False
            self._last_good.release()

    def undo_unfinished_step(self, batch: Batch) -> None:
        """Put `batch` back to the end of its last whole step, if it was taken up at all."""
        if not self._has_part or self.part.whole is not batch:
            return
        self._last_good.put_back()
        self._last_good.put_back_pairs()
        if self._computed:  # the next step of an undisturbed run would have taken these results, too
            self.part.batch.mark_results_fresh(self.owner.model, self._computed)
        self.end(failed=False)
        done = int((batch.step - self._first_step).max())  # a signal may come between a step and its count
        for engine, before in zip(self.engines, self._counts, strict=True):
            engine.step_count = before + done

    def forget_converged(self, batch: Batch) -> None:
        """Let systems that converged in an earlier run of a plain engine move again."""
        if "converged" in (rows := batch.state_rows(self._key)):
            rows["converged"].zero_()

    @property
    def batch(self) -> Batch | None:
        """The batch that was taken up last, if it is still there."""
        return None if self._batch is None else self._batch()

    @property
    def saved_run(self) -> SavedRows | None:
        """What a restart needs to know of a run: in which stage each system was last seen, and which converged."""
        batch = self.batch
        return self.owner.saved_run if batch is None else save_rows(batch, batch.state_rows(self._key))

    @property
    def needs(self) -> frozenset[str]:
        """Model outputs that the stages and their criteria read."""
        return frozenset().union(*(stage.engine.needs for stage in self.stages))

    # -- which systems -------------------------------------------------------------------------------------------

    @property
    def _restored(self) -> bool:
        return any(engine.saved_run is not None for engine in self.engines)

    def _take_up(self, batch: Batch) -> None:
        """Put state on the batch: of the engines, and of the run itself."""
        batch.drop_orphaned_state()
        check_distinct(batch.system_id.reshape(-1))
        fresh = {
            "known_status": batch.status.reshape(-1).clone(),
            "converged": torch.zeros(len(batch), dtype=torch.bool, device=batch.device),
            "evaluated": torch.zeros(len(batch), dtype=torch.bool, device=batch.device),
        }
        rows, known = take_up_rows(batch, self._key, fresh, {}, self.owner.saved_run)
        if bool(known.any()):  # else the run starts with all of them
            rows["known_status"][~known] = ARRIVED
        for stage in self.stages:
            engine = stage.engine
            take_up_rows(batch, engine.key, engine.fresh_rows(batch), engine.variable_levels, engine.saved_rows)
            engine.saved_rows = None
        for engine in self.engines:
            engine.saved_run = None
        self._batch, self._membership = weakref.ref(batch), batch.membership

    def _choose_active(self, whole: Batch) -> None:
        """Put the systems that are active into a batch of their own, unless all are."""
        run = whole.state_rows(self._key)
        masks = [stage.mask(whole, self.owner.exit_status) for stage in self.stages]
        if self._chosen is not None:  # who stood still may have been changed meanwhile
            run["evaluated"].logical_and_(self._chosen)
        self._chosen = torch.stack(masks).any(dim=0) & ~run["converged"]
        self.part = Part(whole, self._chosen)
        self._has_part = True
        self._run = self.part.batch.state_rows(self._key)
        self._use_rows_of(self.part.batch)
        owners = [(self._key, self._run), *((stage.engine.key, stage.engine.kept_rows()) for stage in self.stages)]
        levels = {stage.engine.key: stage.engine.variable_levels for stage in self.stages}
        variables = {
            (key, name): (levels.get(key, {}).get(name, "system"), tensor)
            for key, rows in owners
            for name, tensor in rows.items()
        }
        computed = frozenset(self.owner.model.model_config.active_outputs or ())
        self._last_good.follow(self.part.batch, variables, computed)
        self._quarantine = Quarantine(self.owner.exit_status, self._raises(), self._last_good)
        self._mask_stages()

    def _mask_stages(self) -> None:
        """Say which systems of the part are in which stage, and note on what that depends."""
        batch, masks = self.part.batch, self._masks()
        total = torch.stack(masks).any(dim=0)
        self.active = ActiveSet(total, batch)
        for stage, mask in zip(self.stages, masks, strict=True):
            stage.active = self.active if self.is_plain else ActiveSet(mask, batch)
        self._status_changed = self._has_newcomers = True
        self._seen = ComputedFrom(*_deciding(batch))
        self._seen_of_whole = ComputedFrom(*_deciding(self.part.whole))

    def _masks(self) -> list[Tensor]:
        batch = self.part.batch
        return [stage.mask(batch, self.owner.exit_status) & ~self._run["converged"] for stage in self.stages]

    def _raises(self) -> bool:
        return self.owner.on_error == "raise" or any(engine.hooks_raise_on_failure for engine in self.engines)

    def _refresh_active(self) -> None:
        """Choose the active systems again if a status, a failure, `fixed` or the converged systems changed."""
        part = self.part
        others_changed = not part.is_whole and not self._seen_of_whole.holds(*_deciding(part.whole))
        if not (others_changed or self._converged_changed) and self._seen.holds(*_deciding(part.batch)):
            return
        self._converged_changed = False
        if not others_changed and bool(torch.stack(self._masks()).any(dim=0).all()):
            self._mask_stages()
        else:
            part.write_back()
            self._choose_active(part.whole)

    def _write_back(self, *, with_pairs: bool) -> None:
        """Write the part onto the whole batch, where that is no news about who is active."""
        known = self._seen_of_whole.holds(*_deciding(self.part.whole))
        self.part.write_back(with_pairs=with_pairs)
        if known:
            self._seen_of_whole = ComputedFrom(*_deciding(self.part.whole))

    def _enter_stages(self) -> None:
        """Take up new parameters, and call `on_enter` for systems that changed stage or arrived."""
        renewed = any(stage.engine.has_new_parameters for stage in self.stages)
        if not self._status_changed and not renewed:
            return
        self._status_changed = False
        changed = self.part.batch.status.reshape(-1) != self._run["known_status"]
        if not renewed and not bool(changed.any()):
            return
        with self._on_whole() as batch:
            changed = self.part.to_whole(changed)
            for stage in self.stages:
                stage.engine.renew_parameters(batch)
                arrived = changed & stage.mask(batch, self.owner.exit_status)
                if bool(arrived.any()):
                    batch.stage_step[arrived] = 0
                    stage.engine.on_enter(batch, arrived)
        self._run["known_status"].copy_(self.part.batch.status.reshape(-1))

    @contextmanager
    def _on_whole(self) -> Iterator[Batch]:
        """Work on the whole batch for a while: parameters of engines have a row for each of its systems."""
        part = self.part
        if part.is_whole:
            yield part.batch
            return
        self._write_back(with_pairs=False)
        self._use_rows_of(part.whole)
        yield part.whole
        part.read_again()
        self._use_rows_of(part.batch)

    def _use_rows_of(self, batch: Batch) -> None:
        for stage in self.stages:
            stage.engine.use_rows(batch.state_rows(stage.engine.key))

    # -- parts of the step ---------------------------------------------------------------------------------------

    def _check_cells(self) -> None:
        """Set collapsed cells aside before a hook searches their pairs."""
        batch, config = self.part.batch, self.owner.model.model_config.neighbor_config
        radii = [pairs.radius for pairs in batch.pair_lists if not math.isnan(pairs.radius)]
        radius = max(radii, default=config.cutoff if config is not None else 1.0)
        self._quarantine.check_cells(batch, self.active, radius)
        self._refresh_active()

    def _evaluate_newcomers(self) -> None:
        """Compute results of systems that have none for where they are; the others keep theirs, to the bit."""
        if not self._has_newcomers:
            return
        self._has_newcomers = False
        if bool(self._run["evaluated"].all()):
            return
        self._quarantine.check_elements(self.part.batch, self.active, self.owner.model)
        self._refresh_active()
        self._quarantine.remember(self.part.batch)
        batch, known = self.part.batch, self._run["evaluated"].clone()
        results = {name: batch.get(name) for name in RESULTS if bool(known.any())}
        kept = {name: tensor.clone() for name, tensor in results.items() if tensor is not None}
        self._compute(stepping=False, kept=kept, known=known)

    def _compute(
        self, *, stepping: bool, kept: Mapping[str, Tensor] | None = None, known: Tensor | None = None
    ) -> None:
        """One forward pass with its hooks, then the check for failed systems.

        Results of the systems `known`, bool [B], are those `kept`.
        """
        self._fire(At.BEFORE_COMPUTE)
        batch = self.part.batch
        if self.active.any:
            self._computed = frozenset(evaluate(self.owner.model, batch, self._needs))
            for name, tensor in (kept or {}).items():
                if name in batch and known is not None:
                    rows = known[batch.batch_idx] if batch.field_spec(name).level == "node" else known
                    rows = rows.reshape(-1, *([1] * (tensor.ndim - 1)))
                    batch[name].copy_(torch.where(rows, tensor, batch[name]))
            if not stepping:
                self._run["evaluated"].fill_(True)
        if At.AFTER_COMPUTE in self._places:
            with batch.keeping_results_fresh():
                self._fire(At.AFTER_COMPUTE)
        if self._quarantine.check(batch, self.active, self.owner.model, stepping=stepping) is not None:
            self._refresh_active()

    def _migrate(self) -> Tensor | None:
        """Apply criteria and budgets, then move systems to their next status; at most one stage a step."""
        batch = self.part.batch
        for stage in self.stages:
            stage.converged = stage.engine.judge(batch, stage.active.systems) if stage.active.any else None
        if self.is_plain:
            return self._hold(self.stages[0].converged)
        exit_status = self.owner.exit_status
        crossed = torch.zeros_like(self.active.systems)
        for stage in self.stages:
            leaving = stage.leaving(batch)
            if leaving is not None and bool(leaving.any()):
                assert stage.next_status is not None
                batch.status[leaving] = stage.next_status
                batch.stage_step[leaving] = 0
                if stage.next_status >= exit_status:
                    crossed |= leaving
        return self.part.to_whole(crossed).nonzero().flatten() if bool(crossed.any()) else None

    def _hold(self, converged: Tensor | None) -> Tensor | None:
        """Keep converged systems of a plain engine still, without touching their status; return all that are."""
        if converged is not None:
            self._run["converged"].logical_or_(converged)
            self._converged_changed = True
        elif self.part.is_whole and self.owner.convergence_hook is None:
            return None
        held = self.part.to_whole(self._run["converged"])
        if not self.part.is_whole:
            held |= self.part.whole.state_rows(self._key)["converged"]
        return held.nonzero().flatten() if bool(held.any()) else None

    # -- hooks ---------------------------------------------------------------------------------------------------

    def _look_for_hooks(self) -> None:
        """Note at which stages there are hooks at all; looked up again when one was registered."""
        known = [engine.hooks for engine in self.engines]
        if len(known) == len(self._known_hooks) and all(a is b for a, b in zip(known, self._known_hooks, strict=True)):
            return
        self._known_hooks = known
        found = {at: [engine for engine in self.engines if engine.has_hooks(at)] for at in At}
        self._places = {at: engines for at, engines in found.items() if engines}

    def _fire(self, at: At, stage: StageSpec | None = None, *, owner_last: bool = False) -> None:
        """Call the hooks registered at `at`.

        Without `stage`, the owner's hooks come first, or last. Around a stage's update, the owner's hooks run once:
        before the first stage or after the last.
        """
        if at not in self._places:
            return
        for engine in self._callers(at, stage, owner_last):
            for bound in engine.due_hooks(at):
                self._call(engine, bound, at)

    def _callers(self, at: At, stage: StageSpec | None, owner_last: bool) -> list[Engine]:
        if stage is None:
            return [*self.engines[1:], self.engines[0]] if owner_last else self.engines
        if self.is_plain:
            return [self.owner]
        if at in (At.BEFORE_PRE_UPDATE, At.BEFORE_POST_UPDATE):
            return [self.owner, stage.engine] if stage is self.stages[0] else [stage.engine]
        return [stage.engine, self.owner] if stage is self.stages[-1] else [stage.engine]

    def _call(self, engine: Engine, bound: BoundHook, at: At) -> None:
        """Call one hook, on the whole batch unless it treats each system for itself."""
        part, converged = self.part, self._converged_of(engine)
        if at is At.ON_CONVERGE and converged is None:
            return
        on_part = part.is_whole or bound.on_active
        batch = part.batch if on_part else part.whole
        if not on_part:
            self._write_back(with_pairs=not bound.observes)
            converged = None if converged is None else part.to_whole(converged)
        before = (len(batch), batch.membership, batch.system_id, batch.system_id._version)
        bound.call(engine.make_context(at, batch, converged), at)
        _check_same_systems(batch, before, at)
        if not bound.observes:
            self._changed_by_hooks = True
            if not on_part:
                part.read_again()

    def _converged_of(self, engine: Engine) -> Tensor | None:
        """Systems of the part that converged in this step under `engine`, bool [B]."""
        found = [
            stage.converged
            for stage in self.stages
            if stage.converged is not None and (engine is self.owner or stage.engine is engine)
        ]
        return torch.stack(found).any(dim=0) if found else None


def _deciding(batch: Batch) -> tuple[Tensor | None, ...]:
    """What decides which systems of a batch are active."""
    return batch.status, batch.failure_code, batch.get("fixed")


def _check_same_systems(batch: Batch, before: tuple[int, int, Tensor, int], at: At) -> None:
    """Raise InputError if a hook exchanged systems: they join and leave between two runs, or two steps."""
    count, membership, ids, version = before
    if membership == batch.membership and batch.system_id is ids and ids._version == version:
        return
    what = (
        f"from {count} to {len(batch)} systems" if len(batch) != count else f"by exchanging some of its {count} systems"
    )
    raise InputError(
        f"A hook at {at.name} changed the batch {what} in the middle of a run. "
        f"Let systems join or leave between two runs; those that stay go on where they are."
    )


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
