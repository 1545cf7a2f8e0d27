"""Slopes by physical_validation: ``python slopes_of_physical_validation.py FOLDER COUNT``, one line of JSON at the end.

Runs by itself in an environment that has the package; nothing of ours is imported. FOLDER holds ``0.npz`` and so on,
each a pair of ensembles as `slopes.py` samples them, in eV, Å and K.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from physical_validation.data import EnsembleData, ObservableData, SimulationData, UnitData
from physical_validation.ensemble import check

EV_IN_KJ_PER_MOL, EV_PER_CUBIC_ANGSTROM_IN_BAR = 96.48533212, 1602176.634
UNITS = UnitData(
    kb=8.617333262e-5,
    energy_conversion=EV_IN_KJ_PER_MOL,
    length_conversion=0.1,
    volume_conversion=1e-3,
    temperature_conversion=1.0,
    pressure_conversion=EV_PER_CUBIC_ANGSTROM_IN_BAR,
    time_conversion=1e-3,
)


def simulation(pair: dict[str, np.ndarray], which: int) -> SimulationData:
    """Return one of a pair in the words of the package."""
    energy, temperature = pair[f"energy {which}"].ravel(), float(pair["temperatures"][which])
    if "pressures" not in pair:
        ensemble = EnsembleData("NVT", natoms=4, volume=1.0, temperature=temperature)
        return SimulationData(units=UNITS, ensemble=ensemble, observables=ObservableData(potential_energy=energy))
    pressure, volume = float(pair["pressures"][which]), pair[f"volume {which}"].ravel()
    ensemble = EnsembleData("NPT", natoms=8, pressure=pressure, temperature=temperature)
    return SimulationData(
        units=UNITS, ensemble=ensemble, observables=ObservableData(potential_energy=energy, volume=volume)
    )


def main() -> None:
    """Print the deviation of each pair in standard errors."""
    found = []
    for number in range(int(sys.argv[2])):
        with np.load(Path(sys.argv[1]) / f"{number}.npz") as file:
            pair = dict(file)
        quantiles = check(simulation(pair, 0), simulation(pair, 1), data_is_uncorrelated=True, verbosity=0)
        found.append(float(max(quantiles, key=abs)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
