"""The field table: the one home of each field's level, shape, dtype, role, unit and meaning.

The table is a class, `Fields`: what stands there as an annotated attribute can be read as ``batch.forces`` and as
``data.forces``, and readers, editors and type checkers find it by its name. A level (node, edge or system) is declared
here or at registration of a custom field. `AtomicData` and `Batch` hold nothing but fields of this table, registered
custom fields, and views of the pair list.
"""

# Without `from __future__ import annotations`: the annotations below are the table.

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, get_type_hints

import torch

from athanor.errors import DtypeError, ShapeError

Level = Literal["node", "edge", "system"]
LEVELS: tuple[Level, ...] = ("node", "edge", "system")
ROW_OF: dict[Level, str] = {"node": "atom", "edge": "pair", "system": "system"}
"""What one row of a level belongs to."""

Kind = Literal["state", "float", "integer", "boolean", "any"]
"""What dtypes a field takes. ``state`` fields share one floating dtype in a batch; ``float`` fields keep their own."""

Role = Literal["structure", "motion", "result", "property", "identity"]
"""What a field is to a model and to a run.

A model reads ``structure``, ``motion`` and ``identity`` (which system it is, how far it got) and changes none of them.
A ``result`` is computed by a model, and dropped when the next evaluation does not compute it again. A ``property`` is
given with a structure or computed by a model, and kept until it is computed again.
"""


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One row of the field table.

    Parameters
    ----------
    name
        Attribute name on `AtomicData` and `Batch`.
    level
        ``"node"`` (one row per atom), ``"edge"`` (per pair) or ``"system"``.
    shape
        Trailing shape behind the leading row; ``None`` leaves a size free.
    kind
        Which dtypes are allowed, see `Kind`.
    unit
        Unit as text; empty if there is none.
    meaning
        One line.
    default
        Value for systems that lack the field when others of a batch have it. With ``None``, floats are filled with
        NaN, which means absent, and the mixture is refused for other kinds.
    role
        What the field is to a model and to a run, see `Role`.
    dtype
        Dtype in which athanor makes the field and which `to` leaves alone; ``None`` follows `kind`.
    assumed
        What a model reads for systems that lack the field when others of a batch have it, and what `ensure_field`
        makes; ``None``: what the batch holds there, and zero.
    """

    name: str
    level: Level
    shape: tuple[int | None, ...] = ()
    kind: Kind = "float"
    unit: str = ""
    meaning: str = ""
    default: float | int | bool | None = None
    role: Role = "property"
    dtype: torch.dtype | None = None
    assumed: float | None = None

    @classmethod
    def like(cls, name: str, level: Level, value: torch.Tensor, role: Role = "property") -> Self:
        """Return the row of a custom field that is first stored as `value`."""
        dtype = value.dtype
        kind: Kind = "float" if dtype.is_floating_point else "integer"
        kind = "boolean" if dtype == torch.bool else "any" if dtype.is_complex else kind
        return cls(name, level, tuple(value.shape[1:]), kind, role=role)

    def accepts_dtype(self, dtype: torch.dtype) -> bool:
        """Whether a tensor of `dtype` may be stored in this field."""
        if self.kind == "any":
            return True
        if self.kind == "boolean":
            return dtype == torch.bool
        if self.kind == "integer":
            return not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool
        return dtype in (torch.float64, torch.float32) if self.kind == "state" else dtype.is_floating_point

    def dtype_to_make(self, state: torch.dtype | None) -> torch.dtype:
        """Return the dtype of a new tensor of this field in a batch of state dtype `state`."""
        if self.dtype is not None or self.kind in ("integer", "boolean"):
            return self.dtype or (torch.bool if self.kind == "boolean" else torch.int64)
        return state or torch.get_default_dtype()

    @property
    def may_be_absent(self) -> bool:
        """Whether NaN in all rows of a system means that the system lacks this field."""
        return self.default is None and self.kind in ("state", "float") and self.name not in REQUIRED

    def as_column(self, value: torch.Tensor) -> torch.Tensor:
        """Return `value`, one number (B,) for each system as (B, 1) if this field is stored so."""
        column = self.level == "system" and self.shape == (1,) and isinstance(value, torch.Tensor) and value.ndim == 1
        return value.unsqueeze(1) if column else value

    def check(self, value: torch.Tensor, rows: int, *, owner: str) -> None:
        """Raise unless `value` fits this field with `rows` leading rows; costs O(1).

        Raises
        ------
        DtypeError
            If the dtype is not allowed.
        ShapeError
            If the number of rows or the trailing shape is wrong.
        """
        if not isinstance(value, torch.Tensor):
            raise DtypeError(
                f"`{self.name}` is a {type(value).__name__}; pass a torch.Tensor. "
                f"`torch.as_tensor(..., dtype={_DTYPE_OF[self.kind]})` makes one."
            )
        if not self.accepts_dtype(value.dtype):
            wanted = {"state": "torch.float64 or torch.float32", "float": "floating"}.get(self.kind, self.kind)
            raise DtypeError(
                f"`{self.name}` has dtype {value.dtype}; its dtype must be {wanted}. "
                f"Convert it: `{self.name}.to({_DTYPE_OF[self.kind]})`."
            )
        good = value.ndim == 1 + len(self.shape) and value.shape[0] == rows
        good = good and all(w is None or w == g for w, g in zip(self.shape, value.shape[1:], strict=True))
        if not good:
            tail = "".join(f", {'*' if size is None else size}" for size in self.shape) or ","
            shape = tuple(value.shape)
            raise ShapeError(
                f"`{self.name}` has shape {shape}; {owner} needs ({rows}{tail}). {self._advice(shape, rows)}"
            )

    def _advice(self, shape: tuple[int, ...], rows: int) -> str:
        """What to do about a wrong shape."""
        if shape and shape == self.shape:
            sizes = ", ".join(map(str, (rows, *self.shape)))
            what = "`{0}.unsqueeze(0)`" if rows == 1 else f"`{{0}}.expand({sizes})` if all share it"
            return f"Pass {what.format(self.name)}."
        return f"It is a {self.level}-level field: pass one row per {ROW_OF[self.level]}."


_DTYPE_OF: dict[Kind, str] = {
    "state": "torch.float64",
    "float": "torch.float64",
    "integer": "torch.int64",
    "boolean": "torch.bool",
    "any": "torch.float64",
}


T = TypeVar("T")
"""What reading an attribute gives: a tensor, or also None where fields may be absent."""


_structure = partial(FieldSpec, "", role="structure")  # the name of a row is that of its attribute
_motion = partial(FieldSpec, "", role="motion")
_result = partial(FieldSpec, "", role="result")
_property = partial(FieldSpec, "", role="property")
_identity = partial(FieldSpec, "", role="identity")


class Fields(Generic[T]):
    """Every stored field, in the order in which batches and files list them.

    The columns are level, shape behind the leading row, kind, unit, meaning and default; others go by name.
    """

    __slots__ = ()

    atomic_numbers: Annotated[T, _structure("node", (), "integer", "", "atomic number Z")]
    positions: Annotated[T, _structure("node", (3,), "state", "Å", "Cartesian coordinates")]
    atomic_masses: Annotated[T, _structure("node", (), "state", "amu", "atomic masses")]
    atom_categories: Annotated[T, _structure("node", (), "integer", "", "role of an atom, see AtomCategory", 0)]
    tags: Annotated[T, _structure("node", (), "integer", "", "integer label of an atom, as in ASE", 0)]
    fixed: Annotated[T, _structure("node", (), "boolean", "", "whether the atom is held in place", False)]
    cell: Annotated[T, _structure("system", (3, 3), "state", "Å", "lattice vectors as rows", 0.0)]
    pbc: Annotated[T, _structure("system", (3,), "boolean", "", "whether each lattice vector is periodic", False)]
    charge: Annotated[T, _structure("system", (1,), "float", "e", "total charge, an integer in value", assumed=0.0)]
    spin: Annotated[T, _structure("system", (1,), "float", "", "spin multiplicity 2S+1; 1 is a singlet", assumed=1.0)]
    velocities: Annotated[T, _motion("node", (3,), "state", "√(eV/amu)", "velocities, Å per internal time", 0.0)]
    momenta: Annotated[T, _motion("node", (3,), "state", "√(eV·amu)", "momenta")]
    kinetic_energies: Annotated[T, _property("node", (1,), "float", "eV", "kinetic energy of each atom")]
    energy: Annotated[T, _result("system", (1,), "state", "eV", "potential energy")]
    forces: Annotated[T, _result("node", (3,), "state", "eV/Å", "minus the gradient of the energy")]
    stress: Annotated[T, _result("system", (3, 3), "state", "eV/Å³", "Cauchy stress, tensile positive")]
    virial: Annotated[T, _result("system", (3, 3), "float", "eV", "minus the strain derivative of the energy")]
    atomic_energies: Annotated[T, _result("node", (), "float", "eV", "energy split by atom")]
    hessian: Annotated[T, _result("node", (3, 3), "float", "eV/Å²", "second derivatives")]
    energy_deviation: Annotated[T, _result("system", (1,), "float", "eV", "standard deviation within a committee")]
    force_deviation: Annotated[T, _result("node", (), "float", "eV/Å", "deviation of a force within a committee")]
    max_force_deviation: Annotated[T, _result("system", (1,), "float", "eV/Å", "largest force_deviation of the atoms")]
    dipole: Annotated[T, _result("system", (3,), "float", "e·Å", "dipole moment")]
    charges: Annotated[T, _property("node", (), "float", "e", "partial charge of each atom")]
    magmoms: Annotated[T, _property("node", (), "float", "µB", "magnetic moment of each atom")]
    node_alpha_spins: Annotated[T, _property("node", (1,), "float", "", "alpha spin population")]
    node_beta_spins: Annotated[T, _property("node", (1,), "float", "", "beta spin population")]
    graph_alpha_spins: Annotated[T, _property("system", (1,), "float", "", "alpha spin of the system")]
    node_attrs: Annotated[T, _property("node", (None,), "float", "", "input features of each atom")]
    node_embeddings: Annotated[T, _property("node", (None,), "float", "", "learned features of each atom")]
    edge_embeddings: Annotated[T, _property("edge", (None,), "float", "", "learned features of each pair")]
    graph_embeddings: Annotated[T, _property("system", (None,), "float", "", "learned features of each system")]
    system_id: Annotated[T, _identity("system", (1,), "integer", "", "identity that survives selection and refill", -1)]
    step: Annotated[T, _identity("system", (1,), "integer", "", "lifetime steps of the system", 0)]
    time: Annotated[T, _identity("system", (1,), "float", "fs", "lifetime simulated time", 0.0, dtype=torch.float64)]
    stage_step: Annotated[T, _identity("system", (1,), "integer", "", "steps since the system entered its stage", 0)]
    status: Annotated[T, _identity("system", (1,), "integer", "", "stage the system is in", 0)]
    failure_code: Annotated[T, _identity("system", (1,), "integer", "", "why it was set aside; 0 is healthy", 0)]
    failure_step: Annotated[T, _identity("system", (1,), "integer", "", "lifetime step of the failure; -1 is none", -1)]
    velocities_present: Annotated[T, _motion("system", (1,), "boolean", "", "whether its velocities are known", False)]
    retries: Annotated[T, _motion("system", (1,), "integer", "", "times it went back and on with smaller steps", 0)]
    dof: Annotated[T, _motion("system", (1,), "float", "", "degrees of freedom, set by the stage", dtype=torch.float64)]


class PairViews(Generic[T]):
    """Names that are views of the stored pair list, never stored fields of a batch."""

    __slots__ = ()

    neighbor_list: Annotated[T, _property("edge", (2,), "integer", "", "pairs (i, j) as batch-wide atom indices")]
    neighbor_list_shifts: Annotated[T, _property("edge", (3,), "any", "", "integer cell shift S of each pair")]
    shifts: Annotated[T, _property("edge", (3,), "float", "Å", "S times cell")]
    neighbor_matrix: Annotated[T, _property("node", (None,), "integer", "", "neighbours of each atom, padded with N")]
    neighbor_matrix_shifts: Annotated[T, _property("node", (None, 3), "any", "", "integer cell shift of each entry")]
    num_neighbors: Annotated[T, _property("node", (), "integer", "", "valid entries of each row")]


def _table(declared: type) -> dict[str, FieldSpec]:
    hints = get_type_hints(declared, include_extras=True)
    return {name: replace(hint.__metadata__[0], name=name) for name, hint in hints.items()}


def assume_what_is_absent(fields: dict[str, Any]) -> None:
    """Put into `fields`, which a model reads, what it assumes of systems that lack a label; tensors stay as they are.

    The place of a tensor without NaN is left alone, so that it is still the one of the batch.
    """
    for name in ASSUMED_FIELDS & fields.keys():
        value, assumed = fields[name], FIELDS[name].assumed
        if isinstance(value, torch.Tensor) and not value.is_meta and assumed is not None:
            absent = value.isnan()
            if bool(absent.any()):
                fields[name] = value.masked_fill(absent, assumed)


def names_of(*roles: Role) -> tuple[str, ...]:
    """Return the names of the stored fields of `roles`, in the order of the table."""
    return tuple(name for name, row in FIELDS.items() if row.role in roles)


FIELDS: dict[str, FieldSpec] = _table(Fields)
"""Every stored field by name."""

PAIR_VIEWS: dict[str, FieldSpec] = _table(PairViews)
"""Every view of the pair list by name."""

KNOWN_FIELDS: dict[str, FieldSpec] = {**FIELDS, **PAIR_VIEWS}
"""Both: every name that is not a custom field."""

REQUIRED = ("atomic_numbers", "positions")
"""What every structure has."""

STATE_FIELDS = frozenset(name for name, row in FIELDS.items() if row.kind == "state")
"""Fields that share the state dtype."""

EXACT_FIELDS = frozenset(name for name, row in FIELDS.items() if row.dtype is not None)
"""Fields that `to(dtype=...)` leaves alone: a float32 would lose femtoseconds of a long run."""

ASSUMED_FIELDS = frozenset(name for name, row in FIELDS.items() if row.assumed is not None)
"""Labels that a model reads of every system of a batch as soon as one has them."""

IDENTITY = names_of("identity")
"""Identity and progress of a system; every run has these on its batch, and ASE atoms carry them in ``info``."""

GIVEN = frozenset(names_of("structure", "motion", "identity"))
"""Inputs of a model. One that it returns too, wrapped or in single precision, is not written to the batch."""

RESULTS = names_of("result")
"""Fields that belong to the model and the positions of the last evaluation, and are dropped by one without them."""
