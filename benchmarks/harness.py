"""What the benchmarks share: interleaved rounds, two clocks, one shape of result, and a description of the machine.

A benchmark is a function ``measure(smoke) -> list[Row]``. A row is one line of its table: what was measured, and the
figure of every contestant in every round. `smoke` makes it tiny: the script runs, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("athanor-md", "torch", "numba", "numpy", "ase", "vesin", "chgnet")


class Row(TypedDict):
    """One line of a table: figures of each contestant, ours first, one for each round; smaller is better."""

    case: str
    threads: int
    unit: str
    figures: dict[str, list[float]]


def wall(call: Callable[[], Any], repeat: int = 1) -> float:
    """Seconds of wall time of one of `repeat` calls."""
    return _seconds(time.perf_counter, call, repeat)


def cpu(call: Callable[[], Any], repeat: int = 1) -> float:
    """Seconds of CPU time of one of `repeat` calls, all threads together: for one-thread figures."""
    return _seconds(time.process_time, call, repeat)


def _seconds(clock: Callable[[], float], call: Callable[[], Any], repeat: int) -> float:
    gc.collect()
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


def interleave(
    case: str, unit: str, contestants: dict[str, Callable[[], float]], rounds: int | dict[str, int], *, threads: int = 1
) -> Row:
    """Ask every contestant for one figure a round, in turn, so that a busy moment of the machine meets all of them.

    Parameters
    ----------
    contestants
        Calls that return a figure in `unit`; ours comes first.
    rounds
        How many, for all or for each; who takes long may have fewer, or none.
    """
    wanted = {name: rounds if isinstance(rounds, int) else rounds[name] for name in contestants}
    figures: dict[str, list[float]] = {name: [] for name in contestants if wanted[name]}
    for number in range(max(wanted.values())):
        for name, measure in contestants.items():
            if number < wanted[name]:
                figures[name].append(float(f"{measure():.4g}"))
    row = Row(case=case, threads=threads, unit=unit, figures=figures)
    print("  " + describe(row), flush=True)
    return row


def ratios(row: Row, peer: str) -> tuple[float, float, float]:
    """Smallest, median and largest ratio of `peer` to ours, round by round."""
    ours = next(iter(row["figures"].values()))
    each = [theirs / mine for theirs, mine in zip(row["figures"][peer], ours, strict=False)]
    return min(each), median(each), max(each)


def describe(row: Row) -> str:
    """Return `row` as one line of text."""
    parts = []
    for number, (name, figures) in enumerate(row["figures"].items()):
        text = f"{name} {min(figures):.4g} {row['unit']}"
        if number:
            text += " ({1:.2f}x, {0:.2f} to {2:.2f})".format(*ratios(row, name))
        parts.append(text)
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    return f"{row['case']}, {threads}: " + ", ".join(parts)


def run_json(command: list[str], limit: float | None = None) -> dict[str, Any]:
    """Run a program and return the JSON of its last line.

    Raises
    ------
    RuntimeError
        With the last line of its error output, if the program fails.
    subprocess.TimeoutExpired
        If it takes more than `limit` seconds.
    """
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "benchmarks", timeout=limit)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise RuntimeError(lines[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment() -> dict[str, Any]:
    """Return date, commit, machine and versions, without anything that names the machine."""
    status = _git("status", "--porcelain", "--", "src", "benchmarks/*.py")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": _git("rev-parse", "--short", "HEAD") + (" with changes" if status else ""),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES if version(name)},
    }


def version(package: str) -> str:
    """Return the version of an installed package, or an empty text."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main(measure: Callable[[bool], list[Row]]) -> None:
    """Run one benchmark by itself: its rows are printed as they come."""
    module = sys.modules[measure.__module__]
    parser = argparse.ArgumentParser(description=(module.__doc__ or "").split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does the script run?")
    measure(parser.parse_args().smoke)
