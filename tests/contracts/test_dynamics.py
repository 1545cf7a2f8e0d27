"""Every integrator and optimizer keeps the contract; each check fails on a broken twin."""

from __future__ import annotations

import pytest
import torch

from athanor.dynamics import (
    FIRE,
    NPH,
    NPT,
    NVE,
    NVTCSVR,
    Brownian,
    DemoDynamics,
    FIREVariableCell,
    NPTCRescale,
    NPTLangevin,
    NVTAndersen,
    NVTLangevin,
    NVTNoseHoover,
)
from athanor.dynamics.updates import drift_, kick_
from athanor.testing import dynamics_contract as contract
from athanor.units import GPa


def nve(model, dt=4.0):
    return NVE(model, dt=dt)


def langevin(model):
    return NVTLangevin(model, dt=4.0, temperature=60.0, friction=0.01, random_seed=7)


def fire(model):
    return FIRE(model, dt=0.2)


def demo(model):
    return DemoDynamics(model, n_steps=1, dt=0.4)


def nose_hoover(model, dt=4.0):
    return NVTNoseHoover(model, dt=dt, temperature=60.0, thermostat_time=100.0)


def rescaling(model, dt=4.0):
    return NVTCSVR(model, dt=dt, temperature=60.0, thermostat_time=100.0, random_seed=7)


def andersen(model, dt=4.0):
    return NVTAndersen(model, dt=dt, temperature=60.0, collision_rate=0.01, random_seed=7)


def brownian(model):
    return Brownian(model, dt=2.0, temperature=60.0, friction=0.1, random_seed=7)


def nph(model, dt=4.0, coupling="triclinic"):
    return NPH(model, dt=dt, pressure=0.05 * GPa, barostat_time=500.0, pressure_coupling=coupling)


def npt(model, dt=4.0, coupling="anisotropic"):
    return NPT(model, dt, 60.0, 0.05 * GPa, barostat_time=500.0, thermostat_time=100.0, pressure_coupling=coupling)


def npt_langevin(model, dt=4.0):
    return NPTLangevin(model, dt, 60.0, 0.05 * GPa, friction=0.01, barostat_time=500.0, pressure_coupling="triclinic")


def cell_rescaling(model, dt=4.0):
    return NPTCRescale(model, dt, 60.0, 0.05 * GPa, 500.0, 100.0, pressure_coupling="triclinic", random_seed=7)


ENGINES = {
    "NVE": nve,
    "NVTLangevin": langevin,
    "NVTNoseHoover": nose_hoover,
    "NVTCSVR": rescaling,
    "NVTAndersen": andersen,
    "Brownian": brownian,
    "NPH": nph,
    "NPT": npt,
    "NPTLangevin": npt_langevin,
    "NPTCRescale": cell_rescaling,
    "FIRE": fire,
    "DemoDynamics": demo,
}


class ForwardEuler(NVE):
    """Broken twin: the half kick with the new forces is missing, and the first one is whole."""

    _selects_active = True

    def pre_update(self, batch):
        steps = self._steps.refresh(batch, self._state.dt)
        drift_(batch.positions, batch.velocities, steps.dt, self.movable)
        kick_(batch.velocities, batch.forces, steps.dt_over_mass, self.movable)

    def post_update(self, batch):
        pass


class SlotNoise(NVTLangevin):
    """Broken twin: noise is keyed by the slot in the batch instead of the system id."""

    _selects_active = True

    def pre_update(self, batch):
        ids = batch.system_id.clone()
        batch.system_id.copy_(torch.arange(batch.num_graphs)[:, None])
        super().pre_update(batch)
        batch.system_id.copy_(ids)

    def post_update(self, batch):
        super().post_update(batch)


class NoMask(NVE):
    """Broken twin: claims to honour the active set, and moves everybody."""

    _selects_active = True
    movable = None

    def pre_update(self, batch):
        super().pre_update(batch)

    def post_update(self, batch):
        super().post_update(batch)


class Forgetful(FIRE):
    """Broken twin: its state is not saved."""

    def state_dict(self):
        saved = super().state_dict()
        saved["state"]["rows"]["dt"].fill_(0.05)
        return saved


@pytest.mark.parametrize("make", [nve, lambda model, dt: DemoDynamics(model, 1, dt=dt / 10.180505717871194)])
def test_second_order(make):
    contract.check_second_order(make)


def test_second_order_fails_on_forward_euler():
    with pytest.raises(AssertionError, match="second-order"):
        contract.check_second_order(lambda model, dt: ForwardEuler(model, dt=dt))


@pytest.mark.parametrize("make", [nve, demo])
def test_reversal(make):
    contract.check_reversal(make)


def test_reversal_fails_on_forward_euler_and_on_noise():
    for make in (lambda model: ForwardEuler(model, dt=4.0), langevin):
        with pytest.raises(AssertionError, match="miss the start"):
            contract.check_reversal(make)


@pytest.mark.parametrize("name", ENGINES)
def test_batch_invariance(name):
    contract.check_batch_invariance(ENGINES[name])


def test_batch_invariance_fails_when_noise_is_keyed_by_slot():
    with pytest.raises(AssertionError, match="differs alone"):
        contract.check_batch_invariance(
            lambda model: SlotNoise(model, dt=4.0, temperature=60.0, friction=0.01), n_steps=6
        )


@pytest.mark.parametrize("name", ENGINES)
def test_thread_invariance(name):
    contract.check_thread_invariance(ENGINES[name])


class ThreadSum(NVE):
    """Broken twin: positions are summed in as many parts as there are threads."""

    _selects_active = True

    def pre_update(self, batch):
        super().pre_update(batch)
        parts = batch.positions.chunk(torch.get_num_threads())
        batch.velocities -= 1e-4 * sum(part.sum(0) for part in parts)

    def post_update(self, batch):
        super().post_update(batch)


def test_thread_invariance_fails_when_a_sum_is_split():
    with pytest.raises(AssertionError, match="1 and 2 threads"):
        contract.check_thread_invariance(lambda model: ThreadSum(model, dt=4.0))


def relax_then_heat(model):
    relax = FIRE(model, dt=0.2, n_steps=30)
    return relax + NVTLangevin(model, dt=4.0, temperature=60.0, friction=0.01, keep_velocities=True)


MORE = {"FIREVariableCell": lambda model: FIREVariableCell(model, dt=0.2), "fused": relax_then_heat}


@pytest.mark.parametrize("name", [*ENGINES, *MORE])
def test_split_run_and_restart(name):
    make = (ENGINES | MORE)[name]
    contract.check_split_run(make)
    contract.check_restart(make)


def test_restart_fails_without_state():
    with pytest.raises(AssertionError, match="restarted"):
        contract.check_restart(lambda model: Forgetful(model, dt=0.2), n_steps=30)


@pytest.mark.parametrize("name", ENGINES)
def test_finished_systems_and_fixed_atoms_stand_still(name):
    contract.check_finished_systems_stand_still(ENGINES[name])
    contract.check_fixed_atoms(ENGINES[name])


def test_standing_still_fails_without_a_mask():
    with pytest.raises(AssertionError, match="changed"):
        contract.check_finished_systems_stand_still(lambda model: NoMask(model, dt=4.0))
    with pytest.raises(AssertionError, match="fixed atoms"):
        contract.check_fixed_atoms(lambda model: NoMask(model, dt=4.0))


class Foreign(NVE):
    """A user's integrator that knows no mask: overrides one half without saying that it selects."""

    def pre_update(self, batch):
        self.active = None
        super().pre_update(batch)


def test_foreign_integrators_are_restored():
    contract.check_finished_systems_stand_still(lambda model: Foreign(model, dt=4.0))
    contract.check_fixed_atoms(lambda model: Foreign(model, dt=4.0))
    contract.check_batch_invariance(lambda model: Foreign(model, dt=4.0), n_steps=9)
