"""What a batch stores and how a name finds it: the router, the pair list, and the counter of changes.

One router decides what a name is: a field of the table, a registered custom field, or a view of the pair list; nothing
else can be stored. `Batch` adds how batches are made, joined, selected and moved.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch

from athanor import _runtime
from athanor._values import did_you_mean, is_slip
from athanor.data import _pair_views, _structure
from athanor.data._followers import Followers
from athanor.data._levels import LevelStorage
from athanor.data._mixin import AbsentAttributeError
from athanor.data._pair_views import check_pair_list, warn_dropped_edges
from athanor.data._room import Copied
from athanor.data._stamp import AbsentFields, Stamp
from athanor.data.atomic_data import AtomicData
from athanor.data.fields import FIELDS, KNOWN_FIELDS, LEVELS, PAIR_VIEWS, REQUIRED, FieldSpec, Level
from athanor.data.pair_list import PairList
from athanor.errors import InputError, MissingFieldError, UnknownFieldError


class BatchStorage(Followers):
    """Fields by level, custom rows, the pair list and the stamp of results."""

    __slots__ = (
        "__weakref__",
        "_absent",
        "_assigned",
        "_copied",
        "_custom",
        "_device",
        "_edge",
        "_edge_rows_of",
        "_item_class",
        "_node",
        "_pair_lists",
        "_room",
        "_stamp",
        "_system",
        "_version",
    )
    _attributes = frozenset(
        {*__slots__, *Followers.__slots__, "pair_list", "pair_lists", "_neighbor_list_cutoff", "neighbor_list_radius"}
    )

    _custom: dict[str, FieldSpec]
    _assigned: dict[str, torch.Tensor]
    _stamp: Stamp | None
    _absent: AbsentFields | None
    _copied: Copied | None
    _version: int
    _item_class: type[AtomicData]
    _edge_rows_of: torch.Tensor | None

    def _set_parts(
        self,
        levels: Mapping[Level, LevelStorage],
        custom: dict[str, FieldSpec],
        device: torch.device,
        pair_lists: tuple[PairList, ...] = (),
        item_class: type[AtomicData] = AtomicData,
        groups: dict[str, LevelStorage] | None = None,
    ) -> None:
        _runtime.ready()
        self._device, self._item_class = device, item_class
        self._version = self._membership = self._layout = 0
        self._room = self._copied = None
        self._set_systems(levels, custom, pair_lists, groups or {})

    def _set_systems(
        self,
        levels: Mapping[Level, LevelStorage],
        custom: dict[str, FieldSpec],
        pair_lists: tuple[PairList, ...],
        groups: dict[str, LevelStorage],
    ) -> None:
        """Make the batch hold these systems, without any results known to be fresh."""
        self._node, self._edge, self._system = levels["node"], levels["edge"], levels["system"]
        self._custom, self._pair_lists, self._groups = custom, pair_lists, groups
        self._edge_rows_of = pair_lists[0].row_ptr if pair_lists and self._edge.tensors else None
        self._assigned = {}
        self._stamp = self._absent = None

    @classmethod
    def _of(cls, *parts: Any, **named: Any) -> Self:
        self = cls.__new__(cls)
        self._set_parts(*parts, **named)
        return self

    # ------------------------------------------------------------------------------------------------- the router
    def field_spec(self, name: str) -> FieldSpec:
        """Return the row that describes `name`.

        Raises
        ------
        UnknownFieldError
            If `name` is neither a field of the table, nor a registered custom field, nor a neighbour name.
        """
        spec = KNOWN_FIELDS.get(name) or self._custom.get(name)
        if spec is None:
            raise UnknownFieldError(
                f"`{name}` is not a field of a Batch.{did_you_mean(name, (*KNOWN_FIELDS, *self._custom))} "
                f"Use `batch.add_key('{name}', values, level=...)` to add one, or "
                f"`batch.register_field(...)` to declare it."
            )
        return spec

    @property
    def custom_fields(self) -> Mapping[str, FieldSpec]:
        """Name -> row of the fields that were declared for this batch, whether they are stored or not."""
        return self._custom

    @classmethod
    def takes_name(cls, name: str) -> bool:
        """Whether `name` may be that of a custom field: an identifier that means nothing else here."""
        free = name not in KNOWN_FIELDS and not hasattr(cls, name)
        return free and name.isidentifier() and not name.startswith("_")

    def _level(self, level: Level) -> LevelStorage:
        if level == "edge":
            return self._edges()
        return self._node if level == "node" else self._system

    def __getattr__(self, name: str) -> Any:
        # custom fields and views of the pair list; fields of the table are properties of the class
        if name not in BatchStorage._attributes:
            value = self.get(name)
            if value is not None:
                return value
        raise AbsentAttributeError(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field or view called `name`, or `default` if it is absent."""
        value = self._node.tensors.get(name)
        if value is None:
            value = self._system.tensors.get(name)
        if value is None:
            if name in PAIR_VIEWS:
                value = _pair_views.read_view(self, name)
            elif name in self._edge.tensors:
                value = self._edges().tensors.get(name)
        return default if value is None else value

    def stored(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are fields of atoms or systems which are there."""
        node, system = self._node.tensors, self._system.tensors
        return [name for name in names if name in node or name in system]

    def tensors_of(self, names: Sequence[str]) -> list[torch.Tensor | None]:
        """Return the stored fields of atoms or systems called `names`, None for each that is absent."""
        node, system = self._node.tensors, self._system.tensors
        return [node.get(name) if name in node else system.get(name) for name in names]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in BatchStorage._attributes:
            object.__setattr__(self, name, value)
        else:
            self.set_field(name, value)

    def set_field(self, name: str, value: torch.Tensor | None) -> None:
        """Store `value` under `name`, as assignment does; None removes the field.

        A new name declares itself as a custom field if the first size is the number of atoms or of systems.

        Raises
        ------
        UnknownFieldError
            If the name is new and one slip from a known one, or the first size is neither.
        InputError
            For a wrong shape, dtype or device; the old value stays.
        """
        if isinstance(value, torch.Tensor) and value.device != self._device:
            raise InputError(
                f"`{name}` is on {value.device}; the Batch is on {self._device}. Use `{name}.to('{self._device}')`."
            )
        spec = FIELDS.get(name)
        if spec is None:
            if hasattr(type(self), name):
                raise UnknownFieldError(f"`{name}` follows from the structures of the Batch and can not be set.")
            if name not in self._custom and name not in PAIR_VIEWS:
                self._declare(name, value)
            spec = self.field_spec(name)
        if value is None:
            if name in self:
                del self[name]
            return
        if name in PAIR_VIEWS:
            self._assign_view(name, value)
            return
        storage = self._level(spec.level)
        value = spec.as_column(value)
        spec.check(value, storage.rows, owner=f"a Batch of {len(self)} systems")
        if spec.kind == "state":
            _structure.check_same_dtype(spec, value, self.dtype)
        if name == "pbc" and self._pair_lists and not torch.equal(value, self.pbc_or_false):
            self.pair_list = None
        storage.tensors[name] = value
        if name == "velocities":
            self._system.tensors["velocities_present"] = torch.ones(len(self), 1, dtype=torch.bool, device=self._device)
        self._exchanged()

    def _declare(self, name: str, value: Any) -> None:
        """Register a new name as a custom field of the level that has as many rows as `value`, if there is one."""
        if any(is_slip(name, known) for known in (*KNOWN_FIELDS, *self._custom)):
            return
        rows: dict[Level, int] = {"node": self._node.rows, "system": len(self)}
        levels = [level for level, count in rows.items() if 0 < count == _structure.first_size(value)]
        if len(levels) == 2:
            raise InputError(
                f"`{name}` has {rows['node']} rows, which may be one per atom or one per system. Say which: "
                f"`batch.add_key('{name}', values, level=...)`."
            )
        if levels:
            self._custom = {**self._custom, name: _structure.spec_for(type(self), name, value, levels[0])}

    def _assign_view(self, name: str, value: torch.Tensor) -> None:
        packed, known = _pair_views.assign_view(self, self._assigned, name, value)
        shown = self.pair_list
        if shown is not None and name.endswith("shifts"):
            packed = packed.replace(cutoff=shown.cutoff, radius=shown.radius)
        self.pair_list = packed
        self._assigned = known

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name in PAIR_VIEWS:
            return bool(self._pair_lists)
        return any(name in storage.tensors for storage in (self._node, self._system, self._edge))

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AbsentAttributeError(self, name)
        if name in PAIR_VIEWS:
            self.pair_list = None
            return
        if name in REQUIRED:
            raise InputError(f"`{name}` can not be removed: every system needs it. Assign a tensor instead.")
        if name == "pbc" and bool(self.pbc_or_false.any()):
            self.pair_list = None
        del self._level(self.field_spec(name).level).tensors[name]
        if name == "velocities":
            self._system.tensors.pop("velocities_present", None)
        self._exchanged()

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise MissingFieldError(f"`{name}` is not in the Batch; {self._present()}.")
        delattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_field(name, value)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self._items().items())

    def field_names(self, level: Level) -> tuple[str, ...]:
        """Names of the stored fields of `level`; views of the pair list are not among them."""
        return tuple(self._level(level).tensors)

    @property
    def keys(self) -> dict[str, set[str]]:
        """Level -> names of the stored fields."""
        return {level: set(self.field_names(level)) for level in LEVELS}

    def _items(self) -> dict[str, torch.Tensor]:
        return {**self._node.tensors, **self._edges().tensors, **self._system.tensors}

    def _replace_all(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self._level(self.field_spec(name).level).tensors[name] = tensor
        self._exchanged()

    def _exchanged(self) -> None:
        """Count that a tensor was exchanged for another one."""
        self._version += 1
        self._layout += 1
        self._absent = None  # it holds tensors that may be gone now

    # --------------------------------------------------------------------------------------------- pairs and edges
    @property
    def pair_list(self) -> PairList | None:
        """The stored pair list that ``neighbor_list`` and the like show; None without one.

        Setting it makes it the only one: whoever assigns a list says what the neighbours are now, and no model may read
        an older one instead.
        """
        return self._pair_lists[0] if self._pair_lists else None

    @pair_list.setter
    def pair_list(self, pairs: PairList | None) -> None:
        self._set_pair_lists(() if pairs is None else (pairs,))

    @property
    def pair_lists(self) -> tuple[PairList, ...]:
        """All stored pair lists, each for a cutoff of its own; the first is `pair_list`.

        Lists are values: what was read here can be set again later, to undo what happened since. Edge fields stay with
        the list that was first when they were set, and are dropped with it; they can be read while it is first. Edge
        fields that came without a list belong to the next one, if they have a row for each of its pairs.
        """
        return self._pair_lists

    @pair_lists.setter
    def pair_lists(self, lists: tuple[PairList, ...]) -> None:
        self._set_pair_lists(tuple(lists))

    def _set_pair_lists(self, lists: tuple[PairList, ...]) -> None:
        for pairs in lists:
            check_pair_list(self, pairs)
        if self._edge.tensors and not any(pairs.row_ptr is self._edge_rows_of for pairs in lists):
            if not self._pair_lists and lists and lists[0].num_pairs == self._edge.rows:
                self._edge_rows_of = lists[0].row_ptr
            else:
                warn_dropped_edges(self._edge.tensors)
                self._edge, self._edge_rows_of = LevelStorage.empty(len(self)), None
        self._pair_lists = lists
        self._assigned.clear()

    def _edges(self) -> LevelStorage:
        """Storage of edge fields, its counts brought up to the pair list that is shown now."""
        pairs = self.pair_list
        if pairs is not None and self._edge_rows_of is not pairs.row_ptr:
            if self._edge.tensors:
                warn_dropped_edges(self._edge.tensors)
            ends = pairs.row_ptr.cpu().numpy()[self._node.starts]
            self._edge = LevelStorage(np.diff(ends))
            self._edge_rows_of = pairs.row_ptr
        return self._edge

    @property
    def _neighbor_list_cutoff(self) -> float | None:
        """Cutoff that the list is complete for, Å; None without a list or if unknown."""
        pairs = self.pair_list
        return None if pairs is None or math.isnan(pairs.cutoff) else pairs.cutoff

    @_neighbor_list_cutoff.setter
    def _neighbor_list_cutoff(self, cutoff: float) -> None:
        radius = self._require_pairs().radius
        self._stamp_pairs(cutoff=float(cutoff), radius=float(cutoff) if math.isnan(radius) else radius)

    @property
    def neighbor_list_radius(self) -> float | None:
        """Radius that was searched, Å (cutoff and skin); None without a list or if unknown."""
        pairs = self.pair_list
        return None if pairs is None or math.isnan(pairs.radius) else pairs.radius

    @neighbor_list_radius.setter
    def neighbor_list_radius(self, radius: float) -> None:
        self._stamp_pairs(radius=float(radius))

    def _stamp_pairs(self, **stamps: float) -> None:
        """Stamp the list that is shown; no hook takes a list for its own that says something else since."""
        self._pair_lists = (self._require_pairs().replace(requests=(), **stamps), *self._pair_lists[1:])

    def _require_pairs(self) -> PairList:
        if not self._pair_lists:
            raise MissingFieldError("The Batch has no pair list to stamp. Set `batch.neighbor_list` first.")
        return self._pair_lists[0]

    # -------------------------------------------------------------------------------------- version and freshness
    @property
    def version(self) -> int:
        """Counter of changes: assignments, membership, and what in-place routines report with `touch`."""
        return self._version

    def touch(self) -> None:
        """Say that a field was changed in place by a routine that torch does not see."""
        self._version += 1

    def mark_results_fresh(self, model: Any, keys: Iterable[str]) -> None:
        """Stamp the results called `keys` as those of `model` for positions and cell as they stand."""
        self._stamp = Stamp.of(self, _weak_reference(model), frozenset(keys))

    def results_fresh(self, model: Any, keys: Iterable[str]) -> bool:
        """Whether results called `keys` were stamped for `model` and nothing was changed since."""
        fresh = self.fresh_results()
        return fresh is not None and fresh[0] is model and fresh[1].issuperset(keys)

    def fresh_results(self) -> tuple[Any, frozenset[str]] | None:
        """Return the model whose results are fresh, and which; None if none are."""
        stamp = self._stamp
        if stamp is None or not stamp.holds(self) or stamp.model() is None:
            return None
        return stamp.model(), stamp.keys

    @contextmanager
    def keeping_results_fresh(self) -> Iterator[None]:
        """Keep fresh results fresh over changes inside that leave energies and forces as they are, such as wrapping."""
        fresh = self.fresh_results()
        yield
        if fresh is not None:
            self.mark_results_fresh(*fresh)

    def _pass_freshness_to(self, result: Self) -> Self:
        fresh = self.fresh_results()
        if fresh is not None:
            result.mark_results_fresh(*fresh)
        return result


def _field_property(spec: FieldSpec) -> property:
    """Read one field that `Fields` declares; ten times cheaper than `__getattr__`, which answers if it is absent."""
    name, level = spec.name, f"_{spec.level}"

    def read(self: BatchStorage) -> torch.Tensor:
        try:
            return getattr(self, level).tensors[name]
        except KeyError:
            raise AttributeError from None

    return property(read, doc=f"{spec.meaning}" + (f", {spec.unit}." if spec.unit else "."))


for _spec in FIELDS.values():
    if _spec.level != "edge":
        setattr(BatchStorage, _spec.name, _field_property(_spec))


def _weak_reference(model: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(model)
    except TypeError:
        return lambda: model
