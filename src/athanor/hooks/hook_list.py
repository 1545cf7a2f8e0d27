"""The hooks of an engine as a list: what is changed in it is registered, or taken off, as by `register_hook`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import Any, Protocol


class _Registry(Protocol):
    @property
    def bound_hooks(self) -> Sequence[Any]: ...

    def replace_hooks(self, hooks: Iterable[Any]) -> None: ...


class HookList(MutableSequence[Any]):
    """A view of the hooks of one engine, in the order in which they are called.

    Parameters
    ----------
    registry
        The engine. ``append``, ``insert``, ``remove`` and the like change its hooks, with the checks of
        `register_hook`.
    """

    __slots__ = ("_registry",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, registry: _Registry) -> None:
        self._registry = registry

    def __len__(self) -> int:
        return len(self._registry.bound_hooks)

    def __iter__(self) -> Iterator[Any]:
        return iter([bound.hook for bound in self._registry.bound_hooks])

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        hooks = list(self)
        hooks[index] = value
        self.replace(hooks)

    def __delitem__(self, index: Any) -> None:
        hooks = list(self)
        del hooks[index]
        self.replace(hooks)

    def insert(self, index: int, value: Any) -> None:
        """Register a hook before the one at `index`."""
        hooks = list(self)
        hooks.insert(index, value)
        self.replace(hooks)

    def replace(self, hooks: Iterable[Any]) -> None:
        """Make `hooks` the hooks of the engine, in that order; those that are there already keep their stage."""
        self._registry.replace_hooks(hooks)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, HookList | list | tuple) else NotImplemented

    def __repr__(self) -> str:
        return repr(list(self))
