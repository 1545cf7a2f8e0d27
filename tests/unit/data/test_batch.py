"""Batch: routing, refusals, mixed batches, indices, freshness of results, and what copies carry."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.data.fields import FIELDS, FieldSpec
from athanor.errors import DtypeError, InputError, MissingFieldError, ShapeError, UnknownFieldError


def crystal(atoms: int = 2, **fields: Any) -> AtomicData:
    return AtomicData(
        atomic_numbers=torch.full((atoms,), 14),
        positions=torch.rand(atoms, 3),
        cell=5 * torch.eye(3)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
        **fields,
    )


def molecule(atoms: int = 3, **fields: Any) -> AtomicData:
    return AtomicData(atomic_numbers=torch.ones(atoms, dtype=torch.int64), positions=torch.rand(atoms, 3), **fields)


@pytest.fixture
def batch() -> Batch:
    return Batch.from_data_list([crystal(2), crystal(3), crystal(1)])


def test_sizes(batch: Batch) -> None:
    assert (len(batch), batch.num_graphs, batch.batch_size, batch.num_systems) == (3, 3, 3, 3)
    assert (batch.num_nodes, batch.num_atoms, batch.max_num_nodes, batch.num_edges) == (6, 6, 3, 0)
    assert batch.batch_idx.tolist() == [0, 0, 1, 1, 1, 2]
    assert batch.batch_ptr.tolist() == [0, 2, 5, 6]
    assert (batch.batch_idx.dtype, batch.batch_ptr.dtype) == (torch.int64, torch.int32)
    assert batch.num_nodes_per_graph.tolist() == batch.num_nodes_list == [2, 3, 1]
    assert batch.num_edges_list == []
    assert batch.edge_ptr.tolist() == [0] * 7
    assert batch.volume.tolist() == pytest.approx([125.0] * 3)
    assert batch.has_cell.all()
    assert repr(batch) == "Batch(num_graphs=3, num_nodes=6, num_edges=0, device=cpu, systems=[Si2, Si3, Si])"
    assert repr(Batch.from_data_list([molecule(2)] * 6)).endswith("systems=[H2, H2, H2, H2, ...])")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_table_field_goes_to_its_level_even_with_one_atom_each(name: str) -> None:
    batch = Batch.from_data_list([crystal(1), crystal(1)])
    spec = FIELDS[name]
    if spec.level == "edge":
        batch.neighbor_list = torch.zeros((0, 2), dtype=torch.int64)
    rows = {"node": 2, "edge": 0, "system": 2}[spec.level]
    dtype = {"integer": torch.int64, "boolean": torch.bool}.get(spec.kind, torch.float32)
    value = torch.ones((rows, *(4 if size is None else size for size in spec.shape)), dtype=dtype)
    setattr(batch, name, value)
    assert getattr(batch, name) is value
    assert [level for level, names in batch.keys.items() if name in names] == [spec.level]
    assert batch.index_select([1])[name].shape[0] == rows // 2


def test_unknown_name_is_refused_and_names_add_key(batch: Batch) -> None:
    with pytest.raises(UnknownFieldError, match=r"`colour` is not a field.*add_key"):
        batch.colour = torch.zeros(4)
    with pytest.raises(AttributeError, match="has no attribute `colour`"):
        batch.colour
    with pytest.raises(AttributeError, match="`num_nodes` follows from"):
        batch.num_nodes = torch.zeros(3)
    with pytest.raises(MissingFieldError, match="`dipole` is not in the Batch; fields present: atom_categories"):
        batch["dipole"]
    assert not hasattr(batch, "dipole")
    assert batch.get("dipole", 5) == 5
    assert getattr(batch, "neighbor_list", None) is None
    assert batch.pair_list is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("positions", torch.zeros(6, 7), r"`positions` has shape \(6, 7\); a Batch of 3 systems needs \(6, 3\)"),
        ("positions", torch.zeros(6, 3).double(), "the state has torch.float32.*dtype=torch.float64"),
        ("cell", torch.eye(3), r"needs \(3, 3, 3\).*expand"),
        ("pbc", torch.ones(3, 3), "boolean"),
        ("energy", torch.zeros(2), r"needs \(3, 1\)"),
        ("energy", 5.0, "`energy` is a float; pass a torch.Tensor"),
        ("edge_embeddings", torch.zeros(4, 2), r"needs \(0, \*\)"),
    ],
)
def test_refused_assignment_changes_nothing(batch: Batch, name: str, value: Any, words: str) -> None:
    before, version = batch.get(name), batch.version
    with pytest.raises(InputError, match=words):
        setattr(batch, name, value)
    assert batch.get(name) is before
    assert batch.version == version


def test_one_number_for_each_system_is_a_column(batch: Batch) -> None:
    batch.energy = torch.tensor([1.0, 2.0, 3.0])
    assert batch.energy.tolist() == [[1.0], [2.0], [3.0]]
    data = molecule(charge=torch.tensor([1.0]))
    assert data.charge.shape == (1, 1)
    data.energy = torch.tensor([2.0])
    assert data.energy.shape == (1, 1)
    raw = {"positions": torch.zeros(2, 3), "energy": torch.tensor([1.0])}
    assert Batch.from_raw_dicts([raw, raw]).energy.shape == (2, 1)


def test_a_new_name_declares_itself_by_its_first_size(batch: Batch) -> None:
    batch.msd = torch.zeros(6, 3)
    batch["fmax"] = torch.arange(3)
    assert batch.field_spec("msd") == FieldSpec("msd", "node", (3,), "float")
    assert batch.field_spec("fmax") == FieldSpec("fmax", "system", (), "integer")
    assert batch[1].fmax.tolist() == [1]
    assert batch[[0, 2]].fmax.tolist() == [0, 2]
    for slip in ("enrgy", "frces", "pcb", "neighbour_list", "fmaxx"):
        with pytest.raises(UnknownFieldError, match=f"`{slip}` is not a field of a Batch"):
            setattr(batch, slip, torch.zeros(3))
    for number in ("x", "y", "h1", "h2", "charge2"):  # things that are numbered, or have short names, are no slips
        setattr(batch, number, torch.zeros(3))
    single = Batch.from_data_list([crystal(1), crystal(1)])
    with pytest.raises(InputError, match=r"`msd` has 2 rows, which may be one per atom or one per system.*add_key"):
        single.msd = torch.zeros(2)
    with pytest.raises(UnknownFieldError, match="Did you mean `energy`"):
        single.enrgy = torch.zeros(2)
    with pytest.raises(InputError, match="can not name a field"):
        batch._private = torch.zeros(3)


def test_assignment_keeps_the_graph(batch: Batch) -> None:
    def energy_of(positions: torch.Tensor) -> torch.Tensor:
        batch.positions = positions
        return (batch.positions**2).sum()

    hessian = torch.autograd.functional.hessian(energy_of, batch.positions.detach())
    assert torch.equal(hessian.reshape(18, 18), 2 * torch.eye(18))
    leaf = torch.rand(6, 3, requires_grad=True)
    batch.positions = leaf
    assert batch.positions is leaf
    batch[[0]].positions.sum().backward()
    assert float(leaf.grad.sum()) == 6.0


def test_empty_list_and_wrong_items() -> None:
    with pytest.raises(InputError, match="Cannot create batch from empty data list"):
        Batch.from_data_list([])
    with pytest.raises(InputError, match="Sample 1 is a int"):
        Batch.from_data_list([crystal(), 3])


def test_values_are_checked_for_all_systems_at_once() -> None:
    items = [crystal(2, system_id=torch.tensor([[40 + k]])) for k in range(3)]
    items[1].positions[1, 2] = torch.nan
    with pytest.raises(InputError, match=r"`positions` of system_id 41 \(index 1\) are not finite: atom 1 \[.*nan\]"):
        Batch.from_data_list(items)
    assert len(Batch.from_data_list(items, skip_validation=True)) == 3
    items[1].positions[1, 2] = 0.0
    items[2].cell[0, 2] = items[2].cell[0, 1]
    with pytest.raises(InputError, match=r"`cell` of system_id 42 \(index 2\).*volume of 0 Å³"):
        Batch.from_data_list(items)


def test_molecule_beside_a_crystal() -> None:
    batch = Batch.from_data_list([crystal(2), molecule(3)])
    assert batch.has_cell.tolist() == [True, False]
    assert not batch.cell[1].any()
    assert batch.pbc.tolist() == [[True] * 3, [False] * 3]
    assert batch.volume.tolist() == pytest.approx([125.0, 0.0])


def test_label_of_some_systems_is_nan_in_the_others() -> None:
    batch = Batch.from_data_list([crystal(2, energy=torch.ones(1, 1)), crystal(1), crystal(1)])
    assert list(batch.field_names("system")) == ["cell", "pbc", "energy", "velocities_present"]
    assert batch.energy.isnan().flatten().tolist() == [False, True, True]
    assert batch.to_data_list()[1].energy is None
    batch.append(Batch.from_data_list([crystal(1, energy=torch.zeros(1, 1))]))
    assert batch.energy.isnan().flatten().tolist() == [False, True, True, False]
    assert [data.energy is None for data in batch.to_data_list()] == [False, True, True, False]
    assert [batch.get_data(k).energy is None for k in range(4)] == [False, True, True, False]
    again = Batch.from_data_list(batch.to_data_list())
    assert torch.equal(again.energy.nan_to_num(7.0), batch.energy.nan_to_num(7.0))
    assert "energy" not in Batch.from_data_list([batch.get_data(1), batch.get_data(2)])
    assert Batch.from_data_list([molecule(tags=torch.arange(3)), molecule()]).tags.tolist() == [0, 1, 2, 0, 0, 0]


def test_results_written_in_place_become_known() -> None:
    labelled = crystal(2, energy=torch.ones(1, 1), forces=torch.ones(2, 3))
    batch = Batch.from_data_list([labelled, crystal(1), crystal(1)])
    batch.energy[1] = 5.0
    batch.forces[2] = 5.0
    energies = [data.energy for data in batch.to_data_list()]
    assert [None if energy is None else float(energy) for energy in energies] == [1.0, 5.0, None]
    assert [data.forces is None for data in batch.to_data_list()] == [False, False, True]
    assert batch.to_atoms()[2].calc is None


def test_nan_in_some_rows_stays() -> None:
    forces = torch.ones(2, 3)
    forces[1, 2] = torch.nan
    batch = Batch.from_data_list([crystal(2, forces=forces, tags=torch.zeros(2, dtype=torch.int64))])
    assert torch.equal(batch.get_data(0).forces.isnan(), forces.isnan())
    batch.velocities = torch.full((2, 3), torch.nan)  # a field with a default is never absent
    assert batch.get_data(0).velocities is not None


def test_mixture_without_default_is_refused() -> None:
    item = molecule()
    item.add_node_property("site", torch.arange(3))
    with pytest.raises(MissingFieldError, match=r"`site` is missing from sample 1.*exclude_keys"):
        Batch.from_data_list([item, molecule()])
    assert "site" not in Batch.from_data_list([item, molecule()], exclude_keys=["site"])
    half = molecule()
    half.cell = torch.eye(3)[None]
    with pytest.raises(MissingFieldError, match="sample 1 has a `cell` but no `pbc`"):
        Batch.from_data_list([crystal(), half])


def test_disagreeing_samples_are_named() -> None:
    wide = molecule().to(torch.float64)
    with pytest.raises(DtypeError, match=r"`positions` of sample 1 has dtype torch.float64.*dtype=torch.float64"):
        Batch.from_data_list([molecule(), wide])
    assert Batch.from_data_list([molecule(), wide], dtype=torch.float64).dtype == torch.float64
    with pytest.raises(DtypeError, match=r"the appended Batch has dtype torch.float64"):
        Batch.from_data_list([molecule()]).append(Batch.from_data_list([wide]))
    narrow = molecule(node_attrs=torch.zeros(3, 2))
    with pytest.raises(ShapeError, match=r"`node_attrs` of sample 1 has trailing shape \(4,\); sample 0 has \(2,\)"):
        Batch.from_data_list([narrow, molecule(node_attrs=torch.zeros(3, 4))])
    one, two = molecule(), molecule()
    one.add_node_property("mark", torch.zeros(3))
    two.add_system_property("mark", torch.zeros(1))
    with pytest.raises(InputError, match="`mark` of sample 1 is a system-level"):
        Batch.from_data_list([one, two])


def test_integer_widths_may_differ() -> None:
    narrow = molecule()
    narrow.atomic_numbers = narrow.atomic_numbers.int()
    assert Batch.from_data_list([narrow, molecule()]).atomic_numbers.dtype == torch.int64


def test_labels_by_level_and_raw_dicts() -> None:
    with pytest.warns(UserWarning, match="not a known field"):
        items = [molecule(colour=torch.ones(3)), molecule(colour=torch.zeros(3))]
    assert "colour" not in Batch.from_data_list(items)
    assert Batch.from_data_list(items, field_levels={"colour": "atom"}).keys["node"] >= {"colour"}
    with pytest.raises(InputError, match="level 'bond'"):
        Batch.from_data_list(items, field_levels={"colour": "bond"})
    raw = [{**item.to_dict(), "weight": torch.ones(1)} for item in items]
    batch = Batch.from_raw_dicts(raw)
    assert "weight" in batch.keys["system"]
    assert torch.equal(batch.positions, Batch.from_data_list(items).positions)
    with pytest.raises(ShapeError, match="sample 1"):
        Batch.from_raw_dicts([raw[0], {**raw[1], "forces": torch.zeros(2, 3)}])
    with pytest.raises(MissingFieldError, match="`positions` is missing from sample 0"):
        Batch.from_raw_dicts([{"forces": torch.zeros(2, 3)}])


def test_add_key(batch: Batch) -> None:
    batch.add_key("colour", [torch.ones(n, 2) for n in batch.num_nodes_list])
    batch.add_key("weight", [torch.ones(1, 4)] * 3, level="system")
    assert batch.colour.shape == (6, 2)
    assert batch.weight.shape == (3, 4)
    assert batch.get_data(1).weight.shape == (1, 4)
    with pytest.raises(ValueError, match="'colour' already exists"):
        batch.add_key("colour", [torch.ones(n, 2) for n in batch.num_nodes_list])
    with pytest.raises(ValueError, match="2 tensors; the Batch has 3 systems"):
        batch.add_key("more", [torch.ones(2)] * 2)
    with pytest.raises(ValueError, match="Group 'edges' not found"):
        batch.add_key("more", [torch.ones(2)] * 3, level="edge")
    with pytest.raises(ValueError, match="level 'graph'"):
        batch.add_key("more", [torch.ones(2)] * 3, level="graph")
    with pytest.raises(ShapeError, match="`more` of system 1 has shape"):
        batch.add_key("more", [torch.ones(2)] * 3)
    with pytest.raises(InputError, match="can not name a field"):
        batch.add_key("num_nodes", [torch.ones(n) for n in batch.num_nodes_list])
    assert "more" not in batch
    batch.add_key("colour", [torch.ones(n, 3) for n in batch.num_nodes_list], overwrite=True)
    assert batch.colour.shape == (6, 3)
    with pytest.raises(InputError, match="`forces` is a node-level field"):
        batch.add_key("forces", [torch.ones(1, 3)] * 3, level="system")


def test_register_and_ensure(batch: Batch) -> None:
    batch.register_field(FieldSpec("mark", "system", (2,), "float"))
    batch.mark = torch.ones(3, 2)
    assert batch.field_spec("mark").level == "system"
    with pytest.raises(InputError, match="`forces` is taken"):
        batch.register_field(FieldSpec("forces", "node"))
    assert batch.ensure_field("forces").shape == (6, 3)
    assert batch.ensure_field("system_id").flatten().tolist() == [-1, -1, -1]
    assert batch.ensure_field("time").dtype == torch.float64
    del batch.atomic_masses
    assert float(batch.ensure_field("atomic_masses")[0]) == pytest.approx(28.085)
    del batch["mark"]
    assert "mark" not in batch
    with pytest.raises(KeyError, match="`mark` is not in the Batch"):
        del batch["mark"]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(0, 2), [0, 1]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0, 2], [2, 0, 2]),
        ([True, False, True], [0, 2]),
        (torch.tensor([1, -3]), [1, 0]),
        (torch.tensor([False, True, True]), [1, 2]),
        (torch.tensor(2), [2]),
        (np.array([2, 1], dtype=np.int32), [2, 1]),
        (np.array([True, False, False]), [0]),
        ((0, 1), [0, 1]),
        (range(1, 3), [1, 2]),
    ],
)
def test_index_select(batch: Batch, index: Any, expected: list[int]) -> None:
    part = batch.index_select(index)
    assert part.num_nodes_list == [batch.num_nodes_list[i] for i in expected]
    assert torch.equal(part.positions, torch.cat([batch[i].positions for i in expected]))
    assert part.positions.data_ptr() != batch.positions.data_ptr()


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (3, "Index 3 is out of range for a Batch of 3"),
        ([0, -4], "Index -4 is out of range"),
        (torch.tensor([0.0]), "must be integer or bool"),
        ([0.5], "must be integer or bool"),
        ([], "Index is empty"),
        (torch.zeros(3, dtype=torch.bool), "Index is empty"),
        (slice(2, 1), "Index is empty"),
        (torch.ones(2, dtype=torch.bool), "mask has 2 entries; the Batch has 3"),
        (torch.zeros(1, 1, dtype=torch.int64), "one dimension"),
        ({0}, "Unsupported index type: set"),
        (None, "Unsupported index type: NoneType"),
    ],
)
def test_wrong_index(batch: Batch, index: Any, words: str) -> None:
    with pytest.raises(IndexError, match=words):
        batch.index_select(index)
    with pytest.raises(IndexError, match="out of range"):
        batch.get_data(-4)


def test_get_data_is_a_view_and_keeps_the_class() -> None:
    class Labelled(AtomicData):
        pass

    item = Labelled(atomic_numbers=torch.tensor([1]), positions=torch.zeros(1, 3))
    batch = Batch.from_data_list([item, item])
    assert type(batch[1]) is Labelled
    batch[1].positions += 1
    assert batch.positions.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert type(batch.clone()[[0]][0]) is Labelled


def test_append_refuses_shared_storage_and_bumps_the_version(batch: Batch) -> None:
    with pytest.raises(ValueError, match="shares storage"):
        batch.append(batch)
    with pytest.raises(ValueError, match="No data provided"):
        batch.append_data([])
    version = batch.version
    batch.append_data([molecule(2)])
    assert batch.version > version
    assert batch.num_nodes_list == [2, 3, 1, 2]


def test_copies_are_whole(batch: Batch) -> None:
    batch.add_key("colour", [torch.ones(n, 2) for n in batch.num_nodes_list])
    batch.system_id = torch.tensor([[3], [4], [5]])
    for twin in (
        batch.clone(),
        copy.deepcopy(batch),
        pickle.loads(pickle.dumps(batch)),
        batch.to("cpu"),
        batch[[0, 1, 2]],
    ):
        assert twin.field_spec("colour").level == "node"
        assert twin.keys == batch.keys
        assert all(torch.equal(twin[name], tensor) for name, tensor in batch)
        assert twin.to_data_list() == batch.to_data_list()
    assert batch.to(torch.float64).dtype == torch.float64
    assert batch.to(torch.float64).system_id.dtype == torch.int64
    dumped = batch.model_dump()
    assert dumped["num_nodes_list"] == [2, 3, 1]
    assert Batch.from_dict(dumped).to_data_list() == batch.to_data_list()


def test_empty_batches(batch: Batch) -> None:
    for empty in (
        Batch.empty(template=batch),
        Batch.empty_like(batch),
        Batch.empty(num_systems=4, num_nodes=9, num_edges=0),
    ):
        assert (empty.num_graphs, empty.num_nodes, empty.num_edges) == (0, 0, 0)
        empty.append(batch)
        assert empty.num_nodes_list == [2, 3, 1]
        assert torch.equal(empty.positions, batch.positions)
    with pytest.raises(ValueError, match="negative"):
        Batch.empty(num_systems=-1)


def test_what_a_shallow_copy_is_given_does_not_reach_the_original(batch: Batch) -> None:
    model, before = torch.nn.Linear(1, 1), batch.positions
    batch.mark_results_fresh(model, ["forces"])
    twin = copy.copy(batch)
    assert twin.positions is before
    assert twin.results_fresh(model, ["forces"])
    twin.positions = before + 1.0
    twin.dipole = torch.zeros(len(batch), 3)
    assert batch.positions is before
    assert "dipole" not in batch


def test_results_are_fresh_until_something_moves(batch: Batch) -> None:
    model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def stamped() -> Batch:
        fresh = batch.clone()
        fresh.ensure_field("charge")
        fresh.mark_results_fresh(model, ["energy", "forces"])
        return fresh

    assert stamped().results_fresh(model, ["forces"])
    assert not stamped().results_fresh(model, ["stress"])
    assert not stamped().results_fresh(other, ["forces"])
    changes = {
        "assignment": lambda b: setattr(b, "positions", b.positions.clone()),
        "user edit": lambda b: b.positions[0].add_(1),
        "cell edit": lambda b: b.cell.mul_(1.01),
        "pbc edit": lambda b: b.pbc.logical_not_(),
        "charge edit": lambda b: b.charge.add_(1),
        "element edit": lambda b: b.atomic_numbers[0].add_(1),
        "kernel": lambda b: b.touch(),
        "append": lambda b: b.append_data([crystal(1)]),
        "delete": lambda b: b.__delattr__("atom_categories"),
    }
    for name, change in changes.items():
        fresh = stamped()
        change(fresh)
        assert not fresh.results_fresh(model, ["forces"]), name
    carried = {"clone": stamped().clone(), "select": stamped()[[1, 0]], "to": stamped().to("cpu")}
    for name, fresh in carried.items():
        assert fresh.results_fresh(model, ["forces"]), name
    both = stamped()
    both.append(stamped())
    assert both.results_fresh(model, ["forces"])
    assert not stamped().to(torch.float64).results_fresh(model, ["forces"])
    assert not pickle.loads(pickle.dumps(stamped())).results_fresh(model, ["forces"])


def test_wrapping_keeps_results_fresh_and_does_not_make_them_fresh(batch: Batch) -> None:
    model = torch.nn.Linear(1, 1)
    batch.mark_results_fresh(model, ["forces"])
    with batch.keeping_results_fresh():
        batch.positions.add_(5.0)
        batch.touch()
    assert batch.results_fresh(model, ["forces"])
    batch.touch()
    with batch.keeping_results_fresh():
        batch.positions.add_(5.0)
    assert not batch.results_fresh(model, ["forces"])


def test_stamp_does_not_keep_the_model_alive(batch: Batch) -> None:
    import weakref

    model = torch.nn.Linear(1, 1)
    alive = weakref.ref(model)
    batch.mark_results_fresh(model, ["forces"])
    del model
    assert alive() is None
    assert not batch.results_fresh(None, ["stress"])


def test_which_labels_are_absent_follows_every_change(batch: Batch) -> None:
    nan = float("nan")
    batch.energy = torch.zeros((len(batch), 1), dtype=batch.dtype)
    batch.forces = torch.zeros_like(batch.positions)
    assert {"energy", "forces"} <= dict(batch.get_data(1)).keys()
    batch.energy[1] = nan  # torch sees it
    assert "energy" not in batch.get_data(1)
    assert "energy" in batch.get_data(0)
    batch.forces.numpy()[int(batch.batch_ptr[1]) : int(batch.batch_ptr[2])] = nan  # torch does not
    batch.touch()
    assert "forces" not in batch.get_data(1)
    batch.forces[int(batch.batch_ptr[1])] = 0.0  # a label with one value is there
    assert "forces" in batch.get_data(1)
    assert "energy" not in batch.clone().get_data(1)
    batch.remove_systems([0])
    assert "energy" not in batch.get_data(0)
    with torch.inference_mode():
        batch.energy = torch.zeros((len(batch), 1), dtype=batch.dtype)
        assert "energy" in batch.get_data(0)
        batch.energy[0] = nan  # nobody counts changes of such tensors
        assert "energy" not in batch.get_data(0)
