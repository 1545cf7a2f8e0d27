"""The integrators of torch-sim around stored forces: ``python overhead_programs.py NVE``, one line of JSON.

Runs by itself, in the environment of the peers. The systems are those of `overhead.py`. Its chains of Nosé-Hoover
thermostats (0.3.0) are for one system at a time, and are not among them.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

INTERNAL_TIME = 10.180505717871
HEAT = 300.0 * 8.617333262e-5


class StoredForces:
    """Returns the same small forces, zero energy and zero stress at every call."""

    device, dtype = torch.device("cpu"), torch.float64
    compute_forces = compute_stress = True

    def __init__(self, systems: int, atoms: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.results = {
            "energy": torch.zeros(systems, dtype=torch.float64),
            "forces": 1e-3 * torch.randn(systems * atoms, 3, dtype=torch.float64, generator=generator),
            "stress": torch.zeros(systems, 3, 3, dtype=torch.float64),
        }

    def __call__(self, state: Any) -> dict[str, torch.Tensor]:
        return dict(self.results)


def integrator(name: str, model: StoredForces) -> Any:
    """Return how to begin and how to do a step, in eV, Å and amu."""
    from torch_sim.integrators import npt_langevin, nve, nvt_langevin

    dt, heat, none = (torch.tensor(value, dtype=torch.float64) for value in (1.0 / INTERNAL_TIME, HEAT, 0.0))
    if name == "NVE":
        return nve(model, dt=dt, kT=heat)
    if name == "NVTLangevin":
        return nvt_langevin(model, dt=dt, kT=heat)
    return npt_langevin(model, dt=dt, kT=heat, external_pressure=none, b_tau=1e3 * dt)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["NVE", "NVTLangevin", "NPTLangevin"])
    parser.add_argument("--systems", type=int, default=64)
    parser.add_argument("--atoms", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    systems, atoms = options.systems, options.atoms
    from torch_sim.state import SimState

    state = SimState(
        positions=10 * torch.rand(systems * atoms, 3, dtype=torch.float64),
        masses=torch.full((systems * atoms,), 39.95, dtype=torch.float64),
        cell=10 * torch.eye(3, dtype=torch.float64).repeat(systems, 1, 1),
        pbc=True,
        atomic_numbers=torch.full((systems * atoms,), 18),
        system_idx=torch.arange(systems).repeat_interleave(atoms),
    )
    begin, update = integrator(options.name, StoredForces(systems, atoms))
    now = begin(state, kT=torch.tensor(HEAT, dtype=torch.float64), seed=1)
    for _ in range(options.steps):
        now = update(now)
    started = time.process_time()
    for _ in range(options.steps):
        now = update(now)
    print(json.dumps({"microseconds": 1e6 * (time.process_time() - started) / options.steps}))


if __name__ == "__main__":
    main()
