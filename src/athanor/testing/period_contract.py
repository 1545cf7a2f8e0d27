"""Periods of thermostats and barostats: what a wrong mass changes, and no average tells.

Each check takes a function that makes an engine, raises AssertionError with the numbers if the period is not that of
the formula, and returns the measured one, in fs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.observables import kinetic_energy, pressure
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks
from athanor.testing.exact_answers import batch_of, kinetic_moments
from athanor.testing.exact_models import CosineBox
from athanor.testing.systems import FCC, crystal
from athanor.units import BOLTZMANN

if TYPE_CHECKING:
    from athanor.dynamics.engine import BaseDynamics

TOLERANCE = 0.01
"""Relative; a mass that is off by two in a hundred changes a period by one."""


def check_cell_period(
    make_engine: Callable[[Any, float, float], BaseDynamics],
    temperature: float,
    barostat_time: float = 1000.0,
    dt: float = 1.0,
) -> float:
    r"""Check how fast a crystal at rest, stretched a little and let go, reaches the volume at which it is in balance.

    A quarter of the period :math:`2\pi\sqrt{W/(3VB)}`, with the mass :math:`W = (n + 3)\,kT\tau^2/3` of each degree of
    freedom of the cell and the bulk modulus B, whatever the coupling.

    Parameters
    ----------
    make_engine
        ``(model, pressure, barostat_time)`` to engine, eV/Å³ and fs, without noise, and with thermostats so slow that
        they do not matter.
    temperature
        That sizes W, K.
    barostat_time
        :math:`\tau`, fs.
    dt
        Time step of the engine, fs.
    """
    stretched, balanced, squeezed = (_crystal_at_rest(1.0 + strain) for strain in (5e-4, 0.0, -5e-4))
    engine = with_neighbor_hooks(make_engine(argon_model(), 0.0, barostat_time))
    probe = Batch.from_data_list([stretched.clone(), balanced, squeezed])
    engine.run(probe, 0)
    inside, volumes = pressure(probe).flatten().double(), probe.volume.flatten().double()
    modulus = float(volumes[1] * (inside[2] - inside[0]) / (volumes[0] - volumes[2]))
    dof, kT = 3.0 * probe.num_nodes / 3 - 3.0, BOLTZMANN * temperature
    mass = (dof + 3.0) / 3.0 * kT  # times the square of the time of the barostat
    expected = 2.0 * math.pi * barostat_time * math.sqrt(mass / (3.0 * float(volumes[1]) * modulus))

    batch = Batch.from_data_list([stretched])
    engine = with_neighbor_hooks(make_engine(argon_model(), float(inside[1]), barostat_time))
    excess = [float(batch.volume - volumes[1])]
    while excess[-1] > 0 and len(excess) * dt < expected:
        engine.run(batch, 1)
        excess.append(float(batch.volume - volumes[1]))
    return _judge("the cell", 4.0 * _crossings(torch.tensor(excess), dt)[0], expected)


def check_thermostat_period(
    make_engine: Callable[[Any, float, float], BaseDynamics],
    temperature: float = 300.0,
    thermostat_time: float = 200.0,
    dt: float = 2.0,
) -> float:
    r"""Check the period in which the kinetic energy of an ideal gas swings about that of its thermostat.

    :math:`2\pi\tau/\sqrt 2`, for the mass :math:`Q_1 = n\,kT\tau^2`.

    Parameters
    ----------
    make_engine
        ``(model, temperature, thermostat_time)`` to engine, K and fs, with one thermostat in the chain, and a cell that
        is too slow to move.
    temperature
        K.
    thermostat_time
        :math:`\tau`, fs.
    dt
        Time step of the engine, fs.
    """
    expected = 2.0 * math.pi * thermostat_time / math.sqrt(2.0)
    cells = 20.0 * torch.eye(3, dtype=torch.float64)[None]
    places = 20.0 * torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gas = Batch.from_data_list(batch_of(places, temperature, torch.Generator().manual_seed(2), cells))
    target = kinetic_moments(3.0 * gas.num_nodes, temperature).mean
    gas.velocities = gas.velocities * (1.02 * target / kinetic_energy(gas)).sqrt()
    engine = make_engine(CosineBox(0.0), temperature, thermostat_time)
    engine.warns_of_start = False
    excess = []
    for _ in range(round(1.8 * expected / dt)):
        engine.run(gas, 1)
        excess.append(float(kinetic_energy(gas)) - target)
    crossings = _crossings(torch.tensor(excess, dtype=torch.float64), dt)
    found = 2.0 * float((crossings[-1] - crossings[0]) / (len(crossings) - 1)) if len(crossings) > 1 else math.inf
    return _judge("the kinetic energy", found, expected)


def _crystal_at_rest(scale: float) -> AtomicData:
    cell = torch.eye(3, dtype=torch.float64) * 5.3 * scale
    data = crystal(FCC, cell, [18] * 4, (2, 2, 2))
    data.velocities = torch.zeros_like(data.positions)
    return data


def _crossings(values: Tensor, dt: float) -> Tensor:
    """Times at which `values`, one every `dt`, change their sign, between them by a straight line."""
    before, after = values[:-1].double(), values[1:].double()
    crosses = ((before > 0) != (after > 0)).nonzero().flatten()
    crosses_at = (crosses + (before / (before - after))[crosses]) * dt
    return crosses_at if len(crosses) else torch.tensor([math.inf])


def _judge(what: str, found: float | Tensor, expected: float) -> float:
    found = float(found)
    told = f"{what} swings with a period of {found:.1f} fs; its mass says {expected:.1f} fs"
    assert abs(found / expected - 1.0) < TOLERANCE, told
    return found
