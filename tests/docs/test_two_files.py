"""A new ensemble in two files, as the page about integrators tells: the integrator, and one entry of the table."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write

sys.path.append(str(Path(__file__).parent.parent.parent / "docs"))

import blocks as pages

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
LJ = "--model lennard-jones --model-option epsilon=0.0104 --model-option sigma=3.4 --model-option cutoff=8.5"
TABLE, INTEGRATORS = "src/athanor/workflows/methods.py", "dynamics/integrators"

TOY = """
    Method(
        MD, "toy", "for tests", "TOY", "athanor.dynamics:NVE",
        settings=(
            Setting("chain_length", int, "Links", 3, at_least=1, metavar="N"),
            Setting("manner", str, "How", "isotropic", choices=("isotropic", "tensor"), metavar="NAME"),
            Setting("exact", bool, "Whether", False),
            Setting("bath_pressure", PRESSURE, "Of the bath", metavar="PRESSURE"),
        ),
        citations=("none",),
    ),
"""
"""A setting of each sort, one of which has no default."""

PROGRAM = """
import contextlib, inspect, io, json, runpy, sys
import athanor

athanor.__path__.insert(0, "athanor")  # `workflows` from here, all the rest as it is
runpy.run_path(sys.argv[1], run_name="__main__")

from athanor.cli.main import call

def said(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(list(words))
    return code, out.getvalue(), err.getvalue()

found = {"help": said("md", "--help")[1], "torch": "torch" in sys.modules, "init": said("init", "md", "-o", "-")[1]}
import athanor.dynamics.integrators
athanor.dynamics.integrators.__path__.append("athanor/dynamics/integrators")
found["commands"] = [said(*line.split()[1:]) for line in json.load(open("commands.json"))]
found["job"] = said("run", "job.yaml", "-o", "by-job")
found["signature"] = str(inspect.signature(athanor.md).parameters["damping"])
argon, model = "argon.extxyz", json.load(open("model.json"))
found["python"] = athanor.md(argon, model, ensemble="damped", damping="5 1/ps", timestep=4.0, steps=50).energies
found["plot"] = [axes.get_ylabel() for axes in athanor.plot("cold").figure.axes]
for name, settings in {"other": {"damping": 0.1}, "unit": {"ensemble": "damped", "damping": "1 K"}}.items():
    try:
        athanor.md(argon, model, steps=1, **settings)
    except athanor.errors.InputError as error:
        found[name] = str(error)
md = ["md", "argon.extxyz", "-o", "toy", "--steps", "2", *sys.argv[2].split()]
found["toy"] = {
    "lacks": said(*md, "--ensemble", "toy"),
    "wrong": said(*md, "--ensemble", "toy", "--bath-pressure", "1", "--chain-length", "0", "--manner", "loose"),
    "right": said(*md, "--ensemble", "toy", "--bath-pressure", "1", "--manner", "tensor", "--exact"),
    "other": said(*md, "--overwrite", "--chain-length", "2"),
    "plain": said(*md, "--overwrite"),
}
json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `workflows`, with an integrator and an entry of the table as the page has them."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(repository / "src/athanor/workflows", folder / "athanor/workflows")
    page = (repository / "docs/howto/integrator.md").read_text(encoding="utf-8")
    files = {block.name: block.code for block in pages.blocks(page) if block.kind == "file"}
    assert set(files) == {"damped.py", TABLE}, "two files"
    (folder / "athanor" / INTEGRATORS).mkdir(parents=True)
    (folder / "athanor" / INTEGRATORS / "damped.py").write_text(files["damped.py"], encoding="utf-8")
    table = folder / "athanor/workflows/methods.py"
    before, end, after = table.read_text(encoding="utf-8").partition("\n)  # fmt: skip\n\n\ndef of_kind")
    assert end, "the end of METHODS"
    table.write_text(f"{before}\n{files[TABLE].rstrip()}{TOY.rstrip()}{end}{after}", encoding="utf-8")
    atoms = bulk("Ar", "fcc", a=5.26, cubic=True).repeat(2)
    atoms.rattle(0.1, seed=1)
    write(folder / "argon.extxyz", atoms)
    shown = "".join(re.findall(r"^```sh\n(.*?)^```\n", page, re.M | re.S)).splitlines()
    assert shown[0] == "python docs/signatures.py"
    commands = [f"{line} {LJ}" if " md " in line else line for line in shown[1:]]
    (folder / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    (folder / "model.json").write_text(json.dumps(ARGON), encoding="utf-8")
    stage = re.findall(r"`- (md: \{.*?\})`", page)[0]
    job = f"structures: argon.extxyz\nmodel: {json.dumps(ARGON)}\nstages:\n  - {stage}\n"
    (folder / "job.yaml").write_text(job, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(copy: Path, repository: Path) -> dict[str, Any]:
    """What the copy says and does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(repository / "docs/signatures.py"), LJ],
        cwd=copy, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "md.py: written anew" in done.stdout
    assert "relax.py: as it was" in done.stdout
    return json.loads((copy / "found.json").read_text(encoding="utf-8"))


def test_the_help_and_the_template(found: dict[str, Any]) -> None:
    text = " ".join(found["help"].replace("│", " ").split())
    assert "nvt (Langevin), nve (velocity Verlet), " in text
    assert " damped (Verlet with friction) or toy (for tests)." in text
    assert "--damping RATE Rate at which velocities decay (damped). [default: 0.02 1/fs]" in text
    assert not found["torch"]
    assert "damping" not in found["init"]  # which is for nvt


def test_command_job_and_python_do_the_same(found: dict[str, Any], copy: Path) -> None:
    (code, _, progress), (_, shown, _) = found["commands"]
    assert code == 0, progress
    assert "damped MD, 50 steps" in progress
    assert "damped MD, 50 steps of 4 fs" in shown
    assert found["job"][0] == 0
    logs = [(copy / name / "log.csv").read_text(encoding="utf-8") for name in ("cold", "by-job")]
    assert logs[0] == logs[1]
    rows = json.loads((copy / "cold/summary.json").read_text(encoding="utf-8"))
    assert found["python"] == [row["energy"] for row in rows]
    record = (copy / "cold/run.yaml").read_text(encoding="utf-8")
    assert "damping: 0.005 1/fs" in record
    assert "friction" not in record
    assert "L. Verlet, Phys. Rev. 159" in record
    assert "Swope" not in record


def test_the_signature_is_written_out(found: dict[str, Any], copy: Path) -> None:
    assert found["signature"] == "damping: 'float | str | None' = None"
    text = (copy / "athanor/workflows/md.py").read_text(encoding="utf-8")
    assert "Rate at which velocities decay, 1/fs; 0.001 to 0.1 is usual." in text
    assert "Taken by damped; 0.02 1/fs by default." in " ".join(text.split())


def test_mistakes(found: dict[str, Any]) -> None:
    assert found["other"].startswith("`damping`: ensemble `nvt` does not take it. It takes temperature, ")
    assert "`damping`: '1 K' has the unit 'K', which is not one of rate: use 1/fs" in found["unit"]


def test_the_plot(found: dict[str, Any]) -> None:
    assert [label.split()[0] for label in found["plot"]] == ["energy", "drift", "temperature", "pressure"]


def test_settings_of_every_sort(found: dict[str, Any]) -> None:
    toy = found["toy"]
    assert {name: code for name, (code, _, _) in toy.items()} == {
        "lacks": 65, "wrong": 65, "right": 0, "other": 65, "plain": 0,
    }  # fmt: skip
    assert "`--bath-pressure`: ensemble `toy` needs it." in toy["lacks"][2]
    assert "`--chain-length`: input should be greater than or equal to 1; got '0'." in toy["wrong"][2]
    assert "`--manner`: input should be 'isotropic' or 'tensor'; got 'loose'." in toy["wrong"][2]
    assert "TOY, 2 steps" in toy["right"][2]
    assert "`--chain-length`: ensemble `nvt` does not take it. It takes temperature, " in toy["other"][2]
