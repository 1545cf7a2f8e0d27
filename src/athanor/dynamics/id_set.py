"""A set of whole numbers that takes no more memory than it has gaps: ids of systems that came one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class IdSet:
    """A set of whole numbers, kept as the ranges that they fill.

    Parameters
    ----------
    ranges
        First and last number of each range.

    Examples
    --------
    >>> ids = IdSet()
    >>> for number in (1, 2, 4, 3):
    ...     ids.add(number)
    >>> ids.ranges, 3 in ids, ids.largest
    ([(1, 4)], True, 4)
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.ranges = sorted((int(first), int(last)) for first, last in ranges)

    @property
    def largest(self) -> int:
        """The largest number; -1 if there is none."""
        return self.ranges[-1][1] if self.ranges else -1

    def __contains__(self, number: int) -> bool:
        place = self._place_of(number)
        return place >= 0 and number <= self.ranges[place][1]

    def add(self, number: int) -> None:
        """Put a number in; one that is there already is no error."""
        if number in self:
            return
        first = last = number
        place = self._place_of(number) + 1
        if place < len(self.ranges) and self.ranges[place][0] == number + 1:
            last = self.ranges.pop(place)[1]
        if place and self.ranges[place - 1][1] == number - 1:
            place -= 1
            first = self.ranges.pop(place)[0]
        self.ranges.insert(place, (first, last))

    def discard(self, number: int) -> None:
        """Take a number out; one that is not there is no error."""
        if number not in self:
            return
        place = self._place_of(number)
        first, last = self.ranges.pop(place)
        parts = [(first, number - 1), (number + 1, last)]
        self.ranges[place:place] = [part for part in parts if part[0] <= part[1]]

    def _place_of(self, number: int) -> int:
        """Return the place of the last range that begins at or before a number; -1 if there is none."""
        return bisect_right(self.ranges, number, key=lambda one: one[0]) - 1
