"""The page of validation is what the committed results say, and what deviates is told."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

VALIDATION = Path(__file__).parents[2] / "validation"


@pytest.fixture(autouse=True)
def _validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations as scripts see them."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(VALIDATION)


def test_page_is_rendered_from_results() -> None:
    report = import_module("report")
    text, results = report.PAGE.read_text(encoding="utf-8"), json.loads(report.RESULTS.read_text(encoding="utf-8"))
    assert report.render(text, results) == text, "run `python validation/report.py`"
    results["tables"]["liquid"][0][2] = 0.5
    assert "| 0.5" in report.render(text, results)
    del results["checks"]["canonical"]
    with pytest.raises(ValueError, match="canonical"):
        report.render(text, results)


def test_every_part_has_results_and_none_deviates() -> None:
    validate, report = import_module("validate"), import_module("report")
    results = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    parts = {name for kind in ("checks", "pictures", "tables") for name in results[kind]}
    assert parts == set(validate.PARTS)
    for name in validate.TABLES:
        assert validate.deviating("tables", [report.Row(*row) for row in results["tables"][name]]) == []
    assert max(abs(each) for checks in results["checks"].values() for found in checks.values()
               for each in found.values()) < 5.0  # fmt: skip


def test_what_deviates_is_told() -> None:
    validate, report = import_module("validate"), import_module("report")
    rows = [report.Row("NPT", "density", 0.75, 0.001, 0.74, 0.001), report.Row("NPT", "energy", 1.0, 0.1, 1.1)]
    assert validate.deviating("tables", rows) == ["NPT, density: +7.1"]
    assert validate.deviating("tables", [report.Row("NPT", "density", float("nan"), 0.1, 1.0)])
    assert "| NPT | density | 0.750 ± 0.001 | 0.740 ± 0.001 | +7.1 σ |" in report.table(rows)


def test_a_part_runs() -> None:
    kind, found = import_module("validate").run("canonical", smoke=True)
    assert kind == "checks"
    assert "NVTNoseHoover" in found
