"""The slope test by the package physical_validation, on samples of independent systems, and by our own few lines."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exact import CANONICAL, ISOBARIC, PRESSURE, TEMPERATURE, K
from report import HERE, PEERS

from athanor.data import Batch
from athanor.testing.ensemble_contract import observe
from athanor.testing.exact_answers import BoxEnsemble, well_systems
from athanor.testing.exact_models import CosineBox, Wells
from athanor.testing.slopes import likeliest_slope
from athanor.units import BOLTZMANN

STATES = {"temperature": (1.15 * TEMPERATURE, PRESSURE), "pressure": (TEMPERATURE, 1.4 * PRESSURE)}
"""The second state of each pair; the first is `TEMPERATURE` and `PRESSURE`."""


def slopes(smoke: bool) -> dict[str, dict[str, float]]:
    """Deviations of the slopes from theory, in standard errors, by engine and pair."""
    systems, n_samples = (100, 2) if smoke else (400, 6)
    pairs = {}
    for name in ("NVTLangevin", "NVTNoseHoover", "NVTCSVR"):
        pairs[f"{name}, temperature"] = _wells(name, systems, n_samples)
    for name in ISOBARIC:
        for pair in STATES:
            pairs[f"{name}, {pair}"] = _box(name, pair, systems, n_samples)
    theirs = _physical_validation(pairs)
    return {
        name: {"by our lines": _deviation(pair), "by physical_validation": theirs[name]} for name, pair in pairs.items()
    }


def _wells(name: str, systems: int, n_samples: int) -> dict[str, Any]:
    model, temperatures = Wells(0.2, 2.0), (TEMPERATURE, STATES["temperature"][0])
    found = {"temperatures": temperatures}
    for which, T in enumerate(temperatures):
        batch = Batch.from_data_list(well_systems(model, T, systems, 4, 301 + which))
        seen = observe(CANONICAL[name](model, T), batch, {"energy": lambda batch: batch.energy}, n_samples, 300)
        found[f"energy {which}"] = seen["energy"].numpy()
    return found


def _box(name: str, pair: str, systems: int, n_samples: int) -> dict[str, Any]:
    model, second = CosineBox(K), STATES[pair]
    states = ((TEMPERATURE, PRESSURE), second)
    found: dict[str, Any] = {"temperatures": (TEMPERATURE, second[0]), "pressures": (PRESSURE, second[1])}
    for which, (T, P) in enumerate(states):
        batch = Batch.from_data_list(BoxEnsemble(model, T, P).systems(systems, 401 + which))
        engine = ISOBARIC[name](model, T, P, "isotropic")
        seen = observe(
            engine, batch, {"energy": lambda batch: batch.energy, "volume": lambda batch: batch.volume}, n_samples, 300
        )
        found |= {f"{each} {which}": values.numpy() for each, values in seen.items()}
    return found


def _deviation(pair: dict[str, Any]) -> float:
    """By our own lines: of the energy, the enthalpy, or the volume."""
    first, second = (1.0 / (BOLTZMANN * T) for T in pair["temperatures"])
    pressures = pair.get("pressures", (0.0, 0.0))
    if pressures[0] != pressures[1]:
        slope = likeliest_slope(*(torch.from_numpy(pair[f"volume {which}"]) for which in (0, 1)))
        return (slope.value + (pressures[1] - pressures[0]) * first) / slope.error
    values = [pair[f"energy {which}"] + pressures[0] * pair.get(f"volume {which}", 0.0) for which in (0, 1)]
    slope = likeliest_slope(*(torch.from_numpy(each) for each in values))
    return (slope.value - (first - second)) / slope.error


def _physical_validation(pairs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """By the package, in the environment of ``make bench-peers``."""
    with tempfile.TemporaryDirectory() as folder:
        for number, pair in enumerate(pairs.values()):
            np.savez(Path(folder) / f"{number}.npz", **pair)
        told = subprocess.run(
            [str(PEERS), str(HERE / "slopes_of_physical_validation.py"), folder, str(len(pairs))],
            capture_output=True, text=True, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    return dict(zip(pairs, json.loads(told.stdout.splitlines()[-1]), strict=True))
