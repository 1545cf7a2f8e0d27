"""What models make of a batch before their networks see it, made once for all that are called on the same batch.

Members of a committee that have one cutoff read the same graph. While `sharing_prepared` is open, `prepared` keeps what
a function made of its tensors, and gives it again to whoever calls the function with the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
_Known = dict[Hashable, tuple[tuple[torch.Tensor, ...], Any]]

_KNOWN: ContextVar[_Known | None] = ContextVar("_KNOWN", default=None)


@contextmanager
def sharing_prepared() -> Iterator[None]:
    """Let the models that are called in the block share what they prepare."""
    if _KNOWN.get() is not None:  # a committee in a committee
        yield
        return
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def prepared(make: Callable[..., Result], *tensors: torch.Tensor, **settings: Hashable) -> Result:
    """Return ``make(*tensors, **settings)``, of an earlier call if there was one with the same in `sharing_prepared`.

    Parameters
    ----------
    make
        A function of its arguments and nothing else. What it returns carries no graph and is changed by nobody.
    *tensors
        The same are those that show the same memory, in which torch has seen no change since.
    **settings
        Further arguments.
    """
    known = _KNOWN.get()
    if known is None:
        return make(*tensors, **settings)
    key = (make, *sorted(settings.items()), *map(_place, tensors))
    if key not in known:
        known[key] = tensors, make(*tensors, **settings)  # the tensors are kept, so that no other takes their place
    return known[key][1]


def _place(tensor: torch.Tensor) -> Hashable:
    """Return what tells a tensor from others that are alive."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, version
