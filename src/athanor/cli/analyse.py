"""Behind ``athanor analyse``: means, structure and diffusion of the dynamics of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.cli.table import decimals, make_console, print_table
from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.analysis import Diffusion, RadialDistribution
    from athanor.workflows.saved_analysis import StageAverages
    from athanor.workflows.saved_run import SavedRun

_MOST_DRAWN = 8


def analyse_run(
    out: Path, *, systems: list[str], start: str | None, cutoff: float, plots: bool, picture: Path | None, as_json: bool
) -> int:
    """Print a row for each system, and draw what there is to draw."""
    from athanor.workflows.folder import ANALYSIS
    from athanor.workflows.plot_lines import labels_of
    from athanor.workflows.saved_run import SavedRun

    run = SavedRun(out)
    numbers = [run.number_of(system) for system in systems] or list(range(len(run)))
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[str, list[Any]]] = []
    notes: list[str] = []
    for number, name in zip(numbers, labels_of([run.summary[number] for number in numbers]), strict=True):
        row, found = _analyse(run, number, name, start, cutoff, notes)
        rows.append(row)
        drawn += [(name, found)] if found and len(drawn) < _MOST_DRAWN else []
    notes = list(dict.fromkeys(notes))
    if as_json:
        print_json({"folder": str(run.folder), "rows": rows, "notes": notes})
    else:
        console = make_console()
        print_table(console, rows, columns=_COLUMNS, all_rows=bool(systems), notes=False)
        for note in [*_WORDS, *notes]:
            console.print(note, style="dim", highlight=False, markup=False)
    if plots or picture is not None:
        from athanor.workflows.plot_analysis import plot_analysis

        path = picture or out / ANALYSIS
        plot_analysis(drawn, path, str(run.settings.get("title") or run.folder.name))
        if not as_json:
            print(f"Plot: {path}")
    return int(ExitCode.DONE)


def _analyse(
    run: SavedRun, number: int, name: str, start: str | None, cutoff: float, notes: list[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Return the row of one system and what can be drawn of it; what can not be said goes to `notes`."""
    summary = run.summary[number]
    row: dict[str, Any] = {key: summary.get(key) for key in _IDENTITY}
    stages = run.averages(number, start=start)
    if not stages:
        notes.append(f"{name} did not get to dynamics.")
        return row, []
    row |= _means(stages[-1], summary["atoms"])
    if not stages[-1].has_settled:
        notes.append(f"{name} took more than half of the stage to settle: run longer.")
    found: list[Any] = []
    for analysis in (
        lambda: run.rdf(number, cutoff=cutoff, start=start),
        lambda: run.mean_square_displacement(number, start=start),
        lambda: run.diffusion(number, start=start),
        lambda: run.velocity_autocorrelation(number, start=start),
    ):
        try:
            found.append(analysis())
        except InputError as error:
            notes.append(f"{name}: {error}")
    for item in found:
        row |= _FIGURES[type(item).__name__](item) if type(item).__name__ in _FIGURES else {}
    if row.get("diffuses") is False:
        notes.append(
            f"{name}: D is no diffusion coefficient. At {row['fit_to_fs']:g} fs the displacement is "
            f"{row['displacement']:.2g} Å² and grows as time to the {row['exponent']:.1f}: atoms do not diffuse, or "
            f"the run is too short to see it."
        )
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}, found


def _means(stage: StageAverages, atoms: int) -> dict[str, Any]:
    from athanor.units import GPa

    row: dict[str, Any] = {"stage": stage.stage, "from_fs": stage.start, "to_fs": stage.end}
    for name, unit, factor in (
        ("temperature", "", 1.0),
        ("pressure", "_GPa", 1.0 / GPa),
        ("volume", "", 1.0),
        ("density", "_g_per_cm3", 1.0),
        ("energy", "", 1.0),
    ):
        average = getattr(stage, name)
        row |= {f"{name}{unit}": factor * average.mean, f"{name}_error{unit}": factor * average.error}
    row |= {"energy_per_atom": stage.energy.mean / atoms, "energy_per_atom_error": stage.energy.error / atoms}
    row["independent_samples"] = stage.energy.samples / stage.energy.inefficiency
    return row


def _first_peak(found: RadialDistribution) -> dict[str, Any]:
    best = int(found.g.max(axis=1).argmax())
    return {"peak": f"{found.pairs[best]} {found.r[found.g[best].argmax()]:.2f}"}


def _coefficients(found: Diffusion) -> dict[str, Any]:
    row: dict[str, Any] = {"diffuses": bool(found.is_diffusive()[0]), "exponent": float(found.exponent[0])}
    row["displacement"] = float(found.reached[0])
    for place, name in enumerate(found.names):
        suffix = "" if place == 0 else f"_{name}"
        row[f"diffusion{suffix}_cm2_per_s"] = float(found.values_cm2_per_s[place])
        row[f"diffusion{suffix}_error_cm2_per_s"] = float(found.error_cm2_per_s[place])
    return row | {"fit_from_fs": found.range[0], "fit_to_fs": found.range[1], "drift": found.drift}


_FIGURES: dict[str, Any] = {"RadialDistribution": _first_peak, "Diffusion": _coefficients}
_IDENTITY = ("index", "system", "formula", "atoms", "file", "index_in_file", "status")
_SMALL = 1e-5
"""cm²/s; the unit of diffusion in the table, of the order of a liquid."""


def _diffusion(value: float, row: dict[str, Any]) -> str:
    if not row["diffuses"]:
        return ""
    return f"{value / _SMALL:.3f} ± {row['diffusion_error_cm2_per_s'] / _SMALL:.3f}"


_COLUMNS: list[Any] = [
    ("system", "system", "left", lambda value, row: str(value)),
    ("atoms", "atoms", "right", lambda value, row: str(value)),
    ("from ps", "from_fs", "right", lambda value, row: f"{value / 1000.0:.2f}"),
    ("to ps", "to_fs", "right", lambda value, row: f"{value / 1000.0:.2f}"),
    ("T / K", "temperature", "right", decimals(1, "temperature_error")),
    ("p / GPa", "pressure_GPa", "right", decimals(3, "pressure_error_GPa")),
    ("ρ / g/cm³", "density_g_per_cm3", "right", decimals(3, "density_error_g_per_cm3")),
    ("E / eV/atom", "energy_per_atom", "right", decimals(5, "energy_per_atom_error")),
    ("peak / Å", "peak", "left", lambda value, row: str(value)),
    ("D / 1e-5 cm²/s", "diffusion_cm2_per_s", "right", _diffusion),
]
_WORDS = (
    "Of the last stage of dynamics, without its start: until temperature, potential energy and volume had settled.",
    "±: standard error; E: potential energy; peak: highest of g(r); D: of all atoms, from displacements.",
)
