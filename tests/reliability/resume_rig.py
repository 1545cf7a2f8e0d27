"""Interrupt a run of many small systems at random moments, let it go on each time, and compare it with a whole one.

A supervisor starts `athanor run` in a process of its own, sends it SIGKILL, SIGTERM, SIGINT or SIGUSR1 some time
later, looks at what is in the folder, and lets it go on with ``--resume``, until it comes to its end. Every bit
of every frame, the log, the table and the last structures are then those of a run that nothing disturbed, and what
the run counts adds up at each stop. By hand: ``python tests/reliability/resume_rig.py 20 --longest 9`` interrupts a run
of 2,000 systems 20 times; ``... 500 --systems 100 --longest 2.4 --most 25`` one run after the other. Needs `os.fork`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write

import athanor
import athanor.cli.run
import athanor.dynamics.checkpoint
import athanor.workflows.run
from athanor.cli.main import call
from athanor.dynamics.hooks import Checkpoint
from athanor.hooks.csv_file import CsvFile
from athanor.io.store.check import check_store
from athanor.io.store.folder import Folder
from athanor.sinks.base import DataSink
from athanor.workflows.folder import CHECKPOINTS, FINAL, LOG, RUN, SUMMARY_CSV, SUMMARY_JSON, TRAJECTORY
from athanor.workflows.outcomes import Outcomes
from athanor.workflows.track import Tracker

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1")
FORGETFUL = {
    "log": (CsvFile, "_cut"),
    "store": (DataSink, "load_state_dict"),
    "outcomes": (Outcomes, "load_state_dict"),
    "tracker": (Tracker, "load_state_dict"),
}
"""What a broken twin forgets when it goes on."""
JOB = """\
structures: [structures.extxyz]
model: {name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}
threads: 1
max_atoms: MOST
every: 20
checkpoint: SECONDS s
silence: [small-cell, non-periodic]
stages:
  - relax: {fmax: 0.01, steps: 120}
  - md: {steps: 60, temperature: 20, timestep: 4 fs}
"""


def systems(count: int) -> list[Atoms]:
    """Clusters and crystals of 2 to 8 atoms; one in a hundred can not be run."""
    rng = np.random.default_rng(11)
    corners = 3.8 * np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    found = []
    for number in range(count):
        atoms = int(rng.integers(2, 9))
        if number % 100 == 10:
            found.append(Atoms("Ar2", [[0, 0, 0], [0, 0, 0.0]]))
        elif atoms % 4:
            found.append(Atoms(f"Ar{atoms}", corners[:atoms] + rng.normal(0.0, 0.1, (atoms, 3))))
        else:
            crystal = bulk("Ar", "fcc", a=5.1 + 0.4 * rng.random(), cubic=True) * (1, 1, atoms // 4)
            crystal.positions += rng.normal(0.0, 0.1, (atoms, 3))
            found.append(crystal)
    return found


# -- processes of their own -------------------------------------------------------------------------------------------
def begin(work: Callable[[], int], log: Path) -> int:
    """Do some work in a copy of this process, which has imported everything and run nothing; return its number."""
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        for name in SIGNALS[1:]:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(log, "a") as screen:
            os.dup2(screen.fileno(), 1)
            os.dup2(screen.fileno(), 2)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_of(number: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def ask(question: Callable[[], Any], place: Path) -> Any:
    """Answer a question in a process of its own, so that this one stays as it is."""
    answer = place / "answer.json"
    answer.unlink(missing_ok=True)

    def work() -> int:
        answer.write_text(json.dumps(question()))
        return 0

    code = end_of(begin(work, place / "looks.txt"))
    assert code == 0, f"code {code}: {(place / 'looks.txt').read_text()[-2000:]}"
    return json.loads(answer.read_text())


# -- what is looked at ------------------------------------------------------------------------------------------------
def ledger(out: Path) -> dict[str, Any]:
    """Return what a folder says of itself, after a look at whether it adds up."""
    run = athanor.open(out)
    rows, frames = run.summary, run.num_frames
    status = Counter(row["status"] for row in rows)
    assert sum(status.values()) == len(run), "systems"
    if (out / TRAJECTORY / "format.json").exists():
        assert not check_store(Folder(out / TRAJECTORY)).problems, "damaged frames"
    found = {"state": run.state, "frames": frames, "status": dict(status), "acknowledged": 0, "left": 0}
    if run.has_ended:
        assert run.record["frames"] == frames, f"{run.record['frames']} frames on record, {frames} there"
        outcome = run.record["outcome"]
        assert sum(outcome.values()) == len(run), "outcome"
        assert outcome.get("failed", 0) == len(run.failed) == status["failed"], "failed"
        lines = (out / LOG).read_bytes().count(b"\n") - 1 if (out / LOG).exists() else 0
        assert lines == frames, f"{lines} rows of the log, {frames} frames"
        assert len(run.structures) == len(run)
    if Checkpoint.is_in(out / CHECKPOINTS):
        tree = Checkpoint.load(out / CHECKPOINTS).tree
        found["acknowledged"] = sum(sink["frames"] for sink in tree["sinks"])
        memory = next(state for name, state in tree["hooks"] if name == "Recorder")
        found["left"] = len(json.loads(bytes(memory["outcomes"]["table"].numpy())))
        assert found["acknowledged"] <= frames, f"{frames} frames of {found['acknowledged']} that were safe"
    return found


def difference(whole: Path, other: Path) -> str:
    """Return how the second run differs from the first, in any bit; empty if it does not."""
    first, second = athanor.open(whole), athanor.open(other)
    if second.state != "finished" or first.num_frames != second.num_frames:
        return f"{second.state}, {second.num_frames} frames of {first.num_frames}"
    for number in range(len(first)):
        one, two = first.frames(number), second.frames(number)
        for name, values in one:
            if values.numpy().tobytes() != two[name].numpy().tobytes():
                return f"`{name}` of system {number}"
    for name in (LOG, SUMMARY_CSV, SUMMARY_JSON, FINAL):
        if (whole / name).read_bytes() != (other / name).read_bytes():
            return name
    return "" if first.record["outcome"] == second.record["outcome"] else "outcome"


# -- the supervisor ---------------------------------------------------------------------------------------------------
class Rig:
    """A job in a folder of its own, run whole once.

    Parameters
    ----------
    place
        An empty folder.
    count
        Systems.
    longest
        Most seconds that a life lasts; 0: most of what the run takes, so that each gets further.
    forget
        What the broken twin forgets; empty: nothing.
    seed
        Of the moments and signals.
    """

    def __init__(self, place: Path, count: int, longest: float, forget: str = "", seed: int = 0) -> None:
        self.place, self.forget = place, forget
        self.rng = np.random.default_rng(seed)
        self.figures: Counter[str] = Counter()
        self.slowest_stop = self.slowest_checkpoint = 0.0
        write(place / "structures.extxyz", systems(count))
        text = JOB.replace("MOST", str(max(40, count // 2))).replace("SECONDS", "0.5" if count > 500 else "0.2")
        (place / "job.yaml").write_text(text)
        started = time.monotonic()
        code = end_of(begin(lambda: self._call("whole", resumes=False), place / "whole.txt"))
        self.seconds = time.monotonic() - started
        self.longest = longest or 0.7 * self.seconds
        assert code == 69, f"code {code} {(place / 'whole.txt').read_text()}"
        self.whole = ask(lambda: ledger(place / "whole"), place)

    def _call(self, out: str, *, resumes: bool) -> int:
        if resumes and self.forget:
            owner, method = FORGETFUL[self.forget]
            setattr(owner, method, lambda *_: None)
        return call(["run", str(self.place / "job.yaml"), "-q", "-o", str(self.place / out), *["--resume"] * resumes])

    def live(self, out: str, kills: int) -> int:
        """Interrupt a run so many times, or until it is at its end; return how often it was."""
        told, done, known = self.place / f"{out}.txt", 0, {"acknowledged": 0, "left": 0}
        while True:
            number = begin(lambda: self._call(out, resumes=True), told)
            name = str(self.rng.choice(SIGNALS))
            if done < kills:
                time.sleep(float(self.rng.uniform(0.05, self.longest)))
                sent, clock = time.monotonic(), time.time()
                with suppress(ProcessLookupError):
                    os.kill(number, getattr(signal, name))
            code = end_of(number)
            if done < kills and code not in (0, 69):
                if name != "SIGKILL":
                    self.slowest_stop = max(self.slowest_stop, time.monotonic() - sent)
                    newest = (self.place / out / CHECKPOINTS).glob("0*")
                    written = max((each.stat().st_mtime for each in newest), default=0.0)
                    self.slowest_checkpoint = max(self.slowest_checkpoint, written - clock)
                allowed = {"SIGINT": (130, -signal.SIGINT), "SIGKILL": (-signal.SIGKILL,)}
                assert code in allowed.get(name, (75, -getattr(signal, name))), f"{name}: {code}\n{told.read_text()}"
                self.figures[name] += 1
                done += 1
                known = self._look(out, known)
                continue
            assert code in (0, 69), f"code {code}: {told.read_text()[-3000:]}"
            wrong = ask(lambda: difference(self.place / "whole", self.place / out), self.place)
            assert not wrong, f"after {done} interruptions: {wrong}"
            found = ask(lambda: ledger(self.place / out), self.place)
            assert found == self.whole, f"{found} is not {self.whole}"
            return done

    def _look(self, out: str, before: dict[str, Any]) -> dict[str, Any]:
        """Look at the folder of a run that was interrupted: nothing that was safe is gone."""
        if not (self.place / out / RUN).exists():
            return before
        found: dict[str, Any] = ask(lambda: ledger(self.place / out), self.place)
        for key in ("acknowledged", "left"):
            assert found[key] >= before[key], f"{key} was {before[key]}, and is {found[key]}"
        self.figures[f"found {found['state']}"] += 1
        return found


def main(arguments: list[str] | None = None) -> None:
    """Interrupt runs so many times in all, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kills", type=int)
    parser.add_argument("--systems", type=int, default=2000)
    parser.add_argument("--longest", type=float, default=0.0, help="most seconds of a life")
    parser.add_argument("--most", type=int, default=10**9, help="interruptions of one run; then it may end")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further run after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forget", choices=["", *FORGETFUL], default="")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), given.systems, given.longest, given.forget, given.seed)
        done = runs = 0
        while done < given.kills and time.monotonic() - started < given.seconds:
            runs += 1
            done += rig.live(f"out{runs}", min(given.most, given.kills - done))
            print(f"{done} interruptions, {runs} runs, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    figures = {
        "interruptions": done,
        **rig.figures,
        "runs": runs,
        "systems": given.systems,
        "frames": rig.whole["frames"],
        "failed": rig.whole["status"]["failed"],
        "seconds undisturbed": round(rig.seconds, 1),
        "slowest stop": round(rig.slowest_stop, 2),
        "slowest checkpoint": round(rig.slowest_checkpoint, 2),
        "lost": 0,
        "differences": 0,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
