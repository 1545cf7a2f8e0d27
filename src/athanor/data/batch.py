"""Batch: many structures in one set of tensors, the object that every step of a simulation reads and writes.

Storage and the router of names are in `_storage`, sizes in `_sizes`, memory for systems that come and go in `_buffer`;
here is how batches are made, joined, selected and moved, as short methods that delegate to the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from athanor._values import did_you_mean, usable_device
from athanor.data import _build, _membership, _state, _structure
from athanor.data._buffer import Buffer
from athanor.data._checks import check_structures
from athanor.data._levels import LevelStorage
from athanor.data._mixin import DataMixin
from athanor.data._select import as_int, one_system, system_indices
from athanor.data._view import view_of_batch
from athanor.data.atomic_data import AtomicData
from athanor.data.elements import chemical_formula
from athanor.data.fields import FIELDS, KNOWN_FIELDS, LEVELS, FieldSpec, Level
from athanor.errors import ArgumentError, InputError, MissingFieldError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AtomicData", "Batch", "DataMixin"]

_FORMULAS_SHOWN = 4
"""Systems whose composition a `repr` tells."""


class Batch(Buffer):
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
    field must have the state dtype, also ``positions``: convert a whole batch with ``batch.to(dtype=...)``. A new name
    declares itself as a custom field if the first size is the number of atoms or of systems.

    Examples
    --------
    >>> import torch
    >>> from athanor.data import AtomicData, Batch
    >>> water = AtomicData(atomic_numbers=torch.tensor([8, 1, 1]), positions=torch.eye(3))
    >>> batch = Batch.from_data_list([water, water])
    >>> batch.num_graphs, batch.positions.shape
    (2, torch.Size([6, 3]))
    """

    __slots__ = ()

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
        A field that only some structures have is filled with its default, floats without default with NaN; integers
        and bools without default are refused. NaN means absent: reading a structure back (`get_data`, `to_data_list`,
        `to_atoms`) leaves out a label that is NaN in all of its rows, also if it was given so. ``info`` is not batched.
        """
        levels = {**(attr_map or {}), **(field_levels or {})}
        return _build.from_items(cls, data_list, device, dtype, not skip_validation, levels, exclude_keys)

    @classmethod
    def from_raw_dicts(
        cls,
        data_list: Sequence[Mapping[str, torch.Tensor]],
        device: torch.device | str | None = None,
        attr_map: Mapping[str, str] | None = None,
        exclude_keys: Iterable[str] | None = None,
        field_levels: Mapping[str, str] | None = None,
    ) -> Self:
        """Join plain dictionaries of tensors without checks of values; unknown names become system fields.

        Raises
        ------
        InputError
            If there is none, or a tensor does not have the rows, shape or dtype of its field.
        MissingFieldError
            If one has no ``positions``.
        """
        levels = {**(attr_map or {}), **(field_levels or {})}
        items = _build.items_of_dicts(data_list, levels)
        return _build.from_items(cls, items, device, None, False, {}, exclude_keys)

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
        """Return a batch without systems that has the fields of `template`, and room for systems that are `put` in.

        Parameters
        ----------
        num_systems, num_nodes, num_edges
            What there shall be room for in all, see `reserve`. Without any, the batch has fields and no room.
        template
            Whose fields, dtypes and trailing shapes it has; a structure with an energy unless given.
        device
            Where its memory is.
        attr_map
            Accepted for compatibility.

        Raises
        ------
        InputError
            If a size is negative, or `template` is neither a batch nor a structure.
        """
        batch = _build.emptied(cls, _build.one_atom() if template is None else template, device)
        if num_systems or num_nodes or num_edges:
            batch.reserve(num_systems, num_nodes, num_edges)
        return batch

    @classmethod
    def empty_like(cls, batch: Batch, *, device: torch.device | str | None = None) -> Self:
        """Return a batch without systems that has the fields of `batch`."""
        return _build.emptied(cls, batch, device)

    @classmethod
    def from_dict(cls, dictionary: Mapping[str, Any]) -> Self:
        """Make a batch of what `model_dump` returned.

        Raises
        ------
        MissingFieldError
            If `dictionary` is something else.
        """
        return _build.from_dump(cls, dictionary)

    def __getitem__(self, key: Any) -> Any:
        """Return a field for a name, a structure for an integer, a smaller batch for anything else."""
        if isinstance(key, str):
            value = self.get(key)
            if value is None:
                hint = did_you_mean(key, KNOWN_FIELDS) if key not in FIELDS else ""
                raise MissingFieldError(f"`{key}` is not in the Batch; {self._present()}.{hint}")
            return value
        number = as_int(key)
        return self.index_select(key) if number is None else self.get_data(number)

    # --------------------------------------------------------------------------------------------- adding fields
    def register_field(self, spec: FieldSpec) -> None:
        """Declare a custom field of this batch, so that it can be assigned.

        Raises
        ------
        InputError
            If the name is taken, or no identifier; `ArgumentError` if `spec` is no `FieldSpec`.
        """
        if not isinstance(spec, FieldSpec):
            raise ArgumentError(
                f"`spec` is a {type(spec).__name__}; pass `FieldSpec(name, level, shape)` of `athanor.data.fields`, or "
                f"use `add_key`."
            )
        if not self.takes_name(spec.name):
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

        Raises
        ------
        InputError
            If the field exists and `overwrite` is off, or `values` are not one fitting tensor per system.
        """
        _membership.add_key(self, key, values, level, overwrite)

    def ensure_field(self, name: str) -> torch.Tensor:
        """Return the field called `name`; create it first if it is absent, filled with its default or zeros."""
        value = self.get(name)
        if value is None:
            spec = self.field_spec(name)
            rows = self._level(spec.level).rows
            self.set_field(name, _structure.initial_values(spec, rows, self.atomic_numbers, self.dtype))
            value = self.get(name)
            if name == "velocities":  # nobody gave them
                self.velocities_present.zero_()
        return value

    # ------------------------------------------------------------------------------------------------ membership
    def append(self, other: Batch) -> None:
        """Add the systems of `other` behind those of this batch; in place.

        Fields that one of the two lacks follow the rule of `from_data_list`. A pair list goes along; systems without
        one, or searched with another radius, are marked for a new search.

        Raises
        ------
        InputError
            If both share storage, have two state dtypes, or a field of two shapes or kinds.
        MissingFieldError
            If one lacks a field that can not be filled.
        """
        _membership.append(self, other)

    def append_data(self, data_list: Sequence[AtomicData], exclude_keys: Iterable[str] | None = None) -> None:
        """Add structures behind the systems of this batch; in place.

        Raises
        ------
        InputError, MissingFieldError
            If there is none, or as `from_data_list` and `append`.
        """
        if isinstance(data_list, Sequence) and not data_list:
            raise InputError("No data provided: `data_list` is empty. Pass at least one structure.")
        self.append(type(self).from_data_list(data_list, device=self._device, exclude_keys=exclude_keys))

    def remove_systems(self, idx: Any) -> None:
        """Take systems out of this batch; in place. The order of those that stay is kept.

        Parameters
        ----------
        idx
            As in `index_select`.

        Raises
        ------
        OutOfRangeError
            An `IndexError`, as in `index_select`.
        """
        _membership.remove(self, system_indices(idx, len(self)))

    def replace_systems(self, idx: Any, other: Batch) -> None:
        """Put the systems of `other`, of whatever size, in the place of the systems `idx`; in place.

        Those that stay keep their order, what engines remember of them, and their neighbour lists; those that join
        bring what they have, and start afresh where they have nothing. Fields that one side lacks follow the rule of
        `from_data_list`.

        Parameters
        ----------
        idx
            As in `index_select`; each system once.
        other
            As many systems, in that order.

        Raises
        ------
        InputError
            As in `append`, or if the numbers of systems differ.
        OutOfRangeError
            An `IndexError`, as in `index_select`.
        """
        _membership.replace(self, system_indices(idx, len(self)), other)

    def index_select(self, idx: Any) -> Self:
        """Return a new batch of the systems that `idx` names, in that order; repeats are allowed.

        Parameters
        ----------
        idx
            Integer, slice, list, or tensor or array of integers or bools; negative integers count from the end.

        Raises
        ------
        OutOfRangeError
            An `IndexError`: if it names no system, one that is not there, or is of another type.
        """
        return self._pass_freshness_to(_membership.select(self, system_indices(idx, len(self))))

    def get_data(self, idx: int) -> AtomicData:
        """Return one structure; its tensors are views of the batch, without labels that are NaN throughout.

        Raises
        ------
        IndexError
            If `idx` is outside ``[-B, B)``.
        """
        return _membership.item(self, one_system(idx, len(self)))

    def to_data_list(self) -> list[AtomicData]:
        """Return all structures; their tensors are views of the batch."""
        return [_membership.item(self, number) for number in range(len(self))]

    def to_atoms(self, computed: Collection[str] = frozenset()) -> list[Atoms]:
        """Return all structures as ASE atoms; see `athanor.data.convert.ase.to_atoms`."""
        return [data.to_atoms(computed) for data in self.without_pairs().to_data_list()]  # ASE has no place for pairs

    # ---------------------------------------------------------------------------------------------------- copies
    def _mapped(self, move: Callable[[str, torch.Tensor], torch.Tensor]) -> Self:
        node, edge, system = (self._level(level).map(move) for level in LEVELS)
        device = next((t.device for s in (node, system) for t in s.tensors.values()), self._device)
        levels = {"node": node, "edge": edge, "system": system}
        lists = tuple(pairs.map(move) for pairs in self._pair_lists)
        groups = {name: group.map(move) for name, group in self._groups.items()}
        result = type(self)._of(levels, dict(self._custom), device, lists, self._item_class, groups)
        if device == self._device:
            node._idx, node._ptr = self._node._idx, self._node._ptr
        if self._room is not None:
            result.reserve(*(self._room.rows[level] for level in ("system", "node", "edge")))
        return result

    def clone(self) -> Self:
        """Return a copy that shares no tensor; pair lists and freshness go along."""
        return self._pass_freshness_to(self._mapped(lambda name, tensor: tensor.clone()))

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
        result = self._mapped(_structure.mover(device, dtype, non_blocking))
        if not result._node.tensors and device is not None:
            result._device = torch.device(device)
        return self._pass_freshness_to(result) if dtype in (None, self.dtype) else result

    def cpu(self) -> Self:
        """Return the batch on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | str | None = None, non_blocking: bool = False) -> Self:
        """Return the batch on a CUDA device."""
        return self.to(usable_device("cuda" if device is None else device), None, non_blocking)

    def separate_memory(self) -> None:
        """Copy, in place, fields of the table that can not be changed in place as they are; engines do so before a run.

        Those are tensors of ``torch.inference_mode``, rows that are one row expanded, and one tensor under two names.
        Tensors that require grad are detached, not copied.
        """
        _membership.separate_memory(self)

    def without_pairs(self) -> Self:
        """Return a batch of the same tensors without pair lists, edge fields, groups and state, as frames are."""
        node, system = (LevelStorage(level.counts, level.tensors.copy()) for level in (self._node, self._system))
        levels = {"node": node, "edge": LevelStorage.empty(len(self)), "system": system}
        custom = {name: spec for name, spec in self._custom.items() if spec.level != "edge"}
        return type(self)._of(levels, custom, self._device, item_class=self._item_class)

    def shallow_view(self, without_flags: Iterable[str] = ("positions", "cell")) -> Self:
        """Return a batch of the same tensors, pointers and pair list, as models get one; assignments do not come back.

        Into a view anything may be assigned: another dtype, another shape, a name that was never declared. What is
        changed inside a tensor changes for both.

        Parameters
        ----------
        without_flags
            Fields whose tensors are new objects on the same memory, so that ``requires_grad_`` does not come back
            either. One that requires grad already stays as it is, and keeps its graph.
        """
        return view_of_batch(self, without_flags)

    def __copy__(self) -> Self:
        return self.to(self._device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.clone()

    def __getstate__(self) -> dict[str, Any]:
        levels = {level: self._level(level) for level in LEVELS}
        if self._room is not None:  # a view would be written with all that it is a view of
            levels = {level: storage.map(lambda name, tensor: tensor.clone()) for level, storage in levels.items()}
        parts = (levels, self._custom, self._device, self._pair_lists, self._item_class, self._groups)
        return {"parts": parts, "version": self._version, "room": None if self._room is None else self._room.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_parts(*state["parts"])
        room = state.get("room")
        if room is not None:
            self.reserve(room["system"], room["node"], room["edge"])
        self._version = state["version"]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the batch holds, as a tree of plain values and tensors: what a checkpoint carries.

        Beside the fields that is what engines and hooks remember of its systems, groups of atoms, the stored pair lists
        with their age, the room, and which results are fresh. The tensors are those of the batch, not copies.
        """
        return _state.tree_of(self)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Any],
        device: torch.device | str | None = None,
        *,
        model: Any = None,
        item_class: type[AtomicData] = AtomicData,
    ) -> Self:
        """Make a batch of what `state_dict` returned; it shares the tensors that need not be moved.

        Parameters
        ----------
        state
            The tree.
        device
            Where to put the tensors; where they are unless given.
        model
            Whose results those are that were fresh; without one they are not taken for fresh.
        item_class
            What `get_data` returns.

        Raises
        ------
        InputError
            If `state` is no such tree.
        """
        return _state.batch_of(cls, dict(state), None if device is None else torch.device(device), model, item_class)

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
        for level in LEVELS:
            storage = self._level(level)
            for name, tensor in storage.tensors.items():
                self.field_spec(name).check(tensor, storage.rows, owner=f"a Batch of {len(self)} systems")
        if len(self):
            check_structures({**self._node.tensors, **self._system.tensors}, self._node.starts)

    def __repr__(self) -> str:
        ends = self.batch_ptr[: _FORMULAS_SHOWN + 1].tolist()
        numbers = self.atomic_numbers[: ends[-1]].flatten().tolist() if "atomic_numbers" in self else []
        systems = [chemical_formula(numbers[start:end]) for start, end in pairwise(ends)] if numbers else []
        systems += ["..."] * (len(self) > len(systems))
        room = "" if self._room is None else f" of at most {self.system_capacity}"
        return (
            f"{type(self).__name__}(num_graphs={self.num_graphs}{room}, num_nodes={self.num_nodes}, "
            f"num_edges={self.num_edges}, device={self._device}, systems=[{', '.join(systems)}])"
        )
