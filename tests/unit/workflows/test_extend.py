"""Finished dynamics that goes on: a run of some steps and some more equals one of all of them, in every bit."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms

import athanor
from athanor.dynamics.driver import Driver
from athanor.dynamics.hooks import Checkpoint
from athanor.dynamics.parking import Parking
from athanor.errors import InputError
from athanor.io.checkpoint import CheckpointFolder
from athanor.workflows.folder import CHECKPOINTS, RUN
from athanor.workflows.methods import MD, of_kind
from athanor.workflows.outcomes import Outcomes
from athanor.workflows.track import Tracker

from .resume_cases import ARGON, COMMITTEE, HOT, clusters, compare, crystals, mixed, run, stopping_after, write_case

pytestmark = pytest.mark.usefixtures("foreground")

FEW = f"model: {ARGON}\nmax_atoms: 9\n"
"""Nine clusters go through such a batch in four waves."""


def _md(settings: str) -> str:
    return f"stages: [{{md: {{{settings}, steps: STEPS, timestep: 2 fs}}}}]"


Case = tuple[list[Atoms], str, int, int]
"""Structures, job, steps, and how many more."""
CASES: dict[str, Case] = {
    **{
        name: (crystals(3) if "np" in name else clusters(5), f"model: {ARGON}\nmax_atoms: 8\nevery: 4\n"
               + _md(f"ensemble: {name}" + ("" if name in ("nve", "nph") else HOT)), 9, 12)
        for name in of_kind(MD)
    },
    "refills": (mixed(), f"{FEW}every: 20\n{_md('ensemble: nvt' + HOT)}", 21, 24),
    "one batch": (mixed(), f"model: {ARGON}\nevery: 5\n{_md('ensemble: nve')}", 16, 20),
    "relax first": (crystals(4), f"model: {ARGON}\nmax_atoms: 16\nevery: 5\nstages: [relax: {{fmax: 0.01}}, md: "
                    f"{{ensemble: nvt-nose-hoover{HOT}, steps: STEPS, timestep: 2 fs}}]", 12, 18),
    "heated": (clusters(5), f"{FEW}every: 7\n{_md('ensemble: nvt, temperature: 30 K to 60 K in 30 fs')}", 15, 13),
    "stopped above": (clusters(5), f"model: {COMMITTEE}\nmax_atoms: 9\nevery: 4\nproperties: [force_deviation]\n"
                      "stop_above: {max_force_deviation: 0.002}\n" + _md("ensemble: nvt, temperature: 90"), 13, 17),
    "second chances": (mixed(), f"{FEW}every: 6\non_error: retry\n{_md('ensemble: nve')}", 30, 12),
}  # fmt: skip


def write_job(name: str, place: Path, more: int = 0) -> Path:
    """Write structures and job of a case into a folder, with so many more steps; return the job."""
    structures, text, steps, _ = CASES[name]
    return write_case(structures, text.replace("STEPS", str(steps + more)), place)


def extend(out: Path, *times: str) -> None:
    for time in times:
        code, told = run("--resume", out, "--extend", time)
        assert code in (0, 69), told


def goes_on_as_in_one_go(name: str, place: Path, go_on: Callable[[Path], None] | None = None) -> None:
    """Raise AssertionError unless a run that got longer says what one says that was as long from the start."""
    more = CASES[name][3]
    code, told = run(write_job(name, place, more), "-o", place / "whole")
    assert code in (0, 69), told
    code, told = run(write_job(name, place), "-o", place / "out")
    assert code in (0, 69), told
    if go_on is None:
        extend(place / "out", f"{2 * more} fs")
    else:
        go_on(place / "out")
    compare(place / "whole", place / "out", log_in_order=name == "one batch")


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_gets_longer_ends_with_the_bits_of_a_long_one(name: str, tmp_path: Path) -> None:
    goes_on_as_in_one_go(name, tmp_path)


def test_twice_and_the_whole_length_is_told(tmp_path: Path) -> None:
    goes_on_as_in_one_go("refills", tmp_path, lambda out: extend(out, "0.02 ps", "28"))
    saved = athanor.open(tmp_path / "out")
    assert saved.stages[0][1]["steps"] == 45
    assert saved.record["extended_from"] == [21, 31]
    assert {row["steps"] for row in saved.summary if row["status"] == "done"} == {45}
    again = tmp_path / "again"
    assert run(tmp_path / "out" / RUN, "-o", again)[0] == 69  # its job is that of the whole
    compare(tmp_path / "whole", again, log_in_order=False)
    parts = CheckpointFolder(tmp_path / "out" / CHECKPOINTS).parts()
    assert len(parts) == 1, "what is not needed any more stays"


@pytest.mark.parametrize("stops", [[(3, "at once")], [17, (2, "at once"), 40], [1, 1, 30, 30]])
def test_stopped_and_killed_while_it_gets_longer(stops: list[Any], tmp_path: Path) -> None:
    def go_on(out: Path) -> None:
        arguments = ["--resume", out, "--extend", "48 fs"]
        for stop in stops:
            with stopping_after(*([stop] if isinstance(stop, int) else stop)):
                assert run(*arguments)[0] in (75, 130)
            arguments = ["--resume", out]
        assert {row["status"] for row in athanor.open(out).summary} <= {"interrupted", "failed", "done"}
        assert run(*arguments)[0] == 69

    goes_on_as_in_one_go("refills", tmp_path, go_on)


def test_killed_after_its_last_checkpoint_and_resumed_before_it_gets_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its systems, which stand in the batch still, leave once more when it is resumed."""
    job, after_steps = write_job("one batch", tmp_path), Checkpoint.after_steps

    def killed(self: Checkpoint, engine: Any, batch: Any) -> None:
        after_steps(self, engine, batch)
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "after_steps", killed)
        assert run(job, "-o", tmp_path / "out")[0] not in (0, 69)
    assert run("--resume", tmp_path / "out")[0] in (0, 69)
    extend(tmp_path / "out", "40 fs")
    assert run(write_job("one batch", tmp_path, 20), "-o", tmp_path / "whole")[0] in (0, 69)
    compare(tmp_path / "whole", tmp_path / "out", log_in_order=True)


def test_killed_before_anything_of_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def go_on(out: Path) -> None:
        with monkeypatch.context() as patch, stopping_after(5, "at once"):
            patch.setattr(Checkpoint, "after_steps", lambda *_: None)
            assert run("--resume", out, "--extend", "48 fs")[0] == 130
        assert Checkpoint.load(out / CHECKPOINTS).about["stages"]["0"]["n_steps"] == "21"
        assert athanor.open(out).stages[0][1]["steps"] == 45
        assert run("--resume", out)[0] == 69

    goes_on_as_in_one_go("refills", tmp_path, go_on)


def test_one_that_was_stopped_gets_longer_when_it_goes_on(tmp_path: Path) -> None:
    job = write_job("refills", tmp_path, 24)
    assert run(job, "-o", tmp_path / "whole")[0] == 69
    for steps in (5, 30, 60):  # in the first wave, and when some have left
        job, out = write_job("refills", tmp_path), tmp_path / f"out{steps}"
        with stopping_after(steps):
            assert run(job, "-o", out)[0] == 75
        extend(out, "48 fs")
        compare(tmp_path / "whole", out, log_in_order=False)


def test_the_job_that_it_was_started_with_goes_on_with_it(tmp_path: Path) -> None:
    def go_on(out: Path) -> None:
        with stopping_after(20):
            assert run("--resume", out, "--extend", "48 fs")[0] == 75
        code, told = run(write_job("refills", tmp_path, 5), "-o", out, "--resume")
        assert (code, "`stages` was [" in told) == (65, True), told
        assert run(write_job("refills", tmp_path), "-o", out, "--resume")[0] == 69

    goes_on_as_in_one_go("refills", tmp_path, go_on)


@pytest.mark.parametrize("seed", range(6))
def test_made_longer_in_parts_and_stopped_at_random(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    name = list(CASES)[seed * 3 % len(CASES)]

    def go_on(out: Path) -> None:
        left = CASES[name][3]
        while left or athanor.open(out).state != "finished":
            more = chance.randint(1, left) if left and chance.random() < 0.5 else 0
            left -= more
            with stopping_after(chance.randint(1, 60), chance.choice(["SIGTERM", "at once"])):
                code, told = run("--resume", out, *["--extend", f"{2 * more} fs"] * bool(more))
            assert code in (0, 69, 75, 130), told

    goes_on_as_in_one_go(name, tmp_path, go_on)


def test_an_even_change_is_over_when_a_run_gets_longer(tmp_path: Path) -> None:
    structures, text, steps, more = CASES["heated"]
    job = write_case(structures, text.replace("STEPS", str(steps)).replace(" in 30 fs", ""), tmp_path)
    assert run(job, "-o", tmp_path / "out")[0] == 0
    extend(tmp_path / "out", f"{2 * more}")
    assert run(write_job("heated", tmp_path, more), "-o", tmp_path / "whole")[0] == 0
    compare(tmp_path / "whole", tmp_path / "out", log_in_order=False)


def test_in_python(tmp_path: Path) -> None:
    model = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    job: dict[str, Any] = {"model": model, "temperature": 40, "timestep": 2.0, "max_atoms": 9, "threads": 1}
    job["silence"] = ["non-periodic", "model"]
    whole = athanor.md(clusters(), **job, time=90.0, out=tmp_path / "whole")
    athanor.md(clusters(), **job, time=50.0, out=tmp_path / "out")
    longer = athanor.md(clusters(), **job, time=50.0, out=tmp_path / "out", resume=True, extend="0.04 ps")
    assert longer.steps == whole.steps == [45] * 9
    compare(tmp_path / "whole", tmp_path / "out", log_in_order=False)
    with pytest.raises(InputError, match="it goes with `resume`"):
        athanor.md(clusters(), **job, out=tmp_path / "out", extend="1 ps")


# ----------------------------------------------------------------------------------------------------- what is refused
@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    assert run(write_job("nve", place), "-o", place / "out")[0] == 0
    return place


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("0", "`extend` must be positive; got '0'"),
        ("-1 ps", "`extend` must be positive"),
        ("soon", "'soon' is not a time"),
        ("10 K", "unit 'K'"),
        ("1e400 fs", "not finite"),
    ],
)
def test_what_is_no_time(time: str, words: str, finished: Path) -> None:
    before = (finished / "out" / RUN).read_bytes()
    code, told = run("--resume", finished / "out", "--extend", time)
    assert (code, words in told) == (65, True), told
    assert (finished / "out" / RUN).read_bytes() == before


def test_a_relaxation_has_no_time(tmp_path: Path) -> None:
    job = write_case(clusters(2), f"model: {ARGON}\nstages: [relax: {{fixed_cell: true}}]", tmp_path)
    assert run(job, "-o", tmp_path / "out")[0] == 0
    code, told = run("--resume", tmp_path / "out", "--extend", "1 ps")
    assert (code, "ends with a relaxation, which has no time" in told) == (65, True), told


def test_without_what_is_needed_another_folder_is_named(tmp_path: Path) -> None:
    job = write_job("nve", tmp_path)
    assert run(job, "-o", tmp_path / "out", "--checkpoint", "0")[0] == 0
    code, told = run("--resume", tmp_path / "out", "--extend", "1 ps")
    assert code == 65
    assert re.search(r"`athanor md \S+/out -o OTHER` goes on from their last structures", told), told


def test_it_has_to_be_there(tmp_path: Path, finished: Path) -> None:
    for arguments in ([finished / "job.yaml"], [finished / "out"]):
        code, told = run(*arguments, "--extend", "1 ps")
        assert (code, "`--resume OUT --extend 10ps`" in told) == (65, True), told
    code, told = run(finished / "job.yaml", "-o", tmp_path / "new", "--resume", "--extend", "1 ps")
    assert (code, "goes with `resume`" in told) == (65, True), told


def test_nobody_may_be_left_who_could_go_on(tmp_path: Path) -> None:
    job = write_case(mixed()[4:5], f"model: {ARGON}\n{_md('ensemble: nve').replace('STEPS', '9')}", tmp_path)
    assert run(job, "-o", tmp_path / "out")[0] == 69
    code, told = run("--resume", tmp_path / "out", "--extend", "1 ps")
    assert (code, "No system of the run came to its end" in told) == (65, True), told
    assert athanor.open(tmp_path / "out").state == "finished"


def test_a_part_that_is_damaged_is_told(tmp_path: Path) -> None:
    assert run(write_job("nve", tmp_path), "-o", tmp_path / "out")[0] == 0
    (part,) = (tmp_path / "out" / CHECKPOINTS).glob("part-*/tensors.bin")
    part.write_bytes(part.read_bytes()[:-1])
    code, told = run("--resume", tmp_path / "out", "--extend", "1 ps")
    assert (code, "tensors.bin` is damaged" in told) == (74, True), told
    assert athanor.open(tmp_path / "out").state == "finished"


def test_what_has_left_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    write = CheckpointFolder.write

    def noted(self: CheckpointFolder, tree: Any) -> int:
        sizes.append((len(self.parts()), sum(tensor.numel() for _, _, tensor in _rows_in(tree))))
        return write(self, tree)

    monkeypatch.setattr(CheckpointFolder, "write", noted)
    monkeypatch.setattr(Checkpoint, "is_due", lambda *_: True)
    assert run(write_job("refills", tmp_path), "-o", tmp_path / "out")[0] == 69
    assert len(sizes) > 80
    assert sizes[-1][0] >= 4
    assert sizes[-1][1] < 2 * sizes[10][1], "rows of those who have left are in the checkpoint"


def _rows_in(tree: Any) -> list[Any]:
    """Rows of engines and hooks in a tree, wherever they are."""
    if isinstance(tree, dict):
        return [row for key, each in tree.items() for row in (each if key == "state" and each else _rows_in(each))]
    return [row for each in tree for row in _rows_in(each)] if isinstance(tree, list | tuple) else []


# ------------------------------------------------------------------------------------------------------- broken twins
def _forgets(name: str) -> Any:
    def twin(self: Any, number: int) -> Any:
        part = _load_part(self, number)
        for tree in part["left"]:
            for level in tree["levels"].values():
                for _, row, tensor in level["state"]:
                    if row == name:
                        tensor.zero_()
        return part

    return twin


_load_part = CheckpointFolder.load_part


def _begins_the_stage_anew(self: Any, batch: Any, systems: torch.Tensor, steps: torch.Tensor) -> None:
    _reopen(self, batch, systems, torch.zeros_like(steps))


_reopen = Driver.reopen
TWINS: dict[str, tuple[str, Any, str, Any]] = {
    "chains of thermostats": ("nvt-nose-hoover", CheckpointFolder, "load_part", _forgets("chain")),
    "momenta of cells": ("npt", CheckpointFolder, "load_part", _forgets("cell_momentum")),
    "when it entered the stage": ("one batch", CheckpointFolder, "load_part", _forgets("entered")),
    "averages": ("nvt", CheckpointFolder, "load_part", _forgets("samples")),
    "steps in the stage": ("nve", Driver, "reopen", _begins_the_stage_anew),
    "how it left": ("nvt", Tracker, "reopen", lambda *_: None),
    "that it had left": ("nve", Outcomes, "reopen", lambda *_: None),
    "who waits": ("refills", Parking, "add", lambda *_: None),
    "that it had ended": (
        "nve", Tracker, "shown_progress",
        lambda _, batch: {"status": batch.status, "stage_step": batch.stage_step},
    ),
}  # fmt: skip


@pytest.mark.parametrize("twin", TWINS)
def test_what_is_forgotten_is_found(twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, owner, method, broken = TWINS[twin]
    monkeypatch.setattr(owner, method, broken)
    with pytest.raises((AssertionError, InputError)):
        goes_on_as_in_one_go(case, tmp_path)
