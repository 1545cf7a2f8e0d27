"""One picture of comparisons: each quantity of one side against that of the reference, and the difference below."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from athanor._optional import OptionalDependency
from athanor.errors import InputError
from athanor.workflows.deviations import Deviation, Pair
from athanor.workflows.plot import COLOURS, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW = 300
"""Points up to which each is drawn large and dark."""
_LINE_COLOUR = "#606060"


class Compared(Protocol):
    """What is read of a `athanor.workflows.compare.Comparison`."""

    names: tuple[str, str]
    figures: dict[str, Deviation]
    pairs: list[Pair]


class _Panel(NamedTuple):
    """One quantity: what stands at its axes, the name of its figures, and its values on both sides."""

    label: str
    difference: str
    scale: float
    figure: str
    values: Callable[[Pair], Any]


def _energies(pair: Pair) -> tuple[Any, Any] | None:
    return pair.energy if pair.has_energies else None


def _shifted(pair: Pair) -> tuple[Any, Any] | None:
    return (pair.shifted_energy, pair.energy[1]) if np.isfinite(pair.shifted_energy) else None


def _volumes(pair: Pair) -> tuple[Any, Any] | None:
    return pair.volume if np.isfinite(pair.volume[0]) else None


_PANELS = (
    _Panel("energy (eV/atom)", "(meV/atom)", 1e3, "energy", _energies),
    _Panel("energy, elements shifted (eV/atom)", "(meV/atom)", 1e3, "energy_shifted", _shifted),
    _Panel("component of a force (eV/Å)", "(meV/Å)", 1e3, "forces", lambda pair: pair.forces),
    _Panel("volume (Å³/atom)", "(Å³/atom)", 1.0, "volume", _volumes),
)


def plot_comparisons(comparisons: Sequence[Compared], path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw what was compared: a column for each of energy, forces and volume that there is.

    Above, values of one side stand against those of the reference, on the line where both are equal; below, their
    differences, which the scale above hides. Energies are without the shifts of elements where these are known.

    Parameters
    ----------
    comparisons
        Up to eight, with the same reference; each has a colour.
    path
        Save the figure there; the ending tells the format.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it.

    Raises
    ------
    InputError
        If there is nothing to draw, there are too many, or the ending of `path` is not known.
    StorageError
        If `path` can not be written.
    OptionalDependencyError
        If matplotlib is not installed; the text names the command that installs it.
    """
    figures = OptionalDependency.MATPLOTLIB.load("figure", needed_by="a plot of a comparison")
    if not 1 <= len(comparisons) <= len(COLOURS):
        raise InputError(f"{len(comparisons)} comparisons are not one picture; choose 1 to {len(COLOURS)}.")
    panels = [panel for panel in _PANELS if any(panel.figure in each.figures for each in comparisons)]
    if any(panel.figure == "energy_shifted" for panel in panels):
        panels = [panel for panel in panels if panel.figure != "energy"]
    if not panels:
        raise InputError("there is nothing to draw: the two have neither energies nor forces nor volumes in common.")
    figure = figures.Figure(figsize=(0.6 + 4.4 * len(panels), 6.6), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, sharex="col", height_ratios=(2.2, 1.0))
    for column, panel in enumerate(panels):
        _draw(axes[0, column], axes[1, column], panel, comparisons)
    ours = ", ".join(each.names[0] for each in comparisons)
    figure.suptitle(plain(f"{ours} (up) against {comparisons[0].names[1]} (across)"), fontsize="large")
    if path is not None:
        save(figure, Path(path))
    return figure


def _draw(above: Any, below: Any, panel: _Panel, comparisons: Sequence[Compared]) -> None:
    ends: list[float] = []
    for number, comparison in enumerate(comparisons):
        if panel.figure not in comparison.figures:
            continue
        pairs = [values for values in map(panel.values, comparison.pairs) if values is not None]
        ours, theirs = (np.concatenate([np.ravel(pair[place]) for pair in pairs]) for place in (0, 1))
        known = np.isfinite(ours) & np.isfinite(theirs)
        ours, theirs = ours[known], theirs[known]
        ends += [ours.min(), ours.max(), theirs.min(), theirs.max()]
        few = len(ours) <= _FEW
        style: dict[str, Any] = {
            "linestyle": "none",
            "marker": "o",
            "markersize": 4.5 if few else 2.4,
            "markeredgewidth": 0.0,
            "alpha": 0.75 if few else 0.4,
            "color": COLOURS[number],
            "rasterized": not few,  # a vector for each of many thousand points makes a file that nobody opens
        }
        found = comparison.figures[panel.figure]
        errors = f"MAE {panel.scale * found.mae:.3g}, RMSE {panel.scale * found.rmse:.3g} {panel.difference[1:-1]}"
        if panel.figure == "volume":  # whose figures are parts of it
            errors = f"MAE {found.mae:.3g} %, RMSE {found.rmse:.3g} %"
        name = f"{plain(comparison.names[0])}\n" if len(comparisons) > 1 else ""
        above.plot(theirs, ours, label=f"{name}{errors}", **style)
        below.plot(theirs, panel.scale * (ours - theirs), **style)
    margin = 0.04 * (max(ends) - min(ends)) or 0.05 * abs(ends[0]) or 1.0
    limits = min(ends) - margin, max(ends) + margin
    above.plot(limits, limits, color=_LINE_COLOUR, linewidth=1, zorder=1)
    below.axhline(0.0, color=_LINE_COLOUR, linewidth=1, zorder=1)
    above.set(xlim=limits, ylim=limits, ylabel=panel.label)
    below.set(ylabel=f"difference {panel.difference}", xlabel=panel.label)
    legend = above.legend(frameon=False, fontsize="small", loc="upper left", handletextpad=0.2)
    for handle in legend.legend_handles:
        handle.set(alpha=1.0, markersize=6.0)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.locator_params(axis="x", nbins=5)
