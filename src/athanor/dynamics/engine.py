"""`BaseDynamics`: one stage of motion. Integrators and optimizers override its two half-steps and its state factory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from athanor import _doors, _runtime
from athanor._values import check_whole
from athanor.data._checks import system_name
from athanor.data._followers import new_key, take_key
from athanor.data.observables import count_degrees_of_freedom
from athanor.dynamics.active import ActiveSet, restored_where_inactive, selects_active
from athanor.dynamics.arguments import (
    as_convergence_hook,
    can_not_add,
    check_batch,
    check_function,
    check_keywords,
    check_model,
    check_sampler,
    check_sinks,
    device_of,
    warn_if_nothing_moves,
)
from athanor.dynamics.convergence import ConvergenceHook
from athanor.dynamics.delivery import Tally
from athanor.dynamics.driver import Driver, check_can_produce
from athanor.dynamics.evaluate import evaluate
from athanor.dynamics.in_flight import InFlight
from athanor.dynamics.in_use import in_use, of_model
from athanor.dynamics.restarts import RestartMixin
from athanor.dynamics.rows import Rows, SavedRows, mask_of_rows, take_up_rows
from athanor.dynamics.start import check_start, settle_velocities_
from athanor.dynamics.state import (
    IntegratorState,
    Parameter,
    StateVariable,
    make_rows,
    parameters_in_words,
    per_system,
)
from athanor.dynamics.status import StageSpec, ensure_bookkeeping
from athanor.errors import AthanorWarning, InputError, NotAvailableError, SimulationError
from athanor.hooks.context import DynamicsContext
from athanor.hooks.registry import HookRegistryMixin
from athanor.hooks.stages import DynamicsStage
from athanor.io.checkpoint import CheckpointFolder
from athanor.models.mixin import BaseModelMixin
from athanor.models.outputs import asking_for, in_eval_mode

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.fields import Level
    from athanor.dynamics.sampler import SizeAwareSampler
    from athanor.sinks.base import DataSink


ON_ERROR = ("quarantine", "retry", "raise")
"""What may be done about a system whose physics breaks down."""


class BaseDynamics(RestartMixin, HookRegistryMixin):
    """Advance a batch step by step with one integrator or optimizer.

    Parameters
    ----------
    model
        A wrapped model (`BaseModelMixin`).
    hooks
        Hooks to register, each with its own stage.
    convergence_hook
        `ConvergenceHook`, a dict of its arguments, an object with ``evaluate(batch)``, or None: nothing converges.
    n_steps
        Default number of steps of `run`; in a fused run, the step budget of this stage.
    exit_status
        Status at or above which a system is finished.
    on_error
        ``"quarantine"``: a system whose physics breaks down goes back to its last good state and stands still, with
        its reason in `failure_code`; what a model raised for some of the systems stands in ``failure_notes``, by
        `system_id`. ``"retry"``: it goes back some steps first, and on from there with half the time step, up to
        `max_retries` times; how often it did is in the field `retries`. ``"raise"``: raise at once.
    keep_velocities
        Take velocities as they are: where they are not known, systems start at rest instead of with drawn ones.
    start_temperature
        K, a number or one per system: velocities that neither a user nor an earlier dynamics gave are drawn at it. By
        default that of the thermostat; without one, systems start at rest, with a warning.
    random_seed
        Seed of the velocities that are drawn, 64 bits, and of the noise of a method that has some.
    device_type
        Accepted for compatibility, and the same for all stages of a fused run: tensors stay on the device of the batch.
    sampler
        `SizeAwareSampler` that gives out the systems of a run in flight: finished ones leave the batch, and others take
        their place. A system is finished when it has converged or has done `n_steps` of its own, or failed.
    sinks
        Where finished systems go, each once: to the first that has room.
    refill_frequency
        Steps between looks for finished systems.
    max_batch_size
        Most systems in the batch, beside the caps of the sampler.
    init_fn
        Called with each batch of systems that join, those that a run starts with and later ones; may return another.
    failure_sinks
        Where systems go that failed; to `sinks` unless given.
    max_retries
        With ``on_error="retry"``: how many times a system may try again in one stage, each time with half the step.
    ordered
        Deliver systems in the order of the sampler's data set: one that is finished waits, in memory, for those before
        it.

    Raises
    ------
    ContractError, ArgumentError
        A `TypeError`, if `model` is not wrapped, or an argument is unknown.
    InputError
        If a value makes no sense.

    Notes
    -----
    To write an integrator, subclass, set ``__needs_keys__`` and ``__provides_keys__``, and override `pre_update` and
    `post_update`, which change the batch in place. What it remembers from step to step is declared in the class, see
    `athanor.dynamics.state.StateVariable`, and read as ``self._state.name``. A system that must not move is restored
    around both halves; set ``_selects_active = True`` in the class that defines both halves if they select the systems
    of ``self.active`` themselves.
    """

    __needs_keys__: frozenset[str] | set[str] = frozenset({"forces"})
    __provides_keys__: frozenset[str] | set[str] = frozenset()
    _mutable_fields: tuple[str, ...] = ("positions", "velocities", "cell")
    _selects_active = True  # of the two empty halves below, which move nothing
    _stage_type = DynamicsStage
    is_motion = True
    """Whether `batch.velocities` are what moves the atoms. The steps of an optimizer are no motion: it drops them."""
    conserves_momentum: bool | Tensor = False
    """Whether the total momentum is a constant of motion, of all systems or of each [B], where atoms feel only each
    other. It is then no heat, and three degrees of freedom less."""
    start_temperature = Parameter(check_start, has_rows=False, unit="K")
    random_seed = Parameter(check_whole, has_rows=False)
    first_status = 0
    """Status of systems that join a run in flight and bring none."""
    warns_of_start = True
    """Whether to warn of velocities at the start that are probably not meant."""

    def __init__(
        self,
        model: BaseModelMixin,
        hooks: Iterable[Any] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        n_steps: int | None = None,
        exit_status: int = 1,
        *,
        on_error: str = "quarantine",
        max_retries: int = 3,
        keep_velocities: bool = False,
        start_temperature: float | Tensor | None = None,
        random_seed: int = 42,
        device_type: str | None = None,
        sampler: SizeAwareSampler | None = None,
        sinks: Iterable[DataSink] | None = None,
        refill_frequency: int = 1,
        max_batch_size: int | None = None,
        init_fn: Callable[[Batch], Any] | None = None,
        failure_sinks: Iterable[DataSink] | None = None,
        ordered: bool = False,
        **kwargs: Any,
    ) -> None:
        _runtime.ready()
        check_model(model)
        check_keywords(type(self), kwargs)
        if on_error not in ON_ERROR:
            raise InputError(f'`on_error` is {on_error!r}; use "quarantine", "retry" or "raise".')
        self.model = model
        self.convergence_hook = as_convergence_hook(convergence_hook)
        self.n_steps = None if n_steps is None else check_whole(n_steps, "n_steps")
        self.exit_status = check_whole(exit_status, "exit_status", None)
        self.on_error, self.max_retries = on_error, check_whole(max_retries, "max_retries", 1)
        self.keep_velocities = keep_velocities
        self.start_temperature, self.random_seed = start_temperature, random_seed
        self.device_type = device_type or "cpu"
        self.step_count = 0
        self.pressure: float | Tensor = 0.0
        self.active: ActiveSet | None = None
        self.current_hook_stage: DynamicsStage | None = None
        self.key = new_key(self)
        self.saved_rows: SavedRows | None = None
        self.saved_run: SavedRows | None = None
        self.failure_notes: dict[int, str] = {}
        self.sampler = check_sampler(sampler, type(self).__name__)
        self.sinks, self.failure_sinks = check_sinks(sinks, "sinks"), check_sinks(failure_sinks, "failure_sinks")
        self.refill_frequency = check_whole(refill_frequency, "refill_frequency", 1)
        self.max_batch_size = None if max_batch_size is None else check_whole(max_batch_size, "max_batch_size", 1)
        self.init_fn, self.ordered = check_function(init_fn, "init_fn"), bool(ordered)
        self.active_batch: Batch | None = None
        self.done = False
        self.resumed_folder: CheckpointFolder | None = None
        self._in_flight = InFlight(self)
        self._state: Any = None
        self._assigned: set[str] = set()
        self._scheduled: set[str] = vars(self).get("_scheduled", set())
        self._selects_active_itself = selects_active(self)
        self._running = False
        self._driver = Driver(self, self._stages())
        if on_error == "retry" and not any(stage.engine.halves_steps for stage in self._driver.stages):
            raise InputError(
                f'`on_error="retry"`: {type(self).__name__} has no step that could be smaller. Use "quarantine".'
            )
        self.replace_hooks(hooks)

    # -- what an integrator overrides ----------------------------------------------------------------------------

    def pre_update(self, batch: Batch) -> None:
        """First half of a step, before the forward pass; changes `batch` in place."""

    def post_update(self, batch: Batch) -> None:
        """Second half of a step, with the new forces; changes `batch` in place."""

    def make_state(self, batch: Batch) -> IntegratorState | None:
        """Return fresh state for every system of `batch`: of what the class declares; None if that is nothing."""
        rows = make_rows(self, batch)
        return IntegratorState(**rows) if rows else None

    @property
    def time_step(self) -> float | Tensor | None:
        """Time step in fs, one for all or one per system [B]; None if steps do not advance time."""
        return None

    def conserved_energy(self, batch: Batch) -> Tensor | None:
        """Return what exact motion keeps constant, eV, float64 [B]; None if the method keeps nothing.

        With fresh results and velocities, that is after a whole step.
        """
        return None

    def temperature_at_start(self, batch: Batch) -> Tensor | None:
        """Return the temperature at which unknown velocities are drawn, K, [B]; None if there is none."""
        given = self.start_temperature
        return None if given is None else per_system(given, "start_temperature", batch.positions, batch.num_graphs)

    @property
    def movable(self) -> Tensor | None:
        """Coordinates that may change in this update, bool [N, 3]; None if all may."""
        return None if self.active is None else self.active.atoms

    # -- running -------------------------------------------------------------------------------------------------

    @overload
    def run(self, batch: Batch, n_steps: int | None = None) -> Batch: ...

    @overload
    def run(self, batch: None = None, n_steps: int | None = None) -> Batch | None: ...

    def run(self, batch: Batch | None = None, n_steps: int | None = None) -> Batch | None:
        """Run `n_steps` steps, or fewer if every system is finished, and return the same batch, changed in place.

        With a `sampler`, run in flight: until it is exhausted and every system is finished, which returns None, or at
        most `n_steps` steps, which returns the batch as it then is.

        Parameters
        ----------
        batch
            Systems to advance. Missing result fields are created; results are computed first if they are stale. None:
            those of the sampler, or of `active_batch`, which an earlier run left.
        n_steps
            Overrides the constructor's. In flight that is the budget of each system, and this the steps of the run.

        Raises
        ------
        InputError
            If neither gives `n_steps`, there is neither batch nor sampler, or the model can not compute what this
            engine needs.
        SimulationError
            If a run in another thread has the batch, the engine or the model.
        CapacityError
            If the sinks have no room for a finished system. All are still there: in the sinks or in `active_batch`.
        """
        if self.inflight_mode:
            return self._in_flight.run(batch, n_steps)
        batch = self._given(batch)
        total = self.n_steps if n_steps is None else check_whole(n_steps, "n_steps")
        if total is None:
            raise InputError(f"{type(self).__name__}.run needs `n_steps`; pass it here or to the constructor.")
        with self._around_run(batch):
            self._driver.advance(total)
        return batch

    def refill_check(self, batch: Batch, exit_status: int) -> Batch | None:
        """Between two calls of `step`: give finished systems to the sinks, and let others take their place; in place.

        Parameters
        ----------
        batch
            Systems in flight; those that stay come first then, in their order.
        exit_status
            Status from which on a system is finished. One that failed is, too.

        Returns
        -------
        Batch or None
            The same batch; None if all are finished and the sampler gave out none.

        Raises
        ------
        SimulationError
            A `RuntimeError`, if there is no sampler.
        """
        if self.sampler is None:
            raise SimulationError(
                f"{type(self).__name__} has no sampler. Give it one: `sampler=SizeAwareSampler(...)`."
            )
        check_batch(batch, self)
        with torch.inference_mode(False):
            return self._in_flight.refill_check(batch, exit_status)

    @property
    def tally(self) -> Tally:
        """How many systems of runs in flight have come and gone."""
        return self._in_flight.delivery.tally

    def step(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """Advance one step; return the batch and the indices of systems that are finished, or None."""
        with torch.inference_mode(False):
            if self._running:
                return batch, self._driver.step()
            check_batch(batch, self)
            begin = partial(self._driver.begin, forget_converged=False)
            with self._alone_with(batch), self._asking_for_outputs(), self._taken_up(batch, begin):
                finished = self._driver.step()
        return batch, finished

    def compute(self, batch: Batch) -> dict[str, Tensor]:
        """Evaluate the model on the whole batch, write the results onto it, and return the detached outputs.

        Raises
        ------
        ModelOutputError
            If an output that this engine needs is missing.
        """
        check_batch(batch, self)
        with torch.inference_mode(False), self._alone_with(batch):
            return evaluate(self.model, batch, frozenset(self.__needs_keys__))

    def masked_update(self, batch: Batch, mask: Tensor) -> None:
        """Run both halves on the systems where `mask` [B] is true; the others keep their bits."""
        ensure_bookkeeping(batch)
        self.use_rows(take_up_rows(batch, self.key, self.fresh_rows(batch), self.variable_levels, self.saved_rows)[0])
        self.saved_rows = None
        self.renew_parameters(batch)
        active = ActiveSet(mask, batch)
        for half in ("pre_update", "post_update"):
            self.update(half, batch, active)
        batch.touch()

    def on_enter(self, batch: Batch, mask: Tensor) -> None:
        """Prepare systems that arrive from another stage, in place: degrees of freedom, state, velocities."""
        self._count_degrees_of_freedom(batch, mask)
        levels = self.variable_levels
        for name, fresh in self.fresh_rows(batch).items():
            present = getattr(self._state, name)
            arrived = mask_of_rows(batch, mask, levels.get(name, "system"), present)
            present.copy_(torch.where(arrived, fresh, present))
        settle_velocities_(self, batch, mask, says=self.is_motion and self.warns_of_start)

    # -- operators and bookkeeping -------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        """Fuse two engines: systems finish this one, then go on in `other`, in the same batch."""
        if not isinstance(other, BaseDynamics):
            raise can_not_add(self, other)
        return _doors.resolve("athanor.dynamics", "FusedStage")([(0, self), (1, other)])

    def __radd__(self, other: Any) -> Any:
        """Refuse what is no engine."""
        raise can_not_add(self, other)

    def __or__(self, other: Any) -> Any:
        """Refuse: pipelines over several processes are not part of this version."""
        raise NotAvailableError(
            f"{type(self).__name__} | {type(other).__name__}: pipelines over several processes are not part of this "
            f"version. `first + second` runs both in one batch."
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return settings, counters and hooks; what it remembers of systems rides on the batch, and goes with that."""
        gone = {
            "_state": None,
            "active": None,
            "_opened": None,
            "_running": False,
            "active_batch": None,
            "resumed_folder": None,
        }
        return {**vars(self), **gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        take_key(self, self.key)

    def __enter__(self) -> BaseDynamics:
        """Return self; on a CPU there is nothing to prepare."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and a batch belongs; what `device_type` says for a model without tensors."""
        return device_of(self.model) or torch.device(self.device_type)

    @property
    def global_rank(self) -> int:
        """Rank of this process among all of a job; 0 unless `torch.distributed` is set up."""
        return _runtime.global_rank()

    @property
    def local_rank(self) -> int:
        """Rank of this process on its machine; 0 unless `torch.distributed` is set up."""
        return _runtime.local_rank()

    @property
    def model_config(self) -> Any:
        """The model's configuration."""
        return self.model.model_config

    @property
    def model_is_conservative(self) -> bool:
        """Whether the model derives forces from its energy by automatic differentiation."""
        return "forces" in self.model.model_config.autograd_outputs

    def __repr__(self) -> str:
        shown = [f"model={type(self.model).__name__}", *parameters_in_words(self)]
        shown += [f"n_steps={self.n_steps}", f"step_count={self.step_count}"]
        if self.convergence_hook is not None:
            shown.append(f"convergence_hook={self.convergence_hook!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    # -- used by the driver --------------------------------------------------------------------------------------

    @property
    def inflight_mode(self) -> bool:
        """Whether systems leave its runs when they are finished, and others join."""
        return self.sampler is not None

    @property
    def needs(self) -> frozenset[str]:
        """Model outputs that its updates and criteria read."""
        keys = frozenset(self.__needs_keys__)
        if self.convergence_hook is None:
            return keys
        return keys | (self.convergence_hook.keys & self.model.model_config.outputs)

    @property
    def keeps_momentum(self) -> bool | Tensor:
        """Whether the total momentum is a constant of motion with its model, of all systems or of each [B]."""
        return False if self.model.model_card.external_field else self.conserves_momentum

    @property
    def moves_cell(self) -> bool:
        """Whether its updates change cells."""
        return "cell" in self.__provides_keys__

    @property
    def variable_levels(self) -> dict[str, Level]:
        """Level of each declared state variable."""
        return {name: variable.level for name, variable in StateVariable.declared_in(type(self)).items()}

    @property
    def has_new_parameters(self) -> bool:
        """Whether a parameter was assigned since the last step."""
        return bool(self._assigned)

    def misfits(self, batch: Batch) -> Tensor | None:
        """Return a failure code for each system that it can not move, else 0, int64 [B]; None if it can move all."""
        return None

    def take_on(self, batch: Batch, mask: Tensor) -> None:
        """Write what holds for the systems of a mask [B] while it moves them: `dof`, and velocities if unknown."""
        self._count_degrees_of_freedom(batch, mask)
        settle_velocities_(self, batch, mask, says=self.warns_of_start)

    def fresh_rows(self, batch: Batch) -> Rows:
        """Return fresh state for every system."""
        state = self.make_state(batch)
        return {} if state is None else {name: tensor.contiguous() for name, tensor in state.tensors().items()}

    def use_rows(self, rows: Rows) -> None:
        """Work on `rows` from now on."""
        self._state = IntegratorState(**rows) if rows else None

    def kept_rows(self) -> Rows:
        """Return the rows that a step changes, histories left out."""
        declared = StateVariable.declared_in(type(self))
        rows = {} if self._state is None else self._state.tensors()
        return {name: row for name, row in rows.items() if name not in declared or not declared[name].is_history}

    @property
    def halves_steps(self) -> bool:
        """Whether a system that failed can go on with smaller steps: its class declares `halvings`."""
        return "halvings" in self.variable_levels

    @property
    def times_halved(self) -> Tensor | None:
        """How many times each system had its steps halved in this stage, int64 [B]; None if that can not be done."""
        return getattr(self._state, "halvings", None)

    @property
    def rows_of_motion(self) -> frozenset[str]:
        """Names of the rows that go back with a system some steps, and make it go on from there as before."""
        if not self.is_motion:
            return frozenset()
        return frozenset(self.kept_rows()).difference(Parameter.names_in(type(self)), ["halvings"])

    def take_smaller_steps(self, batch: Batch, systems: Tensor) -> None:
        """Halve the steps of the `systems` of a mask [B], in place; what does not go back with them is fresh.

        Parameters keep their values, but those that are declared with ``shrinks=True``.
        """
        if not bool(systems.any()):
            return
        self._state.halvings.add_(systems)
        declared, levels = StateVariable.declared_in(type(self)), self.variable_levels
        for name, fresh in self.fresh_rows(batch).items():
            variable = declared.get(name)
            stays = not variable.shrinks if isinstance(variable, Parameter) else name in self.rows_of_motion
            if not stays and name != "halvings":
                present = getattr(self._state, name)
                chosen = mask_of_rows(batch, systems, levels.get(name, "system"), present)
                present.copy_(torch.where(chosen, self._halved(name, fresh), present))

    def _halved(self, name: str, values: Tensor) -> Tensor:
        """Return `values` of a parameter, rows [B], halved as often as the steps of their systems."""
        halvings = self.times_halved if getattr(getattr(type(self), name, None), "shrinks", False) else None
        return values if halvings is None else (values * 0.5 ** halvings.double()).to(values.dtype)

    def works_on_part(self, batch: Batch) -> bool:
        """Whether it can be given some of the systems of `batch`: nothing outside its state has a row for each."""
        if self.convergence_hook is not None and not self.convergence_hook.works_on_part:
            return False
        if any(getattr(self, name).is_per_system for name in self._scheduled):
            return False
        counts, ours = (len(batch), batch.num_nodes), Parameter.names_in(type(self))
        return not any(
            isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] in counts and name not in ours
            for name, value in vars(self).items()
        )

    def renew_parameters(self, batch: Batch) -> set[str]:
        """Bring the state up to parameters that were assigned since the last step, in place; return their names."""
        renewed: set[str] = set()
        if self._assigned and self._state is not None:
            rows, fresh = self._state.tensors(), self.fresh_rows(batch)
            renewed = self._assigned & rows.keys()
            for name in renewed:
                rows[name].copy_(self._halved(name, fresh[name]))
        self._assigned.clear()
        return renewed

    def update(self, half: str, batch: Batch, active: ActiveSet) -> None:
        """Do ``pre_update`` or ``post_update`` for the active systems, in place."""
        self.active = active
        if self._scheduled and half == "pre_update":
            self._follow_schedules(batch)
        if self._selects_active_itself:
            getattr(self, half)(batch)
        else:
            rows, levels = {} if self._state is None else self._state.tensors(), self.variable_levels
            state = {name: (levels.get(name, "system"), tensor) for name, tensor in rows.items()}
            with restored_where_inactive(batch, active, self._mutable_fields, state):
                getattr(self, half)(batch)

    def judge(self, batch: Batch, systems: Tensor, default: ConvergenceHook | None = None) -> Tensor | None:
        """Return which of the `systems` of a mask [B] satisfy its criteria, bool [B]; None if none does.

        The criteria are those of `default` if it has none.
        """
        hook = self.convergence_hook or default
        if hook is None:
            return None
        if hook.frequency > 1:  # counted by each system, so that it does not matter when others joined
            systems = systems & ((batch.stage_step.reshape(-1) - 1) % hook.frequency == 0)
            if not bool(systems.any()):
                return None
        converged = hook.mask(batch, getattr(self._state, "pressure", self.pressure)) & systems
        return converged if bool(converged.any()) else None

    def make_context(self, stage: Any, batch: Batch, converged: Tensor | None = None) -> DynamicsContext:
        """Return what hooks are given."""
        return DynamicsContext(
            batch=batch,
            model=self.model,
            global_rank=self.global_rank,
            workflow=self,
            step_count=self.step_count,
            converged_mask=converged,
        )

    def _members(self) -> list[BaseDynamics]:
        """The other engines of the run, whose hooks are opened with it."""
        return []

    def _stages(self) -> list[StageSpec]:
        return [StageSpec(self, None, self.exit_status)]

    def without_stage(self, batch: Batch) -> dict[int, str]:
        """Return why systems of a batch would never be moved, by their place, because of the status that they bring."""
        return {}

    def _check_statuses(self, batch: Batch) -> None:
        """Raise InputError if a system has a status between the codes, which no stage would ever move."""
        for place, problem in self.without_stage(batch).items():
            name = system_name(batch.to_dict(), place)
            raise InputError(problem.replace("its `status`", f"`status` of {name}", 1) + ".")

    def _given(self, batch: Batch | None) -> Batch:
        name = type(self).__name__
        if batch is None and self._driver.resumed is not None:
            return self._driver.resumed[0]
        if batch is None:
            raise InputError(f"{name}.run needs a batch, or a sampler: `{name}(..., sampler=SizeAwareSampler(...))`.")
        if self.sinks or self.failure_sinks:
            text = (
                f"The sinks of {name} get nothing: they are for systems that leave a run in flight, and it has no "
                f"sampler. A hook writes frames: `SnapshotHook(sink)`."
            )
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
        return batch

    def _follow_schedules(self, batch: Batch) -> None:
        """Bring scheduled parameters of the systems that move up to the time they have spent in the stage, in place."""
        assert self.active is not None
        elapsed = batch.time.reshape(-1) - self._state.entered
        for name in self._scheduled:
            parameter, rows = getattr(type(self), name), getattr(self._state, name)
            values = parameter.rows_of(self, getattr(self, name).at(elapsed), batch)
            self.active.select_(rows, self._halved(name, values).to(rows.dtype))

    @contextmanager
    def _around_run(self, batch: Batch, begin: Callable[[Batch], None] | None = None) -> Iterator[None]:
        """Open hooks, ask for outputs and prime results for a whole run; close and restore in any case.

        With `begin` to take the batch up, instead of the driver's.
        """
        check_batch(batch, self)
        with torch.inference_mode(False), self._alone_with(batch), self._asking_for_outputs():
            self.open_hooks(*self._members())
            try:
                self._running = True
                with self._taken_up(batch, begin or partial(self._driver.begin, forget_converged=True)):
                    if not self._driver.systems.active.any and not self.inflight_mode:
                        warn_if_nothing_moves(batch, self)
                    yield
            except BaseException as error:
                self.close_hooks(type(error), error, error.__traceback__)
                raise
            finally:
                self._running = False
                self._release_checkpoints()
            self.close_hooks()

    @contextmanager
    def _alone_with(self, batch: Batch) -> Iterator[None]:
        """Have the batch, the engine and the model with its parts to this thread, and the batch's own memory."""
        with in_use(("batch", batch), ("engine", self), *of_model(self.model)):
            batch.separate_memory()
            yield

    @contextmanager
    def _asking_for_outputs(self) -> Iterator[None]:
        """Ask the model, in eval mode, for what the stages need, and leave it as it was afterwards."""
        needs = self._driver.needs
        check_can_produce(self.model, needs, type(self).__name__)
        with (
            asking_for(self.model, needs.union(self.model.model_config.active_outputs or ())),
            in_eval_mode(self.model),
        ):
            yield

    @contextmanager
    def _taken_up(self, batch: Batch, begin: Callable[[Batch], None]) -> Iterator[None]:
        """Take up a batch for some steps, and leave what they did on it in any case."""
        try:
            begin(batch)
            yield
        except BaseException:
            self._driver.end(failed=True)
            raise
        self._driver.end(failed=False)

    def _count_degrees_of_freedom(self, batch: Batch, mask: Tensor) -> None:
        dof = count_degrees_of_freedom(batch, self.keeps_momentum)
        batch.dof.copy_(torch.where(mask[:, None], dof.to(batch.dof.dtype), batch.dof))
