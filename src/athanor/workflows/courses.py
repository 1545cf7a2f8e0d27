"""Settings that change during a stage, as people write them: ``300 K to 900 K in 5 ps for 2 ps``. Loads no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from athanor._values import shown
from athanor.errors import InputError
from athanor.workflows.quantities import TIME, Quantity, format_quantity, parse_quantity

_WORDS = re.compile(r"(?:^|\s+)(to|then|in|for)(?:\s+|$)")
_EXAMPLE = "`300 K to 900 K`, `300 K to 900 K in 5 ps for 2 ps` or `300 K for 1 ps then 600 K`"


@dataclass(frozen=True, slots=True)
class Course:
    """A value that changes while a stage goes on.

    Parameters
    ----------
    points
        (time, value) in the units of the engines, in order from time 0; between points the value changes in proportion.
        A time of None is the end of the stage. Two points of one time are a jump.
    """

    points: tuple[tuple[float | None, float], ...]

    @property
    def start(self) -> float:
        """Value at the start."""
        return self.points[0][1]

    def squeezed(self, share: float) -> Course:
        """Return the same values in `share` of the time."""
        return Course(tuple((time if time is None else time * share, value) for time, value in self.points))

    def within(self, length: float) -> list[tuple[float, float]]:
        """Return the points of a stage of `length` fs.

        Raises
        ------
        InputError
            If it is shorter than what was written.
        """
        last = self.points[-1][0]
        end = max((time for time, _ in self.points if time is not None), default=0.0)
        if end > length * (1.0 + 1e-9) or (last is None and end >= length):
            raise InputError(f"it goes on for {end:g} fs, and the stage only for {length:g} fs; give it more `time`.")
        return [(length if time is None else time, value) for time, value in self.points]


def start_of(value: float | Course) -> float:
    """Return the value of a setting at the start of its stage."""
    return value.start if isinstance(value, Course) else value


def values_of(value: float | Course) -> list[float]:
    """Return the values that a setting goes through, in order."""
    return [each for _, each in value.points] if isinstance(value, Course) else [value]


def parse_course(value: Any, quantity: Quantity) -> float | Course:
    """Return a number in the unit of the engines or, where the text says that it changes, its course.

    ``A to B`` changes evenly over the stage, ``A to B in TIME`` over a time; ``A for TIME`` stays, ``then`` jumps.

    Raises
    ------
    InputError
        If it can not be read.
    """
    if isinstance(value, Course):
        return value
    parts = _WORDS.split(value.strip()) if isinstance(value, str) else [value]
    if len(parts) == 1:
        return parse_quantity(value, quantity)
    if "" in parts:
        raise InputError(f"{shown(value)}: a value or a time is missing beside a word; write {_EXAMPLE}.")
    level, time = parse_quantity(parts[0], quantity), 0.0
    points: list[tuple[float | None, float]] = [(time, level)]
    goal: float | None = None  # that "to" named, and no time was given for yet
    for word, text in zip(parts[1::2], parts[2::2], strict=True):
        if word == "in" and goal is None:
            raise InputError(f"{shown(value)}: `in` belongs behind `to`; write {_EXAMPLE}.")
        if word != "in" and goal is not None:
            raise InputError(f"{shown(value)}: only the last change may have no time; write {_EXAMPLE}.")
        if word in ("to", "then"):
            level = parse_quantity(text, quantity)
            goal = level if word == "to" else None
            if word == "then":
                points.append((time, level))
            continue
        length = parse_quantity(text, TIME)
        if length <= 0.0:
            raise InputError(f"{shown(value)}: {shown(text)} must be a positive time.")
        time, goal = time + length, None
        points.append((time, level))
    if goal is not None:
        points.append((None, level))
    return Course(tuple(points))


def format_course(value: float | Course, quantity: Quantity) -> str:
    """Return a setting as text; `parse_course` reads it back."""
    if not isinstance(value, Course):
        return format_quantity(value, quantity)
    words, before = [format_quantity(value.start, quantity)], value.points[0]
    for point in value.points[1:]:
        level = format_quantity(point[1], quantity)
        if point[0] is None:
            words.append(f"to {level}")
        elif point[0] == before[0]:
            words.append(f"then {level}")
        else:
            length = format_quantity(point[0] - (before[0] or 0.0), TIME)
            words.append(f"for {length}" if point[1] == before[1] else f"to {level} in {length}")
        before = point
    return " ".join(words)
