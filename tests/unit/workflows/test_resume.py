"""Runs of results folders that are stopped at chosen steps and go on: equal in every bit to runs that were not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from athanor.dynamics.hooks import Checkpoint
from athanor.dynamics.hooks.news import News
from athanor.hooks.csv_file import CsvFile
from athanor.io.checkpoint import CheckpointFolder
from athanor.sinks.base import DataSink
from athanor.workflows.folder import CHECKPOINTS
from athanor.workflows.outcomes import Outcomes
from athanor.workflows.track import Tracker

from .resume_cases import JOBS, compare, live, run, stopping_after, write_job

pytestmark = pytest.mark.usefixtures("foreground")
Whole = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return the job of a name, and what it comes to if nothing disturbs it."""
    known: dict[str, tuple[Path, Path]] = {}

    def of(name: str) -> tuple[Path, Path]:
        if name not in known:
            place = tmp_path_factory.mktemp("whole")
            job = write_job(name, place)
            code, told = run(job, "-o", place / "out")
            assert code in (0, 69), told
            known[name] = job, place / "out"
        return known[name]

    return of


@pytest.mark.parametrize("name", JOBS)
def test_a_run_that_is_stopped_again_and_again_ends_with_equal_bits(name: str, whole: Whole, tmp_path: Path) -> None:
    job, undisturbed = whole(name)
    assert live(job, tmp_path / "out", 1, 13, 9, (2, "at once"), 14) >= 4
    compare(undisturbed, tmp_path / "out")


@pytest.mark.parametrize("step", [12, 29, 30, 31, 40])
def test_a_run_that_is_stopped_where_systems_leave_ends_with_equal_bits(
    step: int, whole: Whole, tmp_path: Path
) -> None:
    job, undisturbed = whole("relax, one batch")
    live(job, tmp_path / "out", step)
    compare(undisturbed, tmp_path / "out")


def test_stopped_every_few_steps_and_in_the_last_one(whole: Whole, tmp_path: Path) -> None:
    job, undisturbed = whole("failing")
    assert live(job, tmp_path / "out", *[5] * 12) == 8
    compare(undisturbed, tmp_path / "out")


@pytest.mark.parametrize("why", ["SIGTERM", "SIGUSR1", "SIGHUP", "the time limit"])
def test_a_stop_saves_what_was_done(why: str, whole: Whole, tmp_path: Path) -> None:
    job, _ = whole("langevin")
    with stopping_after(30, why):
        code, told = run(job, "-o", tmp_path / "out")
    assert (code, f"stopped by {why}" in told) == (75, True), told
    assert _steps_saved(tmp_path / "out") == 30


def test_a_stop_that_saves_nothing_is_found(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "request", _nothing)
    with stopping_after(30):
        assert run(whole("langevin")[0], "-o", tmp_path / "out")[0] == 75
    assert _steps_saved(tmp_path / "out") == 0


def _steps_saved(out: Path) -> int:
    return Checkpoint.load(out / CHECKPOINTS).steps


# ------------------------------------------------------------------------------------------------------- broken twins
def _live_and_compare(job: Path, out: Path, stops: Any, undisturbed: Path) -> None:
    live(job, out, *stops)
    compare(undisturbed, out)


def _nothing(self: Any, *_: Any) -> None:
    """Forget what was."""


@pytest.mark.parametrize(
    ("owner", "method", "name", "stops"),
    [
        (CsvFile, "_cut", "both", [20, (30, "at once")]),
        (DataSink, "load_state_dict", "both", [20, (30, "at once")]),
        (Outcomes, "load_state_dict", "failing", [20]),
        (Tracker, "load_state_dict", "both", [40]),
        (News, "load_state_dict", "relax, one batch", [12]),
    ],
    ids=["log not cut back", "store not cut back", "who has left", "memory of the tracker", "news"],
)
def test_what_is_forgotten_is_found(
    owner: Any, method: str, name: str, stops: Any, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, undisturbed = whole(name)
    _live_and_compare(job, tmp_path / "right", stops, undisturbed)
    monkeypatch.setattr(owner, method, _nothing)
    with pytest.raises(AssertionError):
        _live_and_compare(job, tmp_path / "wrong", stops, undisturbed)


def test_the_age_of_lists_that_is_forgotten_is_found(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, undisturbed = whole("relax, refills")
    load = CheckpointFolder.load

    def twin(self: Any, number: int | None = None) -> Any:
        found = load(self, number)
        for pairs in found.tree["batch"]["pair_lists"]:
            pairs["reference_positions"] = found.tree["batch"]["levels"]["node"]["fields"]["positions"].clone()
        return found

    monkeypatch.setattr(CheckpointFolder, "load", twin)
    with pytest.raises(AssertionError):
        _live_and_compare(job, tmp_path / "wrong", [7] * 12, undisturbed)
