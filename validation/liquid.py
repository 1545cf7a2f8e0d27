"""A Lennard-Jones liquid under pressure, from 20 % too dense and 20 % too dilute, beside LAMMPS.

Every barostat in every coupling must bring both to the same density, within their errors, and that of LAMMPS. A liquid
holds no shape: under anisotropic and triclinic coupling its cell wanders, and its density must not care.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from report import HERE, PEERS, Row, of_blocks

from athanor.data import Batch
from athanor.dynamics import NPT, NPTCRescale, NPTLangevin
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.exact_answers import COUPLINGS
from athanor.testing.systems import FCC, crystal

STATE: dict[str, Any] = {
    "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5, "mass": 39.948, "temperature": 140.0, "pressure": 4e-4,
    "cells": 4, "edge": 5.5, "dt": 4.0, "thermostat_time": 200.0, "barostat_time": 1000.0, "settle": 20000,
    "steps": 200000, "interval": 50,
}  # fmt: skip
DENSITY = 0.742 / 3.4**3  # about, 1/Å³: what too dense and too dilute are taken from
ENGINES = {
    "NPT": lambda model, coupling: NPT(model, **_common(coupling), thermostat_time=STATE["thermostat_time"]),
    "NPTLangevin": lambda model, coupling: NPTLangevin(model, **_common(coupling), friction=0.005),
    "NPTCRescale": lambda model, coupling: NPTCRescale(
        model, **_common(coupling), thermostat_time=STATE["thermostat_time"], compressibility=300.0
    ),
}


def _common(coupling: str) -> dict[str, Any]:
    names = ("dt", "temperature", "pressure", "barostat_time")
    return {name: STATE[name] for name in names} | {"pressure_coupling": coupling}


def measure(smoke: bool) -> tuple[list[Row], dict[str, Any]]:
    """Return the densities, and their course from both sides for a plot."""
    theirs = lammps(smoke)
    rows, course = [], {}
    for name, make in ENGINES.items():
        for coupling in COUPLINGS:
            densities = run(make, coupling, smoke)
            course[f"{name}, {coupling}"] = [densities[:, half].mean(1).tolist() for half in (slice(0, 3), slice(3, 6))]
            settled = densities[len(densities) // 4 :]
            sides = {"too dense": settled[:, :3], "too dilute": settled[:, 3:], "both": settled}
            for side, values in sides.items():
                found, error = of_blocks(values, 5)
                rows.append(Row(f"{name}, {coupling}, from {side}", "density, 1/σ³", found, error, *theirs))
    return rows, {"course": course, "interval": STATE["interval"] * STATE["dt"] / 1000.0, "lammps": theirs[0]}


def run(make: Any, coupling: str, smoke: bool) -> torch.Tensor:
    """Reduced densities [n, 6], of three systems that start too dense and three too dilute."""
    cells, steps = (2, 200) if smoke else (STATE["cells"], 15000)
    model = LennardJonesModelWrapper(STATE["epsilon"], STATE["sigma"], STATE["cutoff"])
    systems = []
    for number, factor in enumerate([1.2] * 3 + [1.0 / 1.2] * 3):
        edge = (4.0 / (DENSITY * factor)) ** (1.0 / 3.0)
        cell = edge * torch.eye(3, dtype=torch.float64)
        systems.append(crystal(FCC, cell, [18] * 4, (cells, cells, cells), jitter=0.3, seed=number))
    batch = Batch.from_data_list(systems)
    engine = make(model, coupling)
    for hook in model.make_neighbor_hooks():
        hook.skin = 1.0
        engine.register_hook(hook)
    densities = []
    for _ in range(steps // STATE["interval"]):
        engine.run(batch, STATE["interval"])
        densities.append(batch.num_nodes_per_graph * STATE["sigma"] ** 3 / batch.volume.flatten())
    return torch.stack(densities)


def lammps(smoke: bool) -> tuple[float, float]:
    """Density of LAMMPS and its standard error, over two long runs in twenty blocks each."""
    if not PEERS.exists():
        raise FileNotFoundError(f"there is no LAMMPS at {PEERS}; `make bench-peers` sets it up")
    changes = {"settle": 100, "steps": 1000, "interval": 10} if smoke else {}
    densities = []
    for seed in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            state = Path(folder) / "state.json"
            state.write_text(json.dumps(STATE | changes | {"seed": seed}), encoding="utf-8")
            told = subprocess.run(
                [str(PEERS), str(HERE / "lammps_liquid.py"), str(state)],
                capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        densities.append(torch.tensor(json.loads(told.stdout)["density"], dtype=torch.float64))
    return of_blocks(torch.stack(densities, dim=1) * STATE["sigma"] ** 3, 20)
