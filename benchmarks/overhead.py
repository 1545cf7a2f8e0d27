"""Engine overhead: CPU time of a step around a model that returns stored forces, 64 systems of 32 atoms, one thread.

There is no neighbour list and no potential: what is left is the driver, the integrator and the checks of each step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from harness import Row, cpu, interleave, main
from torch import nn

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics import FIRE, NVE, FIREVariableCell, NVTLangevin
from athanor.models.base import BaseModelMixin, ModelConfig

ENGINES = {
    "NVE": lambda model: NVE(model, dt=1.0),
    "NVTLangevin": lambda model: NVTLangevin(model, dt=1.0, temperature=300.0, friction=0.01, random_seed=1),
    "FIRE": lambda model: FIRE(model, dt=0.1),
    "FIREVariableCell": lambda model: FIREVariableCell(model, dt=0.1),
}


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


def measure(smoke: bool = False) -> list[Row]:
    """Return one row for each engine, in µs of CPU time a step."""
    systems, atoms, steps, rounds = (2, 4, 3, 2) if smoke else (64, 32, 200, 7)
    athanor.set_num_threads(1)
    rows = []
    for name, build in ENGINES.items():
        engine, batch = build(StoredForces(systems * atoms, systems)), crystals(systems, atoms)
        engine.run(batch, steps)
        rows.append(interleave(name, "µs", {"athanor": partial(cost_of_a_step, engine, batch, steps)}, rounds))
        assert bool((batch.step == (rounds + 1) * steps).all()), "a system was set aside during the benchmark"
    return rows


if __name__ == "__main__":
    main(measure)
