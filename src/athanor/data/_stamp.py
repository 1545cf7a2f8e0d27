"""When results of a model belong to the structures of a batch as they stand.

Two things are compared: the batch's own counter, which every assignment and every in-place routine of ours bumps, and
torch's version of the tensors, which an in-place change by the user (``batch.positions[0] += 1``) bumps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch


class Stamped(Protocol):
    """What a stamp reads of a batch."""

    @property
    def version(self) -> int: ...

    def tensors_of(self, names: Sequence[str]) -> list[torch.Tensor | None]: ...


_INPUTS = ("positions", "cell", "pbc", "atomic_numbers", "charge", "spin")


class ComputedFrom:
    """The tensors that a result was computed from, and their versions, to tell whether the result is still valid.

    It is for the same tensors (the objects, not equal ones) as long as torch has seen no change in them. Any of them
    may be None.
    """

    __slots__ = ("_tensors", "_versions")

    def __init__(self, *tensors: torch.Tensor | None) -> None:
        self._tensors = tensors
        self._versions = [-1 if t is None or t.is_inference() else t._version for t in tensors]

    def holds(self, *tensors: torch.Tensor | None) -> bool:
        """Whether `tensors` are the same, unchanged."""
        if len(tensors) != len(self._tensors):
            return False
        for known, version, tensor in zip(self._tensors, self._versions, tensors, strict=True):
            if tensor is not known or (tensor is not None and not 0 <= version == tensor._version):
                return False
        return True

    def is_unchanged(self) -> bool:
        """Whether torch has seen no change in the tensors, and would have seen one."""
        return all(
            0 <= version == tensor._version  # type: ignore[union-attr]
            for tensor, version in zip(self._tensors, self._versions, strict=True)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ComputedFrom, ()  # a copy has tensors of its own: what was computed from these does not hold for it


class Stamp(NamedTuple):
    """Counter and inputs at the time of evaluation, the model (by weak reference) and what it computed."""

    version: int
    inputs: ComputedFrom
    model: Callable[[], Any]
    keys: frozenset[str]

    @classmethod
    def of(cls, batch: Stamped, model: Callable[[], Any], keys: frozenset[str]) -> Self:
        """Return the stamp of `batch` as it is now."""
        return cls(batch.version, ComputedFrom(*batch.tensors_of(_INPUTS)), model, keys)

    def holds(self, batch: Stamped) -> bool:
        """Whether nothing was changed since."""
        return self.version == batch.version and self.inputs.holds(*batch.tensors_of(_INPUTS))


class AbsentFields(NamedTuple):
    """Which systems lack which fields, and the counter and the tensors of the batch when that was looked up."""

    version: int
    tensors: ComputedFrom
    systems: dict[str, list[bool]]
