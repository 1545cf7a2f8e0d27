"""The page of figures is what the committed results say, and every benchmark runs (tiny, without looking at times)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

import athanor

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Benchmarks as scripts see them, without the programs that a developer may have set up, threads put back."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(BENCHMARKS)
    lennard_jones = import_module("lennard_jones")
    monkeypatch.setattr(lennard_jones, "PEERS", tmp_path / "python")
    lennard_jones.peers.cache_clear()
    yield
    lennard_jones.peers.cache_clear()
    athanor.set_num_threads(threads)


def test_page_is_rendered_from_results() -> None:
    page = import_module("page")
    text, results = page.PAGE.read_text(encoding="utf-8"), json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert page.render(text, results) == text, "run `python benchmarks/page.py`"
    results["tables"]["overhead"][0]["figures"]["athanor"] = [1234.5]
    assert "1,230 µs" in page.render(text, results)
    del results["tables"]["memory"]
    with pytest.raises(ValueError, match="memory"):
        page.render(text, results)


def test_every_benchmark_has_results() -> None:
    results = json.loads(import_module("page").RESULTS.read_text(encoding="utf-8"))
    assert tuple(results["tables"]) == import_module("run").BENCHMARKS
    for rows in results["tables"].values():
        for row in rows:
            assert next(iter(row["figures"])) == "athanor"


def test_ratio_is_taken_round_by_round() -> None:
    harness = import_module("harness")
    figures = {"ours": iter([1.0, 2.0, 4.0]), "theirs": iter([2.0, 8.0])}
    calls = {name: (lambda values=values: next(values)) for name, values in figures.items()}
    row = harness.interleave("case", "ms", calls, {"ours": 3, "theirs": 2})
    assert row["figures"] == {"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 8.0]}
    assert harness.ratios(row, "theirs") == (2.0, 3.0, 4.0)


def test_absent_peers_are_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module("lennard_jones").programs() == ["athanor", "ase"]
    assert "lammps: absent: not set up; run `make bench-peers`" in capsys.readouterr().out


SMOKE = ["overhead", "finished", "start_up", "neighbor_lists", "lennard_jones", "sizes", "memory", "dispersion"]
SMOKE += ["electrostatics", "many_body", "storage", "storage_costs"]


@pytest.mark.parametrize("name", SMOKE)
def test_smoke(name: str) -> None:
    rows = import_module(name).measure(True)
    assert [row["case"] for row in rows]
    assert all(len(figures) and math.isfinite(sum(figures)) for row in rows for figures in row["figures"].values())


@pytest.mark.chgnet
@pytest.mark.filterwarnings("ignore")  # those of the package, at import
@pytest.mark.parametrize("name", ["chgnet_relaxation", "screening", "ase_calculator", "committees", "potentials"])
def test_smoke_of_chgnet(name: str) -> None:
    assert [row["case"] for row in import_module(name).measure(True)]


@pytest.mark.chgnet
def test_smoke_of_variants() -> None:
    found = import_module("variants").measured("chgnet", ["inference", "threads", "graph"], smoke=True)
    assert not [each for each in found.values() if isinstance(each, str)]  # says why there are no figures
    assert len(found) == 3


@pytest.mark.chgnet
def test_what_gives_no_result_in_time_is_told() -> None:
    variants = import_module("variants")
    assert variants.measured("chgnet", ["compiled"], smoke=True, limit=0.1) == {"compiled": "no result in 0.1 s"}


def test_a_variant_is_compared_with_the_better_of_what_is_there() -> None:
    variants = import_module("variants")
    figures = {"two threads of torch": [9.0, 8.0], "halves on two": [3.0, 2.0], "one thread": [4.0, 5.0]}
    assert variants.told("threads", {"figures": figures}) == "0.50"
    assert variants.told("graph", {"figures": {"graph": [1.26, 1.5]}}) == "1.3 %"
    assert variants.told("compiled", "no result in 240 s") == "no result in 240 s"
