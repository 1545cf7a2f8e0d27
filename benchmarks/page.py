"""Write the figures of ``benchmarks/results.json`` into ``docs/performance.md``: ``python benchmarks/page.py``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; all else on the page is written by hand.
"""

from __future__ import annotations

import json
import re
from statistics import median
from typing import Any

from harness import ROOT, Row, ratios
from sizes import draw

RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance-sizes.png"
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NAMES = {"ase": "ASE", "lammps": "LAMMPS", "athanor-md": "athanor"}


def render(text: str, results: dict[str, Any]) -> str:
    """Return the page `text` with the tables of `results` in their places."""
    tables = {name: table(rows) for name, rows in results["tables"].items()} | {"machine": machine(results)}
    places = {found.group(2) for found in PLACE.finditer(text)}
    if places != tables.keys():
        raise ValueError(f"docs/performance.md has places for {sorted(places)}, the results are {sorted(tables)}")
    return PLACE.sub(lambda found: f"{found.group(1)}{tables[found.group(2)]}\n{found.group(3)}", text)


def table(rows: list[Row]) -> str:
    """Return `rows` as a table: smallest figures, and for each peer its ratio to ours with the spread over rounds."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    lines = [["", "threads", *(NAMES.get(name, name) for name in names)], ["---", *["---:"] * (len(names) + 1)]]
    for row in rows:
        cells = [cell(row, name) if name in row["figures"] else "–" for name in names]
        lines.append([row["case"], str(row["threads"]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: Row, name: str) -> str:
    """Return a figure: ours with its median, a peer's with its ratio."""
    figures = row["figures"][name]
    text = f"{number(min(figures))} {row['unit']}"
    if name != next(iter(row["figures"])):
        low, middle, high = map(number, ratios(row, name))
        return f"{text}, **{middle}×**" + (f" ({low} to {high})" if low != high else "")
    return text if len(figures) == 1 else f"{text} (median {number(median(figures))})"


def number(value: float) -> str:
    """Return three digits of `value`."""
    return f"{float(f'{value:.3g}'):,g}"


def machine(results: dict[str, Any]) -> str:
    """Return when, where and with which versions the figures were measured."""
    versions = ", ".join(f"{NAMES.get(name, name)} {text}" for name, text in results["versions"].items())
    peers = ", ".join(f"{NAMES.get(name, name)} {text}" for name, text in results["peers"].items())
    return (
        f"Measured on {results['date']} at commit `{results['commit']}`, on {results['cores']} cores of "
        f"{results['cpu']}, {results['system']}.\nVersions: {versions}; {peers}."
    )


def dumps(results: dict[str, Any]) -> str:
    """Return `results` as JSON, the figures of one contestant on a line."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text) + "\n"


def write() -> None:
    """Bring the page and its picture up to date."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    draw(results["tables"]["sizes"], PICTURE)


if __name__ == "__main__":
    write()
