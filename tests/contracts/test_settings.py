"""Settings of each system act in a batch as they do alone, and newcomers start afresh; bit for bit."""

from __future__ import annotations

import pytest
import torch

from athanor.dynamics import (
    NPH,
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
from athanor.testing.dynamics_contract import check_finished_systems_stand_still, check_newcomers, check_settings

DT = {"dt": [4.0, 3.0, 5.0]}
HEAT = DT | {"temperature": [60.0, 80.0, 70.0]}
CELL = {"pressure": [0.0, 1e-4, -1e-4], "barostat_time": [500.0, 400.0, 300.0]}
TIME = {"thermostat_time": [100.0, 200.0, 300.0]}
RATE = [0.01, 0.002, 0.003]
SETTINGS = {
    NVE: DT,
    NVTLangevin: HEAT | {"friction": RATE},
    NVTNoseHoover: HEAT | TIME,
    NVTCSVR: HEAT | TIME,
    NVTAndersen: HEAT | {"collision_rate": RATE},
    Brownian: HEAT | {"friction": [0.1, 0.2, 0.3]},
    NPH: DT | CELL,
    NPT: HEAT | CELL | TIME,
    NPTLangevin: HEAT | CELL | {"friction": RATE, "barostat_friction": RATE[::-1]},
    NPTCRescale: HEAT | CELL | TIME | {"compressibility": [10.0, 20.0, 30.0]},
}


@pytest.mark.parametrize("engine", SETTINGS, ids=lambda engine: engine.__name__)
def test_settings_of_each_system(engine):
    check_settings(engine, SETTINGS[engine], n_steps=10)


@pytest.mark.parametrize("coupling", ["anisotropic", "triclinic"])
def test_pressures_of_each_direction(coupling):
    diagonals = [[0.0, 1e-4, 2e-4], [1e-4, 0.0, 0.0], [-1e-4, 0.0, 1e-4]]
    pressures = diagonals if coupling == "anisotropic" else torch.diag_embed(torch.tensor(diagonals)).tolist()

    def make(model, **settings):
        return NPT(model, 4.0, 60.0, barostat_time=300.0, thermostat_time=100.0, pressure_coupling=coupling, **settings)

    check_settings(make, {"pressure": pressures}, n_steps=10)


class FirstForAll(NPT):
    """Broken twin: the settings of the first system hold for all."""

    def _constants(self, batch):
        return super()._constants(batch)[:1].expand(len(batch), -1).contiguous()


def test_settings_of_the_first_system_for_all_are_found():
    with pytest.raises(AssertionError, match="differs between settings in a batch"):
        check_settings(FirstForAll, SETTINGS[NPT], n_steps=10)


FIRST = {engine: {name: values[0] for name, values in settings.items()} for engine, settings in SETTINGS.items()}


@pytest.mark.parametrize("engine", SETTINGS, ids=lambda engine: engine.__name__)
def test_newcomers_start_afresh(engine):
    check_newcomers(lambda model: engine(model, **FIRST[engine]))


class Averaged(NPT):
    """Broken twin: a newcomer gets the average of what the others have."""

    def fresh_rows(self, batch):
        rows = super().fresh_rows(batch)
        present = batch.state_rows(self.key)
        return {
            name: row + present[name].mean(0) if "chain" in name and name in present else row
            for name, row in rows.items()
        }


def test_newcomers_that_inherit_are_found():
    with pytest.raises(AssertionError, match="of a newcomer differs"):
        check_newcomers(lambda model: Averaged(model, **FIRST[NPT]))


class ForEverybody(NPT):
    """Broken twin: chains of systems in another stage go on."""

    def _take_chains_(self, chain, cell_chain, uptake):
        self._state.chain.copy_(chain)
        self._state.cell_chain.copy_(cell_chain)


def test_chains_that_go_on_in_another_stage_are_found():
    with pytest.raises(AssertionError, match="state `chain` of a system in another stage"):
        check_finished_systems_stand_still(lambda model: ForEverybody(model, **FIRST[NPT]))
