"""LinePlot: a curve in a terminal, drawn in dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a Braille character: of its two columns, from the top."""
_BLANK = 0x2800
_LABEL = 10


class LinePlot:
    """A renderable of rich, as wide as there is room.

    Parameters
    ----------
    points
        (x, y) of each point, in order; those that are not finite are left out.
    height
        Lines of the plot, without the one below it.
    precision
        Digits of the labels.
    """

    def __init__(self, points: Sequence[tuple[float, float]], height: int, precision: int) -> None:
        self.points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        self.height, self.precision = height, precision

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Any:
        """Draw the plot into the width of `options`."""
        width = max(8, options.max_width - _LABEL - 2)
        if not self.points:
            yield "(nothing yet)"
            return
        xs, ys = zip(*self.points, strict=True)
        rows = draw(xs, ys, width, self.height, ascii_only=options.ascii_only)
        labels = {0: max(ys), self.height - 1: min(ys)}
        edge = "|" if options.ascii_only else "│"
        for place, row in enumerate(rows):
            label = f"{labels[place]:.{min(self.precision, 5)}g}" if place in labels else ""
            yield f"{label:>{_LABEL}} {edge}{row}"
        first, last = f"{xs[0]:g}", f"{xs[-1]:g}"
        yield f"{'':{_LABEL}}  {first}{last:>{max(0, width - len(first))}}"


def draw(xs: Sequence[float], ys: Sequence[float], width: int, height: int, *, ascii_only: bool = False) -> list[str]:
    """Return `height` lines of `width` characters that show a curve.

    Parameters
    ----------
    xs, ys
        The points, finite.
    width, height
        Characters; each shows two times four points, or one with `ascii_only`.
    ascii_only
        Whether to draw with stars.
    """
    across, down = (1, 1) if ascii_only else (2, 4)
    columns = _places(xs, width * across)
    rows = [height * down - 1 - row for row in _places(ys, height * down)]
    dots = set(zip(columns, rows, strict=True))
    for (x, y), (next_x, next_y) in zip(
        zip(columns, rows, strict=True), zip(columns[1:], rows[1:], strict=True), strict=False
    ):
        steps = max(abs(next_x - x), abs(next_y - y), 1)
        dots |= {(x + (next_x - x) * k // steps, y + (next_y - y) * k // steps) for k in range(steps)}
    cells = [[0] * width for _ in range(height)]
    for x, y in dots:
        cells[y // down][x // across] |= 1 if ascii_only else _DOTS[x % 2][y % 4]
    return ["".join((" *"[cell] if ascii_only else chr(_BLANK + cell)) for cell in line) for line in cells]


def _places(values: Sequence[float], count: int) -> list[int]:
    """Return the place of each value among `count`, the smallest at 0; in the middle if all are equal."""
    low, high = min(values), max(values)
    if not high > low:
        return [count // 2] * len(values)
    return [min(count - 1, int((value - low) / (high - low) * count)) for value in values]
