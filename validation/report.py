"""What validations share: one shape of result, its standard error, and the page that shows them.

``python validation/report.py`` writes ``validation/results.json`` into ``docs/validation.md``. A table stands between
``<!-- table: NAME -->`` and ``<!-- end -->``; all else on the page is written by hand.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results.json"
PAGE = ROOT / "docs" / "validation.md"
PEERS = Path(os.environ.get("PEERS", ROOT / ".venv-peers")) / "bin" / "python"
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Row(NamedTuple):
    """One line of a table: what was found, and what it should be, each with its standard error."""

    case: str
    quantity: str
    found: float
    error: float
    exact: float
    exact_error: float = 0.0

    @property
    def deviation(self) -> float:
        """Standard errors between both."""
        return (self.found - self.exact) / math.hypot(self.error, self.exact_error)


def of_systems(values: torch.Tensor) -> tuple[float, float]:
    """Return the mean of `values` [n, S] of independent systems, and its standard error."""
    means = values.double().mean(0)
    return float(means.mean()), float(means.std() / math.sqrt(len(means)))


def of_blocks(values: torch.Tensor, blocks: int) -> tuple[float, float]:
    """Return the mean of a few long series [n, S], and its standard error, from so many blocks of each."""
    length = len(values) // blocks
    return of_systems(values[: blocks * length].reshape(blocks, length, -1).mean(1).reshape(1, -1))


def table(rows: list[Row]) -> str:
    """Return `rows` as a table."""
    lines = [["", "", "athanor", "should be", "deviation"], ["---", "---", "---:", "---:", "---:"]]
    lines += [
        [row.case, row.quantity, with_error(row.found, row.error), with_error(row.exact, row.exact_error),
         f"{row.deviation:+.1f} σ"] for row in rows
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_error(value: float, error: float) -> str:
    """Return ``0.7421 ± 0.0003``: the error with one digit, the value with as many."""
    if error <= 0.0:
        return f"{value:.5g}"
    digits = max(0, -math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def summary(checks: dict[str, dict[str, float]]) -> str:
    """Return a line for each engine: how many checks, and the largest deviation."""
    lines = [["", "checks", "largest deviation", "of"], ["---", "---:", "---:", "---"]]
    for name, found in checks.items():
        worst = max(found, key=lambda each: abs(found[each]))
        lines.append([name, str(len(found)), f"{found[worst]:+.1f} σ", worst])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(text: str, results: dict[str, Any]) -> str:
    """Return the page `text` with the tables of `results` in their places."""
    tables = {name: table([Row(*row) for row in rows]) for name, rows in results["tables"].items()}
    tables |= {name: summary(found) for name, found in results["checks"].items()}
    tables["machine"] = results["machine"]
    places = {found.group(2) for found in PLACE.finditer(text)}
    if places != tables.keys():
        raise ValueError(f"docs/validation.md has places for {sorted(places)}, the results are {sorted(tables)}")
    return PLACE.sub(lambda found: f"{found.group(1)}{tables[found.group(2)]}\n{found.group(3)}", text)


def machine() -> str:
    """Return when, at which version and with what the results were found."""
    from importlib import metadata

    import athanor

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numba", "ase", "chgnet"))
    day = datetime.date.today()
    return f"Found on {day} with athanor {athanor.__version__}, {versions}, on one core, in double precision."


def write() -> None:
    """Bring the page up to date."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write())
