"""The stored pair list: what is assigned is packed, what is read is a view, and it goes along with the batch."""

from __future__ import annotations

import pickle

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.data.pair_list import PairList
from athanor.errors import DtypeError, InputError, MissingFieldError, ShapeError
from athanor.kernels.neighbor_list import build_neighbor_list

CELL = torch.tensor([[[5.0, 0.3, 0], [0, 6, 0.2], [0.1, 0, 7]]])


def crystal(atoms: int) -> AtomicData:
    return AtomicData(
        atomic_numbers=torch.full((atoms,), 14),
        positions=20 * torch.rand(atoms, 3) - 5,
        cell=CELL,
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )


def build(batch: Batch, radius: float = 4.0) -> PairList:
    atoms, systems = batch.num_nodes, len(batch)
    parts = build_neighbor_list(
        batch.positions,
        batch.cell,
        batch.pbc,
        batch.batch_ptr,
        radius,
        False,
        torch.ones(systems, dtype=torch.bool),
        torch.zeros(atoms + 1, dtype=torch.int64),
        torch.zeros(0, dtype=torch.int32),
        torch.zeros(0, dtype=torch.int32),
        torch.zeros((atoms, 3), dtype=torch.int32),
    )
    valid = torch.ones(systems, dtype=torch.bool)
    return PairList(*parts, batch.positions.clone(), batch.cell.clone(), batch.pbc.clone(), valid, radius - 1, radius)


@pytest.fixture
def batch() -> Batch:
    made = Batch.from_data_list([crystal(4), crystal(2), crystal(3)])
    made.pair_list = build(made)
    return made


def vectors(batch: Batch) -> torch.Tensor:
    pairs = batch.neighbor_list.long()
    return batch.positions[pairs[:, 1]] - batch.positions[pairs[:, 0]] + batch.shifts


def test_views_agree_and_count_distances_of_positions_as_they_stand(batch: Batch) -> None:
    lengths = vectors(batch).norm(dim=1)
    assert batch.num_edges > 20
    assert float(lengths.max()) < 4.0
    dense, counts, shifts = batch.neighbor_matrix, batch.num_neighbors, batch.neighbor_matrix_shifts
    assert dense.dtype == counts.dtype == torch.int32
    used = dense < batch.num_nodes
    assert torch.equal(used.sum(dim=1).int(), counts)
    assert torch.equal(dense[used], batch.neighbor_list[:, 1])
    assert torch.equal(shifts[used], batch.neighbor_list_shifts)
    assert not shifts[~used].any()
    assert batch.edge_ptr.diff().tolist() == counts.tolist()
    assert sum(batch.num_edges_list) == batch.num_edges_per_graph.sum() == batch.num_edges
    assert batch._neighbor_list_cutoff == 3.0
    assert batch.neighbor_list_radius == 4.0
    wide = batch.pair_list.matrix(batch, width=300)[0]
    assert wide.shape == (9, 300)


def test_list_survives_wrapping(batch: Batch) -> None:
    before = vectors(batch)
    offsets = torch.randint(-3, 4, (9, 3))
    cell = batch.cell[batch.batch_idx]
    batch.positions = batch.positions - torch.einsum("na,nac->nc", offsets.float(), cell)
    batch.pair_list = batch.pair_list.move_by_lattice_vectors(offsets, batch.batch_idx)
    torch.testing.assert_close(vectors(batch), before, atol=2e-4, rtol=0)
    torch.testing.assert_close(batch.pair_list.reference_positions, batch.positions, atol=1e-5, rtol=0)


def test_forgotten_wrap_offsets_would_be_noticed(batch: Batch) -> None:
    before = vectors(batch)
    batch.positions = batch.positions - batch.cell[batch.batch_idx, 0]
    batch.positions[0] += batch.cell[0, 0]
    assert (vectors(batch) - before).abs().max() > 1.0


def test_list_goes_along(batch: Batch) -> None:
    part = batch.index_select([2, 0])
    alone = build(part)
    for name in ("row_ptr", "neighbors", "images", "wrap_offsets", "reference_positions", "reference_cell", "valid"):
        assert torch.equal(getattr(part.pair_list, name), getattr(alone, name)), name
    for twin in (batch.clone(), pickle.loads(pickle.dumps(batch)), batch.to("cpu"), batch[[0, 1, 2]]):
        assert torch.equal(twin.neighbor_list, batch.neighbor_list)
        assert twin.neighbor_list_radius == 4.0
    wide = batch.to(torch.float64)
    assert wide.pair_list.reference_positions.dtype == torch.float64
    part.append(batch[[1]])
    assert torch.equal(part.neighbor_list, batch[[2, 0, 1]].neighbor_list)
    assert part.pair_list.valid.all()


def test_append_marks_systems_without_a_list(batch: Batch) -> None:
    pairs = batch.num_edges
    batch.append(Batch.from_data_list([crystal(3)]))
    assert batch.pair_list.valid.tolist() == [True, True, True, False]
    assert batch.num_edges == pairs
    assert batch[3].neighbor_list is None
    bare = Batch.from_data_list([crystal(1)])
    bare.append(batch)
    assert bare.pair_list.valid.tolist() == [False, True, True, True, False]
    other = Batch.from_data_list([crystal(2)])
    other.pair_list = build(other, radius=5.0)
    batch.append(other)
    assert batch.pair_list.valid.tolist()[-1] is False


def test_changing_pbc_drops_the_list(batch: Batch) -> None:
    batch.pbc = batch.pbc.clone()
    assert batch.pair_list is not None
    batch.pbc = ~batch.pbc
    assert batch.pair_list is None
    assert "neighbor_list" not in batch


def test_pbc_that_comes_or_goes_drops_the_list(batch: Batch) -> None:
    del batch.pbc
    assert batch.pair_list is None
    batch.neighbor_list = torch.tensor([[0, 1], [1, 0]])
    batch.pbc = torch.zeros(len(batch), 3, dtype=torch.bool)
    assert batch.pair_list is not None
    del batch.pbc
    batch.pbc = torch.ones(len(batch), 3, dtype=torch.bool)
    assert batch.pair_list is None


def test_assigned_list_comes_back_in_the_users_order() -> None:
    batch = Batch.from_data_list([crystal(2), crystal(2)])
    pairs = torch.tensor([[3, 2], [0, 1], [2, 3], [1, 0]])
    shifts = torch.tensor([[0, 0, -1], [0, 2, 0], [0, 0, 1], [0, -2, 0]])
    batch.neighbor_list = pairs
    batch.neighbor_list_shifts = shifts
    batch.edge_embeddings = torch.arange(4.0)[:, None]
    assert torch.equal(batch.neighbor_list, pairs.int())
    assert torch.equal(batch.neighbor_list_shifts, shifts.int())
    assert batch._neighbor_list_cutoff is None
    assert batch.pair_list.half is False
    assert batch[0].neighbor_list.tolist() == [[0, 1], [1, 0]]
    assert batch[1].edge_embeddings.flatten().tolist() == [2.0, 0.0]
    assert batch[[1]].edge_embeddings.flatten().tolist() == [2.0, 0.0]
    assert batch[[1]].neighbor_list_shifts.tolist() == [[0, 0, 1], [0, 0, -1]]
    batch._neighbor_list_cutoff = 5.0
    assert (batch.clone()._neighbor_list_cutoff, batch.neighbor_list_radius) == (5.0, 5.0)


def test_cartesian_shifts_and_matrix_pack_to_the_same_list(batch: Batch) -> None:
    for names in (
        ("neighbor_list", "neighbor_list_shifts"),
        ("neighbor_list", "shifts"),
        ("neighbor_matrix", "num_neighbors", "neighbor_matrix_shifts"),
    ):
        twin = Batch.from_data_list(batch.without_pairs().to_data_list())
        for name in names:
            setattr(twin, name, batch[name])
        assert torch.equal(twin.neighbor_list, batch.neighbor_list), names
        assert torch.equal(twin.neighbor_list_shifts, batch.neighbor_list_shifts), names


def test_shifts_come_after_their_pairs(batch: Batch) -> None:
    twin = batch.without_pairs()
    for name, main in (("shifts", "neighbor_list"), ("num_neighbors", "neighbor_matrix")):
        with pytest.raises(MissingFieldError, match=f"`{name}` belongs to pairs.*Assign `{main}` first"):
            setattr(twin, name, batch[name])
    twin.neighbor_list, twin.shifts = batch.neighbor_list, torch.zeros_like(batch.shifts)
    twin.neighbor_list_shifts = batch.neighbor_list_shifts  # the last one counts
    assert torch.equal(twin.neighbor_list_shifts, batch.neighbor_list_shifts)


def test_half_lists_are_recognised() -> None:
    batch = Batch.from_data_list([crystal(3)])
    batch.neighbor_list = torch.tensor([[0, 1], [1, 2]])
    assert batch.pair_list.half is True
    batch.neighbor_list = torch.tensor([[0, 1], [1, 0]])
    assert batch.pair_list.half is False


def test_lists_of_structures_are_collated(batch: Batch) -> None:
    items = batch.to_data_list()
    again = Batch.from_data_list(items)
    assert torch.equal(again.neighbor_list, batch.neighbor_list)
    assert again.to_data_list() == items
    dense = [item.clone() for item in items]
    for item in dense:
        one = Batch.from_data_list([item])
        matrix, counts, shifts = one.neighbor_matrix, one.num_neighbors, one.neighbor_matrix_shifts
        item.neighbor_list_shifts = item.neighbor_list = None
        item.neighbor_matrix, item.num_neighbors, item.neighbor_matrix_shifts = matrix, counts, shifts
    assert torch.equal(Batch.from_data_list(dense).neighbor_list, batch.neighbor_list)


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("neighbor_list", torch.tensor([[0, 9]]), InputError, "from 0 to 9; the batch has 9 atoms"),
        ("neighbor_list", torch.tensor([[0, 4]]), InputError, r"joins atoms of two systems: pair 0 is \[0, 4\]"),
        ("neighbor_list", torch.tensor([[0.0, 1.0]]), DtypeError, "integer"),
        ("neighbor_list", torch.tensor([0, 1]), ShapeError, "`neighbor_list` has shape"),
        ("neighbor_list_shifts", torch.zeros(1, 3), ShapeError, "1 rows"),
        ("num_neighbors", torch.zeros(2, dtype=torch.int32), ShapeError, "`num_neighbors` has shape"),
    ],
)
def test_wrong_lists_change_nothing(
    batch: Batch, name: str, value: torch.Tensor, error: type[Exception], words: str
) -> None:
    before = batch.pair_list
    with pytest.raises(error, match=words):
        setattr(batch, name, value)
    assert batch.pair_list is before


def test_wrong_shifts() -> None:
    batch = Batch.from_data_list([crystal(3)])
    batch.neighbor_list = torch.tensor([[0, 1]])
    with pytest.raises(DtypeError, match="holds fractions"):
        batch.neighbor_list_shifts = torch.tensor([[0.5, 0, 0]])
    with pytest.raises(InputError, match="reaches 600"):
        batch.neighbor_list_shifts = torch.tensor([[600, 0, 0]])
    with pytest.raises(InputError, match="Å away from a sum of"):
        batch.shifts = torch.tensor([[1.0, 0, 0]])
    with pytest.raises(ShapeError, match="for 3 atoms in 1 systems"):
        Batch.from_data_list([crystal(1)]).pair_list = batch.pair_list
    with pytest.raises(MissingFieldError, match="no pair list to stamp"):
        Batch.from_data_list([crystal(1)])._neighbor_list_cutoff = 3.0
    item = crystal(2)
    item.neighbor_list = torch.tensor([[0, 2]])
    with pytest.raises(InputError, match="sample 0 holds atom indices from 0 to 2; the structure has 2 atoms"):
        Batch.from_data_list([item])


def test_a_new_list_drops_edge_fields_with_one_warning(batch: Batch) -> None:
    batch.edge_embeddings = torch.zeros(batch.num_edges, 2)
    assert batch[1].edge_embeddings.shape == (batch.num_edges_list[1], 2)
    with pytest.warns(UserWarning, match="`edge_embeddings` belonged to the pairs of an older") as caught:
        batch.pair_list = build(batch, 3.5)
    assert len(caught) == 1
    assert "edge_embeddings" not in batch
    batch.edge_embeddings = torch.zeros(batch.num_edges, 2)
    assert "edge_embeddings" not in batch.without_pairs()
