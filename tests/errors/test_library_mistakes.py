"""Every usual mistake with structures and batches, one row each: what is done, and what the user reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from athanor.data import AtomicData, Batch
from athanor.data.fields import FIELDS, FieldSpec
from athanor.errors import (
    ArgumentError,
    AthanorError,
    DtypeError,
    InputError,
    MissingFieldError,
    OutOfRangeError,
    ShapeError,
    UnknownFieldError,
)

from .mistakes import Mistake, argon, batch, check, crystal, table

FLAT = torch.tensor([[[6.0, 0, 0], [0, 6.0, 0], [6.0, 6.0, 0]]], dtype=torch.float64)
PERIODIC = torch.tensor([[True, True, True]])
FAR = math.inf


def positions(value: float, atom: int = 2) -> torch.Tensor:
    moved = argon().positions.clone()
    moved[atom, 1] = value
    return moved


def masses(value: float) -> torch.Tensor:
    return torch.tensor([39.9, value, 39.9, 39.9], dtype=torch.float64)


def labelled(**info: Any) -> AtomicData:
    atoms = bulk("Ar", "fcc", a=5.3)
    atoms.info.update(info)
    return AtomicData.from_atoms(atoms)


STRUCTURES = [
    ("symbols", lambda: argon(2, atomic_numbers=["Ar", "Ar"]), DtypeError, r"text \('Ar'\).*from_atoms.*symbols"),
    ("list", lambda: argon(2, atomic_numbers=[18, 18]), DtypeError, r"is a list; pass a torch.Tensor.*int64"),
    ("array", lambda: argon(positions=np.zeros((4, 3))), DtypeError, r"`positions` is a ndarray.*as_tensor"),
    ("no positions", lambda: argon(positions=None), MissingFieldError, "`positions` is None.*one row per atom"),
    ("Z 0", lambda: argon(2, atomic_numbers=torch.tensor([18, 0])), InputError, r"0 at atoms \[1\].*Pass"),
    ("Z < 0", lambda: argon(2, atomic_numbers=torch.tensor([18, -1])), InputError, "holds -1 at atom 1; allowed"),
    ("Z 119", lambda: argon(2, atomic_numbers=torch.tensor([119, 18])), InputError, "holds 119 at atom 0; .*118"),
    ("Z of 0 dimensions", lambda: argon(1, atomic_numbers=torch.tensor(18)), ShapeError, r"\(\); .* needs \(1,\)"),
    ("NaN", lambda: argon(positions=positions(math.nan)), InputError, r"system 0 are not finite: atom 2 \[7.6, nan"),
    ("infinite", lambda: argon(positions=positions(FAR, 0)), InputError, "not finite: atom 0 .*Correct or remove"),
    ("named", lambda: argon(positions=positions(FAR), system_id=torch.tensor([[7]])), InputError, "system_id 7"),
    ("velocity NaN", lambda: argon(velocities=positions(math.nan)), InputError, "`velocities` of system 0 .*atom 2"),
    ("half", lambda: argon(positions=argon().positions.half()), DtypeError, r"float16; .*\.to\(torch.float64\)"),
    ("no atoms", lambda: argon(0), InputError, "System 0 has no atoms. Remove it"),
    ("no cell", lambda: argon(pbc=PERIODIC), InputError, r"`pbc` of system 0 .*no `cell`. Pass `cell`, shape \(1,"),
    ("zero cell", lambda: crystal(0.0), InputError, "volume of 0 Å³.*Give every lattice vector"),
    ("flat cell", lambda: crystal(cell=FLAT), InputError, "spans a volume of"),
    ("infinite cell", lambda: crystal(FAR), InputError, "`cell` of system 0 is not finite"),
    ("cell 3x3", lambda: crystal(cell=FLAT[0]), ShapeError, r"needs \(1, 3, 3\). Pass `cell.unsqueeze\(0\)`"),
    ("pbc of Python", lambda: crystal(pbc=True), DtypeError, "`pbc` is a bool; pass a torch.Tensor.*torch.bool"),
    ("mass 0", lambda: argon(atomic_masses=masses(0.0)), InputError, "is 0 amu at atom 1; a mass is positive"),
    ("mass < 0", lambda: argon(atomic_masses=masses(-1.0)), InputError, "is -1 amu at atom 1.*Leave"),
    ("mass NaN", lambda: argon(atomic_masses=masses(math.nan)), InputError, "is nan amu at atom 1"),
    ("charge 0.5", lambda: argon(charge=torch.tensor([[0.5]])), InputError, "`charge` of system 0 is 0.5; .*whole"),
    ("spin 0", lambda: argon(spin=torch.tensor([[0.0]])), InputError, "`spin` of system 0 is 0; .*multiplicity"),
    ("id 2^32", lambda: argon(system_id=torch.tensor([[2**32]])), InputError, r"4294967296 .*0 to 2\^32 - 1"),
    ("device", lambda: argon(tags=torch.zeros(4, dtype=int, device="meta")), InputError, "`tags` .*on meta.*cpu"),
    ("no device", lambda: argon().to("gpu"), InputError, '`device` is \'gpu\'; use "cpu", "cuda"'),
    ("integer dtype", lambda: argon().to(torch.int64), DtypeError, "`dtype` is torch.int64; pass torch.float64"),
    ("size assigned", lambda: setattr(argon(), "num_atoms", 3), UnknownFieldError, "can not be set"),
    ("removed", lambda: setattr(argon(), "positions", None), InputError, "`positions` can not be removed"),
    ("misspelt", lambda: argon().forcs, UnknownFieldError, "no attribute `forcs`. Did you mean `forces`"),
    ("no JSON", lambda: AtomicData.model_validate_json("Ar"), InputError, "not a structure.*model_dump_json"),
    ("path", lambda: AtomicData.from_atoms("a.xyz"), ArgumentError, r"`atoms` is a str; .*ase.io.read"),
    ("dtype as text", lambda: AtomicData.from_atoms(bulk("Ar"), dtype="float64"), DtypeError, "pass torch.float64"),
    ("pbc, no cell", lambda: AtomicData.from_atoms(Atoms("Ar", pbc=True)), InputError, "undefined .zero.*volume 0"),
    ("stress of 5", lambda: labelled(stress=[0.0] * 5), ShapeError, r"`info\['stress'\]` has shape \(5,\); .*xx, yy"),
    ("two energies", lambda: labelled(energy=[1.0, 2.0]), ShapeError, r"info\['energy'\]` has 2 numbers; .*needs 1"),
    ("text as energy", lambda: labelled(energy="low"), InputError, r"info\['energy'\]` is 'low'; it must hold numbers"),
    ("charge as text", lambda: labelled(charge="+1"), InputError, r"info\['charge'\]` is '\+1'; .*total charge in e"),
    ("id as text", lambda: AtomicData.from_atoms(bulk("Ar"), system_id="a"), InputError, "`system_id` is 'a'"),
    ("ASE as pymatgen", lambda: AtomicData.from_structure(bulk("Ar")), ArgumentError, "pymatgen.*from_atoms"),
]


def other(**fields: Any) -> Batch:
    return Batch.from_data_list([crystal(**fields)])


def with_key(width: int) -> Batch:
    found = batch()
    found.add_key("mark", [torch.zeros(3, width)] * 2)
    return found


def assign(name: str, value: Any) -> None:
    setattr(batch(), name, value)


def wide() -> Batch:
    return batch().to(torch.float32)


BATCHES = [
    ("empty", lambda: Batch.from_data_list([]), InputError, "empty data list. Pass at least one .*`Batch.empty`"),
    ("one structure", lambda: Batch.from_data_list(argon()), ArgumentError, r"AtomicData, not a list.*`\[data\]`"),
    ("atoms", lambda: Batch.from_data_list([bulk("Ar")]), ArgumentError, "Sample 0 is a Atoms; .*from_atoms"),
    ("a batch", lambda: Batch.from_data_list(batch()), ArgumentError, "is a Batch, not a list"),
    ("dtypes", lambda: Batch.from_data_list([argon(), argon().to(torch.float32)]), DtypeError, "sample 1 .*float32"),
    ("devices", lambda: Batch.from_data_list([argon(), argon().to("meta")]), InputError, "sample 1 is on meta; .*cpu"),
    ("dtype", lambda: Batch.from_data_list([argon()], dtype="float64"), DtypeError, "'float64'; pass torch.float64"),
    ("device", lambda: Batch.from_data_list([argon()], device="float64"), InputError, "looks like a dtype"),
    ("level", lambda: Batch.from_data_list([argon()], field_levels={"a": "graph"}), InputError, "level 'graph'"),
    ("excluded", lambda: Batch.from_data_list([argon()], exclude_keys="positions"), InputError, "every system needs"),
    ("unknown name", lambda: assign("force", 1), UnknownFieldError, "`force` is not a field.*`forces`.*add_key"),
    ("size", lambda: assign("num_graphs", 3), UnknownFieldError, "`num_graphs` follows from the structures"),
    ("one cell", lambda: assign("cell", FLAT[0]), ShapeError, r"\(3, 3\); .*\(2, 3, 3\). Pass `cell.expand\(2, 3, 3\)"),
    ("list", lambda: assign("forces", [0.0]), DtypeError, "`forces` is a list; pass a torch.Tensor"),
    ("elsewhere", lambda: assign("forces", torch.zeros(6, 3, device="meta")), InputError, "on meta; the Batch .*cpu"),
    ("other dtype", lambda: assign("forces", torch.zeros(6, 3)), DtypeError, "float32, the state has torch.float64"),
    ("no list", lambda: assign("pair_list", 3), ArgumentError, "`pair_list` is a int.*compute_neighbors"),
    ("pair far", lambda: assign("neighbor_list", torch.tensor([[0, 6]])), InputError, "from 0 to 6; .* 6 atoms"),
    ("pair across", lambda: assign("neighbor_list", torch.tensor([[0, 3]])), InputError, "two systems: pair 0"),
    ("removed", lambda: assign("positions", None), InputError, "`positions` can not be removed"),
    ("not there", lambda: batch().forces, UnknownFieldError, "no `forces` yet; fields present: atom_cat.*run a model"),
    ("key not there", lambda: batch()["forcs"], MissingFieldError, "`forcs` is not in the Batch.*mean `forces`"),
    ("index", lambda: batch()[2], OutOfRangeError, "Index 2 is out of range for a Batch of 2 systems.*by its id"),
    ("indices", lambda: batch().index_select([0, -3]), OutOfRangeError, "Index -3 is out of range"),
    ("float index", lambda: batch().get_data(1.7), OutOfRangeError, "`1.7` is not an index.*whole number"),
    ("mask", lambda: batch()[torch.ones(3, dtype=bool)], OutOfRangeError, "mask has 3 entries; .* 2 systems"),
    ("nothing chosen", lambda: batch()[torch.zeros(2, dtype=bool)], OutOfRangeError, "no system is selected"),
    ("nested", lambda: batch()[[[0, 1], [1]]], OutOfRangeError, "is a flat list"),
    ("append data", lambda: batch().append(argon()), ArgumentError, r"AtomicData was appended; .*append_data\("),
    ("append narrow", lambda: batch().append(wide()), DtypeError, "the appended Batch has dtype torch.float32"),
    ("append meta", lambda: batch().append(batch().to("meta")), InputError, "appended Batch is on meta.*`.to"),
    ("append unlike", lambda: with_key(2).append(with_key(3)), InputError, "`mark` of the appended .*Rename"),
    ("append itself", lambda: (one := batch()).append(one), InputError, "shares storage.*clone"),
    ("key of floats", lambda: batch().add_key("x", [1.0, 2.0], level="system"), ArgumentError, "one tensor per system"),
    ("key of one", lambda: batch().add_key("x", [torch.ones(3)]), InputError, "has 1 tensors; .*2 systems"),
    ("key path", lambda: batch().add_key("../x", [torch.ones(3)] * 2), InputError, "can not name a field"),
    ("no spec", lambda: batch().register_field("x"), ArgumentError, "`spec` is a str; pass `FieldSpec"),
    ("no dump", lambda: Batch.from_dict({}), MissingFieldError, "has no device, keys.*model_dump"),
    ("no template", lambda: Batch.empty(template=3), ArgumentError, "The template is a int"),
    ("bad in batch", lambda: corrupt("positions"), InputError, r"of system_id 5 \(index 1\) are not finite"),
    ("mass in batch", lambda: corrupt("atomic_masses"), InputError, r"of system_id 5 \(index 1\) is nan amu at atom 0"),
]


def corrupt(name: str) -> Batch:
    """A structure that was good at construction and was changed in place, behind the checks."""
    bad = crystal(system_id=torch.tensor([[5]]))
    bad[name][0] = math.nan
    return Batch.from_data_list([crystal(system_id=torch.tensor([[4]])), bad])


@table(STRUCTURES)
def test_mistakes_with_structures(mistake: Mistake) -> None:
    check(mistake)


@table(BATCHES)
def test_mistakes_with_batches(mistake: Mistake) -> None:
    check(mistake)


def test_left_handed_cells_are_cells() -> None:
    cell = 12.0 * torch.eye(3, dtype=torch.float64)[[1, 0, 2]][None]
    assert float(torch.linalg.det(cell)) < 0
    assert float(other(cell=cell).volume) == pytest.approx(12.0**3)


def test_a_cell_without_pbc_and_a_misspelt_label_are_told() -> None:
    with pytest.warns(UserWarning, match="`cell` is given without `pbc`: .*not periodic"):
        argon(cell=FLAT)
    with pytest.warns(UserWarning, match="`velocity` is not a known field.*Did you mean `velocities`"):
        argon(velocity=torch.zeros(4, 3))


# every field of the table: a wrong number of rows, a wrong trailing shape and wrong dtypes
PAIRS = torch.tensor([[0, 1], [1, 0]])
ROWS = {"node": 3, "edge": 2, "system": 1}
WRONG_DTYPES = {
    "state": (torch.int64, torch.float16, torch.bool),
    "float": (torch.int64, torch.complex64),
    "integer": (torch.float32, torch.bool),
    "boolean": (torch.int64, torch.float32),
}
WRONG = [
    *((spec, fault) for spec in FIELDS.values() for fault in ("a row more", "a dimension more")),
    *((spec, dtype) for spec in FIELDS.values() for dtype in WRONG_DTYPES[spec.kind]),
]


def base() -> AtomicData:
    return crystal(neighbor_list=PAIRS)


def right(spec: FieldSpec, rows: int) -> torch.Tensor:
    dtype = {"integer": torch.int64, "boolean": torch.bool}.get(spec.kind, torch.float64)
    return torch.ones((rows, *(size or 4 for size in spec.shape)), dtype=dtype)


def wrong(spec: FieldSpec, rows: int, fault: Any) -> torch.Tensor:
    if fault == "a row more":
        return right(spec, rows + 1)
    return right(spec, rows)[..., None] if fault == "a dimension more" else right(spec, rows).to(fault)


@pytest.mark.parametrize(("spec", "fault"), WRONG, ids=lambda value: getattr(value, "name", str(value)))
def test_every_field_refuses_a_wrong_shape_and_dtype(spec: FieldSpec, fault: Any) -> None:
    error = ShapeError if isinstance(fault, str) else DtypeError
    name, rows = spec.name, ROWS[spec.level]
    with pytest.raises(error, match=f"`{name}`"):
        crystal(neighbor_list=PAIRS, **{name: wrong(spec, rows, fault)})
    joined = Batch.from_data_list([base(), base()])
    for owner, count in ((base(), rows), (joined, 2 * rows)):
        setattr(owner, name, right(spec, count))
        before = owner.get(name)
        with pytest.raises(error, match=f"`{name}`") as caught:
            setattr(owner, name, wrong(spec, count, fault))
        assert isinstance(caught.value, AthanorError)
        assert owner.get(name) is before
