"""A smaller cutoff out of a larger list equals a list built for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from athanor.data.batch import Batch
from athanor.models._ops.neighbor_filter import (
    filter_neighbor_list,
    filter_neighbor_matrix,
    neighbor_matrix_to_list,
    prepare_neighbors_for_model,
)
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import standard_systems


@pytest.fixture
def batches() -> tuple[Batch, Batch]:
    """The same systems with lists of 9 Å and of 6 Å."""
    systems = standard_systems()
    chosen = [systems[name] for name in ("triclinic", "cluster", "atom", "slab", "tiny cell")]
    large, small = Batch.from_data_list(chosen), Batch.from_data_list(chosen)
    compute_neighbors(large, 9.0)
    compute_neighbors(small, 6.0)
    return large, small


@pytest.mark.parametrize("kind", ["coo", "matrix"])
def test_a_filtered_list_is_the_list_of_the_smaller_cutoff(batches, kind: str) -> None:
    large, small = batches
    fill = large.num_nodes
    got, expected = (prepare_neighbors_for_model(batch, 6.0, kind, fill) for batch in (large, small))
    if kind == "matrix":
        width = expected["neighbor_matrix"].shape[1]
        assert got["neighbor_matrix"].shape == large.neighbor_matrix.shape
        assert (got["neighbor_matrix"][:, width:] == fill).all()
        got = {name: value[:, :width] if value.ndim > 1 else value for name, value in got.items()}
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_the_radius_decides_not_the_cutoff_stamp(batches) -> None:
    """A list with skin is filtered although its stamp equals the cutoff of the model."""
    large, small = batches
    large._neighbor_list_cutoff = 6.0
    found = prepare_neighbors_for_model(large, 6.0, "coo", large.num_nodes)
    assert len(found["neighbor_list"]) == small.num_edges < large.num_edges


def test_matrix_to_list(batches) -> None:
    _, small = batches
    pairs, pointer, shifts = neighbor_matrix_to_list(
        small.neighbor_matrix, small.num_neighbors, small.num_nodes, small.neighbor_matrix_shifts
    )
    assert torch.equal(pairs, small.neighbor_list)
    assert torch.equal(shifts, small.neighbor_list_shifts)
    assert torch.equal(pointer.diff(), small.num_neighbors)


def test_without_shifts_and_with_one_cell() -> None:
    positions = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])
    matrix, counts = torch.tensor([[1, 2], [0, 2], [0, 1]], dtype=torch.int32), torch.tensor([2, 2, 2])
    kept, number, shifts = filter_neighbor_matrix(positions, 2.0, matrix, counts, 3)
    assert kept.tolist() == [[1, 3], [0, 3], [3, 3]]
    assert number.tolist() == [1, 1, 0]
    assert shifts is None
    kept, _, _ = filter_neighbor_matrix(positions, 1.0, matrix, counts, 3)
    assert (kept == 3).all(), "the cutoff itself is outside"
    pairs, pointer = torch.tensor([[0, 1], [0, 2], [1, 0]], dtype=torch.int32), torch.tensor([0, 2, 3, 3])
    cell, images = 4.0 * torch.eye(3), torch.tensor([[0, 0, 0], [-1, 0, 0], [0, 0, 0]])
    kept, pointer, shifts = filter_neighbor_list(positions, 1.5, pairs, pointer, cell, images)
    assert kept.tolist() == [[0, 1], [0, 2], [1, 0]]
    assert pointer.tolist() == [0, 2, 3, 3]
    with pytest.raises(ValueError, match="pass `batch_idx`"):
        filter_neighbor_list(positions, 1.5, pairs, pointer, torch.stack([cell, cell]), images)


def test_messages() -> None:
    with pytest.raises(RuntimeError, match="neither 'neighbor_matrix' nor"):
        prepare_neighbors_for_model(SimpleNamespace(), 5.0, "coo", 0)
    data = SimpleNamespace(neighbor_list=torch.zeros(0, 2), positions=torch.zeros(1, 3))
    with pytest.raises(RuntimeError, match="target format is MATRIX"):
        prepare_neighbors_for_model(data, 5.0, "matrix", 1)
    assert prepare_neighbors_for_model(data, 5.0, "coo", 1)["edge_ptr"].tolist() == [0, 0]
