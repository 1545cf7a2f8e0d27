"""AtomicData: what construction refuses, what assignment keeps, and that copies and text hold everything."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch

from athanor._typing import AtomCategory
from athanor.data import AtomicData
from athanor.data.atomic_data import AtomicNumberTable, atomic_numbers_to_indices, to_one_hot, voigt_to_matrix
from athanor.errors import DtypeError, InputError, MissingFieldError, ShapeError


def water(**fields: Any) -> AtomicData:
    return AtomicData(atomic_numbers=torch.tensor([8, 1, 1]), positions=torch.eye(3), **fields)


CUBE = {"cell": 5 * torch.eye(3)[None], "pbc": torch.ones(1, 3, dtype=torch.bool)}


def test_defaults() -> None:
    data = water()
    assert torch.equal(data.atomic_masses, torch.tensor([15.999, 1.008, 1.008]))
    assert not data.velocities.any()
    assert data.atom_categories.dtype == torch.int64
    assert data.energy is None
    assert data.neighbor_list is None
    assert (data.num_nodes, data.num_edges, data.dtype) == (3, 0, torch.float32)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"positions": torch.zeros(2, 3)}, ShapeError, "Inconsistent number of atoms in positions"),
        ({"forces": torch.zeros(2, 3)}, ShapeError, "Inconsistent number of atoms in forces.*2 rows.*3"),
        ({"positions": torch.zeros(3, 2)}, ShapeError, r"`positions` has shape \(3, 2\).*\(3, 3\)"),
        ({"cell": torch.eye(3)}, ShapeError, r"`cell` has shape \(3, 3\).*\(1, 3, 3\)"),
        ({"energy": torch.zeros(3, 1)}, ShapeError, r"`energy` has shape \(3, 1\)"),
        ({"pbc": torch.ones(1, 3, dtype=torch.int64)}, DtypeError, "`pbc` has dtype torch.int64.*boolean"),
        ({"atomic_numbers": torch.tensor([8.0, 1, 1])}, DtypeError, "`atomic_numbers`.*integer"),
        ({"forces": [[0, 0, 0]] * 3}, DtypeError, "`forces` is a list; pass a torch.Tensor"),
        ({"atomic_numbers": torch.tensor([8, 1, 119])}, InputError, "119 at atom 2.*0 to 118"),
        ({"atomic_numbers": torch.tensor([8, -1, 1])}, InputError, "-1 at atom 1"),
        ({"atomic_numbers": torch.tensor([8, 0, 1])}, InputError, r"0 at atoms \[1\].*Pass `atomic_masses`"),
        ({"positions": torch.full((3, 3), torch.nan)}, InputError, "`positions` of system 0 are not finite: atom 0"),
        ({"cell": torch.full((1, 3, 3), torch.inf)}, InputError, "`cell` of system 0 is not finite"),
        ({"cell": torch.ones(1, 3, 3), "pbc": CUBE["pbc"]}, InputError, "volume of .* Å³"),
        ({"pbc": CUBE["pbc"]}, InputError, "there is no `cell`"),
        ({"system_id": torch.tensor([[2**32]])}, InputError, "`system_id` 4294967296"),
        ({"system_id": torch.tensor([[-2]])}, InputError, "`system_id` -2"),
        ({"atom_categories": [0, 1, 2]}, InputError, "AtomCategory"),
        (
            {"neighbor_list": torch.zeros(4, 2, dtype=torch.int64), "shifts": torch.zeros(3, 3)},
            ShapeError,
            "Inconsistent number of edges in shifts",
        ),
    ],
)
def test_construction_refuses(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    given = {"atomic_numbers": torch.tensor([8, 1, 1]), "positions": torch.eye(3), **fields}
    with pytest.raises(error, match=words) as caught:
        AtomicData(**given)
    assert isinstance(caught.value, ValueError)


def test_no_atoms_are_refused() -> None:
    with pytest.raises(InputError, match="has no atoms"):
        AtomicData(atomic_numbers=torch.zeros(0, dtype=torch.int64), positions=torch.zeros(0, 3))


def test_left_handed_cell_and_dummy_atom_with_mass_are_fine() -> None:
    cell = torch.tensor([[[0.0, 5, 0], [5, 0, 0], [0, 0, 5]]])
    assert torch.linalg.det(water(cell=cell, pbc=CUBE["pbc"]).cell) < 0
    AtomicData(
        atomic_numbers=torch.zeros(1, dtype=torch.int64), positions=torch.zeros(1, 3), atomic_masses=torch.ones(1)
    )


def test_state_is_cast_with_one_warning_and_labels_keep_their_dtype() -> None:
    fields = {
        "forces": torch.zeros(3, 3).double(),
        "energy": torch.zeros(1, 1).double(),
        "charges": torch.zeros(3).double(),
    }
    with pytest.warns(UserWarning, match=r"\['energy', 'forces'\] were cast to torch.float32") as caught:
        data = water(**fields)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert water.__code__.co_firstlineno < caught[0].lineno < water.__code__.co_firstlineno + 9  # not its caller
    assert data.forces.dtype == torch.float32
    assert data.charges.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("positions", torch.zeros(2, 3), "Inconsistent number of atoms"),
        ("positions", torch.zeros(3, 3).double(), "the state has torch.float32"),
        ("forces", torch.zeros(3, 4), "`forces` has shape"),
        ("pbc", torch.zeros(1, 3), "`pbc` has dtype"),
    ],
)
def test_refused_assignment_keeps_the_old_value(name: str, value: torch.Tensor, words: str) -> None:
    data = water(**CUBE)
    before = data[name]
    with pytest.raises(InputError, match=words):
        setattr(data, name, value)
    assert data[name] is before


def test_assignment_keeps_tensor_and_graph() -> None:
    data = water()
    positions = (2 * torch.ones(3, 3, requires_grad=True)).sin()
    data.positions = positions
    assert data.positions is positions
    assert data.positions.grad_fn is not None
    data.node_embeddings = torch.zeros(3, 7)
    data.graph_embeddings = torch.zeros(1, 7)
    data.energy = torch.zeros(1, 1)
    data.energy = None
    assert "energy" not in data


def test_unregistered_label_warns_once_and_registering_batches_it() -> None:
    with pytest.warns(UserWarning, match=r"`my_label` is not a known field.*add_system_property") as caught:
        data = water(my_label=torch.ones(1, 2))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert data.my_label.shape == (1, 2)
    assert "my_label" not in data.system_properties
    data.add_system_property("my_label", data.my_label)
    data.add_node_property("colour", torch.zeros(3, dtype=torch.int64))
    assert set(data.system_properties) == {"my_label", "velocities_present"}
    assert "colour" in data.__node_keys__
    assert "colour" not in water().__node_keys__
    for twin in (
        data.clone(),
        copy.deepcopy(data),
        copy.copy(data),
        pickle.loads(pickle.dumps(data)),
        data.model_copy(),
    ):
        assert twin == data
        assert "colour" in twin.__node_keys__


def test_property_refuses_wrong_level_shape_and_name() -> None:
    data = water()
    with pytest.raises(InputError, match="`forces` is a node-level field"):
        data.add_system_property("forces", torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="Inconsistent number of atoms in colour"):
        data.add_node_property("colour", torch.zeros(2))
    with pytest.raises(ShapeError, match="no rows dimension"):
        data.add_system_property("level", torch.tensor(1.0))
    with pytest.raises(InputError, match="can not name a field"):
        data.add_system_property("num_nodes", torch.zeros(1))
    with pytest.raises(AttributeError, match="has no attribute `nonsense`"):
        data.nonsense
    with pytest.raises(MissingFieldError, match="nonsense"):
        data["nonsense"]


def test_to_converts_floats_but_not_time() -> None:
    data = water(time=torch.zeros(1, 1, dtype=torch.float32), charges=torch.zeros(3))
    wide = data.to("cpu", torch.float64)
    assert wide.positions.dtype == wide.charges.dtype == torch.float64
    assert wide.time.dtype == torch.float32
    assert wide.atomic_numbers.dtype == torch.int64
    assert data.to("cpu").positions is data.positions
    with pytest.raises(DtypeError, match=r"torch\.int32; pass torch\.float64 or"):
        data.to(dtype=torch.int32)


def test_in_place_helpers_act() -> None:
    data = water(forces=torch.zeros(3, 3))
    assert data.apply(lambda t: t + 1, "forces") is data
    assert float(data.forces.sum()) == 9.0
    data.positions = torch.eye(3).t()[:, [2, 1, 0]].t()
    assert not data.positions.is_contiguous()
    assert data.contiguous().positions.is_contiguous()
    assert data.to_namedtuple().forces is data.forces
    assert AtomicData.from_dict(data.to_dict()) == data


def test_hash_does_not_depend_on_order_and_equality_sees_labels() -> None:
    first = AtomicData(atomic_numbers=torch.tensor([1, 1, 8]), positions=torch.eye(3))
    second = AtomicData(atomic_numbers=torch.tensor([1, 8, 1]), positions=torch.eye(3)[[1, 2, 0]])
    assert first.chemical_hash == second.chemical_hash
    assert len(first.chemical_hash) == 64
    assert first.chemical_hash != water(**CUBE).chemical_hash
    assert first != second
    labelled = first.clone()
    labelled.energy = torch.full((1, 1), torch.nan)
    assert labelled != first
    assert labelled == labelled.clone()
    assert hash(first) == hash(first.clone())
    assert first != "water"


def test_json_round_trip() -> None:
    data = water(**CUBE, energy=torch.tensor([[1.5]]), info={"weights": torch.tensor([1, 2])})
    data.add_node_property("colour", torch.randn(3, 2).double())
    back = AtomicData.model_validate_json(data.model_dump_json())
    assert back == data
    assert torch.equal(back.info["weights"], torch.tensor([1, 2]))
    assert data.model_dump()["dipole"] is None
    assert "dipole" not in data.model_dump(exclude_none=True)


def test_categories_from_a_list() -> None:
    data = water(atom_categories=[AtomCategory.GAS, AtomCategory.SPECIAL, AtomCategory.BULK])
    assert data.atom_categories.tolist() == [0, -1, 5]


def test_element_tables() -> None:
    table = AtomicNumberTable([1, 8])
    assert (len(table), table.index_to_z(1), table.z_to_index(8)) == (2, 8, 1)
    with pytest.raises(ValueError, match="26 is not in the table"):
        table.z_to_index(26)
    indices = torch.from_numpy(atomic_numbers_to_indices([8, 1], table))
    assert to_one_hot(indices.unsqueeze(-1), 2).tolist() == [[0, 1], [1, 0]]
    voigt = torch.arange(6.0)
    assert voigt_to_matrix(voigt).tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    with pytest.raises(ValueError, match="Stress tensor must be"):
        voigt_to_matrix(torch.zeros(5))


def test_masses_agree_with_ase() -> None:
    from ase.data import atomic_masses_iupac2016, chemical_symbols

    from athanor.data.elements import ATOMIC_MASSES, SYMBOLS

    assert list(SYMBOLS) == chemical_symbols[:119]
    assert ATOMIC_MASSES[1:] == pytest.approx(atomic_masses_iupac2016[1:119].tolist(), rel=1e-12)


def test_no_warning_when_nothing_is_cast() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        water(forces=torch.zeros(3, 3))


def test_fields_by_level() -> None:
    data = water(**CUBE, neighbor_list=torch.tensor([[0, 1], [1, 0]]))
    assert {"positions", "atomic_masses"} <= set(data.node_properties)
    assert set(data.edge_properties) == {"neighbor_list"}
    assert set(data.system_properties) == {"cell", "pbc", "velocities_present"}


def test_defaults_can_be_set_again() -> None:
    data = water(
        atomic_masses=torch.full((3,), 5.0),
        velocities=torch.ones(3, 3),
        atom_categories=torch.full((3,), AtomCategory.BULK.value),
    )
    assert data.use_default_masses().use_default_velocities().use_default_categories() == water()


def test_consistency_is_checked_on_the_tensors_as_they_are() -> None:
    data = water(neighbor_list=torch.tensor([[0, 1], [1, 0]]), neighbor_list_shifts=torch.zeros(2, 3))
    assert data.check_node_consistency() is data
    assert data.check_edge_consistency() is data
    data.positions.resize_(4, 3)
    with pytest.raises(ShapeError, match="number of atoms"):
        data.check_node_consistency()
    data.neighbor_list_shifts.resize_(3, 3)
    with pytest.raises(ShapeError, match="number of edges"):
        data.check_edge_consistency()


def test_a_structure_is_made_on_a_device_and_in_a_dtype(recwarn: pytest.WarningsRecorder) -> None:
    parts = {"atomic_numbers": torch.tensor([8, 1]), "positions": torch.zeros(2, 3), "charges": torch.zeros(2)}
    data = AtomicData(**parts, velocities=torch.ones(2, 3), dtype=torch.float64, device="meta")
    assert (data.dtype, data.velocities.dtype, data.atomic_masses.dtype) == (torch.float64,) * 3
    assert data.charges.dtype == torch.float32  # a label keeps its own
    assert {tensor.device.type for _, tensor in data} == {"meta"}
    assert "dtype" not in data
    assert not recwarn
    with pytest.raises(ValueError, match="dtype"):
        AtomicData(**parts, dtype=torch.int64)
