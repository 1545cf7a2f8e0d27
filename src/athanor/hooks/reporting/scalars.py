"""The numbers of one event: of a run of dynamics, of a training, and what users add."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from athanor.data import observables
from athanor.errors import ContractError, ShapeError
from athanor.hooks.context import HookContext
from athanor.hooks.reporting.state import ReporterMessage, ReportingState

ScalarCallback = Callable[[Any, Enum], Any]
"""``(ctx, stage)`` -> a number, a mapping of numbers, nested or not, or None."""
Scalar = float | int


@dataclass(kw_only=True)
class ScalarSnapshot:
    """The numbers of one event, and when it was.

    Parameters
    ----------
    stage
        Name of the stage.
    scalars
        Name -> number.
    timestamp_s
        Seconds since 1970.
    elapsed_s, event_count
        Seconds and events since the reporting began.
    step_count, batch_count, epoch_step_count, epoch
        Counters of the run, as far as it has them.
    global_rank
        Of the process.
    messages
        What reporters said so far.
    """

    stage: str
    scalars: dict[str, Scalar]
    timestamp_s: float = field(default_factory=time.time)
    elapsed_s: float | None = None
    event_count: int | None = None
    step_count: int | None = None
    batch_count: int | None = None
    epoch_step_count: int | None = None
    epoch: int | None = None
    global_rank: int = 0
    messages: tuple[ReporterMessage, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON; a number that is not finite as None."""
        plain = asdict(self)
        plain["scalars"] = {name: value if abs(value) < float("inf") else None for name, value in self.scalars.items()}
        plain["messages"] = [asdict(message) for message in self.messages]
        return plain


def collect_scalars(
    ctx: HookContext,
    stage: Enum,
    state: ReportingState | None = None,
    *,
    custom_scalars: Mapping[str, ScalarCallback] | None = None,
    include_losses: bool = True,
    include_optimizer_lrs: bool = True,
    include_dynamics: bool = False,
    include_progress: bool = False,
) -> ScalarSnapshot:
    """Return the numbers of an event. Waits for the device once.

    Parameters
    ----------
    ctx, stage
        What a hook is given.
    state
        State of the reporting.
    custom_scalars
        Name -> function of context and stage; a mapping that it returns is flattened, ``name/key``.
    include_losses, include_optimizer_lrs, include_dynamics, include_progress
        Which of the usual ones; those that the context lacks are left out.

    Raises
    ------
    ShapeError
        If a custom scalar is a tensor of more than one number.
    ContractError
        If one is no number, mapping or None.
    """
    found: dict[str, Any] = {}
    if include_losses:
        found |= _losses(ctx)
    if include_optimizer_lrs:
        found |= extract_optimizer_lr_scalars(ctx)
    if include_dynamics:
        found |= _dynamics(ctx)
    if include_progress:
        found |= _progress(ctx, state)
    for name, function in (custom_scalars or {}).items():
        found |= _flat(function(ctx, stage), name)
    now = time.time()
    return ScalarSnapshot(
        stage=stage.name,
        scalars=_on_host(found),
        timestamp_s=now,
        elapsed_s=None if state is None else now - state.started_at_s,
        event_count=None if state is None else state.event_count,
        global_rank=ctx.global_rank,
        messages=() if state is None else tuple(state.messages),
        **{name: getattr(ctx, name, None) for name in ("step_count", "batch_count", "epoch_step_count", "epoch")},
    )


def extract_scalars(values: Any, *, prefix: str | None = None) -> dict[str, Scalar]:
    """Return numbers, tensors of one number, and mappings of these, nested or not, as one flat mapping.

    Raises
    ------
    ShapeError, ContractError
        As in `collect_scalars`.
    """
    return _on_host(_flat(values, prefix or ""))


def extract_loss_scalars(ctx: HookContext) -> dict[str, Scalar]:
    """Return ``loss``, and ``loss/NAME`` of what it is made of; empty if the context has none."""
    return _on_host(_losses(ctx))


def extract_optimizer_lr_scalars(ctx: HookContext) -> dict[str, Scalar]:
    """Return the learning rates: ``lr`` if there is one, else ``lr/OPTIMIZER/GROUP``."""
    optimizers = getattr(ctx, "optimizers", None) or ()
    rates = {
        f"lr/{place}/{number}": group["lr"]
        for place, optimizer in enumerate(optimizers)
        for number, group in enumerate(optimizer.param_groups)
    }
    return _on_host({"lr": next(iter(rates.values()))} if len(rates) == 1 else rates)


def extract_dynamics_scalars(ctx: HookContext) -> dict[str, Scalar]:
    """Return means and counts over the systems of a run of dynamics. Waits for the device once.

    ``energy`` (mean, eV), ``fmax`` (largest, eV/Å), ``temperature`` (mean, K), ``converged_fraction``,
    ``active_fraction``, and below ``dynamics/`` the counts ``num_graphs``, ``converged_count``, ``active_count``,
    ``graduated_count``, ``graduated_fraction`` and ``status/CODE/count`` of every stage. Systems that were set aside
    are in no mean, nor is what is not known of a system.
    """
    return _on_host(_dynamics(ctx))


def _losses(ctx: HookContext) -> dict[str, Any]:
    whole, parts = getattr(ctx, "loss", None), getattr(ctx, "losses", None)
    return _flat(whole, "loss") | (_flat(parts, "loss") if isinstance(parts, Mapping) else {})


def _dynamics(ctx: HookContext) -> dict[str, Any]:
    """Return the numbers of `extract_dynamics_scalars`, where they are."""
    batch, workflow = ctx.batch, ctx.workflow
    everybody = torch.ones(len(batch), dtype=torch.bool, device=batch.device)
    failed = batch.get("failure_code")
    good = everybody if failed is None else failed.reshape(-1) == 0
    found: dict[str, Any] = {}
    if "energy" in batch:
        found["energy"] = _mean(batch.energy, good)
    if "forces" in batch:
        found["fmax"] = torch.where(good, observables.fmax(batch).nan_to_num(nan=0.0), 0.0).max()
    if "velocities" in batch:
        found["temperature"] = _mean(observables.temperature(batch), good)
    converged = getattr(ctx, "converged_mask", None)
    converged = ~everybody if converged is None else converged
    status = batch.status.reshape(-1) if "status" in batch else torch.zeros_like(everybody, dtype=torch.long)
    finished = status >= getattr(workflow, "exit_status", 1)
    active = good & ~finished
    for name, mask in (("converged", converged), ("active", active), ("graduated", finished)):
        found[f"dynamics/{name}_count"] = mask.sum()
        found[f"{'dynamics/' if name == 'graduated' else ''}{name}_fraction"] = mask.double().mean()
    found["dynamics/num_graphs"] = len(batch)
    codes = [code for code, _ in getattr(workflow, "sub_stages", ())] or [0]
    for code in (*codes, getattr(workflow, "exit_status", 1)):
        found[f"dynamics/status/{code}/count"] = (status == code).sum()
    return found


def _progress(ctx: HookContext, state: ReportingState | None) -> dict[str, Any]:
    """Return how fast a run goes and, if its engine has `n_steps`, how far it is."""
    step, now = getattr(ctx, "step_count", None), time.time()
    if step is None or state is None:
        return {}
    first, begun = state.metadata.setdefault("first_step", (step, now))
    found: dict[str, Any] = {}
    if step > first and now > begun:
        found["dynamics/steps_per_s"] = (step - first) / (now - begun)
    target = getattr(ctx.workflow, "n_steps", None)
    if target:
        remaining = max(0, target - step - 1)
        found["dynamics/target_steps"], found["dynamics/remaining_steps"] = target, remaining
        found["dynamics/progress_fraction"] = min(1.0, (step + 1) / target)
        if "dynamics/steps_per_s" in found:
            found["dynamics/eta_s"] = remaining / found["dynamics/steps_per_s"]
    return found


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of what is known of the systems of a mask [B]; NaN if that is nothing."""
    values = values.detach().reshape(-1).double()
    known = mask & ~values.isnan()
    return torch.where(known, values, 0.0).sum() / known.sum()


def _flat(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        joined = {key: f"{name}/{key}" if name else str(key) for key in value}
        return {flat: entry for key, part in value.items() for flat, entry in _flat(part, joined[key]).items()}
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ShapeError(f"The scalar `{name}` has shape {tuple(value.shape)}; reduce it to one number.")
    if not isinstance(value, Tensor):
        try:
            value = value.item() if hasattr(value, "item") else value
            float(value)
        except (TypeError, ValueError):
            text = f"The scalar `{name}` is a {type(value).__name__}; return a number, a mapping of numbers, or None."
            raise ContractError(text) from None
    return {name: value}


def _on_host(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return numbers as Python has them; those on a device are fetched together."""
    names = [name for name, value in values.items() if isinstance(value, Tensor)]
    tensors: Sequence[Tensor] = [values[name].detach().reshape(()) for name in names]
    fetched: dict[str, Scalar] = {}
    if tensors:
        device = tensors[0].device
        numbers = torch.stack([tensor.to(device).double() for tensor in tensors]).tolist()
        fetched = {
            name: number if tensor.is_floating_point() else int(number)
            for name, tensor, number in zip(names, tensors, numbers, strict=True)
        }
    return {name: fetched.get(name, value) for name, value in values.items()}
