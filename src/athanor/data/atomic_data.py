"""AtomicData: one structure, as tensors with a declared level.

A light class. Fields are checked whole at construction and in O(1) on assignment; a refused assignment leaves the old
value. System-level tensors have a leading row: ``cell`` is (1, 3, 3). Conversion from other programs' objects is in
`athanor.data.convert`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import torch

from athanor._optional import OptionalDependency
from athanor._values import did_you_mean, usable_device
from athanor.data import _structure
from athanor.data._mixin import AbsentAttributeError, DataMixin
from athanor.data._view import view_of_structure
from athanor.data.elements import (
    AtomicNumberTable,
    atomic_numbers_to_indices,
    chemical_formula,
    to_one_hot,
    voigt_to_matrix,
)
from athanor.data.fields import FIELDS, KNOWN_FIELDS, REQUIRED, Fields, FieldSpec, Level, PairViews
from athanor.errors import InputError, MissingFieldError, UnknownFieldError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "AtomicData",
    "AtomicNumberTable",
    "DataMixin",
    "OptionalDependency",
    "atomic_numbers_to_indices",
    "to_one_hot",
    "voigt_to_matrix",
]


def _names(level: Level) -> frozenset[str]:
    return frozenset(name for name, spec in KNOWN_FIELDS.items() if spec.level == level)


class AtomicData(DataMixin, Fields[torch.Tensor | None], PairViews[torch.Tensor | None]):
    """One structure.

    Parameters
    ----------
    atomic_numbers
        Integer [N], 0 to 118.
    positions
        Float [N, 3], Å; their dtype is the state dtype.
    info
        Name -> tensor that belongs to the structure as a whole; kept, never batched.
    device, dtype
        Where to put the tensors, and the dtype of the state, instead of those of `positions`.
    **fields
        Any field of `athanor.data.fields` or neighbour name, with its rows: N for atoms, 1 for the system. Other names
        are kept on the object, with one warning, and are not batched until an ``add_*_property`` call.

    Raises
    ------
    InputError
        If positions or cell are not finite, there are no atoms, an atomic number is unknown, or a periodic cell spans
        no volume; `ShapeError` and `DtypeError` for shapes and dtypes.

    Notes
    -----
    Missing masses come from `athanor.data.elements`; missing velocities and categories are zero. Fields of the state
    are cast to the dtype of `positions` with a warning; other fields keep theirs.

    Examples
    --------
    >>> import torch
    >>> from athanor.data import AtomicData
    >>> data = AtomicData(atomic_numbers=torch.tensor([8, 1, 1]), positions=torch.eye(3))
    >>> data.atomic_masses
    tensor([15.9990,  1.0080,  1.0080])
    """

    __slots__ = ("__weakref__", "_custom", "_extras", "_fields", "info")

    _default_node_keys = _names("node")
    _default_edge_keys = _names("edge")
    _default_system_keys = _names("system")

    _fields: dict[str, torch.Tensor]
    _custom: dict[str, FieldSpec]
    _extras: dict[str, Any]
    info: dict[str, torch.Tensor]
    atomic_numbers: torch.Tensor
    positions: torch.Tensor

    def __init__(
        self,
        *,
        atomic_numbers: torch.Tensor,
        positions: torch.Tensor,
        info: Mapping[str, torch.Tensor] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **fields: Any,
    ) -> None:
        self._custom = {}
        self.info = dict(info or {})
        given = {"atomic_numbers": atomic_numbers, "positions": positions, **fields}
        given = {name: value for name, value in given.items() if value is not None}
        if device is not None or dtype is not None:
            given = _structure.placed(given, device, dtype)
        self._extras = {name: given.pop(name) for name in list(given) if name not in KNOWN_FIELDS}
        for name in self._extras:
            if hasattr(type(self), name):
                raise UnknownFieldError(f"`{name}` is a name of {type(self).__name__} itself; choose another label.")
        self._fields = _structure.build(given)
        if self._extras:
            _warn_unregistered(sorted(self._extras), stacklevel=3)

    @classmethod
    def _trusted(cls, fields: dict[str, torch.Tensor], custom: dict[str, FieldSpec]) -> Self:
        """Make an object of checked tensors without looking at them again."""
        self = cls.__new__(cls)
        self._fields = fields
        self._custom = custom
        self._extras = {}
        self.info = {}
        return self

    # ------------------------------------------------------------------------------------------------------ access
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in AtomicData.__slots__:
            raise AttributeError(name)
        for store in (self._fields, self._extras):
            if name in store:
                return store[name]
        if name in KNOWN_FIELDS:
            return None
        raise AbsentAttributeError(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in AtomicData.__slots__ or hasattr(type(self), name):
            if isinstance(getattr(type(self), name, None), property):
                raise UnknownFieldError(f"`{name}` follows from the fields of the structure and can not be set.")
            object.__setattr__(self, name, value)
            return
        spec = self.field_spec(name)
        if spec is None:
            if not name.startswith("_") and name not in self._extras:
                _warn_unregistered([name], stacklevel=3)
            self._extras[name] = value
        elif value is None:
            _check_removable(name)
            self._fields.pop(name, None)
            self._note_velocities(name, present=False)
        else:
            if name == "atom_categories":
                value = _structure.categories(value)
            value = spec.as_column(value)
            _structure.check_assignment(self._fields, spec, value)
            self._fields[name] = value
            self._note_velocities(name, present=True)

    def _note_velocities(self, name: str, *, present: bool) -> None:
        """Note that the velocities, if that is what `name` is, were given or taken away."""
        if name == "velocities":
            self._fields["velocities_present"] = torch.full((1, 1), present, device=self.device)

    def __delattr__(self, name: str) -> None:
        _check_removable(name)
        self._note_velocities(name, present=False)
        for store in (self._fields, self._extras):
            if name in store:
                del store[name]
                return
        raise AbsentAttributeError(self, name)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, key)
        except AttributeError as error:
            raise MissingFieldError(str(error)) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __contains__(self, key: object) -> bool:
        return key in self._fields or key in self._extras

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self()

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field called `name`, or `default` if it is absent."""
        return self._fields.get(name, default)

    def field_spec(self, name: str) -> FieldSpec | None:
        """Return the row of the field table, of the neighbour names or of a custom field; None if unknown."""
        return KNOWN_FIELDS.get(name) or self._custom.get(name)

    def field_names(self, level: Level) -> tuple[str, ...]:
        """Names of the stored fields of `level`."""
        return tuple(name for name in self._fields if self.field_spec(name).level == level)  # type: ignore[union-attr]

    def _items(self) -> dict[str, torch.Tensor]:
        return self._fields

    def _replace_all(self, tensors: dict[str, torch.Tensor]) -> None:
        self._fields.update(tensors)

    # -------------------------------------------------------------------------------------------------- properties
    @property
    def num_nodes(self) -> int:
        """Number of atoms."""
        return self._fields["positions"].shape[0]

    num_atoms = num_nodes

    @property
    def num_edges(self) -> int:
        """Number of pairs of ``neighbor_list``; 0 without one."""
        pairs = self._fields.get("neighbor_list")
        return 0 if pairs is None else pairs.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self._fields["positions"].device

    @property
    def dtype(self) -> torch.dtype:
        """State dtype."""
        return self._fields["positions"].dtype

    @property
    def node_properties(self) -> dict[str, torch.Tensor]:
        """Present fields with one row per atom."""
        return {name: self._fields[name] for name in self.field_names("node")}

    @property
    def edge_properties(self) -> dict[str, torch.Tensor]:
        """Present fields with one row per pair."""
        return {name: self._fields[name] for name in self.field_names("edge")}

    @property
    def system_properties(self) -> dict[str, torch.Tensor]:
        """Present fields with one row."""
        return {name: self._fields[name] for name in self.field_names("system")}

    def _key_set(self, level: Level) -> set[str]:
        return set(_names(level)) | {name for name, spec in self._custom.items() if spec.level == level}

    @property
    def __node_keys__(self) -> set[str]:
        return self._key_set("node")

    @property
    def __edge_keys__(self) -> set[str]:
        return self._key_set("edge")

    @property
    def __system_keys__(self) -> set[str]:
        return self._key_set("system")

    @property
    def chemical_hash(self) -> str:
        """Digest of what the structure is: elements, positions, cell and pbc; the order of atoms does not matter."""
        return _structure.chemical_hash(self._fields)

    def __eq__(self, other: object) -> bool:
        """Whether the same fields hold the same values; NaN equals NaN."""
        if not isinstance(other, AtomicData):
            return NotImplemented
        return _structure.same_fields(self._fields, other._fields)

    def __hash__(self) -> int:
        return hash(self.chemical_hash)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={list(tensor.shape)}" for name, tensor in self._fields.items())
        formula = chemical_formula(self.atomic_numbers.flatten().tolist())
        return f"{type(self).__name__}({formula}, {parts}, dtype={self.dtype}, device={self.device})"

    # ---------------------------------------------------------------------------------------------- custom fields
    def add_node_property(self, key: str, value: torch.Tensor, node_dim: int = 0) -> None:
        """Store `value`, one row per atom, and register `key` as a node-level field of this object.

        `node_dim` is accepted for compatibility: atoms are the rows.
        """
        self._register(key, value, "node")

    def add_edge_property(self, key: str, value: torch.Tensor) -> None:
        """Store `value`, one row per pair, and register `key` as an edge-level field of this object."""
        self._register(key, value, "edge")

    def add_system_property(self, key: str, value: torch.Tensor) -> None:
        """Store `value`, one row, and register `key` as a system-level field of this object."""
        self._register(key, value, "system")

    def _register(self, key: str, value: torch.Tensor, level: Level) -> None:
        spec = _structure.spec_for(type(self), key, value, level)
        value = spec.as_column(value)
        _structure.check_assignment(self._fields, spec, value)
        if key not in KNOWN_FIELDS:
            self._custom = {**self._custom, key: spec}
        self._extras.pop(key, None)
        self._fields[key] = value
        self._note_velocities(key, present=True)

    def use_default_masses(self) -> Self:
        """Set standard masses of the elements, amu; in place."""
        return self._use_default("atomic_masses")

    def use_default_categories(self) -> Self:
        """Set every atom's category to 0; in place."""
        return self._use_default("atom_categories")

    def use_default_velocities(self) -> Self:
        """Set all velocities to zero, and say that nobody gave them; in place."""
        self._note_velocities("velocities", present=False)
        return self._use_default("velocities")

    def _use_default(self, name: str) -> Self:
        self._fields[name] = _structure.initial_values(FIELDS[name], self.num_nodes, self.atomic_numbers, self.dtype)
        return self

    def check_node_consistency(self) -> Self:
        """Raise `ShapeError` unless every node-level field has one row per atom."""
        return self._check_level("node")

    def check_edge_consistency(self) -> Self:
        """Raise `ShapeError` unless every edge-level field has one row per pair of ``neighbor_list``."""
        return self._check_level("edge")

    def _check_level(self, level: Level) -> Self:
        for name in self.field_names(level):
            _structure.check_rows(self._fields, self.field_spec(name), self._fields[name])  # type: ignore[arg-type]
        return self

    def debug(self) -> None:
        """Check everything that construction checks, on the tensors as they are now."""
        _structure.check_all(self._fields, self._custom)

    # -------------------------------------------------------------------------------------------------- copies
    def _with(self, fields: dict[str, torch.Tensor]) -> Self:
        result = type(self)._trusted(fields, dict(self._custom))
        result._extras = dict(self._extras)
        result.info = dict(self.info)
        return result

    def to(
        self,
        device: torch.device | str | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """Return the structure on `device` with its floating fields in `dtype`; shares what need not change.

        The lifetime ``time`` keeps its dtype.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        move = _structure.mover(device, dtype, non_blocking)
        result = self._with({name: move(name, tensor) for name, tensor in self._fields.items()})
        result.info = {n: move(n, v) if isinstance(v, torch.Tensor) else v for n, v in self.info.items()}
        return result

    def cpu(self, *keys: str) -> Self:
        """Move tensors to the CPU; in place."""
        return self.apply(lambda tensor: tensor.cpu(), *keys)

    def cuda(self, device: int | str | None = None, non_blocking: bool = False, *keys: str) -> Self:
        """Move tensors to a CUDA device; in place."""
        target = usable_device("cuda" if device is None else device)
        return self.apply(lambda tensor: tensor.to(target, non_blocking=non_blocking), *keys)

    def clone(self) -> Self:
        """Return a copy that shares no tensor."""
        result = self._with({name: tensor.clone() for name, tensor in self._fields.items()})
        result.info = copy.deepcopy(self.info)
        result._extras = copy.deepcopy(self._extras)
        return result

    def shallow_view(self, without_flags: Iterable[str] = ("positions", "cell")) -> Self:
        """Return a structure of the same tensors, as models get one; see `Batch.shallow_view`."""
        return view_of_structure(self, without_flags)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.clone()

    def __copy__(self) -> Self:
        return self._with(dict(self._fields))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with the values of `update` assigned."""
        result = self.clone() if deep else copy.copy(self)
        for name, value in (update or {}).items():
            setattr(result, name, value)
        return result

    def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]:
        """Return name -> value of everything the object holds; absent fields are None unless `exclude_none`."""
        result: dict[str, Any] = {}
        for name in KNOWN_FIELDS:
            value = self._fields.get(name)
            if value is not None or not exclude_none:
                result[name] = value
        for name in self._custom:
            result[name] = self._fields[name]
        return {**result, **self._extras, "info": dict(self.info)}

    def model_dump_json(self) -> str:
        """Return a JSON text from which `model_validate_json` makes the object again."""
        return _structure.to_json(self._fields, self._custom, self.info)

    @classmethod
    def model_validate_json(cls, text: str) -> Self:
        """Read what `model_dump_json` wrote."""
        fields, custom, info = _structure.from_json(text)
        _structure.check_all(fields, custom)
        self = cls._trusted(fields, custom)
        self.info = info
        return self

    @classmethod
    def from_dict(cls, dictionary: Mapping[str, Any]) -> Self:
        """Make a structure of name -> value, as the constructor does."""
        return cls(**dictionary)

    # -------------------------------------------------------------------------------------------------- conversion
    @classmethod
    def from_atoms(cls, atoms: Atoms, *args: Any, **kwargs: Any) -> Self:
        """Make a structure of ASE atoms; see `athanor.data.convert.ase.from_atoms`."""
        from athanor.data.convert.ase import from_atoms

        return from_atoms(atoms, *args, data_class=cls, **kwargs)

    @classmethod
    def from_structure(cls, structure: Any, *args: Any, **kwargs: Any) -> Self:
        """Make a structure of a pymatgen Structure or Molecule; see `athanor.data.convert.pymatgen.from_structure`."""
        from athanor.data.convert.pymatgen import from_structure

        return from_structure(structure, *args, data_class=cls, **kwargs)

    def to_atoms(self, computed: Collection[str] = frozenset()) -> Atoms:
        """Return ASE atoms; see `athanor.data.convert.ase.to_atoms`."""
        from athanor.data.convert.ase import to_atoms

        return to_atoms(self, computed)


def _check_removable(name: str) -> None:
    if name in REQUIRED:
        raise InputError(f"`{name}` can not be removed: every structure needs it. Assign a tensor instead.")


def _warn_unregistered(names: list[str], stacklevel: int) -> None:
    listed = ", ".join(f"`{name}`" for name in names)
    warnings.warn(
        f"{listed} is not a known field: it stays on this object and is not batched."
        f"{did_you_mean(names[0], FIELDS)} Register it with "
        f"`add_node_property`, `add_edge_property` or `add_system_property`, or put it into `info`.",
        UserWarning,
        stacklevel=stacklevel + 1,
    )
