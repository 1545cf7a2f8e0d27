"""Neighbor lists against brute force over images, and what they promise about odd systems."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor import kernels
from athanor.errors import DtypeError, InputError, ShapeError
from athanor.kernels.neighbor_list import _reference, op

CELLS = {
    "cubic": [[6.0, 0, 0], [0, 6.0, 0], [0, 0, 6.0]],
    "skewed": [[6.0, 0, 0], [4.5, 5.0, 0], [-2.0, 3.5, 5.5]],
    "left-handed": [[5.0, 0.5, 0], [0, 0.2, 6.0], [0.3, 6.5, 0]],
    "thin": [[1.1, 0, 0], [0.2, 9.0, 0], [0, 0.4, 1.7]],
}
PATTERNS = list(itertools.product([False, True], repeat=3))


def _empty(atoms: int) -> tuple[torch.Tensor, ...]:
    none = torch.zeros(0, dtype=torch.int32)
    return torch.zeros(atoms + 1, dtype=torch.int64), none, none, torch.zeros((atoms, 3), dtype=torch.int32)


def _call(
    function: Any, positions: torch.Tensor, cell: torch.Tensor, pbc: Any, radius: float, half: bool = False
) -> Any:
    pointer = torch.tensor([0, len(positions)], dtype=torch.int32)
    flags = torch.tensor([pbc])
    old = _empty(len(positions))
    return function(positions, cell[None], flags, pointer, radius, half, torch.tensor([True]), *old)


def _rotation(generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]


def _assert_same(one: Any, other: Any) -> None:
    for name, a, b in zip(("row_ptr", "neighbors", "images", "wrap_offsets"), one, other, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("pbc", PATTERNS)
@pytest.mark.parametrize("shape", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_brute_force(shape: str, pbc: tuple[bool, bool, bool], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(PATTERNS.index(pbc))
    turn = _rotation(generator)
    cell = (torch.tensor(CELLS[shape], dtype=torch.float64) @ turn).to(dtype)
    for atoms in (1, 7, 90):
        positions = torch.randn(atoms, 3, generator=generator, dtype=torch.float64) * 6.0 + 40.0
        positions = (positions @ turn).to(dtype)
        for half in (False, True):
            _assert_same(
                _call(kernels.build_neighbor_list, positions, cell, pbc, 3.3, half),
                _call(_reference.build_neighbor_list, positions, cell, pbc, 3.3, half),
            )


def test_a_lost_image_is_noticed() -> None:
    cell, positions = torch.eye(3, dtype=torch.float64) * 2.0, torch.zeros(1, 3, dtype=torch.float64)
    whole = _call(kernels.build_neighbor_list, positions, cell, (True,) * 3, 2.5)
    nearest_only = _call(_reference.build_neighbor_list, positions, cell, (True, True, False), 2.5)
    with pytest.raises(AssertionError, match="row_ptr"):
        _assert_same(whole, nearest_only)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    numbers=st.lists(st.floats(-1.0, 1.0), min_size=9, max_size=9),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    atoms=st.integers(0, 70),
    scale=st.floats(0.5, 50.0),
    radius=st.floats(0.3, 3.0),
    half=st.booleans(),
)
def test_any_cell(numbers: list[float], pbc: Any, atoms: int, scale: float, radius: float, half: bool) -> None:
    cell = torch.tensor(numbers, dtype=torch.float64).reshape(3, 3) + 2.2 * torch.eye(3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(atoms)
    positions = torch.randn(atoms, 3, generator=generator, dtype=torch.float64) * scale
    _assert_same(
        _call(kernels.build_neighbor_list, positions, cell, pbc, radius, half),
        _call(_reference.build_neighbor_list, positions, cell, pbc, radius, half),
    )


def test_a_dense_cluster_in_a_large_box_overflows_the_expected_room() -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    positions[0] = 90.0
    cell = torch.eye(3, dtype=torch.float64) * 100.0
    for half in (False, True):
        ours = _call(kernels.build_neighbor_list, positions, cell, (True,) * 3, 3.0, half)
        _assert_same(ours, _call(_reference.build_neighbor_list, positions, cell, (True,) * 3, 3.0, half))
        assert len(ours[1]) == 199 * 198 // (2 if half else 1)


def test_vectors_follow_the_documented_formula_and_full_lists_are_symmetric() -> None:
    generator = torch.Generator().manual_seed(3)
    cell = torch.tensor(CELLS["skewed"], dtype=torch.float64)
    positions = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 30.0
    row_ptr, neighbors, images, offsets = _call(kernels.build_neighbor_list, positions, cell, (True,) * 3, 4.0)
    i = torch.repeat_interleave(torch.arange(50), torch.diff(row_ptr))
    j, s = neighbors.long(), kernels.unpack_images(images)
    fractional = (positions - offsets.double() @ cell) @ torch.linalg.inv(cell)
    assert fractional.min() > -1e-12
    assert fractional.max() < 1 + 1e-12
    vectors = positions[j] - positions[i] + (s - offsets[j] + offsets[i]).double() @ cell
    assert vectors.norm(dim=1).max() < 4.0
    pairs = {(a, b, *c) for a, b, c in zip(i.tolist(), j.tolist(), s.tolist(), strict=True)}
    assert len(pairs) == len(j)
    assert all((b, a, -x, -y, -z) in pairs for a, b, x, y, z in pairs)
    keys = [(a, b, *c) for a, b, c in zip(i.tolist(), j.tolist(), s.tolist(), strict=True)]
    assert keys == sorted(keys)


def test_only_systems_that_ask_are_rebuilt() -> None:
    generator = torch.Generator().manual_seed(4)
    positions = torch.rand(40, 3, generator=generator, dtype=torch.float64) * 6.0
    cell = torch.tensor(CELLS["cubic"], dtype=torch.float64).repeat(2, 1, 1)
    pbc, pointer = torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 15, 40], dtype=torch.int32)
    first = kernels.build_neighbor_list(
        positions, cell, pbc, pointer, 3.0, False, torch.tensor([True, True]), *_empty(40)
    )
    moved = positions + torch.rand(40, 3, generator=generator, dtype=torch.float64)
    both = kernels.build_neighbor_list(moved, cell, pbc, pointer, 3.0, False, torch.tensor([True, True]), *first)
    mixed = kernels.build_neighbor_list(moved, cell, pbc, pointer, 3.0, False, torch.tensor([False, True]), *first)
    old_end, new_start = int(first[0][15]), int(both[0][15])
    assert torch.equal(mixed[1][:old_end], first[1][:old_end])
    assert torch.equal(mixed[1][old_end:], both[1][new_start:])
    assert torch.equal(mixed[2][:old_end], first[2][:old_end])
    assert torch.equal(mixed[3], torch.cat([first[3][:15], both[3][15:]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20])
def test_a_system_that_is_not_finite_gets_no_pairs_and_harms_nobody(value: float) -> None:
    positions = torch.rand(20, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3.0
    cell = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1) * 4.0
    pbc, pointer = torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 10, 20], dtype=torch.int32)
    rebuild = torch.tensor([True, True])
    whole = kernels.build_neighbor_list(positions, cell, pbc, pointer, 3.0, False, rebuild, *_empty(20))
    positions[3, 1] = value
    broken = kernels.build_neighbor_list(positions, cell, pbc, pointer, 3.0, False, rebuild, *_empty(20))
    assert broken[0][10] == 0
    assert torch.equal(broken[1], whole[1][whole[0][10] :])
    assert torch.isinf(kernels.minimum_distance(positions, cell, pointer, *broken)[0])


def test_refusals() -> None:
    x, cell = torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    with pytest.raises(InputError, match="511 images"):
        _call(kernels.build_neighbor_list, x, cell * 0.005, (True, False, False), 3.0)
    with pytest.raises(InputError, match="one plane"):
        _call(kernels.build_neighbor_list, x, cell * 0.0, (True, False, False), 3.0)
    with pytest.raises(InputError, match="radius"):
        _call(kernels.build_neighbor_list, x, cell, (True,) * 3, float("nan"))
    with pytest.raises(ShapeError, match="cell"):
        _call(kernels.build_neighbor_list, x, cell[:2], (True,) * 3, 1.0)
    with pytest.raises(DtypeError, match="pbc"):
        _call(kernels.build_neighbor_list, x, cell, (1, 1, 1), 1.0)


def test_zero_cell_without_periodicity() -> None:
    x = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [5.0, 0, 0]])
    row_ptr, neighbors, images, offsets = _call(kernels.build_neighbor_list, x, torch.zeros(3, 3), (False,) * 3, 1.5)
    assert row_ptr.tolist() == [0, 1, 2, 2]
    assert neighbors.tolist() == [1, 0]
    assert not images.any()
    assert not offsets.any()


def test_packing_round_trip() -> None:
    images = torch.tensor(list(itertools.product([-512, -511, -1, 0, 1, 511], repeat=3)), dtype=torch.int32)
    codes = kernels.pack_images(images)
    assert torch.equal(kernels.unpack_images(codes), images)
    assert len(set(codes.tolist())) == len(images)
    assert kernels.pack_images(torch.zeros(1, 3, dtype=torch.int32)).item() == 0


@pytest.mark.parametrize("tilt", [0, 30])
def test_room_for_rows_follows_the_density_not_the_shape_of_the_cell(tilt: int) -> None:
    """A tilted cell of the same crystal once asked for a thousand times the memory."""
    positions = torch.cartesian_prod(*[torch.arange(12)] * 3).double() * 1.5
    cell = torch.eye(3, dtype=torch.float64) * 18.0
    cell[2] += tilt * (cell[0] + cell[1])
    n, radius = len(positions), 2.9
    arguments = (positions, cell[None], torch.ones(1, 3, dtype=torch.bool), torch.tensor([0, n], dtype=torch.int32))
    moved = (torch.tensor([True]), torch.zeros(n, 3, dtype=torch.int32), torch.int32)
    offsets = np.empty((n, 3), np.int32)
    rows, _ = op._search(*arguments, radius, False, moved, np.zeros(n + 1, np.int64), offsets)
    pairs = int(rows.lengths.sum())
    assert pairs == n * 26  # along edges, faces and the body of the cubes
    assert pairs <= len(rows.memory) < 3 * pairs


@pytest.mark.parametrize("half", [False, True])
def test_too_little_room_is_found_and_mended(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = 20.0 * torch.rand(1500, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cell = 20.0 * torch.eye(3, dtype=torch.float64)
    expected = _call(kernels.build_neighbor_list, x, cell, (True,) * 3, 4.0, half)
    plan, searches = op._cpu.plan, []

    def mean_plan(*arguments: Any) -> Any:
        tasks, *rest = plan(*arguments)
        tasks[:, 3:] //= 3
        searches.append(int(tasks[-1, 4]))
        return tasks, *rest

    monkeypatch.setattr(op._cpu, "plan", mean_plan, raising=False)
    _assert_same(_call(kernels.build_neighbor_list, x, cell, (True,) * 3, 4.0, half), expected)
    assert searches[0] < len(expected[1]), "there was room enough"
