"""Results folders and jobs that somebody tampered with: refused in bounded time and memory, never as athanor's mistake.

What may take all memory or all time is read in a process that has little of either.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.build import bulk

import athanor
from athanor.errors import StorageError
from athanor.workflows import saved_record
from athanor.workflows.saved_record import state_of, this_process
from athanor.workflows.yaml_file import NotYamlError, parse_yaml, safe_loader

MEMORY, SECONDS = 6_000_000_000, 100  # bytes of addresses: torch and its threads take a few of these, whatever they do
ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "out"
    crystal = bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 2)
    athanor.md(crystal, model=ARGON, temperature=30, steps=4, every=2, out=folder)
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "out")


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


LOOK = """
import sys, athanor
from athanor.errors import StorageError
ways = {
    "run": lambda run: run, "table": lambda run: run.summary, "log": lambda run: run.series(0),
    "structures": lambda run: run.structures, "frames": lambda run: run.frames(0),
}
for line in sys.stdin.read().splitlines():
    way, folder = line.split(" ", 1)
    try:
        ways[way](athanor.open(folder))
        print("read")
    except StorageError as error:
        print("refused", error)
"""


def look_at(folders: list[tuple[str, Path]]) -> list[str]:
    """Return what comes of reading each of some folders in one way, in one process with little memory and time."""
    lines = "".join(f"{way} {folder}\n" for way, folder in folders)
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        input=lines, capture_output=True, text=True, timeout=SECONDS, check=False, preexec_fn=limited,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def bomb(name: str) -> str:
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    return "\n".join([*lines, f"{name}: *a11", ""])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


READ_BY = {
    "run.yaml": "run",
    "summary.json": "table",
    "log.csv": "log",
    "final.extxyz": "structures",
    "trajectory.zarr/format.json": "frames",
    "trajectory.zarr/commits.log": "frames",
    "trajectory.zarr/data/positions/c.0.0": "frames",
}
HOLES = ("run.yaml", "summary.json", "log.csv")
"""Files that are read whole, so that one of a terabyte of nothing is worth a try."""


def test_files_that_never_end_or_never_begin(finished: Path, tmp_path: Path) -> None:
    tampered = [(name, replace) for name in READ_BY for replace in (pipe, endless)] + [(name, sparse) for name in HOLES]
    folders = []
    for number, (name, replace) in enumerate(tampered):
        folder = shutil.copytree(finished, tmp_path / str(number))
        replace(folder / name)
        folders.append((READ_BY[name], folder))
    found = look_at([*folders, ("frames", finished)])
    assert found.pop() == "read"
    assert len(found) == len(tampered)
    for (name, _), told in zip(tampered, found, strict=True):
        assert told.startswith("refused"), (name, told)
        assert Path(name).name in told or "positions" in told, (name, told)


RECORDS: dict[str, Callable[[str], str]] = {
    "deep flow": lambda text: "a: " + "[" * 100_000,
    "deep blocks": lambda text: "- " * 1_000_000,
    "deep mappings": lambda text: text + "deep: " + "{a: " * 3_000 + "1" + "}" * 3_000,
    "references": lambda text: text + bomb("more"),
    "references in a known place": lambda text: bomb("citations") + text.partition("citations:")[0],
    "one that holds itself": lambda text: text + "more: &a [*a]",
    "a long number": lambda text: text + "more: " + "9" * 5_000,
    "code": lambda text: text + "more: !!python/object/apply:os.getcwd []",
    "no mapping": lambda text: "- 1\n- 2\n",
    "wrong kinds": lambda text: text.replace("systems: 1", "systems: many"),
    "a stage without settings": lambda text: text.replace("- md:", "- md: 1\n  - md:"),
    "no stages": lambda text: text.replace("stages:", "stadia:"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_was_tampered_with(out: Path, name: str) -> None:
    record = out / "run.yaml"
    record.write_text(RECORDS[name](record.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(StorageError, match=r"run\.yaml`"):
        athanor.open(out)


def test_a_job_may_refer_but_not_without_end() -> None:
    assert parse_yaml("a: &a {fmax: 1}\nb: *a\nc: {<<: *a, d: 2}", safe_loader())["c"] == {"fmax": 1, "d": 2}
    chain = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 300))])
    for text in (bomb("more"), chain):
        with pytest.raises(NotYamlError, match="references stand for more than"):
            parse_yaml(text, safe_loader())
    with pytest.raises(NotYamlError, match="line 2: this refers to itself"):
        parse_yaml("a: 1\nb: &b {c: [*b]}", safe_loader())
    with pytest.raises(NotYamlError, match="nested too deeply"):
        parse_yaml("- " * 1_000_000, safe_loader())


@pytest.mark.parametrize(
    "rows",
    [
        "[1]",
        "[[]]",
        '[{"index": 0}]',
        '[{"index": 0, "system": "Ar", "status": "done"}]',
        "[" * 100_000,
        "{}",
        "9" * 5_000,
    ],
)
def test_a_table_that_was_tampered_with(out: Path, rows: str) -> None:
    (out / "summary.json").write_text(rows, encoding="utf-8")
    with pytest.raises(StorageError, match=r"summary\.json`"):
        _ = athanor.open(out).summary


# ---------------------------------------------------------------------------------------- whether a run still goes on


def record_of(process: dict[str, Any]) -> dict[str, Any]:
    return {"state": "running", "process": process}


def test_a_process_that_got_the_number_of_another_is_not_its_run() -> None:
    mine = this_process()
    assert state_of(record_of(mine)) == "running"
    if not mine["born"]:
        pytest.skip("the system does not tell when a process began")
    assert state_of(record_of({**mine, "born": "elsewhen-1"})) == "killed"
    assert state_of(record_of({key: mine[key] for key in ("host", "id")})) == "running"  # of an older athanor
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = {**mine, "id": other.pid, "born": saved_record._birth(other.pid)}
        assert theirs["born"] != mine["born"]
        assert state_of(record_of(theirs)) == "running"
        assert state_of(record_of({**theirs, "born": mine["born"]})) == "killed"
    finally:
        other.communicate()
    assert state_of(record_of(theirs)) == "killed"


@pytest.mark.parametrize("number", [None, "1", -1, 0, 10**40, True])
def test_what_is_no_number_of_a_process_is_not_alive(number: Any) -> None:
    assert state_of(record_of({**this_process(), "id": number})) == "killed"


def test_the_record_of_a_run_tells_its_process(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    finish = saved_record.read_record

    from athanor.workflows.record import RunRecord

    end = RunRecord.finish

    def look(self: RunRecord, *arguments: Any) -> None:
        seen.append(yaml.safe_load((tmp_path / "out" / "run.yaml").read_text(encoding="utf-8"))["process"])
        end(self, *arguments)

    monkeypatch.setattr(RunRecord, "finish", look)
    athanor.md(bulk("Ar", cubic=True) * (2, 2, 2), model=ARGON, temperature=30, steps=1, out=tmp_path / "out")
    assert seen == [this_process()]
    assert "process" not in finish(tmp_path / "out")
