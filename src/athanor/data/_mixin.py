"""What `AtomicData` and `Batch` share: iteration over fields and in-place mapping of their tensors."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import torch

from athanor._values import did_you_mean
from athanor.data.fields import FIELDS, KNOWN_FIELDS
from athanor.errors import UnknownFieldError


class AbsentAttributeError(UnknownFieldError):
    """A structure or batch does not have what was asked for.

    The text is made when it is read: code often asks for a field that may be absent, and must not wait for a text.
    """

    def __init__(self, owner: DataMixin, name: str) -> None:
        super().__init__(owner, name)

    def __str__(self) -> str:
        owner, name = self.args
        kind = type(owner).__name__
        if name in FIELDS:
            return f"This {kind} has no `{name}` yet; {owner._present()}. Assign it, or run a model."
        return f"{kind} has no attribute `{name}`.{did_you_mean(name, (*KNOWN_FIELDS, *dir(owner)))}"


class DataMixin:
    """Helpers over named tensors; a subclass says what they are in `_items` and takes them back in `_replace_all`."""

    __slots__ = ()

    def _items(self) -> dict[str, torch.Tensor]:
        """Name -> tensor of everything stored."""
        raise NotImplementedError

    def _present(self) -> str:
        """What is stored, as errors say it."""
        return f"fields present: {', '.join(sorted(self._items()))}"

    def _replace_all(self, tensors: dict[str, torch.Tensor]) -> None:
        """Store tensors of unchanged shape under names that exist."""
        raise NotImplementedError

    def shallow_view(self, without_flags: Iterable[str]) -> Self:
        """Return what a model is given: the same tensors under names of its own."""
        raise NotImplementedError

    def __call__(self, *keys: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over ``(name, tensor)`` of the fields called `keys`, or of all."""
        items = self._items()
        for name in keys or sorted(items):
            if name in items:
                yield name, items[name]

    def apply(self, func: Callable[[torch.Tensor], torch.Tensor], *keys: str) -> Self:
        """Replace the tensors called `keys`, or all, by `func` of them; in place."""
        self._replace_all({name: func(tensor) for name, tensor in self(*keys)})
        return self

    def contiguous(self, *keys: str) -> Self:
        """Make tensors contiguous; in place."""
        return self.apply(lambda tensor: tensor.contiguous(), *keys)

    def pin_memory(self, *keys: str) -> Self:
        """Copy tensors to page-locked host memory, for asynchronous copies to a GPU; in place."""
        return self.apply(lambda tensor: tensor.pin_memory(), *keys)

    def to_dict(self) -> dict[str, torch.Tensor]:
        """Return name -> tensor; shares storage."""
        return dict(self._items())

    def to_namedtuple(self) -> Any:
        """Return the fields as a named tuple; shares storage."""
        items = self._items()
        return namedtuple(type(self).__name__, items.keys())(**items)
