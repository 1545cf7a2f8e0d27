"""Warnings as a user meets them: once a run, on stderr or through Python's `warnings`, kept with the results."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.io import write

import athanor
from athanor.cli.main import call
from athanor.errors import AthanorWarning

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
LJ = ["--model", "lennard-jones"]
for _key in ("epsilon", "sigma", "cutoff"):
    LJ += ["--model-option", f"{_key}={ARGON[_key]}"]
HASTY = ["md", "argon.extxyz", "-o", "out", "--steps", "3", "--timestep", "8 fs", "--friction", "0.2", *LJ]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("argon.extxyz", [bulk("Ar", "fcc", a=5.2 + 0.1 * i, cubic=True) for i in range(3)])
    write("water.xyz", molecule("H2O"))
    return tmp_path


def warned(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("warning: ")]


def test_each_is_said_once_a_run_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*HASTY, "--max-atoms", "4"]) == 0  # three batches, one warning of each kind
    screen = capsys.readouterr()
    lines = warned(screen.err)
    assert [line.rpartition("[--silence ")[2] for line in lines] == ["small-cell]", "time-step]", "friction]"]
    assert "3 of 3 systems, the first is system 0 (argon:0, frame 0 of `argon.extxyz`)" in lines[0]
    assert "warning" not in screen.out
    import yaml

    kept = yaml.safe_load(Path("out/run.yaml").read_text(encoding="utf-8"))["warnings"]
    assert [f"warning: {text}" for text in kept] == [line.rpartition(" [")[0] for line in lines]
    assert call(["show", "out"]) == 0
    assert "damps all motion within 5 fs" in " ".join(capsys.readouterr().out.split())


def test_they_can_be_silenced_one_by_one_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*HASTY, "--silence", "small-cell", "--silence", "friction"]) == 0
    (line,) = warned(capsys.readouterr().err)
    assert "time step" in line
    assert call([*HASTY, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert call([*HASTY, "--overwrite", "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_a_check_tells_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(HASTY) == 0
    in_the_run = [line.rpartition(" [")[0] for line in warned(capsys.readouterr().err)]
    assert call([*HASTY, "--overwrite", "--check"]) == 0
    screen = " ".join("".join(capsys.readouterr()).split())
    for line in in_the_run:
        assert line in screen


def test_an_evaluation_warns_of_molecules_with_a_model_of_crystals(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["evaluate", "water.xyz", "--model", "chgnet"]) == 0
    (line,) = warned(capsys.readouterr().err)
    assert "CHGNet 0.3.0 is made for crystals" in line
    assert "system 0 (water, frame 0 of `water.xyz`)" in line


def test_in_python_they_are_warnings() -> None:
    with pytest.warns(AthanorWarning, match=r"swings by .* 41 %.*silence=\['small-cell'\]") as caught:
        athanor.md("argon.extxyz", ARGON, steps=2, timestep=2.0)
    ours = [warning.filename for warning in caught if issubclass(warning.category, AthanorWarning)]
    assert ours == [__file__]  # the line of the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error", AthanorWarning)
        athanor.md("argon.extxyz", ARGON, steps=2, timestep=2.0, silence=["small-cell"])


@pytest.mark.filterwarnings("error::athanor.errors.AthanorWarning")
def test_a_warning_made_an_error_leaves_nothing() -> None:
    with pytest.raises(AthanorWarning):
        athanor.md("argon.extxyz", ARGON, steps=2, timestep=2.0, out="strict")
    assert not Path("strict").exists()
