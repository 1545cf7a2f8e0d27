"""What each method conserves: of second order in the time step, without drift; deterministic ones run backwards."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import (
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    NPTCRescale,
    NPTLangevin,
    NVTAndersen,
    NVTLangevin,
    NVTNoseHoover,
)
from athanor.testing import dynamics_contract as contract
from athanor.testing.exact_answers import COUPLINGS
from athanor.units import GPa

from .textbook import EYE, Textbook, sheared_crystal

P = 0.05 * GPa


def crystals(count):
    return [sheared_crystal(number) for number in range(count)]


def chains(coupling, engine=NPT):
    return lambda model, dt: engine(model, dt, 80.0, P, 500.0, 200.0, coupling)


DETERMINISTIC = {
    "NVE": (lambda model, dt: NVE(model, dt), ()),
    "NVTNoseHoover": (lambda model, dt: NVTNoseHoover(model, dt, 80.0, 200.0), ("chain",)),
    **{
        f"NPH {coupling}": (lambda model, dt, coupling=coupling: NPH(model, dt, P, 500.0, coupling), ("cell_momentum",))
        for coupling in COUPLINGS
    },
    **{f"NPT {coupling}": (chains(coupling), ("cell_momentum", "chain", "cell_chain")) for coupling in COUPLINGS},
}
STOCHASTIC = {
    "NVTLangevin": lambda model, dt: NVTLangevin(model, dt, 60.0, 0.002),
    "NVTCSVR": lambda model, dt: NVTCSVR(model, dt, 60.0, 200.0),
    "NVTAndersen": lambda model, dt: NVTAndersen(model, dt, 60.0, 0.001),
    "NPTLangevin": lambda model, dt: NPTLangevin(model, dt, 60.0, P, 0.002, 500.0, "triclinic"),
    "NPTCRescale": lambda model, dt: NPTCRescale(model, dt, 60.0, P, 2000.0, 200.0, "triclinic"),
}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_and_reversal(name):
    make, odd = DETERMINISTIC[name]
    contract.check_second_order(make, systems=crystals(3), n_steps=40)
    contract.check_reversal(lambda model: make(model, 8.0), odd=odd)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_order_with_noise(name):
    contract.check_second_order(STOCHASTIC[name], dt=8.0, systems=crystals(24))


@pytest.mark.parametrize("name", ["NVTNoseHoover", "NPT triclinic", "NVTLangevin", "NPTCRescale"])
def test_no_drift(name):
    make = STOCHASTIC[name] if name in STOCHASTIC else DETERMINISTIC[name][0]
    contract.check_no_drift(lambda model: make(model, 8.0), n_steps=600, systems=crystals(8))


class Leaks(NVE):
    """Mutant: velocities lose a little in every step."""

    def post_update(self, batch):
        super().post_update(batch)
        batch.velocities *= 1.0 - 2e-5


def test_no_drift_finds_a_leak():
    with pytest.raises(AssertionError, match="drifts by -"):
        contract.check_no_drift(lambda model: Leaks(model, 8.0), n_steps=600, systems=crystals(4))


class WeakDrag(Textbook):
    """Mutant: 1 + 1/3N for 1 + 1/N in the velocities only."""

    def share_of_drag(self):
        return super().share_of_drag() / 3.0


class Columns(Textbook):
    """Mutant: the rate acts on the columns of a cell whose rows are the lattice vectors."""

    def strained(self, cell, flow):
        return torch.bmm(flow, cell)


class Explicit(Textbook):
    """Mutant: Euler's step for the cell in place of the exact flow."""

    def _drift_(self, batch, fraction=1.0):
        super()._drift_(batch, fraction)
        strain = self._state.dt[:, None, None] * self.rate()
        euler = torch.bmm(torch.linalg.matrix_exp(-strain), EYE + strain)
        batch.cell.copy_(torch.bmm(batch.cell, euler))


class BookedTwice(Textbook):
    """Mutant: the chain's position advances twice in each step."""

    def book(self, *given):
        super().book(*given)
        super().book(*given)


class ActsTwice(Textbook):
    """Mutant: the thermostat scales velocities by the square of what its chain is told."""

    def scale_(self, batch, factor):
        super().scale_(batch, factor.square())


class DragInTheKick(Textbook):
    """Mutant: the thermostat of the atoms slows the cell, too."""

    def through(self, name, *given):
        factor = super().through(name, *given)
        if name == "chain":
            self._state.cell_momentum.mul_(factor[:, None, None])
        return factor


@pytest.mark.parametrize("mutant", [WeakDrag, Columns, Explicit, BookedTwice, ActsTwice, DragInTheKick])
def test_order_finds_mutants(mutant):
    with pytest.raises(AssertionError, match="second-order"):
        contract.check_second_order(chains("triclinic", mutant), systems=crystals(2), n_steps=30)


class OneSided(Textbook):
    """Mutant: a whole step of the thermostats before the step, and none after it."""

    def _half_step_(self, batch, *, backward):
        self._constants(batch)
        moves = [self.kick_atoms_, self.kick_cell_] if backward else [
            self.thermostats_, self.thermostats_, self.kick_cell_, self.kick_atoms_,
        ]  # fmt: skip
        for move in moves:
            move(batch)


def test_reversal_finds_a_one_sided_splitting():
    with pytest.raises(AssertionError, match="miss the start"):
        contract.check_reversal(
            lambda model: chains("isotropic", OneSided)(model, 8.0), odd=("cell_momentum", "chain", "cell_chain")
        )


def spread(engine, order):
    """Fluctuation of what is conserved, with a thermostat as fast as a few steps."""
    made = contract.with_neighbor_hooks(engine(contract.argon_model(), 16.0, 80.0, 40.0, yoshida_order=order))
    batch, seen = Batch.from_data_list(crystals(4)), []
    for _ in range(50):
        made.run(batch, 1)
        seen.append(made.conserved_energy(batch).clone())
    return float(torch.stack(seen).std(dim=0).mean())


class OneOrder(NVTNoseHoover):
    """Mutant: takes an order and does not honour it."""

    def __init__(self, *given, yoshida_order=3, **options):
        super().__init__(*given, yoshida_order=1, **options)


def test_orders_of_chains_are_honoured():
    spreads = [spread(NVTNoseHoover, order) for order in (1, 3, 5)]
    assert len(set(spreads)) == 3
    assert spread(OneOrder, 1) == spread(OneOrder, 5)


@pytest.mark.parametrize(
    "make",
    [DETERMINISTIC["NPH triclinic"][0], chains("anisotropic"), STOCHASTIC["NPTLangevin"], STOCHASTIC["NPTCRescale"]],
)
def test_a_compressed_crystal_expands(make):
    batch = Batch.from_data_list([contract.argon_crystal(2, 1, strain=-0.04)])
    before = float(batch.volume)
    contract.with_neighbor_hooks(make(contract.argon_model(), 4.0)).run(batch, 50)
    assert float(batch.volume) > 1.01 * before


class WrongVirial(Textbook):
    """Mutant: the sign of the virial."""

    def virial(self, batch):
        return -super().virial(batch)


def test_expanding_finds_the_sign_of_the_virial():
    batch = Batch.from_data_list([contract.argon_crystal(2, 1, strain=-0.04)])
    before = float(batch.volume)
    contract.with_neighbor_hooks(chains("isotropic", WrongVirial)(contract.argon_model(), 4.0)).run(batch, 50)
    assert float(batch.volume) < before
