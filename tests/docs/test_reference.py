"""Every name that a package of athanor offers is described on a page of the reference."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from athanor import _doors

PACKAGES = (
    "analysis",
    "data",
    "dynamics",
    "dynamics.hooks",
    "hooks",
    "io",
    "kernels",
    "models",
    "neighbors",
    "sinks",
    "testing",
)
DOORS = ["athanor", *(f"athanor.{name}" for name in PACKAGES)]


def offered(door: str) -> dict[str, Any]:
    """Name -> object of what `door` exports, in itself or through the table of doors."""
    module = importlib.import_module(door)
    names = {*getattr(module, "__all__", ()), *_doors.TABLE.get(door, ())}
    found = {name: getattr(module, name) for name in sorted(names)}
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


def described(pages: str) -> list[Any]:
    """Objects that the directives of `pages` name, one by one or as a module."""
    found = []
    for home, name in re.findall(r"auto(?:class|function):: ([\w.]+)\.(\w+)", pages):
        found.append(getattr(importlib.import_module(home), name))
    for home in re.findall(r"automodule:: ([\w.]+)", pages):
        found += vars(importlib.import_module(home)).values()
    return found


def missing(door: str, pages: str) -> list[str]:
    known = {id(value) for value in described(pages)}
    return [name for name, value in offered(door).items() if id(value) not in known]


@pytest.fixture(scope="module")
def pages(repository: Path) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in (repository / "docs" / "reference").glob("*.md"))


@pytest.mark.parametrize("door", DOORS)
def test_what_a_door_offers_is_described(door: str, pages: str) -> None:
    assert offered(door)
    assert missing(door, pages) == []


def test_a_name_without_a_description_would_be_noticed(pages: str) -> None:
    without = pages.replace("athanor.sinks.HostMemory", "athanor.sinks.ZarrData")
    assert missing("athanor.sinks", without) == ["HostMemory"]
