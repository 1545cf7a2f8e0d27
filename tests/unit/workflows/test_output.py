"""The results folder: when it may be written, and what --overwrite may remove."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from athanor.errors import InputError
from athanor.workflows.output import check_output, create_output, write_summary, write_yaml


def test_a_new_or_empty_folder_is_fine(tmp_path: Path) -> None:
    assert create_output(tmp_path / "a" / "b", overwrite=False).is_dir()
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", overwrite=False)


def test_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("athanor: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="--overwrite"):
        check_output(tmp_path, overwrite=False)
    create_output(tmp_path, overwrite=True)
    assert not (tmp_path / "run.yaml").exists()


@pytest.mark.parametrize("foreign", ["thesis.tex", ".git"])
def test_a_folder_with_other_things_is_never_emptied(tmp_path: Path, foreign: str) -> None:
    (tmp_path / "run.yaml").write_text("athanor: 1\n", encoding="utf-8")
    (tmp_path / foreign).write_text("precious", encoding="utf-8")
    with pytest.raises(InputError, match=foreign):
        create_output(tmp_path, overwrite=True)
    assert (tmp_path / foreign).read_text(encoding="utf-8") == "precious"
    assert (tmp_path / "run.yaml").exists()


@pytest.fixture
def another_process() -> Iterator[int]:
    """A process that lives as long as the test."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate(b"\n")


@pytest.mark.parametrize(
    ("mine", "host", "goes_on"), [(False, None, True), (True, None, False), (False, "elsewhere", False)]
)
def test_a_run_that_goes_on_is_never_emptied(
    tmp_path: Path, another_process: int, mine: bool, host: str | None, goes_on: bool
) -> None:
    """What this process left behind, or what may have died on another machine, is emptied."""
    process = os.getpid() if mine else another_process
    record = {"athanor": "1", "systems": 0, "job": {"stages": []}, "model": {}, "versions": {}, "citations": []}
    record |= {"state": "running", "process": {"host": host or platform.node(), "id": process}}
    write_yaml(tmp_path / "run.yaml", record)
    (tmp_path / "log.csv").write_text("precious", encoding="utf-8")
    if not goes_on:
        create_output(tmp_path, overwrite=True)
        assert not (tmp_path / "log.csv").exists()
        return
    with pytest.raises(InputError, match=f"a run that goes on, process {process}"):
        create_output(tmp_path, overwrite=True)
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == "precious"


def test_a_folder_without_a_run_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"no run\.yaml"):
        create_output(tmp_path, overwrite=True)
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == "mine"


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "out", overwrite=True)


def test_the_summary_as_json_and_csv(tmp_path: Path) -> None:
    rows = [
        {"index": 0, "energy": -1.5, "status": "converged"},
        {"index": 1, "status": "failed: Ünglück", "fmax": None},
    ]
    write_summary(tmp_path, rows)
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == rows
    assert (tmp_path / "summary.csv").read_text(encoding="utf-8").splitlines()[0] == "index,energy,status,fmax"
