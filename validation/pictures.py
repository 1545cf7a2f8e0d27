"""The plots of docs/validation.md, from ``validation/results.json``: ``python validation/pictures.py``."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from report import RESULTS, ROOT

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "athanor"})
FOLDER = ROOT / "docs"


def volumes(shown: dict[str, Any]) -> Figure:
    """Histograms of the volume of the cosine box on its exact density."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for place, (coupling, found) in zip(figure.subplots(1, 3, sharey=True), shown.items(), strict=True):
        place.plot(found["grid"], found["exact"], "k-", lw=1, label="exact")
        centers = [(low + high) / 2 for low, high in zip(found["bins"], found["bins"][1:], strict=False)]
        for name, mark in (("NPT", "o"), ("NPTLangevin", "s"), ("NPTCRescale", "^")):
            place.plot(centers, found[name], mark, ms=3, mfc="none", label=name)
        place.set_title(coupling)
        place.set(xlabel="volume, Å³", xlim=(0, 500))
    figure.axes[0].set_ylabel("probability, 1/Å³")
    figure.axes[0].legend(frameon=False)
    return figure


def orders(shown: dict[str, Any]) -> Figure:
    """Fluctuation of what is conserved against the time step."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    place, steps = figure.subplots(), shown["dt"]
    for name, values in shown.items():
        if name != "dt":
            place.loglog(steps, values, "o-", ms=3, lw=0.8, label=name)
    middle = shown["NVE"][len(steps) // 2]
    place.loglog(steps, [0.4 * middle * (dt / steps[len(steps) // 2]) ** 2 for dt in steps], "k:", label="second order")
    place.set(xlabel="time step, fs", ylabel="fluctuation, eV per atom")
    place.set_xticks(steps, [f"{dt:g}" for dt in steps])
    place.set_xticks([], minor=True)
    place.legend(frameon=False, fontsize=7)
    return figure


def deviations(checks: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """All deviations from exact answers beside those of chance."""
    values = [each for name in ("canonical", "isobaric") for found in checks[name].values() for each in found.values()]
    figure = Figure(figsize=(5, 3), layout="constrained")
    place, width = figure.subplots(), 0.5
    edges = [width * number for number in range(-10, 11)]
    place.hist(values, bins=edges, color="0.8", label=f"{len(values)} checks")
    grid = [number / 20 for number in range(-100, 101)]
    by_chance = [len(values) * width * math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in grid]
    place.plot(grid, by_chance, "k-", lw=1, label="by chance")
    place.set(xlabel="deviation, standard errors", ylabel="number of checks")
    place.legend(frameon=False)
    return figure


def liquid(shown: dict[str, Any]) -> Figure:
    """Density of the liquid from both sides."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    places = figure.subplots(3, 3, sharex=True, sharey=True).flat
    for place, (name, sides) in zip(places, shown["course"].items(), strict=True):
        for side, name_of_side in zip(sides, ("from too dense", "from too dilute"), strict=True):
            times = [shown["interval"] * (1 + number) for number in range(len(side))]
            place.plot(times, side, lw=0.6, label=name_of_side)
        place.axhline(shown["lammps"], color="k", lw=0.8, ls="--", label="LAMMPS")
        place.set_title(name)
        place.set(xscale="log", ylim=(0.6, 0.9))
    figure.axes[0].legend(frameon=False, fontsize=7, loc="lower left")
    figure.supxlabel("time, ps")
    figure.supylabel("density, 1/σ³")
    return figure


def main() -> None:
    """Draw all."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    shown = results["pictures"]
    for name, figure in {
        "volumes": volumes(shown["volumes"]),
        "orders": orders(shown["orders"]),
        "deviations": deviations(results["checks"]),
        "liquid": liquid(shown["liquid"]),
    }.items():
        figure.savefig(FOLDER / f"validation-{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
