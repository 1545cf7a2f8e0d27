"""Engine overhead: CPU time of a step around a model that returns stored forces, 64 systems of 32 atoms, one thread.

There is no neighbour list and no potential: what is left is the driver, the integrator and the checks of each step.
torch-sim's integrators, where it has them for batches, run in the environment of the peers (`overhead_programs.py`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lennard_jones
import torch
from harness import Row, cpu, interleave, main, run_json
from torch import nn

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics import (
    FIRE,
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    FIREVariableCell,
    NPTCRescale,
    NPTLangevin,
    NVTLangevin,
    NVTNoseHoover,
)
from athanor.models.base import BaseModelMixin, ModelConfig

UNDER_PRESSURE = {"pressure": 0.0, "barostat_time": 1e6}
ENGINES = {
    "NVE": lambda model: NVE(model, dt=1.0, keep_velocities=True),
    "NVTLangevin": lambda model: NVTLangevin(model, dt=1.0, temperature=300.0, friction=0.01, random_seed=1),
    "NVTNoseHoover": lambda model: NVTNoseHoover(model, dt=1.0, temperature=300.0, thermostat_time=100.0),
    "NVTCSVR": lambda model: NVTCSVR(model, dt=1.0, temperature=300.0, thermostat_time=100.0),
    "NPH": lambda model: NPH(model, dt=1.0, keep_velocities=True, **UNDER_PRESSURE),
    "NPT": lambda model: NPT(model, dt=1.0, temperature=300.0, thermostat_time=100.0, **UNDER_PRESSURE),
    "NPTLangevin": lambda model: NPTLangevin(model, dt=1.0, temperature=300.0, friction=0.01, **UNDER_PRESSURE),
    "NPTCRescale": lambda model: NPTCRescale(model, dt=1.0, temperature=300.0, thermostat_time=100.0, **UNDER_PRESSURE),
    "FIRE": lambda model: FIRE(model, dt=0.1),
    "FIREVariableCell": lambda model: FIREVariableCell(model, dt=0.1),
}


IN_TORCH_SIM = ("NVE", "NVTLangevin", "NPTLangevin")


class StoredForces(nn.Module, BaseModelMixin):
    """A model that returns the same small forces, zero energy and zero stress at every call."""

    def __init__(self, atoms: int, systems: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.results = {
            "energy": torch.zeros(systems, 1, dtype=torch.float64),
            "forces": 1e-3 * torch.randn(atoms, 3, dtype=torch.float64, generator=generator),
            "stress": torch.zeros(systems, 3, 3, dtype=torch.float64),
        }
        self.model_config = ModelConfig(
            outputs=frozenset(self.results), active_outputs={"energy", "forces"}, supports_pbc=True
        )

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
        return data

    def forward(self, data: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {key: self.results[key] for key in self.model_config.active_outputs or ()}


def crystals(systems: int, atoms: int) -> Batch:
    """Return `systems` boxes of `atoms` argon atoms at random places; nothing here depends on the places."""
    generator = torch.Generator().manual_seed(0)
    return Batch.from_data_list(
        [
            AtomicData(
                positions=10 * torch.rand(atoms, 3, dtype=torch.float64, generator=generator),
                atomic_numbers=torch.full((atoms,), 18),
                cell=10 * torch.eye(3, dtype=torch.float64)[None],
                pbc=torch.ones(1, 3, dtype=torch.bool),
            )
            for _ in range(systems)
        ]
    )


def cost_of_a_step(engine: Any, batch: Batch, steps: int) -> float:
    """Return µs of CPU time for one of `steps` steps."""
    return 1e6 * cpu(lambda: engine.run(batch, steps)) / steps


def cost_in_torch_sim(name: str, steps: int) -> float:
    """Return µs of CPU time for one of `steps` steps."""
    program = str(Path(__file__).with_name("overhead_programs.py"))
    return float(run_json([str(lennard_jones.PEERS), program, name, "--steps", str(steps)])["microseconds"])


def measure(smoke: bool = False) -> list[Row]:
    """Return one row for each engine, in µs of CPU time a step."""
    systems, atoms, steps, rounds = (2, 4, 3, 2) if smoke else (64, 32, 200, 7)
    athanor.set_num_threads(1)
    rows = []
    for name, build in ENGINES.items():
        engine, batch = build(StoredForces(systems * atoms, systems)), crystals(systems, atoms)
        engine.run(batch, steps)
        contestants = {"athanor": partial(cost_of_a_step, engine, batch, steps)}
        fewer = {"athanor": rounds}
        if name in IN_TORCH_SIM and not smoke and "torch-sim" in lennard_jones.programs():
            contestants["torch-sim"], fewer["torch-sim"] = partial(cost_in_torch_sim, name, steps), 3
        rows.append(interleave(name, "µs", contestants, fewer))
        assert bool((batch.step == (rounds + 1) * steps).all()), "a system was set aside during the benchmark"
    return rows


if __name__ == "__main__":
    main(measure)
