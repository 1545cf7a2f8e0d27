"""Runs store frames beside the steps: the same ones in the same order, however slow the disk is; errors are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from tests.unit.sinks import lines

import athanor
from athanor.data.batch import Batch
from athanor.errors import StorageError
from athanor.sinks import AsyncSink, ZarrData
from athanor.workflows import run
from athanor.workflows.watch import WatchHook

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*small-cell:athanor.errors.AthanorWarning"),
    pytest.mark.usefixtures("foreground"),
]
ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
STEPS = 12


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dynamics(out: str, **more: Any) -> athanor.RunResult:
    """Some steps of four crystals in two batches, with a frame of each step."""
    crystals = [bulk("Ar", a=5.2 + 0.05 * number, cubic=True) for number in range(4)]
    settings = {"temperature": 30, "steps": STEPS, "every": 1, "max_atoms": 8} | more
    return athanor.md(crystals, model=ARGON, out=out, **settings)


def stored(out: str) -> Batch:
    return ZarrData(Path(out) / "trajectory.zarr", mode="r").read()


class Slow(ZarrData):
    """Stores the first frame a second late, unless the run is done with six steps by then."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.six_steps = threading.Event()

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        self.six_steps.wait(1.0)
        self.six_steps.set()
        super().write(batch, mask)


def with_slow_store(patch: pytest.MonkeyPatch, max_writes: int) -> None:
    """Runs wait for a slow store when so many frames wait."""
    steps, progress, opened = [0], WatchHook.__call__, []

    def open_sink(place: Path) -> AsyncSink:
        opened.append(Slow(place))
        return AsyncSink(opened[0], max_writes)

    def counted(self: WatchHook, ctx: Any, stage: Any) -> None:
        steps[0] += 1
        if steps[0] == 6:
            opened[0].six_steps.set()
        progress(self, ctx, stage)

    patch.setattr(run, "_open_sink", open_sink)
    patch.setattr(WatchHook, "__call__", counted)


def check_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "_open_sink", ZarrData)
        wanted = dynamics("in-the-step")
    with monkeypatch.context() as patch:
        with_slow_store(patch, max_writes=3)
        found = dynamics("beside")
    for name, values in stored("in-the-step"):
        assert torch.equal(stored("beside")[name], values), f"`{name}` of the frames"
    for ours, theirs in zip(found.structures, wanted.structures, strict=True):
        assert np.array_equal(ours.positions, theirs.positions)
        assert np.array_equal(ours.get_velocities(), theirs.get_velocities())
    assert Path("beside/log.csv").read_bytes() == Path("in-the-step/log.csv").read_bytes()


@pytest.mark.parametrize("every", [3, 7, 20])
def test_every_system_has_its_frames_and_stresses_whenever_it_joined(every: int) -> None:
    """Batches end at steps that are no multiple of anything, and the next one counts from there."""
    result = dynamics("out", steps=23, every=every, max_atoms=4)
    assert result.steps == [23] * 4
    run = athanor.open("out")
    for number in range(4):
        assert run.frames(number).step[:, 0].tolist() == list(range(1, 24, every))
        series = run.series(number)
        assert series.step.tolist() == list(range(1, 24, every))
        assert np.isfinite(series.pressure).all()


def test_frames_and_results_are_those_of_a_run_that_waits_for_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    check_frames(monkeypatch)


@pytest.mark.parametrize("twin", [lines.last_one_first, lines.leaves_out_what_has_no_room, lines.keeps_views])
def test_a_broken_line_is_told(twin: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    twin(monkeypatch)
    with pytest.raises(AssertionError):
        check_frames(monkeypatch)


def check_steps_go_on(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The first frame is stored when five steps are done, for which the run must not wait."""
    five_steps, waited, write, count = threading.Event(), [], ZarrData.write, [0]

    def write_later(self: ZarrData, batch: Batch, mask: torch.Tensor | None = None) -> None:
        waited.append(five_steps.wait(seconds))
        write(self, batch, mask)

    def counted(self: WatchHook, ctx: Any, stage: Any) -> None:
        count[0] += 1
        if count[0] == 5:
            five_steps.set()

    monkeypatch.setattr(ZarrData, "write", write_later)
    monkeypatch.setattr(WatchHook, "__call__", counted)
    dynamics("out")
    assert all(waited), "a step waited for the disk"
    assert len(stored("out")) == 4 * STEPS


def test_a_step_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    check_steps_go_on(monkeypatch, 60.0)


def test_a_run_that_stores_in_the_step_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken twin: no thread."""
    monkeypatch.setattr(run, "_open_sink", ZarrData)
    with pytest.raises(AssertionError, match="waited for the disk"):
        check_steps_go_on(monkeypatch, 0.05)


class Refusing(ZarrData):
    """Takes no frame of some steps when it is asked first, as a disk that is full for a while."""

    steps: tuple[int, ...] = ()

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        if int(batch.step[0]) in self.steps:
            type(self).steps = tuple(step for step in self.steps if step != int(batch.step[0]))
            raise StorageError("Writing to the disk failed: No space left on device. Make room.")
        super().write(batch, mask)


@pytest.mark.parametrize("step", [1, 5, STEPS])
def test_a_run_stops_when_a_frame_was_refused_and_loses_none(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was the last frame of all."""
    monkeypatch.setattr(run, "_open_sink", lambda place: AsyncSink(Refusing(place)))
    monkeypatch.setattr(Refusing, "steps", (step,))
    with pytest.raises(StorageError) as told:
        dynamics("out", max_atoms=100)
    saved = athanor.open("out")
    number = saved.num_frames
    assert str(told.value) == (
        f"Writing to the disk failed: No space left on device. The run stopped; what was done is in `out`; {number} of "
        f"{number} frames are safe. Make room, or mend what is wrong, before you go on from there with --resume."
    )
    assert saved.state == "failed"
    assert step <= saved.last_step
    assert saved.frames(0).step.flatten().tolist() == list(range(1, saved.summary[0]["steps"] + 1))
    assert saved.record["frames"] == number
    assert athanor.md("out", model=ARGON, temperature=30, steps=2, out="more").outcomes == {"done": 4}


def test_frames_that_no_disk_takes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_open_sink", lambda place: AsyncSink(Refusing(place)))
    monkeypatch.setattr(Refusing, "write", _refuse_from_step_3)
    with pytest.raises(StorageError, match=r"; 8 of (12|16|20|24|28|32|36|40|44|48) frames are safe\. Make room"):
        dynamics("out", max_atoms=100)
    assert athanor.open("out").frames(0).step.flatten().tolist() == [1, 2]


def _refuse_from_step_3(self: ZarrData, batch: Batch, mask: torch.Tensor | None = None) -> None:
    if int(batch.step[0]) >= 3:
        raise StorageError("Writing to the disk failed: No space left on device. Make room.")
    ZarrData.write(self, batch, mask)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_for_the_frames_that_are_not_stored_yet(presses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_slow_store(monkeypatch, max_writes=8)
    steps, progress = [0], WatchHook.__call__

    def pressed(self: WatchHook, ctx: Any, stage: Any) -> None:
        steps[0] += 1
        if steps[0] == 4:
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGTERM)
        progress(self, ctx, stage)

    monkeypatch.setattr(WatchHook, "__call__", pressed)
    with pytest.raises(KeyboardInterrupt):
        dynamics("out")
    saved = athanor.open("out")
    assert saved.state == "interrupted"
    assert saved.frames(0).step.flatten().tolist() == [1, 2, 3, 4]
    assert saved.record["frames"] == saved.num_frames == 8


def test_no_thread_stays_behind() -> None:
    dynamics("out")
    assert not [thread.name for thread in threading.enumerate() if thread.name == "athanor-sink"]


KILLED = """
import os, signal
import athanor
from ase.build import bulk
from athanor.workflows.watch import WatchHook

def killed(self, ctx, stage, steps=[]):
    steps.append(None)
    if len(steps) == 40:
        os.kill(os.getpid(), signal.SIGKILL)

WatchHook.__call__ = killed
model = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
athanor.md(bulk("Ar", a=5.3, cubic=True), model=model, steps=100, every=1, temperature=30, out="out", threads=1)
"""


def test_a_run_that_is_killed_has_all_frames_but_the_last_few() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    saved = athanor.open("out")
    assert saved.state == "killed"
    steps = saved.frames(0).step.flatten().tolist()
    assert steps == list(range(1, len(steps) + 1))
    assert 40 - 8 <= len(steps) <= 40
    assert athanor.md("out", model=ARGON, temperature=30, steps=2, out="more").outcomes == {"done": 1}
    assert athanor.open("more").frames(0).step.flatten().tolist() == [len(steps) + 1]
