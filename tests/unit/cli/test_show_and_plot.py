"""``athanor show`` and ``athanor plot`` as a user sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from ase.io import read

import athanor
from athanor.cli.main import call

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two crystals that were heated, and one whose atoms lie on top of each other."""
    monkeypatch.chdir(tmp_path)
    crystals = []
    for name in ("cold", "warm", "on top"):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
        atoms.info["name"] = name
        crystals.append(atoms)
    crystals[2].positions[1] = crystals[2].positions[0]
    athanor.md(crystals, ARGON, temperature=30, steps=10, every=3, out="out")
    return tmp_path / "out"


def make_unfinished(folder: Path, process: dict[str, object]) -> None:
    """Leave the folder as a run does that is under way."""
    record = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    record |= {"state": "running", "process": process}
    for key in ("ended", "seconds", "outcome", "frames"):
        del record[key]
    (folder / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    rows = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for row in rows:
        row |= {"status": "not_started", "reason": None, "steps": 0}
    (folder / "summary.json").write_text(json.dumps(rows), encoding="utf-8")
    for name in ("final.extxyz", "SHA256SUMS"):
        (folder / name).unlink()


def gone() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.mark.usefixtures("folder")
def test_show_says_what_failed_what_to_do_and_how_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show", "out"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "finished, started",
        "Lennard-Jones",
        "NVT at 30 K, 10 steps of 1 fs",
        "3 systems: 2 done, 1 failed",
        "on top (number 2) failed",
        "Failed at the start: look there for atoms on top of each other",
        'run = athanor.open("out")',
        "run.frames('cold')",
    ):
        assert words in shown
    lines = [line.split("  ")[1] for line in shown.splitlines() if line.startswith(("  run.", "  athanor.plot"))]
    assert len(lines) >= 5
    for line in lines:
        assert eval(line, {"athanor": athanor, "run": athanor.open("out")}) is not None


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_window_leaves_columns_out_and_cuts_no_number(width: int) -> None:
    import io

    from rich.console import Console

    from athanor.cli.table import print_table

    row = {"index": 0, "system": "lithium iron phosphate", "atoms": 28, "steps": 123, "energy_per_atom": -6.789012}
    row |= {"fmax": 0.0412, "smax_GPa": 0.0387, "lattice_constant": 6.62141, "status": "converged"}
    row |= {"reference_lattice_constant": 6.59131, "error_percent": 0.45672}
    screen = io.StringIO()
    print_table(Console(file=screen, width=width), [row])
    table, _, notes = screen.getvalue().partition("Left out, as the window is narrow: ")
    assert "-6.7890" in table
    assert "converged" in table
    assert max(map(len, table.splitlines())) <= width
    for number in ("28", "123", "0.041", "0.039", "6.621", "6.591", "+0.46"):
        assert number in table.split() or notes
    assert bool(notes) == (width < 120)
    cells = {cell for line in table.splitlines() if line[:1] == " " for cell in line.split() if cell[-1].isdigit()}
    assert cells <= {"28", "123", "-6.7890", "0.041", "0.039", "6.621", "6.591", "+0.46"}


@pytest.mark.usefixtures("folder")
def test_show_of_one_system(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("warm", "1"):
        assert call(["show", "out", "--system", name]) == 0
        shown = capsys.readouterr().out
        assert "Ar32" in shown
        assert "cold" not in shown
        assert "run.frames('warm')" in shown
    assert call(["show", "out", "--system", "wram"]) == 65
    assert "Did you mean 'warm'?" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show", "out", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["systems"], told["frames"], told["folder"]) == ("finished", 3, 9, "out")
    assert told["outcome"] == {"done": 2, "failed": 1}
    assert [row["system"] for row in told["rows"]] == ["cold", "warm", "on top"]
    assert call(["show", "out", "--json", "--system", "warm"]) == 0
    assert [row["index"] for row in json.loads(capsys.readouterr().out)["rows"]] == [1]


def test_show_of_what_failed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show", "out", "--failed"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "2 done, 1 failed",
        "on top (Ar32), number 2",
        "after step 0",
        f"frame 2 in {Path('out/final.extxyz')}",
    ):
        assert words in shown
    assert "warm" not in shown
    assert "retries" not in shown
    assert call(["show", "out", "--failed", "--json"]) == 0
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert (failure["index"], failure["step"], failure["retries"], failure["stage"]) == (2, 0, 0, "MD")
    frames = read(failure["last_good"]["file"], ":", format="extxyz")
    assert frames[failure["last_good"]["index"]].info["name"] == "on top"
    assert call(["show", "out", "--failed", "--system", "warm"]) == 0
    assert "number 2" not in capsys.readouterr().out
    make_unfinished(folder, {"host": "here", "pid": gone()})
    assert call(["show", "out", "--failed"]) == 0
    assert "the last one in" in capsys.readouterr().out


def test_show_of_a_run_that_was_killed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_unfinished(folder, {"host": os.uname().nodename, "id": gone()})
    assert call(["show", "out"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "killed (its process is gone)",
        "last written",
        "9 so far, up to step 10",
        "3 systems: 2 killed, 1 failed",
        "on top (number 2) failed",
        "run.atoms(step=10)",
    ):
        assert words in shown
    assert "final.extxyz" not in shown
    assert call(["show", "out", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["last_step"], told["frames"]) == ("killed", 10, 9)


def test_show_of_a_run_on_another_machine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_unfinished(folder, {"host": "elsewhere", "id": gone()})
    assert call(["show", "out"]) == 0
    assert "running (on another machine, or killed there)" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plot", "out"]) == 0
    assert capsys.readouterr().out == "Plot: out/plot.png\n"
    assert (tmp_path / "out/plot.png").read_bytes().startswith(b"\x89PNG")
    assert call(["plot", "out", "-o", "warm.svg", "--system", "warm", "--system", "0"]) == 0
    text = (tmp_path / "warm.svg").read_text(encoding="utf-8")
    assert "<!-- warm -->" in text
    assert "on top" not in text
    assert call(["plot", "out", "-o", "warm.doc"]) == 65
    assert call(["plot", "nothing"]) == 65
    # a plot is part of the results, and goes with them
    argon = bulk("Ar", "fcc", a=5.3)
    athanor.relax(argon, ARGON, max_steps=1, out="out", overwrite=True)
    assert not (tmp_path / "out/plot.png").exists()
