"""What a model is given: a view of a batch or structure that shares every tensor and keeps its own table of names.

Whatever is assigned to a view stays in the view, also fields of another dtype and names that nobody declared. Tensors
that a model differentiates by stand in it as new objects on the same memory, so that flags set on them stay there too.
A charge or spin that only some systems have is whole in it: the others have what the field table says is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from athanor.data._levels import LevelStorage
from athanor.data.fields import FIELDS, PAIR_VIEWS, FieldSpec, Level, assume_what_is_absent
from athanor.data.pair_request import TOLERANCE

if TYPE_CHECKING:
    from athanor.data.pair_list import PairList

_UNSHARED_SLOTS = frozenset({"__weakref__", "_node", "_edge", "_system", "_assigned"})
"""What a view of a batch does not share with it."""


def view_of_batch(batch: Any, without_flags: Iterable[str]) -> Any:
    """Return the view of `batch`; see `Batch.shallow_view`."""
    owner: Any = type(batch)
    cls = _view_class(owner, _BatchView)
    view = cls.__new__(cls)
    if batch._node._idx is None or batch._node._ptr is None:  # made here, so that the next view has them
        batch._node.idx(batch._device)
        batch._node.ptr(batch._device)
    node, system = batch._node.with_own_names(), batch._system.with_own_names()
    for name in without_flags:
        _detach_unless_in_graph(node.tensors if name in node.tensors else system.tensors, name)
    for level in (node, system):
        assume_what_is_absent(level.tensors)
    assign = object.__setattr__
    assign(view, "_node", node)
    assign(view, "_system", system)
    assign(view, "_edge", batch._edge.with_own_names())
    assign(view, "_assigned", batch._assigned.copy())
    for slot in cls._shared_slots:
        assign(view, slot, getattr(batch, slot))
    is_view = isinstance(batch, _BatchView)
    assign(view, "_reach", batch._reach if is_view else math.inf)
    assign(view, "_within", batch._within if is_view else None)
    return view


def view_of_systems(batch: Any, begin: int, end: int, pairs: PairList) -> Any:
    """Return the systems of `batch` from `begin` to before `end` as models read them: a batch of views.

    Of the lists only `pairs` goes along; no edge field, no group, and nothing that engines and hooks remember.
    """
    node, system = batch._node.between(begin, end), batch._system.between(begin, end)
    levels = {"node": node, "edge": LevelStorage.empty(end - begin), "system": system}
    lists = (pairs.between(begin, end, batch._node),)
    owner: Any = getattr(batch, "_viewed", type(batch))
    return owner._of(levels, dict(batch._custom), batch._device, lists, batch._item_class)


def view_of_structure(data: Any, without_flags: Iterable[str]) -> Any:
    """Return the view of `data`; see `AtomicData.shallow_view`."""
    owner: Any = type(data)
    cls = _view_class(owner, _StructureView)
    view = cls._trusted(data._fields.copy(), data._custom)
    view._extras, view.info = data._extras.copy(), data.info.copy()
    for name in without_flags:
        _detach_unless_in_graph(view._fields, name)
    assume_what_is_absent(view._fields)
    return view


def _detach_unless_in_graph(tensors: dict[str, torch.Tensor], name: str) -> None:
    """Put a tensor of the same memory in place of `name`; one that carries a graph stays, so that the graph does."""
    tensor = tensors.get(name)
    if tensor is None or tensor.requires_grad:
        return
    if tensor.is_inference():  # no view of it can ever require grad
        with torch.inference_mode(False):
            tensors[name] = tensor.clone()
    else:
        tensors[name] = tensor.detach()


class _View:
    """In front of the class of a batch or structure: pickled, it is one of those."""

    __slots__ = ()
    _viewed: type

    def __reduce__(self) -> tuple[Any, ...]:
        return _uninitialized, (self._viewed,), self.__getstate__()


def _uninitialized(cls: Any) -> Any:
    return cls.__new__(cls)


class _BatchView(_View):
    """A batch whose neighbour names show no pair beyond what its model reads."""

    __slots__ = ()
    _reach: float
    _within: Any

    @property
    def pair_list(self: Any) -> PairList | None:
        """The list that ``neighbor_list`` and the like show, without pairs further away than `show_within` says."""
        shown = self._pair_lists[0] if self._pair_lists else None
        reach = self._reach
        if shown is None or not shown.radius > reach + TOLERANCE or self._edge.tensors:
            return shown
        if self._within is None or self._within[0] is not shown:
            object.__setattr__(self, "_within", (shown, shown.within(reach, self)))
        return self._within[1]

    @pair_list.setter
    def pair_list(self: Any, pairs: PairList | None) -> None:
        self._set_pair_lists(() if pairs is None else (pairs,))

    def show_within(self: Any, reach: float) -> None:
        """Let the neighbour names show only pairs closer than `reach`, Å."""
        object.__setattr__(self, "_reach", reach)

    def set_field(self: Any, name: str, value: Any) -> None:
        """Store any tensor under any name; a name that nobody declared declares itself by the rows of its tensor."""
        own_name = name not in FIELDS and hasattr(type(self), name)
        if own_name or name in PAIR_VIEWS or not isinstance(value, torch.Tensor):
            super().set_field(name, value)  # type: ignore[misc]
            return
        spec = FIELDS.get(name) or self._custom.get(name)
        if spec is None:
            spec = FieldSpec(name, self._level_of_rows(value), tuple(value.shape[1:]), "any")
            self._custom = {**self._custom, name: spec}
        self._level(spec.level).tensors[name] = spec.as_column(value)
        self._exchanged()

    def _level_of_rows(self: Any, value: torch.Tensor) -> Level:
        rows = value.shape[0] if value.ndim else 0
        if rows == self.num_nodes:
            return "node"
        return "edge" if rows == self.num_edges > 0 and rows != self.num_graphs else "system"


class _StructureView(_View):
    __slots__ = ()

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if value is None or hasattr(type(self), name):
            super().__setattr__(name, value)
        elif self.field_spec(name) is None:
            self._extras[name] = value
        elif isinstance(value, torch.Tensor):
            self._fields[name] = value
        else:
            super().__setattr__(name, value)


@cache
def _view_class(owner: Any, kind: type) -> Any:
    """Return a class that is `owner` but for how it takes assignments."""
    if issubclass(owner, kind):
        return owner
    names = {name: getattr(owner, name) for name in ("__module__", "__qualname__", "__doc__")}
    slots = (slot for parent in owner.__mro__ for slot in getattr(parent, "__slots__", ()))
    shared = tuple(slot for slot in slots if slot not in _UNSHARED_SLOTS)
    own_slots = ("_reach", "_within") if kind is _BatchView else ()
    return type(
        owner.__name__, (kind, owner), {"__slots__": own_slots, "_viewed": owner, "_shared_slots": shared, **names}
    )
