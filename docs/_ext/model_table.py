"""The directive ``model-table``: learned potentials of `athanor.models.catalogue`, and what was measured of them.

``:::{model-table} catalogue`` shows the rows of the list of models, those that differ in name only in one line;
``:::{model-table} measured`` what ``benchmarks/potentials.json`` holds. Neither can drift from what it shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from docutils import nodes
from field_table import make_table
from sphinx.util.docutils import SphinxDirective

from athanor.models.catalogue import BUILT_IN
from athanor.models.entry import ModelEntry

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "potentials.json"
CATALOGUE = ("name", "extra", "elements", "licence", "parameters", "fitted to", "may read", "MB/atom", "cite")
MEASURED = (
    "name", "parameters", "package", "Python", "dtype", "forces", "ms/atom", "its own calculator", "its own batch",
    "outside the network", "kB/atom", "outputs",
)  # fmt: skip
ORIGIN = {"shipped": "in the package", "downloaded": "downloaded by the package", "yours": "your file", "": ""}


def catalogue() -> list[list[str]]:
    """Return a line for each learned potential; names that share everything else share it."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for entry in BUILT_IN.values():
        if entry.kind == "machine-learned":
            groups.setdefault(tuple(facts(entry)), []).append(entry.name)
    return [[", ".join(names), *shared] for shared, names in groups.items()]


def facts(entry: ModelEntry) -> list[str]:
    """Return what is said of a model beside its name."""
    extra = "" if entry.requires is None else entry.requires.install_target.partition("[")[2].rstrip("]")
    memory = "" if entry.kilobytes_per_atom is None else f"{entry.kilobytes_per_atom / 1000:g}"
    elements = "" if entry.num_elements is None else str(entry.num_elements)
    origin, reads = ORIGIN[entry.weights], ", ".join(entry.inputs)
    return [extra, elements, entry.licence, origin, entry.training_set, reads, memory, entry.citation]


def measured() -> list[list[str]]:
    """Return a line for each potential of the results."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))["potentials"]
    return [[name, *figures(each)] for name, each in results.items()]


def figures(found: dict[str, Any]) -> list[str]:
    """Return what was measured of one potential, as text."""
    said, (times, outside, memory) = found["facts"], (row["figures"] for row in found["rows"])
    ours = min(times["athanor"]) / said["atoms"]
    return [
        said["parameters"],
        said["package"],
        ".".join(said["python"].split(".")[:2]),
        said["dtype"],
        said["forces"],
        f"{ours:.2g}",
        times_as_long(times, "its own calculator"),
        times_as_long(times, "its own batch"),
        f"{min(outside['athanor']):.2g} %",
        f"{min(memory['athanor']):.2g}" if min(memory["athanor"]) < 100 else f"{min(memory['athanor']):,.0f}",
        ", ".join(said["outputs"]),
    ]


def times_as_long(times: dict[str, list[float]], peer: str) -> str:
    """Return how many times as long as ours another evaluation takes, the median of all rounds, as text."""
    if peer not in times:
        return ""
    return f"{median(theirs / ours for theirs, ours in zip(times[peer], times['athanor'], strict=True)):.2g} times"


class ModelTable(SphinxDirective):
    """A table of learned potentials."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        (which,) = self.arguments
        if which == "catalogue":
            return [make_table(CATALOGUE, catalogue(), "model-table")]
        if which == "measured":
            return [make_table(MEASURED, measured(), "model-table")]
        raise self.error(f"model-table: {which!r} is none of catalogue, measured")


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("model-table", ModelTable)
    return {"parallel_read_safe": True}
