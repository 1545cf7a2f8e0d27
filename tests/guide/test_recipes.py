"""Scripts as users of the design write them, run with nothing but the package's name replaced."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

SYSTEMS = """
import torch
from nvalchemi.data import AtomicData, Batch
from nvalchemi.models.lj import LennardJonesModelWrapper


def crystals(count=3, edge=10.6):
    systems = []
    for number in range(count):
        grid = torch.cartesian_prod(*[torch.arange(2.0)] * 3)
        basis = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
        places = (grid[:, None] + basis).reshape(-1, 3) * edge / 2
        noise = torch.randn(places.shape, generator=torch.Generator().manual_seed(number))
        systems.append(
            AtomicData(
                positions=(places + 0.1 * noise).double(),
                atomic_numbers=torch.full((len(places),), 18),
                cell=edge * torch.eye(3, dtype=torch.float64)[None],
                pbc=torch.ones(1, 3, dtype=torch.bool),
            )
        )
    return Batch.from_data_list(systems)


model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.0)
batch = crystals()
"""

RELAX_THEN_MD = """
from nvalchemi.dynamics import FIRE, ConvergenceHook, NVTLangevin

fused = FIRE(model, dt=0.2, convergence_hook=ConvergenceHook.from_fmax(0.05), n_steps=200) + NVTLangevin(
    model, dt=1.0, temperature=300.0, friction=0.01, n_steps=100
)
for hook in model.make_neighbor_hooks():
    fused.register_hook(hook)
fused.run(batch)
"""

CONSTANT_PRESSURE = """
from nvalchemi.dynamics import NPH, NPT, NVTNoseHoover, initialize_velocities

batch.velocities = torch.zeros_like(batch.positions)
initialize_velocities(
    batch.velocities, batch.atomic_masses, torch.full((batch.num_graphs,), 60.0), batch.batch_idx.int(), random_seed=7
)
engines = [
    NVTNoseHoover(model, dt=2.0, temperature=60.0, thermostat_time=100.0, chain_length=3, yoshida_order=5),
    NPT(
        model, dt=2.0, temperature=60.0, pressure=6.3e-7, barostat_time=500.0, thermostat_time=100.0,
        pressure_coupling="triclinic", chain_length=3, n_steps=20,
    ),
    NPH(model, dt=2.0, pressure=torch.full((3,), 6.3e-7), barostat_time=500.0, pressure_coupling="isotropic"),
]
for engine in engines:
    for hook in model.make_neighbor_hooks():
        engine.register_hook(hook)
    engine.run(batch, n_steps=20)
"""

CUSTOM_HOOK_AND_BIAS = """
from nvalchemi.dynamics import NVTLangevin
from nvalchemi.dynamics.hooks import EnergyDriftMonitorHook, FreezeAtomsHook, MaxForceClampHook, NaNDetectorHook
from nvalchemi.hooks import BiasedPotentialHook, DynamicsContext, WrapPeriodicHook
from nvalchemi.dynamics import DynamicsStage


class CountSteps:
    stage = DynamicsStage.AFTER_STEP
    frequency = 2

    def __init__(self):
        self.seen = []

    def __call__(self, ctx: DynamicsContext, stage: DynamicsStage) -> None:
        self.seen.append(ctx.step_count)


def restraint(batch):
    anchors = torch.zeros_like(batch.positions)
    pulled = batch.positions[:, 2:] - 5.0
    energy = torch.zeros(batch.num_graphs, 1, dtype=batch.positions.dtype)
    energy.index_add_(0, batch.batch_idx.long(), 0.5 * 0.01 * pulled**2)
    anchors[:, 2:] = -0.01 * pulled
    return energy, anchors


counter = CountSteps()
engine = NVTLangevin(model, dt=1.0, temperature=60.0, friction=0.05)
for hook in model.make_neighbor_hooks():
    engine.register_hook(hook)
engine.register_hook(BiasedPotentialHook(restraint), stage=DynamicsStage.AFTER_COMPUTE)
engine.register_hook(MaxForceClampHook(max_force=10.0))
engine.register_hook(NaNDetectorHook())
engine.register_hook(FreezeAtomsHook())
engine.register_hook(EnergyDriftMonitorHook(threshold=1.0))
engine.register_hook(WrapPeriodicHook(), stage=DynamicsStage.AFTER_POST_UPDATE)
engine.register_hook(counter)
engine.run(batch, n_steps=10)
"""

CUSTOM_INTEGRATOR = """
from nvalchemi.dynamics import BaseDynamics


class Damped(BaseDynamics):
    __needs_keys__ = {"forces"}
    __provides_keys__ = {"positions", "velocities"}

    def __init__(self, model, dt, **kwargs):
        super().__init__(model, **kwargs)
        self.step_length = dt

    def pre_update(self, batch):
        batch.velocities += 0.5 * self.step_length * batch.forces / batch.atomic_masses[:, None]
        batch.positions += self.step_length * batch.velocities

    def post_update(self, batch):
        batch.velocities += 0.5 * self.step_length * batch.forces / batch.atomic_masses[:, None]
        batch.velocities *= 0.99


batch.velocities = torch.zeros_like(batch.positions)
engine = Damped(model, dt=0.1)
for hook in model.make_neighbor_hooks():
    engine.register_hook(hook)
engine.run(batch, n_steps=30)
"""

RECIPES = {name: text for name, text in list(globals().items()) if name.isupper() and name != "SYSTEMS"}


def run(recipe: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(re.sub(r"\bnvalchemi\b", "athanor", SYSTEMS + recipe), names)
    return names


@pytest.mark.filterwarnings("ignore::athanor.errors.AthanorWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_as_it_stands(name: str) -> None:
    found = run(RECIPES[name])
    batch = found["batch"]
    assert bool(torch.isfinite(batch.positions).all())
    assert not bool(batch.failure_code.any())
    if name == "RELAX_THEN_MD":
        assert batch.status.flatten().tolist() == [2, 2, 2]
    if name == "CUSTOM_HOOK_AND_BIAS":
        assert found["counter"].seen == [0, 2, 4, 6, 8]
    if name == "CONSTANT_PRESSURE":
        assert not torch.allclose(batch.cell[0].diagonal(), torch.tensor(10.6, dtype=torch.float64))
