"""The command line as a user sees it: screens, files, messages and exit codes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

import athanor
from athanor.cli.main import call

LJ = ["--model", "lennard-jones"]
for _option in ("epsilon=0.0104", "sigma=3.4", "cutoff=8.5"):
    LJ += ["--model-option", _option]

JOB = """
title: argon, relaxed and warmed
structures:
  - file: argon.extxyz
    compare_cell: true
min_atoms: 8
model: {name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}
stages:
  - relax: {steps: 50, quick_steps: 5, fmax: 0.01 eV/Å, smax: 0.01 GPa}
  - md: {temperature: 30 K, timestep: 2 fs, steps: 40, quick_steps: 6}
every: 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    frames = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.2, 5.3, 5.4)]
    for atoms in frames:
        atoms.rattle(0.02, seed=1)
    write(tmp_path / "argon.extxyz", frames)
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    return tmp_path


def bad_frame(folder: Path) -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.positions[1] = atoms.positions[0]
    write(folder / "bad.extxyz", atoms)


def test_relax(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["relax", "argon.extxyz", "-o", "out", *LJ]) == 0
    screen = capsys.readouterr()
    assert "3 systems: 3 converged" in screen.out
    assert "Results: out" in screen.out
    assert "3 systems, 12 atoms, one batch; Lennard-Jones; relaxation, at most 500 steps" in screen.err
    rows = json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))
    assert [row["system"] for row in rows] == ["argon:0", "argon:1", "argon:2"]
    assert all(row["fmax"] <= 0.05 for row in rows)


def test_md_with_units(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["md", "argon.extxyz", "-o", "out", "--ensemble", "nvt", "--temperature", "30K", "--time", "0.04ps"]
    assert call([*command, "--timestep", "2fs", "--friction", "10/ps", "--quiet", *LJ]) == 0
    screen = capsys.readouterr()
    assert screen.out == ""
    assert screen.err == ""
    assert [row["steps"] for row in json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))] == [
        20,
        20,
        20,
    ]


def test_a_job_with_two_stages_and_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "job.yaml", "-o", "out"]) == 0
    rows = json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))
    assert all(row["status"] == "converged" and row["temperature"] > 0 and row["atoms"] == 8 for row in rows)
    assert [row["reference_lattice_constant"] for row in rows] == pytest.approx([5.2, 5.3, 5.4])
    # the same crystal from three starts: one lattice constant
    assert max(row["lattice_constant"] for row in rows) - min(row["lattice_constant"] for row in rows) < 0.02
    assert all(row["steps"] == row["relax_steps"] + 40 for row in rows)
    assert len(read(folder / "out/final.extxyz", ":")) == 3
    capsys.readouterr()
    assert call(["show", "out"]) == 0
    shown = capsys.readouterr().out
    for words in ("argon, relaxed and", "NVT at 30 K, 40 steps of 2 fs", "run.frames('argon:0')", "athanor plot out"):
        assert words in shown


def test_quick_and_options_win_over_the_job(folder: Path) -> None:
    assert call(["run", "job.yaml", "--quick", "-o", "out", "--seed", "7", "--every", "1", "-q"]) == 0
    text = (folder / "out/run.yaml").read_text(encoding="utf-8")
    assert "seed: 7" in text
    assert "every: 1" in text
    assert max(row["steps"] for row in json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))) <= 11


def test_run_yaml_repeats_the_run(folder: Path) -> None:
    assert call(["run", "job.yaml", "-o", "one", "-q"]) == 0
    assert call(["run", "one/run.yaml", "-o", "two", "-q"]) == 0
    assert (folder / "one/summary.csv").read_text(encoding="utf-8") == (folder / "two/summary.csv").read_text(
        encoding="utf-8"
    )
    assert (folder / "one/log.csv").read_text(encoding="utf-8") == (folder / "two/log.csv").read_text(encoding="utf-8")


def test_failures_have_their_code_and_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad_frame(folder)
    assert call(["relax", "argon.extxyz", "bad.extxyz", "-o", "out", *LJ]) == 69
    out = capsys.readouterr().out
    assert "4 systems: 3 converged, 1 failed" in out
    assert "bad (frame 0 of bad.extxyz) failed after step 0: " in out
    (folder / "job.yaml").write_text(JOB.replace("argon.ext", "bad.ext") + "allow_failures: true\n", encoding="utf-8")
    assert call(["run", "job.yaml", "-o", "out2"]) == 0
    assert "The job allows failures" in capsys.readouterr().out
    assert call(["show", "out"]) == 0
    assert "failed after step 0" in capsys.readouterr().out


MISTAKES = [
    (["relax", "argon.extxyz", "-o", "out", "--fmax", "1 GPa", *LJ], "fmax.*unit 'GPa'"),
    (["relax", "nothing.cif", "-o", "out", *LJ], "`nothing.cif` does not exist"),
    (["relax", "argon.extxyz", "-o", "out", "--model", "no-such"], "no model `no-such`"),
    (["relax", "argon.extxyz", "-o", "out", "--model", "lennard-jones"], "epsilon"),
    (["relax", "argon.extxyz", "-o", "out", "--model-option", "a=1"], "--model-option needs --model"),
    (["relax", "argon.extxyz", "-o", "out", "--model", "demo", "--model-option", "a"], "KEY=VALUE"),
    (["relax", "argon.extxyz"], "`-o` is missing"),
    (
        ["relax", "argon.extxyz", "-o", "out", "--status", "nowhere/s.jsonl", *LJ],
        "`nowhere` is no folder; make it first",
    ),
    (["relax", "argon.extxyz", "-o", "out", "--time-limit", "5parsec", *LJ], "--time-limit.*use s, min, h, d"),
    (["relax", "argon.extxyz", "-o", "out", "--wrong"], "No such option"),
    (["relax", "argon.extxyz", "-o", "out", "--max-steps", "many"], "--max-steps.*integer"),
    (["md", "argon.extxyz", "-o", "out", "--time", "1ps", "--steps", "3", *LJ], "not both"),
    (["md", "argon.extxyz", "-o", "out", "--ensemble", "anvil", *LJ], "'nvt'.*'nve'"),
    (["run", "argon.extxyz"], "holds only text"),
    (["show", "."], "not a results folder"),
    (["bake"], "No such command"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(words[:6]) for words, _ in MISTAKES])
def test_bad_input_ends_with_65_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    import re

    assert call(arguments) == 65
    told = capsys.readouterr().err
    assert told.startswith("athanor: ")
    assert re.search(words, told), told
    assert "Traceback" not in told
    assert not (folder / "out").exists()


def test_results_are_replaced_only_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["relax", "argon.extxyz", "-o", "out", "--max-steps", "1", *LJ]
    assert call(command) == 0
    assert call(command) == 65
    assert "--overwrite" in capsys.readouterr().err
    assert call([*command, "--overwrite"]) == 0
    (folder / "out/notes.txt").write_text("mine", encoding="utf-8")
    assert call([*command, "--overwrite"]) == 65
    assert (folder / "out/notes.txt").read_text(encoding="utf-8") == "mine"


def test_storage_trouble_is_74(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("", encoding="utf-8")
    assert call(["relax", "argon.extxyz", "-o", "file/out", *LJ]) == 74
    assert "can not be written" in capsys.readouterr().err


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["models"]) == 0
    out = capsys.readouterr().out
    for name in ("chgnet", "lennard-jones", "demo"):
        assert name in out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    from athanor import __version__

    assert call(["--version"]) == 0
    assert capsys.readouterr().out == f"athanor {__version__}\n"
    for command in ([], ["run"], ["relax"], ["md"], ["show"], ["models"]):
        assert call([*command, "--help"]) == 0
        assert "Usage: athanor" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a file name")
def test_names_that_are_no_text_and_terminals_that_know_few_letters(folder: Path) -> None:
    source = os.fsdecode(b"argon\xff.extxyz")
    (folder / "argon.extxyz").rename(source)
    command = [
        sys.executable,
        "-m",
        "athanor.cli.main",
        "relax",
        source,
        *LJ,
        "-o",
        "out",
        "--max-steps",
        "2",
        "--json",
    ]
    words = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["atoms"] == 4
    run = athanor.open("out")
    assert run.names == ["argon?:0", "argon?:1", "argon?:2"]
    assert run.structures[0].info["name"] == os.fsdecode(b"argon\xff:0")
    shown = subprocess.run([*command[:3], "show", "out"], env=words, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "fmax eV/?" in shown.stdout


@pytest.mark.skipif(os.name != "posix", reason="uses a shell")
def test_closed_streams_end_no_run(folder: Path) -> None:
    words = [sys.executable, "-m", "athanor.cli.main", "relax", "argon.extxyz", *LJ, "-o", "out", "--max-steps", "2"]
    done = subprocess.run(f"{shlex.join(words)} >&- 2>&-", shell=True, check=False)
    assert done.returncode == 0
    run = athanor.open("out")
    assert (run.state, run.num_frames) == ("finished", 5)


def test_an_internal_error_is_70_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from athanor.workflows import chunks

    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(chunks, "free_memory", broken)
    monkeypatch.delenv("ATHANOR_DEBUG", raising=False)
    assert call(["relax", "argon.extxyz", "-o", "out", *LJ]) == 70
    assert "internal error: ZeroDivisionError: oops" in capsys.readouterr().err


LONG = [sys.executable, "-m", "athanor", "md", "argon.extxyz", "-o", "out", "--steps", "1000000", "--every", "5", *LJ]


def wait_for_steps(folder: Path, process: subprocess.Popen) -> None:
    while not (folder / "out/log.csv").exists():
        assert process.poll() is None, "the run ended before its first step"
        time.sleep(0.05)


@pytest.mark.usefixtures("foreground")
def test_a_closed_terminal_stops_a_run_like_an_interrupt(folder: Path) -> None:
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        LONG, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    wait_for_steps(folder, process)
    os.close(screen)  # from here on, writing to the terminal is an error
    process.send_signal(signal.SIGHUP)
    process.wait()
    run = athanor.open(folder / "out")
    assert run.state == "interrupted"
    assert run.num_frames > 0
    assert len(read(folder / "out/final.extxyz", ":")) == 3


def test_sigterm_writes_what_is_done(folder: Path) -> None:  # Ctrl-C: tests/errors
    process = subprocess.Popen(LONG, cwd=folder, stderr=subprocess.PIPE, text=True)
    wait_for_steps(folder, process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 75
    assert "stopped by SIGTERM; what was done is in out; to go on: athanor run --resume out" in told
    rows = json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))
    assert {row["status"] for row in rows} == {"interrupted"}
    assert len({row["steps"] for row in rows}) == 1
    assert "state: interrupted" in (folder / "out/run.yaml").read_text(encoding="utf-8")
    assert len(read(folder / "out/final.extxyz", ":")) == 3
