"""Start of a process: CPU seconds of ``athanor --help`` and of ``import athanor``, beside ``import torch``.

The help of the command line must not need torch; the package with its data, models, dynamics and hooks does.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import partial

from harness import Row, interleave, main

HELP = [sys.executable, "-c", "from athanor.cli.main import main; main()", "--help"]
IMPORT = [sys.executable, "-c", "import athanor, athanor.data, athanor.models, athanor.dynamics, athanor.hooks"]
TORCH = [sys.executable, "-c", "import torch"]


def cpu_of(command: list[str]) -> float:
    """Return the CPU seconds of a command, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for the help and one for the import, in seconds."""
    cases, rounds = [("`athanor --help`", HELP), ("`import athanor` and its packages", IMPORT)], 3
    if smoke:
        cases, rounds = cases[:1], 1
    return [
        interleave(case, "s", {"athanor": partial(cpu_of, ours), "import torch": partial(cpu_of, TORCH)}, rounds)
        for case, ours in cases
    ]


if __name__ == "__main__":
    main(measure)
