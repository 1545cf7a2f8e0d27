"""What is drawn in a run is a function of seed, purpose, system and step: no history, and seeds that know nothing of
each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from athanor import kernels
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVTCSVR, Brownian, NPTCRescale, NPTLangevin, NVTAndersen, NVTLangevin
from athanor.dynamics import noise as noise_module
from athanor.kernels.philox import Purpose
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks
from athanor.testing.exact_models import Wells
from athanor.units import BOLTZMANN

# -- no history ------------------------------------------------------------------------------------------------------

NOISY: dict[str, Callable[[Any], Any]] = {
    "Langevin": lambda model: NVTLangevin(model, 4.0, 60.0, friction=0.02),
    "Andersen": lambda model: NVTAndersen(model, 4.0, 60.0, collision_rate=0.02),
    "CSVR": lambda model: NVTCSVR(model, 4.0, 60.0, thermostat_time=100.0),
    "Brownian": lambda model: Brownian(model, 4.0, 60.0, friction=0.1),
    "NPT Langevin": lambda model: NPTLangevin(model, 4.0, 60.0, 0.0, friction=0.02, barostat_time=500.0),
    "NPT rescaling": lambda model: NPTCRescale(model, 4.0, 60.0, 0.0, barostat_time=500.0, thermostat_time=100.0),
}


class Remembering:
    """The broken twin: a generator that goes on from draw to draw."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, pointer: torch.Tensor, *rest: Any) -> torch.Tensor:
        columns, dtype = (*rest, 3, torch.float64)[4:6] if len(rest) < 6 else rest[4:6]
        return torch.rand((int(pointer[-1]), columns), generator=self.generator, dtype=torch.float64).to(dtype)


def draws_depend_on_history(name: str, monkeypatch: pytest.MonkeyPatch, twin: Any = None) -> bool:
    """Whether a draw made in the middle of a run differs from the same one made later and by itself."""
    draws: list[tuple[Any, tuple[Any, ...], torch.Tensor]] = []
    for function in ("philox_normal", "philox_uniform"):
        real = twin or getattr(kernels, function)

        def noted(*arguments: Any, real: Any = real) -> torch.Tensor:
            drawn = real(*arguments)
            kept = tuple(each.clone() if isinstance(each, torch.Tensor) else each for each in arguments)
            draws.append((real, kept, drawn.clone()))
            return drawn

        monkeypatch.setattr(noise_module, function, noted)
    batch = Batch.from_data_list([argon_crystal(1, 3), argon_crystal(1, 8)])
    with_neighbor_hooks(NOISY[name](argon_model())).run(batch, 30)
    monkeypatch.undo()
    assert len(draws) >= 30
    return not all(torch.equal(real(*arguments), drawn) for real, arguments, drawn in reversed(draws))


@pytest.mark.parametrize("name", NOISY)
def test_the_noise_of_a_step_hangs_on_no_step_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not draws_depend_on_history(name, monkeypatch)


def test_a_generator_that_goes_on_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert draws_depend_on_history("Langevin", monkeypatch, Remembering())


def test_a_millionth_step_is_drawn_at_once_as_after_all_others() -> None:
    steps = torch.arange(1_000_001)
    pointer = torch.arange(len(steps) + 1, dtype=torch.int32)
    through = kernels.philox_normal(pointer, torch.full_like(steps, 7), steps, 42, Purpose.LANGEVIN)
    at_once = kernels.philox_normal(pointer[:2], torch.tensor([7]), steps[-1:], 42, Purpose.LANGEVIN)
    assert torch.equal(through[-1:], at_once)
    assert not torch.equal(through[-2:-1], at_once)


# -- a thousand seeds ------------------------------------------------------------------------------------------------

ATOMS, STEPS, LAGS = 8, 200, range(-5, 6)
MASS, TEMPERATURE, FRICTION, DT = 4.0, 300.0, 0.01, 2.0  # amu, K, 1/fs, fs


def free_path(seed: int, draw: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Velocities of free atoms under BAOAB around step `STEPS`, √(eV/amu), [11, ATOMS, 3]: decay and noise in turn."""
    steps = torch.arange(STEPS + LAGS[-1])
    pointer = torch.arange(0, ATOMS * len(steps) + 1, ATOMS, dtype=torch.int32)
    noise = draw(pointer, torch.full_like(steps, 7), steps, seed).view(len(steps), ATOMS, 3)
    decay = math.exp(-FRICTION * DT)
    width = math.sqrt(BOLTZMANN * TEMPERATURE / MASS * (1.0 - decay * decay))
    ages = torch.arange(len(steps)).flip(0).double()
    weighted = decay ** ages[:, None, None] * noise  # of the last step; earlier ends are parts of the same sum
    sums = weighted.cumsum(0)
    ends = torch.tensor([STEPS + lag - 1 for lag in LAGS])
    return width * sums[ends] / decay ** ages[ends][:, None, None]


def by_philox(pointer: torch.Tensor, ids: torch.Tensor, steps: torch.Tensor, seed: int) -> torch.Tensor:
    return kernels.philox_normal(pointer, ids, steps, seed, Purpose.LANGEVIN)


def seed_and_step_added(pointer: torch.Tensor, ids: torch.Tensor, steps: torch.Tensor, seed: int) -> torch.Tensor:
    """The broken twin: the noise of one seed is that of the next one, a step later."""
    return kernels.philox_normal(pointer, ids, steps + seed, 42, Purpose.LANGEVIN)


def worst_correlation(draw: Callable[..., torch.Tensor]) -> float:
    """Largest |z| of the correlation of paths of neighbouring seeds, up to five apart and up to five steps apart."""
    paths = torch.stack([free_path(seed, draw) for seed in range(1, 1001)]).flatten(2)
    paths = paths / paths.std()
    middle, worst = len(LAGS) // 2, 0.0
    for apart in range(1, 6):
        for place in range(len(LAGS)):
            products = paths[:-apart, middle] * paths[apart:, place]
            worst = max(worst, abs(float(products.mean() * products.numel() ** 0.5)))
    return worst


def test_a_thousand_seeds_know_nothing_of_each_other() -> None:
    assert worst_correlation(by_philox) < 5.0
    assert worst_correlation(seed_and_step_added) > 50.0


def test_the_paths_are_those_of_the_engine() -> None:
    zeros = torch.zeros(ATOMS, 3, dtype=torch.float64)
    masses = torch.full((ATOMS,), MASS, dtype=torch.float64)
    atoms = AtomicData(positions=zeros, atomic_numbers=torch.full((ATOMS,), 2), atomic_masses=masses)
    atoms.velocities, atoms.system_id = zeros.clone(), torch.tensor([[7]])
    engine = NVTLangevin(Wells(1e-30), DT, TEMPERATURE, FRICTION, random_seed=5, keep_velocities=True)
    engine.warns_of_start = False
    batch = engine.run(Batch.from_data_list([atoms]), STEPS)
    expected = free_path(5, by_philox)[len(LAGS) // 2]
    assert torch.allclose(batch.velocities, expected, rtol=0.0, atol=1e-12)
    assert float(batch.velocities.abs().max()) > 0.01
