"""The signatures of the Python calls are those of the tables, and so is what their docstrings say of arguments."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

import athanor
from athanor.workflows.methods import KINDS, all_settings

sys.path.append(str(Path(__file__).parent.parent.parent / "docs"))

import signatures


@pytest.mark.parametrize("call", signatures.CALLS)
def test_the_source_is_what_the_tables_say(call: str) -> None:
    source = (signatures.WORKFLOWS / f"{call}.py").read_text(encoding="utf-8")
    assert signatures.render(call, source) == source, "run `python docs/signatures.py`"
    wrong = source.replace("max_atoms: int | None", "max_atoms: int")
    assert signatures.render(call, wrong) == source != wrong, "a difference would be noticed"


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_python_takes_every_setting_of_a_stage(kind: object) -> None:
    taken = inspect.signature(getattr(athanor, kind.name)).parameters  # type: ignore[attr-defined]
    settings = {setting.as_argument: setting for setting in all_settings(kind).values() if setting.in_python}
    assert set(settings) < set(taken)
    assert {name: taken[name].default for name in settings} == {
        name: setting.python_default for name, setting in settings.items()
    }
