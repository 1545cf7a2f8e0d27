"""The one step loop, over a list of stages. Read `Driver.step` to see what a step does, in order.

An engine is a run of one stage, a `FusedStage` of several; neither has a loop of its own. The driver owns what is
common: which systems are active, when results are fresh, entry into a stage, failures, counters, migration and the
order of the hooks.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.dynamics.evaluate import evaluate
from athanor.dynamics.inactive import ActiveSet, restored_where_inactive
from athanor.dynamics.quarantine import Quarantine
from athanor.dynamics.status import StageSpec, ensure_bookkeeping
from athanor.dynamics.watched import StepCounter
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
    """

    def __init__(self, owner: Any, stages: Sequence[StageSpec]) -> None:
        self.owner = owner
        self.stages = list(stages)
        members = [stage.engine for stage in stages]
        self.engines = members if members == [owner] else [owner, *members]
        self._moves_cell = any("cell" in engine.__provides_keys__ for engine in members)
        self._counter = StepCounter()
        self._batch: weakref.ref[Batch] | None = None
        self._restored = False
        self._hooks_ran = False
        self._ids: Tensor | None = None
        self._known_status = torch.zeros(0, dtype=torch.long)
        self.converged: Tensor | None = None
        self._converged_changes = 0
        self._seen: tuple[Any, ...] = ()
        self._welcomed: tuple[Any, int] = (None, -1)
        self.active: ActiveSet
        self._needs: frozenset[str]

    # -- the step ------------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> Tensor | None:
        """Advance every active system by one step and return the indices that finished in it, or None."""
        self._welcome(batch)
        self._fire(At.BEFORE_STEP, batch)
        self._welcome(batch)
        self._refresh_active(batch)
        for stage in self.stages:
            stage.engine._renew_parameters(batch)
        time_steps = [stage.engine.time_step for stage in self.stages]
        for stage in self.stages:
            self._fire(At.BEFORE_PRE_UPDATE, batch, stage)
            self._half(stage, batch, "pre_update")
            self._fire(At.AFTER_PRE_UPDATE, batch, stage)
        batch.touch()
        if self._moves_cell:
            self._check_cells(batch)
        self._compute(batch, stepping=True)
        for stage in self.stages:
            self._fire(At.BEFORE_POST_UPDATE, batch, stage)
            self._half(stage, batch, "post_update")
            self._fire(At.AFTER_POST_UPDATE, batch, stage)
        for stage, time_step in zip(self.stages, time_steps, strict=True):
            moved = None if stage.active.all else stage.active.systems
            self._counter.count_(batch, moved, time_step)
        finished = self._migrate(batch)
        self._fire(At.AFTER_STEP, batch, owner_last=True)
        for engine in self.engines:
            if engine._last_converged is not None and engine._last_converged.numel():
                self._hooks_ran |= engine._call_hooks(At.ON_CONVERGE, batch)
        self.quarantine.remember(batch, doubted=self.owner.model if self._hooks_ran else None)
        for engine in self.engines:
            engine.step_count += 1
        return finished

    # -- before and around a run ---------------------------------------------------------------------------------

    def begin(self, batch: Batch) -> None:
        """Take up `batch`: fields, identities, integrator state, and results if they are stale."""
        self._attach(batch)
        self._refresh_active(batch)
        for stage in self.stages:
            stage.engine._write_dof(batch, stage.active.systems)
        self._needs = self.needs
        if not batch.results_fresh(self.owner.model, self._needs):
            self.quarantine.check_elements(batch, self.active, self.owner.model)
            self._refresh_active(batch)
            self.quarantine.remember(batch)
            self._compute(batch, stepping=False)
        self.quarantine.remember(batch)

    def advance(self, batch: Batch, most_steps: int | None) -> None:
        """Step until no system is active, at most `most_steps` times."""
        done = 0
        while self.active.any and (most_steps is None or done < most_steps):
            self.step(batch)
            self._refresh_active(batch)
            done += 1

    def undo_unfinished_step(self, batch: Batch) -> None:
        """Put `batch` back to the end of its last whole step, if it was taken up at all."""
        if self._batch is not None and self._batch() is batch:
            self.quarantine.roll_back(batch)

    def forget_converged(self) -> None:
        """Let systems that converged in an earlier run of a plain engine move again."""
        self.converged = None
        self._converged_changes += 1

    def state_dict(self) -> dict[str, Any]:
        """Return identities, the status each system was last seen in, and which systems converged."""
        copies = {"ids": self._ids, "known_status": self._known_status, "converged": self.converged}
        return {name: None if value is None else value.clone() for name, value in copies.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state`; the next batch with the same ids is treated as the one that was left."""
        self._ids = None if state["ids"] is None else state["ids"].clone()
        self._known_status = state["known_status"].clone()
        self.converged = None if state["converged"] is None else state["converged"].clone()
        self._batch, self._restored = None, True

    def in_motion(self, batch: Batch) -> Tensor:
        """Systems whose velocities are motion, bool [B]: not those that an optimizer moves, or moved last."""
        exit_status = self.owner.exit_status
        moving = torch.ones(batch.num_graphs, dtype=torch.bool, device=batch.device)
        for stage in self.stages:
            if stage.engine.time_step is None:
                moving &= ~(stage.active.systems | stage.mask(batch, exit_status))
        if self.stages[-1].engine.time_step is None:
            moving &= batch.status.reshape(-1) < exit_status
        return moving

    @property
    def needs(self) -> frozenset[str]:
        """Model outputs that the stages and their criteria read."""
        keys: set[str] = set()
        outputs = self.owner.model.model_config.outputs
        for stage in self.stages:
            keys |= stage.engine.__needs_keys__
            if stage.engine.convergence_hook is not None:
                keys |= stage.engine.convergence_hook.keys & outputs
        return frozenset(keys)

    # -- parts of the step ---------------------------------------------------------------------------------------

    def _attach(self, batch: Batch) -> None:
        """Create what the run needs on the batch; align per-system state if its systems changed."""
        ensure_bookkeeping(batch)
        for name in ("velocities", "dof"):
            batch.ensure_field(name)
        ids = batch.system_id.reshape(-1).clone()
        same_batch = self._batch is not None and self._batch() is batch
        same_ids = self._ids is not None and torch.equal(ids, self._ids)
        if same_ids and same_batch:
            return
        if same_ids and self._restored:
            for stage in self.stages:
                stage.engine._align_state(batch, ids, ids)
            self._take_up(batch)
            return
        old_ids = self._ids if same_batch or self._restored else None
        for stage in self.stages:
            stage.engine._align_state(batch, old_ids, ids)
        status = batch.status.reshape(-1).clone()
        if old_ids is not None:
            arrived = ~torch.isin(ids, old_ids)
            known = {int(i): int(s) for i, s in zip(old_ids, self._known_status, strict=True)}
            status = status.new_tensor([known.get(int(i), int(s)) for i, s in zip(ids, status, strict=True)])
            status[arrived] = -1
        self._ids, self._known_status = ids, status
        self.forget_converged()
        self._take_up(batch)

    def _take_up(self, batch: Batch) -> None:
        """Make `batch` the one that is run from now on."""
        self._batch, self._restored = weakref.ref(batch), False
        self._seen, self._welcomed = (), (None, -1)
        self.quarantine = Quarantine(self.owner.exit_status, self._raises())
        self._refresh_active(batch)

    def _raises(self) -> bool:
        return self.owner.on_error == "raise" or any(engine.hooks_raise_on_failure for engine in self.engines)

    def _welcome(self, batch: Batch) -> None:
        """Call `on_enter` for the systems that changed stage, or arrived, since the last step."""
        seen = (batch.status, batch.status._version)
        if self._welcomed[0] is seen[0] and self._welcomed[1] == seen[1]:
            return
        self._welcomed = seen
        status = batch.status.reshape(-1)
        changed = status != self._known_status
        if not bool(changed.any()):
            return
        for stage in self.stages:
            arrived = changed & stage.mask(batch, self.owner.exit_status)
            if bool(arrived.any()):
                batch.stage_step[arrived] = 0
                stage.engine.on_enter(batch, arrived)
        self._known_status.copy_(status)

    def _refresh_active(self, batch: Batch) -> None:
        """Recompute the active sets if a status, a failure code, `fixed` or the set of converged systems changed."""
        status, failure, fixed = batch.status, batch.failure_code, batch.get("fixed")
        versions = (status._version, failure._version, fixed is not None and fixed._version, self._converged_changes)
        seen = self._seen
        if seen and seen[0] is status and seen[1] is failure and seen[2] is fixed and seen[3] == versions:
            return
        self._seen = (status, failure, fixed, versions)
        total = torch.zeros(batch.num_graphs, dtype=torch.bool, device=batch.device)
        for stage in self.stages:
            mask = stage.mask(batch, self.owner.exit_status)
            if self.converged is not None:
                mask = mask & ~self.converged
            stage.active = ActiveSet(mask, batch)
            total |= mask
        self.active = self.stages[0].active if len(self.stages) == 1 else ActiveSet(total, batch)

    def _half(self, stage: StageSpec, batch: Batch, half: str) -> None:
        """One half of an update, on the active systems of `stage` only."""
        engine, active = stage.engine, stage.active
        if not active.any:
            return
        engine.active = active
        if engine._native:
            getattr(engine, half)(batch)
        else:
            with restored_where_inactive(batch, active, engine._mutable_fields):
                getattr(engine, half)(batch)

    def _check_cells(self, batch: Batch) -> None:
        """Set collapsed cells aside before a hook searches their pairs."""
        config = self.owner.model.model_config.neighbor_config
        radius = batch.neighbor_list_radius or (config.cutoff if config is not None else 1.0)
        self.quarantine.check_cells(batch, self.active, radius)
        self._refresh_active(batch)

    def _compute(self, batch: Batch, *, stepping: bool) -> None:
        """One forward pass with its hooks, then the check for failed systems."""
        self._fire(At.BEFORE_COMPUTE, batch)
        outputs = evaluate(self.owner.model, batch, self._needs, self.active)
        for engine in self.engines:
            engine._last_outputs = outputs
        if any(engine.has_hooks(At.AFTER_COMPUTE) for engine in self.engines):
            with batch.keeping_results_fresh():
                self._fire(At.AFTER_COMPUTE, batch)
        if self.quarantine.check(batch, self.active, self.owner.model, stepping=stepping) is not None:
            self._refresh_active(batch)
        self._hooks_ran = False  # from here to the end of the step nothing is checked but what `remember` looks at

    def _migrate(self, batch: Batch) -> Tensor | None:
        """Apply criteria and budgets, then move systems to their next status; at most one stage a step."""
        for stage in self.stages:
            stage.engine._last_converged = self._judge(stage, batch)
        if self.stages[0].engine is self.owner:
            return self._hold(self.owner._last_converged, batch)
        before = batch.status.reshape(-1).clone()
        for stage in self.stages:
            self._move_on(stage, batch)
        found = [stage.engine._last_converged for stage in self.stages if stage.engine._last_converged is not None]
        self.owner._last_converged = torch.cat(found) if found else None
        exit_status = self.owner.exit_status
        crossed = (before < exit_status) & (batch.status.reshape(-1) >= exit_status)
        return crossed.nonzero().flatten() if bool(crossed.any()) else None

    def _judge(self, stage: StageSpec, batch: Batch) -> Tensor | None:
        """Indices of the active systems of `stage` that satisfy its criteria, or None."""
        engine, hook = stage.engine, stage.engine.convergence_hook
        if hook is None or not stage.active.any:
            return None
        judged = stage.active.systems
        if hook.frequency > 1:  # counted by each system, so that it does not matter when others joined
            judged = judged & ((batch.stage_step.reshape(-1) - 1) % hook.frequency == 0)
            if not bool(judged.any()):
                return None
        pressure = getattr(engine._state, "pressure", engine.pressure)  # its rows follow the systems
        converged = hook.mask(batch, pressure) & judged
        return converged.nonzero().flatten() if bool(converged.any()) else None

    @staticmethod
    def _move_on(stage: StageSpec, batch: Batch) -> None:
        """Give the next status to the systems of `stage` that converged or used up its budget."""
        leaving = torch.zeros_like(stage.active.systems)
        if stage.engine._last_converged is not None:
            leaving[stage.engine._last_converged] = True
        if stage.engine.n_steps is not None and stage.active.any:
            leaving |= stage.active.systems & (batch.stage_step.reshape(-1) >= stage.engine.n_steps)
        if bool(leaving.any()):
            batch.status[leaving] = stage.next_status
            batch.stage_step[leaving] = 0

    def _hold(self, converged: Tensor | None, batch: Batch) -> Tensor | None:
        """Keep converged systems of a plain engine still, without touching their status; return all that are."""
        if converged is not None:
            if self.converged is None:
                self.converged = torch.zeros(batch.num_graphs, dtype=torch.bool, device=batch.device)
            self.converged[converged] = True
            self._converged_changes += 1
        return None if self.converged is None else self.converged.nonzero().flatten()

    def _fire(self, at: At, batch: Batch, stage: StageSpec | None = None, *, owner_last: bool = False) -> None:
        """Call the hooks registered at `at`.

        Without `stage`, the owner's hooks come first, or last. Around a stage's update, the owner's hooks run once:
        before the first stage or after the last.
        """
        if stage is None:
            order = [*self.engines[1:], self.engines[0]] if owner_last else self.engines
        elif stage.engine is self.owner:
            order = [self.owner]
        else:
            before = at in (At.BEFORE_PRE_UPDATE, At.BEFORE_POST_UPDATE)
            order = [stage.engine]
            if before and stage is self.stages[0]:
                order = [self.owner, stage.engine]
            elif not before and stage is self.stages[-1]:
                order = [stage.engine, self.owner]
        for engine in order:
            if engine._call_hooks(at, batch):
                self._hooks_ran = True
                self._check_membership(batch, at)

    def _check_membership(self, batch: Batch, at: At) -> None:
        before = len(self._known_status)
        if len(batch) != before:
            raise InputError(
                f"A hook at {at.name} changed the batch from {before} to {len(batch)} systems in the middle of a run. "
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
