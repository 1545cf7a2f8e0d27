"""The page of learned potentials: every row of the list is on it, and no less memory than was measured."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

from athanor.models.catalogue import BUILT_IN
from athanor.models.entry import ModelEntry

ROOT = Path(__file__).parent.parent.parent
LEARNED = [entry for entry in BUILT_IN.values() if entry.kind == "machine-learned"]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return import_module("model_table")


def measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "potentials.json").read_text(encoding="utf-8"))
    return found["potentials"]


def test_every_learned_potential_is_in_the_table(tables: Any) -> None:
    rows = tables.catalogue()
    assert [name for row in rows for name in row[0].split(", ")] != []
    assert {name for row in rows for name in row[0].split(", ")} == {entry.name for entry in LEARNED}
    assert {len(row) for row in rows} == {len(tables.CATALOGUE)}
    chgnet = next(row for row in rows if row[0].startswith("chgnet"))
    assert chgnet[1:5] == ["chgnet", "89", "BSD-3-Clause, modified", "in the package"]


def test_what_was_measured_is_in_the_table(tables: Any) -> None:
    rows = tables.measured()
    assert [row[0] for row in rows] == list(measured())
    assert {len(row) for row in rows} == {len(tables.MEASURED)}


def test_how_many_times_as_long_is_the_median_of_the_rounds(tables: Any) -> None:
    """Mutants: the ratio of the shortest times; the times of another peer where this one has none."""
    times = {"athanor": [1.0, 2.0, 4.0], "its own calculator": [5.0, 5.0, 5.0], "its own batch": [3.0, 3.0, 8.0]}
    assert tables.times_as_long(times, "its own batch") == "2 times"
    del times["its own batch"]
    assert tables.times_as_long(times, "its own batch") == ""


def says_enough(entry: ModelEntry, kilobytes: float) -> bool:
    return entry.kilobytes_per_atom is None or entry.kilobytes_per_atom >= kilobytes


def test_the_list_says_no_less_memory_than_was_measured() -> None:
    for name, each in measured().items():
        (kilobytes,) = next(row for row in each["rows"] if row["unit"] == "kB")["figures"]["athanor"]
        if each["facts"]["parameters"] == "shipped":
            assert says_enough(BUILT_IN[name], kilobytes), f"{name}: {kilobytes:.0f} kB an atom were measured"
    assert not says_enough(BUILT_IN["chgnet"], 1000.0)  # it would be noticed


def test_benchmarks_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert set(measured()) <= set(import_module("potential_builders").POTENTIALS)


def test_a_peer_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants: the order of systems is another; forces have the other sign; nothing is pushed at all."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    check, systems = import_module("potential_programs").check, [bulk("Cu"), bulk("Si")]
    ours = np.array([-1.0, -2.0]), np.array([[0.1, 0.2, 0.0]] * 3)
    check(ours, (ours[0] + 5e-5, ours[1] - 5e-4), systems)
    for theirs in ((ours[0][::-1], ours[1]), (ours[0], -ours[1])):
        with pytest.raises(AssertionError, match="do not compute the same"):
            check(ours, theirs, systems)
    with pytest.raises(AssertionError, match="do not compute the same"):
        check((ours[0], 0.0 * ours[1]), (ours[0], 0.0 * ours[1]), systems)
