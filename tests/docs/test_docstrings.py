"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import athanor

FINDER = doctest.DocTestFinder(exclude_empty=True)
MODULES = sorted(module.name for module in pkgutil.walk_packages(athanor.__path__, "athanor."))
EXAMPLES = [
    example for name in MODULES for example in FINDER.find(importlib.import_module(name), name) if example.examples
]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 15


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name.removeprefix("athanor.") for example in EXAMPLES])
def test_example(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=printed.append)
    assert not failed, "".join(printed)
