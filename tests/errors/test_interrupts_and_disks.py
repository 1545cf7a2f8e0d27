"""Ctrl-C, full disks, closed pipes and missing packages: what the user reads, and what is on disk afterwards."""

from __future__ import annotations

import importlib.abc
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read, write

import athanor
from athanor.cli.main import call
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE, NVTLangevin
from athanor.hooks.stages import DynamicsStage
from athanor.sinks import ZarrData
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks
from athanor.workflows import reserve
from athanor.workflows.folder import TRAJECTORY

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
LJ = ["--model", "lennard-jones"]
for _key in ("epsilon", "sigma", "cutoff"):
    LJ += ["--model-option", f"{_key}={ARGON[_key]}"]
CRYSTALS = 3

pytestmark = pytest.mark.usefixtures("foreground")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("argon.extxyz", [bulk("Ar", "fcc", a=5.2 + 0.1 * i, cubic=True) * (2, 1, 1) for i in range(CRYSTALS)])
    return tmp_path


Press = Callable[..., None]


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Press:
    """Arrange that Ctrl-C is pressed, once or several times, as a function is called for the n-th time.

    The handler has run when `os.kill` returns, which looks for signals to its own process: nothing hangs on time.
    """

    def arrange(where: object, name: str, presses: int = 1, call: int = 1) -> None:
        function, calls = getattr(where, name), itertools.count(1)

        def pressed(*arguments: Any, **more: Any) -> Any:
            if next(calls) == call:
                for _ in range(presses):
                    os.kill(os.getpid(), signal.SIGINT)
            return function(*arguments, **more)

        monkeypatch.setattr(where, name, pressed)

    return arrange


def rows() -> list[dict[str, Any]]:
    return json.loads(Path("out/summary.json").read_text(encoding="utf-8"))


def test_ctrl_c_while_loading(ctrl_c: Press, capsys: pytest.CaptureFixture[str]) -> None:
    ctrl_c(ase.io, "read", call=3)
    assert call(["md", *["argon.extxyz"] * 5, "-o", "out", "--steps", "5", *LJ]) == 130
    assert capsys.readouterr().err == "athanor: interrupted.\n"
    assert not Path("out").exists()


def test_ctrl_c_in_a_step(ctrl_c: Press, capsys: pytest.CaptureFixture[str]) -> None:
    ctrl_c(NVTLangevin, "post_update", call=7)
    assert call(["md", "argon.extxyz", "-o", "out", "--steps", "20", "-T", "30", *LJ]) == 130
    screen = capsys.readouterr()
    assert "interrupted; what was done is in out" in screen.err
    assert f"{CRYSTALS} systems: {CRYSTALS} interrupted" in screen.out
    assert [row["steps"] for row in rows()] == [7] * CRYSTALS
    assert "state: interrupted" in Path("out/run.yaml").read_text(encoding="utf-8")
    assert len(read("out/final.extxyz", ":")) == CRYSTALS
    assert call(["show", "out"]) == 0


@pytest.mark.parametrize("half", ["pre_update", "post_update"])
def test_ctrl_c_twice_leaves_whole_states(half: str, ctrl_c: Press, capsys: pytest.CaptureFixture[str]) -> None:
    ctrl_c(NVTLangevin, half, presses=2, call=7)
    assert call(["md", "argon.extxyz", "-o", "out", "--steps", "20", "-T", "30", *LJ]) == 130
    assert f"{CRYSTALS} systems: {CRYSTALS} interrupted" in capsys.readouterr().out
    assert [row["steps"] for row in rows()] == [6] * CRYSTALS
    atoms = read("out/final.extxyz")
    again = athanor.evaluate(atoms, ARGON).structures[0]  # energy and forces are those of these positions, of 8 digits
    assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert np.allclose(again.get_forces(), atoms.get_forces(), atol=1e-7)


@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_while_a_batch_is_taken_up(presses: int, ctrl_c: Press, capsys: pytest.CaptureFixture[str]) -> None:
    from athanor.workflows.outcomes import Outcomes

    ctrl_c(Outcomes, "add", presses)
    assert call(["md", "argon.extxyz", "-o", "out", "--steps", "3", "-T", "30", "--max-atoms", "8", *LJ]) == 130
    others = "1 interrupted, 1 not started" if presses == 1 else "2 not started"  # the first one lets a step end
    assert f"{CRYSTALS} systems: 1 done, {others}" in capsys.readouterr().out
    assert "state: interrupted" in Path("out/run.yaml").read_text(encoding="utf-8")


IN_A_STORE = ("athanor.io", "athanor.sinks", "zarr")


@contextmanager
def counted_calls(modules: tuple[str, ...], press_at: int = 0) -> Iterator[list[int]]:
    """Count calls of functions of `modules`; at number `press_at`, press Ctrl-C twice (the second is a SIGTERM)."""
    count = [0]

    def look(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith(modules):
            count[0] += 1
            if count[0] == press_at:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield count
    finally:
        sys.setprofile(before)


def test_a_second_ctrl_c_at_any_call_leaves_a_trajectory(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["md", "argon.extxyz", "--every", "1", "--steps", "25", "-T", "30", *LJ]
    with counted_calls(IN_A_STORE) as count:
        assert call([*arguments, "-o", "whole"]) == 0
    moments = range(1, count[0], max(1, count[0] // 12))
    assert len(moments) > 8
    for moment in moments:
        out = f"cut-at-{moment}"
        capsys.readouterr()
        with counted_calls(IN_A_STORE, moment):
            code = call([*arguments, "-o", out])
        told = capsys.readouterr().err
        if code == 0 or not Path(out).exists():  # after the last step, or before the run
            continue
        assert code == 130, told
        assert "Traceback" not in told
        assert "Exception ignored" not in told
        run = athanor.open(out)
        assert run.state == "interrupted"
        steps = {row["steps"] for row in run.summary}
        assert len(steps) == 1
        if run.num_frames:
            assert run.frames(0).step.flatten().tolist() == list(range(1, steps.pop() + 1))


class CutShort:
    """Hook that interrupts the third step between its halves, when positions have moved and forces have not."""

    frequency = 1
    stage = DynamicsStage.BEFORE_COMPUTE

    def __call__(self, ctx: Any, stage: Any) -> None:
        if ctx.step_count == 2:
            raise KeyboardInterrupt


def test_a_step_that_was_cut_short_is_undone() -> None:
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    crystal.rattle(0.1, seed=1)
    whole, cut = (Batch.from_data_list([AtomicData.from_atoms(crystal, dtype=torch.float64)]) for _ in range(2))
    engine = with_neighbor_hooks(NVE(argon_model(), dt=5.0, n_steps=2))
    engine.run(whole)
    engine = with_neighbor_hooks(NVE(argon_model(), dt=5.0, n_steps=5))
    engine.register_hook(CutShort())
    with pytest.raises(KeyboardInterrupt):
        engine.run(cut)
    assert not torch.equal(cut.positions, whole.positions)
    NVE(argon_model(), dt=5.0, n_steps=1).undo_unfinished_step(cut)  # of an engine that never had it: nothing
    assert not torch.equal(cut.positions, whole.positions)
    engine.undo_unfinished_step(cut)
    for name in ("positions", "velocities", "energy", "forces", "step"):
        assert torch.equal(cut[name], whole[name]), name


def test_ctrl_c_while_writing(ctrl_c: Press, capsys: pytest.CaptureFixture[str]) -> None:
    ctrl_c(NVTLangevin, "post_update", call=7)
    ctrl_c(ase.io, "write", presses=3)
    assert call(["md", "argon.extxyz", "-o", "out", "--steps", "20", "-T", "30", *LJ]) == 130
    screen = capsys.readouterr()
    assert f"{CRYSTALS} systems: {CRYSTALS} interrupted" in screen.out
    assert len(read("out/final.extxyz", ":")) == CRYSTALS
    assert {row["status"] for row in rows()} == {"interrupted"}
    assert "state: interrupted" in Path("out/run.yaml").read_text(encoding="utf-8")
    assert not list(Path("out").glob(".*.partial"))


@pytest.mark.parametrize("limit", [500, 5_000, 60_000])
def test_full_disk(capsys: pytest.CaptureFixture[str], limit: int) -> None:
    """No file may grow beyond `limit`: the disk refuses as a full one does, sooner or later in the run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        code = call(
            ["md", "argon.extxyz", "-o", "out", "--steps", "2000", "--every", "1", "--checkpoint", "0", "-T", "30", *LJ]
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = capsys.readouterr().err
    assert code == 74, told
    assert "`out/" in told
    assert "File too large" in told
    assert "Traceback" not in told
    if limit > 500:
        assert "what was done is in `out`" in told
        assert ("`final.extxyz`" in told) == (not Path("out/final.extxyz").exists())
        safe = re.search(r"; ([\d,]+) of ([\d,]+) frames are safe\. Make room", told)
        run = athanor.open("out")
        assert run.num_frames == int(safe[1].replace(",", ""))
        assert run.state == "failed"
        assert {row["status"] for row in rows()} == {"interrupted"}
        assert call(["show", "out"]) == 0
    assert call(["md", "argon.extxyz", "-o", "out", "--overwrite", "--steps", "2", "-T", "30", *LJ]) == 0


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a disk of its own with little room."""
    place = Path("disk")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here (needs root); what a limit of the size of files shows is tested")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("every", ["1", "7"])
def test_a_full_disk_does_not_take_the_end_of_a_run(
    small_disk: Path, every: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "out"
    arguments = ["md", "argon.extxyz", "--supercell", "2x2x2", "-T", "30", *LJ]
    assert call([*arguments, "-o", str(out), "--steps", "100000", "--every", every]) == 74
    told = capsys.readouterr().err
    run = athanor.open(out)
    safe = f"{run.num_frames:,} of {run.num_frames:,} frames are safe"
    assert f"No space left on device. The run stopped; what was done is in `disk/out`; {safe}. Make room" in told
    assert (run.state, len(run.structures)) == ("failed", CRYSTALS)
    assert {row["status"] for row in run.summary} == {"interrupted"}
    assert run.num_frames == run.record["frames"]
    steps = run.frames(0).step.flatten().tolist()
    assert steps == list(range(1, run.summary[0]["steps"] + 1, int(every)))
    assert not list(out.glob(".*"))
    log = (out / "log.csv").read_text(encoding="utf-8").splitlines()
    assert len({tuple(line.split(",")[:3]) for line in log}) == len(log)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    with ZarrData(out / TRAJECTORY) as sink:
        sink.write(run.frames(step=run.last_step))
    assert len(ZarrData(out / TRAJECTORY, mode="r").read()) == run.num_frames + CRYSTALS
    again = athanor.md(run.structures, model=ARGON, temperature=30, steps=3, out=small_disk / "more")
    assert again.outcomes == {"done": CRYSTALS}


def test_without_a_reserve_the_end_is_lost(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken twin: a run that keeps no room."""
    monkeypatch.setattr(reserve, "_fill", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_full_disk_does_not_take_the_end_of_a_run(small_disk, "1", capsys)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to, root included")
def test_a_place_that_can_not_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["relax", "argon.extxyz", "-o", "/proc/athanor/out", *LJ]) == 74
    assert "`/proc/athanor/out` can not be written" in capsys.readouterr().err


def test_a_screen_that_can_not_be_written() -> None:
    """A closed pipe is no mistake; a full disk behind the screen is one."""
    models = [sys.executable, "-m", "athanor.cli.main", "models"]
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run(models, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (0, "")
    with open("/dev/full", "w", encoding="utf-8") as full:
        refused = subprocess.run(models, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert refused.returncode == 74
    assert "No space left on device" in refused.stderr
    assert "Traceback" not in refused.stderr


class Hidden(importlib.abc.MetaPathFinder):
    """Makes a package look as if it were not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@pytest.mark.parametrize(
    ("package", "model", "words"),
    [
        ("chgnet", [], "chgnet needs the package chgnet.*athanor-md.chgnet"),
        ("ase", LJ, "needs the package ase.*pip install"),
    ],
)
def test_missing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, model: list[str], words: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(package), *sys.meta_path])
    assert call(["relax", "argon.extxyz", "-o", "out", *model]) == 65
    told = capsys.readouterr().err
    assert re.search(words, told), told
    assert not Path("out").exists()
