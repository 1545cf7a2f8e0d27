"""Derivatives of energies that can be differentiated by hand, and sums of outputs."""

from __future__ import annotations

import pytest
import torch

from athanor.models import _utils, derivatives
from athanor.models._utils import (
    apply_strain,
    autograd_forces,
    autograd_forces_and_stresses,
    autograd_stresses,
    cell_cache_needs_update,
    prepare_strain,
    sum_outputs,
)

BATCH_IDX = torch.tensor([0, 0, 0, 1, 1])


def positions_and_cells() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    cells = 4.0 * torch.eye(3, dtype=torch.float64) + torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    return positions, cells


def test_forces() -> None:
    positions, _ = positions_and_cells()
    positions.requires_grad_(True)
    energy = positions.square().sum()
    torch.testing.assert_close(autograd_forces(energy, positions, retain_graph=True), -2.0 * positions.detach())
    forces = autograd_forces(energy.reshape(1, 1), positions, training=True)
    assert forces.requires_grad
    assert autograd_forces(positions.square().sum(), positions).requires_grad is False


def test_strain_is_symmetric_and_changes_nothing_at_zero() -> None:
    positions, cells = positions_and_cells()
    strained, strained_cells, displacement = prepare_strain(positions, cells, BATCH_IDX)
    assert torch.equal(strained, positions)
    assert torch.equal(strained_cells, cells)
    assert displacement.is_leaf
    assert displacement.requires_grad
    assert displacement.dtype == torch.float64
    strain = torch.zeros(2, 3, 3, dtype=torch.float64)
    strain[1, 0, 1] = 0.2
    moved, deformed = apply_strain(positions, cells, BATCH_IDX, strain)
    expected = torch.eye(3, dtype=torch.float64)
    expected[0, 1] = expected[1, 0] = 0.1
    torch.testing.assert_close(moved[3:], positions[3:] @ expected)
    torch.testing.assert_close(deformed[1], cells[1] @ expected)
    assert torch.equal(moved[:3], positions[:3])
    moved, deformed = apply_strain(positions, cells, BATCH_IDX, torch.zeros_like(strain), strain)
    assert torch.equal(moved, positions)
    torch.testing.assert_close(deformed[1], cells[1] @ expected)


def test_stress_of_an_energy_proportional_to_volume() -> None:
    """E = p V has the stress +p on the diagonal; the twin is the opposite convention."""
    positions, cells = positions_and_cells()
    _, strained, displacement = prepare_strain(positions, cells, BATCH_IDX)
    energy = 3.0 * torch.linalg.det(strained).abs()
    stress = autograd_stresses(energy, displacement, cells, 2, retain_graph=True)
    expected = (3.0 * torch.eye(3, dtype=torch.float64)).expand(2, 3, 3)
    torch.testing.assert_close(stress, expected)
    twin = autograd_stresses(energy, displacement, cells, 2, retain_graph=True, convention="compressive")
    torch.testing.assert_close(twin, -expected)
    with pytest.raises(ValueError, match="`convention` is 'up'"):
        autograd_stresses(energy, displacement, cells, 2, convention="up")


def test_stress_of_a_trace_and_of_a_system_without_cell() -> None:
    positions, cells = positions_and_cells()
    cells[1] = 0.0
    _, _, displacement = prepare_strain(positions, cells, BATCH_IDX)
    energy = 5.0 * displacement.diagonal(dim1=1, dim2=2).sum(1)
    stress = autograd_stresses(energy, displacement, cells, 2)
    volume = torch.linalg.det(cells[0]).abs()
    torch.testing.assert_close(stress[0], 5.0 / volume * torch.eye(3, dtype=torch.float64))
    assert torch.equal(stress[1], torch.zeros(3, 3, dtype=torch.float64))


def test_both_from_one_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, cells = positions_and_cells()
    strained, strained_cells, displacement = prepare_strain(positions, cells, BATCH_IDX)

    def energy() -> torch.Tensor:
        return strained.pow(4).sum() + torch.linalg.det(strained_cells).square().sum()

    forces = autograd_forces(energy(), strained, retain_graph=True)
    stress = autograd_stresses(energy(), displacement, cells, 2, retain_graph=True)
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kw: calls.append(args[1]) or grad(*args, **kw))
    both = autograd_forces_and_stresses(energy(), strained, displacement, cells, 2)
    assert len(calls) == 1
    assert calls[0] == (strained, displacement)
    torch.testing.assert_close(both[0], forces)
    torch.testing.assert_close(both[1], stress)


def test_cell_cache() -> None:
    _, cells = positions_and_cells()
    assert cell_cache_needs_update(cells, None)
    assert not cell_cache_needs_update(cells, cells.clone())
    assert not cell_cache_needs_update(cells, cells * (1.0 + 1e-6))
    assert cell_cache_needs_update(cells, cells * 1.01)
    assert cell_cache_needs_update(cells, cells * (1.0 + 1e-6), rtol=1e-9, atol=0.0)
    assert cell_cache_needs_update(cells, cells.float())
    assert cell_cache_needs_update(cells, cells[:1])


def test_sum_outputs() -> None:
    one, two = {"energy": torch.ones(2, 1), "charges": torch.ones(3)}, {"energy": torch.ones(2, 1), "forces": None}
    assert sum_outputs() == {}
    assert sum_outputs(one)["energy"] is one["energy"]
    total = sum_outputs(one, two, {"charges": torch.zeros(3)})
    assert list(total) == ["energy", "charges"]
    assert total["energy"].tolist() == [[2.0], [2.0]]
    assert total["charges"].tolist() == [0.0, 0.0, 0.0]
    assert one["energy"].tolist() == [[1.0], [1.0]]
    replaced = sum_outputs(one, one, additive_keys={"charges"})
    assert replaced["energy"].tolist() == [[1.0], [1.0]]
    assert replaced["charges"].tolist() == [2.0, 2.0, 2.0]


def test_the_door_has_the_promised_names() -> None:
    assert _utils.prepare_strain is derivatives.prepare_strain
    assert len(_utils.__all__) == 7
