"""BAOAB against the exact discrete-time averages of the harmonic oscillator."""

from __future__ import annotations

import pytest
import torch

from athanor.data import AtomicData, Batch
from athanor.dynamics import NVTLangevin
from athanor.dynamics.noise import LangevinNoise
from athanor.dynamics.updates import drift_, kick_
from athanor.testing.exact_models import Wells
from athanor.units import BOLTZMANN, internal_time_to_fs


class OBABO(NVTLangevin):
    """Mutant: another order of the same pieces, noise on the outside."""

    def pre_update(self, batch):
        steps = self._steps.refresh(batch, self._state.dt)
        self.bath_(batch)
        kick_(batch.velocities, batch.forces, steps.half_dt_over_mass)
        drift_(batch.positions, batch.velocities, steps.dt)


class WrongNoise(NVTLangevin):
    """Mutant: noise amplitude sqrt(1 - c) for sqrt(1 - c^2)."""

    def bath_(self, batch):
        fresh = self._noise
        self._noise = WeakerNoise()
        super().bath_(batch)
        self._noise = fresh


class WeakerNoise(LangevinNoise):
    def refresh(self, batch, *sources):
        super().refresh(batch, *sources)
        self.width = self.width / torch.sqrt(1 + self.decay)[batch.batch_idx]
        return self


MASS, K, TEMPERATURE, OMEGA_DT = 4.0, 2.0, 300.0, 0.5


def standard_errors(engine_class, systems: int = 4000, steps: int = 300) -> dict[str, float]:
    """Deviation of sampled moments from theory, in standard errors, over independent systems at the last steps."""
    dt = OMEGA_DT / (K / MASS) ** 0.5
    engine = engine_class(Wells(K), dt=internal_time_to_fs(dt), temperature=TEMPERATURE, friction=0.03, random_seed=11)
    kT = BOLTZMANN * TEMPERATURE
    one = AtomicData(
        positions=torch.zeros(1, 3, dtype=torch.float64),
        atomic_numbers=torch.tensor([2]),
        atomic_masses=torch.tensor([MASS], dtype=torch.float64),
    )
    batch = Batch.from_data_list([one] * systems)
    engine.run(batch, steps)
    x = batch.positions / (kT / K) ** 0.5
    v = batch.velocities / (kT / MASS) ** 0.5
    expected = {"xx": (x * x, 1.0), "vv": (v * v, 1 - OMEGA_DT**2 / 4), "xxxx": (x**4, 3.0), "xv": (x * v, 0.0)}
    return {
        name: float((value.mean() - exact) / (value.std() / value.numel() ** 0.5))
        for name, (value, exact) in expected.items()
    }


def test_baoab_moments():
    z = standard_errors(NVTLangevin)
    assert all(abs(value) < 5 for value in z.values()), z


@pytest.mark.parametrize(("mutant", "low", "high"), [(OBABO, 3.0, 10.0), (WrongNoise, -100.0, -30.0)])
def test_baoab_moments_find_mutants(mutant, low, high):
    """The first has moments that are 7 % too large, the second those of half the temperature."""
    z = standard_errors(mutant)
    assert low < z["xx"] < high, z
    assert low < z["vv"] < high, z
    assert any(abs(value) > 5 for value in z.values()), z
