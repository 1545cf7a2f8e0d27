"""The page of learned potentials: every row of the list is on it, and no less memory than was measured."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

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
