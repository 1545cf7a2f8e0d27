"""The contract of ensembles: checks that anybody can run on an integrator of their own, against exact answers.

Hundreds of independent systems run in one batch. Each gives one average, and their spread is an honest standard error:
a deviation from the exact answer is told in standard errors, and more than `LIMIT` of them is a fault. Systems start in
the exact ensemble (`athanor.testing.exact_answers`), so that nothing has to settle, and each must move through a good
part of it by itself. What a wrong mass of a thermostat or a cell changes is a period, and stands in
`athanor.testing.period_contract`.

Each check takes a function that makes an engine, raises AssertionError with the numbers if the engine does not keep the
promise, and returns them. Nothing here needs a test framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data.batch import Batch
from athanor.data.observables import pressure, thermal_kinetic_energy, total_stress
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks
from athanor.testing.exact_answers import COUPLINGS, BoxEnsemble, Moments, kinetic_moments, well_energy, well_systems
from athanor.testing.exact_models import CosineBox, Wells
from athanor.testing.slopes import Slope, likeliest_slope
from athanor.units import BOLTZMANN

if TYPE_CHECKING:
    from athanor.data.atomic_data import AtomicData
    from athanor.dynamics.engine import BaseDynamics

LIMIT = 5.0
"""Standard errors; with 200 checks, chance exceeds this in one of 9,000 choices of seeds."""
MOVED = 0.25
"""Smallest part of the variance of a quantity that a system alone must pass through, or it did not move."""

Quantities = Mapping[str, Callable[[Batch], Tensor]]
Findings = dict[str, float]


def observe(
    engine: BaseDynamics, batch: Batch, quantities: Quantities, n_samples: int, interval: int
) -> dict[str, Tensor]:
    """Return `quantities`, each a function of the batch [B], after every `interval` steps, [n_samples, B]."""
    engine.warns_of_start = False
    seen: dict[str, list[Tensor]] = {name: [] for name in quantities}
    for _ in range(n_samples):
        engine.run(batch, interval)
        for name, quantity in quantities.items():
            seen[name].append(quantity(batch).reshape(-1).double().clone())
    return {name: torch.stack(values) for name, values in seen.items()}


def deviation(values: Tensor, exact: float = 0.0) -> float:
    """Return by how many standard errors the mean over systems of their means of `values` [n, S] is off `exact`."""
    means = values.mean(0)
    return float((means.mean() - exact) / (means.std() / math.sqrt(len(means))).clamp_min(1e-300))


def deviations(name: str, values: Tensor, exact: Moments) -> Findings:
    """Return the deviations of mean and variance of `values` [n, S], and of the halves of the run from each other.

    The error of a variance grows with it: that relative to the variance found is taken for that of the exact one.
    """
    half, squares = len(values) // 2, (values - exact.mean) ** 2
    return {
        f"mean of {name}": deviation(values, exact.mean),
        f"variance of {name}": deviation(squares, exact.variance) * float(squares.mean()) / exact.variance,
        f"halves of {name}": deviation(values[:half] - values[half : 2 * half]),
    }


def judge(found: Findings, moved: Mapping[str, Tensor] | None = None) -> Findings:
    """Return `found` if no deviation is above `LIMIT`, and each system went through a good part of what `moved`.

    Raises
    ------
    AssertionError
        Otherwise, with all numbers.
    """
    told = ", ".join(f"{name} {value:+.1f}" for name, value in found.items())
    bad = [name for name, value in found.items() if not abs(value) < LIMIT]
    assert not bad, f"{', '.join(bad)}: more than {LIMIT:g} standard errors off the exact answer ({told})"
    for name, values in (moved or {}).items():
        part = float(values.var(dim=0).mean() / values.var())
        assert part > MOVED, f"systems keep their own `{name}`: each passes through {part:.0%} of its variance ({told})"
    return found


def _in_order(groups: Sequence[list[AtomicData]]) -> Batch:
    """Return one batch of groups of systems; the same places of two groups share no random numbers."""
    return Batch.from_data_list([system for group in groups for system in group])


def _rows(values: Sequence[float], count: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(count)


# ------------------------------------------------------------------------------------------------ constant temperature


def check_canonical(
    make_engine: Callable[[Any, Tensor], BaseDynamics],
    temperature: float = 300.0,
    *,
    systems: int = 256,
    atoms: int = 4,
    n_samples: int = 40,
    interval: int = 10,
    kinetic: bool = True,
    seed: int = 1,
) -> Findings:
    """Check kinetic and potential energies in anharmonic wells, at `temperature` and one 20 % higher.

    Mean and variance of both against Gamma(dof/2, kT) and quadrature, halves of the run against each other, and the
    ratio of both distributions of the potential energy by its slope.

    Parameters
    ----------
    make_engine
        ``(model, temperatures)`` to engine; one temperature for each of the two times `systems` systems, K [B]. The
        wells have periods of 290 and 500 fs at the bottom.
    temperature
        K.
    systems, atoms
        Number of independent systems at each temperature, and of atoms in each.
    n_samples, interval
        How often energies are read, after how many steps each time.
    kinetic
        Whether the method has velocities that mean anything.
    seed
        Of the places and velocities at the start.
    """
    temperatures = (temperature, 1.2 * temperature)
    model = Wells(0.2, 2.0)
    groups = [well_systems(model, T, systems, atoms, seed + which) for which, T in enumerate(temperatures)]
    batch = _in_order(groups)
    quantities: dict[str, Callable[[Batch], Tensor]] = {"energy": lambda batch: batch.energy}
    if kinetic:
        quantities["kinetic energy"] = thermal_kinetic_energy
    seen = observe(make_engine(model, _rows(temperatures, systems)), batch, quantities, n_samples, interval)
    found: Findings = {}
    for T, name, energies in zip(temperatures, ("", " at 1.2 T"), seen["energy"].split(systems, 1), strict=True):
        mean, variance = well_energy(model, T)
        found |= deviations(f"potential energy{name}", energies, Moments(atoms * mean, atoms * variance))
    if kinetic:
        for T, name, values in zip(
            temperatures, ("", " at 1.2 T"), seen["kinetic energy"].split(systems, 1), strict=True
        ):
            found |= deviations(f"kinetic energy{name}", values, kinetic_moments(3.0 * atoms, T))
    found["slope of temperatures"] = _off(likeliest_slope(*seen["energy"].split(systems, 1)), *temperatures)
    return judge(found, {"energy": seen["energy"][:, :systems]})


def _off(slope: Slope, first: float, second: float, factor: float = 1.0) -> float:
    """Deviation of a slope from the difference of two inverse thermal energies, times `factor`."""
    exact = factor * (1.0 / first - 1.0 / second) / BOLTZMANN
    return (slope.value - exact) / slope.error


def check_kinetic_energy(
    make_engine: Callable[[Any], BaseDynamics],
    temperature: float = 60.0,
    *,
    keeps_momentum: bool,
    systems: int = 64,
    n_settle: int = 100,
    n_samples: int = 40,
    interval: int = 10,
) -> Findings:
    """Check that the kinetic energy of small argon crystals follows Gamma(dof/2, kT), by mean and variance.

    Parameters
    ----------
    make_engine
        ``(model)`` to engine.
    temperature
        K.
    keeps_momentum
        Whether the method conserves the total momentum, so that three degrees of freedom are missing.
    systems
        Number of independent crystals, of four atoms each.
    n_settle
        Steps before the first sample.
    n_samples, interval
        How often energies are read, after how many steps each time.
    """
    engine = with_neighbor_hooks(make_engine(argon_model()))
    batch = Batch.from_data_list([argon_crystal(1, number, temperature) for number in range(systems)])
    engine.run(batch, n_settle)
    seen = observe(engine, batch, {"kinetic energy": thermal_kinetic_energy}, n_samples, interval)
    dof = 3.0 * batch.num_nodes / systems - (3.0 if keeps_momentum else 0.0)
    return judge(deviations("kinetic energy", seen["kinetic energy"], kinetic_moments(dof, temperature)))


# --------------------------------------------------------------------------------------------------- constant pressure


def check_isobaric(
    make_engine: Callable[[Any, Tensor, Tensor], BaseDynamics],
    coupling: str = "isotropic",
    *,
    k: float = 0.02,
    temperature: float = 300.0,
    pressure: float = 4e-4,
    systems: int = 80,
    atoms: int = 8,
    n_samples: int = 40,
    interval: int = 10,
    pairs: bool = True,
    seed: int = 1,
) -> Findings:
    """Check volume, stress and kinetic energy in a cosine box, at two temperatures and two pressures.

    Mean and variance of the volume against its exact density; kinetic energy, which knows nothing of the volume; each
    component of the pressure tensor that the coupling lets go, which is that from outside but for kT/V; slopes of the
    distributions of enthalpy and volume.

    Parameters
    ----------
    make_engine
        ``(model, temperatures, pressures)`` to engine, each [B] for all systems of all states, in K and eV/Å³.
    coupling
        Of the engine: one of `athanor.testing.exact_answers.COUPLINGS`.
    k
        Of the cosine box, eV/Å²; 0 for the ideal gas, under which deterministic thermostats do not mix.
    temperature, pressure
        K and eV/Å³; the others are 15 and 40 % higher.
    systems, atoms
        Number of independent systems in each state, and of atoms in each.
    n_samples, interval
        How often quantities are read, after how many steps each time.
    pairs
        Whether to look at the other temperature and the other pressure.
    seed
        Of cells, places and velocities at the start.
    """
    model = CosineBox(k)
    states = {"": (temperature, pressure)}
    if pairs:
        states |= {" at 1.15 T": (1.15 * temperature, pressure), " at 1.4 P": (temperature, 1.4 * pressure)}
    ensembles = [BoxEnsemble(model, T, P, atoms, coupling) for T, P in states.values()]
    batch = _in_order([ensemble.systems(systems, seed + which) for which, ensemble in enumerate(ensembles)])
    temperatures, pressures = (_rows([state[kind] for state in states.values()], systems) for kind in (0, 1))
    quantities = {
        "kinetic energy": thermal_kinetic_energy,
        "energy": lambda batch: batch.energy,
        **_pressure_components(coupling),
        **_shapes(coupling),
    }
    seen = observe(make_engine(model, temperatures, pressures), batch, quantities, n_samples, interval)
    seen = {name: values.split(systems, 1) for name, values in seen.items()}
    found: Findings = {}
    for which, (name, ensemble) in enumerate(zip(states, ensembles, strict=True)):
        found |= deviations(f"volume{name}", seen["volume"][which], ensemble.volume())
        exact = kinetic_moments(3.0 * atoms, ensemble.temperature)
        found |= deviations(f"kinetic energy{name}", seen["kinetic energy"][which], exact)
        both = (seen["kinetic energy"][which] - exact.mean) * (seen["volume"][which] - ensemble.volume().mean)
        found[f"kinetic energy with volume{name}"] = deviation(both)
        for component in _pressure_components(coupling):
            is_diagonal = component[-1] == component[-2] or coupling == "isotropic"
            outside = ensemble.pressure * seen["volume"][which] - ensemble.kT if is_diagonal else 0.0
            found[f"{component}{name}"] = deviation(seen[component][which] - outside)
    if pairs:
        enthalpies = [seen["energy"][which] + pressure * seen["volume"][which] for which in (0, 1)]
        slope = likeliest_slope(enthalpies[0], enthalpies[1])
        found["slope of temperatures"] = _off(slope, temperature, 1.15 * temperature)
        slope = likeliest_slope(seen["volume"][0], seen["volume"][2])
        found["slope of pressures"] = (slope.value + 0.4 * pressure / (BOLTZMANN * temperature)) / slope.error
    bounded = _shapes(coupling) if k > 0 else ["volume"]
    return judge(found, {name: seen[name][0] for name in bounded})


def _shapes(coupling: str) -> dict[str, Callable[[Batch], Tensor]]:
    """What of the cell must move: its volume, the ratio of two edges, an angle."""

    def metric(batch: Batch) -> Tensor:
        return torch.bmm(batch.cell, batch.cell.mT)

    def ratio(batch: Batch) -> Tensor:
        return (metric(batch)[:, 0, 0] / metric(batch)[:, 1, 1]).log()

    def cosine(batch: Batch) -> Tensor:
        return metric(batch)[:, 1, 0] / (metric(batch)[:, 0, 0] * metric(batch)[:, 1, 1]).sqrt()

    named = {"volume": lambda batch: batch.volume, "ratio of edges": ratio, "cosine of angle": cosine}
    return dict(list(named.items())[: COUPLINGS.index(coupling) + 1])


def _pressure_components(coupling: str) -> dict[str, Callable[[Batch], Tensor]]:
    """Pressure times volume, eV: of the trace, the diagonal, or all components."""
    if coupling == "isotropic":
        return {"pressure": lambda batch: pressure(batch).reshape(-1) * batch.volume.reshape(-1)}
    pairs = [(0, 0), (1, 1), (2, 2)] + ([(1, 0), (2, 0), (2, 1)] if coupling == "triclinic" else [])

    def component(i: int, j: int) -> Callable[[Batch], Tensor]:
        return lambda batch: -total_stress(batch)[:, i, j] * batch.volume.reshape(-1)

    return {f"pressure {'xyz'[i]}{'xyz'[j]}": component(i, j) for i, j in pairs}
