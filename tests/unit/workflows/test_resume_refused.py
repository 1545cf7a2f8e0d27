"""What can not go on is told with what to do, and nothing is changed: afterwards the run still ends with equal bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import athanor
from athanor.cli.main import call
from athanor.errors import InputError, StorageError
from athanor.io.checkpoint import CheckpointFolder
from athanor.sinks import ZarrData
from athanor.workflows.folder import CHECKPOINTS, LOG, RUN, TRAJECTORY

from .resume_cases import compare, crystals, run, stopping_after, write_job

pytestmark = pytest.mark.usefixtures("foreground")
NAME = "relax, one batch"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job, a run of it that was stopped twice, and one that was not."""
    place = tmp_path_factory.mktemp("made")
    job = write_job(NAME, place)
    assert run(job, "-o", place / "whole")[0] == 0
    with stopping_after(8):
        assert run(job, "-o", place / "cut")[0] == 75
    with stopping_after(6):
        assert run("--resume", place / "cut")[0] == 75
    return place


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of the run that was stopped, beside the structures and a job of its own."""
    copy = made / tmp_path.name
    shutil.copytree(made / "cut", copy)
    shutil.copy(made / "job.yaml", _job_of(copy))
    return copy


def _job_of(out: Path) -> Path:
    return out.with_suffix(".yaml")


def goes_on(out: Path, made: Path) -> None:
    code, told = run("--resume", out)
    assert code == 0, told
    compare(made / "whole", out)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


def test_what_is_finished_is_finished(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "whole", tmp_path / "whole")
    before = _contents(tmp_path)
    code, told = run("--resume", tmp_path / "whole")
    assert (code, "is finished; nothing is left to do" in told) == (0, True)
    with pytest.raises(InputError, match="is finished"):
        athanor.relax(crystals(2), model="lennard-jones", out=tmp_path / "whole", resume=True)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "3"], "--seed decides what a run computes"),
        (["--max-atoms", "4"], "--max-atoms decides"),
        (["--model", "chgnet"], "--model decides"),
        (["-o", "elsewhere"], "--out decides"),
    ],
)
def test_options_that_decide_what_is_computed(options: list[str], words: str, out: Path, made: Path) -> None:
    before = _contents(out)
    code, told = run("--resume", out, *options)
    assert (code, words in told) == (65, True), told
    assert _contents(out) == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sigma: 3.4", "sigma: 3.41", "`model` was {"),
        ("fmax: 0.003", "fmax: 0.002", "`stages` was ["),
        ("every: 1", "every: 2", "`every` was 1, and is 2"),
        ("threads: 1", "threads: 1\ndtype: float32", "`dtype` was"),
        ("threads: 1", "threads: 1\nseed: 3", "`seed` was 42, and is 3"),
        ("[structures.extxyz]", "[structures.extxyz, structures.extxyz]", "the structures are not those"),
    ],
)
def test_another_job(old: str, new: str, words: str, out: Path, made: Path) -> None:
    before, job = _contents(out), _job_of(out)
    right = job.read_text()
    job.write_text(right.replace(old, new))
    assert job.read_text() != right
    code, told = run(job, "--resume", "-o", out)
    assert (code, words in told) == (65, True), told
    assert _contents(out) == before
    job.write_text(right)
    code, told = run(job, "--resume", "-o", out)
    assert code == 0, told
    compare(made / "whole", out)


def test_what_decides_nothing_may_change(out: Path, made: Path) -> None:
    job = _job_of(out)
    job.write_text(job.read_text().replace("checkpoint: 1h", "checkpoint: 0\ntime_limit: 1h\ntitle: again"))
    assert run(job, "--resume", "-o", out)[0] == 0
    compare(made / "whole", out)


@pytest.mark.parametrize("who", ["checkpoints", "frames"])
def test_two_at_once(who: str, out: Path, made: Path) -> None:
    before = _contents(out)
    holds = CheckpointFolder(out / CHECKPOINTS)
    sink = ZarrData(out / TRAJECTORY)
    if who == "checkpoints":
        holds.acquire()
    else:
        sink.write(sink.read().index_select([0]))
        sink.truncate_to(len(sink) - 1)
    code, told = run("--resume", out)
    assert (code, "another" in told or "is open" in told) == (74, True), told
    holds.release()
    sink.close()
    if who == "checkpoints":
        assert _contents(out) == before
    goes_on(out, made)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("name", ["state.json", "tensors.bin", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_passed_over(name: str, out: Path, made: Path) -> None:
    newest = CheckpointFolder(out / CHECKPOINTS).numbers()[-1]
    _cut_short(out / CHECKPOINTS / f"{newest:08d}" / name)
    code, told = run("--resume", out, quiet=False)
    assert (code, "The run goes on from checkpoint" in told and name in told) == (0, True), told
    compare(made / "whole", out)


def test_all_are_damaged(out: Path, made: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(out / CHECKPOINTS, kept)
    for number in CheckpointFolder(out / CHECKPOINTS).numbers():
        _cut_short(out / CHECKPOINTS / f"{number:08d}" / "tensors.bin")
    before = _contents(out)
    code, told = run("--resume", out)
    assert (code, "No checkpoint of" in told and "can be used" in told) == (74, True), told
    assert _contents(out) == before
    shutil.rmtree(out / CHECKPOINTS)
    shutil.copytree(kept, out / CHECKPOINTS)
    goes_on(out, made)


@pytest.mark.parametrize(("name", "words"), [(LOG, "it had"), (TRAJECTORY, "frames; it had")])
@pytest.mark.parametrize("how", ["removed", "shortened"])
def test_outputs_that_somebody_removed_or_cut(
    name: str, words: str, how: str, out: Path, made: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(out, kept)
    if how == "removed":
        shutil.rmtree(out / name) if name == TRAJECTORY else (out / name).unlink()
    elif name == TRAJECTORY:
        sink = ZarrData(out / name)
        sink.truncate_to(len(sink) - 2)
        sink.close()
    else:
        _cut_short(out / name)
    code, told = run("--resume", out)
    assert (code, words in told and name in told) == (74, True), told
    shutil.rmtree(out)
    shutil.copytree(kept, out)
    goes_on(out, made)


def test_a_run_without_checkpoints(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with stopping_after(5):
        code, told = run(made / "job.yaml", "-o", other, "--checkpoint", "0")
    assert (code, "to go on" in told) == (130, False), told
    before = _contents(other)
    code, told = run("--resume", other)
    assert (code, "has no checkpoint" in told and "--overwrite" in told) == (65, True), told
    assert _contents(other) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(out: Path, made: Path) -> None:
    shutil.rmtree(out / CHECKPOINTS)
    shutil.rmtree(out / TRAJECTORY)
    for path in out.iterdir():
        if path.name != RUN:
            path.unlink()
    goes_on(out, made)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_what_is_no_results_folder(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, told = run("--resume", folder)
    assert (code, "is not a results folder of athanor" in told) == (65, True), told


def test_what_came_from_python_goes_on_in_python(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "model": {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5},
        "fmax": 0.003, "silence": ["small-cell"], "progress": False, "threads": 1, "every": 3,
    }  # fmt: skip
    athanor.relax(crystals(4), out=tmp_path / "whole", **arguments)
    with stopping_after(20), pytest.raises(KeyboardInterrupt):
        athanor.relax(crystals(4), out=tmp_path / "cut", **arguments)
    code, told = run("--resume", tmp_path / "cut")
    assert (code, "came from Python" in told and "resume=True" in told) == (65, True), told
    with pytest.raises(InputError, match="the structures are not those"):
        athanor.relax(crystals(3), out=tmp_path / "cut", resume=True, **arguments)
    with pytest.raises(InputError, match="`resume` needs `out`"):
        athanor.relax(crystals(4), resume=True, **arguments)
    result = athanor.relax(crystals(4), out=tmp_path / "cut", resume=True, **arguments)
    assert result.reasons == ["converged"] * 4
    compare(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_was_killed_while_its_trajectory_was_made(made: Path, tmp_path: Path) -> None:
    out = made / tmp_path.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("athanor.workflows.run._Run._write", lambda *_: None)  # as a kill leaves it
        patch.setattr("athanor.workflows.run._open_sink", _is_killed)
        assert run(made / "job.yaml", "-o", out)[0] == 130
    (out / TRAJECTORY).mkdir()
    (out / TRAJECTORY / "LOCK").touch()
    found = athanor.open(out)
    assert (found.num_frames, found.can_go_on) == (0, False)
    assert {row["status"] for row in found.summary} == {"not_started"}
    goes_on(out, made)


def _is_killed(place: Path) -> None:
    raise KeyboardInterrupt


def test_how_a_run_goes_on_is_told(out: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert athanor.open(out).can_go_on
    assert call(["show", str(out)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"go on athanor run --resume {out}" in told
    assert not athanor.open(made / "whole").can_go_on
    assert call(["show", str(made / "whole")]) == 0
    assert "--resume" not in capsys.readouterr().out


def test_a_disk_that_refuses_when_a_run_goes_on_keeps_nobody_from_it(out: Path, made: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("athanor.workflows.run.RunRecord", _refused)
        code, told = run("--resume", out)
    assert (code, "full" in told) == (74, True), told
    goes_on(out, made)


def _refused(*_: Any) -> None:
    raise StorageError("The disk is full.")
