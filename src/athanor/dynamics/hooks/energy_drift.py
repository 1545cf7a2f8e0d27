"""EnergyDriftMonitorHook: warn, or stop, when what an engine should conserve drifts away."""

from __future__ import annotations

import warnings
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor import _runtime
from athanor._values import check_whole, describe
from athanor.data import observables
from athanor.dynamics.hooks.memory import HookMemory
from athanor.dynamics.rows import Rows
from athanor.dynamics.state import check_positive
from athanor.errors import AthanorWarning, InputError, SimulationError
from athanor.hooks.stages import DynamicsStage

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.hooks.context import DynamicsContext

METRICS = {"per_atom_per_step": "eV per atom and step", "per_atom_per_ps": "eV per atom and ps", "absolute": "eV"}
"""Metric -> its unit."""
_SHOWN = 3


class EnergyDriftMonitorHook:
    """Compare the conserved energy of each system with what it was, and complain of a drift.

    The energy is the one that the engine conserves (`BaseDynamics.conserved_energy`), the total energy where it says
    none, in a fused run that of the stage a system is in. Optimizers are left out: their energy is meant to fall. What
    is not finite is a drift.

    Parameters
    ----------
    threshold
        Largest drift that is accepted, in the unit of `metric`.
    metric
        ``"per_atom_per_step"`` (eV), ``"per_atom_per_ps"`` (eV), or ``"absolute"`` (eV of the whole system).
    action
        ``"warn"``: once of each system. ``"raise"``: raise at once.
    frequency
        Steps between checks.
    include_kinetic
        With False, watch the potential energy alone.
    stage
        Where in the step; AFTER_STEP, as results and velocities then belong together.
    window
        Steps. A rate is taken over one to two windows, so that a drift that begins late shows as well as an early one,
        and at the beginning as if a whole window had passed, so that the oscillation of an integrator is no drift.

    Raises
    ------
    InputError
        If an argument makes no sense.
    SimulationError
        A `RuntimeError`, from a call under ``"raise"``; it names the systems.

    Warns
    -----
    AthanorWarning
        Under ``"warn"``.

    Notes
    -----
    ``"absolute"`` counts from where a system entered its stage, this hook saw it first, or it went back to after a
    failure. References are kept for each system, on the batch, so that others may join or leave. Waits for the device.

    Examples
    --------
    >>> from athanor.dynamics.hooks import EnergyDriftMonitorHook
    >>> EnergyDriftMonitorHook(1e-3, metric="per_atom_per_ps", frequency=100)
    EnergyDriftMonitorHook(threshold=0.001, metric='per_atom_per_ps', action='warn', window=100)
    """

    observes = True
    on_active = True

    def __init__(
        self,
        threshold: float,
        metric: str = "per_atom_per_step",
        action: str = "warn",
        frequency: int = 1,
        include_kinetic: bool = True,
        stage: Enum = DynamicsStage.AFTER_STEP,
        *,
        window: int = 100,
    ) -> None:
        check_positive(threshold, "threshold", METRICS.get(metric, ""))
        if metric not in METRICS:
            raise InputError(f"`metric` is {metric!r}; use one of {', '.join(map(repr, METRICS))}.")
        if action not in ("warn", "raise"):
            raise InputError(f'`action` is {action!r}; use "warn" or "raise".')
        self.threshold, self.metric, self.action = threshold, metric, action
        self.frequency = check_whole(frequency, "frequency", 1)
        self.include_kinetic = include_kinetic
        self.stage: Enum | None = stage
        self.window = check_whole(window, "window", 1)
        self._memory = HookMemory()
        self._engines: list[str] = []

    def __repr__(self) -> str:
        return describe(self, "threshold", "metric", "action", "window")

    def take_on(self, batch: Batch, systems: Tensor) -> None:
        """Note the batch that is run."""
        self._memory.follow(batch)

    @torch.no_grad()
    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Check the systems of ``ctx.batch`` that moved."""
        batch = ctx.batch
        energy, watched = self._energy(ctx)
        step = _counter(batch, "step", ctx.step_count)
        now = {
            "energy": energy,
            "step": step,
            "time": _counter(batch, "time", 0).double(),
            # which visit to which stage: another engine conserves another energy
            "visit": step - _counter(batch, "stage_step", ctx.step_count),
            "engine": torch.full_like(step, self._number_of(getattr(ctx.workflow, "key", ""))),
            "retries": _counter(batch, "retries", 0),  # of one that went back, what was before is no reference
        }
        rows = self._memory.of(batch, lambda: _anchored(now))
        starts = torch.stack([rows[name] != now[name] for name in ("visit", "engine", "retries")]).any(dim=0) & watched
        if bool(starts.any()):
            for name, fresh in _anchored(now).items():
                rows[name][starts] = fresh[starts]
        drift = self._drift(batch, now, rows)
        bad = watched & ~(drift <= self.threshold)  # NaN is no drift that is accepted
        self._move_windows(now, rows, watched)
        new = bad & ~rows["told"]
        if bool(new.any()):
            rows["told"].logical_or_(new)
            self._complain(ctx, drift, new)

    def _energy(self, ctx: DynamicsContext) -> tuple[Tensor, Tensor]:
        """Return the energy to watch, float64 [B], and of which systems, bool [B]."""
        batch = ctx.batch
        everybody = torch.ones(len(batch), dtype=torch.bool, device=batch.device)
        watched = everybody if ctx.active_mask is None else ctx.active_mask
        stages = getattr(ctx.workflow, "sub_stages", None)
        if stages is None:
            is_motion = getattr(ctx.workflow, "is_motion", True)
            return self._energy_of(ctx.workflow, batch), watched if is_motion else torch.zeros_like(watched)
        energy, in_motion, status = torch.zeros(len(batch)).to(batch.energy).double(), ~everybody, _stage_of_step(batch)
        for code, engine in stages:
            here = status == code
            if engine.is_motion and bool(here.any()):
                energy, in_motion = torch.where(here, self._energy_of(engine, batch), energy), in_motion | here
        return energy, watched & in_motion

    def _energy_of(self, engine: Any, batch: Batch) -> Tensor:
        """Return what an engine conserves, or the energy of the batch if that is nothing, float64 [B]."""
        method = getattr(engine, "conserved_energy", None) if self.include_kinetic else None
        conserved = None if method is None else method(batch)
        if conserved is None:
            conserved = batch.energy
            if self.include_kinetic and "velocities" in batch:
                conserved = conserved + observables.kinetic_energy(batch)
        return conserved.detach().reshape(-1).double()

    def _drift(self, batch: Batch, now: Rows, rows: Rows) -> Tensor:
        """Return the drift in the unit of the metric, [B]."""
        if self.metric == "absolute":
            return (now["energy"] - rows["start"]).abs()
        change = (now["energy"] - rows["energies"][:, 0]).abs() / batch.num_nodes_per_graph
        steps = now["step"] - rows["steps"][:, 0]
        rate = change / steps.clamp(min=self.window)
        if self.metric == "per_atom_per_step":
            return rate
        step_in_ps = 1e-3 * (now["time"] - rows["times"][:, 0]) / steps.clamp(min=1)
        return torch.where(steps > 0, rate / step_in_ps, 0.0 * rate)

    def _move_windows(self, now: Rows, rows: Rows, watched: Tensor) -> None:
        """Begin another window where one is over: rates are then taken from the beginning of the one that is over."""
        over = watched & (now["step"] - rows["steps"][:, 1] >= self.window)
        if bool(over.any()):
            for name, value in (("energies", now["energy"]), ("steps", now["step"]), ("times", now["time"])):
                rows[name][over] = torch.stack([rows[name][over, 1], value[over]], dim=1)

    def _complain(self, ctx: DynamicsContext, drift: Tensor, bad: Tensor) -> None:
        batch, rows = ctx.batch, bad.nonzero().flatten().tolist()
        ids = _counter(batch, "system_id", -1)
        who = [f"{float(drift[row]):.3g} in system_id {int(ids[row])} (index {row})" for row in rows[:_SHOWN]]
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        what = "The conserved energy" if self.include_kinetic else "The potential energy"
        text = (
            f"{what} drifts at step {ctx.step_count} in {len(rows)} of {len(batch)} systems, in "
            f"{METRICS[self.metric]}: {', '.join(who)}{more}; accepted is "
            f"{self.threshold:g}. Reduce `dt`, or look for forces that are not the gradient of the energy."
        )
        if self.action == "raise":
            raise SimulationError(text)
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())

    def state_dict(self) -> dict[str, Any]:
        """Return the references of the systems of the batch that was run last, which must still be there."""
        return {**self._memory.state_dict(), "engines": list(self._engines)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the references of `state`."""
        self._memory.load_state_dict(state)
        self._engines = list(state["engines"])

    def _number_of(self, key: str) -> int:
        """Number of an engine among those that this hook has seen."""
        if key not in self._engines:
            self._engines.append(key)
        return self._engines.index(key)


def _anchored(now: Rows) -> Rows:
    """Return rows of systems that are seen for the first time: both windows begin now."""

    def both(value: Tensor) -> Tensor:
        return torch.stack([value, value], dim=1)

    return {
        "start": now["energy"].clone(),
        "energies": both(now["energy"]),
        "steps": both(now["step"]),
        "times": both(now["time"]),
        "visit": now["visit"].clone(),
        "engine": now["engine"].clone(),
        "retries": now["retries"].clone(),
        "told": torch.zeros_like(now["step"], dtype=torch.bool),
    }


def _counter(batch: Batch, name: str, otherwise: int) -> Tensor:
    """Return a system field [B] of the batch, or the same number for all if it has none."""
    value = batch.get(name)
    if value is None:
        return torch.full((len(batch),), otherwise, device=batch.device)
    return value.reshape(-1)


def _stage_of_step(batch: Batch) -> Tensor:
    """Return the status in which each system was moved in this step, [B]; -1 where it has changed stage since."""
    status = _counter(batch, "status", 0)
    return torch.where(_counter(batch, "stage_step", 1) > 0, status, -1)
