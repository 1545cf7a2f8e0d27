"""What a log of dynamics holds, and that looking at the pressure changes no path."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import athanor
from athanor.data import Batch, observables
from athanor.dynamics import NVE
from athanor.dynamics.hooks import LoggingHook
from athanor.hooks import DynamicsStage
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.outputs import asking_for
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks
from athanor.units import BOLTZMANN, GPa

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.0, "switch_width": 1.5}


class ForcesHangOnStress(LennardJonesModelWrapper):
    """A model whose forces have other bits when it is asked for the stress, and whose card says so."""

    says = False

    def __init__(self) -> None:
        super().__init__(epsilon=0.0104, sigma=3.4, cutoff=8.0, switch_width=1.5)
        self.model_card = dataclasses.replace(self.model_card, stress_keeps_forces=self.says)

    def adapt_output(self, model_output: Any, data: Any) -> Any:
        if "stress" in self.model_config.active_outputs:
            model_output = {**model_output, "forces": model_output["forces"] * (1.0 + 1e-12)}
        return super().adapt_output(model_output, data)


class SaysThatTheyDoNot(ForcesHangOnStress):
    """Broken twin: its card claims what is not so."""

    says = True


@pytest.mark.parametrize("make", [argon_model, ForcesHangOnStress, SaysThatTheyDoNot])
def test_looking_at_the_pressure_changes_no_bit_of_the_path(make: Any) -> None:
    rows: list[Any] = []
    looks = LoggingHook("custom", 3, writer_fn=lambda step, found: rows.extend(found), outputs={"stress"})
    paths = []
    for hooks in ([], [looks]):
        batch = Batch.from_data_list([argon_crystal(1, 0), argon_crystal(2, 1)])
        with_neighbor_hooks(NVE(make(), dt=4.0, hooks=hooks)).run(batch, 8)
        paths.append(batch)
    equal = all(torch.equal(paths[0][name], paths[1][name]) for name in ("positions", "velocities", "forces", "energy"))
    assert equal == (make is not SaysThatTheyDoNot)
    assert len(rows) == 6
    assert all(np.isfinite(row["pressure"]) for row in rows)
    assert "stress" not in paths[1]  # the last step was none that was looked at


def test_the_pressure_is_the_slope_of_the_energy_and_that_of_the_gas() -> None:
    seen: list[Any] = []
    batch = Batch.from_data_list([argon_crystal(2, 1)])
    log = LoggingHook("custom", writer_fn=lambda step, found: seen.extend(found), outputs={"stress"})
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[log]))
    engine.run(batch, 3)
    row, volume, step = seen[-1], float(batch.volume), 1e-5
    energies = []
    for factor in (1.0 + step, 1.0 - step):
        strained = batch.clone()
        strained.positions, strained.cell = batch.positions * factor, batch.cell * factor
        with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(strained, 0)
        energies.append(float(strained.energy))
    static = -(energies[0] - energies[1]) / (volume * ((1.0 + step) ** 3 - (1.0 - step) ** 3))
    gas = (3 * 32 - 3) * BOLTZMANN * row["temperature"] / (3.0 * volume)
    assert row["pressure"] == pytest.approx(static + gas, rel=1e-6)
    assert abs(gas) > 0.05 * abs(row["pressure"])


def test_a_run_logs_energies_temperature_and_pressure_of_dynamics(tmp_path) -> None:
    crystal = bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 2)
    cluster = bulk("Ar", "fcc", a=5.4, cubic=True)
    cluster.pbc = False
    kinds = [{"ensemble": "nve"}, {"ensemble": "nvt", "friction": 0.01}]
    for number, kind in enumerate(kinds):
        out = tmp_path / str(number)
        settings = {"temperature": 30, "steps": 42, "timestep": 4.0, "every": 5, "stress": True, **kind}
        result = athanor.md([crystal, cluster], model=ARGON, out=out, silence=["small-cell"], **settings)
        run = athanor.open(out)
        series, of_cluster = run.series([0, 1])
        np.testing.assert_allclose(series.energy + series.kinetic_energy, series.total_energy, rtol=1e-12)
        np.testing.assert_allclose(-series.stress[:, :3].sum(axis=1) / 3.0, series.pressure, rtol=1e-12)
        assert np.isnan(of_cluster.pressure).all()
        assert np.isfinite(of_cluster.temperature).all()
        if kind["ensemble"] == "nve":
            np.testing.assert_allclose(series.conserved, series.total_energy, rtol=1e-12)
        else:
            assert np.ptp(series.conserved) < 0.05 * np.ptp(series.total_energy)
        assert result.rows[0]["settled_after_fs"] == 84.0  # half of few steps
        late = [row for row, step in zip(series.pressure, series.step, strict=True) if step > 21]
        assert result.rows[0]["pressure_GPa"] == pytest.approx(float(np.mean(late)) / GPa)
        assert result.rows[0]["pressure_samples"] == len(late)
        assert "pressure_GPa" not in result.rows[1]
        frames = run.frames(0)
        torch.testing.assert_close(observables.pressure(frames), torch.from_numpy(series.pressure))
        # the last step is none that was logged; its stress is that of the structure as it is
        [final, _] = athanor.evaluate(result.structures, model=ARGON).structures
        np.testing.assert_allclose(result.structures[0].get_stress(), final.get_stress(), rtol=1e-9, atol=1e-12)
        assert result.structures[0].get_stress().any()


def test_molecules_have_no_pressure(tmp_path) -> None:
    water = molecule("H2O")
    settings = {"temperature": 30, "steps": 3, "timestep": 0.1, "silence": ["time-step"]}
    result = athanor.md(water, model={**ARGON, "sigma": 0.5}, out=tmp_path / "out", **settings)
    assert "pressure_GPa" not in result.rows[0]
    assert np.isnan(athanor.open(tmp_path / "out").series(0).pressure).all()


def test_asking_is_put_back() -> None:
    model = argon_model()
    before = set(model.model_config.active_outputs)
    with pytest.raises(KeyError), asking_for(model, {"stress"}):
        raise KeyError
    assert model.model_config.active_outputs == before


class LosesForces(LennardJonesModelWrapper):
    """A model that gives NaN as the forces of the first system from its fifth call on."""

    calls = 0

    def adapt_output(self, model_output: Any, data: Any) -> Any:
        self.calls += 1
        outputs = super().adapt_output(model_output, data)
        if self.calls > 4:
            outputs["forces"] = outputs["forces"].clone()
            outputs["forces"][data.batch_idx == 0] = torch.nan
        return outputs


@pytest.mark.parametrize("forgets", [True, False])
def test_a_failed_system_has_no_stress_of_other_positions(forgets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Energy and forces go back to the last whole step; a stress that only the log looked at does not stay."""
    if not forgets:  # broken twin
        monkeypatch.setattr("athanor.dynamics.last_good.present_results", lambda batch: [])
    batch = Batch.from_data_list([argon_crystal(1, 0), argon_crystal(1, 1)])
    model = LosesForces(epsilon=0.0104, sigma=3.4, cutoff=8.0, switch_width=1.5)
    log = LoggingHook("custom", 3, writer_fn=lambda step, rows: None, outputs={"stress"})
    with_neighbor_hooks(NVE(model, dt=2.0, hooks=[log])).run(batch, 4)
    assert batch.failure_code[:, 0].bool().tolist() == [True, False]
    assert bool(batch.energy.isfinite().all() and batch.forces.isfinite().all())
    assert bool(batch.stress[1].isfinite().all())
    assert bool(batch.stress[0].isnan().all()) == forgets


def test_a_failed_system_is_logged_no_more(tmp_path) -> None:
    crystal = bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 2)
    flying = crystal.copy()
    flying.set_momenta(np.zeros((32, 3)))
    flying.arrays["momenta"][0] = 1e12
    settings = {"temperature": 30, "steps": 11, "timestep": 4.0, "every": 1, "silence": ["start"]}
    result = athanor.md([crystal, flying], model=ARGON, ensemble="nve", out=tmp_path / "out", **settings)
    assert result.failed == [1]
    text = (tmp_path / "out/log.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in text[1:] if line.split(",")[2] == "1"]
    assert len(rows) == 1
    assert rows[0][text[0].split(",").index("stage")] == "0"


def test_averages_are_those_of_the_last_stage_of_dynamics(tmp_path) -> None:
    from athanor.workflows.run import run
    from athanor.workflows.spec import make_spec
    from athanor.workflows.structures import from_python

    crystal = bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 2)
    of_both = {"steps": 40, "timestep": 1.0, "friction": 0.2}
    stages = [{"md": {"temperature": kelvin, **of_both}} for kelvin in (300.0, 20.0)]
    spec = make_spec({"model": ARGON, "stages": stages, "silence": ["start", "time-step"]})
    [row] = run(spec, from_python(crystal)).rows
    assert row["temperature_samples"] == 20
    assert row["temperature"] < 60.0


class Stop:
    """A hook that stops a run in the middle of its fourth step."""

    frequency, stage = 1, DynamicsStage.AFTER_POST_UPDATE

    def __call__(self, ctx: Any, stage: Any) -> None:
        if ctx.step_count == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("drops", [True, False])
def test_a_step_that_is_undone_leaves_no_stress_behind(drops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not drops:  # broken twin
        monkeypatch.setattr("athanor.dynamics.driver.drop_results", lambda batch, except_for: None)
    batch = Batch.from_data_list([argon_crystal(1, 0), argon_crystal(1, 1)])
    log = LoggingHook("custom", 3, writer_fn=lambda step, rows: None, outputs={"stress"})
    engine = with_neighbor_hooks(NVE(argon_model(), dt=2.0, hooks=[log, Stop()]))
    with pytest.raises(KeyboardInterrupt):
        engine.run(batch, 9)
    engine.undo_unfinished_step(batch)
    assert batch.step.flatten().tolist() == [3, 3]
    assert ("stress" not in batch) == drops
