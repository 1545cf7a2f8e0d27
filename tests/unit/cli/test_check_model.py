"""``athanor check-model``: the report on the screen, for programs, and in the exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest

import athanor.models.registry as registry
from athanor.cli.main import call
from athanor.cli.options import _complete_models
from athanor.models.entry import ModelEntry
from athanor.models.lj import LennardJonesModelWrapper

LJ = ["check-model", "lj"]
for _option in ("epsilon=1.0", "sigma=3.4", "cutoff=8.5", "switch_width=1.5"):
    LJ += ["--model-option", _option]


class Uphill(LennardJonesModelWrapper):
    """A broken twin: its forces have the wrong sign."""

    def __init__(self) -> None:
        super().__init__(epsilon=1.0, sigma=3.4, cutoff=8.5, switch_width=1.5)

    def adapt_output(self, model_output: Any, data: Any) -> Any:
        return super().adapt_output({**model_output, "forces": -model_output["forces"]}, data)


@pytest.fixture
def uphill(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of another package, by its entry point."""
    entry = ModelEntry("uphill", "third party", f"{__name__}:Uphill")
    monkeypatch.setattr(ModelEntry, "load", lambda self: Uphill)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"uphill": entry})
    return "uphill"


def test_a_good_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*LJ, "--element", "Ar", "--element", "Kr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == ["model", "Lennard-Jones (LennardJonesModelWrapper)"]
    assert lines[1].split(maxsplit=1) == ["systems", "8 of Ar and Kr"]
    assert any(line.split()[:2] == ["forces", "passed"] for line in lines)
    assert lines[-1] == "29 checks: 27 passed, 2 not claimed."


def test_a_wrong_model(uphill: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check-model", uphill]) == 69
    shown = capsys.readouterr().out
    assert "failed: forces of " in shown
    assert "3 failed" in shown.splitlines()[-1]


def test_json_is_one_document(uphill: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check-model", uphill, "--json"]) == 69
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["exit_code"]) == (False, 69)
    wrong = {row["check"] for row in document["rows"] if row["verdict"] == "failed"}
    assert wrong == {"forces", "sign of forces", "autograd group"}


def test_every_row_in_single_precision(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check-model", "demo", "--dtype", "float32", "--all"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\nforces ") == 3
    assert "positions in float32" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check-model"], "Missing argument 'NAME'"),
        (["check-model", "chgnett"], "no model `chgnett`. Did you mean `chgnet`"),
        (["check-model", "lj"], "needs `epsilon`, `sigma`, `cutoff`"),
        (["check-model", "lj", "--model-option", "epsilon"], "is not KEY=VALUE"),
        (["check-model", "demo", "--element", "ar"], "`ar` is not the symbol of an element. Did you mean `Ar`"),
        (["check-model", "demo", "--device", "tpu"], "is not a device"),
        (["check-model", "demo", "--dtype", "float16"], "float16"),
    ],
    ids=["name", "model", "needed", "option", "element", "device", "dtype"],
)
def test_mistakes_are_bad_input(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(arguments) == 65
    assert text in " ".join(capsys.readouterr().err.split())


def test_the_shell_completes_the_name() -> None:
    assert [name for name, _ in _complete_models("le")] == ["lennard-jones"]
