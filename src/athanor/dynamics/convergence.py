"""Convergence criteria, and the hook that carries them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._values import check_whole, is_real
from athanor.data.stress import residual_stress, spectral_norm
from athanor.dynamics.state import check_positive
from athanor.errors import ArgumentError, InputError, MissingFieldError
from athanor.hooks.stages import DynamicsStage
from athanor.kernels import segment_max
from athanor.units import GPa

if TYPE_CHECKING:
    from athanor.data.batch import Batch

DEFAULT_FMAX = 0.05
"""eV/Å; largest force of a converged system where nothing else is said."""

_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "min": lambda value, dims: value.amin(dims),
    "max": lambda value, dims: value.amax(dims),
    "absmax": lambda value, dims: value.abs().amax(dims),
    "norm": lambda value, dims: torch.linalg.vector_norm(value, dim=dims),
    "mean": lambda value, dims: value.mean(dims),
    "sum": lambda value, dims: value.sum(dims),
    "spectral": lambda value, dims: spectral_norm(value.movedim(dims, (-2, -1))),
}


@dataclass(frozen=True)
class ConvergenceCriterion:
    """One inequality that a system must satisfy: ``reduced(batch[key]) <= threshold``.

    Parameters
    ----------
    key
        Field of the batch. Atoms held by `fixed` do not count for ``forces``. ``stress`` is what is left of it against
        the engine's target pressure along periodic directions, in the space that the atoms of a slab or wire take; see
        `athanor.data.stress.residual_stress`.
    threshold
        Largest value that counts as converged, in the unit of the field (inclusive).
    reduce_dims
        Trailing dimensions that are reduced inside each row.
    reduce_op
        ``"min"``, ``"max"``, ``"absmax"``, ``"norm"`` (L2), ``"mean"``, ``"sum"``, ``"spectral"`` (largest absolute
        principal value of a tensor, over two dimensions) or None. What is left of a node field is reduced by the
        largest value of each system.
    custom_op
        Callable on the raw tensor that returns the verdict, bool [B]; overrides everything else.

    Raises
    ------
    InputError
        If `reduce_op` is unknown, or `threshold` is not a number.
    """

    key: str
    threshold: float = 0.0
    reduce_dims: int | Sequence[int] = -1
    reduce_op: str | None = None
    custom_op: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.reduce_op is not None and self.reduce_op not in _REDUCTIONS:
            raise InputError(f"`reduce_op` is {self.reduce_op!r}; use one of {', '.join(_REDUCTIONS)} or None.")
        if not is_real(self.threshold) or math.isnan(self.threshold):
            raise InputError(f"`threshold` of `{self.key}` is {self.threshold!r}; give a number in its unit.")

    def measure(self, batch: Batch, pressure: float | Tensor = 0.0) -> Tensor:
        """Return the reduced value [B] that is compared with the threshold.

        Raises
        ------
        MissingFieldError
            If the batch lacks `key`; the text lists what there is.
        InputError
            If the field has fewer dimensions than `reduce_dims` names.
        """
        value = batch.get(self.key)
        if value is None:
            present = sorted(name for level in ("node", "edge", "system") for name in batch.field_names(level))
            raise MissingFieldError(
                f"`{self.key}` is missing from the batch; a convergence criterion needs it. "
                f"Fields present: {', '.join(present)}. Let the model compute it, or drop the criterion."
            )
        value = value.detach()
        if self.key == "stress":
            value = residual_stress(batch, pressure)
        if self.reduce_op is not None:
            dims = (self.reduce_dims,) if isinstance(self.reduce_dims, int) else tuple(self.reduce_dims)
            if not {0, -value.ndim}.isdisjoint(dims):
                raise InputError(
                    f"`reduce_dims` is {self.reduce_dims} and `{self.key}` has shape {tuple(value.shape)}: its first "
                    f"dimension joins systems and can not be reduced. -1 is the last."
                )
            try:
                value = _REDUCTIONS[self.reduce_op](value, dims)
            except (IndexError, RuntimeError) as error:
                raise InputError(
                    f"`reduce_dims` is {self.reduce_dims}; `{self.key}` has shape {tuple(value.shape)}, which "
                    f"{self.reduce_op!r} can not reduce so. -1 is the last dimension."
                ) from error
        value = value.flatten(1).amax(1) if value.ndim > 1 else value
        if batch.field_spec(self.key).level != "node":
            return value
        fixed = batch.get("fixed")
        if fixed is not None and self.key == "forces":
            value = torch.where(fixed, torch.zeros_like(value), value)
        return segment_max(value, batch.batch_ptr)

    @property
    def works_on_part(self) -> bool:
        """Whether it can judge some of the systems of a batch; a `custom_op` may have a threshold for each."""
        return self.custom_op is None

    def in_words(self) -> str:
        """Return what `repr` of a hook says of it."""
        return f"{self.key}:{self.reduce_op or 'custom'} <= {self.threshold:g}"

    def evaluate(self, batch: Batch, pressure: float | Tensor = 0.0) -> Tensor:
        """Return the verdict, bool [B]."""
        if self.custom_op is not None:
            verdict = self.custom_op(batch[self.key])
            if not isinstance(verdict, Tensor) or verdict.dtype != torch.bool or verdict.numel() != len(batch):
                got = f"{verdict.dtype} {tuple(verdict.shape)}" if isinstance(verdict, Tensor) else repr(verdict)
                raise InputError(
                    f"`custom_op` of `{self.key}` returned {got}; return a bool tensor with one entry for each of "
                    f"{len(batch)} systems."
                )
            return verdict.reshape(-1)
        return self.measure(batch, pressure) <= self.threshold


@dataclass(frozen=True)
class ForeignCriterion:
    """A criterion of somebody else: any object with ``evaluate(batch)``.

    Parameters
    ----------
    judge
        The object. It returns bool [B] or [B, 1], the indices of converged systems, or None if there are none.
    """

    judge: Any
    works_on_part = False
    """It may know something of each system by its place."""

    @property
    def key(self) -> str:
        """Field that it reads, if it says so."""
        key = getattr(self.judge, "key", "")
        return key if isinstance(key, str) else ""

    def evaluate(self, batch: Batch, pressure: float | Tensor = 0.0) -> Tensor:
        """Return the verdict, bool [B]."""
        found = self.judge.evaluate(batch)
        verdict = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        if found is None:
            return verdict
        if isinstance(found, Tensor) and found.dtype == torch.bool and found.numel() == len(batch):
            return found.reshape(-1)
        if isinstance(found, Tensor) and not found.is_floating_point() and found.dtype != torch.bool:
            verdict[found.reshape(-1)] = True
            return verdict
        got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise InputError(
            f"`evaluate` of {type(self.judge).__name__} returned {got}; return a bool tensor with one entry for each "
            f"of {len(batch)} systems, the indices of those that converged, or None."
        )

    def in_words(self) -> str:
        """Return what `repr` of a hook says of it."""
        return type(self.judge).__name__


def has_verdict(thing: Any) -> bool:
    """Whether `thing` is an object with ``evaluate(batch)``."""
    return not isinstance(thing, type) and callable(getattr(thing, "evaluate", None))


class ConvergenceHook:
    """Decide which systems are converged; as a hook, migrate their status.

    Parameters
    ----------
    criteria
        None for the default (largest force at most 0.05 eV/Å), one criterion, or a list; all must hold. A criterion is
        a `ConvergenceCriterion`, a dict of its arguments, an object with attributes of these names, or an object with
        ``evaluate(batch)`` that returns bool [B], the indices of converged systems, or None.
    source_status, target_status
        As a hook: move converged systems from one status to the other. Nothing is moved unless both are given.
    frequency
        Evaluate every so many steps of a system in its stage, the first time after the first.
    fmax
        eV/Å; short for the criterion of `from_fmax`, beside those of `criteria`.

    Raises
    ------
    InputError
        If there is no criterion, or a threshold or `frequency` makes no sense; `ArgumentError` if a criterion is
        something else or has an unknown argument. From a registration as a hook: if it could do nothing there.

    Notes
    -----
    Registered as a hook without the two statuses it becomes the engine's `convergence_hook`.

    Examples
    --------
    >>> from athanor.dynamics import ConvergenceHook
    >>> ConvergenceHook.from_fmax(0.01).num_criteria
    1
    """

    stage = DynamicsStage.AFTER_STEP

    def __init__(
        self,
        criteria: Any = None,
        source_status: int | None = None,
        target_status: int | None = None,
        frequency: int = 1,
        *,
        fmax: float | None = None,
    ) -> None:
        if criteria is None:
            criteria = [] if fmax is not None else _fmax_criterion(DEFAULT_FMAX)
        listed = list(criteria) if isinstance(criteria, list | tuple) else [criteria]
        if fmax is not None:
            listed.append(_fmax_criterion(fmax))
        if not listed:
            raise InputError("`criteria` is empty; give at least one, or None for a largest force of 0.05 eV/Å.")
        self.criteria = [_as_criterion(entry) for entry in listed]
        self.source_status = source_status
        self.target_status = target_status
        self.frequency = check_whole(frequency, "frequency", 1)

    @classmethod
    def from_fmax(
        cls,
        threshold: float = DEFAULT_FMAX,
        source_status: int | None = None,
        target_status: int | None = None,
        frequency: int = 1,
    ) -> ConvergenceHook:
        """Converged when the largest atomic force norm is at most `threshold`, eV/Å."""
        return cls(_fmax_criterion(threshold), source_status, target_status, frequency)

    @classmethod
    def from_forces(
        cls,
        threshold: float,
        frequency: int = 1,
        source_status: int | None = None,
        target_status: int | None = None,
    ) -> ConvergenceHook:
        """Same as `from_fmax`, with the threshold required."""
        return cls(_fmax_criterion(threshold), source_status, target_status, frequency)

    @classmethod
    def from_fmax_and_smax(cls, fmax: float = DEFAULT_FMAX, smax: float = 0.05 * GPa) -> ConvergenceHook:
        """Converged when forces and stress are small: `fmax` in eV/Å, `smax` in eV/Å³ (default 0.05 GPa).

        The stress compared is the largest principal value of the stress plus the engine's target pressure, so a turned
        copy of a system converges in the same step.
        """
        check_positive(smax, "smax", "eV/Å³ (1 GPa is `athanor.units.GPa`)", zero_allowed=True)
        stress = ConvergenceCriterion("stress", smax, reduce_dims=(-2, -1), reduce_op="spectral")
        return cls([_fmax_criterion(fmax), stress])

    @property
    def works_on_part(self) -> bool:
        """Whether it can judge some of the systems of a batch."""
        return all(entry.works_on_part for entry in self.criteria)

    @property
    def num_criteria(self) -> int:
        """How many criteria must hold."""
        return len(self.criteria)

    @property
    def keys(self) -> frozenset[str]:
        """Fields that the criteria read."""
        return frozenset(entry.key for entry in self.criteria if entry.key)

    def mask(self, batch: Batch, pressure: float | Tensor = 0.0) -> Tensor:
        """Return bool [B]: which systems satisfy every criterion."""
        verdict = self.criteria[0].evaluate(batch, pressure)
        for entry in self.criteria[1:]:
            verdict = verdict & entry.evaluate(batch, pressure)
        return verdict

    def evaluate_mask(self, batch: Batch) -> Tensor:
        """Return bool [B]: which systems satisfy every criterion, without an external pressure."""
        return self.mask(batch)

    def evaluate(self, batch: Batch, pressure: float | Tensor = 0.0) -> Tensor | None:
        """Return the indices of converged systems (int64), or None if there are none."""
        rows = self.mask(batch, pressure).nonzero().flatten()
        return rows if rows.numel() else None

    def on_register(self, engine: Any) -> None:
        """Become the criterion of an engine, if no status is to be changed.

        Raises
        ------
        InputError
            If it has another one, or is a fused run, whose stages have criteria.
        """
        if self.source_status is not None and self.target_status is not None:
            return
        present = getattr(engine, "convergence_hook", None)
        if hasattr(engine, "sub_stages") or present not in (None, self):
            what = "a fused run takes them from its stages" if present in (None, self) else "the engine has others"
            raise InputError(
                f"ConvergenceHook among the hooks would do nothing: {what}. Pass it to an engine as "
                f"`convergence_hook=`, or give it `source_status` and `target_status`."
            )
        engine.convergence_hook = self

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Migrate converged systems from `source_status` to `target_status`, in place."""
        if self.source_status is None or self.target_status is None or "status" not in ctx.batch:
            return
        pressure = getattr(ctx.workflow, "pressure", 0.0)
        status = ctx.batch.status
        moved = self.mask(ctx.batch, pressure) & (status.reshape(-1) == self.source_status)
        status[moved] = self.target_status

    def __repr__(self) -> str:
        parts = ", ".join(entry.in_words() for entry in self.criteria)
        move = "" if self.source_status is None else f", status {self.source_status} -> {self.target_status}"
        return f"ConvergenceHook({parts}{move})"


def _fmax_criterion(threshold: float) -> ConvergenceCriterion:
    check_positive(threshold, "fmax", "eV/Å", zero_allowed=True)
    return ConvergenceCriterion("forces", threshold, reduce_dims=-1, reduce_op="norm")


def _as_criterion(entry: Any) -> ConvergenceCriterion | ForeignCriterion:
    if isinstance(entry, ConvergenceCriterion):
        return entry
    if has_verdict(entry):
        return ForeignCriterion(entry)
    allowed = {field.name for field in fields(ConvergenceCriterion)}
    if isinstance(getattr(entry, "key", None), str) and not isinstance(entry, type):
        entry = {name: getattr(entry, name) for name in allowed if hasattr(entry, name)}
    if isinstance(entry, dict):
        unknown = sorted(set(entry) - allowed)
        if unknown or "key" not in entry:
            problem = f"has no {', '.join(unknown)}" if unknown else "needs a `key`, the field to look at"
            raise ArgumentError(f"a criterion {problem}; it takes {', '.join(sorted(allowed))}.")
        return ConvergenceCriterion(**entry)
    raise ArgumentError(
        f"criteria hold a {type(entry).__name__}; pass a ConvergenceCriterion, a dict of its arguments, or a list. "
        f"For a largest force, use `ConvergenceHook.from_fmax(0.05)`."
    )
