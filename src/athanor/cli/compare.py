"""Behind ``athanor compare``: tables of what differs, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.cli.table import decimals, make_console, print_table
from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.workflows.compare import Comparison
    from athanor.workflows.deviations import Deviation


def compare_results(
    sides: Sequence[Path],
    *,
    frames: bool,
    energy_key: str,
    forces_key: str,
    picture: Path | None,
    all_rows: bool,
    as_json: bool,
) -> int:
    """Compare each side with the last one; print tables, and draw if a file is named."""
    from athanor.workflows.compare import compare_sides
    from athanor.workflows.sides import side_of

    if len(sides) < 2:
        raise InputError(
            "`athanor compare` needs two results folders or files; the last one is what the others are held against."
        )
    reference = side_of(sides[-1], energy_key=energy_key, forces_key=forces_key)
    comparisons = [compare_sides(side_of(side), reference, frames=frames) for side in sides[:-1]]
    if as_json:
        print_json({"comparisons": documents_of(comparisons), "exit_code": 0})
    else:
        print_comparisons(comparisons, all_rows=all_rows)
    if picture is not None:
        from athanor.workflows.plot_comparison import plot_comparisons

        plot_comparisons(comparisons, picture)
        if not as_json:
            print(f"Plot: {picture}")
    return int(ExitCode.DONE)


def documents_of(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return what ``--json`` prints of comparisons."""
    return [
        {
            "first": each.names[0],
            "second": each.names[1],
            "figures": {
                name: asdict(figure) | {"system": each.rows[figure.row]["system"]}
                for name, figure in each.figures.items()
            },
            "shifts_eV": each.shifts,
            "notes": each.notes,
            "rows": each.rows,
        }
        for each in comparisons
    ]


def print_comparisons(comparisons: Sequence[Comparison], *, all_rows: bool = False) -> None:
    """Print two tables for each: system by system, and over all of them."""
    from athanor.workflows.readable import count, printable

    console = make_console()
    for each in comparisons:
        first, second = map(printable, each.names)
        console.print(f"{first} minus {second}: {count(len(each), 'system')}", style="bold", highlight=False)
        rows = [row | {"status": ""} for row in each.rows]
        print_table(console, rows, columns=_COLUMNS, all_rows=all_rows, notes=False)
        figures = [_row_of(name, figure, each.rows) for name, figure in each.figures.items()]
        print_table(console, figures, columns=_FIGURES, all_rows=True, notes=False)
        for note in [*_explained(each), *each.notes]:
            console.print(printable(note), style="dim", highlight=False, markup=False)
        console.print()


_NAMES = {
    "energy": "energy",
    "energy_shifted": "energy, elements shifted",
    "forces": "forces",
    "stress": "stress",
    "volume": "volume",
    "strain": "strain of the cell",
    "displacement": "displacement",
}
_IN_MEV = {"eV/atom": "meV/atom", "eV/Å": "meV/Å"}


def _row_of(name: str, figure: Deviation, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scale = 1e3 if figure.unit in _IN_MEV else 1.0
    where = rows[figure.row]["system"]
    if sum(row["system"] == where for row in rows) > 1:
        where = f"{where} (no. {figure.row})"
    if figure.atom is not None:
        where = f"atom {figure.atom} ({figure.symbol}) of {where}"
    if figure.step is not None:
        where += f", step {figure.step}"
    numbers = {key: scale * getattr(figure, key) for key in ("mae", "rmse", "worst")}
    unit = _IN_MEV.get(figure.unit, figure.unit)
    return {"index": name, "status": "", "system": _NAMES[name], "unit": unit, "where": where} | numbers


def _explained(found: Comparison) -> list[str]:
    notes = []
    if found.shifts:
        shifts = ", ".join(f"{symbol} {shift:+.4f} eV" for symbol, shift in found.shifts.items())
        notes.append(
            f"Shifted: without what each element adds to all differences ({shifts}; least squares). It is large where "
            f"the two count energies from different zeros."
        )
    if "forces" in found.figures:
        notes.append("Forces: MAE and RMSE of components, the worst by the length of its vector.")
    if "displacement" in found.figures:
        notes.append(
            "Displacement: without a shift or turn of the whole. Strain: the largest along a principal axis of a cell."
        )
    return notes


def _milli(digits: int) -> Any:
    show = decimals(digits)
    return lambda value, row: show(1e3 * value, row)


def _worst(value: float, row: dict[str, Any]) -> str:
    return f"{_milli(1)(value, row)} ({row['forces_worst_symbol']} {row['forces_worst_atom']})"


_COLUMNS: list[Any] = [
    ("system", "system", "left", lambda value, row: str(value)),
    ("atoms", "atoms", "right", lambda value, row: str(value)),
    ("frames", "frames", "right", lambda value, row: str(value)),
    ("ΔE meV/atom", "energy_difference", "right", _milli(2)),
    ("shifted", "energy_shifted", "right", _milli(2)),
    ("F MAE meV/Å", "forces_mae", "right", _milli(1)),
    ("RMSE", "forces_rmse", "right", _milli(1)),
    ("worst (atom)", "forces_worst", "right", _worst),
    ("Δσ GPa", "stress_mae_GPa", "right", decimals(3)),
    ("ΔV %", "volume_percent", "right", lambda value, row: f"{value:+.2f}"),
    ("strain %", "strain_percent", "right", lambda value, row: f"{value:+.2f}"),
    ("moved Å", "displacement", "right", decimals(3)),
]
_FIGURES: list[Any] = [
    ("over all", "system", "left", lambda value, row: str(value)),
    ("unit", "unit", "left", lambda value, row: str(value)),
    ("MAE", "mae", "right", decimals(3)),
    ("RMSE", "rmse", "right", decimals(3)),
    ("worst", "worst", "right", decimals(3)),
    ("where", "where", "left", lambda value, row: str(value)),
]
