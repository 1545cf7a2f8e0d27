"""Committees in runs: what stands in table, log and frames, and the bound that stops a system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.io import read, write

import athanor
from athanor.cli.main import call
from athanor.errors import InputError
from athanor.workflows.bounds import format_bounds, parse_bounds

PAIR = {"name": "lennard-jones", "epsilon": 0.0104, "cutoff": 8.0, "switch_width": 1.0}
COMMITTEE = {"name": "committee", "members": [{**PAIR, "sigma": sigma} for sigma in (3.36, 3.40, 3.44)]}
STOP = {"max_force_deviation": 0.008}


def crystals() -> list[Any]:
    """A cold crystal, and one so disturbed that its deviation is large from the start."""
    cold, hot = (bulk("Ar", "fcc", a=5.3, cubic=True) for _ in range(2))
    hot.rattle(0.3, seed=1)
    return [cold, hot]


def heat(out: Path | None = None, **more: Any) -> Any:
    arguments = {
        "temperature": 5.0,
        "steps": 12,
        "timestep": 2.0,
        "every": 4,
        "out": out,
        "silence": ["start", "small-cell"],
    }
    return athanor.md(crystals(), COMMITTEE, **(arguments | more))


def test_what_stands_in_table_log_and_frames(tmp_path: Path) -> None:
    result = heat(tmp_path / "out", stop_above=STOP, properties=["force_deviation"])
    assert result.reasons[0] == "done"
    value = result.rows[1]["max_force_deviation"]
    assert result.reasons[1] == f"stopped: max_force_deviation {value:.3g} eV/Å is above 0.008 eV/Å"
    assert result.steps == [12, 1]
    assert not result.failed
    assert result.outcomes == {"done": 1, "stopped": 1}
    run = athanor.open(tmp_path / "out")
    assert [row["status"] for row in run.summary] == ["done", "stopped"]
    assert [row["reason"] for row in run.summary] == [None, result.reasons[1].removeprefix("stopped: ")]
    assert run.summary[1]["force_deviation_largest"] == pytest.approx(value)
    series = run.series(0)
    frames = run.frames(0)
    assert series.step.tolist() == frames.step[:, 0].tolist() == [1, 5, 9]
    np.testing.assert_allclose(series.max_force_deviation, frames.max_force_deviation[:, 0].numpy())
    np.testing.assert_allclose(series.energy_deviation, frames.energy_deviation[:, 0].numpy())
    largest = [float(each.max()) for each in frames.force_deviation.split(4)]
    np.testing.assert_allclose(series.max_force_deviation, largest)
    assert run.frames(1).status[-1] == 1
    final = read(tmp_path / "out" / "final.extxyz", 1)
    assert final.info["max_force_deviation"] == pytest.approx(value)
    assert run.settings["stop_above"] == {"max_force_deviation": "0.008 eV/Å"}
    assert run.model["card"] == "committee of 3: 3 x Lennard-Jones"


def test_the_frame_of_the_stop_is_kept(tmp_path: Path) -> None:
    """Also where nobody goes on, so that no other frame is due."""
    result = heat(tmp_path / "out", temperature=60.0, every=50, steps=40, stop_above={"max_force_deviation": 0.004})
    assert result.reasons[0].startswith("stopped")
    frames = athanor.open(tmp_path / "out").frames(0)
    assert frames.step[-1] == result.steps[0] > 1
    assert frames.max_force_deviation[-1] > 0.004
    picked = athanor.select(tmp_path / "out", 1, by="uncertainty", above=0.004).rows
    assert picked


def test_logs_of_other_models_have_no_such_columns(tmp_path: Path) -> None:
    athanor.md(crystals()[:1], {**PAIR, "sigma": 3.4}, steps=2, out=tmp_path / "out", silence=["small-cell"])
    assert np.isnan(athanor.open(tmp_path / "out").series(0).max_force_deviation).all()


def test_a_relaxation_is_stopped_too() -> None:
    result = athanor.relax(crystals(), COMMITTEE, fixed_cell=True, stop_above=STOP, max_steps=200)
    assert [reason.partition(":")[0] for reason in result.reasons] == ["converged", "stopped"]
    free = athanor.relax(crystals(), COMMITTEE, fixed_cell=True, max_steps=200)
    assert free.reasons == ["converged", "converged"]


def test_job_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write("argon.extxyz", crystals())
    job = {"structures": "argon.extxyz", "model": COMMITTEE, "stop_above": {"max_force_deviation": "8 meV/Å"}}
    job |= {"stages": [{"md": {"temperature": "5 K", "steps": 6}}], "silence": ["start", "small-cell"]}
    Path("job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    assert call(["run", "job.yaml", "-o", "one", "--quiet"]) == 0
    assert call(["run", "one/run.yaml", "-o", "two", "--json", "--stop-above", "max_force_deviation=1e3"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == {"done": 2}
    assert call(["run", "one/run.yaml", "-o", "three", "--silence", "model"]) == 0
    screen = capsys.readouterr().out
    assert "1 done, 1 stopped" in screen
    assert "stopped after step 1: max_force_deviation" in " ".join(screen.split())
    assert "σF eV/Å" in screen
    for value, words in (("max_force_deviatoin=1", "Did you mean"), ("max_force_deviation", "NAME=BOUND"),
                         ("max_force_deviation=much", "force")):  # fmt: skip
        assert call(["run", "job.yaml", "-o", "four", "--stop-above", value]) == 65
        assert words in " ".join(capsys.readouterr().err.split())


def test_bounds_as_people_write_them() -> None:
    assert parse_bounds({"max_force_deviation": "300 meV/Å", "energy_deviation": 2}) == {
        **{"max_force_deviation": 0.3, "energy_deviation": 2.0}
    }
    assert parse_bounds(["stress=1 GPa"])["stress"] == pytest.approx(athanor.units.GPa)
    found = parse_bounds({"stress": 2.0, "forces": "1.5", "my_score": "1e-3"})
    assert parse_bounds(format_bounds(found)) == pytest.approx(found)
    for wrong in (3.0, {"my_score": "much"}, {"my_score": None}, {"my_score": float("nan")}, ["=3"]):
        with pytest.raises(InputError):
            parse_bounds(wrong)


def test_plot_draws_the_bound(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    heat(tmp_path / "out", stop_above=STOP)
    figure = athanor.plot(tmp_path / "out")
    labels = [axes.get_ylabel() for axes in figure.axes]
    axes = figure.axes[labels.index("largest deviation\nof a force (eV/Å)")]
    assert any(list(line.get_ydata()) == [0.008, 0.008] for line in axes.get_lines())


def test_the_calculator_of_ase() -> None:
    atoms = crystals()[1]
    atoms.calc = athanor.calculator(COMMITTEE)
    forces, means = atoms.get_forces(), []
    for member in COMMITTEE["members"]:
        atoms.calc = athanor.calculator(member)
        means.append(atoms.get_forces())
    np.testing.assert_allclose(forces, np.mean(means, axis=0), atol=1e-12)
