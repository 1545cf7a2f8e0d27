"""One picture of a run: relaxations against their steps, dynamics against time.

matplotlib is loaded here and only here, through its figure objects: no window, no pyplot, no change of its settings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor._optional import OptionalDependency
from athanor.errors import InputError, StorageError
from athanor.workflows.columns import count_outcomes, in_words
from athanor.workflows.plot_lines import MIDDLE, Line, Part, abscissa, crowd_of, lines_of, parts_of
from athanor.workflows.readable import printable
from athanor.workflows.saved_run import SavedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow, which is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
_OF_OUTCOME = {"converged": "#0072B2", "done": "#0072B2", "step_limit": "#CC79A7", "failed": "#D55E00",
               "stopped": "#E69F00"}  # fmt: skip
_DRAWN_ABOVE = ("failed", "stopped", "step_limit")
"""Outcomes whose lines are drawn above the others."""
_OTHER_COLOUR, _MEDIAN_COLOUR, _TARGET_COLOUR = "#8C8C8C", "#002B45", "#606060"
_BAND_COLOUR, _BAND_ALPHA = "#0072B2", 0.18
_PANELS = {
    "energy": "energy above lowest\n(meV/atom)",
    "conserved": "drift of the conserved\nenergy (meV/atom)",
    "temperature": "temperature (K)",
    "fmax": "largest force (eV/Å)",
    "max_force_deviation": "largest deviation\nof a force (eV/Å)",
    "volume": "volume change (%)",
    "pressure": "pressure (GPa)",
}
"""Names of the panels, from top to bottom, and what stands at their axes."""
_PERCENT_OUTSIDE = 2
"""Percent of the points that may lie below, and above, a panel of many systems."""
_MOST_READ = 2000
"""Of more systems than this, some are read, evenly spaced."""
_MOST_DRAWN = 30
"""Of more systems than this, some have a line of their own."""
_SHARES = 4
"""The rarer outcomes have at most this part of the lines each."""
_PER_COLUMN = 4
"""Entries of the legend side by side below one column of panels."""


def plot(
    run: SavedRun | str | os.PathLike[str],
    systems: int | str | Sequence[int | str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    r"""Draw energy, temperature, largest force, volume and pressure of a run; a panel for each that has data.

    Relaxations are drawn against their steps and dynamics against time, side by side if a run has both. The energy of
    a system counts from the lowest that was logged of it, its volume from the first, and what a method conserves (in
    NVE the total energy) from the first of the stage. A cross marks the last good state of a system that failed. Up to
    eight systems have a colour each. More are coloured by how they ended, with their median and the band that holds 90
    percent of them, without those that failed; thirty of them have a line each, and the title counts all.

    Parameters
    ----------
    run
        What `athanor.open` returned, or a results folder.
    systems
        Systems to draw, by number or name; all by default.
    path
        Save the figure there; the ending tells the format.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it; ``figure.savefig(...)`` writes it.

    Raises
    ------
    InputError
        If a system does not exist, or the ending of `path` is not known.
    StorageError
        If there is nothing to draw, or `path` can not be written.
    OptionalDependencyError
        If matplotlib is not installed; the text names the command that installs it.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
    >>> _ = athanor.relax(bulk("Ar", "fcc", a=5.5), model=argon, every=1, out="argon")
    >>> figure = athanor.plot("argon", path="argon.png")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['energy above lowest\n(meV/atom)', 'largest force (eV/Å)', 'volume change (%)', 'pressure (GPa)']
    """
    saved = run if isinstance(run, SavedRun) else SavedRun(run)
    figures = OptionalDependency.MATPLOTLIB.load("figure", needed_by="athanor.plot")
    numbers, parts = _numbers(saved, systems), parts_of(saved)
    found = zip(parts, lines_of(saved, _spaced(numbers, _MOST_READ), parts), strict=True)
    drawn = [(part, lines) for part, lines in found if lines]
    if not drawn:
        raise StorageError(f"`{saved.folder}` has nothing to draw: no step of these systems was logged.")
    dashed = "aim or bound" if saved.settings.get("stop_above") else "aim"
    has_targets = any(part.targets for part, _ in drawn)
    look = _Look([line for _, lines in drawn for line in lines], dashed=dashed if has_targets else "")
    panels = [[name for name in _PANELS if any(name in line.panels for line in lines)] for _, lines in drawn]
    size = 2.0 + 5.5 * len(drawn), 1.5 + 1.7 * max(map(len, panels))
    figure = figures.Figure(figsize=size, layout="constrained")
    columns = figure.subfigures(1, len(drawn), squeeze=False)[0]
    for (part, lines), names, column in zip(drawn, panels, columns, strict=True):
        _draw_part(column, names, part, lines, look)
    outcomes = Counter(saved.summary[number]["status"] for number in numbers)
    note = "" if saved.state == "finished" else f" ({saved.state})"
    title = plain(f"{saved.settings.get('title') or saved.folder.name}{note}")
    figure.suptitle(f"{title}\n{count_outcomes(outcomes)}", fontsize="large")
    entries = look.legend(outcomes)
    rows = -(-len(entries) // (_PER_COLUMN * len(drawn)))
    figure.legend(handles=entries, loc="outside lower center", ncols=-(-len(entries) // rows), frameon=False)
    if path is not None:
        save(figure, Path(path))
    return figure


class _Look:
    """Who has a line of his own, in which colour, and what the legend says: the same in every panel.

    Parameters
    ----------
    lines
        All lines of all parts; of the lines of one system the last one counts.
    dashed
        What dashed lines are; empty if there are none.
    """

    def __init__(self, lines: Sequence[Line], *, dashed: str) -> None:
        self._dashed = dashed
        self._systems = {line.place: line for line in lines}
        self.few = len(self._systems) <= len(COLOURS)
        self._order = {place: number for number, place in enumerate(sorted(self._systems))}
        self._shown = set(self._choose())

    def _choose(self) -> list[int]:
        """Places of the systems with a line; of a crowd some of every outcome, the rare ones first."""
        if len(self._systems) <= _MOST_DRAWN:
            return list(self._systems)
        of_outcome: dict[str, list[int]] = {}
        for place, line in self._systems.items():
            of_outcome.setdefault(line.status, []).append(place)
        *rare, common = sorted(of_outcome.values(), key=len)
        chosen = [place for places in rare for place in _spaced(places, _MOST_DRAWN // _SHARES)]
        return chosen + _spaced(common, _MOST_DRAWN - len(chosen))

    def shows(self, line: Line) -> bool:
        """Whether a system has a line of its own."""
        return line.place in self._shown

    def colour(self, line: Line) -> str:
        """Colour of a system: its own among a few, that of its outcome among many."""
        if self.few:
            return COLOURS[self._order[line.place]]
        return _OF_OUTCOME.get(line.status, _OTHER_COLOUR)

    def legend(self, outcomes: Mapping[str, int]) -> list[Any]:
        """Return the entries of the legend; `outcomes` counts all systems, drawn or not."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        def entry(line: Line, label: str) -> Any:
            return Line2D([], [], color=self.colour(line), marker="x" if line.status == "failed" else "", label=label)

        aim = []
        if self._dashed:
            aim = [Line2D([], [], color=_TARGET_COLOUR, linewidth=1, linestyle="--", label=self._dashed)]
        if self.few:
            return [entry(self._systems[place], _named(self._systems[place])) for place in self._order] + aim
        shown = {line.status: line for place, line in self._systems.items() if place in self._shown}
        counts = Counter(self._systems[place].status for place in self._shown)
        entries = []
        for status, line in shown.items():
            some = f"{counts[status]} of {outcomes[status]}" if counts[status] < outcomes[status] else counts[status]
            entries.append(entry(line, f"{some} {in_words(status)}"))
        whole = sum(line.status != "failed" for line in self._systems.values())
        of_all = f"the middle {MIDDLE[-1] - MIDDLE[0]:.0f} % of {'the other ' if 'failed' in shown else ''}{whole}"
        return [
            *entries,
            Line2D([], [], color=_MEDIAN_COLOUR, linewidth=1.8, label="median"),
            Patch(color=_BAND_COLOUR, alpha=_BAND_ALPHA, linewidth=0, label=of_all),
            *aim,
        ]


def _named(line: Line) -> str:
    """Name of a system for the legend, with what went wrong."""
    label = plain(line.label)
    if line.status == "failed":
        return f"{label} ({'failed' if len(line.x) > 1 else 'failed at the start'})"
    return f"{label} ({in_words(line.status)})" if line.status == "step_limit" else label


def plain(text: str) -> str:
    """Return text that matplotlib draws as it is, dollars too."""
    return printable(text).replace("$", r"\$")


def _numbers(saved: SavedRun, systems: int | str | Sequence[int | str] | None) -> list[int]:
    """Numbers of the systems that were asked for."""
    if systems is None:
        return list(range(len(saved)))
    chosen: Any = [systems] if np.ndim(systems) == 0 else systems
    return [saved.number_of(system) for system in chosen]


def _spaced(numbers: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of `numbers`, evenly spaced."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[place * len(numbers) // most] for place in range(most)]


def _draw_part(column: Any, names: Sequence[str], part: Part, lines: list[Line], look: _Look) -> None:
    """Draw the panels of one part, from top to bottom."""
    label, unit = abscissa(part, lines)
    panels = column.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for name, axes in zip(names, panels, strict=True):
        _draw(axes, name, part, lines, unit, look)
    panels[0].set_title(part.title, fontsize="medium", color=_TARGET_COLOUR)
    panels[-1].set_xlabel(label)


def _draw(axes: Any, name: str, part: Part, lines: list[Line], unit: float, look: _Look) -> None:
    have = [line for line in lines if name in line.panels]
    own = [line for line in have if look.shows(line)]
    for line in own:
        above = line.status in _DRAWN_ABOVE
        style = {"linewidth": 1.4} if look.few else {"linewidth": 0.8, "alpha": 0.9 if above else 0.4}
        axes.plot(line.x / unit, line.panels[name], color=look.colour(line), zorder=2.5 if above else 2, **style)
    crowd = None if look.few else crowd_of(have, name, part)
    if crowd is not None:
        axes.fill_between(crowd.x / unit, crowd.lower, crowd.upper, color=_BAND_COLOUR, alpha=_BAND_ALPHA, linewidth=0)
        axes.plot(crowd.x / unit, crowd.median, color=_MEDIAN_COLOUR, linewidth=1.8, zorder=3)
    targets = part.targets.get(name, [])
    for target in targets:
        axes.axhline(target, color=_TARGET_COLOUR, linewidth=1, linestyle="--", zorder=1)
    axes.set_ylabel(_PANELS[name])
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    if name == "fmax":
        axes.set_yscale("log")
    calm = [line.panels[name] for line in have if not line.failed_here]
    bottom, top = _limits(calm or [have[0].panels[name]], targets, look.few)
    axes.set_ylim(*((bottom / 1.5, top * 1.5) if name == "fmax" else _padded(bottom, top)))
    size = {"markersize": 8, "markeredgewidth": 2} if look.few else {"markersize": 6, "markeredgewidth": 1.3}
    for line in own:
        if line.failed_here:
            values = line.panels[name]
            last = np.flatnonzero(np.isfinite(values))[-1]
            end = np.clip(values[last], *axes.get_ylim())
            axes.plot(line.x[last] / unit, end, "x", color=look.colour(line), zorder=4, clip_on=False, **size)


def _limits(columns: list[np.ndarray], targets: list[float], few: bool) -> tuple[float, float]:
    """What to show: all of a few systems, most of many. A system that failed does not count: it may have exploded."""
    values = np.concatenate(columns)
    bottom, top = np.percentile(
        values[np.isfinite(values)], (0, 100) if few else (_PERCENT_OUTSIDE, 100 - _PERCENT_OUTSIDE)
    )
    return min(bottom, *targets, bottom), max(top, *targets, top)


def _padded(bottom: float, top: float) -> tuple[float, float]:
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    return bottom - margin, top + margin


def save(figure: Any, path: Path) -> None:
    """Write a figure; the ending of `path` tells the format."""
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(f"`{path}` has no ending of a picture. Use one of {', '.join(sorted(known))}.")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"`{path}` can not be written: {error.strerror or error}. Choose another file.") from error
