"""A screen that can not be written to stops no run and changes no exit code of one that failed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from athanor import _runtime
from athanor.cli.streams import LossyFile
from athanor.workflows.progress import Progress

ATHANOR = [sys.executable, "-m", "athanor"]
LJ = ["--model", "lennard-jones"]
for _key, _value in (("epsilon", 0.0104), ("sigma", 3.4), ("cutoff", 5.0)):
    LJ += ["--model-option", f"{_key}={_value}"]
HOT = ["md", "argon.extxyz", "--out", "out", "--steps", "3", "-T", "30", "--timestep", "200fs", *LJ]
"""A run that is warned about before its first step."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    argon = bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 2)
    write("argon.extxyz", argon)
    write("one-bad.extxyz", [argon, Atoms("Ar2", [[0, 0, 0], [0, 0, 1e-9]])])
    return tmp_path


@contextmanager
def broken(how: str) -> Iterator[IO[bytes]]:
    if how == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("needs /dev/full")
        with open("/dev/full", "wb") as stream:
            yield stream
        return
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stream:
        yield stream


def run(arguments: list[str], stdout: IO[bytes] | int, stderr: IO[bytes] | int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*ATHANOR, *arguments], stdout=stdout, stderr=stderr, timeout=600, check=False)


@pytest.mark.parametrize("how", ["closed", "full"])
def test_a_run_goes_on_when_nobody_can_read_its_warnings(how: str) -> None:
    warned = run(HOT, subprocess.PIPE, subprocess.PIPE)
    assert warned.returncode == 0, warned.stderr
    assert b"warning" in warned.stderr, "without a warning this test shows nothing"
    with broken(how) as screen:
        done = run([*HOT, "--overwrite"], subprocess.PIPE, screen)
    assert done.returncode == 0
    assert b"1 system: 1 done" in done.stdout
    assert "state: finished" in Path("out/run.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("how", ["closed", "full"])
def test_a_failure_stays_one_when_nobody_can_read_the_table(how: str) -> None:
    arguments = ["relax", "one-bad.extxyz", "--out", "out", "--max-steps", "2", "--fixed-cell", *LJ]
    with broken(how) as screen:
        assert run(arguments, screen, subprocess.PIPE).returncode == 69
        assert run([*arguments, "--overwrite"], screen, screen).returncode == 69
        assert run(["relax", "nothing.xyz", "--out", "other", *LJ], screen, screen).returncode == 65
    assert "state: finished" in Path("out/run.yaml").read_text(encoding="utf-8")


def test_what_can_not_be_written_is_remembered_once(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with LossyFile("/dev/full", "w") as file:
        assert file.lost is None
        assert file.write(b"three") == 5
        assert file.lost is not None
        assert file.write(memoryview(b"more")) == 4


class Closed:
    """A stream that somebody closed, as notebooks and test runners do."""

    def write(self, text: str) -> int:
        raise ValueError("I/O operation on closed file.")

    def flush(self) -> None:
        raise BrokenPipeError

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("stream", [None, Closed()])
def test_nothing_is_said_to_a_stream_that_is_gone(stream: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    _runtime.announce("compiling")
    with Progress(shown=True, steps=10) as progress:
        progress.say("hello")
        progress.update(3, "")
