"""`FusedStage`: several engines, one batch, one forward pass a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from athanor import _runtime
from athanor._values import check_whole
from athanor.dynamics.arguments import can_not_add
from athanor.dynamics.convergence import DEFAULT_FMAX, ConvergenceHook
from athanor.dynamics.engine import BaseDynamics
from athanor.dynamics.state import parameters_in_words
from athanor.dynamics.status import StageSpec
from athanor.errors import ArgumentError, AthanorWarning, InputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch


class FusedStage(BaseDynamics):
    """Run several engines on one batch: each system is in the stage whose code is its status.

    A system leaves a stage when its engine's `convergence_hook` is satisfied or after its engine's `n_steps`, and
    goes on in the next; from the last stage it goes to `exit_status`. It changes stage at most once a step. Systems
    that enter a stage get fresh integrator state, and velocities as that engine says (drawn, zeroed or kept).

    Parameters
    ----------
    sub_stages
        ``(status code, engine)`` in order; ``a + b + c`` gives codes 0, 1, 2.
    entry_status
        Status of systems that join a run in flight and bring none; if it is no code, they start in the first stage.
    exit_status
        Status of a finished system; -1 means one more than the largest code.
    compile_step, compile_kwargs
        Not available in this version; leave them out.
    init_fn
        As in `BaseDynamics`: called with each batch of systems that join a run in flight.
    **kwargs
        As in `BaseDynamics`. `on_error` and `max_retries` given here win over the engines'. `n_steps` caps `run`.

    Raises
    ------
    InputError
        If there are no stages, codes repeat or do not rise, models differ, or a stage before the last can never be
        left.

    Warns
    -----
    AthanorWarning
        If an optimizer before the last stage has neither criterion nor budget: systems leave it at 0.05 eV/Å.

    Examples
    --------
    >>> from athanor.dynamics import FIRE, NVTLangevin, ConvergenceHook
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> model = LennardJonesModelWrapper(0.0104, 3.4, 8.5)
    >>> relax = FIRE(model, dt=0.1, n_steps=200, convergence_hook=ConvergenceHook.from_fmax(0.01))
    >>> heat = NVTLangevin(model, dt=2.0, temperature=40.0, friction=0.01, n_steps=1000)
    >>> (relax + heat).exit_status
    2
    """

    def __init__(
        self,
        sub_stages: Sequence[tuple[int, BaseDynamics]],
        *,
        entry_status: int = 0,
        exit_status: int = -1,
        compile_step: bool = False,
        compile_kwargs: dict[str, Any] | None = None,
        init_fn: Callable[[Batch], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if compile_step or compile_kwargs:
            raise InputError("FusedStage does not take `compile_step` or `compile_kwargs` in this version.")
        self.sub_stages = [_as_stage(entry) for entry in sub_stages]
        _check_stages(self.sub_stages)
        self.entry_status = entry_status
        codes = [code for code, _ in self.sub_stages]
        engines = [engine for _, engine in self.sub_stages]
        self.__needs_keys__ = frozenset().union(*(engine.__needs_keys__ for engine in engines))
        self.__provides_keys__ = frozenset().union(*(engine.__provides_keys__ for engine in engines))
        self.exit_status = codes[-1] + 1 if exit_status == -1 else exit_status
        if self.exit_status <= codes[-1]:
            raise InputError(f"`exit_status` is {exit_status}; it must be larger than the last code {codes[-1]}.")
        wanted = {engine.on_error for engine in engines}
        kwargs.setdefault("on_error", next(way for way in ("raise", "retry", "quarantine") if way in wanted))
        kwargs.setdefault("max_retries", max(engine.max_retries for engine in engines))
        self.first_status = entry_status if entry_status in codes else codes[0]
        super().__init__(engines[0].model, exit_status=self.exit_status, init_fn=init_fn, **kwargs)

    def register_fused_hook(self, hook: Any) -> None:
        """Register a hook on the fused stage itself; the same as `register_hook`."""
        self.register_hook(hook)

    @staticmethod
    def all_complete(batch: Batch, exit_status: int) -> bool:
        """Whether every system has reached `exit_status`, from 0 if it has no status yet; waits for the device."""
        status = batch.get("status", torch.zeros(len(batch), dtype=torch.long))
        return bool((status.reshape(-1) >= exit_status).all())

    @overload
    def run(self, batch: Batch, n_steps: int | None = None) -> Batch: ...

    @overload
    def run(self, batch: None = None, n_steps: int | None = None) -> Batch | None: ...

    def run(self, batch: Batch | None = None, n_steps: int | None = None) -> Batch | None:
        """Run until every system is finished, at most `n_steps` steps, and return the same batch, changed in place.

        With a `sampler`, run in flight, as in `BaseDynamics.run`; `n_steps` caps the run there, too.

        Raises
        ------
        InputError
            If there is neither batch nor sampler, or the model can not compute what a stage needs.
        """
        n_steps = self.n_steps if n_steps is None else n_steps
        if self.inflight_mode:
            return self._in_flight.run(batch, n_steps)
        batch = self._given(batch)
        cap = None if n_steps is None else check_whole(n_steps, "n_steps")
        with self._around_run(batch):
            self._check_statuses(batch)
            self._driver.advance(cap)
        return batch

    def without_stage(self, batch: Batch) -> dict[int, str]:
        """Return why systems of a batch would never be moved, by their place, because of the status that they bring."""
        status = batch.status.reshape(-1)
        codes = [code for code, _ in self.sub_stages]
        lost = (status < self.exit_status) & ~torch.isin(status, status.new_tensor(codes))
        text = "its `status` is {}; the stages have the codes {}. Give it one of these, or {} if it is finished"
        places = lost.nonzero().flatten().tolist() if bool(lost.any()) else []
        return {place: text.format(int(status[place]), codes, self.exit_status) for place in places}

    def __call__(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """Advance one step."""
        return self.step(batch)

    def __add__(self, other: Any) -> FusedStage:
        """Return a new fused stage with `other` appended; hooks and settings of this one are kept."""
        if not isinstance(other, BaseDynamics):
            raise can_not_add(self, other)
        more = other.sub_stages if isinstance(other, FusedStage) else [(0, other)]
        code = self.sub_stages[-1][0]
        appended = [(code + 1 + place, engine) for place, (_, engine) in enumerate(more)]
        hooks = list(self.hooks) + (list(other.hooks) if isinstance(other, FusedStage) else [])
        kept = {name: getattr(self, name) for name in _SETTINGS}
        is_default = self.exit_status == code + 1
        exit_status = -1 if is_default else max(self.exit_status, appended[-1][0] + 1)
        return FusedStage([*self.sub_stages, *appended], hooks=hooks, exit_status=exit_status, **kept)

    def _members(self) -> list[BaseDynamics]:
        return [engine for _, engine in self.sub_stages]

    def _stages(self) -> list[StageSpec]:
        codes = [code for code, _ in self.sub_stages] + [self.exit_status]
        return [
            StageSpec(engine, code, following, ConvergenceHook() if _is_endless(engine) and code < codes[-2] else None)
            for (code, engine), following in zip(self.sub_stages, codes[1:], strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs beside the batch, of this stage and of every engine."""
        batch = self._driver.systems.batch
        return super().state_dict() | {"stages": [engine._state_for(batch) for _, engine in self.sub_stages]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state` from `state_dict`."""
        super().load_state_dict(state)
        for (_, engine), saved in zip(self.sub_stages, state["stages"], strict=True):
            engine.load_state_dict(saved)

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{code}: {type(engine).__name__}({', '.join(parameters_in_words(engine))})"
            for code, engine in self.sub_stages
        )
        return f"FusedStage({parts}, exit_status={self.exit_status}, step_count={self.step_count})"


_SETTINGS = (
    "entry_status", "n_steps", "on_error", "max_retries", "sampler", "sinks", "failure_sinks", "refill_frequency",
    "max_batch_size", "init_fn", "ordered",
)  # fmt: skip
"""Settings that a fused stage keeps when another one is appended."""


def _as_stage(entry: Any) -> tuple[int, BaseDynamics]:
    """Return ``(code, engine)`` if `entry` is that."""
    if not (isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[1], BaseDynamics)):
        raise ArgumentError(
            f"`sub_stages` holds a {type(entry).__name__}; it takes (status code, engine) pairs: "
            f"`[(0, relax), (1, heat)]`, or write `relax + heat`."
        )
    return check_whole(entry[0], "status code", None), entry[1]


def _check_stages(stages: list[tuple[int, BaseDynamics]]) -> None:
    """Refuse stage lists that can not run."""
    if not stages:
        raise InputError("FusedStage needs at least one (status code, engine) pair.")
    codes = [code for code, _ in stages]
    if sorted(set(codes)) != codes:
        raise InputError(f"status codes are {codes}; give each stage a larger code than the one before.")
    if len({id(engine) for _, engine in stages}) < len(stages):
        raise InputError("one engine stands in two stages, which would share its state. Build one for each stage.")
    for code, engine in stages:
        if engine.sampler is not None or engine.sinks:
            raise InputError(
                f"stage {code} ({type(engine).__name__}) has a `sampler` or `sinks` of its own; systems come and go "
                f"through the whole run. Give them to it: `FusedStage([(0, first), (1, second)], sampler=...)`."
            )
    devices = {code: engine.device_type for code, engine in stages}
    if len(set(devices.values())) > 1:
        raise InputError(f"stages run on different devices: {devices}. Use one `device_type` for all.")
    first = stages[0][1].model
    for code, engine in stages[1:]:
        if engine.model is not first:
            raise InputError(
                f"stage {code} ({type(engine).__name__}) has another model object than stage {codes[0]}. "
                f"A fused run has one forward pass; build all stages with the same model."
            )
    for code, engine in stages[:-1]:
        if not _is_endless(engine):
            continue
        what = f"stage {code} ({type(engine).__name__})"
        if engine.is_motion:
            raise InputError(f"{what} can never be left. Give it a `convergence_hook` or `n_steps`.")
        text = (
            f"{what} has no criterion; systems leave it when their largest force is at most {DEFAULT_FMAX:g} eV/Å. Say "
            f"so with `convergence_hook=ConvergenceHook.from_fmax({DEFAULT_FMAX:g})`, or give it `n_steps`."
        )
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())


def _is_endless(engine: BaseDynamics) -> bool:
    return engine.convergence_hook is None and engine.n_steps is None
