"""Options that commands share: one meaning, true defaults, JSON on request, and completion in the shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from ase.build import bulk
from ase.io import read, write

from athanor.cli.main import app, call
from athanor.models.demo import DemoModel
from athanor.workflows.methods import MD, all_settings
from athanor.workflows.spec import RunSpec
from athanor.workflows.stages import MDSpec, RelaxSpec

LJ = ["--model", "lennard-jones"]
for _option in ("epsilon=0.0104", "sigma=3.4", "cutoff=8.5"):
    LJ += ["--model-option", _option]
COMMON = {"--model", "--model-option", "--device", "--dtype", "--threads", "--max-atoms", "--supercell", "--min-atoms",
          "--overwrite", "--silence", "--quiet", "--json", "--out"}  # fmt: skip
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "argon.extxyz", [bulk("Ar", "fcc", a=a, cubic=True).repeat(2) for a in (5.2, 5.3)])
    return tmp_path


def options_of(command: str) -> dict[str, Any]:
    return {name: option for option in COMMANDS[command].params for name in option.opts if name.startswith("--")}


@pytest.mark.parametrize("command", ["run", "relax", "md", "evaluate"])
def test_shared_options_are_everywhere_and_say_the_same(command: str) -> None:
    mine, others = options_of(command), options_of("md")
    assert set(mine) >= COMMON
    if command != "evaluate":
        assert set(mine) >= {"--seed", "--every", "--check"}
    for name in COMMON - {"--out", "--overwrite"}:
        assert mine[name].help.replace("; repeatable", "") == others[name].help.replace("; repeatable", "")
    assert all(option.rich_help_panel for name, option in mine.items() if name != "--help")


def test_defaults_in_the_help_are_those_of_the_descriptions() -> None:
    plain = RunSpec(stages=(RelaxSpec(), MDSpec(steps=1000))).to_job()
    plain |= plain["stages"][0]["relax"] | {"max_steps": plain["stages"][0]["relax"]["steps"]}
    plain |= {key: value for key, value in plain["stages"][1]["md"].items() if key != "steps"}
    told = {}
    for command in ("relax", "md"):
        for name, option in options_of(command).items():
            found = re.search(r"\[default: (.+)\]", option.help or "")
            if found:
                told[name.removeprefix("--").replace("-", "_")] = found[1]
    in_words = {"model": "chgnet for crystals", "threads": "all cores", "max_atoms": "what fits", "time": "1 ps"}
    in_words |= {"from_time": "how the run left them", "time_limit": "no limit", "status": "none"}
    in_words |= {"out": "needed, unless --resume names it", "extend": "no longer"}
    assert {key: value for key, value in told.items() if key in in_words} == in_words
    others = {setting.name: setting.default_in_words for setting in all_settings(MD).values() if setting.only}
    plain |= {name: words for name, words in others.items() if name not in plain}
    for key in told.keys() - in_words.keys() - {"steps"}:
        assert told[key] == str(plain[key]), key


def test_json_is_one_document_and_progress_is_not_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["relax", "argon.extxyz", "-o", "out", "--max-steps", "2", "--smax", "1e-6", "--json", *LJ]) == 0
    screen = capsys.readouterr()
    document = json.loads(screen.out)
    assert document["rows"] == json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))
    assert document["outcome"] == {"step_limit": 2}
    assert (document["folder"], document["exit_code"]) == ("out", 0)
    assert document["seconds"] > 0
    assert "2 systems, 64 atoms" in screen.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["relax", "no.cif", "-o", "out", "--json"],
        ["relax", "argon.extxyz", "-o", "out", "--json", "--wrong"],
        ["run", "no.yaml", "--json"],
        ["evaluate", "argon.extxyz", "--json", "--model", "no-such"],
        ["show", "nothing", "--json"],
    ],
)
def test_errors_are_json_too(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert call(arguments) == 65
    screen = capsys.readouterr()
    document = json.loads(screen.out)
    assert set(document) == {"error", "exit_code"}
    assert document["exit_code"] == 65
    assert screen.err == f"athanor: {document['error']}\n"


def test_one_model_with_all_that_is_known_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["models", "lj"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith("lennard-jones pair potential, Apache-2.0 Lennard-Jones with your parameters")
    assert "options epsilon, sigma, cutoff, switch_width=0.0, half_list=false" in words
    assert call(["models", "chgnet"]) == 0
    assert "parameters come with its package" in " ".join(capsys.readouterr().out.split())
    assert call(["models", "wizardry"]) != 0


@pytest.mark.chgnet
def test_a_file_that_runs_code_is_trusted_by_a_flag(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(DemoModel(hidden_dim=8), folder / "whole.pt")
    asked = ["evaluate", "argon.extxyz", "--model", "chgnet", "--model-option", "name=whole.pt"]
    assert call(asked) != 0
    assert "`--trust-model` on the command line" in capsys.readouterr().err
    assert call([*asked, "--trust-model"]) != 0
    assert "is no CHGNet checkpoint" in capsys.readouterr().err
    assert call(["evaluate", "argon.extxyz", *LJ, "--trust-model"]) == 0  # which reads no file


def test_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["models", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"chgnet", "lennard-jones", "demo"} <= {model["name"] for model in document["models"]}


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["evaluate", "argon.extxyz", "-o", "out.extxyz", *LJ]) == 0
    screen = capsys.readouterr()
    assert "2 systems: 2 done" in screen.out
    assert "pressure GPa" in screen.out
    assert "Results: out.extxyz" in screen.out
    written = read("out.extxyz", ":")
    assert [(len(atoms), atoms.info["name"]) for atoms in written] == [(32, "argon:0"), (32, "argon:1")]
    assert call(["evaluate", "argon.extxyz", "-o", "out.extxyz", *LJ]) == 65
    assert "--overwrite" in capsys.readouterr().err
    assert call(["evaluate", "argon.extxyz", "--json", "--supercell", "2x1x1", *LJ]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["atoms"] for row in document["rows"]] == [64, 64]
    assert document["file"] is None


def test_a_system_that_fails_in_an_evaluation_is_69(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.positions[1] = atoms.positions[0]
    write("bad.extxyz", atoms)
    assert call(["evaluate", "bad.extxyz", "argon.extxyz", "-o", "out.extxyz", *LJ]) == 69
    assert "bad (frame 0 of bad.extxyz) failed: " in capsys.readouterr().out
    bad, good, _ = read("out.extxyz", ":")
    assert bad.calc is None
    assert good.get_potential_energy() < 0


def test_check_estimates_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["md", "argon.extxyz", "-o", "out", "--steps", "20", "--timestep", "2fs", "-T", "30K", *LJ]
    assert call([*command, "--check"]) == 0
    told = capsys.readouterr().out
    for words in ("2 systems, 64 atoms, one batch", "NVT at 30 K, 20 steps", "of the largest batch", "are free"):
        assert words in told
    assert call([*command, "--check", "--json", "--max-atoms", "32"]) == 0
    found = json.loads(capsys.readouterr().out)["check"]
    assert (found["systems"], found["atoms"], found["batches"], found["steps"]) == (2, 64, 2, 20)
    assert (found["sample_systems"], found["sample_atoms"]) == (1, 32)
    assert 0 < found["seconds"] < 60
    assert not (folder / "out").exists()
    (folder / "out").mkdir()
    (folder / "out/notes").write_text("", encoding="utf-8")
    assert call([*command, "--check"]) == 65


def test_check_names_what_would_be_set_aside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)
    atoms.positions[1] = atoms.positions[0]
    write("bad.extxyz", atoms)
    assert call(["relax", "argon.extxyz", "bad.extxyz", "-o", "out", "--check", *LJ]) == 0
    assert re.search(r"system 2 \(bad, frame 0 of `bad.extxyz`\) would be set aside: ", capsys.readouterr().out)


def test_check_tells_a_reason_once_however_many_have_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.positions[1] = atoms.positions[0]
    write("bad.extxyz", [atoms] * 40)
    assert call(["relax", "bad.extxyz", "argon.extxyz", "-o", "out", "--check", *LJ]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "would be set aside" in line]
    assert len(told) == 1
    assert told[0].startswith("40 of 42 systems, the first is system 0 (bad:0")


def test_no_steps_are_a_single_point(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["relax", "argon.extxyz", "-o", "out", "--max-steps", "0", "--smax", "1e-6", "--json", *LJ]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert call(["evaluate", "argon.extxyz", "--json", *LJ]) == 0
    as_they_are = json.loads(capsys.readouterr().out)["rows"]
    assert [row["steps"] for row in rows] == [0, 0]
    assert [row["status"] for row in rows] == ["step_limit"] * 2
    for name in ("energy", "fmax", "volume", "a"):
        assert [row[name] for row in rows] == [row[name] for row in as_they_are]
    assert call(["show", "out"]) == 0
    capsys.readouterr()
    loose = ["--fmax", "9", "--smax", "9"]
    assert call(["relax", "argon.extxyz", "-o", "easy", "--max-steps", "0", "--json", *loose, *LJ]) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["converged"] * 2


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--temperature=-5K", "`--temperature`: this must be zero or positive; got -5 K."),
        ("--timestep=0", "must be positive; got '0'."),
        ("--every=x", "`--every`: input should be a valid integer, unable to parse string as an integer; got 'x'."),
        ("--seed=-3", "`--seed`: input should be greater than or equal to 0; got '-3'."),
        ("--friction=-1", "`--friction`: this must be zero or positive; got -1 1/fs."),
        ("--ensemble=npx", "got 'npx'"),
        ("--device=gpu7", "'gpu7' is not a device"),
        ("--supercell=0x1x1", "'0x1x1' is not a supercell"),
    ],
)
def test_a_wrong_value_is_quoted(folder: Path, capsys: pytest.CaptureFixture[str], option: str, words: str) -> None:
    assert call(["md", "argon.extxyz", "-o", "out", option, *LJ]) == 65
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--temperature", "--every", "--supercell", "--device", "--dtype", "--time"])
def test_a_long_value_is_cut(folder: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert call(["md", "argon.extxyz", "-o", "out", option, "7x" * 5000, *LJ]) == 65
    told = capsys.readouterr().err
    assert "7x7x" in told
    assert len(told) < 400


def test_a_name_with_a_blank_is_quoted_where_a_command_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["relax", "argon.extxyz", "-o", "my out", "--max-steps", "1", *LJ]) == 0
    assert "athanor show 'my out' tells" in capsys.readouterr().out
    assert call(["show", "my out"]) == 0
    shown = capsys.readouterr().out
    assert "athanor plot 'my out'" in shown
    assert 'athanor.open("my out")' in shown
    assert call(["init", "relax", "-o", "my job.yaml"]) == 0
    assert "athanor run 'my job.yaml' --check" in capsys.readouterr().out
    assert "athanor run 'my job.yaml' --check" in (folder / "my job.yaml").read_text(encoding="utf-8")


def test_a_name_can_not_steer_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.info["name"] = "[red]wild[/nothing] \x1b[2J"
    from athanor import relax

    relax([atoms], {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}, max_steps=1, out="out")
    assert call(["show", "out"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "[red]wild[/nothing] \\x1b[2J" in shown
    assert call(["show", "out", "--system", "\x1b]0;title\x07"]) == 65
    assert "\x1b" not in capsys.readouterr().err


def test_every_published_variant_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["models"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("chgnet ", "chgnet-0.2.0", "chgnet-r2scan"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [("athanor md --model len", "lennard-jones"), ("athanor md --ensemble n", "nve"), ("athanor ev", "evaluate")],
)
def test_the_shell_completes(line: str, expected: str) -> None:
    words = {"_ATHANOR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    command = [sys.executable, "-c", "from athanor.cli.main import main; main([])"]
    shown = subprocess.run(command, env=os.environ | words, capture_output=True, text=True, check=False)
    assert expected in shown.stdout.split(), shown.stderr


COLORS = re.compile(r"\x1b\[[0-9;]*3[0-9]")


@pytest.mark.parametrize(
    ("asked", "colored"), [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_no_color_is_honoured(
    asked: dict, colored: bool, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **asked}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "athanor.cli.main", "--help"]  # typer reads the variables when it is imported
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert bool(COLORS.search(shown)) == colored
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.positions[1] = atoms.positions[0]
    write("bad.extxyz", atoms)
    assert call(["evaluate", "bad.extxyz", *LJ]) == 69
    assert bool(COLORS.search(capsys.readouterr().out)) == colored
