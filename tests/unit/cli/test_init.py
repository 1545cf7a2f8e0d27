"""`athanor init`: jobs to start from, which are whole, commented, and run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from ase.io import write

from athanor.cli.init import Kind
from athanor.cli.main import call
from athanor.workflows.methods import MD, TEMPLATES, of_kind
from athanor.workflows.spec import RunSpec, SourceSpec, load_job
from athanor.workflows.stages import MDSpec, RelaxSpec

LJ = ["--model", "lennard-jones"]
for _option in ("epsilon=0.0104", "sigma=3.4", "cutoff=8.5"):
    LJ += ["--model-option", _option]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "argon.extxyz", bulk("Ar", "fcc", a=5.26, cubic=True).repeat(2))
    return tmp_path


def test_the_command_offers_every_kind() -> None:
    assert [kind.value for kind in Kind] == list(TEMPLATES)


@pytest.mark.parametrize("kind", list(TEMPLATES))
def test_a_template_is_a_checked_job_of_defaults(folder: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["init", kind, "--structures", "argon.extxyz"]) == 0
    assert f"athanor run {kind}.yaml --check" in capsys.readouterr().out
    spec = load_job(f"{kind}.yaml")
    assert spec.seed == RunSpec.model_fields["seed"].default
    assert [stage.kind for stage in spec.stages] == list(TEMPLATES[kind])
    for stage in spec.stages:
        assert stage == (RelaxSpec() if stage.kind == "relax" else MDSpec(steps=1000))
    assert call(["run", f"{kind}.yaml", "--check", *LJ]) == 0
    assert "nothing was run or written" in capsys.readouterr().out
    assert not (folder / f"{kind}-output").exists()


def test_every_key_has_one_line_of_comment(folder: Path) -> None:
    assert call(["init", "relax-then-md", "--structures", "argon.extxyz", "--structures", "b.cif"]) == 0
    lines = (folder / "relax-then-md.yaml").read_text(encoding="utf-8").splitlines()
    job = yaml.safe_load("\n".join(lines))
    assert set(job) == set(RunSpec.model_fields)
    assert set(job["structures"][0]) == set(SourceSpec.model_fields)
    assert job["structures"][1] == {"file": "b.cif"}
    relax, md = job["stages"]
    assert set(relax["relax"]) | {"kind"} == set(RelaxSpec.model_fields)
    assert set(md["md"]) == {"ensemble", *of_kind(MD)["nvt"].all_settings()} - {"time"}
    for before, line in itertools.pairwise(lines):
        key = line.strip().removeprefix("- ").partition(":")[0]
        if key and not line.strip().startswith("#") and key not in ("relax", "md") and "b.cif" not in line:
            assert before.strip().startswith("# "), line
            assert before.strip() != "# None", line
        assert len(line) < 120


def test_a_template_runs(folder: Path) -> None:
    assert call(["init", "md", "-o", "job.yaml", "--structures", "argon.extxyz"]) == 0
    text = (folder / "job.yaml").read_text(encoding="utf-8").replace("steps: 1000", "steps: 3").replace("300 K", "30 K")
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    assert call(["run", "job.yaml", "--quiet", *LJ]) == 0
    assert (folder / "job-output/final.extxyz").exists()


def test_structures_are_named_as_the_job_sees_them(folder: Path) -> None:
    (folder / "jobs").mkdir()
    assert call(["init", "relax", "-o", "jobs/a.yaml", "--structures", "argon.extxyz"]) == 0
    assert load_job("jobs/a.yaml").structures[0].file == Path("argon.extxyz")


def test_it_prints_and_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["init", "md", "-o", "-"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["stages"][0]["md"]["timestep"] == "1 fs"
    (folder / "md.yaml").write_text("mine", encoding="utf-8")
    for arguments, words in (
        (["md"], "`md.yaml` exists. Choose another name with -o, or add --overwrite"),
        (["md", "-o", "."], "is a folder; give a file"),
        (["md", "-o", "no/md.yaml"], "is no folder; make it first"),
        (["bake"], "'bake' is not one of 'relax', 'md', 'relax-then-md'"),
    ):
        assert call(["init", *arguments]) == 65
        assert words in capsys.readouterr().err
    assert (folder / "md.yaml").read_text(encoding="utf-8") == "mine"
    assert call(["init", "md", "--overwrite"]) == 0
    assert load_job("md.yaml").title == "md"
