"""Behind ``athanor select``: a table of the chosen frames, and a file of their structures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import Screen, print_json, warnings_as_lines
from athanor.cli.run import Given, spec_of
from athanor.cli.table import decimals, make_console, print_table
from athanor.workflows.readable import printable


def select_frames(given: Given) -> int:
    """Choose frames; print a table, and write a file if one is named."""
    from athanor._runtime import using_num_threads
    from athanor.workflows import select

    spec, screen = spec_of(select.SelectSpec, given, {}), Screen(given["quiet"], given["json"])
    with warnings_as_lines(quiet=screen.quiet), using_num_threads(spec.threads):
        found = select.select_frames(spec, given["sources"], known=given["known"] or None, overwrite=given["overwrite"])
    if screen.as_json:
        numbers = {"seen": found.seen, "eligible": found.eligible}
        print_json({"file": spec.output and str(spec.output), **numbers, "rows": found.rows})
    elif screen.shows_tables:
        console = make_console()
        if found.rows:
            rows = [row | {"source": Path(row["source"]).name, "status": ""} for row in found.rows]
            print_table(console, rows, columns=_columns(spec.field), all_rows=True, notes=False)
        text = f"{len(found)} of {found.seen} frames were chosen"
        bounds = f"; {found.eligible} lie within the bounds" if found.eligible < found.seen else ""
        console.print(printable(f"{text}{bounds}."), highlight=False, markup=False)
        if spec.output is not None:
            console.print(printable(f"Structures: {spec.output}"), highlight=False, markup=False, soft_wrap=True)
    return int(ExitCode.DONE)


def _columns(field: str) -> list[tuple[str, str, str, Any]]:
    plain = [("source", "source"), ("system", "system"), ("frame", "frame"), ("step", "step")]
    return [
        *((title, key, "right" if key in ("frame", "step") else "left", lambda value, row: str(value))
          for title, key in plain),
        ("time fs", "time", "right", decimals(1)),
        ("atoms", "atoms", "right", lambda value, row: str(value)),
        (field, field, "right", decimals(4)),
        ("distance", "distance", "right", decimals(4)),
    ]  # fmt: skip
