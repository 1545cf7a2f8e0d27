"""When results of a model belong to the structures of a batch as they stand.

Two things are compared: the batch's own counter, which every assignment and every in-place routine of ours bumps, and
torch's version of the tensors, which an in-place change by the user (``batch.positions[0] += 1``) bumps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import torch


class Stamped(Protocol):
    """What a stamp reads of a batch."""

    @property
    def version(self) -> int: ...

    def get(self, name: str) -> Any: ...


_INPUTS = ("positions", "cell", "pbc", "atomic_numbers", "charge", "spin")


def _input_versions(batch: Stamped) -> tuple[int, ...]:
    return tuple(_tensor_version(batch.get(name)) for name in _INPUTS)


def _tensor_version(tensor: torch.Tensor | None) -> int:
    if tensor is None or tensor.is_inference():
        return -1
    return tensor._version


class Stamp(NamedTuple):
    """Counters at the time of evaluation, the model (by weak reference) and what it computed."""

    version: int
    inputs: tuple[int, ...]
    model: Callable[[], Any]
    keys: frozenset[str]

    @classmethod
    def of(cls, batch: Stamped, model: Callable[[], Any], keys: frozenset[str]) -> Self:
        """Return the stamp of `batch` as it is now."""
        return cls(batch.version, _input_versions(batch), model, keys)

    def holds(self, batch: Stamped) -> bool:
        """Whether nothing was changed since."""
        return self.version == batch.version and self.inputs == _input_versions(batch)
