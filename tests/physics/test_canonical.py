"""Ensembles of constant temperature against exact answers; each fault that was ever made is found."""

from __future__ import annotations

import pytest
import torch

from athanor.dynamics import (
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
from athanor.dynamics.integrators import brownian, nvt_csvr, nvt_nose_hoover
from athanor.testing.ensemble_contract import check_canonical, check_kinetic_energy


def langevin(engine=NVTLangevin, dt=4.0):
    return lambda model, T: engine(model, dt, T, 0.02)


def nose_hoover(engine=NVTNoseHoover, dt=4.0):
    return lambda model, T: engine(model, dt, T, 100.0)


def rescaling(engine=NVTCSVR, dt=4.0):
    return lambda model, T: engine(model, dt, T, 100.0)


def collisions(engine=NVTAndersen, dt=4.0):
    return lambda model, T: engine(model, dt, T, 0.02)


def steps_of_brown(engine=Brownian):
    return lambda model, T: engine(model, 6.0, T, 0.05)


@pytest.mark.parametrize("make", [langevin, nose_hoover, rescaling, collisions])
def test_energies_in_wells(make):
    check_canonical(make())


def test_energies_in_wells_without_velocities():
    check_canonical(steps_of_brown(), kinetic=False)


def test_newton_keeps_the_ensemble_that_he_is_given():
    check_canonical(lambda model, T: NVE(model, 4.0))


OF_CRYSTALS = {
    "NVTLangevin": (lambda m: langevin(dt=8.0)(m, 60.0), False),
    "NVTNoseHoover": (lambda m: nose_hoover(dt=8.0)(m, 60.0), True),
    "NVTCSVR": (lambda m: rescaling(dt=8.0)(m, 60.0), True),
    "NVTAndersen": (lambda m: collisions(dt=8.0)(m, 60.0), False),
    "NPT": (lambda m: NPT(m, 8.0, 60.0, 0.0, 500.0, 100.0, "triclinic"), True),
    "NPTLangevin": (lambda m: NPTLangevin(m, 8.0, 60.0, 0.0, 0.01, 500.0, "anisotropic"), False),
    "NPTCRescale": (lambda m: NPTCRescale(m, 8.0, 60.0, 0.0, 2000.0, 100.0), True),
}


@pytest.mark.parametrize("name", OF_CRYSTALS)
def test_kinetic_energies_of_crystals(name):
    make, keeps_momentum = OF_CRYSTALS[name]
    check_kinetic_energy(make, keeps_momentum=keeps_momentum)


def patched(where, name, change):
    """A patch of a function of a module: another one in place of it."""
    return where, name, change(getattr(where, name))


def again(original):
    def half_step(velocities, *others):
        moved, *rest = original(velocities, *others)
        return moved * moved / velocities, *rest

    return half_step


def nothing(original):
    return lambda *given, **options: torch.zeros_like(original(*given, **options))


def less_noise(original):
    return lambda *given, **options: 0.9 * original(*given, **options)


class FreeOfMass(NVTAndersen):
    """Mutant: collisions give every atom the velocities of the lightest."""

    def bath_(self, batch):
        masses = batch.atomic_masses.clone()
        self._moving.refresh(batch).masses.fill_(4.0)
        super().bath_(batch)
        self._moving.masses.copy_(masses)


class OneMomentumTooFew(NVTNoseHoover):
    """Mutant: three degrees of freedom are taken off for a momentum that is not conserved."""

    keeps_momentum = True


class OneMomentumTooMany(NVTNoseHoover):
    """Mutant: nothing is taken off for the momentum that is conserved."""

    keeps_momentum = False


class FirstOrder(Brownian):
    """Mutant: noise of one step only, as strong as that of two, which is Euler's step."""

    def pre_update(self, batch):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(brownian, "normals_of_atoms", lambda *given, ahead=0: self._once(*given, ahead=ahead))
            super().pre_update(batch)

    def _once(self, *given, ahead):
        return NORMALS(*given) * (0.0 if ahead else 2.0)


NORMALS = brownian.normals_of_atoms


@pytest.mark.parametrize(
    ("make", "patches", "found"),
    [
        (nose_hoover(), [patched(nvt_nose_hoover, "nose_hoover_half_step", again)], "variance of kinetic"),
        (nose_hoover(OneMomentumTooFew), [], "mean of kinetic"),
        (rescaling(), [patched(nvt_csvr, "normals_of_atoms", nothing)], "variance of kinetic"),
        (rescaling(), [patched(nvt_csvr, "normals_of_atoms", less_noise)], "mean of kinetic"),
        (collisions(FreeOfMass), [], "mean of kinetic"),
        (lambda model, T: NVTLangevin(model, 4.0, 1.06 * T, 0.02), [], "mean of kinetic"),
    ],
)
def test_mutants_are_found(make, patches, found, monkeypatch):
    for where, name, change in patches:
        monkeypatch.setattr(where, name, change)
    with pytest.raises(AssertionError, match=f"{found}.*standard errors off"):
        check_canonical(make)


def test_brownian_mutants_are_found(monkeypatch):
    with pytest.raises(AssertionError, match=r"mean of potential energy.*standard errors off"):
        check_canonical(steps_of_brown(FirstOrder), kinetic=False)
    monkeypatch.setattr(brownian, "normals_of_atoms", less_noise(NORMALS))
    with pytest.raises(AssertionError, match=r"mean of potential energy.*standard errors off"):
        check_canonical(steps_of_brown(), kinetic=False)


def test_a_momentum_that_counts_as_heat_is_found():
    with pytest.raises(AssertionError, match=r"mean of kinetic.*standard errors off"):
        check_kinetic_energy(lambda m: nose_hoover(OneMomentumTooMany, dt=8.0)(m, 60.0), keeps_momentum=True)
