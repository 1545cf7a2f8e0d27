"""Results folders that can not be written, or no longer; permissions, mounts, a clock that is put back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk
from ase.io import write

import athanor
from athanor.cli.main import call
from athanor.errors import StorageError
from athanor.sinks import AsyncSink, ZarrData
from athanor.testing.sink_contract import make_batch
from athanor.workflows import record, run
from athanor.workflows.watch import WatchHook

pytestmark = [
    pytest.mark.usefixtures("foreground"),
    pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX"),
]
NOBODY = 65534
COMMAND = ["md", "argon.extxyz", "-T", "30", "--every", "1", "--silence", "small-cell", "--model", "lennard-jones"]
for _word in ("epsilon=0.0104", "sigma=3.4", "cutoff=8.5"):
    COMMAND += ["--model-option", _word]
SMALL = {"shard_bytes": 2048, "buffer_bytes": 5000}


@contextmanager
def without_privileges() -> Iterator[None]:
    """Somebody for whom permissions count, which they do not for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def md(*more: str) -> int:
    with without_privileges():
        return call([*COMMAND, *more])


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of somebody without privileges, where all that is loaded late is loaded already."""
    place = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
    monkeypatch.chdir(place)
    with without_privileges():
        write("argon.extxyz", [bulk("Ar", a=5.2 + 0.1 * number, cubic=True) for number in range(2)])
    assert call([*COMMAND, "-o", "warm", "--steps", "1"]) == 0
    assert call(["show", "warm"]) == 0
    yield place
    for each, _, _ in os.walk(place):
        Path(each).chmod(0o755)
    shutil.rmtree(place)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o555, "`home/out` can not be written: Permission denied. Choose another folder."),
        (0o666, "`home/out` can not be reached: Permission denied. Choose another folder."),
    ],
    ids=["read only", "no execution"],
)
def test_a_place_without_permission(mode: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with without_privileges():
        Path("home").mkdir()
        Path("home").chmod(mode)
    assert md("-o", "home/out", "--steps", "3") == 74
    assert words in capsys.readouterr().err
    Path("home").chmod(0o755)
    assert not list(Path("home").iterdir())
    assert md("-o", "home/out", "--steps", "3") == 0


@pytest.mark.parametrize("mode", [0o555, 0o666, 0o000])
def test_a_results_folder_without_permission(mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    with without_privileges():
        Path("out").mkdir()
        Path("out").chmod(mode)
    assert md("-o", "out", "--steps", "3") == 74
    told = capsys.readouterr().err
    assert re.search(r"`out(/run.yaml)?` can not be (read|written|reached): Permission denied\.", told), told
    assert "Traceback" not in told
    Path("out").chmod(0o755)
    assert not list(Path("out").iterdir())
    assert md("-o", "out", "--steps", "3") == 0


@pytest.mark.parametrize("mode", [0o555, 0o666, 0o000])
def test_a_folder_whose_permission_is_lost(
    mode: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the run goes on: rows can not move into the arrays, and no result can be written."""
    steps, progress = [0], WatchHook.__call__

    def lost(self: WatchHook, ctx: Any, stage: Any) -> None:
        steps[0] += 1
        if steps[0] == 3:
            for each, *_ in os.walk("out", topdown=False):
                os.chmod(each, mode)
        progress(self, ctx, stage)

    with monkeypatch.context() as patch:
        patch.setattr(run, "_open_sink", lambda place: AsyncSink(ZarrData(place, config=SMALL, durability="frame")))
        patch.setattr(WatchHook, "__call__", lost)
        assert md("-o", "out", "--steps", "200") == 74
    told = capsys.readouterr().err
    assert "Traceback" not in told
    safe = re.search(r"Permission denied\. The run stopped; what was done is in `out`, without `final.extxyz`, .*; "
                     r"(\d+) of (\d+) frames are safe\.", told)  # fmt: skip
    assert safe, told
    assert 0 < int(safe[1]) <= int(safe[2]) < 400
    for each in ("out", "out/trajectory.zarr"):  # what is below can be looked for then
        Path(each).chmod(0o755)
    for each, *_ in os.walk("out"):
        Path(each).chmod(0o755)
    frames = ZarrData("out/trajectory.zarr", mode="r").read()
    assert frames.num_graphs >= int(safe[1])
    assert frames.step.flatten().tolist()[::2] == list(range(1, frames.num_graphs // 2 + 1))
    assert call(["md", "out", "-o", "more", "-T", "30", "--steps", "2", *COMMAND[6:]]) == 0
    assert athanor.open("more").frames(0).step.flatten().tolist() == [frames.num_graphs // 2 + 1]
    assert md("-o", "out", "--steps", "3", "--overwrite") == 0


@contextmanager
def mounted(options: str) -> Iterator[Path]:
    """A disk of its own."""
    place = Path("disk")
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here (needs root); what permissions and injected errors show is tested")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_can_only_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with mounted("size=8m") as disk:
        assert call([*COMMAND, "-o", "disk/out", "--steps", "3"]) == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        capsys.readouterr()
        for out in ("disk/new", "disk/out"):
            assert call([*COMMAND, "-o", out, "--steps", "3", "--overwrite"]) == 74
            assert f"`{out}` can not be written: Read-only file system." in capsys.readouterr().err
        with pytest.raises(StorageError, match=r"can not be opened to write: Read-only file system"):
            ZarrData("disk/out/trajectory.zarr")
        assert athanor.open("disk/out").num_frames == 6
        assert call(["show", "disk/out"]) == 0
        assert call(["store", "verify", "disk/out"]) == 0
        assert call(["md", "disk/out", "-o", "more", "-T", "30", "--steps", "2", *COMMAND[6:]]) == 0


def test_frames_that_wait_for_a_full_disk_are_stored_when_there_is_room() -> None:
    with mounted("size=1m") as disk:
        sink = AsyncSink(ZarrData(disk / "t.zarr"), max_writes=4)
        told = []
        for step in range(400):
            batch = make_batch(0, (40, 1, 30))
            batch.step = torch.full((3, 1), step)
            try:
                sink.write(batch)
            except StorageError as error:
                told.append(str(error))
                if len(told) == 6:
                    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        sink.close()
        assert len(told) >= 6
        assert all("No space left on device" in text and "was not taken" not in text for text in told)
        assert (len(sink), sink.acknowledged) == (1200, 1200)
        found = ZarrData(disk / "t.zarr", mode="r").read()
        assert found.step.flatten()[::3].tolist() == list(range(400))


class Backwards(datetime):
    """Goes back by an hour whenever it is asked."""

    asked = 0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        cls.asked += 1
        return datetime(2026, 1, 2, tzinfo=tz) - timedelta(hours=cls.asked)


def test_a_clock_that_is_put_back(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*COMMAND, "-o", "usual", "--steps", "5"]) == 0
    hours = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(record, "datetime", Backwards)
        patch.setattr(time, "time", lambda: 1.7e9 - 3600 * next(hours))
        assert call([*COMMAND, "-o", "out", "--steps", "5"]) == 0
        assert call(["show", "out"]) == 0
    for file in Path("out").rglob("*"):
        os.utime(file, (2**32, 2**32))  # written in the future
    capsys.readouterr()
    assert call(["show", "out"]) == 0
    saved, usual = athanor.open("out"), athanor.open("usual")
    assert saved.record["ended"] == saved.record["started"]
    assert saved.record["seconds"] >= 0
    for name in ("log.csv", "final.extxyz", "summary.json"):
        assert Path("out", name).read_bytes() == Path("usual", name).read_bytes()
    assert torch.equal(saved.frames(1).positions, usual.frames(1).positions)
    assert call(["md", "out", "-o", "more", "-T", "30", "--steps", "2", *COMMAND[6:]]) == 0
