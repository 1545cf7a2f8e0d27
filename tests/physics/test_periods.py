"""Periods of cells and thermostats, which the masses of barostats and chains set; no ensemble tells of those."""

from __future__ import annotations

import math

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NPH, NPT, NPTLangevin, NVTNoseHoover
from athanor.testing.exact_answers import COUPLINGS
from athanor.testing.exact_models import CosineBox
from athanor.testing.period_contract import check_cell_period, check_thermostat_period
from athanor.testing.systems import FCC, crystal
from athanor.units import BOLTZMANN

from .textbook import Textbook

SLOW = 1e7  # fs


def chains(coupling, engine=NPT):
    return lambda model, pressure, time: engine(model, 1.0, 60.0, pressure, time, SLOW, coupling)


def langevin(coupling):
    return lambda model, pressure, time: NPTLangevin(
        model, 1.0, 60.0, pressure, 0.0, time, coupling, barostat_friction=0.0
    )


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_periods_of_cells(coupling):
    check_cell_period(lambda model, pressure, time: NPH(model, 1.0, pressure, time, coupling), 300.0)
    check_cell_period(chains(coupling), 60.0)
    check_cell_period(langevin(coupling), 60.0)


class ThreeTimesTheMass(Textbook):
    """Mutant: the mass of the whole cell is taken for that of each of its degrees of freedom."""

    def mass(self):
        return 3.0 * super().mass()


class NoThree(Textbook):
    """Mutant: n kT for (n + 3) kT."""

    def mass(self):
        return super().mass() * self._moving.dof / (self._moving.dof + 3.0)


@pytest.mark.parametrize("mutant", [ThreeTimesTheMass, NoThree])
def test_periods_of_cells_find_mutants(mutant):
    with pytest.raises(AssertionError, match="the cell swings"):
        check_cell_period(chains("isotropic", mutant), 60.0)


def test_periods_of_thermostats():
    check_thermostat_period(lambda model, T, time: NVTNoseHoover(model, 4.0, T, time, chain_length=1), dt=4.0)
    check_thermostat_period(lambda model, T, time: NPT(model, 4.0, T, 0.0, SLOW, time, chain_length=1), dt=4.0)


class InverseTime(NVTNoseHoover):
    """Mutant: the period is taken for the time constant."""

    def __init__(self, model, dt, temperature, thermostat_time, **options):
        super().__init__(model, dt, temperature, thermostat_time / (2.0 * math.pi), **options)


def test_periods_of_thermostats_find_mutants():
    with pytest.raises(AssertionError, match="the kinetic energy swings"):
        check_thermostat_period(lambda model, T, time: InverseTime(model, 4.0, T, time, chain_length=1), dt=4.0)


def chains_from_rest(engine, coupling):
    """Speeds of the first links of both chains in units of what their masses say, for a crystal without any motion."""
    steps, dt, tau, tau_cell, T = 10, 1.0, 200.0, 900.0, 300.0
    data = crystal(FCC, 5.3 * torch.eye(3, dtype=torch.float64), [18] * 4, (2, 2, 2))
    data.velocities = torch.zeros_like(data.positions)
    batch = Batch.from_data_list([data])
    made = engine(CosineBox(0.0), dt, T, 0.0, tau_cell, tau, coupling)
    made.warns_of_start = False
    made.run(batch, steps)
    rows, kT = batch.state_rows(made.key), BOLTZMANN * T
    freedoms = {"isotropic": 1, "anisotropic": 3, "triclinic": 6}[coupling]
    expected = [
        -math.sqrt(n * kT) * steps * dt / time for n, time in ((3.0 * len(data.positions), tau), (freedoms, tau_cell))
    ]
    return [float(rows[name][0, 0]) / value for name, value in zip(("chain", "cell_chain"), expected, strict=True)]


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_masses_of_chains(coupling):
    assert chains_from_rest(NPT, coupling) == pytest.approx([1.0, 1.0], rel=0.01)


class ChainOfTheWrongTime(Textbook):
    """Mutant: the chain of the cell is sized by the time of the thermostat."""

    def cell_chain_time(self):
        return self._state.thermostat_time


def test_masses_of_chains_find_mutants():
    assert chains_from_rest(ChainOfTheWrongTime, "isotropic")[1] == pytest.approx(4.5, rel=0.01)
