"""One picture of a run: energy, temperature, volume and largest force against step.

matplotlib is loaded here and only here, through its figure objects: no window, no pyplot, no change of its settings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor._optional import OptionalDependency
from athanor.errors import InputError, StorageError
from athanor.workflows import methods
from athanor.workflows.methods import MD, RELAX
from athanor.workflows.quantities import Quantity, parse_quantity
from athanor.workflows.saved_run import SavedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from athanor.workflows.saved_log import Series

# Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow, which is faint on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
_PANELS = {
    "energy": "energy above lowest\n(meV/atom)",
    "conserved": "drift of the conserved\nenergy (meV/atom)",
    "temperature": "temperature (K)",
    "volume": "volume change (%)",
    "fmax": "largest force (eV/Å)",
}
"""Names of the panels, from top to bottom, and what stands at their axes."""
_FAILED_COLOUR, _MANY_COLOUR, _TARGET_COLOUR = "#D55E00", "#B0B0B0", "#606060"
_ZERO_FORCE = 1e-5
"""eV/Å. Forces below it, as symmetry leaves them, are drawn there."""
_PERCENT_OUTSIDE = 2
"""Percent of the points that may lie below, and above, a panel of many systems."""
_MOST_DRAWN = 100
"""Of more systems than this, some are drawn, evenly spaced."""


@dataclass(slots=True)
class _Line:
    """What is drawn of one system."""

    name: str
    failed: bool
    step: np.ndarray
    is_md: np.ndarray
    panels: dict[str, np.ndarray]

    @property
    def label(self) -> str:
        """Name for the legend."""
        if not self.failed:
            return self.name
        return f"{self.name} (failed)" if self.step[-1] > self.step[0] else f"{self.name} (failed at the start)"


def plot(
    run: SavedRun | str | os.PathLike[str],
    systems: int | str | Sequence[int | str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    r"""Draw energy, temperature, volume and largest force of a run against step; a panel for each that has data.

    The energy of a system counts from the lowest that was logged of it, its volume from the first, and what a method
    conserves (in NVE the total energy) from the first of the stage. A circle marks where
    a system goes on from relaxation to dynamics, a cross the last good state of one that failed. Up to eight systems
    have a colour each; more are grey, with their median. Of more than a hundred, a hundred are drawn.

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
    ['energy above lowest\n(meV/atom)', 'volume change (%)', 'largest force (eV/Å)']
    """
    saved = run if isinstance(run, SavedRun) else SavedRun(run)
    figures = OptionalDependency.MATPLOTLIB.load("figure", needed_by="athanor.plot")
    numbers = _chosen(saved, systems)
    lines = [_line_of(saved, number, series) for number, series in zip(numbers, saved.series(numbers), strict=True)]
    lines = [line for line in lines if len(line.step)]
    if not lines:
        raise StorageError(f"`{saved.folder}` has nothing to draw: no step of these systems was logged.")
    names = [name for name in _PANELS if any(name in line.panels for line in lines)]
    figure = figures.Figure(figsize=(7.5, 0.8 + 1.9 * len(names)), layout="constrained")
    for name, axes in zip(names, figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], strict=True):
        _draw(axes, name, lines, _targets(name, saved))
    _draw_stages(figure.axes, lines)
    figure.axes[-1].set_xlabel("step")
    _add_legend_and_title(figure, saved, lines, len(saved) if systems is None else len(numbers))
    if path is not None:
        _save(figure, Path(path))
    return figure


def _chosen(saved: SavedRun, systems: int | str | Sequence[int | str] | None) -> list[int]:
    """Numbers of the systems to draw: those asked for, else all, else some."""
    if systems is not None:
        return [saved.number_of(system) for system in ([systems] if isinstance(systems, int | str) else systems)]
    if len(saved) <= _MOST_DRAWN:
        return list(range(len(saved)))
    return [place * len(saved) // _MOST_DRAWN for place in range(_MOST_DRAWN)]


def _line_of(saved: SavedRun, number: int, series: Series) -> _Line:
    row = saved.summary[number]
    kinds = np.array([kind == "md" for kind, _ in saved.stages])
    panels = {"fmax": np.maximum(series.fmax, _ZERO_FORCE), "temperature": series.temperature}
    energy = np.where(np.isfinite(series.energy), series.energy, np.nan)
    if np.isfinite(energy).any():
        panels["energy"] = 1e3 * (energy - np.nanmin(energy)) / row["atoms"]
    panels["conserved"] = 1e3 * _since_entry(series.conserved, series.stage) / row["atoms"]
    change = 100.0 * (series.volume / series.volume[:1] - 1.0)
    if (np.abs(change) > 1e-7).any():
        panels["volume"] = change
    panels = {name: values for name, values in panels.items() if np.isfinite(values).any()}
    return _Line(row["system"], row["status"] == "failed", series.step, kinds[series.stage], panels)


def _since_entry(values: np.ndarray, stage: np.ndarray) -> np.ndarray:
    """Values less the first one of their stage: every stage conserves a quantity of its own."""
    values = np.where(np.isfinite(values), values, np.nan)
    for number in np.unique(stage):
        known = np.flatnonzero((stage == number) & ~np.isnan(values))
        values[stage == number] -= values[known[0]] if known.size else np.nan
    return values


def _draw(axes: Any, name: str, lines: list[_Line], targets: list[float]) -> None:
    few = len(lines) <= len(_COLOURS)
    drawn = [(line, line.panels[name], _COLOURS[place] if few else _FAILED_COLOUR if line.failed else _MANY_COLOUR)
             for place, line in enumerate(lines) if name in line.panels]  # fmt: skip
    for line, values, colour in drawn:
        axes.plot(line.step, values, color=colour, linewidth=1.4 if few else 0.6, zorder=2.5 if line.failed else 2)
        change = np.flatnonzero(np.diff(line.is_md)) + 1
        if few and change.size:
            axes.plot(line.step[change], values[change], "o", color=colour, markerfacecolor="white", markersize=4.5)
    if not few:
        axes.plot(*_median(drawn), color=_COLOURS[0], linewidth=1.8, zorder=3)
    for target in targets:
        axes.axhline(target, color=_TARGET_COLOUR, linewidth=1, linestyle="--", zorder=1)
    axes.set_ylabel(_PANELS[name])
    axes.grid(alpha=0.25)
    if name == "fmax":
        axes.set_yscale("log")
    bottom, top = _limits([values for line, values, _ in drawn if not line.failed] or [drawn[0][1]], targets, few)
    axes.set_ylim(*((bottom / 1.5, top * 1.5) if name == "fmax" else _padded(bottom, top)))
    for line, values, colour in drawn:
        if line.failed:
            last = np.flatnonzero(np.isfinite(values))[-1]
            axes.plot(line.step[last], np.clip(values[last], *axes.get_ylim()), "x", color=colour, markersize=8,
                      markeredgewidth=2, zorder=4, clip_on=False)  # fmt: skip


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


def _median(drawn: list[tuple[_Line, np.ndarray, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Median over the systems that are on their way, at steps where these are at least half of all."""
    steps = np.unique(np.concatenate([line.step for line, _, _ in drawn]))
    table = np.full((len(drawn), len(steps)), np.nan)
    for row, (line, values, _) in zip(table, drawn, strict=True):
        known = np.isfinite(values)
        row[:] = np.interp(steps, line.step[known], values[known], left=np.nan, right=np.nan)
    enough = np.isfinite(table).sum(axis=0) >= len(drawn) / 2
    return steps[enough], np.nanmedian(table[:, enough], axis=0)


def _targets(name: str, saved: SavedRun) -> list[float]:
    """The temperature of the thermostat, the force that counts as relaxed."""
    found = []
    for kind, settings in saved.stages:
        method = methods.find(kind, settings)
        for key, setting in method.all_settings().items() if method is not None else ():
            if setting.plotted == name and isinstance(setting.quantity, Quantity) and key in settings:
                found.append(parse_quantity(settings[key], setting.quantity))
    return found


def _draw_stages(panels: Sequence[Any], lines: list[_Line]) -> None:
    """Shade the steps in which systems go on from relaxation to dynamics or back, and name what lies beside.

    Where systems do that more than once, circles alone tell.
    """
    changes = [(line.step[1:][np.diff(line.is_md)], line) for line in lines]
    steps = np.concatenate([change for change, _ in changes])
    if not steps.size or any(change.size > 1 for change, _ in changes):
        return
    for axes in panels:
        axes.axvspan(steps.min(), steps.max(), color="#0072B2", alpha=0.08, linewidth=0)
        if steps.min() == steps.max():
            axes.axvline(steps.min(), color=_TARGET_COLOUR, linewidth=1)
    first = next(line.is_md[0] for change, line in changes if change.size)
    before, after = (MD.noun, RELAX.noun) if first else (RELAX.noun, MD.noun)
    top = panels[0].get_xaxis_transform()
    panels[0].text(steps.min(), 1.02, f"{before} ", transform=top, ha="right", va="bottom", color=_TARGET_COLOUR)
    panels[0].text(steps.max(), 1.02, f" {after}", transform=top, ha="left", va="bottom", color=_TARGET_COLOUR)


def _add_legend_and_title(figure: Any, saved: SavedRun, lines: list[_Line], asked: int) -> None:
    """Say what the lines are, and of how many systems that were asked for; above it, which run it is."""
    from matplotlib.lines import Line2D

    failed = sum(line.failed for line in lines)
    if len(lines) <= len(_COLOURS):
        entries = [
            Line2D([], [], color=_COLOURS[place], marker="x" if line.failed else "", label=line.label)
            for place, line in enumerate(lines)
        ]
        if any(len(set(line.is_md.tolist())) > 1 for line in lines):
            entries.append(
                Line2D(
                    [], [], color=_TARGET_COLOUR, marker="o", markerfacecolor="white", linewidth=0, label="next stage"
                )
            )
    else:
        some = f"{len(lines)} of {asked}" if asked > len(lines) else str(len(lines))
        shown = f"{some} systems (axes: the middle {100 - 2 * _PERCENT_OUTSIDE} % of points)"
        entries = [Line2D([], [], color=_MANY_COLOUR, label=shown), Line2D([], [], color=_COLOURS[0], label="median")]
        if failed:
            entries.append(Line2D([], [], color=_FAILED_COLOUR, marker="x", label=f"{failed} failed"))
    rows = -(-len(entries) // 4)
    figure.legend(handles=entries, loc="outside lower center", ncols=-(-len(entries) // rows), frameon=False)
    note = "" if saved.state == "finished" else f" ({saved.state})"
    figure.suptitle(f"{saved.settings.get('title') or saved.folder.name}{note}", fontsize="large")


def _save(figure: Any, path: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(f"`{path}` has no ending of a picture. Use one of {', '.join(sorted(known))}.")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"`{path}` can not be written: {error.strerror or error}. Choose another file.") from error
