"""Stores written under every zarr that pyproject.toml allows are read, and continued, under every other.

`make test-zarr` runs this; nothing else collects it. Each release is put into a folder of its own, in front of the
packages of an environment of the tests; of several Pythons the first that a release takes. Releases for a newer Python
than those environments have are tried by themselves, to read what athanor wrote, if there is such a Python at all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from tests.everywhere import pythons

ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("ZARR_PLACE", ROOT / ".venv-zarr"))
"""Where releases are kept from one run to the next."""
RELEASES = {
    "3.1.4": (3, 11), "3.1.5": (3, 11), "3.1.6": (3, 11), "3.2.0": (3, 12), "3.2.1": (3, 12), "3.3.0": (3, 12),
    "3.4.0": (3, 12), "3.4.1": (3, 12), "3.4.2": (3, 12),
}  # fmt: skip
"""Every release that is allowed, and the oldest Python that it takes."""
WRITTEN = {"closed", "closed_twice", "closed_objects", "closed_float32", "closed_float64", "open", "open_again"}


@dataclass(frozen=True)
class Member:
    """A release of zarr, the Python that runs it, and what it needs if that Python has no athanor."""

    release: str
    python: str
    behind: Path | None

    def run(self, module: str, *arguments: str) -> str:
        path = [PLACE / self.release, *([self.behind] if self.behind else []), ROOT / "src", ROOT]
        given = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONWARNINGS": "ignore"}
        return output(self.python, "-m", f"tests.zarr_apart.{module}", *arguments, env=given)


def output(*command: str, env: dict[str, str] | None = None) -> str:
    """What a program prints, which must end well."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def install(python: str, place: Path, *what: str) -> Path:
    """Put packages into a folder, once."""
    if not place.is_dir():
        beside = place.with_name(f"{place.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        output(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(beside), *what)
        beside.rename(place)
    return place


def version_of(python: str) -> tuple[int, ...]:
    return tuple(map(int, output(python, "-c", "import sys; print(*sys.version_info[:2])").split()))


@cache
def members() -> dict[str, Member]:
    """By release; those that no Python of this machine takes are absent."""
    whole = {each: version_of(each) for each in [sys.executable, *os.environ.get("PYTHONS", "").split()]}
    bare = {each: tuple(map(int, name.split("."))) for name, each in pythons().items()}
    found: dict[str, Member] = {}
    for release, oldest in RELEASES.items():
        python = next((each for each, version in (whole | bare).items() if version >= oldest), None)
        if python is None:
            continue
        behind = None
        if python not in whole:
            behind = install(python, PLACE / f"python{bare[python][1]}", "-c", "constraints.txt", "zarr")
        install(python, PLACE / release, "--no-deps", f"zarr=={release}")
        found[release] = Member(release, python, behind)
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Stores of each release that athanor runs with."""
    place = tmp_path_factory.mktemp("stores")
    for release, member in members().items():
        if member.behind is None:
            (place / release).mkdir()
            member.run("with_athanor", "write", str(place / release))
    return place


@pytest.mark.parametrize("release", RELEASES)
def test_every_store_is_read(release, stores):
    member = members().get(release)
    if member is None:
        pytest.skip(f"zarr {release} needs Python {'.'.join(map(str, RELEASES[release]))}, which is not here")
    folders = [str(each) for each in sorted(stores.iterdir())]
    ways = (("with_zarr",), ("with_athanor", "read"))[: 2 if member.behind is None else 1]
    for way in ways:
        answer = json.loads(member.run(*way, *folders))
        assert answer["zarr"] == release
        assert answer["found"] == {Path(each).name: dict.fromkeys(WRITTEN, "equal") for each in folders}
    print(f"zarr {release}, Python {answer['python']}: {len(folders)} x {len(WRITTEN)} stores, {len(ways)} ways")


@pytest.mark.parametrize("release", RELEASES)
def test_it_finds_what_it_needs(release):
    """What stands behind a release is what it asks for."""
    member = members().get(release)
    if member is None or member.behind is not None:
        pytest.skip("not run here with athanor")
    (told,) = (PLACE / release).glob("zarr-*.dist-info")
    text = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]), sep='\\n')"
    lines = [line.partition(":")[2].strip() for line in (told / "METADATA").read_text(encoding="utf-8").splitlines()
             if line.startswith("Requires-Dist")]  # fmt: skip
    needed = [each for each in map(Requirement, lines) if each.marker is None]
    versions = output(member.python, "-c", text, *(each.name for each in needed)).split()
    for each, version in zip(needed, versions, strict=True):
        assert each.specifier.contains(version), f"zarr {release} asks for {each}, and {version} is here"


def test_all_that_is_allowed_is_in_the_ring():
    """The oldest of pyproject.toml, and the newest that is pinned."""
    given = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (range_,) = (Requirement(each).specifier for each in given if each.startswith("zarr"))
    assert str(range_) == f">={min(RELEASES)}"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split()[0].partition("==")[2] for line in lines if line.startswith("zarr==")]
    assert set(pinned) <= RELEASES.keys()
    assert max(RELEASES) in pinned


def test_a_value_that_differs_is_told(stores, tmp_path):
    """Broken twin: what was written is remembered wrongly in one number."""
    shutil.copytree(stores / "3.1.4", tmp_path / "copy")
    for file in (tmp_path / "copy").glob("*.npz"):
        with np.load(file) as given:
            changed = dict(given)
        changed["node/positions"][0, 0] += 1e-6
        np.savez(file, **changed)
    for way in (("with_zarr",), ("with_athanor", "read")):
        answer = json.loads(members()["3.1.4"].run(*way, str(tmp_path / "copy")))
        assert all("differ" in each or "AssertionError" in each for each in answer["found"]["copy"].values())
