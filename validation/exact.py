"""The checks of ensembles at ten times their size, with seeds of their own, and what they show in pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from athanor.data import Batch
from athanor.dynamics import (
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    Brownian,
    NPTCRescale,
    NPTLangevin,
    NVTAndersen,
    NVTLangevin,
    NVTNoseHoover,
)
from athanor.testing.dynamics_contract import argon_crystal, argon_model, conserved_energy, with_neighbor_hooks
from athanor.testing.ensemble_contract import check_canonical, check_isobaric, observe
from athanor.testing.exact_answers import COUPLINGS, BoxEnsemble
from athanor.testing.exact_models import CosineBox

TEMPERATURE, PRESSURE, K = 300.0, 4e-4, 0.02
CANONICAL: dict[str, Callable[..., Any]] = {
    "NVTLangevin": lambda model, T: NVTLangevin(model, 2.0, T, 0.02, random_seed=11),
    "NVTNoseHoover": lambda model, T: NVTNoseHoover(model, 2.0, T, 100.0),
    "NVTCSVR": lambda model, T: NVTCSVR(model, 2.0, T, 100.0, random_seed=11),
    "NVTAndersen": lambda model, T: NVTAndersen(model, 2.0, T, 0.02, random_seed=11),
    "Brownian": lambda model, T: Brownian(model, 2.0, T, 0.05, random_seed=11),
}
ISOBARIC: dict[str, Callable[..., Any]] = {
    "NPT": lambda model, T, P, coupling: NPT(model, 10.0, T, P, 500.0, 300.0, coupling),
    "NPTLangevin": lambda model, T, P, coupling: NPTLangevin(model, 10.0, T, P, 0.005, 500.0, coupling, 11),
    "NPTCRescale": lambda model, T, P, coupling: NPTCRescale(
        model, 5.0, T, P, 1000.0, 300.0, coupling, 1.0 / PRESSURE, 11
    ),
}
CONSERVED: dict[str, Callable[..., Any]] = {
    "NVE": lambda model, dt: NVE(model, dt),
    "NVTNoseHoover": lambda model, dt: NVTNoseHoover(model, dt, 80.0, 200.0),
    "NVTCSVR": lambda model, dt: NVTCSVR(model, dt, 60.0, 200.0),
    "NVTLangevin": lambda model, dt: NVTLangevin(model, dt, 60.0, 0.002),
    "NVTAndersen": lambda model, dt: NVTAndersen(model, dt, 60.0, 0.001),
    "NPH": lambda model, dt: NPH(model, dt, PRESSURE, 500.0, "triclinic"),
    "NPT": lambda model, dt: NPT(model, dt, 80.0, PRESSURE, 500.0, 200.0, "triclinic"),
    "NPTLangevin": lambda model, dt: NPTLangevin(model, dt, 60.0, PRESSURE, 0.002, 500.0, "triclinic"),
    "NPTCRescale": lambda model, dt: NPTCRescale(model, dt, 60.0, PRESSURE, 2000.0, 200.0, "triclinic"),
}


def canonical(smoke: bool) -> dict[str, dict[str, float]]:
    """Deviations of energies in wells, by engine."""
    size = {"systems": 64, "n_samples": 4} if smoke else {"systems": 3000, "n_samples": 100, "interval": 20}
    return {
        name: check_canonical(make, kinetic=name != "Brownian", seed=101, **size) for name, make in CANONICAL.items()
    }


def isobaric(smoke: bool) -> dict[str, dict[str, float]]:
    """Deviations of volumes, pressures and energies in the cosine box, by engine and coupling, and of the ideal gas."""
    size = {"systems": 64, "n_samples": 40} if smoke else {"systems": 300, "n_samples": 60, "interval": 25}
    found = {}
    for name, make in ISOBARIC.items():
        for coupling in COUPLINGS:
            found[f"{name}, {coupling}"] = check_isobaric(
                lambda model, T, P, make=make, coupling=coupling: make(model, T, P, coupling),
                coupling,
                seed=101,
                **size,
            )
    for name in ("NPTLangevin", "NPTCRescale"):
        gas = partial(ISOBARIC[name], coupling="isotropic")
        found[f"{name}, ideal gas"] = check_isobaric(gas, k=0.0, seed=101, **size)
    return found


def volumes(smoke: bool) -> dict[str, Any]:
    """Histograms of the volume for each coupling and engine, and the exact density."""
    systems, n_samples = (32, 5) if smoke else (200, 30)
    shown: dict[str, Any] = {}
    for coupling in COUPLINGS:
        ensemble = BoxEnsemble(CosineBox(K), TEMPERATURE, PRESSURE, 8, coupling)
        grid, density = ensemble.density()
        kept = (grid < 900.0) & (grid > 20.0)
        bins = torch.linspace(0.0, 900.0, 46, dtype=torch.float64)
        shown[coupling] = {
            "bins": bins.tolist(),
            "grid": grid[kept][::8].tolist(),
            "exact": density[kept][::8].tolist(),
        }
        for name, make in ISOBARIC.items():
            batch = Batch.from_data_list(ensemble.systems(systems, 201))
            engine = make(ensemble.model, TEMPERATURE, PRESSURE, coupling)
            seen = observe(engine, batch, {"volume": lambda batch: batch.volume}, n_samples, 25)["volume"]
            counts = torch.histogram(seen.flatten(), bins=bins).hist
            shown[coupling][name] = (counts / (counts.sum() * 20.0)).tolist()
    return shown


def orders(smoke: bool) -> dict[str, Any]:
    """Fluctuation of what is conserved, eV per atom, for each time step in fs."""
    steps = (16.0, 8.0) if smoke else (32.0, 16.0, 8.0, 4.0, 2.0)
    shown: dict[str, Any] = {"dt": list(steps)}
    for name, make in CONSERVED.items():
        shown[name] = []
        for dt in steps:
            engine = with_neighbor_hooks(make(argon_model(), dt))
            batch = Batch.from_data_list([argon_crystal(2, number) for number in range(4 if smoke else 16)])
            seen = []
            for _ in range(30):
                engine.run(batch, round(32.0 / dt))
                seen.append(conserved_energy(engine, batch) / batch.num_nodes_per_graph)
            shown[name].append(float(torch.stack(seen).std(dim=0).mean()))
    return shown
