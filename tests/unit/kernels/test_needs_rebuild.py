"""When a stored list must be built again: against the criterion, and that a kept list misses nothing."""

from __future__ import annotations

import pytest
import torch

from athanor import kernels
from athanor.errors import ShapeError

CELL = torch.eye(3, dtype=torch.float64)[None] * 8.0
POINTER = torch.tensor([0, 20], dtype=torch.int32)


def _positions() -> torch.Tensor:
    return torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 8.0


NO_STEPS = torch.zeros(0, dtype=torch.int64)


def _needs(
    moved: torch.Tensor,
    cell: torch.Tensor,
    reference_cell: torch.Tensor = CELL,
    skin: float = 0.5,
    steps: torch.Tensor = NO_STEPS,
) -> bool:
    return bool(kernels.needs_rebuild(moved, _positions(), cell, reference_cell, POINTER, steps, 3.5, skin)[0])


def test_half_the_skin_is_the_limit() -> None:
    for distance, expected in ((0.249, False), (0.251, True)):
        moved = _positions()
        moved[7, 1] += distance
        assert _needs(moved, CELL) is expected


def test_every_eighth_step_of_its_own_a_system_is_searched_ahead_of_need() -> None:
    for distance, ahead in ((0.17, False), (0.18, True)):  # limit: 0.7 * 0.25
        moved = _positions()
        moved[7, 1] += distance
        asked = [_needs(moved, CELL, steps=torch.tensor([[step]])) for step in range(17)]
        assert [step for step, needed in enumerate(asked) if needed] == ([0, 8, 16] if ahead else [])
        assert not _needs(moved, CELL)
    with pytest.raises(ShapeError, match="one each, or none"):
        _needs(moved, CELL, steps=torch.zeros(2, dtype=torch.int64))


def test_homogeneous_strain_uses_up_the_skin_without_any_displacement() -> None:
    for strain, expected in ((-0.13, False), (-0.16, True), (0.2, False)):  # limit: 0.5 / 3.5 = 0.143
        factor = 1.0 + strain
        assert _needs(_positions() * factor, CELL * factor) is expected


def test_an_unchanged_or_zero_cell_is_no_strain() -> None:
    zero = torch.zeros(1, 3, 3, dtype=torch.float64)
    assert not _needs(_positions(), zero, zero)
    assert _needs(_positions(), CELL, zero)


def test_positions_that_are_not_finite_ask_for_nothing() -> None:
    moved = _positions()
    moved[0] += 3.0
    moved[3, 0] = float("nan")
    assert not _needs(moved, CELL)


def test_wrapping_is_a_displacement() -> None:
    moved = _positions()
    moved[2, 0] -= 8.0
    assert _needs(moved, CELL)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match="references"):
        _needs(_positions()[:5], CELL)


def _close_pairs(positions: torch.Tensor, cell: torch.Tensor, lists: tuple[torch.Tensor, ...], cutoff: float) -> int:
    row_ptr, neighbors, images, offsets = lists
    i = torch.repeat_interleave(torch.arange(len(positions)), torch.diff(row_ptr))
    j = neighbors.long()
    shift = (kernels.unpack_images(images) - offsets[j] + offsets[i]).double()
    return int(((positions[j] - positions[i] + shift @ cell[0]).norm(dim=1) < cutoff).sum())


def _build(positions: torch.Tensor, cell: torch.Tensor, radius: float) -> tuple[torch.Tensor, ...]:
    none = torch.zeros(0, dtype=torch.int32)
    old = (torch.zeros(21, dtype=torch.int64), none, none, torch.zeros(20, 3, dtype=torch.int32))
    periodic = torch.ones(1, 3, dtype=torch.bool)
    return kernels.build_neighbor_list(positions, cell, periodic, POINTER, radius, False, torch.tensor([True]), *old)


def test_a_list_that_is_kept_misses_no_pair() -> None:
    generator = torch.Generator().manual_seed(2)
    reference, kept, missed = _positions(), 0, 0
    lists = _build(reference, CELL, 3.5)
    for _ in range(200):
        change = 0.06 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
        strain = torch.eye(3, dtype=torch.float64) + change
        noise = 0.05 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
        moved, cell = reference @ strain + noise, CELL @ strain
        complete = _close_pairs(moved, cell, lists, 3.0) == _close_pairs(moved, cell, _build(moved, cell, 3.0), 3.0)
        if _needs(moved, cell):
            missed += not complete
        else:
            kept += 1
            assert complete
    assert kept > 10
    assert missed > 0, "the mutant that never rebuilds would pass"
