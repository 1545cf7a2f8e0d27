"""Going on from an earlier run: identity, steps and time come along, and a run in two parts is the run in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

import athanor
from athanor.cli.main import main
from athanor.errors import InputError
from athanor.workflows import earlier_runs
from athanor.workflows.structures import System, with_ids

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.0, "switch_width": 1.5}
SETTINGS = {"model": ARGON, "temperature": 40, "timestep": 4.0, "silence": ["small-cell"], "every": 5}


def crystals() -> list[Any]:
    found = []
    for seed in range(3):
        found.append(bulk("Ar", "fcc", a=5.3, cubic=True))
        found[-1].rattle(0.05, seed=seed)
    return found


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    athanor.md(crystals(), steps=21, out=tmp_path / "first", **SETTINGS)
    return tmp_path / "first"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("whole") / "out"
    return athanor.md(crystals(), steps=42, out=out, **SETTINGS)


def positions(structures: Any) -> np.ndarray:
    return np.concatenate([atoms.positions for atoms in structures])


def ignoring_steps(atoms: Any) -> dict[str, Any]:
    """Broken twin: frames lose how far they got, and the noise is repeated."""
    return {**earlier_runs.progress_of(atoms), "step": 0} if earlier_runs.progress_of(atoms) else {}


@pytest.mark.parametrize("source", ["result", "folder", "store", "frames", "atoms", "command", "steps are lost"])
def test_a_run_in_two_parts_is_the_run_in_one(
    first: Path, whole: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frame 21 of the first part is the last one, so every way to go on is the same path, noise and all."""
    if source == "steps are lost":
        monkeypatch.setattr("athanor.workflows.build.progress_of", ignoring_steps)
    run, second = athanor.open(first), first.parent / "second"
    start = {
        "result": lambda: run.structures,
        "store": lambda: first / "trajectory.zarr",
        "frames": lambda: run.frames(step=21),
        "atoms": lambda: run.atoms(time=84.0),
    }.get(source, lambda: first)()
    if source == "command":
        options = [f"--model-option={key}={value}" for key, value in ARGON.items() if key != "name"]
        settings = ["-T", "40", "--timestep", "4", "--every", "5", "--silence", "small-cell", "-q"]
        assert call("md", first, "-m", "lj", *options, "--steps", 21, *settings, "-o", second) == 0
    else:
        athanor.md(start, steps=21, out=second, **SETTINGS)
    ended = athanor.open(second)
    same = np.allclose(positions(ended.structures), positions(whole.structures), atol=1e-6)  # files round to 1e-8 Å
    assert same == (source != "steps are lost")
    if source != "steps are lost":
        assert ended.names == ["Ar4"] * 3
        assert ended.series(2).step.tolist() == [22, 27, 32, 37, 42]
        assert ended.series(2).time.tolist() == [88.0, 108.0, 128.0, 148.0, 168.0]
        assert ended.frames(2).step.flatten().tolist() == [22, 27, 32, 37, 42]


def test_a_moment_of_an_earlier_run_is_a_start(first: Path) -> None:
    out = first.parent / "later"
    options = [f"--model-option={key}={value}" for key, value in ARGON.items() if key != "name"]
    arguments = [first, "-m", "lj", *options, "-T", 40, "--timestep", 4, "--steps", 1, "-q", "--silence", "small-cell"]
    assert call("md", *arguments, "--from-time", "50 fs", "-o", out) == 0
    assert athanor.open(out).frames(0).step.tolist() == [[12]]
    for moment in ((), ("--from-time", "50 fs")):  # the structures, the frames
        assert call("md", *arguments, *moment, "-o", first, "--overwrite") == 65  # it would empty what it starts from
        assert (first / "final.extxyz").exists()


def test_some_systems_of_a_run_keep_who_they_are(first: Path, whole: Any) -> None:
    run, second = athanor.open(first), first.parent / "second"
    some = [run.structures[2], run.structures[0]]
    result = athanor.md(some, steps=21, out=second, **SETTINGS)
    assert [row["system_id"] for row in result.rows] == [2, 0]
    wanted = positions([whole.structures[2], whole.structures[0]])
    np.testing.assert_allclose(positions(result.structures), wanted, atol=1e-6)
    ended = athanor.open(second)
    for number, system_id in enumerate((2, 0)):  # by number, whatever the id
        assert set(ended.frames(number).system_id.flatten().tolist()) == {system_id}
        assert ended.series(number).step[0] == 22
    assert [atoms.info["system_id"] for atoms in ended.atoms(step=42)] == [2, 0]


def test_ids_are_kept_once_and_new_ones_follow() -> None:
    def system(**info: Any) -> System:
        atoms = bulk("Ar")
        atoms.info.update(info)
        return System(atoms, "Ar")

    def ids(*systems: System) -> list[int]:
        return [each.id for each in with_ids(systems)]

    old = {"step": 3, "time": 1.5}
    assert ids(system(), system(), system()) == [0, 1, 2]
    seven, two = {"system_id": 7, **old}, {"system_id": 2, **old}
    assert ids(system(**seven), system(), system(**seven), system(**two)) == [7, 8, 9, 2]
    foreign = [{"step": 4}, {"system_id": 5}, {"system_id": "a", **old}, {"system_id": -1, **old}]
    assert ids(*(system(**notes) for notes in foreign)) == [0, 1, 2, 3]
    for wrong in ({"system_id": 1.5}, {"system_id": 2**31}, {"step": 2**55}, {"step": 10**400}, {"time": np.nan},
                  {"time": 10**400}):  # fmt: skip
        assert earlier_runs.progress_of(system(**({"system_id": 7} | old | wrong)).atoms) == {}


def test_one_that_did_not_run_has_the_id_of_its_row() -> None:
    frame = crystals()[0]
    frame.info.update(system_id=4, step=np.int64(3), time=np.float32(1.5))
    collapsed = frame.copy()
    collapsed.positions[1] = collapsed.positions[0]
    result = athanor.md([frame, collapsed], steps=1, **SETTINGS)
    assert result.failed == [1]
    assert (
        [row["system_id"] for row in result.rows] == [atoms.info["system_id"] for atoms in result.structures] == [4, 5]
    )
    assert [atoms.info["step"] for atoms in result.structures] == [4, 3]
    json.dumps(result.rows)  # numbers of numpy are written, too


def test_run_yaml_is_a_job_that_repeats_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    crystals()[0].write("argon.extxyz")
    options = [f"--model-option={key}={value}" for key, value in ARGON.items() if key != "name"]
    arguments = ["argon.extxyz", "-m", "lj", *options, "-T", 40, "--steps", 11, "-q", "--silence", "small-cell"]
    assert call("md", *arguments, "-o", "first") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("run", "../first/run.yaml", "-q", "-o", "../again") == 0
    log = (tmp_path / "first/log.csv").read_text(encoding="utf-8")
    assert log == (tmp_path / "again/log.csv").read_text(encoding="utf-8")
    assert call("run", "../again/run.yaml", "-q", "-o", "../third") == 0  # and so does that of the repetition
    assert log == (tmp_path / "third/log.csv").read_text(encoding="utf-8")
    assert call("run", "../first/run.yaml", "-q", "--seed", "1", "-o", "../other") == 0
    assert log != (tmp_path / "other/log.csv").read_text(encoding="utf-8")
    [source] = athanor.open("../first").settings["structures"]
    assert Path(source["file"]).resolve() == tmp_path / "argon.extxyz"
    text = (tmp_path / "first/run.yaml").read_text(encoding="utf-8").replace("timestep", "timestop")
    (tmp_path / "first/run.yaml").write_text(text, encoding="utf-8")
    assert call("run", "../first/run.yaml", "-o", "../none") == 65


def test_a_time_is_of_results_only(tmp_path: Path) -> None:
    crystals()[0].write(tmp_path / "argon.extxyz")
    from athanor.workflows.spec import SourceSpec
    from athanor.workflows.structures import load_sources

    with pytest.raises(InputError, match="is no results folder, so that no `time` of it can be chosen"):
        load_sources([SourceSpec(file=tmp_path / "argon.extxyz", time="1 ps")])


def test_systems_without_a_frame_that_early_are_rows(tmp_path: Path) -> None:
    """One of three fails at its start, where it has its only early frame."""
    systems = crystals()
    systems[1].positions[0] = systems[1].positions[1] + 0.01
    athanor.md(systems, steps=11, out=tmp_path / "first", **SETTINGS)
    result = athanor.open(tmp_path / "first")
    assert result.failed == [1]
    found = earlier_runs.structures_of_results(tmp_path / "first", 1.0)
    assert [item.name for item in found] == ["Ar4"] * 3
    assert [bool(item.problem) for item in found] == [step > 0 for step in (1, 0, 1)]
    assert "it has no frame up to 1 fs" in found[0].problem
    late = earlier_runs.structures_of_results(tmp_path / "first", 1e6)  # the last frames
    assert [item.atoms.info["step"] for item in late] == [11, 0, 11]
    assert not any(item.problem for item in late)


def test_an_option_is_named_as_it_was_typed(first: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("md", first, "--from-time", "-5", "-T", 3, "-o", first.parent / "none") == 65
    assert "--from-time" in capfd.readouterr().err


def test_a_run_that_kept_nothing_says_how_to_go_on(first: Path) -> None:
    (first / "final.extxyz").unlink()
    (first / "trajectory.zarr").rename(first / "away")
    with pytest.raises(InputError, match=r"kept no frame. Start .*, or repeat it: `athanor run .*run.yaml`"):
        athanor.md(first, steps=1, **SETTINGS)


def test_systems_that_were_not_reached_keep_who_they_are(tmp_path: Path) -> None:
    from athanor.workflows.results import RunResult, add_not_computed

    result = RunResult()
    systems = [System(atoms, f"argon {number}", "argon.extxyz", number) for number, atoms in enumerate(crystals())]
    add_not_computed(result, with_ids(systems))
    again = with_ids([System(atoms, "any") for atoms in result.structures[::-1]])
    assert [system.id for system in again] == [2, 1, 0]
    assert [atoms.info["name"] for atoms in result.structures] == ["argon 0", "argon 1", "argon 2"]
    assert {atoms.info["reason"] for atoms in result.structures} == {"not started"}
