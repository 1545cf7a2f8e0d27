"""Kill runs at random moments, let them go on, and compare what they end with to runs that nobody disturbed.

A program that has loaded everything forks; each child goes on from the newest checkpoint of its case, if there is
one, and is killed (SIGKILL) some checkpoints later, at any moment of a step or of a write. By hand, with the number of
kills:
``python -m tests.reliability.kill_rig 500``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.unit.dynamics import checkpoint_cases
from tests.unit.dynamics.checkpoint_cases import Case, differences, outcome

from athanor.dynamics.hooks import Checkpoint
from athanor.io.checkpoint import CheckpointFolder

NAMES = (
    "in flight, stages", "in flight, FIRE", "in flight, stages of a stream", "Nose-Hoover", "NPT-C-rescale",
    "relax and heat",
)  # fmt: skip
checkpoint_cases.CLUSTERS = 40
checkpoint_cases.STEPS = 120


def life(name: str, place: Path) -> None:
    """Run a case to its end, from the newest checkpoint if there is one."""
    case = Case(name, place)
    case.checkpoint.every, case.checkpoint.folder.keep = 3, 2
    batch = case.engine.resume(place / "C") if Checkpoint.is_in(place / "C") else case.start()
    case.run(batch)


def in_child(work: Callable[[], None]) -> int:
    """Do something in a forked child; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def written(place: Path) -> int:
    return max(CheckpointFolder(place / "C").numbers(), default=0)


def kill_some(name: str, place: Path, chance: random.Random, most: int) -> int:
    """Run a case, killed at most so many times, to its end; how often it was killed."""
    kills = 0
    while True:
        start, pid = written(place), in_child(lambda: life(name, place))
        wanted, delay = start + chance.choice([1, 1, 2, 5, 10]), 0.03 * chance.random()
        while kills < most:
            time.sleep(0.001)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                assert status == 0, f"{name}: a run that went on failed, {status}"
                return kills
            if written(place) >= wanted:
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)
                break
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return kills
        assert os.WIFSIGNALED(status), f"{name}: a run that went on failed, {status}"
        kills += 1


def compare(one: Path, other: Path) -> None:
    found = list(differences(outcome(one), outcome(other), ""))
    found = [each for each in found if not each.startswith("/state/about")]
    if found:
        raise AssertionError(f"{other.name}: {found[:5]}")


def main(kills: int, seed: int = 0) -> None:
    """Kill so often, over the cases in turn, and print what came of it."""
    chance, told, done, runs = random.Random(seed), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while done < kills:
            name = NAMES[runs % len(NAMES)]
            whole, broken = Path(folder) / f"whole {name}", Path(folder) / f"broken {name}"
            if not whole.exists():
                assert os.waitpid(in_child(lambda: life(name, whole)), 0)[1] == 0  # noqa: B023
            count = kill_some(name, broken, chance, min(20, kills - done))
            status = os.waitpid(in_child(lambda: compare(whole, broken)), 0)[1]  # noqa: B023
            assert status == 0, f"{name}, seed {seed}: other bits"
            told[name] += count
            done, runs = done + count, runs + 1
            shutil.rmtree(broken)
    print(f"{done} kills in {runs} runs, each equal in every bit to one that nobody disturbed")
    print(", ".join(f"{name}: {count}" for name, count in told.items()))


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]) if len(sys.argv) > 1 else (20,))
