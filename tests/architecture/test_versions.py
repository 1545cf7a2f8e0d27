"""What is installed for the tests: `constraints*.txt`, and those of models and exports, follow pyproject.toml."""

from __future__ import annotations

import tomllib
import warnings
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [
    text.split()[-1] for text in PROJECT["classifiers"] if text.startswith("Programming Language :: Python :: 3.")
]


def of_makefile(variable: str) -> list[str]:
    """The words that a variable of the Makefile holds; empty if there is none."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    values = [line.partition(":=")[2] for line in lines if line.partition(":=")[0].strip() == variable]
    return values[0].replace(",", " ").split() if values else []


SHARED = of_makefile("SHARED")
APART = sorted((ROOT / "tests").glob("*_apart/constraints-*.txt"))


def wanted(*extras: str) -> list[Requirement]:
    """What the project asks for, with some extras."""
    more = [text for name in extras for text in PROJECT["optional-dependencies"][name]]
    return [Requirement(text) for text in PROJECT["dependencies"] + more]


def pinned(pins: str, python: str) -> list[Requirement]:
    """The lines of a file of constraints that hold on a version of Python."""
    here = {"python_version": python, "python_full_version": f"{python}.9"}
    lines = [Requirement(line) for line in pins.splitlines() if line and not line.startswith("#")]
    return [line for line in lines if line.marker is None or line.marker.evaluate(here)]


def wrong_pins(pins: str, python: str, extras: list[str] = SHARED) -> set[str]:
    """Packages that are not pinned to exactly one version, or not to one that the project allows."""
    lines = pinned(pins, python)
    exact = {line.name: line.specifier for line in lines if [each.operator for each in line.specifier] == ["=="]}
    twice = {name for name, times in Counter(line.name for line in lines).items() if times > 1}
    open_ends = {line.name for line in lines} - set(exact)
    others = {
        each.name
        for each in wanted(*extras)
        if each.name.lower() not in exact
        or not each.specifier.contains(next(iter(exact[each.name.lower()])).version, prereleases=True)
    }
    return twice | open_ends | others


def above_the_floor(pins: str) -> set[str]:
    """Packages whose pin is not of the series that their floor names (2.16 names 2.16.2)."""
    exact = {line.name: Version(next(iter(line.specifier)).version) for line in pinned(pins, PYTHONS[0])}
    floors = {each.name: Version(next(iter(each.specifier)).version) for each in wanted(*set(SHARED) - {"dev", "docs"})}
    return {name for name, floor in floors.items() if exact[name].release[: len(floor.release)] != floor.release}


@pytest.fixture(params=["constraints.txt", "constraints-lowest.txt"])
def pins(request: pytest.FixtureRequest) -> str:
    return (ROOT / request.param).read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_everything_is_pinned_once_on_every_python(pins: str, python: str) -> None:
    assert wrong_pins(pins, python) == set()
    assert not any(word in pins for word in ("://", " @ ", "--", "/"))


@pytest.mark.parametrize("path", APART, ids=lambda path: path.stem)
def test_packages_apart_are_pinned_on_a_python_that_they_have(path: Path) -> None:
    name = path.stem.removeprefix("constraints-")
    extras = [*(of_makefile(f"OF_{name}") or [name]), "dev"]
    pins = path.read_text(encoding="utf-8")
    assert any(wrong_pins(pins, python, extras) == set() for python in PYTHONS)
    assert not any(word in pins for word in ("://", " @ "))


def test_every_extra_is_tested_somewhere() -> None:
    apart = [path.stem.removeprefix("constraints-") for path in APART]
    tested = {*SHARED, *(extra for name in apart for extra in of_makefile(f"OF_{name}") or [name])}
    assert set(PROJECT["optional-dependencies"]) == tested


@pytest.mark.parametrize(
    ("line", "other", "noticed"),
    [
        ("numpy==1.26.4", "", "numpy"),
        ("numpy==1.26.4", "numpy==1.26.3", "numpy"),
        ("numpy==1.26.4", "numpy>=1.26.4", "numpy"),
        ("numpy==1.26.4", "numpy==1.26.4 ; python_full_version < '3.12'", "numpy"),
        ("click==8.1.8", "click==8.1.8\nclick==8.1.7", "click"),
        ("click==8.1.8", "click", "click"),
    ],
)
def test_a_wrong_pin_is_noticed(line: str, other: str, noticed: str) -> None:
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    assert line in text
    assert wrong_pins(text.replace(line, other), "3.12") == {noticed}


def test_the_oldest_versions_are_those_of_the_project() -> None:
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    assert above_the_floor(text) == set()
    assert above_the_floor(text.replace("numpy==1.26.4", "numpy==2.0")) == {"numpy"}


@pytest.mark.parametrize(
    ("module", "ours"),
    [
        ("athanor", True),
        ("athanor.data.batch", True),
        ("/a/folder/src/athanor/kernels/segment/_numba", True),
        ("tests.unit.data.test_batch", True),
        ("docs.tour", True),
        ("ase.io.extxyz", False),
        ("/a/folder/athanor/.venv/lib/python3.12/site-packages/numba/core/typing", False),
    ],
)
def test_a_warning_is_an_error_where_our_code_gives_or_gets_it(module: str, ours: bool) -> None:
    outcome = pytest.raises(DeprecationWarning, match="old") if ours else warnings.catch_warnings(record=True)
    with outcome as found:
        warnings.warn_explicit("old", DeprecationWarning, "a_file.py", 1, module=module)
    assert ours or [str(each.message) for each in found] == ["old"]
