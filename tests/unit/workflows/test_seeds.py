"""Seeds: the same by default, another one in each run where that is asked for, and always on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

import athanor
from athanor.cli.main import call
from athanor.errors import InputError
from athanor.workflows import spec
from athanor.workflows.spec import make_spec

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 6.5}
JOB = {"model": ARGON, "stages": [{"md": {"steps": 5}}]}


def heated(**settings: Any):
    crystal = bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 2)
    return athanor.md(crystal, model=ARGON, temperature=30, steps=5, **settings)


def positions(result) -> np.ndarray:
    return np.array([atoms.positions for atoms in result.structures])


def test_two_runs_are_equal_unless_they_are_told_to_differ() -> None:
    first, second = heated(), heated()
    assert first.seed == second.seed == 42
    assert (positions(first) == positions(second)).all()
    first, second = heated(seed="random"), heated(seed="random")
    assert first.seed != second.seed
    assert np.abs(positions(first) - positions(second)).max() > 1e-3


def test_the_number_that_was_drawn_is_on_record_and_repeats_the_run(tmp_path: Path) -> None:
    drawn = heated(seed="random", out=tmp_path / "one")
    kept = athanor.open(tmp_path / "one").settings["seed"]
    assert kept == drawn.seed
    assert isinstance(kept, int)
    assert (positions(heated(seed=kept)) == positions(drawn)).all()


def test_a_word_that_is_no_longer_drawn_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec.secrets, "randbits", lambda bits: 42)
    with pytest.raises(AssertionError):
        test_two_runs_are_equal_unless_they_are_told_to_differ()


def test_replicas_of_one_structure_differ_within_a_call() -> None:
    crystal = bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 2)
    one, other = athanor.md([crystal] * 2, model=ARGON, temperature=30, steps=5).structures
    assert np.abs(one.positions - other.positions).max() > 1e-3


def test_jobs_and_the_command_line_take_the_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_spec({**JOB, "seed": "random"}).seed != make_spec({**JOB, "seed": "random"}).seed
    assert make_spec({**JOB, "seed": "7"}).seed == 7
    for wrong in ("rnadom", "", 1.5, True, -1):
        with pytest.raises(InputError, match="seed"):
            make_spec({**JOB, "seed": wrong})
    with pytest.raises(InputError, match="write a whole number, or random"):
        make_spec({**JOB, "seed": "rnadom"})
    monkeypatch.chdir(tmp_path)
    bulk("Ar", "fcc", a=5.4, cubic=True).write("argon.extxyz")
    options = [f"--model-option={key}={value}" for key, value in ARGON.items() if key != "name"]
    job = ["md", "argon.extxyz", "--steps", "3", "-m", "lennard-jones", *options, "--seed", "random", "-o", "out"]
    assert call(job) == 0
    number = athanor.open("out").settings["seed"]
    assert f"seed {number}" in capsys.readouterr().err
    assert call(["show", "out"]) == 0
    assert str(number) in capsys.readouterr().out
