"""Ensembles of constant pressure against the exact density of the volume; each fault that was ever made is found."""

from __future__ import annotations

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import NPH, NPT, NPTCRescale, NPTLangevin
from athanor.dynamics.integrators import npt_langevin
from athanor.testing.ensemble_contract import check_isobaric, deviation, observe
from athanor.testing.exact_answers import COUPLINGS, BoxEnsemble
from athanor.testing.exact_models import CosineBox
from athanor.units import BOLTZMANN

from .textbook import Textbook


def chains(coupling, engine=NPT):
    return lambda model, T, P: engine(model, 20.0, T, P, 500.0, 300.0, coupling)


def langevin(coupling, engine=NPTLangevin):
    return lambda model, T, P: engine(model, 20.0, T, P, 0.005, 500.0, coupling)


def rescaling(coupling, engine=NPTCRescale):
    return lambda model, T, P: engine(model, 10.0, T, P, 500.0, 300.0, coupling, compressibility=1.0 / P)


class WarmCell(NPH):
    """NPH whose cells start with rates drawn from the canonical ensemble, which it then keeps as it is."""

    heat = None

    def use_rows(self, rows):
        super().use_rows(rows)
        momentum = rows["cell_momentum"]
        if bool((momentum == 0).all()):
            drawn = torch.randn(momentum.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
            momentum.copy_(self._projected(0.5 * (drawn + drawn.mT)) * self.heat.sqrt()[:, None, None])


def enthalpy(coupling):
    def make(model, T, P):
        engine = WarmCell(model, 20.0, P, 500.0, coupling)
        engine.heat = BOLTZMANN * T
        return engine

    return make


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("make", [chains, langevin, rescaling, enthalpy])
def test_volumes_and_pressures_of_the_cosine_box(make, coupling):
    check_isobaric(make(coupling), coupling)


@pytest.mark.parametrize(("make", "coupling"), [(langevin, "triclinic"), (rescaling, "anisotropic")])
def test_volumes_of_the_ideal_gas(make, coupling):
    check_isobaric(make(coupling), coupling, k=0.0)


class WeakCoupling(Textbook):
    """Mutant: 1 + 1/3N for 1 + 1/N."""

    def share_of_heat(self):
        return super().share_of_heat() / 3.0

    share_of_drag = share_of_heat


class NoCoupling(Textbook):
    """Mutant: 1 for 1 + 1/N."""

    def share_of_heat(self):
        return torch.zeros_like(self._moving.dof)

    share_of_drag = share_of_heat


class ActsTwice(Textbook):
    """Mutant: the thermostat scales velocities by the square of what its chain is told."""

    def scale_(self, batch, factor):
        super().scale_(batch, factor.square())


class StartsAtZero(Textbook):
    """Mutant: the factor of the velocities accumulates in scratch that starts at zero."""

    def scale_(self, batch, factor):
        super().scale_(batch, 0.0 * factor)


class HalfTheKineticPressure(Textbook):
    """Mutant: the flow of momentum counts once where it counts twice."""

    def kick_cell_(self, batch):
        whole, self.momentum_flow = self.momentum_flow, lambda batch: 0.5 * Textbook.momentum_flow(self, batch)
        super().kick_cell_(batch)
        self.momentum_flow = whole


class WrongVirial(Textbook):
    """Mutant: the sign of the virial."""

    def virial(self, batch):
        return -super().virial(batch)


class OneMomentumTooFew(Textbook):
    """Mutant: three degrees of freedom are taken off for a momentum that is not conserved."""

    keeps_momentum = True


class ThreeFreedoms(Textbook):
    """Mutant: the thermostat of an isotropic cell counts three degrees of freedom."""

    freedoms = {"isotropic": 3}


class NineFreedoms(Textbook):
    """Mutant: the thermostat of a triclinic cell counts a symmetric rate as nine."""

    freedoms = {"triclinic": 9}


class OneRate(NPT):
    """Mutant: the mean pressure acts on every direction, whatever the coupling."""

    coupling = 0


class StrongerNoise(NPTLangevin):
    """Mutant: an isotropic cell is kicked as if its three edges were free."""

    def _bath_(self, batch):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(npt_langevin, "normals_of_cells", lambda *given: 3.0**0.5 * normals_of_cells(*given))
            super()._bath_(batch)


normals_of_cells = npt_langevin.normals_of_cells


class ForcesPushTheWrongWay(NPTCRescale):
    """Mutant: the sign of the virial."""

    def _drawn_strain(self, batch, kinetic):
        batch.stress.neg_()
        strain = super()._drawn_strain(batch, kinetic)
        batch.stress.neg_()
        return strain


class NoNoise(NPTCRescale):
    """Mutant: Berendsen's barostat, under which volumes hardly fluctuate."""

    def _projected(self, tensors):
        self.calls = getattr(self, "calls", 0) + 1
        return super()._projected(tensors) * (self.calls % 2)


class OtherMeasure(NPTCRescale):
    """Mutant: kT/V is added to the pressure, as for noise whose size does not depend on the volume."""

    def _drawn_strain(self, batch, kinetic):
        extra = (self._heat / batch.volume.flatten())[:, None, None] * torch.eye(3, dtype=torch.float64)
        return super()._drawn_strain(batch, kinetic + extra)


class VelocitiesNotStrained(NPTCRescale):
    """Mutant: velocities keep their size when the cell is strained."""

    def bath_(self, batch):
        before = batch.velocities.clone()
        super(NPTCRescale, self).bath_(batch)
        rescaled = batch.velocities.clone()
        batch.velocities.copy_(before)
        super().bath_(batch)
        batch.velocities.copy_(rescaled)


class StandsStill(NPTLangevin):
    """Mutant: its cells never move, so that each keeps the volume that it was given."""

    def _drift_(self, batch, fraction=1.0):
        cell = batch.cell.clone()
        super()._drift_(batch, fraction)
        batch.cell.copy_(cell)


@pytest.mark.parametrize(
    ("make", "mutant", "coupling", "n_samples", "found"),
    [
        (chains, WeakCoupling, "isotropic", 40, "pressure"),
        (chains, NoCoupling, "isotropic", 20, "pressure"),
        (chains, ActsTwice, "isotropic", 20, "variance of kinetic energy"),
        (chains, StartsAtZero, "isotropic", 2, "mean of kinetic energy"),
        (chains, HalfTheKineticPressure, "isotropic", 10, "mean of volume"),
        (chains, WrongVirial, "isotropic", 10, "mean of volume"),
        (chains, OneMomentumTooFew, "isotropic", 20, "mean of kinetic energy"),
        (chains, ThreeFreedoms, "isotropic", 30, "variance of volume"),
        (chains, OneRate, "anisotropic", 40, "keep their own `ratio of edges`"),
        (langevin, StrongerNoise, "isotropic", 40, "variance of volume"),
        (rescaling, ForcesPushTheWrongWay, "isotropic", 20, "mean of volume"),
        (rescaling, NoNoise, "isotropic", 20, "variance of volume"),
        (rescaling, OtherMeasure, "isotropic", 40, "mean of volume"),
        (rescaling, VelocitiesNotStrained, "isotropic", 40, "kinetic energy with volume"),
        (langevin, StandsStill, "isotropic", 40, ""),
    ],
)
def test_mutants_are_found(make, mutant, coupling, n_samples, found):
    with pytest.raises(AssertionError, match=f"{found}.*(standard errors off|variance)"):
        check_isobaric(make(coupling, mutant), coupling, systems=96, n_samples=n_samples, pairs=False)


def energy_of_cells(engine, coupling):
    """Deviation of the kinetic energy of cells from kT/2 for each of their degrees of freedom, in standard errors."""
    batch = Batch.from_data_list(BoxEnsemble(CosineBox(0.02), 300.0, 4e-4, 8, coupling).systems(64))
    made = engine(CosineBox(0.02), 300.0, 4e-4)

    def energy(batch):
        return 0.5 * batch.state_rows(made.key)["cell_momentum"].square().sum((1, 2))

    observe(made, batch, {}, 1, 100)
    seen = observe(made, batch, {"energy": energy}, 30, 10)["energy"]
    return deviation(seen, 0.5 * {"isotropic": 1, "anisotropic": 3, "triclinic": 6}[coupling] * BOLTZMANN * 300.0)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("make", [chains, langevin])
def test_energies_of_cells(make, coupling):
    assert abs(energy_of_cells(make(coupling), coupling)) < 5.0


def test_energies_of_cells_find_nine_freedoms():
    assert energy_of_cells(chains("triclinic", NineFreedoms), "triclinic") > 10.0
