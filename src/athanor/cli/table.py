"""The table of a run, and the lines around it."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from athanor.workflows.columns import ANGLES, count_outcomes, tell_apart
from athanor.workflows.readable import printable

Row = dict[str, Any]
MOST_ROWS = 120
_WIDTH = 140
_MOST_FAILURES = 20


def print_result(rows: Sequence[Row], folder: Path | None, seconds: float, *, allow_failures: bool) -> None:
    """Print table, notes, counts, and where the results are."""
    from athanor.workflows.readable import format_seconds

    console = make_console()
    print_table(console, rows)
    print_counts(console, rows, f" in {format_seconds(seconds)}")
    print_failures(console, rows)
    if allow_failures and any(map(_has_failed, rows)):
        console.print("The job allows failures: the exit code is 0.", highlight=False)
    if folder is not None:
        text = printable(f"Results: {folder}  (athanor show {quote(str(folder))} tells more)")
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_evaluation(rows: Sequence[Row], file: Path | None, seconds: float) -> None:
    """Print the table of an evaluation, counts, and where the results are."""
    from athanor.workflows.readable import format_seconds

    console = make_console()
    print_table(console, rows, columns=_EVALUATED, all_rows=file is None)
    print_counts(console, rows, f" in {format_seconds(seconds)}")
    print_failures(console, rows)
    if file is not None:
        console.print(printable(f"Results: {file}"), highlight=False, markup=False, soft_wrap=True)


def print_evaluations(results: Mapping[str, Sequence[Row]], files: Sequence[Path], seconds: float) -> None:
    """Print what several models said of the same systems, side by side; `results` are their rows by name."""
    from athanor.workflows.readable import count, format_seconds

    console = make_console()
    merged = [dict(row) for row in next(iter(results.values()))]
    columns = list(_EVALUATED[:2])
    for number, (name, rows) in enumerate(results.items()):
        for title, key, justify, show in _OF_EACH_MODEL:
            columns.append((f"{name}\n{title}", f"{key} {number}", justify, show))
            for row, own in zip(merged, rows, strict=True):
                row[f"{key} {number}"] = own.get(key)
    bad = [any(_has_failed(own) for own in each) for each in zip(*results.values(), strict=True)]
    for row, has_failed in zip(merged, bad, strict=True):
        row["status"] = "failed" if has_failed else "done"
    print_table(console, merged, columns=[*columns, _EVALUATED[-1]], all_rows=not files, notes=False)
    console.print(f"[bold]{count(len(results), 'model')}[/bold] in {format_seconds(seconds)}", highlight=False)
    for name, rows in results.items():
        if any(map(_has_failed, rows)):
            console.print(printable(f"{name}:"), highlight=False, markup=False)
            print_failures(console, rows)
    if files:
        text = printable(f"Results: {', '.join(map(str, files))}")
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def make_console() -> Any:
    """Console on stdout; wide enough for the table where there is no terminal."""
    from rich.console import Console

    console = Console()
    return console if sys.stdout.isatty() else Console(width=max(console.width, _WIDTH))


def print_table(
    console: Any,
    rows: Sequence[Row],
    *,
    columns: Sequence[_Column] | None = None,
    all_rows: bool = False,
    notes: bool = True,
) -> None:
    """Print one line per system; columns that do not fit, and the middle of a very long list, are left out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown, left_out = (rows, 0) if all_rows or len(rows) <= MOST_ROWS else _shorten(rows)
    first, *others = columns or _COLUMNS
    wanted = [*(_APART[name] for name in tell_apart(rows)), first, *_telling(others, rows)]
    present = [column for column in wanted if any(_cell(row, *column[1::2]) for row in rows)]
    present, too_wide = _fit(present, shown, console.width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title, _, justify, _ in present:
        words = title in _WORDS  # numbers are never cut or wrapped
        table.add_column(title, justify=justify, no_wrap=not words, overflow="fold")  # type: ignore[arg-type]
    for row in shown:
        style = "red" if _has_failed(row) else None
        table.add_row(*(Text(_cell(row, key, show)) for _, key, _, show in present), style=style)
    console.print(table)
    if too_wide:
        console.print(f"Left out, as the window is narrow: {', '.join(too_wide)}.", style="dim", highlight=False)
    if left_out:
        console.print(f"{left_out} more rows are in summary.csv.", highlight=False)
    for note in _notes(rows) if notes else ():
        console.print(note, style="dim", highlight=False)


def print_pairs(console: Any, pairs: Mapping[str, str]) -> None:
    """Print names and what they are, one a line; nothing for what is empty."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value:
            table.add_row(Text(name, style="bold"), Text(printable(value)))
    console.print(table)


def print_failures(console: Any, rows: Sequence[Row]) -> None:
    """Print why systems were set aside or stopped, one line each."""
    failed = [row for row in rows if _has_failed(row)]
    told = failed + [row for row in rows if row["status"] == "stopped"]
    for row in told[:_MOST_FAILURES]:
        where = f"frame {row['index_in_file']} of {row['file']}" if row.get("file") else f"number {row['index']}"
        after = f" after step {row['steps']}" if "steps" in row else ""
        text = printable(f"  {row['system']} ({where}) {row['status']}{after}: {row['reason']}")
        console.print(text, highlight=False, markup=False)
    if len(told) > _MOST_FAILURES:
        console.print(f"  and {len(told) - _MOST_FAILURES} more, see summary.csv", highlight=False)
    for advice in dict.fromkeys(_advice(row) for row in failed):
        console.print(advice, highlight=False, markup=False)


def _advice(row: Row) -> str:
    if "element" in row["reason"]:
        return "An element that the model does not know: choose another model, see `athanor models`."
    if not row["atoms"]:
        return "What can not be read as a structure: repair the file, or leave it out."
    if "target pressure" in row["reason"]:
        return "Without a volume there is no pressure: choose an ensemble such as nvt, or no pressure, or give a cell."
    if row.get("steps", 0) == 0:
        return "Failed at the start: look there for atoms on top of each other, a wrong cell or wrong elements."
    if row["reason"].endswith("(MD)"):
        if "the cell became" in row["reason"]:
            return "Failed in MD: try a longer barostat time or a shorter time step, or relax first."
        return "Failed in MD: try a shorter time step or a lower temperature, or relax first."
    return "Failed on the way: start from a better structure, or relax it with a fixed cell first."


def print_counts(console: Any, rows: Sequence[Row], after: str = "") -> None:
    """Print how many systems ended how, as ``83 systems: 80 converged, 3 failed``."""
    counts = count_outcomes(Counter(row["status"] for row in rows))
    console.print(f"[bold]{counts}[/bold]{after}", highlight=False)


def _has_failed(row: Row) -> bool:
    return bool(row["status"] == "failed")


def _cell(row: Row, key: str, show: Callable[[Any, Row], str]) -> str:
    value = row.get(key)
    return "" if value is None else printable(show(value, row))


def decimals(digits: int, error: str = "", *, huge: float = 1e5) -> Callable[[Any, Row], str]:
    """Show a number, and its error from the column `error`. What explodes is huge; rounded, it stretches no column."""

    def number(value: float) -> str:
        rounded = round(value, digits) + 0.0  # which is never minus zero
        return f"{rounded:.{digits}f}" if abs(value) < huge else f"{value:.1e}"

    return lambda value, row: " ± ".join(number(each) for each in (value, row.get(error)) if each is not None)


def _lengths(value: float, row: Row) -> str:
    return _once_if_equal([f"{row[axis]:.3f}" for axis in "abc" if row.get(axis) is not None])


def _angles(value: float, row: Row) -> str:
    found = [row[name] for name in ANGLES if row.get(name) is not None]
    return "" if all(abs(angle - 90.0) < 0.05 for angle in found) else _once_if_equal([f"{a:.4g}" for a in found])


def _density(value: float, row: Row) -> str:
    """The density where it has an error: where the cell moves in dynamics."""
    return decimals(3, "density_error_g_per_cm3")(row["density_g_per_cm3"], row)


def _once_if_equal(numbers: list[str]) -> str:
    return " ".join(numbers if len(set(numbers)) > 1 else numbers[:1])


_Column = tuple[str, str, str, Callable[[Any, Row], str]]
_APART: dict[str, _Column] = {
    "index": ("no.", "index", "right", lambda value, row: str(value)),
    "formula": ("formula", "formula", "left", lambda value, row: str(value)),
    "file": ("file", "file", "left", lambda value, row: str(value)),
    "index_in_file": ("frame", "index_in_file", "right", lambda value, row: str(value)),
    "start_time": ("from fs", "start_time", "right", lambda value, row: f"{value:.10g}"),
}
_STATUS: _Column = ("status", "status", "left", lambda value, row: str(value).replace("_", " "))
_CELL: list[_Column] = [
    ("a b c / Å", "a", "left", _lengths),
    ("α β γ / °", "gamma", "left", _angles),
    ("Å³/atom", "volume_per_atom", "right", decimals(3)),
]
_COMPARED: list[_Column] = [
    ("∛V / Å", "lattice_constant", "right", decimals(3)),
    ("source", "reference_lattice_constant", "right", decimals(3)),
    ("error %", "error_percent", "right", lambda value, row: f"{value:+.2f}"),
]
_DISAGREEMENT: _Column = ("σF eV/Å", "max_force_deviation", "right", decimals(3))
_COLUMNS: list[_Column] = [
    ("system", "system", "left", lambda value, row: str(value)),
    ("atoms", "atoms", "right", lambda value, row: str(value)),
    ("steps", "steps", "right", lambda value, row: str(value)),
    ("retries", "retries", "right", lambda value, row: str(value)),
    ("eV/atom", "energy_per_atom", "right", decimals(4)),
    ("fmax eV/Å", "fmax", "right", decimals(3)),
    ("smax GPa", "smax_GPa", "right", decimals(3)),
    *_CELL,
    *_COMPARED,
    _DISAGREEMENT,
    ("T / K", "temperature", "right", decimals(0, "temperature_error")),
    ("p / GPa", "pressure_GPa", "right", decimals(3, "pressure_error_GPa")),
    ("ρ / g/cm³", "density_error_g_per_cm3", "right", _density),
    _STATUS,
]

_EVALUATED: list[_Column] = [
    *_COLUMNS[:2],
    ("energy eV", "energy", "right", decimals(4, huge=1e8)),
    ("eV/atom", "energy_per_atom", "right", decimals(4)),
    ("fmax eV/Å", "fmax", "right", decimals(3)),
    _DISAGREEMENT,
    ("pressure GPa", "pressure_GPa", "right", decimals(3)),
    *_CELL,
    ("status", "status", "left", lambda value, row: "" if value == "done" else _STATUS[3](value, row)),
]
_OF_EACH_MODEL = [column for column in _EVALUATED if column[1] in ("energy_per_atom", "fmax", "pressure_GPa")]
_WORDS = ("system", "formula", "file", "status")
_LEFT_OUT_FIRST = ("file", "index_in_file", "gamma", "smax_GPa", "volume_per_atom", "reference_lattice_constant",
                   "atoms", "energy", "a", "fmax", "lattice_constant", "error_percent", "pressure_GPa", "steps",
                   "density_error_g_per_cm3", "temperature", "formula", "start_time",
                   "max_force_deviation", "stress_mae_GPa", "forces_rmse", "displacement", "strain_percent",
                   "where")  # fmt: skip
_WIDEST_NAME = 24


def _telling(columns: Sequence[_Column], rows: Sequence[Row]) -> list[_Column]:
    """Columns without those of the cell where it is compared, which says it better."""
    return [column for column in columns if not (_is_compared(rows) and column in _CELL)]


def _is_compared(rows: Sequence[Row]) -> bool:
    return any(row.get("lattice_constant") is not None for row in rows)


def _fit(columns: list[_Column], rows: Sequence[Row], width: int) -> tuple[list[_Column], list[str]]:
    """Return the columns that fit in `width` without cutting a number, and the titles of the others."""

    def needed(column: _Column) -> int:
        title, key, _, show = column
        widest = max(len(text) for text in (*title.split("\n"), *(_cell(row, key, show) for row in rows)))
        return 3 + (min(widest, _WIDEST_NAME) if title in _WORDS else widest)

    kept, left_out = list(columns), []
    for key in _LEFT_OUT_FIRST:
        if sum(map(needed, kept)) <= width:
            break
        left_out += [column[0] for column in kept if column[1] == key]
        kept = [column for column in kept if column[1] != key]
    return kept, left_out


def _notes(rows: Sequence[Row]) -> list[str]:
    """Say what the columns mean, those that are there."""
    notes = []
    if any(row.get("relax_steps") is not None for row in rows):
        notes.append("eV/atom, fmax, smax and the cell: at the end of the relaxation.")
    if any(row.get("a") is not None for row in rows) and not _is_compared(rows):
        notes.append("a b c, α β γ: one number where all are equal; no angles where all are 90°.")
    if _is_compared(rows):
        notes.append(
            "∛V: cube root of the volume of the cell as it stands in the source; cubic cells: the lattice constant."
        )
    errors = [abs(row["error_percent"]) for row in rows if row.get("error_percent") is not None]
    if errors:
        close = sum(error <= 3.0 for error in errors)
        notes.append(f"{close} of {len(errors)} lie within 3 % of the source; the median error is "
                     f"{statistics.median(errors):.2f} %.")  # fmt: skip
    if any(row.get("max_force_deviation") is not None for row in rows):
        notes.append("σF: largest deviation of a force within the committee.")
    if any(row.get("temperature") is not None for row in rows):
        few = min(row["temperature_samples"] for row in rows if row.get("temperature_samples"))
        note = f" ({few} samples: too few to say much)" if few < 100 else ""
        names = ["T"] + ["p"] * any(row.get("pressure_samples") for row in rows)
        names += ["ρ"] * any(row.get("density_error_g_per_cm3") is not None for row in rows)
        ways = [row["settled_after_fs"] for row in rows if row.get("settled_after_fs") is not None]
        most = f"at most {max(ways, default=0.0):.4g}" if len(ways) > 1 else f"{max(ways, default=0.0):.4g}"
        part = f"the MD without its start ({most} fs)" if ways else "the second half of the MD"  # of older runs
        notes.append(f"{', '.join(names)}: mean over {part}, ± standard error from block averages{note}.")
    return notes


def _shorten(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Every failed row, and the first others."""
    failed = [row for row in rows if _has_failed(row)][: MOST_ROWS // 2]
    chosen = {row["index"] for row in failed}
    for row in rows:
        if len(chosen) >= MOST_ROWS:
            break
        chosen.add(row["index"])
    return [row for row in rows if row["index"] in chosen], len(rows) - len(chosen)
