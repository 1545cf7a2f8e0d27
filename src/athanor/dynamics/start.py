"""With which velocities systems start: those that a user or an earlier dynamics gave, else drawn ones, else none."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor import _runtime
from athanor.data import observables
from athanor.dynamics.state import check_positive
from athanor.dynamics.velocities import draw_velocities_
from athanor.errors import AthanorWarning

if TYPE_CHECKING:
    from athanor.data.batch import Batch

FAR = 1.5
"""A start is far from its target if the temperatures differ by this factor, and by more than chance explains."""
_REST = 1e-3
"""Part of the target below which a system is at rest, which no chance explains."""
_DEVIATIONS = 4.0
"""Standard deviations of the temperature of a system that chance explains."""


def check_start(value: Any, name: str, unit: str = "") -> None:
    """Raise InputError unless `value` is None or a temperature, a number or one for each system."""
    if value is not None:
        check_positive(value, name, unit, zero_allowed=True)


def is_far(temperature: float, target: float, dof: float) -> bool:
    """Whether a system of `dof` degrees of freedom at `temperature` is far from its target, K; nothing is from 0 K."""
    if dof <= 0 or target <= 0:
        return False
    ratio, by_chance = temperature / target, _DEVIATIONS * math.sqrt(2.0 / dof)
    return ratio < _REST or (not 1.0 / FAR <= ratio <= FAR and abs(ratio - 1.0) > by_chance)


def settle_velocities_(engine: Any, batch: Batch, systems: Tensor, *, says: bool) -> None:
    """Bring the velocities of systems that an engine takes over into order, in place.

    An optimizer drops them. Dynamics keeps those that are known and draws the others.

    Parameters
    ----------
    engine
        Integrator or optimizer.
    batch
        Its `velocities` and `velocities_present` change; `dof` is that of the engine.
    systems
        Which, bool [B].
    says
        Whether to warn of what is probably not meant.
    """
    known = observables.known_velocities(batch)[:, 0] & systems
    if not engine.is_motion:
        if says and bool(known.any()):
            _warn_of_dropped(engine, batch, known)
        batch.velocities.masked_fill_(systems[batch.batch_idx][:, None], 0.0)
        batch.velocities_present.masked_fill_(systems[:, None], False)
        return
    target, unknown = engine.temperature_at_start(batch), systems & ~known
    if says and engine.step_count == 0 and target is not None and bool(known.any()):
        _warn_if_far(engine, batch, known, target)
    if bool(unknown.any()):
        if target is not None and not engine.keep_velocities:
            draw_velocities_(batch, unknown, target, engine.random_seed, engine.keeps_momentum)
        elif says and not engine.keep_velocities:
            _warn_of_rest(engine, batch, unknown)
    batch.velocities_present.logical_or_(systems[:, None])


def _warn_of_dropped(engine: Any, batch: Batch, known: Tensor) -> None:
    """Warn if velocities that are not zero are lost."""
    moving = known & (torch.nan_to_num(observables.kinetic_energy(batch))[:, 0] > 0)
    if bool(moving.any()):
        _warn(
            f"{type(engine).__name__} drops the velocities of {_which(moving)}: its steps are no motion, and dynamics "
            f"after it starts with new ones. `batch.velocities = None` says that this is meant."
        )


def _warn_of_rest(engine: Any, batch: Batch, unknown: Tensor) -> None:
    """Warn that systems start without velocities, if these are what moves them."""
    if "velocities" in engine.__provides_keys__ and bool((batch.dof[:, 0][unknown] > 0).any()):
        name = type(engine).__name__
        _warn(
            f"{name} starts {_which(unknown)} at rest: nobody gave velocities. `{name}(..., start_temperature=300.0)` "
            f"draws them, and `keep_velocities=True` says that rest is meant."
        )


def _warn_if_far(engine: Any, batch: Batch, known: Tensor, target: Tensor) -> None:
    """Warn of the first system whose velocities are of another temperature than the one asked for."""
    rows = zip(known.tolist(), observables.temperature(batch)[:, 0].tolist(), target.tolist(),
               batch.dof[:, 0].tolist(), strict=True)  # fmt: skip
    far = [index for index, (counts, found, wanted, dof) in enumerate(rows) if counts and is_far(found, wanted, dof)]
    if far:
        found, wanted = float(observables.temperature(batch)[far[0]]), float(target[far[0]])
        _warn(
            f"{type(engine).__name__} starts {len(far)} of {len(batch)} systems far from their temperature, the first, "
            f"at index {far[0]}, at {found:.4g} K instead of {wanted:.4g} K: they keep the velocities that they have. "
            f"`batch.velocities = None` has new ones drawn."
        )


def _which(systems: Tensor) -> str:
    return f"{int(systems.sum())} of {len(systems)} systems"


def _warn(text: str) -> None:
    warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
