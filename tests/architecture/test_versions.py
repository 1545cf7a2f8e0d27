"""`make test-lowest` tests the oldest versions that are allowed: `constraints-lowest.txt` follows pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def floors(project: dict) -> dict[str, Version]:
    """Package -> the oldest version that users may have."""
    extras = project["optional-dependencies"]
    texts = project["dependencies"] + [text for name in extras if name not in ("dev", "docs") for text in extras[name]]
    wanted = [Requirement(text) for text in texts]
    return {each.name: Version(next(iter(each.specifier)).version) for each in wanted}


def differences(wanted: dict[str, Version], pins: str) -> set[str]:
    """Packages whose pin is missing, or is not of the series that their floor names (2.16 names 2.16.2)."""
    pinned = {each.name: next(iter(each.specifier)).version for each in map(Requirement, requirements(pins))}
    return {
        name
        for name, floor in wanted.items()
        if name not in pinned or Version(pinned[name]).release[: len(floor.release)] != floor.release
    }


def requirements(pins: str) -> list[str]:
    return [line for line in pins.splitlines() if line and not line.startswith("#")]


def test_the_oldest_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert differences(floors(project), (ROOT / "constraints-lowest.txt").read_text()) == set()


@pytest.mark.parametrize("pins", ["numpy==1.27.0", "numpy==2.0", ""])
def test_other_versions_are_noticed(pins: str):
    assert differences({"numpy": Version("1.26")}, pins) == {"numpy"}
