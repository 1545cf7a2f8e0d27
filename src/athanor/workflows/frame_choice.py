"""Which frames of each system are wanted: some times of it, some places among these, one in so many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from athanor._values import check_whole, is_real, shown
from athanor.errors import InputError
from athanor.workflows.quantities import TIME, parse_quantity


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """Which frames of each system are wanted.

    Parameters
    ----------
    places
        Of those within the times, by their place.
    every
        One in so many of these.
    start, end
        Earliest and latest time of the system, fs; None is any.
    """

    places: slice = field(default_factory=lambda: slice(None))
    every: int = 1
    start: float | None = None
    end: float | None = None

    @classmethod
    def parse(cls, frames: Any, every: Any, start: Any, end: Any) -> FrameChoice:
        """Read what a user gives: ``"10:20"``, ``"-1"``, ``"::5"``, a whole number or a slice; times with units.

        Raises
        ------
        InputError
            If one of them makes no sense.
        """
        first, last = (None if time is None else parse_quantity(time, TIME) for time in (start, end))
        if first is not None and last is not None and first > last:
            raise InputError(f"`start` is {first:g} fs and `end` {last:g} fs; nothing lies between them.")
        return cls(_places(frames), check_whole(every, "every", 1), first, last)

    def of(self, rows: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the chosen ones of rows whose times, fs, are given."""
        within = np.ones(len(rows), dtype=bool)
        if self.start is not None:
            within &= time >= self.start - margin_of(self.start)
        if self.end is not None:
            within &= time <= self.end + margin_of(self.end)
        chosen: np.ndarray = rows[within][self.places][:: self.every]
        return chosen


def margin_of(value: float) -> float:
    """Return by how much a time or a step may be missed: the last bits of a sum."""
    return 1e-9 * max(1.0, abs(value))


def _places(frames: Any) -> slice:
    found = frames
    if isinstance(frames, str):
        try:
            parts = [int(part) if part.strip() else None for part in frames.split(":")]
        except ValueError:
            parts = []
        found = parts[0] if len(parts) == 1 else slice(*parts) if 2 <= len(parts) <= 3 else None
    if is_real(found) and found % 1 == 0:
        found = slice(int(found), int(found) + 1 or None)
    if not isinstance(found, slice) or (found.step is not None and found.step < 1):
        raise InputError(
            f"`frames` is {shown(frames)}; write FIRST:LAST, counted from 0 and without the last, such as `10:20`, "
            f"`-5:` for the last five, or the number of one frame."
        )
    return found
