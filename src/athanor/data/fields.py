"""The field table: the one home of each field's level, trailing shape, dtype, unit and meaning.

A level (node, edge or system) is declared here or at registration of a custom field; it is never inferred from the
size of a tensor. `AtomicData` and `Batch` hold nothing but fields of this table, registered custom fields, and views
of the pair list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from athanor.errors import DtypeError, ShapeError

Level = Literal["node", "edge", "system"]
LEVELS: tuple[Level, ...] = ("node", "edge", "system")
ROW_OF: dict[Level, str] = {"node": "atom", "edge": "pair", "system": "system"}
"""What one row of a level belongs to."""

Kind = Literal["state", "float", "integer", "boolean", "any"]
"""What dtypes a field takes. ``state`` fields share one floating dtype in a batch; ``float`` fields keep their own."""


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
        Value for systems that lack the field when others of a batch have it, or ``None`` to refuse the mixture
        (floats are then filled with NaN and marked, see ``<field>_present``).
    """

    name: str
    level: Level
    shape: tuple[int | None, ...] = ()
    kind: Kind = "float"
    unit: str = ""
    meaning: str = ""
    default: float | int | bool | None = None

    def accepts_dtype(self, dtype: torch.dtype) -> bool:
        """Whether a tensor of `dtype` may be stored in this field."""
        if self.kind == "any":
            return True
        if self.kind == "boolean":
            return dtype == torch.bool
        if self.kind == "integer":
            return not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool
        return dtype in (torch.float64, torch.float32) if self.kind == "state" else dtype.is_floating_point

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


def _table(*rows: FieldSpec) -> dict[str, FieldSpec]:
    return {row.name: row for row in rows}


FIELDS: dict[str, FieldSpec] = _table(
    # what a system is
    FieldSpec("atomic_numbers", "node", (), "integer", "", "atomic number Z"),
    FieldSpec("positions", "node", (3,), "state", "Å", "Cartesian coordinates"),
    FieldSpec("atomic_masses", "node", (), "state", "amu", "atomic masses"),
    FieldSpec("atom_categories", "node", (), "integer", "", "role of an atom, see AtomCategory", 0),
    FieldSpec("tags", "node", (), "integer", "", "integer label of an atom, as in ASE", 0),
    FieldSpec("fixed", "node", (), "boolean", "", "whether the atom is held in place", False),
    FieldSpec("cell", "system", (3, 3), "state", "Å", "lattice vectors as rows", 0.0),
    FieldSpec("pbc", "system", (3,), "boolean", "", "whether each lattice vector is periodic", False),
    FieldSpec("charge", "system", (1,), "float", "e", "total charge, an integer in value", 0.0),
    FieldSpec("spin", "system", (1,), "float", "", "spin multiplicity 2S+1; 1 is a singlet", 1.0),
    # motion
    FieldSpec("velocities", "node", (3,), "state", "√(eV/amu)", "velocities, Å per internal time", 0.0),
    FieldSpec("momenta", "node", (3,), "state", "√(eV·amu)", "momenta"),
    FieldSpec("kinetic_energies", "node", (1,), "float", "eV", "kinetic energy of each atom"),
    # results
    FieldSpec("energy", "system", (1,), "state", "eV", "potential energy"),
    FieldSpec("forces", "node", (3,), "state", "eV/Å", "minus the gradient of the energy"),
    FieldSpec("stress", "system", (3, 3), "state", "eV/Å³", "Cauchy stress, tensile positive"),
    FieldSpec("virial", "system", (3, 3), "float", "eV", "minus the strain derivative of the energy"),
    FieldSpec("atomic_energies", "node", (), "float", "eV", "energy split by atom"),
    FieldSpec("hessian", "node", (3, 3), "float", "eV/Å²", "second derivatives"),
    FieldSpec("dipole", "system", (3,), "float", "e·Å", "dipole moment"),
    FieldSpec("charges", "node", (), "float", "e", "partial charge of each atom"),
    FieldSpec("magmoms", "node", (), "float", "µB", "magnetic moment of each atom"),
    FieldSpec("node_alpha_spins", "node", (1,), "float", "", "alpha spin population"),
    FieldSpec("node_beta_spins", "node", (1,), "float", "", "beta spin population"),
    FieldSpec("graph_alpha_spins", "system", (1,), "float", "", "alpha spin of the system"),
    # features
    FieldSpec("node_attrs", "node", (None,), "float", "", "input features of each atom"),
    FieldSpec("node_embeddings", "node", (None,), "float", "", "learned features of each atom"),
    FieldSpec("edge_embeddings", "edge", (None,), "float", "", "learned features of each pair"),
    FieldSpec("graph_embeddings", "system", (None,), "float", "", "learned features of each system"),
    # identity and progress
    FieldSpec("system_id", "system", (1,), "integer", "", "identity that survives selection and refill", -1),
    FieldSpec("step", "system", (1,), "integer", "", "lifetime steps of the system", 0),
    FieldSpec("time", "system", (1,), "float", "fs", "lifetime simulated time of the system", 0.0),
    FieldSpec("stage_step", "system", (1,), "integer", "", "steps since the system entered its stage", 0),
    FieldSpec("status", "system", (1,), "integer", "", "stage the system is in", 0),
    FieldSpec("failure_code", "system", (1,), "integer", "", "why the system was set aside; 0 is healthy", 0),
    FieldSpec("failure_step", "system", (1,), "integer", "", "lifetime step of the failure; -1 is none", -1),
    FieldSpec("dof", "system", (1,), "float", "", "degrees of freedom, written by the stage"),
)
"""Every stored field by name, in the order in which batches and files list them."""

STATE_FIELDS: frozenset[str] = frozenset(name for name, row in FIELDS.items() if row.kind == "state")
"""Fields that share the state dtype."""

IDENTITY: tuple[str, ...] = ("system_id", "step", "time", "stage_step", "status", "failure_code", "failure_step")
"""Who a system is and how far it got; every run has these on its batch, and they travel in ``atoms.info``."""

GIVEN: frozenset[str] = frozenset({
    "atomic_numbers", "positions", "atomic_masses", "atom_categories", "tags", "fixed", "cell", "pbc", "charge", "spin",
    "velocities", "momenta", "dof", *IDENTITY,
})  # fmt: skip
"""What a model is given. Networks that hand their input through, wrapped or in single precision, change no state."""

RESULTS: tuple[str, ...] = ("energy", "forces", "stress", "virial", "atomic_energies", "hessian", "dipole")
"""What no structure has of itself. One that is not computed anew belongs to other positions, or to another model."""

PAIR_VIEWS: dict[str, FieldSpec] = _table(
    FieldSpec("neighbor_list", "edge", (2,), "integer", "", "pairs (i, j) as batch-wide atom indices"),
    FieldSpec("neighbor_list_shifts", "edge", (3,), "any", "", "integer cell shift S of each pair"),
    FieldSpec("shifts", "edge", (3,), "float", "Å", "S times cell"),
    FieldSpec("neighbor_matrix", "node", (None,), "integer", "", "neighbours of each atom, padded with N"),
    FieldSpec("neighbor_matrix_shifts", "node", (None, 3), "any", "", "integer cell shift of each entry"),
    FieldSpec("num_neighbors", "node", (), "integer", "", "valid entries of each row"),
)
"""Names that are views of the stored pair list, never stored fields of a batch."""
