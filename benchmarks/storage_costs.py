"""Costs of trajectories: what one frame, a long store and safety take, and what a step pays for its frames.

Each program is a process of its own. ``without`` is the same without what the row is about: frames that are there
already, syncs, frames.
"""

from __future__ import annotations

import tempfile
from operator import itemgetter
from pathlib import Path
from statistics import median

from harness import Row, interleave, main
from storage import Case, sizes_of


def of_a_store(case: Case, rounds: int) -> list[Row]:
    """Rows of one frame, of growth, of files, and of what safety costs."""

    def one() -> float:
        return 1e3 * median(case.run("one_athanor", "b.zarr")["times"])

    def written(file: str, durability: str) -> float:
        return float(case.run("write_athanor", file, durability, fresh=True)["wall"])

    wrote = case.run("write_athanor", "b.zarr", fresh=True)
    part = max(1, case.frames // 50)
    last, first = (1e3 * median(wrote["times"][which]) for which in (slice(-part, None), slice(part, 2 * part)))
    return [
        interleave("one frame at random", "ms", {"athanor": one}, rounds),
        interleave(f"append to {case.frames:,} frames", "ms", {"athanor": lambda: last, "without": lambda: first}, 1),
        interleave("files per 1,000 frames", "", {"athanor": lambda: 1000.0 * wrote["files"] / case.frames}, 1),
        interleave(
            "write, synced every 10 frames, wall time",
            "s",
            {"athanor": lambda: written("d.zarr", "every:10"), "without": lambda: written("e.zarr", "none")},
            rounds,
        ),
    ]


def of_a_step(folder: Path, turns: int, systems: int, rounds: int) -> list[Row]:
    """Rows of what frames cost the step of a run, and of what they would if they were stored in it."""
    case = Case(folder, turns, 32)

    def steps() -> list[float]:
        times: list[float] = case.run("steps_athanor", "steps", str(systems), fresh=True)["times"]
        return times

    figures = [steps() for _ in range(rounds)]
    title = f"step of {systems} systems of 32 atoms, a frame every 10 steps"
    return [
        interleave(text, "ms", {"athanor": iter(map(itemgetter(place), figures)).__next__,
                                "without": iter(map(itemgetter(1), figures)).__next__}, rounds)
        for place, text in ((0, title), (3, f"{title}, not synced"), (2, f"{title}, stored within it"))
    ]  # fmt: skip


def measure(smoke: bool = False) -> list[Row]:
    """Return rows of seconds, milliseconds and counts."""
    ((_, frames, atoms), _), rounds = sizes_of(smoke)
    turns, systems = (1, 2) if smoke else (40, 64)
    with tempfile.TemporaryDirectory() as folder:
        rows = of_a_store(Case(Path(folder) / "store", frames, atoms), rounds)
        return [*rows, *of_a_step(Path(folder) / "steps", turns, systems, rounds)]


if __name__ == "__main__":
    main(measure)
