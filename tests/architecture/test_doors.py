"""Doors define nothing, and every public name they promise is there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from athanor import _doors

ROWS = [(door, name, home) for door, names in _doors.TABLE.items() for name, home in names.items()]


def what_a_door_defines(source: str) -> list[str]:
    """Names of everything in `source` that is not a docstring, an import, a version, or the shared lookup."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple):
            target = ast.unparse(node.targets[0])
            if target in ("__all__", "__version__") or ast.unparse(node.value) == "door(__name__)":
                continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        found.append(ast.unparse(node).splitlines()[0])
    return found


def test_the_table_is_not_empty() -> None:
    assert len(ROWS) >= 5


@pytest.mark.parametrize(("door", "name", "home"), ROWS, ids=[f"{d}.{n}" for d, n, _ in ROWS])
def test_every_row_resolves(door: str, name: str, home: str) -> None:
    at_the_door, found = getattr(importlib.import_module(door), name), importlib.import_module(home)
    assert at_the_door is (found if home == f"{door}.{name}" else getattr(found, name))
    assert name in dir(importlib.import_module(door))


@pytest.mark.parametrize("door", sorted(_doors.TABLE))
def test_a_door_defines_nothing(door: str) -> None:
    path = Path(str(importlib.import_module(door).__file__))
    assert what_a_door_defines(path.read_text(encoding="utf-8")) == []


def test_a_door_with_code_would_be_noticed() -> None:
    assert what_a_door_defines('"""A door."""\nfrom a import b\n\ndef helper():\n    return b\n')
    assert what_a_door_defines("LIMIT = 3\n")


def test_an_unknown_name_is_an_attribute_error() -> None:
    import athanor

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = athanor.no_such_name


@pytest.mark.parametrize("door", ["athanor.dynamics.hooks", "athanor.dynamics.hooks.profiling"])
def test_a_removed_name_says_what_to_use_instead(door: str) -> None:
    with pytest.raises(ImportError, match=r"StageTimingHook.*TorchProfilerHook"):
        exec(f"from {door} import ProfilerHook")


ADDRESSES = {
    "athanor.data.data": "DataMixin",
    "athanor.dynamics.base": "BaseDynamics",
    "athanor.dynamics.hooks.logging": "LoggingHook",
    "athanor.dynamics.hooks.monitors": "EnergyDriftMonitorHook",
    "athanor.dynamics.hooks.safety": "NaNDetectorHook",
    "athanor.dynamics.sinks": "ZarrData",
}
"""Modules where scripts written for the public design import names from."""


@pytest.mark.parametrize(("door", "name"), ADDRESSES.items())
def test_an_address_of_the_public_design_defines_nothing(door: str, name: str) -> None:
    module = importlib.import_module(door)
    assert name in module.__all__
    assert getattr(module, name).__module__ != door
    assert what_a_door_defines(Path(str(module.__file__)).read_text(encoding="utf-8")) == []
