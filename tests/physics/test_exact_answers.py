"""The models with exact answers, the answers, and the statistics that engines are judged by."""

from __future__ import annotations

import math

import pytest
import torch

from athanor.data import Batch
from athanor.errors import InputError
from athanor.testing.ensemble_contract import deviations, judge
from athanor.testing.exact_answers import COUPLINGS, BoxEnsemble, Moments, kinetic_moments, well_energy, well_systems
from athanor.testing.exact_models import CosineBox, Wells
from athanor.testing.slopes import likeliest_slope
from athanor.testing.systems import moved
from athanor.units import BOLTZMANN

T, P, K = 300.0, 4e-4, 0.02
KT = BOLTZMANN * T


def energy_of(model, system):
    return float(model(Batch.from_data_list([system]))["energy"])


@pytest.mark.parametrize("model", [Wells(0.2, 2.0), CosineBox(K)], ids=["wells", "box"])
def test_forces_are_those_of_the_energy(model):
    if isinstance(model, Wells):
        system = well_systems(model, T, 1, 3)[0]
    else:
        system = BoxEnsemble(model, T, P, 3, "triclinic").systems(1)[0]
    forces, step = model(Batch.from_data_list([system]))["forces"], 1e-4
    for atom, axis in [(0, 0), (1, 2), (2, 1)]:
        move = torch.zeros_like(system.positions)
        move[atom, axis] = step
        there, back = (energy_of(model, moved(system, system.positions + sign * move)) for sign in (1, -1))
        assert (back - there) / (2 * step) == pytest.approx(float(forces[atom, axis]), abs=1e-8)


def test_stress_of_the_box_is_that_of_its_energy_under_strain():
    model, step = CosineBox(K), 1e-5
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    system = BoxEnsemble(model, T, P, 3, "triclinic").systems(1)[0]
    cell = system["cell"][0]
    stress = model(Batch.from_data_list([system]))["stress"][0] * torch.linalg.det(cell).abs()
    for i, j in [(0, 0), (1, 0), (2, 1), (2, 2)]:
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[i, j] += 0.5 * step
        strain[j, i] += 0.5 * step
        eye = torch.eye(3, dtype=torch.float64)
        there, back = (
            energy_of(model, moved(system, system.positions @ (eye + sign * strain), cell @ (eye + sign * strain)))
            for sign in (1, -1)
        )
        assert (there - back) / (2 * step) == pytest.approx(float(stress[i, j]), abs=1e-7)


def test_parameters_that_make_no_sense_are_refused():
    for make in (lambda: Wells(0.0), lambda: Wells(1.0, -1.0), lambda: CosineBox(-1.0)):
        with pytest.raises(InputError):
            make()


def test_oscillators_have_three_halves_of_kT():
    assert well_energy(Wells(0.2), T) == pytest.approx((1.5 * KT, 1.5 * KT**2), rel=1e-9)


def test_energies_of_wells_drawn_agree_with_quadrature():
    model = Wells(0.2, 2.0)
    systems = well_systems(model, T, 2000, 1)
    energies = model(Batch.from_data_list(systems))["energy"].reshape(1, -1)
    found = deviations("energy", energies.repeat(2, 1) + torch.tensor([[1e-9], [0.0]]), well_energy(model, T))
    judge({name: value for name, value in found.items() if "halves" not in name})


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_volumes_drawn_agree_with_quadrature(coupling):
    """The density of the volume is two convolutions; the cells are drawn without them."""
    ensemble = BoxEnsemble(CosineBox(K), T, P, 8, coupling)
    volumes = torch.linalg.det(ensemble.cells(6000, torch.Generator().manual_seed(1)))[None]
    found = deviations("volume", volumes.repeat(2, 1), ensemble.volume())
    judge({name: value for name, value in found.items() if "halves" not in name})
    other = Moments(1.06 * ensemble.volume().mean, ensemble.volume().variance)
    with pytest.raises(AssertionError, match="mean of volume"):
        judge(deviations("volume", volumes.repeat(2, 1), other))


def test_an_ideal_gas_has_the_volume_of_its_gamma_distribution():
    n = 8
    for coupling in COUPLINGS:
        found = BoxEnsemble(CosineBox(0.0), T, P, n, coupling).volume()
        assert found == pytest.approx(((n + 1) * KT / P, (n + 1) * (KT / P) ** 2), rel=1e-9)


def test_velocities_drawn_have_the_kinetic_energy_of_its_gamma_distribution():
    batch = Batch.from_data_list(well_systems(Wells(0.2), T, 3000, 4))
    kinetic = 0.5 * (batch.atomic_masses[:, None] * batch.velocities**2).view(3000, -1).sum(1)[None]
    found = deviations("kinetic energy", kinetic.repeat(2, 1), kinetic_moments(12.0, T))
    judge({name: value for name, value in found.items() if "halves" not in name})


def test_slopes():
    """Samples of Gamma(9, 1/b) have ln p2/p1 = const + (b1 - b2) x."""
    torch.manual_seed(1)
    one, other = (torch.distributions.Gamma(9.0, rate).sample((10, 400)).double() for rate in (1.0, 1.2))
    slope = likeliest_slope(one, other)
    assert abs(slope.value + 0.2) < 5 * slope.error < 0.1
    assert slope.error == pytest.approx(math.sqrt(2 / 4000) / 2.75, rel=0.4)


def test_slopes_know_that_samples_of_one_system_are_correlated():
    torch.manual_seed(1)
    one, other = (torch.distributions.Gamma(9.0, rate).sample((1, 400)).double() for rate in (1.0, 1.2))
    once, ten_times = likeliest_slope(one, other), likeliest_slope(one.expand(10, -1), other.expand(10, -1))
    assert ten_times.error == pytest.approx(once.error, rel=1e-6)


def test_what_deviates_or_keeps_still_is_told():
    values = torch.randn(20, 100, dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"mean of x.*more than 5 standard errors"):
        judge(deviations("x", values, Moments(0.5, 1.0)))
    with pytest.raises(AssertionError, match="keep their own `x`"):
        judge({}, {"x": values[:1].expand(20, -1)})
    with pytest.raises(AssertionError, match="mean of x"):
        judge(deviations("x", values * math.nan, Moments(0.0, 1.0)))
