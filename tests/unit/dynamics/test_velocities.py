"""Maxwell-Boltzmann velocities."""

from __future__ import annotations

import pytest
import torch

from athanor.dynamics import initialize_velocities
from athanor.errors import InputError
from athanor.units import BOLTZMANN


def draw(counts, temperature, masses=None, **kwargs):
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    masses = torch.full((len(index),), 12.0, dtype=torch.float64) if masses is None else masses
    velocities = torch.empty(len(index), 3, dtype=torch.float64)
    initialize_velocities(velocities, masses, temperature, index, **kwargs)
    return velocities, masses, index


def test_distribution_by_mass():
    masses = torch.tensor([1.0, 50.0], dtype=torch.float64).repeat(4000)
    velocities, _, _ = draw([2] * 4000, 300.0, masses, remove_com=False)
    for start, mass in ((0, 1.0), (1, 50.0)):
        scaled = velocities[start::2] * (mass / (BOLTZMANN * 300.0)) ** 0.5
        n = scaled.numel()
        assert abs(float(scaled.mean())) * n**0.5 < 5
        assert abs(float((scaled**2).mean()) - 1) * (n / 2) ** 0.5 < 5
        assert abs(float((scaled**4).mean()) - 3) * (n / 96) ** 0.5 < 5


def test_momentum_is_removed_and_temperature_exact():
    velocities, masses, index = draw([5, 1, 9], torch.tensor([100.0, 200.0, 300.0]))
    momentum = torch.zeros(3, 3, dtype=torch.float64).index_add_(0, index, masses[:, None] * velocities)
    kinetic = torch.zeros(3, dtype=torch.float64).index_add_(0, index, 0.5 * masses * (velocities**2).sum(1))
    assert float(momentum.abs().max()) < 1e-12
    assert velocities[5].tolist() == [0.0, 0.0, 0.0]
    assert float(kinetic[0]) == pytest.approx(0.5 * 15 * BOLTZMANN * 100.0, rel=1e-12)
    assert float(kinetic[2]) == pytest.approx(0.5 * 27 * BOLTZMANN * 300.0, rel=1e-12)


def test_a_temperature_is_exact_for_the_degrees_of_freedom_that_are_asked_for():
    wanted = torch.tensor([[12.0], [0.0], [26.0]])
    velocities, masses, index = draw([5, 1, 9], 300.0, remove_com=False, dof=wanted)
    kinetic = torch.zeros(3, dtype=torch.float64).index_add_(0, index, 0.5 * masses * (velocities**2).sum(1))
    torch.testing.assert_close(kinetic, 0.5 * wanted[:, 0].double() * BOLTZMANN * 300.0, rtol=1e-12, atol=0)


def test_rotation_is_removed_also_from_linear_molecules():
    positions = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1.3, 0], [0.2, 0, 2], [0, 0, 0], [0, 0, 1.1]]).double()
    velocities, masses, _ = draw([4, 2], 300.0, remove_rotations=True, positions=positions)
    for rows in (slice(0, 4), slice(4, 6)):
        arm = positions[rows] - positions[rows].mean(0)
        spin = (masses[rows, None] * torch.linalg.cross(arm, velocities[rows])).sum(0)
        assert float(spin.norm()) < 1e-10
        kinetic = 0.5 * (masses[rows, None] * velocities[rows] ** 2).sum()
        assert float(kinetic) == pytest.approx(1.5 * len(arm) * BOLTZMANN * 300.0, rel=1e-10)


def test_a_system_gets_the_same_velocities_in_any_slot():
    ids = torch.tensor([4, 9])
    together, _, _ = draw([3, 5], 300.0, system_id=ids)
    swapped, _, _ = draw([5, 3], 300.0, system_id=ids.flip(0))
    assert torch.equal(together[:3], swapped[5:])
    assert not torch.equal(together[:3], draw([3], 300.0, system_id=torch.tensor([5]))[0])
    assert not torch.equal(together[:3], draw([3], 300.0, system_id=ids[:1], random_seed=43)[0])


def test_refusals():
    with pytest.raises(InputError, match="temperature"):
        draw([3], -1.0)
    with pytest.raises(InputError, match="positions"):
        draw([3], 300.0, remove_rotations=True)
