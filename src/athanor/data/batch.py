"""Batch: many structures in one set of tensors, the object that every step of a simulation reads and writes.

One router decides what a name is: a field of the table, a registered custom field, or a view of the pair list; nothing
else can be stored. Fields live in one storage per level (`_levels`); joining, selecting and moving are in the modules
beside this one. `Batch.version` counts every change that could make something derived from the batch out of date.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from athanor import _runtime
from athanor.data import _build, _pairs_public, _structure
from athanor.data._collate import PRESENT
from athanor.data._levels import LevelStorage
from athanor.data._mixin import DataMixin
from athanor.data._select import as_int, one_system, system_indices
from athanor.data._stamp import Stamp
from athanor.data.atomic_data import AtomicData
from athanor.data.fields import FIELDS, LEVELS, PAIR_VIEWS, FieldSpec, Level
from athanor.data.pair_list import PairList
from athanor.errors import InputError, MissingFieldError, UnknownFieldError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AtomicData", "Batch", "DataMixin"]


class Batch(DataMixin):
    """Many structures in one set of tensors.

    Node fields are concatenated over atoms, system fields have one row per system. Make one with `from_data_list`.

    Parameters
    ----------
    device
        Where the tensors of an empty batch would be.
    storage
        Level -> name -> tensor of systems without rows; used by `empty`.
    keys
        Accepted for compatibility; the names are those of the stored fields.

    Notes
    -----
    Assignment (``batch.forces = f``) stores the tensor itself after checks of shape, dtype and device in O(1). A state
    field must have the state dtype, also ``positions``: convert a whole batch with ``batch.to(dtype=...)``.

    Examples
    --------
    >>> import torch
    >>> from athanor.data import AtomicData, Batch
    >>> water = AtomicData(atomic_numbers=torch.tensor([8, 1, 1]), positions=torch.eye(3))
    >>> batch = Batch.from_data_list([water, water])
    >>> batch.num_graphs, batch.positions.shape
    (2, torch.Size([6, 3]))
    """

    __slots__ = (
        "__weakref__",
        "_assigned",
        "_custom",
        "_device",
        "_edge",
        "_edge_rows_of",
        "_item_class",
        "_node",
        "_pairs",
        "_stamp",
        "_system",
        "_version",
    )
    _own = frozenset({*__slots__, "pair_list", "_neighbor_list_cutoff", "neighbor_list_radius"})

    _node: LevelStorage
    _edge: LevelStorage
    _system: LevelStorage
    _custom: dict[str, FieldSpec]
    _pairs: PairList | None
    _assigned: dict[str, torch.Tensor]
    _stamp: Stamp | None
    _version: int
    _device: torch.device
    _item_class: type[AtomicData]
    _edge_rows_of: torch.Tensor | None

    def __init__(
        self,
        *,
        device: torch.device | str,
        storage: Mapping[Level, dict[str, torch.Tensor]] | None = None,
        keys: Any = None,
    ) -> None:
        none = np.zeros(0, dtype=np.int64)
        levels = {level: LevelStorage(none, dict((storage or {}).get(level, {}))) for level in LEVELS}
        self._set_parts(levels, {}, torch.device(device))

    def _set_parts(
        self,
        levels: Mapping[Level, LevelStorage],
        custom: dict[str, FieldSpec],
        device: torch.device,
        pairs: PairList | None = None,
        item_class: type[AtomicData] = AtomicData,
    ) -> None:
        _runtime.ready()
        self._node, self._edge, self._system = levels["node"], levels["edge"], levels["system"]
        self._custom = custom
        self._device = device
        self._pairs = pairs
        self._edge_rows_of = None if pairs is None else pairs.row_ptr
        self._item_class = item_class
        self._assigned = {}
        self._stamp = None
        self._version = 0

    @classmethod
    def _of(cls, *parts: Any, **named: Any) -> Self:
        self = cls.__new__(cls)
        self._set_parts(*parts, **named)
        return self

    # ---------------------------------------------------------------------------------------------- construction
    @classmethod
    def from_data_list(
        cls,
        data_list: Sequence[AtomicData],
        device: torch.device | str | None = None,
        skip_validation: bool = False,
        attr_map: Mapping[str, str] | None = None,
        exclude_keys: Iterable[str] | None = None,
        field_levels: Mapping[str, str] | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Join structures into a batch.

        Parameters
        ----------
        data_list
            At least one structure.
        device
            Where to put the tensors; the device of the structures unless given.
        skip_validation
            Leave out the checks of values (finite positions and cells, elements, volumes); shapes are always checked.
        attr_map, field_levels
            Level (``"node"`` or ``"atom"``, ``"edge"``, ``"system"``) of labels that are not registered.
        exclude_keys
            Fields to leave out.
        dtype
            State dtype of the batch; needed if the structures differ.

        Raises
        ------
        InputError
            If the list is empty or a structure is not usable; `DtypeError` for two state dtypes without `dtype`.

        Notes
        -----
        A field that only some structures have is filled with its default, or with NaN and the bool system row
        ``<field>_present``; integers and bools without default are refused. ``info`` is not batched.
        """
        levels = {**(attr_map or {}), **(field_levels or {})}
        return _build.from_items(cls, data_list, device, dtype, not skip_validation, levels, set(exclude_keys or ()))

    @classmethod
    def from_raw_dicts(
        cls,
        data_list: Sequence[Mapping[str, torch.Tensor]],
        device: torch.device | str | None = None,
        attr_map: Mapping[str, str] | None = None,
        exclude_keys: Iterable[str] | None = None,
        field_levels: Mapping[str, str] | None = None,
    ) -> Self:
        """Join plain dictionaries of tensors without checks of values; unknown names become system fields."""
        levels = {**(attr_map or {}), **(field_levels or {})}
        return _build.from_dicts(cls, data_list, device, levels, set(exclude_keys or ()))

    @classmethod
    def empty(
        cls,
        *,
        num_systems: int = 0,
        num_nodes: int = 0,
        num_edges: int = 0,
        template: Batch | AtomicData | None = None,
        device: torch.device | str = "cpu",
        attr_map: Any = None,
    ) -> Self:
        """Return a batch without systems that has the fields of `template`; sizes are accepted as hints.

        Storage grows when systems are appended, so no capacity is reserved.
        """
        if min(num_systems, num_nodes, num_edges) < 0:
            raise InputError(f"Sizes must not be negative: {num_systems=}, {num_nodes=}, {num_edges=}.")
        if template is None:
            return cls(device=device, storage=_build.default_fields(torch.device(device)))
        return _build.emptied(cls, template, torch.device(device))

    @classmethod
    def empty_like(cls, batch: Batch, *, device: torch.device | str | None = None) -> Self:
        """Return a batch without systems that has the fields of `batch`."""
        return _build.emptied(cls, batch, torch.device(device or batch.device))

    @classmethod
    def from_dict(cls, dictionary: Mapping[str, Any]) -> Self:
        """Make a batch of what `model_dump` returned."""
        return _build.from_dump(cls, dictionary)

    # ------------------------------------------------------------------------------------------------- the router
    def field_spec(self, name: str) -> FieldSpec:
        """Return the row that describes `name`.

        Raises
        ------
        UnknownFieldError
            If `name` is neither a field of the table, nor a registered custom field, nor a neighbour name.
        """
        spec = FIELDS.get(name) or self._custom.get(name) or PAIR_VIEWS.get(name)
        if spec is None:
            raise UnknownFieldError(
                f"`{name}` is not a field of a Batch. Use `batch.add_key('{name}', values, level=...)` to add one, or "
                f"`batch.register_field(...)` to declare it."
            )
        return spec

    def _level(self, level: Level) -> LevelStorage:
        if level == "edge":
            return self._edges()
        return self._node if level == "node" else self._system

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" or name in Batch._own:
            raise AttributeError(name)
        value = self.get(name)
        if value is None:
            raise AttributeError(f"{type(self).__name__} has no attribute `{name}`.")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field or view called `name`, or `default` if it is absent."""
        value = self._node.tensors.get(name)
        if value is None:
            value = self._system.tensors.get(name)
        if value is None:
            if name in PAIR_VIEWS:
                value = _pairs_public.read_view(self, name)
            elif self._edge.tensors:
                value = self._edges().tensors.get(name)
        return default if value is None else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Batch._own:
            object.__setattr__(self, name, value)
        else:
            self.set_field(name, value)

    def set_field(self, name: str, value: torch.Tensor | None) -> None:
        """Store `value` under `name`, as assignment does; None removes the field.

        Raises
        ------
        UnknownFieldError
            If the name is neither in the table, nor registered, nor a neighbour name.
        InputError
            For a wrong shape, dtype or device; the old value stays.
        """
        if name not in FIELDS and hasattr(type(self), name):
            raise AttributeError(f"`{name}` follows from the structures of the Batch and can not be set.")
        spec = self.field_spec(name)
        if value is None:
            if name in self:
                del self[name]
            return
        if isinstance(value, torch.Tensor) and value.device != self._device:
            raise InputError(
                f"`{name}` is on {value.device}; the Batch is on {self._device}. Use `{name}.to('{self._device}')`."
            )
        if name in PAIR_VIEWS:
            self._assign_view(name, value)
            return
        storage = self._level(spec.level)
        spec.check(value, storage.rows, owner=f"a Batch of {len(self)} systems")
        if spec.kind == "state":
            _structure.check_state_dtype(spec, value, self.dtype)
        if name == "pbc" and self._pairs is not None and not torch.equal(value, self._system.tensors.get(name, value)):
            self.pair_list = None
        storage.tensors[name] = value
        if name + PRESENT in self._custom:
            self._system.tensors.pop(name + PRESENT, None)
            self._custom = {key: row for key, row in self._custom.items() if key != name + PRESENT}
        self._version += 1

    def _assign_view(self, name: str, value: torch.Tensor) -> None:
        packed = _pairs_public.assign_view(self, self._assigned, name, value)
        if packed is not None:
            if self._pairs is not None and name.endswith("shifts"):
                packed.cutoff, packed.radius = self._pairs.cutoff, self._pairs.radius
            known = dict(self._assigned)
            self.pair_list = packed
            self._assigned.update(known)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name in PAIR_VIEWS:
            return self._pairs is not None
        return any(name in storage.tensors for storage in (self._node, self._system, self._edge))

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"{type(self).__name__} has no attribute `{name}`.")
        if name in PAIR_VIEWS:
            self.pair_list = None
            return
        del self._level(self.field_spec(name).level).tensors[name]
        self._system.tensors.pop(name + PRESENT, None)
        self._version += 1

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise MissingFieldError(
                f"`{name}` is not in the Batch; fields present: {', '.join(sorted(self._items()))}."
            )
        delattr(self, name)

    def __getitem__(self, key: Any) -> Any:
        """Return a field for a name, a structure for an integer, a smaller batch for anything else."""
        if isinstance(key, str):
            value = self.get(key)
            if value is None:
                present = ", ".join(sorted(self._items()))
                raise MissingFieldError(f"`{key}` is not in the Batch; fields present: {present}.")
            return value
        number = as_int(key)
        return self.index_select(key) if number is None else self.get_data(number)

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_field(name, value)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self._items().items())

    def __len__(self) -> int:
        return len(self._system.counts)

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
        self._version += 1

    # ------------------------------------------------------------------------------------------------------ sizes
    @property
    def num_graphs(self) -> int:
        """Number of systems."""
        return len(self._system.counts)

    num_systems = num_graphs
    batch_size = num_graphs
    system_capacity = num_graphs

    @property
    def num_nodes(self) -> int:
        """Number of atoms."""
        return self._node.rows

    num_atoms = num_nodes

    @property
    def num_edges(self) -> int:
        """Number of pairs."""
        return self._edge.rows if self._pairs is None else self._pairs.num_pairs

    @property
    def max_num_nodes(self) -> int:
        """Atoms of the largest system; 0 without systems."""
        return int(self._node.counts.max(initial=0))

    @property
    def num_nodes_list(self) -> list[int]:
        """Atoms of each system."""
        return self._node.counts.tolist()

    @property
    def num_edges_list(self) -> list[int]:
        """Pairs of each system; empty if the batch has no pairs and no edge fields."""
        edges = self._edges()
        return edges.counts.tolist() if self._pairs is not None or edges.tensors else []

    @property
    def num_nodes_per_graph(self) -> torch.Tensor:
        """Atoms of each system, int32 [B]."""
        return self.batch_ptr.diff()

    @property
    def num_edges_per_graph(self) -> torch.Tensor:
        """Pairs of each system, int32 [B]."""
        return self._edges().ptr(self._device).diff()

    @property
    def batch_idx(self) -> torch.Tensor:
        """System of each atom, int64 [N]; cached."""
        return self._node.idx(self._device)

    @property
    def batch_ptr(self) -> torch.Tensor:
        """First atom of each system and the number of atoms, int32 [B+1]; cached."""
        return self._node.ptr(self._device)

    @property
    def edge_ptr(self) -> torch.Tensor:
        """First stored pair of each atom and the number of pairs, int32 [N+1]; zeros without a list."""
        if self._pairs is None:
            return torch.zeros(self.num_nodes + 1, dtype=torch.int32, device=self._device)
        return self._pairs.row_ptr.to(torch.int32)

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self._device

    @property
    def dtype(self) -> torch.dtype | None:
        """State dtype: that of ``positions``."""
        positions = self._node.tensors.get("positions")
        return None if positions is None else positions.dtype

    @property
    def volume(self) -> torch.Tensor:
        """Volume of each cell, Å³, [B]; 0 for a system without a cell."""
        cell = self._system.tensors.get("cell")
        if cell is None:
            return torch.zeros(len(self), dtype=self.dtype, device=self._device)
        return torch.linalg.det(cell).abs()

    @property
    def has_cell(self) -> torch.Tensor:
        """Whether each system has a cell that spans a volume, bool [B]."""
        return self.volume.detach() > 0

    # --------------------------------------------------------------------------------------------- pairs and edges
    @property
    def pair_list(self) -> PairList | None:
        """The stored pair list; None without one. Setting it drops edge fields, which belonged to the old pairs."""
        return self._pairs

    @pair_list.setter
    def pair_list(self, pairs: PairList | None) -> None:
        _build.check_pair_list(self, pairs)
        if self._edge.tensors and (pairs is None or self._pairs is not None or pairs.num_pairs != self._edge.rows):
            _build.warn_dropped_edges(self._edge.tensors)
            self._edge = LevelStorage(np.zeros(len(self), dtype=np.int64))
        self._pairs = pairs
        self._edge_rows_of = None
        self._assigned.clear()
        if not self._edge.tensors:
            self._edge = LevelStorage(np.zeros(len(self), dtype=np.int64))
        elif pairs is not None:
            self._edge_rows_of = pairs.row_ptr

    def _edges(self) -> LevelStorage:
        """Storage of edge fields, its counts brought up to the pair list as it is now."""
        pairs = self._pairs
        if pairs is not None and self._edge_rows_of is not pairs.row_ptr:
            if self._edge.tensors:
                _build.warn_dropped_edges(self._edge.tensors)
            ends = pairs.row_ptr.cpu().numpy()[self._node.starts]
            self._edge = LevelStorage(np.diff(ends))
            self._edge_rows_of = pairs.row_ptr
        return self._edge

    @property
    def _neighbor_list_cutoff(self) -> float | None:
        """Cutoff that the list was made for, Å; None without a list or if unknown."""
        return None if self._pairs is None or math.isnan(self._pairs.cutoff) else self._pairs.cutoff

    @_neighbor_list_cutoff.setter
    def _neighbor_list_cutoff(self, cutoff: float) -> None:
        self._require_pairs().cutoff = float(cutoff)
        if math.isnan(self._require_pairs().radius):
            self._require_pairs().radius = float(cutoff)

    @property
    def neighbor_list_radius(self) -> float | None:
        """Radius that was searched, Å (cutoff and skin); None without a list or if unknown."""
        return None if self._pairs is None or math.isnan(self._pairs.radius) else self._pairs.radius

    @neighbor_list_radius.setter
    def neighbor_list_radius(self, radius: float) -> None:
        self._require_pairs().radius = float(radius)

    def _require_pairs(self) -> PairList:
        if self._pairs is None:
            raise MissingFieldError("The Batch has no pair list to stamp. Set `batch.neighbor_list` first.")
        return self._pairs

    def without_pairs(self) -> Self:
        """Return a batch of the same tensors without pair list and edge fields, as frames are stored."""
        result = self._like(self._node.map(_same), self._system.map(_same))
        result._custom = {name: spec for name, spec in self._custom.items() if spec.level != "edge"}
        return result

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
        self._stamp = Stamp.of(self, _reference(model), frozenset(keys))

    def results_fresh(self, model: Any, keys: Iterable[str]) -> bool:
        """Whether results called `keys` were stamped for `model` and nothing was changed since."""
        stamp = self._stamp
        return stamp is not None and stamp.holds(self) and stamp.model() is model and stamp.keys.issuperset(keys)

    @contextmanager
    def keeping_results_fresh(self) -> Iterator[None]:
        """Keep fresh results fresh over changes inside that leave energies and forces as they are, such as wrapping."""
        stamp = self._stamp
        fresh = stamp is not None and stamp.holds(self)
        yield
        if fresh and stamp is not None:
            self._stamp = Stamp.of(self, stamp.model, stamp.keys)

    def _carry_stamp(self, result: Self) -> Self:
        if self._stamp is not None and self._stamp.holds(self):
            result._stamp = Stamp.of(result, self._stamp.model, self._stamp.keys)
        return result

    # --------------------------------------------------------------------------------------------- adding fields
    def register_field(self, spec: FieldSpec) -> None:
        """Declare a custom field of this batch, so that it can be assigned."""
        if spec.name in FIELDS or spec.name in PAIR_VIEWS or not spec.name.isidentifier() or hasattr(Batch, spec.name):
            raise InputError(f"`{spec.name}` is taken; choose another name for the custom field.")
        known = self._custom.get(spec.name)
        if known is not None and known != spec and spec.name in self:
            raise InputError(f"`{spec.name}` is registered and stored as {known}. Delete it first: `del batch[...]`.")
        self._custom = {**self._custom, spec.name: spec}

    def add_key(self, key: str, values: Sequence[torch.Tensor], level: Level = "node", overwrite: bool = False) -> None:
        """Add a field from one tensor per system.

        Parameters
        ----------
        key
            Name; registered as a custom field unless the table has it.
        values
            One tensor per system: rows for atoms or pairs; for a system its value, with or without a leading 1.
        level
            ``"node"``, ``"edge"`` or ``"system"``.
        overwrite
            Replace a field that exists.
        """
        _build.add_key(self, key, values, level, overwrite)

    def ensure_field(self, name: str) -> torch.Tensor:
        """Return the field called `name`; create it first if it is absent, filled with its default or zeros."""
        value = self.get(name)
        if value is None:
            self.set_field(name, _build.filled(self, self.field_spec(name)))
            value = self.get(name)
        return value

    # ------------------------------------------------------------------------------------------------ membership
    def append(self, other: Batch) -> None:
        """Add the systems of `other` behind those of this batch; in place.

        Fields that one of the two lacks follow the rule of `from_data_list`. A pair list goes along; systems without
        one, or searched with another radius, are marked for a new search.
        """
        _build.append(self, other)

    def append_data(self, data_list: Sequence[AtomicData], exclude_keys: Iterable[str] | None = None) -> None:
        """Add structures behind the systems of this batch; in place."""
        if not data_list:
            raise InputError("No data provided: `data_list` is empty. Pass at least one structure.")
        self.append(type(self).from_data_list(data_list, device=self._device, exclude_keys=exclude_keys))

    def index_select(self, idx: Any) -> Self:
        """Return a new batch of the systems that `idx` names, in that order; repeats are allowed.

        Parameters
        ----------
        idx
            Integer, slice, list, or tensor or array of integers or bools; negative integers count from the end.
        """
        return self._carry_stamp(_build.select(self, system_indices(idx, len(self))))

    def get_data(self, idx: int) -> AtomicData:
        """Return one structure; its tensors are views of the batch.

        Raises
        ------
        IndexError
            If `idx` is outside ``[-B, B)``.
        """
        return _build.item(self, one_system(int(idx), len(self)))

    def to_data_list(self) -> list[AtomicData]:
        """Return all structures; their tensors are views of the batch."""
        return [_build.item(self, number) for number in range(len(self))]

    def to_atoms(self) -> list[Atoms]:
        """Return all structures as ASE atoms; see `athanor.data.convert.ase.to_atoms`."""
        return [data.to_atoms() for data in self.to_data_list()]

    # ---------------------------------------------------------------------------------------------------- copies
    def _like(self, node: LevelStorage, system: LevelStorage, device: torch.device | None = None) -> Self:
        levels = {"node": node, "edge": LevelStorage(np.zeros(len(self), dtype=np.int64)), "system": system}
        return type(self)._of(levels, dict(self._custom), device or self._device, item_class=self._item_class)

    def _mapped(self, move: Callable[[str, torch.Tensor], torch.Tensor], pairs: PairList | None) -> Self:
        node, edge, system = (self._level(level).map(move) for level in LEVELS)
        device = next((t.device for s in (node, system) for t in s.tensors.values()), self._device)
        levels = {"node": node, "edge": edge, "system": system}
        result = type(self)._of(levels, dict(self._custom), device, pairs, self._item_class)
        if device == self._device:
            node._idx, node._ptr = self._node._idx, self._node._ptr
        return result

    def clone(self) -> Self:
        """Return a copy that shares no tensor; pair list and freshness go along."""
        pairs = None if self._pairs is None else self._pairs.clone()
        return self._carry_stamp(self._mapped(lambda name, tensor: tensor.clone(), pairs))

    def to(
        self,
        device: torch.device | str | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """Return the batch on `device` with its floating fields in `dtype`; shares what need not change.

        The lifetime ``time`` keeps its dtype. Results stay fresh if the dtype does not change.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        pairs = None if self._pairs is None else self._pairs.to(device, dtype, non_blocking)
        result = self._mapped(_structure.mover(device, dtype, non_blocking), pairs)
        if not result._node.tensors and device is not None:
            result._device = torch.device(device)
        return self._carry_stamp(result) if dtype in (None, self.dtype) else result

    def cpu(self) -> Self:  # type: ignore[override]
        """Return the batch on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | str | None = None, non_blocking: bool = False) -> Self:
        """Return the batch on a CUDA device."""
        return self.to(
            torch.device("cuda", device) if isinstance(device, int) else device or "cuda", None, non_blocking
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.clone()

    def __getstate__(self) -> dict[str, Any]:
        keys = ("_node", "_edge", "_system", "_custom", "_pairs", "_device", "_item_class", "_version")
        self._edges()
        return {key: getattr(self, key) for key in keys}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for key, value in {**state, "_assigned": {}, "_stamp": None}.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "_edge_rows_of", None if self._pairs is None else self._pairs.row_ptr)

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        """Return a flat dictionary: device, keys, pointers and sizes, then every stored tensor."""
        return {
            "device": self._device,
            "keys": self.keys,
            "batch_idx": self.batch_idx,
            "batch_ptr": self.batch_ptr,
            "num_graphs": self.num_graphs,
            "num_nodes_list": self.num_nodes_list,
            "num_edges_list": self.num_edges_list,
            **self._items(),
        }

    def debug(self) -> None:
        """Check shapes, dtypes and values of everything stored."""
        _build.check_batch(self)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_graphs={self.num_graphs}, num_nodes={self.num_nodes}, "
            f"num_edges={self.num_edges}, device={self._device})"
        )


def _same(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _reference(model: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(model)
    except TypeError:
        return lambda: model
