"""Reading a results folder back: finished, failed in part, in chunks, killed, damaged, and somebody else's."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import athanor
from athanor.errors import AthanorError, InputError, StorageError
from athanor.workflows import saved_log
from athanor.workflows.folder import CHECKSUMS
from athanor.workflows.run import run as run_spec
from athanor.workflows.saved_run import SavedRun
from athanor.workflows.spec import make_spec
from athanor.workflows.structures import from_python

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
RELAX = {"relax": {"fmax": 0.005, "smax": 0.02, "steps": 100}}
HEAT = {"md": {"temperature": "30 K", "timestep": "2 fs", "steps": 30}}


def crystals() -> list[Atoms]:
    found = []
    for name, a in (("small", 5.2), ("middle", 5.3), ("large", 5.5)):
        atoms = bulk("Ar", "fcc", a=a, cubic=True) * (2, 2, 2)
        atoms.rattle(0.05, seed=1)
        atoms.info["name"] = name
        found.append(atoms)
    on_top = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    on_top.positions[1] = on_top.positions[0]
    on_top.info["name"] = "on top"
    return [*found, on_top]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crystals and one that fails, relaxed and heated in two chunks."""
    out = tmp_path_factory.mktemp("saved") / "out"
    settings = {"title": "argon", "model": ARGON, "stages": [RELAX, HEAT], "every": 3, "max_atoms": 64}
    run_spec(make_spec({**settings, "output": str(out)}), from_python(crystals()))
    return out


@pytest.fixture
def run(folder: Path) -> SavedRun:
    return athanor.open(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage; without checksums, as a run leaves that was killed."""
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    (out / CHECKSUMS).unlink()
    return out


def test_what_was_run(run: SavedRun) -> None:
    assert (len(run), run.state, run.names) == (4, "finished", ["small", "middle", "large", "on top"])
    assert run.settings["title"] == "argon"
    assert [kind for kind, _ in run.stages] == ["relax", "md"]
    assert run.model["name"] == "lennard-jones"
    assert run.versions["athanor"] == athanor.__version__
    assert any("FIRE" in key or "Bitzek" in key for key in run.citations)
    assert "4 systems, finished" in repr(run)
    assert (run.has_ended, run.is_elsewhere) == (True, False)


def test_where_its_structures_came_from(run: SavedRun) -> None:
    run.record["job"]["structures"] = [{"file": "../argon.cif"}, {"file": "-"}, {"collection": "ase:dcdft"}]
    file = str(run.folder.parent / "argon.cif")
    assert run.settings["structures"] == [{"file": file}, {"file": "-"}, {"collection": "ase:dcdft"}]


def test_the_table(run: SavedRun) -> None:
    assert [row["index"] for row in run.summary] == [0, 1, 2, 3]
    assert run.failed == [3]
    table = run.to_pandas()
    assert table.loc[1, "system"] == "middle"
    assert table["energy_per_atom"][:3].to_numpy() == pytest.approx(-0.084, abs=1e-3)


def test_structures_are_what_the_run_left(run: SavedRun) -> None:
    assert [atoms.info["name"] for atoms in run.structures] == run.names
    last = run.frames("large", step=run.summary[2]["steps"] - 1)
    assert run.structures[2].get_potential_energy() == pytest.approx(float(last.energy), abs=0.1)


def test_series_are_the_lines_of_the_log(run: SavedRun) -> None:
    series = run.series("large")
    assert (series.step == np.arange(1, run.summary[2]["steps"] + 1, 3)).all()  # each step once
    relaxing = series.stage == 0
    assert relaxing.sum() == -(-run.summary[2]["relax_steps"] // 3)
    assert (series.time[relaxing] == 0).all()
    assert np.isnan(series.temperature[relaxing]).all()
    assert np.isfinite(series.temperature[~relaxing]).all()
    assert (np.diff(series.time[~relaxing]) == 6.0).all()
    assert series.volume[0] == pytest.approx(8 * 5.5**3, rel=0.01)
    assert series.volume[-1] == pytest.approx(run.summary[2]["volume"])
    assert series.energy[-1] == pytest.approx(float(run.frames("large").energy[-1]))
    assert series.fmax[relaxing].min() < 0.005 * 2
    assert np.isfinite(series.pressure).all()


def test_series_of_several(run: SavedRun) -> None:
    first, second = run.series(["large", 0])
    assert (first.energy == run.series(2).energy).all()
    assert (second.energy == run.series("small").energy).all()


def test_a_large_log_is_searched(run: SavedRun, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_log, "_LARGE", 0)
    for system in range(4):
        searched, whole = athanor.open(folder).series(system), run.series(system)
        for name in ("step", "energy", "temperature", "fmax"):
            assert np.array_equal(getattr(searched, name), getattr(whole, name), equal_nan=True)


def test_a_log_is_read_in_blocks(run: SavedRun, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_log, "_BLOCK", 1000)
    assert (athanor.open(folder).series(1).energy == run.series(1).energy).all()


def test_frames_of_one_system(run: SavedRun) -> None:
    frames = run.frames("middle")
    steps = frames.step.flatten().tolist()
    assert steps == run.series("middle").step.tolist()
    assert set(frames.system_id.flatten().tolist()) == {1}
    images = run.atoms(1)
    assert len(images) == len(steps)
    assert images[-1].info["name"] == "middle"
    assert images[-1].get_potential_energy() == pytest.approx(float(frames.energy[-1]))


def test_frames_of_one_moment(run: SavedRun) -> None:
    early = run.frames(step=4)
    assert early.system_id.flatten().tolist() == [0, 1, 2, 3]
    assert early.step.flatten().tolist() == [4, 4, 4, 0]  # the one that failed stands still
    relaxed = run.frames(time=0)
    for number in range(3):
        step = int(relaxed.step[number])
        assert run.summary[number]["relax_steps"] - 3 < step <= run.summary[number]["relax_steps"]
    warm = run.frames(time=20)
    assert ((warm.time[:3] <= 20) & (warm.time[:3] > 14)).all()
    assert run.frames("small", time=20).time.item() == warm.time[0].item()
    assert run.last_step == run.series(int(np.argmax([row["steps"] for row in run.summary]))).step[-1]


MISTAKES: list[tuple[Callable[[SavedRun], object], str]] = [
    (lambda run: run.series("smal"), "no system 'smal'. Did you mean 'small'"),
    (lambda run: run.series("gold"), "It has small, middle, large, on top"),
    (lambda run: run.series(4), "its systems are 0 to 3"),
    (lambda run: run.frames(-1), "its systems are 0 to 3"),
    (lambda run: run.frames(), "say which frames"),
    (lambda run: run.frames(step=1, time=2.0), "not both"),
    (lambda run: run.frames(step=5000), "step=5000.*go from 0 to"),
    (lambda run: run.frames("small", step=0), "go from 1 to"),
    (lambda run: run.frames(time=float("nan")), "nan is not finite; a time"),
    (lambda run: run.frames(step=1.5), "`step` is 1.5; give a whole number"),
]


@pytest.mark.parametrize(("mistake", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_questions_without_an_answer(run: SavedRun, mistake: Callable[[SavedRun], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        mistake(run)


def test_numbers_of_numpy_and_times_with_a_unit(run: SavedRun) -> None:
    assert (run.series(np.int64(1)).energy == run.series(1).energy).all()
    assert (run.frames(np.int32(1), time="0.03 ps").positions == run.frames(1, time=30.0).positions).all()


@pytest.mark.parametrize("system", [0.5, True, None, slice(0, 1)])
def test_what_is_no_system(run: SavedRun, system: object) -> None:
    with pytest.raises(InputError, match=r"`system` is .*; give a whole number"):
        run.series(system)


def test_a_name_that_several_have(tmp_path: Path) -> None:
    argon = bulk("Ar", "fcc", a=5.3, cubic=True)
    athanor.relax([argon, argon], ARGON, max_steps=2, out=tmp_path / "out")
    run = athanor.open(tmp_path / "out")
    with pytest.raises(InputError, match=r"2 systems are called 'Ar4'. Take one by its number: 0, 1"):
        run.series("Ar4")
    assert len(run.series("1")) == 1


def damage(run: Path, name: str, change: Callable[[str], str]) -> None:
    (run / name).write_text(change((run / name).read_text(encoding="utf-8")), encoding="utf-8")


DAMAGE: list[tuple[Callable[[Path], object], Callable[[SavedRun], object], str]] = [
    (lambda out: (out / "log.csv").unlink(), lambda run: run.series(0), "log.csv` is missing"),
    (lambda out: (out / "log.csv").write_text("a,b\n1,2\n", "utf-8"), lambda run: run.series(0), "no column `step`"),
    (lambda out: damage(out, "log.csv", lambda text: text[:300] + "\n" + text[300:]), lambda run: run.series(0),
     "damaged line: .* 15 numbers"),
    (lambda out: damage(out, "log.csv", lambda text: text + "1" * 200_000), lambda run: run.series(0),
     "out/log.csv` is damaged: it has a line without an end"),
    (lambda out: (out / "summary.json").unlink(), lambda run: run.names, "summary.json` is missing.*0 to 3"),
    (lambda out: damage(out, "summary.json", lambda text: text[:200]), lambda run: run.names, "can not be read"),
    (lambda out: damage(out, "summary.json", lambda text: "[]"), lambda run: run.names, "not the table of the 4"),
    (lambda out: (out / "final.extxyz").unlink(), lambda run: run.structures, "final.extxyz` is missing"),
    (lambda out: damage(out, "final.extxyz", lambda text: text[:-300]), lambda run: run.structures, "final.extxyz"),
    (lambda out: shutil.rmtree(out / "trajectory.zarr"), lambda run: run.frames(0), "trajectory.zarr` is missing"),
    (lambda out: (out / "trajectory.zarr/format.json").write_text('{"format": "other", "version": 3}', "utf-8"),
     lambda run: run.frames(0), "format 'other', version 3"),
]  # fmt: skip


@pytest.mark.parametrize(("break_it", "ask", "words"), DAMAGE, ids=[words for _, _, words in DAMAGE])
def test_damage_is_told(
    copy: Path, break_it: Callable[[Path], object], ask: Callable[[SavedRun], object], words: str
) -> None:
    break_it(copy)
    run = athanor.open(copy)
    with pytest.raises(StorageError, match=words):
        ask(run)


def test_what_is_no_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match="not a results folder"):
            athanor.open(place)
    (tmp_path / "run.yaml").write_text("athanor: 1", encoding="utf-8")
    (tmp_path / "part").mkdir()
    with pytest.raises(InputError, match="is a part of a results folder"):
        athanor.open(tmp_path / "part")
    (tmp_path / "run.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(StorageError, match="can not be read"):
        athanor.open(tmp_path)
    (tmp_path / "run.yaml").write_text("other: program\n", encoding="utf-8")
    with pytest.raises(StorageError, match="not written by athanor"):
        athanor.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("log.csv", lambda run: run.series(0)),
        ("summary.json", lambda run: run.names),
        ("final.extxyz", lambda run: run.structures),
    ],
)
def test_one_digit_that_is_another_is_told(
    folder: Path, tmp_path: Path, name: str, ask: Callable[[SavedRun], object]
) -> None:
    """Mutant: without checksums the other number is read as if it were right."""
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    assert ask(athanor.open(out)) is not None
    text = (out / name).read_text(encoding="utf-8")
    place = next(number for number in range(len(text) // 2, len(text)) if text[number] in "12345678")
    damage(out, name, lambda text: text[:place] + str(int(text[place]) ^ 1 or 2) + text[place + 1 :])
    with pytest.raises(StorageError, match=rf"{name}` is damaged, or was changed after the run"):
        ask(athanor.open(out))
    (out / CHECKSUMS).unlink()
    assert ask(athanor.open(out)) is not None


def test_checksums_are_those_of_other_programs(folder: Path) -> None:
    lines = (folder / CHECKSUMS).read_text(encoding="ascii").splitlines()
    listed = dict(line.split("  ")[::-1] for line in lines if not line.startswith("#"))  # as those leave out, too
    assert listed.keys() == {"final.extxyz", "summary.csv", "summary.json", "log.csv"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_a_torn_last_line_is_not_there(run: SavedRun, copy: Path) -> None:
    damage(copy, "log.csv", lambda text: text[: text.rindex(",2,0,") + 20])
    assert len(athanor.open(copy).series(2)) == len(run.series(2)) - 1


def test_a_read_only_folder_stays_as_it_is(copy: Path) -> None:
    before = sorted(path.name for path in copy.rglob("*"))
    run = athanor.open(copy)
    for ask in (run.frames, run.series):
        ask(0)
    assert run.structures
    assert sorted(path.name for path in copy.rglob("*")) == before


PROGRAM = """
import athanor
from ase.build import bulk
argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
crystal = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
athanor.md([crystal] * 2, argon, temperature=30, steps=10**6, max_atoms=32, every=1, out="out")
"""


def test_a_run_that_goes_on_and_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        while not (tmp_path / "out/log.csv").exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.1)
        run = athanor.open(tmp_path / "out")
        assert run.state == "running"
        assert [row["status"] for row in run.summary] == ["running", "not_started"]
        assert run.num_frames == len(run.frames(0).energy) > 0
        assert len(run.series(0)) > 0
        with pytest.raises(StorageError, match="this one is running"):
            _ = run.structures
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    run = athanor.open(tmp_path / "out")
    assert run.state == "killed"
    assert [row["status"] for row in run.summary] == ["killed", "not_started"]
    assert run.summary[0]["steps"] == run.last_step > 0
    assert len(run.atoms(step=run.last_step)) == 1
    with pytest.raises(AthanorError, match="no frame of system 1"):
        run.frames(1)
    assert len(run.series(1)) == 0


def test_a_log_with_nothing_but_its_header(tmp_path: Path) -> None:
    """As a run leaves that was killed before its first row was on disk."""
    athanor.md(bulk("Ar", "fcc", a=5.3, cubic=True) * 2, ARGON, temperature=30, steps=2, out=tmp_path / "out")
    log = tmp_path / "out" / "log.csv"
    log.with_name(CHECKSUMS).unlink()
    log.write_text(log.read_text(encoding="utf-8").partition("\n")[0] + "\n", encoding="utf-8")
    run = athanor.open(tmp_path / "out")
    assert len(run.series(0)) == 0
    assert run.series([0])[0].energy.shape == (0,)
    with pytest.raises(StorageError, match="no step of these systems was logged"):
        athanor.plot(run)


def test_a_clock_that_goes_back_gives_no_negative_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from athanor.cli.main import call
    from athanor.workflows import record

    class Back(record.datetime):  # type: ignore[name-defined, misc]
        year_now = 2031

        @classmethod
        def now(cls, tz: object = None) -> object:
            cls.year_now -= 1
            return record_datetime(cls.year_now, 1, 1, tzinfo=tz)

    record_datetime = record.datetime
    monkeypatch.setattr(record, "datetime", Back)
    athanor.md(bulk("Ar", "fcc", a=5.3, cubic=True) * 2, ARGON, temperature=30, steps=2, out=tmp_path / "out")
    told = athanor.open(tmp_path / "out").record
    assert told["seconds"] >= 0
    assert told["ended"] >= told["started"]
    monkeypatch.setattr("athanor.cli.show.time.time", lambda: 0.0)
    text = (tmp_path / "out" / "run.yaml").read_text(encoding="utf-8")
    text = text.replace("state: finished", "state: running\nprocess: {host: elsewhere, id: 1}")
    (tmp_path / "out" / "run.yaml").write_text(text, encoding="utf-8")
    assert call(["show", str(tmp_path / "out")]) == 0
    assert "last written 0 s ago" in capsys.readouterr().out


def test_the_table_of_a_result_as_a_data_frame() -> None:
    pytest.importorskip("pandas")
    from athanor.workflows.results import RunResult

    result = athanor.evaluate([bulk("Ar", "fcc", a=a) for a in (5.2, 5.3)], ARGON)
    frame = result.to_pandas()
    assert frame.index.tolist() == [0, 1]
    assert frame["energy"].tolist() == result.energies
    assert len(RunResult().to_pandas()) == 0
