"""One picture of what dynamics says: structure, displacement and velocity memory of one or a few systems."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor._optional import OptionalDependency
from athanor.errors import InputError
from athanor.units import ps
from athanor.workflows.plot import COLOURS, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from athanor.analysis import Diffusion, MeanSquareDisplacement, RadialDistribution, VelocityAutocorrelation

_FORGOTTEN = 0.1
"""A velocity autocorrelation is drawn up to four times the lag beyond which it stays smaller."""


def plot_analysis(
    analyses: Sequence[tuple[str, Sequence[Any]]], path: str | os.PathLike[str] | None = None, title: str = ""
) -> Figure:
    """Draw analyses of up to eight systems: a panel for each kind that there is, with bands of one standard error.

    Parameters
    ----------
    analyses
        Name of each system, and what was made of it: `RadialDistribution`, `MeanSquareDisplacement`, `Diffusion` (the
        line in the panel of the displacement), `VelocityAutocorrelation`. Of one system there is a line for each
        element or pair; of several, one each, of all atoms (of the first pair).
    path
        Save the figure there; the ending tells the format.
    title
        Title of the picture.

    Raises
    ------
    InputError
        If there is nothing to draw, there are more than eight systems, or the ending of `path` is not known.
    StorageError
        If `path` can not be written.
    OptionalDependencyError
        If matplotlib is not installed; the text names the command that installs it.
    """
    figures = OptionalDependency.MATPLOTLIB.load("figure", needed_by="a plot of an analysis")
    kinds = [kind for kind in _PANELS if any(_of_kind(found, kind) for _, found in analyses)]
    if not kinds:
        raise InputError("there is nothing to draw: no system has a radial distribution, a displacement or velocities.")
    if len(analyses) > len(COLOURS):
        raise InputError(f"{len(analyses)} systems are too many for one picture; choose up to {len(COLOURS)}.")
    figure = figures.Figure(figsize=(1.0 + 4.6 * len(kinds), 4.2), layout="constrained")
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        draw, alone, number = _PANELS[kind], len(analyses) == 1, 0
        for name, found in analyses:
            for analysis in _of_kind(found, kind):
                diffusion = next(iter(_of_kind(found, "Diffusion")), None)
                for row, label in enumerate(_rows(analysis)[: None if alone else 1]):
                    colour = COLOURS[number % len(COLOURS)]
                    draw(axes, analysis, row, label if alone else plain(name), colour, diffusion)
                    number += 1
        axes.set_xlim(left=0.0)
        if kind != "VelocityAutocorrelation":
            axes.set_ylim(bottom=0.0)
        axes.grid(alpha=0.25)
        axes.margins(x=0.0)
        axes.legend(frameon=False, fontsize="small")
    if title:
        figure.suptitle(plain(title), fontsize="large")
    if path is not None:
        save(figure, Path(path))
    return figure


def _of_kind(found: Sequence[Any], kind: str) -> list[Any]:
    return [analysis for analysis in found if type(analysis).__name__ == kind]


def _rows(analysis: Any) -> tuple[str, ...]:
    rows: tuple[str, ...] = getattr(analysis, "pairs", None) or analysis.names
    return rows


def _line(axes: Any, x: np.ndarray, y: np.ndarray, error: np.ndarray, label: str, colour: str) -> None:
    axes.plot(x, y, color=colour, linewidth=1.4, label=label)
    axes.fill_between(x, y - error, y + error, color=colour, alpha=0.2, linewidth=0)


def _draw_radial(axes: Any, found: RadialDistribution, row: int, label: str, colour: str, _: Diffusion | None) -> None:
    _line(axes, found.r, found.g[row], found.error[row], label, colour)
    if row == 0:
        axes.axhline(1.0, color="#606060", linewidth=1, zorder=1)
        if found.half_width < found.r[-1]:
            axes.axvline(found.half_width, color=colour, linewidth=1, linestyle=":", zorder=1)
    axes.set_xlabel("distance (Å)\ndotted: half of the smallest width of the cell")
    axes.set_ylabel("radial distribution g(r)")


def _draw_displacement(
    axes: Any, found: MeanSquareDisplacement, row: int, label: str, colour: str, diffusion: Diffusion | None
) -> None:
    if diffusion is not None:
        label = f"{label}: {_coefficient(diffusion, row)}"
    _line(axes, found.time / ps, found.values[row], found.error[row], label, colour)
    if diffusion is not None and diffusion.is_diffusive()[row]:
        lags = np.array(diffusion.range)
        middle = lags.mean()
        at_middle = np.interp(middle, found.time, found.values[row])
        line = at_middle + 6.0 * diffusion.values[row] * (lags - middle)
        axes.plot(lags / ps, line, color="black", linewidth=2.5, linestyle=(0, (1, 0.6)), zorder=3)
    axes.set_xlabel("time (ps)\nblack: the line that was fitted")
    axes.set_ylabel("mean-square displacement (Å²)")


def _coefficient(diffusion: Diffusion, row: int) -> str:
    if not diffusion.is_diffusive()[row]:
        return "no diffusion is seen"
    value, error = diffusion.values_cm2_per_s[row], diffusion.error_cm2_per_s[row]
    power = int(np.floor(np.log10(max(abs(value), error)))) if max(abs(value), error) > 0 else 0
    return f"D = ({value / 10.0**power:.2f} ± {error / 10.0**power:.2f}) $10^{{{power}}}$ cm²/s"


def _draw_velocities(
    axes: Any, found: VelocityAutocorrelation, row: int, label: str, colour: str, _: Diffusion | None
) -> None:
    values, norm = found.normalised[row], found.values[row, 0]
    remembered = np.flatnonzero(np.abs(values) > _FORGOTTEN)
    last = min(len(values), 4 * (remembered[-1] + 1) + 1)
    _line(axes, found.time[:last], values[:last], found.error[row, :last] / norm, label, colour)
    if row == 0:
        axes.axhline(0.0, color="#606060", linewidth=1, zorder=1)
    axes.set_xlabel("time (fs)")
    axes.set_ylabel("velocity autocorrelation, normalised")


_PANELS: dict[str, Any] = {
    "RadialDistribution": _draw_radial,
    "MeanSquareDisplacement": _draw_displacement,
    "VelocityAutocorrelation": _draw_velocities,
}
