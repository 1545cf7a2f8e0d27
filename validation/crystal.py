"""A crystal of magnesium oxide with CHGNet: the volume of every barostat beside ASE's equations of the same kind.

ASE moves the same forces with its own Martyna-Tobias-Klein integrator, so that what differs is the barostat alone.
"""

from __future__ import annotations

from typing import Any

import torch
from ase import units
from ase.build import bulk
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from report import Row, of_blocks

import athanor
from athanor.data import AtomicData, Batch
from athanor.dynamics import NPT, NPTLangevin
from athanor.testing.ensemble_contract import observe
from athanor.units import GPa

TEMPERATURE, PRESSURE, DT = 600.0, 1.0 * GPa, 2.0
COMMON: dict[str, Any] = {"dt": DT, "temperature": TEMPERATURE, "pressure": PRESSURE, "barostat_time": 400.0}
ENGINES: dict[str, Any] = {
    "NPT, isotropic": lambda model: NPT(model, **COMMON, thermostat_time=100.0),
    "NPT, triclinic": lambda model: NPT(model, **COMMON, thermostat_time=100.0, pressure_coupling="triclinic"),
    "NPTLangevin, isotropic": lambda model: NPTLangevin(model, **COMMON, friction=0.005),
}
SYSTEMS = 4


def crystal() -> Any:
    """Eight atoms of rock salt."""
    return bulk("MgO", "rocksalt", a=4.25, cubic=True)


def measure(smoke: bool) -> list[Row]:
    """Return volumes, those of ASE as what they should be."""
    steps = 40 if smoke else 1800
    theirs = {coupling: _ase(coupling, SYSTEMS * steps, smoke) for coupling in ("isotropic", "triclinic")}
    rows = []
    for name, make in ENGINES.items():
        found = of_blocks(_ours(make, steps), 2)
        rows.append(Row(name, "volume, Å³", *found, *theirs[name.split(", ")[1]]))
    return rows


def _ours(make: Any, steps: int) -> torch.Tensor:
    """Volumes [n, S] after as long as it takes a crystal without displacements to take up its heat."""
    model = athanor.models.get("chgnet")
    engine = make(model)
    for hook in model.make_neighbor_hooks():
        engine.register_hook(hook)
    batch = Batch.from_data_list([AtomicData.from_atoms(crystal(), dtype=torch.float64)] * SYSTEMS)
    engine.run(batch, 2 * steps // 5)
    return observe(engine, batch, {"volume": lambda batch: batch.volume}, steps // 10, 10)["volume"]


def _ase(coupling: str, steps: int, smoke: bool) -> tuple[float, float]:
    """Mean volume of ASE and its standard error, from eight blocks of one long run."""
    atoms = crystal()
    atoms.calc = athanor.calculator("chgnet")
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE)
    Stationary(atoms)
    engine = (IsotropicMTKNPT if coupling == "isotropic" else MTKNPT)(
        atoms, timestep=DT * units.fs, temperature_K=TEMPERATURE, pressure_au=PRESSURE, tdamp=100.0 * units.fs,
        pdamp=400.0 * units.fs,
    )  # fmt: skip
    volumes: list[float] = []
    engine.run(steps // 8)
    engine.attach(lambda: volumes.append(atoms.get_volume()), interval=5)
    engine.run(steps // 8 * 7)
    values = torch.tensor(volumes, dtype=torch.float64)
    return of_blocks(values[:, None], 8)
