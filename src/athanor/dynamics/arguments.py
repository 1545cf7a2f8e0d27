"""What engines are handed: checks at construction and at the start of a run, never in a step."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor import _runtime
from athanor._values import keywords_of, unknown_keyword
from athanor.data.batch import Batch
from athanor.dynamics.convergence import ConvergenceHook, has_verdict
from athanor.dynamics.sampler import SizeAwareSampler
from athanor.dynamics.state import Parameter, is_schedule
from athanor.errors import ArgumentError, AthanorWarning, ContractError, InputError
from athanor.models.mixin import BaseModelMixin
from athanor.sinks.base import DataSink, check_sink

if TYPE_CHECKING:
    from athanor.dynamics.contract import Owner
    from athanor.dynamics.status import StageSpec

_NOT_YET = ("prior_rank", "next_rank", "active_batch", "buffer_config", "comm_mode")


def check_model(model: Any) -> None:
    """Raise ContractError unless `model` is a wrapped model."""
    if isinstance(model, BaseModelMixin):
        return
    if isinstance(model, str):
        hint = f"Build it first: `athanor.models.get({model!r}, ...)`."
    elif isinstance(model, type) and issubclass(model, BaseModelMixin):
        hint = f"{model.__name__} is a class: pass an object, `{model.__name__}(...)`."
    else:
        hint = "See `athanor.models.available()`, or wrap your own."
    kind = type(model).__name__
    raise ContractError(f"`model` is a {kind}; pass a model that is wrapped with BaseModelMixin. {hint}")


def device_of(model: Any) -> torch.device | None:
    """Return where the tensors of a model are; None if it has none."""
    if not isinstance(model, torch.nn.Module):
        return None
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return None if tensor is None else tensor.device


def check_keywords(engine: type, keywords: dict[str, Any]) -> None:
    """Refuse keywords that belong to parts of the design that are not built, and unknown ones, by name."""
    for name in keywords:
        if name in _NOT_YET:
            raise InputError(
                f"{engine.__name__} does not take `{name}` in this version; leave it out to run in one process."
            )
        raise unknown_keyword(name, keywords_of(engine)[0], engine.__name__)


def check_function(function: Any, name: str) -> Any:
    """Return `function` if it can be called, or is None; raises ContractError otherwise."""
    if function is not None and not callable(function):
        raise ContractError(f"`{name}` is a {type(function).__name__}; pass a function of a batch.")
    return function


def as_convergence_hook(given: Any) -> ConvergenceHook | None:
    """Return the `ConvergenceHook` that a caller means: one, a dict of its arguments, what acts as one, or None."""
    if given is None or isinstance(given, ConvergenceHook):
        return given
    if has_verdict(given):
        return ConvergenceHook(given)
    if isinstance(given, dict):
        known = list(inspect.signature(ConvergenceHook).parameters)
        unknown = [name for name in given if name not in known]
        if not unknown:
            return ConvergenceHook(**given)
        problem = f"has the key `{unknown[0]}`; ConvergenceHook takes {', '.join(known)}"
    else:
        problem = f"is a {type(given).__name__}"
    raise ArgumentError(f"`convergence_hook` {problem}. For a largest force, pass `ConvergenceHook.from_fmax(0.05)`.")


def check_batch(batch: Any, engine: Any) -> None:
    """Raise ContractError unless `batch` is a Batch."""
    if not isinstance(batch, Batch):
        raise ContractError(
            f"{type(engine).__name__} runs a Batch; this is a {type(batch).__name__}. Make one with "
            f"`Batch.from_data_list([data])`, each `data` from `AtomicData.from_atoms(atoms)`."
        )


def check_distinct(ids: Tensor) -> None:
    """Raise InputError if two systems of a run share an id, which keys their noise and their state."""
    values, counts = ids.unique(return_counts=True)
    if len(values) == len(ids):
        return
    twice = int(values[counts > 1][0])
    places = (ids == twice).nonzero().flatten().tolist()
    raise InputError(
        f"`system_id` {twice} stands at the indices {', '.join(map(str, places[:3]))} of the batch; the ids of a run "
        f"differ. `batch.system_id = None` has them numbered anew."
    )


def warn_if_nothing_moves(batch: Batch, engine: Any) -> None:
    """Warn if every system of `batch` is past the exit status of `engine`, so that a run does nothing."""
    done = (batch.status.reshape(-1) >= engine.exit_status) & (batch.failure_code.reshape(-1) == 0)
    if bool(done.any()):
        text = (
            f"{type(engine).__name__}.run moves nothing: {int(done.sum())} of {len(batch)} systems have a `status` of "
            f"at least `exit_status` = {engine.exit_status}, as an earlier run leaves them. `batch.status = None` lets "
            f"them move again."
        )
        warnings.warn(AthanorWarning(text, "run moves nothing"), stacklevel=5)


def can_not_add(engine: Any, other: Any) -> ContractError:
    """Return the error of ``engine + other`` where `other` is no engine."""
    hint = " Pass the model to the constructor." if isinstance(other, BaseModelMixin) else ""
    return ContractError(
        f"{type(engine).__name__} + {type(other).__name__}: only engines are added to engines, as in "
        f"`relax + heat`.{hint}"
    )


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


def check_can_fly(engine: Owner, stages: Sequence[StageSpec], most: int | None) -> None:
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
