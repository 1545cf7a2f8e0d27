"""``athanor compare`` and ``athanor evaluate`` with several models, as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

from athanor.cli.main import call

SOFT = "{name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}"
HARD = "{name: lennard-jones, epsilon: 0.0110, sigma: 3.5, cutoff: 8.75}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three crystals in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    frames = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.2, 5.3, 5.4)]
    for atoms in frames:
        atoms.rattle(0.05, seed=1)
    write(tmp_path / "argon.extxyz", frames)
    return tmp_path


def evaluate_both(*more: str) -> int:
    return call(["evaluate", "argon.extxyz", "-m", SOFT, "-m", HARD, "-o", "out.extxyz", "--quiet", *more])


def test_several_models_stand_side_by_side_and_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["evaluate", "argon.extxyz", "-m", SOFT, "-m", HARD, "-o", "out.extxyz"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "lennard-jones 1   lennard-jones 1",
        "2 models in",
        "Results: out-lennard-jones-1.extxyz, out-lennard-jones-2.extxyz",
        "lennard-jones 1 minus lennard-jones 2: 3 systems",
        "energy, elements shifted   meV/atom",
        "Shifted: without what each element adds to all differences (Ar +",
    ):
        assert words in shown
    for number in (1, 2):
        images = read(f"out-lennard-jones-{number}.extxyz", ":")
        assert [atoms.info["name"] for atoms in images] == ["argon:0", "argon:1", "argon:2"]


def test_options_go_to_the_model_that_takes_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--model-option={text}" for text in ("epsilon=0.0104", "sigma=3.4", "lj.cutoff=8.5")]
    for first in ("lj", "lj + demo"):
        assert call(["evaluate", "argon.extxyz", "-m", first, "-m", "d3", "--json", "--quiet", *options]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [each["model"] for each in found["models"]] == [first, "d3"]
        own = [option.replace("lj.", "") for option in options]
        assert call(["evaluate", "argon.extxyz", "-m", first, "--json", "--quiet", *own]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert [row["energy"] for row in found["models"][0]["rows"]] == [row["energy"] for row in alone["rows"]]


def test_an_option_of_two_models_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["evaluate", "argon.extxyz", "-m", "lj", "-m", "ewald", "--model-option", "cutoff=8"]) == 65
    assert "`cutoff` is an option of lennard-jones and ewald. Write `lennard-jones.cutoff`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "words"),
    [("{name: lj, epsilon", "is no mapping such as {name: mace"), ("{nam: lj}", "--model"), ("[]", "list of models")],
)
def test_what_is_no_model(folder: Path, capsys: pytest.CaptureFixture[str], model: str, words: str) -> None:
    for more in ([], ["-m", "lj"]):
        assert call(["evaluate", "argon.extxyz", "-m", model, *more]) == 65
        assert words in capsys.readouterr().err


def test_no_result_of_one_model_replaces_anything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out-lennard-jones-2.extxyz").write_text("mine", encoding="utf-8")
    assert evaluate_both() == 65
    assert "`out-lennard-jones-2.extxyz` exists" in capsys.readouterr().err
    assert not (folder / "out-lennard-jones-1.extxyz").exists()


def test_one_bad_system_of_several_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = read("argon.extxyz", ":")
    frames[1].positions[1] = frames[1].positions[0]
    write("argon.extxyz", frames)
    assert call(["evaluate", "argon.extxyz", "-m", SOFT, "-m", HARD]) == 69
    shown = capsys.readouterr().out
    assert shown.count("argon:1 (frame 1 of argon.extxyz) failed") == 2
    assert "No energy on one side: argon:1." in shown


def test_compare_prints_tables_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_both() == 0
    sides = ["out-lennard-jones-1.extxyz", "argon.extxyz", "out-lennard-jones-2.extxyz"]
    assert call(["compare", sides[0], sides[2], "--plot", "parity.png"]) == 0
    shown = capsys.readouterr().out
    assert "out-lennard-jones-1.extxyz minus out-lennard-jones-2.extxyz: 3 systems" in shown
    assert "Plot: parity.png" in shown
    assert (folder / "parity.png").read_bytes()[:4] == b"\x89PNG"
    assert call(["compare", *sides]) == 65
    assert "`argon.extxyz` has no energy, expected in `energy`" in capsys.readouterr().err


def test_compare_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate_both() == 0
    assert call(["compare", "out-lennard-jones-1.extxyz", "out-lennard-jones-2.extxyz", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["comparisons"]
    assert found["second"] == "out-lennard-jones-2.extxyz"
    assert found["figures"]["forces"]["count"] == 36
    assert found["figures"]["forces"]["system"].startswith("argon:")
    assert len(found["rows"]) == 3
    assert set(found["shifts_eV"]) == {"Ar"}


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_window(folder: Path, capsys: pytest.CaptureFixture[str], width: int,
                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    assert evaluate_both() == 0
    monkeypatch.setenv("COLUMNS", str(width))
    assert call(["compare", "out-lennard-jones-1.extxyz", "out-lennard-jones-2.extxyz"]) == 0
    assert "ΔE meV/atom" in capsys.readouterr().out


def test_one_side_is_no_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", "argon.extxyz"]) == 65
    assert "needs two results folders or files" in capsys.readouterr().err
