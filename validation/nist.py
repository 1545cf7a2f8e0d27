"""The Lennard-Jones liquid of NIST: energy and pressure at given densities, and densities at those pressures.

500 atoms, truncated at 3 σ, with the corrections for what is beyond. The reference is Monte Carlo: V. K. Shen, D. W.
Siderius, W. P. Krekelberg, H. W. Hatch, Eds., NIST Standard Reference Simulation Website, NIST Standard Reference
Database 173, doi:10.18434/T4M88Q, table "Lennard-Jones fluid, MC".
"""

from __future__ import annotations

import math
from typing import Any

import torch
from report import Row, of_blocks

from athanor.data import Batch
from athanor.data.observables import pressure, thermal_kinetic_energy
from athanor.dynamics import NPT, NVTCSVR, NVTLangevin, NVTNoseHoover
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.ensemble_contract import observe
from athanor.testing.systems import FCC, crystal
from athanor.units import BOLTZMANN

REFERENCE = {(0.85, 0.776): (-5.5121, 6.7714e-3), (0.85, 0.82): (-5.7947, 0.55355), (0.90, 0.776): (-5.4689, 0.24056),
             (0.90, 0.82): (-5.7456, 0.82386)}  # fmt: skip
"""Energy and pressure by temperature and density, all reduced."""
ENERGY_ERROR, PRESSURE_ERROR = 4.5e-4, 2.7e-3
"""Standard errors of the reference: the largest of those that are given at these states."""
EPSILON, SIGMA, MASS = 0.0104, 3.4, 39.948
CUTOFF = 3.0
REPLICAS = 2


def beyond(density: float) -> tuple[float, float]:
    """What atoms beyond the cutoff add to energy per atom and pressure, if they are spread evenly; reduced."""
    ninth, third = CUTOFF**-9, CUTOFF**-3
    energy = 8.0 / 3.0 * math.pi * density * (ninth / 3.0 - third)
    return energy, 16.0 / 3.0 * math.pi * density**2 * (2.0 / 3.0 * ninth - third)


def measure(smoke: bool) -> list[Row]:
    """Return energies and pressures at constant volume, and densities at constant pressure."""
    steps = 400 if smoke else 8000
    temperatures = torch.tensor([T for T, _ in REFERENCE] * REPLICAS, dtype=torch.float64) * EPSILON / BOLTZMANN
    rows = []
    engines: dict[str, Any] = {
        "NVTNoseHoover": lambda model: NVTNoseHoover(model, 4.0, temperatures, 200.0),
        "NVTCSVR": lambda model: NVTCSVR(model, 4.0, temperatures, 200.0),
    }
    for name, make in engines.items():
        seen = _run(make, steps, smoke)
        for which, ((T, density), exact) in enumerate(REFERENCE.items()):
            tail = beyond(density)
            case = f"{name}, T {T:g}, density {density:g}"
            energy, force = (of_blocks(seen[each][:, which :: len(REFERENCE)], 10) for each in ("energy", "pressure"))
            rows.append(Row(case, "energy", energy[0] + tail[0], energy[1], exact[0], ENERGY_ERROR))
            rows.append(Row(case, "pressure", force[0] + tail[1], force[1], exact[1], PRESSURE_ERROR))
    outside = [exact[1] - beyond(density)[1] for (_, density), exact in REFERENCE.items()] * REPLICAS
    target = torch.tensor(outside, dtype=torch.float64) * EPSILON / SIGMA**3
    seen = _run(lambda model: NPT(model, 4.0, temperatures, target, 1000.0, 200.0), steps, smoke)
    for which, (T, density) in enumerate(REFERENCE):
        found = of_blocks(seen["density"][:, which :: len(REFERENCE)], 10)
        # an error of the pressure is one of the density, by the slope between the two densities of each temperature
        slope = 0.044 / (REFERENCE[T, 0.82][1] - REFERENCE[T, 0.776][1])
        rows.append(Row(f"NPT, T {T:g}", "density", *found, density, PRESSURE_ERROR * slope))
    return rows


def _run(make: Any, steps: int, smoke: bool) -> dict[str, torch.Tensor]:
    """Reduced energies, pressures and densities [n, S] after a fifth of `steps`."""
    model = LennardJonesModelWrapper(EPSILON, SIGMA, CUTOFF * SIGMA)
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    cells = 2 if smoke else 5
    systems = []
    for replica in range(REPLICAS):
        for number, (_, density) in enumerate(REFERENCE):
            cell = SIGMA * (4.0 / density) ** (1.0 / 3.0) * torch.eye(3, dtype=torch.float64)
            seed = 10 * replica + number
            systems.append(crystal(FCC, cell, [18] * 4, (cells, cells, cells), jitter=0.3, seed=seed))
    batch = Batch.from_data_list(systems)
    melting, engine = NVTLangevin(model, 4.0, 3.0 * EPSILON / BOLTZMANN, 0.01), make(model)
    for each in (melting, engine):
        for hook in model.make_neighbor_hooks():
            hook.skin = 1.0
            each.register_hook(hook)
    melting.run(batch, steps // 10)  # a crystal under pressure would stay one
    batch.velocities = None
    engine.run(batch, steps // 5)
    atoms = batch.num_nodes_per_graph
    return observe(
        engine,
        batch,
        {
            "energy": lambda batch: batch.energy.flatten() / atoms / EPSILON,
            "pressure": lambda batch: pressure(batch).flatten() * SIGMA**3 / EPSILON,
            "density": lambda batch: atoms * SIGMA**3 / batch.volume.flatten(),
            "kinetic": thermal_kinetic_energy,
        },
        steps // 20,
        20,
    )
