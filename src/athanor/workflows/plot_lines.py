"""What `athanor.plot` draws: the lines of each system in each part of a run, and what a crowd of them has in common.

A part is a stretch of stages of one kind: a relaxation, against its steps, or dynamics, against time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor.units import GPa, ps
from athanor.workflows import methods
from athanor.workflows.bounds import parse_bounds
from athanor.workflows.columns import note_apart, tell_apart
from athanor.workflows.courses import parse_course, values_of
from athanor.workflows.methods import KINDS, MD
from athanor.workflows.quantities import Quantity

if TYPE_CHECKING:
    from athanor.workflows.saved_log import Series
    from athanor.workflows.saved_run import SavedRun

_ZERO_FORCE = 1e-5
"""eV/Å. Forces below it, as symmetry leaves them, are drawn there."""
_SMALL_CHANGE = 1e-7
"""Percent. A volume that changes by less is constant."""
_LONG = 2.0 * ps
"""fs. Beyond it a time axis is in ps."""
_GRID = 300
"""Points at which a crowd is described."""
MIDDLE = (5.0, 50.0, 95.0)
"""Percentiles: the lower edge of the band, the median, the upper edge."""


@dataclass(slots=True)
class Line:
    """What is drawn of one system in one part of a run.

    Parameters
    ----------
    place
        Of the system among those that are read.
    label
        What the legend calls it.
    status
        How the system ended.
    x
        Steps since the part began, or time in fs.
    panels
        Name of each panel -> values.
    is_last
        Whether the system ended in this part.
    """

    place: int
    label: str
    status: str
    x: np.ndarray
    panels: dict[str, np.ndarray]
    is_last: bool

    @property
    def failed_here(self) -> bool:
        """Whether a cross marks its end."""
        return self.status == "failed" and self.is_last


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of stages of one kind.

    Parameters
    ----------
    stages
        Their numbers.
    is_md
        Whether they are dynamics.
    title
        What they are, in a few words.
    targets
        Name of each panel -> values that the stages aim at, or at which systems are stopped.
    """

    stages: tuple[int, ...]
    is_md: bool
    title: str
    targets: dict[str, list[float]]


def parts_of(saved: SavedRun) -> list[Part]:
    """Return the parts of a run, in order."""
    stretches: list[list[int]] = []
    for number, (kind, _) in enumerate(saved.stages):
        if number and saved.stages[number - 1][0] == kind:
            stretches[-1].append(number)
        else:
            stretches.append([number])
    return [_part(saved, stages) for stages in stretches]


def _part(saved: SavedRun, stages: Sequence[int]) -> Part:
    kind, words = saved.stages[stages[0]][0], []
    targets: dict[str, list[float]] = {}
    for number in stages:
        settings = saved.stages[number][1]
        method = methods.find(kind, settings)
        words.append(KINDS[kind].noun if method is None else method.in_words(settings))
        for key, setting in method.all_settings().items() if method is not None else ():
            quantity = setting.quantity
            if setting.plotted and isinstance(quantity, Quantity) and key in settings:
                values = values_of(parse_course(settings[key], quantity))
                ends = dict.fromkeys((values[0], values[-1]))
                targets.setdefault(setting.plotted, []).extend(end / quantity.units[quantity.default] for end in ends)
    for key, bound in parse_bounds(saved.settings.get("stop_above") or {}).items():
        targets[key] = [bound]
    return Part(tuple(stages), kind == MD.name, ", then ".join(dict.fromkeys(words)), targets)


def lines_of(saved: SavedRun, numbers: Sequence[int], parts: Sequence[Part]) -> list[list[Line]]:
    """Return the lines of the systems `numbers` in each part; none of a system that did not get there."""
    labels = labels_of([saved.summary[number] for number in numbers])
    found: list[list[Line]] = [[] for _ in parts]
    for place, (number, label, series) in enumerate(zip(numbers, labels, saved.series(list(numbers)), strict=True)):
        row = saved.summary[number]
        values = _panels(series, row["atoms"])
        for lines, part in zip(found, parts, strict=True):
            here = np.isin(series.stage, part.stages)
            if not here.any():
                continue
            panels = {name: column[here] for name, column in values.items() if np.isfinite(column[here]).any()}
            for name in ("fmax",) if part.is_md else ("conserved",):  # of a body in motion; of what is not
                panels.pop(name, None)
            if np.ptp(panels.get("volume", np.zeros(1))) < _SMALL_CHANGE:
                panels.pop("volume", None)
            is_last = bool(here[-1])
            lines.append(Line(place, label, row["status"], _along(series, here, part.is_md), panels, is_last))
    return found


def labels_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of systems, with number, formula and time where names are shared; files have no room there."""
    apart, of_name = [name for name in tell_apart(rows) if name != "file"], Counter(row["system"] for row in rows)
    return [
        f"{row['system']} ({note_apart(row, apart)})" if of_name[row["system"]] > 1 else row["system"] for row in rows
    ]


def _along(series: Series, here: np.ndarray, is_md: bool) -> np.ndarray:
    if is_md:
        return series.time[here]
    first = int(np.argmax(here))
    before = series.step[first - 1] if first else series.step[0] - 1  # the first row is that of the first step
    return np.asarray(series.step[here] - before, dtype=float)


def _panels(series: Series, atoms: int) -> dict[str, np.ndarray]:
    """Every quantity of one system, in the units of the axes."""
    energy = np.where(np.isfinite(series.energy), series.energy, np.nan)
    panels = {"fmax": np.maximum(series.fmax, _ZERO_FORCE), "temperature": series.temperature}
    panels["max_force_deviation"] = series.max_force_deviation
    panels["pressure"] = series.pressure / GPa
    panels["conserved"] = 1e3 * _since_entry(series.conserved, series.stage) / atoms
    if np.isfinite(energy).any():
        panels["energy"] = 1e3 * (energy - np.nanmin(energy)) / atoms
    panels["volume"] = 100.0 * (series.volume / series.volume[:1] - 1.0)
    return panels


def _since_entry(values: np.ndarray, stage: np.ndarray) -> np.ndarray:
    """Values less the first one of their stage: every stage conserves a quantity of its own."""
    values = np.where(np.isfinite(values), values, np.nan)
    for number in np.unique(stage):
        known = np.flatnonzero((stage == number) & ~np.isnan(values))
        values[stage == number] -= values[known[0]] if known.size else np.nan
    return values


def abscissa(part: Part, lines: Sequence[Line]) -> tuple[str, float]:
    """Return the title of the horizontal axis, and what its values are divided by."""
    if not part.is_md:
        return "step of the relaxation", 1.0
    return ("time (ps)", ps) if max(line.x[-1] for line in lines) > _LONG else ("time (fs)", 1.0)


@dataclass(frozen=True, slots=True)
class Crowd:
    """What many systems have in common.

    Parameters
    ----------
    x, lower, median, upper
        Points, and percentiles over the systems there.
    """

    x: np.ndarray
    lower: np.ndarray
    median: np.ndarray
    upper: np.ndarray


def crowd_of(lines: Sequence[Line], name: str, part: Part) -> Crowd | None:
    """Describe a panel of many systems, the same ones at every point, so that nothing jumps where one leaves.

    A relaxed system stands still and counts on with its last values. Dynamics is described as far as all get, without
    those that ended in the first half. Systems that failed do not count.
    """
    known = [
        (line.x[finite], line.panels[name][finite])
        for line in lines
        if name in line.panels and not line.failed_here
        for finite in [np.isfinite(line.panels[name])]
    ]
    longest = max((x[-1] for x, _ in known), default=0.0)
    if part.is_md:
        known = [(x, values) for x, values in known if x[-1] >= 0.5 * longest]
    if not known:
        return None
    first = max(x[0] for x, _ in known)
    last = min(x[-1] for x, _ in known) if part.is_md else longest
    if last <= first:
        return None
    grid = np.linspace(first, last, _GRID)
    lower, median, upper = np.percentile([np.interp(grid, x, values) for x, values in known], MIDDLE, axis=0)
    return Crowd(grid, lower, median, upper)
