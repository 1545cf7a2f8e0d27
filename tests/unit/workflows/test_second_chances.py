"""Second chances in jobs, calls and commands: what is set, what the table says, and what means are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

import athanor
from athanor.cli.main import call
from athanor.workflows import saved_analysis
from athanor.workflows.track import BlockAverages

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.0, "switch_width": 1.5}
SETTINGS: dict[str, Any] = {
    "ensemble": "nve", "temperature": 60, "steps": 300, "every": 2, "silence": ["small-cell", "time-step", "start"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def crystals() -> list[Atoms]:
    """One that lasts under a long time step, as its atoms hardly move, and one that does not."""
    still, hot = (bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 2) for _ in range(2))
    still.set_velocities(np.zeros((32, 3)))
    hot.rattle(0.1, seed=3)
    return [still, hot]


def test_a_call_rescues_and_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = athanor.md(crystals(), ARGON, timestep=100, **SETTINGS)
    assert given_up.reasons[1].startswith("failed: positions became NaN")
    assert all("retries" not in row for row in given_up.rows)
    result = athanor.md(crystals(), ARGON, timestep=100, on_error="retry", out="out", **SETTINGS)
    assert result.reasons == ["done", "done"]
    assert result.energies[0] == given_up.energies[0]
    assert [row.get("retries") for row in result.rows] == [None, 1]
    assert result.rows[1]["temperature"] < 100.0  # K; with what led to the failure it is beyond all sense
    run = athanor.open("out")
    assert run.settings["on_error"] == "retry"
    assert run.summary[1]["retries"] == 1
    assert run.averages(1)[0].temperature.mean == pytest.approx(result.rows[1]["temperature"], rel=0.02)
    assert run.diffusion(1).values.shape[0] > 0  # of frames that are evenly spaced: those since then
    everything = lambda series, stage: series.stage == stage  # noqa: E731
    monkeypatch.setattr(saved_analysis, "_rows_of_stage", everything)  # mutant: steps that were taken back count
    assert not run.averages(1, start=0)[0].temperature.mean < 1000.0


def test_means_without_forgetting_would_be_of_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    forget = BlockAverages.forget

    def never_again(self: BlockAverages, which: Any) -> None:
        if not bool(self.samples.any()):
            forget(self, which)

    monkeypatch.setattr(BlockAverages, "forget", never_again)
    result = athanor.md(crystals(), ARGON, timestep=100, on_error="retry", **SETTINGS)
    assert not result.rows[1]["temperature"] < 1000.0


def test_a_command_and_a_job_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    write("in.extxyz", crystals())
    model = [f"--model-option={key}={value}" for key, value in ARGON.items() if key != "name"]
    command = ["md", "in.extxyz", "--ensemble", "nve", "-T", "60K", "--steps", "60", "--timestep", "100fs", "-o", "out"]
    command += [
        "-m",
        "lennard-jones",
        *model,
        "--on-error",
        "retry",
        "--silence",
        "small-cell",
        "--silence",
        "time-step",
    ]
    assert call(command) == 0
    table = capsys.readouterr().out
    assert "retries" in table
    job = yaml.safe_load(Path("out/run.yaml").read_text(encoding="utf-8"))["job"]
    assert (job["on_error"], job["max_retries"]) == ("retry", 3)
    assert call(["run", "out/run.yaml", "-o", "again", "-q"]) == 0
    assert read("again/final.extxyz", 1).get_potential_energy() == read("out/final.extxyz", 1).get_potential_energy()
    assert call(["run", "out/run.yaml", "-o", "given-up", "-q", "--on-error", "quarantine"]) == 69
    assert "retries" not in json.loads(Path("given-up/summary.json").read_text(encoding="utf-8"))[1]
    capsys.readouterr()
    assert call(["run", "out/run.yaml", "--on-error", "ignore"]) == 65
    assert "on-error" in capsys.readouterr().err


def test_who_is_given_up_says_after_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    options = {**SETTINGS, "steps": 60}
    result = athanor.md(crystals(), ARGON, timestep=1000, on_error="retry", max_retries=2, out="out", **options)
    assert "after 2 retries with smaller steps" in result.reasons[1]
    assert result.rows[1]["retries"] == 2
    assert call(["show", "out", "--failed"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "retries 2" in shown
    assert "in the MD" in shown
