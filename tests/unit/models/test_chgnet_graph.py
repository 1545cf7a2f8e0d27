"""The graphs of CHGNet from a packed list: both builders, against a direct count, and what they refuse."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest
import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import InputError
from athanor.models.chgnet.graph import CrystalGraph, build_graph, build_graph_reference
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import standard_systems, structure

CUTOFF, BOND_CUTOFF = 6.0, 3.0


def batch_of(systems: list[AtomicData], radius: float = CUTOFF + 0.5, half: bool = False) -> Batch:
    batch = Batch.from_data_list(systems)
    compute_neighbors(batch, radius, half_list=half)
    return batch


def arguments(batch: Batch) -> tuple[torch.Tensor, ...]:
    pairs = batch.pair_list
    stored = (pairs.row_ptr, pairs.neighbors, pairs.images, pairs.wrap_offsets)
    return (batch.positions, batch.cell, batch.batch_ptr, *stored)


def graph_of(batch: Batch) -> CrystalGraph:
    return build_graph(*arguments(batch), cutoff=CUTOFF, bond_cutoff=BOND_CUTOFF)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Every standard system, some with atoms outside their cells, an atom alone, and a cell below the cutoff."""
    systems = list(standard_systems(distance=2.6, elements=(11, 17)).values())
    return batch_of([*systems, structure(torch.zeros(1, 3, dtype=torch.float64), [18], 20.0 * torch.eye(3).double())])


def test_both_builders_agree_in_every_number(batch: Batch) -> None:
    ours = graph_of(batch)
    reference = build_graph_reference(*arguments(batch), cutoff=CUTOFF, bond_cutoff=BOND_CUTOFF)
    for field in fields(CrystalGraph):
        one, two = getattr(ours, field.name), getattr(reference, field.name)
        if field.name == "bond_vectors":
            assert torch.allclose(one, two, atol=1e-12)
        else:
            assert one == two if isinstance(one, int) else torch.equal(one, two), field.name


def complaints(graph: CrystalGraph, batch: Batch) -> list[str]:
    """Check a graph against the pairs of the batch taken one by one."""
    found = []
    i, j, shifts = batch.pair_list.pair_index(batch)
    cell = batch.cell[batch.batch_idx[i]]
    vectors = batch.positions[j] - batch.positions[i] + torch.einsum("ea,eac->ec", shifts.double(), cell)
    distances = vectors.norm(dim=1)
    kept = distances < CUTOFF
    if not torch.equal(torch.stack((graph.pair_center, graph.pair_neighbor)), torch.stack((i, j))[:, kept]):
        found.append("pairs")
    against = (i > j)[kept] & (graph.pair_center != graph.pair_neighbor)
    along = torch.where(against.unsqueeze(1), -1.0, 1.0) * vectors[kept]
    itself = graph.pair_center == graph.pair_neighbor
    expected = graph.bond_vectors[graph.pair_bond]
    off = torch.minimum((along - expected).norm(dim=1), torch.where(itself, (along + expected).norm(dim=1), torch.inf))
    if float(off.max()) > 1e-12:
        found.append("bond vectors")
    if not torch.equal(torch.bincount(graph.pair_bond), torch.full((len(graph.bond_vectors),), 2)):
        found.append("two pairs for each bond")
    short = distances[kept] < BOND_CUTOFF
    if not torch.equal(graph.pair_bond < graph.num_short, short):
        found.append("bonds of the bond graph")
    if not torch.equal(graph.short_center, graph.pair_center[short]):
        found.append("centres of the bond graph")
    pairs_at: dict[int, list[int]] = {}
    for row, center in enumerate(graph.short_center.tolist()):
        pairs_at.setdefault(center, []).append(row)
    angles = [couple for rows in pairs_at.values() for couple in itertools.permutations(rows, 2)]
    if sorted(angles) != list(zip(graph.angle_first.tolist(), graph.angle_second.tolist(), strict=True)):
        found.append("angles")
    return found


def test_the_graph_is_what_the_pairs_say(batch: Batch) -> None:
    graph = graph_of(batch)
    assert graph.num_angles > 100
    assert 0 < graph.num_short < len(graph.bond_vectors)
    assert complaints(graph, batch) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda graph: {"pair_bond": graph.pair_bond.roll(1)}, "two pairs|bond vectors"),
        (lambda graph: {"bond_vectors": -graph.bond_vectors}, "bond vectors"),
        (lambda graph: {"angle_second": graph.angle_second.flip(0)}, "angles"),
        (lambda graph: {"num_short": graph.num_short - 1}, "bonds of the bond graph"),
    ],
    ids=["bonds shifted", "vectors turned", "angles mixed", "a bond too few"],
)
def test_the_check_sees_a_broken_twin(batch: Batch, change, complaint: str) -> None:
    graph = graph_of(batch)
    found = complaints(replace(graph, **change(graph)), batch)
    assert any(word in found for word in complaint.split("|"))


def test_pairs_in_the_skin_change_nothing(batch: Batch) -> None:
    tight = batch_of([batch.get_data(index) for index in range(batch.num_graphs)], radius=CUTOFF)
    for field in fields(CrystalGraph):
        one, two = getattr(graph_of(batch), field.name), getattr(graph_of(tight), field.name)
        assert one == two if isinstance(one, int) else torch.equal(one, two), field.name


@pytest.mark.parametrize("builder", [build_graph, build_graph_reference])
def test_a_half_list_is_refused(builder) -> None:
    batch = batch_of([standard_systems(distance=2.6)["cluster"], standard_systems()["left-handed"]], half=True)
    with pytest.raises(InputError, match="without their opposites"):
        builder(*arguments(batch), cutoff=CUTOFF, bond_cutoff=BOND_CUTOFF)


@pytest.mark.parametrize("builder", [build_graph, build_graph_reference])
def test_no_pairs_at_all(builder) -> None:
    batch = batch_of([standard_systems()["atom"], standard_systems()["atom"]])
    cell = torch.zeros(2, 3, 3, dtype=torch.float64)
    stored = arguments_without_cell(batch)
    graph = builder(batch.positions, cell, batch.batch_ptr, *stored, cutoff=CUTOFF, bond_cutoff=BOND_CUTOFF)
    assert graph.num_angles == graph.num_short == len(graph.pair_bond) == len(graph.bond_vectors) == 0


def arguments_without_cell(batch: Batch) -> tuple[torch.Tensor, ...]:
    pairs = batch.pair_list
    return (pairs.row_ptr, pairs.neighbors, pairs.images, pairs.wrap_offsets)
