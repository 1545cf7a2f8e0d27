"""Runs that are interrupted at random moments, or whose disk refuses, go on and end with equal bits."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from tests.unit.workflows.resume_cases import stopping_after

from athanor.cli.main import call
from athanor.dynamics.hooks import Checkpoint
from athanor.workflows.folder import CHECKPOINTS
from athanor.workflows.reserve import Reserve

from .resume_rig import difference
from .run_rig import Refusing, Small

pytestmark = pytest.mark.usefixtures("foreground")
RIG = Path(__file__).with_name("resume_rig.py")


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")


def _interrupt(kills: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RIG), str(kills), "--systems", "30", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@needs_fork
def test_a_run_that_is_interrupted_at_random() -> None:
    done = _interrupt(6)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["interruptions"] == 6
    assert figures["frames"] > 100
    assert figures["failed"] == 1


@needs_fork
def test_a_broken_twin_is_told() -> None:
    done = _interrupt(8, "--forget", "tracker")
    assert done.returncode, done.stdout
    assert re.search(r"after \d+ interruptions: ", done.stderr), done.stderr


# -------------------------------------------------------------------------------------------------- disks that refuse
JOB = """\
structures: [argon.extxyz]
model: {name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}
threads: 1
max_atoms: 6
every: 2
checkpoint: 0.0001 s
silence: [small-cell, non-periodic, start]
stages: [{md: {steps: 9, temperature: 20, timestep: 2 fs}}]
"""
FIRST, EVERY = 1, int(os.environ.get("EVERY", "151"))
"""Of some hundreds of calls that change the folder."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a job that saves at every step, and what it comes to."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("disk")
        patch.chdir(place)
        rng = np.random.default_rng(3)
        pairs = [Atoms("Ar3", 3.8 * np.eye(3) + rng.normal(0, 0.1, (3, 3))) for _ in range(5)]
        write("argon.extxyz", pairs)
        Path("job.yaml").write_text(JOB)
        assert call(["run", "job.yaml", "-o", "whole", "-q"]) == 0
        with stopping_after(11):
            assert call(["run", "job.yaml", "-o", "stopped", "-q"]) == 75
        yield place


def _one_fault(error: str, number: int, stays: bool, goes_on: bool, capsys: pytest.CaptureFixture[str]) -> str:
    """Refuse one call of a run, or all from there on, then make room: it goes on, and ends with equal bits."""
    out = Path("out")
    shutil.rmtree(out, ignore_errors=True)
    if goes_on:
        shutil.copytree("stopped", out)
    disk = Refusing(out, error, number, stays)
    with disk.installed():
        code = call(["run", "job.yaml", "-o", str(out), "-q", *["--resume"] * goes_on])
    told = capsys.readouterr().err
    assert code in (0, 74), f"{error} at {number}, code {code}: {told}"
    assert "Traceback" not in told
    found = "over" if not disk.refused else "told" if code else "unnoticed"
    if code or found == "over":
        again = call(["run", "job.yaml", "--resume", "-o", str(out), "-q"])
        assert again == 0, f"{error} at {number} ({disk.refused[:1]}): {told}\nthen {capsys.readouterr().err}"
    wrong = difference(Path("whole"), out)
    assert not wrong, f"{error} at {number} ({disk.refused[:1]}): {wrong}\n{told}"
    return found


@pytest.mark.parametrize("goes_on", [False, True], ids=["started", "resumed"])
@pytest.mark.parametrize(("error", "stays"), [("ENOSPC", False), ("ENOSPC", True), ("EIO", False)])
def test_room_again_after_a_disk_that_refused(
    error: str, stays: bool, goes_on: bool, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: Counter[str] = Counter()
    number = FIRST + 7 * (error == "EIO") + 3 * stays
    while not found["over"]:
        found[_one_fault(error, number, stays, goes_on, capsys)] += 1
        number += EVERY
    assert found["told"] > 0


LONG = JOB.replace("0.0001 s", "1 h").replace("steps: 9", "steps: 80").replace("every: 2", "every: 1")
"""It saves before its first step, and then when somebody asks for it."""


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a job that writes many frames, and what it comes to."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("long")
        patch.chdir(place)
        crystals = [bulk("Ar", a=5.2 + 0.05 * number, cubic=True) * (2, 2, 1) for number in range(4)]
        write("argon.extxyz", crystals)
        Path("job.yaml").write_text(LONG.replace("max_atoms: 6", "max_atoms: 32"))
        assert call(["run", "job.yaml", "-o", "whole", "-q"]) == 0
        yield place


def _fill_up(size: int, capsys: pytest.CaptureFixture[str]) -> tuple[int, int]:
    """Run on a disk of so many bytes; return the frames that a checkpoint holds, and those that were handed over."""
    out = Path("out")
    shutil.rmtree(out, ignore_errors=True)
    disk = Small(out, size)
    with disk.installed():
        code = call(["run", "job.yaml", "-o", str(out), "-q"])
    told = capsys.readouterr().err
    assert disk.refused
    assert (code, "No space left on device" in told) == (74, True), told
    safe = re.search(r"; [\d,]+ of ([\d,]+) frames are safe", told)
    assert safe is not None
    return Checkpoint.load(out / CHECKPOINTS).tree["sinks"][0]["frames"], int(safe[1].replace(",", ""))


@pytest.mark.parametrize("kilobytes", [800, 900, 1000, 1200])
def test_a_disk_that_fills_up_has_room_for_a_last_checkpoint(
    kilobytes: int, long: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a frame is lost; with room again the run goes on, and ends with equal bits."""
    monkeypatch.chdir(long)
    saved, handed_over = _fill_up(1000 * kilobytes, capsys)
    assert saved == handed_over > 0
    assert call(["run", "--resume", "out", "-q"]) == 0, capsys.readouterr().err
    assert not difference(Path("whole"), Path("out"))


def test_without_room_that_was_kept_there_is_none(
    long: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(long)
    monkeypatch.setattr(Reserve, "give_back_for_checkpoint", lambda _: None)
    assert _fill_up(900_000, capsys)[0] == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_small_disk(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The disk is full after some steps; with room again the run goes on."""
    small = Path("small")
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounts are not allowed")
    try:
        code = call(["run", "job.yaml", "-o", "small/out", "-q", "--every", "1"])
        told = capsys.readouterr().err
        assert code == 74, told
        shutil.copytree("small/out", "other/room")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    assert call(["run", "--resume", "other/room", "-q"]) == 0, capsys.readouterr().err
    assert call(["run", "job.yaml", "-o", "each", "-q", "--every", "1"]) == 0
    assert not difference(Path("each"), Path("other/room"))
