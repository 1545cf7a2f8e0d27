"""Signals in the midst of whatever a run does: it stops in order behind that, and goes on with equal bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from athanor.dynamics.hooks import Checkpoint
from athanor.dynamics.in_flight import InFlight
from athanor.hooks.csv_file import CsvFile
from athanor.io.checkpoint import CheckpointFolder
from athanor.io.store.folder import Disk
from athanor.workflows import run as run_module
from athanor.workflows.recorder import Recorder

from .resume_cases import compare, run, write_job

pytestmark = pytest.mark.usefixtures("foreground")
NAME = "langevin"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    assert run(write_job(NAME, place), "-o", place / "whole")[0] == 69
    return place


def _send_at(patch: pytest.MonkeyPatch, owner: Any, method: str, number: int, signals: list[int]) -> list[int]:
    """Have the process send itself signals in the call of a method with a number; return the list of calls."""
    real, calls = getattr(owner, method), []

    def twin(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls) + 1)
        if calls[-1] == number:
            for each in signals:
                os.kill(os.getpid(), each)
        return real(*arguments, **options)

    patch.setattr(owner, method, twin)
    return calls


@pytest.mark.parametrize(
    ("owner", "method", "number"),
    [
        (CheckpointFolder, "write", 1),
        (Disk, "rename", 1),
        (Disk, "sync", 2),
        (Disk, "sync", 9),
        (Disk, "write", 12),
        (InFlight, "refill", 2),
        (InFlight, "refill", 4),
        (CsvFile, "flush", 1),
        (Recorder, "take_up", 3),
        (Recorder, "_keep", 5),
        (run_module._Run, "_begin_to_write", 1),
        (run_module._Run, "_write_summary", 1),
        (run_module.build, "build_stages", 1),
    ],
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_one_signal(
    owner: Any, method: str, number: int, name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made / tmp_path.name
    with monkeypatch.context() as patch:
        calls = _send_at(patch, owner, method, number, [getattr(signal, name)])
        code, told = run(made / "job.yaml", "-o", out, "--checkpoint", "0.01 s")
    assert len(calls) >= number
    assert code == (75 if name == "SIGTERM" else 130), told
    assert f"to go on: athanor run --resume {out}" in told
    assert Checkpoint.is_in(out / "checkpoints")
    code, told = run("--resume", out)
    assert code == 69, told
    compare(made / "whole", out)


@pytest.mark.parametrize(
    ("owner", "method", "number"),
    [(CheckpointFolder, "write", 2), (InFlight, "refill", 3), (Recorder, "_keep", 5), (Disk, "write", 12)],
)
def test_a_second_ctrl_c(
    owner: Any, method: str, number: int, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made / tmp_path.name
    with monkeypatch.context() as patch:
        _send_at(patch, owner, method, number, [signal.SIGINT, signal.SIGINT, signal.SIGINT])
        code, told = run(made / "job.yaml", "-o", out, "--checkpoint", "0.01 s")
    assert code == 130, told
    code, told = run("--resume", out)
    assert code == 69, told
    compare(made / "whole", out)
