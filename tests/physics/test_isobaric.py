"""Ensembles of constant pressure against the exact density of the volume; each fault that was ever made is found."""

from __future__ import annotations

import math

import pytest
import torch

from athanor.dynamics import NPH, NPT, NPTCRescale, NPTLangevin, barostat
from athanor.dynamics.integrators import npt, npt_langevin
from athanor.testing.ensemble_contract import check_isobaric
from athanor.testing.exact_answers import COUPLINGS
from athanor.units import BOLTZMANN


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


def changed(place, change):
    """Replace a function by one that gets another argument at a place."""
    return lambda original: lambda *given: original(*given[:place], change(given[place]), *given[place + 1 :])


def of_chain(name, change):
    """Replace `through_chain` by one that gives another factor for one of the chains."""
    return lambda original: lambda engine, which, *rest: (
        change(original(engine, which, *rest)) if which == name else original(engine, which, *rest)
    )


KICK, MAPS = (barostat, "barostat_kick"), (barostat, "barostat_maps")
PATCHES = {
    "coupling 1 + 1/3N": ({KICK: changed(5, lambda n: 3.0 * n), MAPS: changed(2, lambda n: 3.0 * n)}, "volume"),
    "no coupling": ({KICK: changed(5, lambda n: math.inf * n), MAPS: changed(2, lambda n: math.inf * n)}, "volume"),
    "thermostat acts twice": ({(npt, "through_chain"): of_chain("chain", torch.square)}, "kinetic"),
    "thermostat starts at zero": ({(npt, "through_chain"): of_chain("chain", torch.zeros_like)}, "kinetic"),
    "half the kinetic pressure": ({KICK: changed(1, lambda flow: 0.5 * flow)}, "volume"),
    "sign of the virial": ({KICK: changed(2, torch.neg)}, "volume"),
    "one momentum too few": ({(barostat.Barostatted, "keeps_momentum"): lambda original: True}, "kinetic"),
    "three freedoms of an isotropic cell": ({(npt, "CELL_FREEDOMS"): lambda original: (3, 3, 6)}, "volume"),
}


@pytest.mark.parametrize("name", PATCHES)
def test_mutants_of_chains_are_found(name, monkeypatch):
    patches, where = PATCHES[name]
    for place, patch in patches.items():
        monkeypatch.setattr(*place, patch(getattr(*place)))
    with pytest.raises(AssertionError, match=f"{where}.*standard errors off"):
        check_isobaric(chains("isotropic"), systems=64)


class OneRate(NPT):
    """Mutant: the mean pressure acts on every direction, whatever the coupling."""

    coupling = 0


class NineFreedoms(NPT):
    """Mutant: the thermostat of the cell counts a symmetric rate as nine."""

    def _half_cell_chain_(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(npt, "CELL_FREEDOMS", (1, 3, 9))
            super()._half_cell_chain_()


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


@pytest.mark.parametrize(
    ("make", "mutant", "coupling", "where"),
    [
        (chains, OneRate, "anisotropic", "keep their own `ratio"),
        (chains, NineFreedoms, "triclinic", "volume"),
        (langevin, StrongerNoise, "isotropic", "volume"),
        (rescaling, ForcesPushTheWrongWay, "isotropic", "volume"),
        (rescaling, NoNoise, "isotropic", "volume"),
        (rescaling, OtherMeasure, "isotropic", "volume"),
        (rescaling, VelocitiesNotStrained, "isotropic", "kinetic energy with"),
    ],
)
def test_mutants_are_found(make, mutant, coupling, where):
    with pytest.raises(AssertionError, match=where) as e:
        check_isobaric(make(coupling, mutant), coupling, systems=64 if mutant is not NineFreedoms else 192)
    print(mutant.__name__, str(e.value)[:400])


class StandsStill(NPTLangevin):
    """Mutant: its cells never move, so that each keeps the volume that it was given."""

    def _drift_(self, batch, maps, fraction=1.0):
        cell = batch.cell.clone()
        super()._drift_(batch, maps, fraction)
        batch.cell.copy_(cell)


def test_cells_that_keep_still_are_found():
    with pytest.raises(AssertionError):
        check_isobaric(langevin("isotropic", StandsStill), systems=64)
