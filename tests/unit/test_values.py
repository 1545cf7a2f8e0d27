"""Keywords of calls are checked once, in one wording."""

from __future__ import annotations

from typing import Any

import pytest

from athanor._values import check_keywords, keywords_of
from athanor.dynamics import NVE
from athanor.errors import ArgumentError


class Parent:
    def __init__(self, size: int = 1) -> None: ...


class Child(Parent):
    def __init__(self, name: str, **rest: Any) -> None: ...


def anything(first: int, **rest: Any) -> None: ...


def test_keywords_of_a_class_are_those_of_its_parents_too() -> None:
    assert keywords_of(Child) == ({"name": True, "size": False}, False)
    assert keywords_of(anything) == ({"first": True}, True)
    assert {"model", "dt", "n_steps", "on_error"} <= set(keywords_of(NVE)[0])


def test_unknown_and_missing_ones_are_refused_by_name() -> None:
    check_keywords(Child, {"name": "a", "size": 2}, "Child")
    check_keywords(anything, {"first": 1, "other": 2}, "anything")
    with pytest.raises(ArgumentError, match=r"Child has no option `sise`\. Did you mean `size`\? It takes name, size"):
        check_keywords(Child, ["sise"], "Child", "option")
    with pytest.raises(ArgumentError, match=r"Child needs `name`\. Write name=VALUE"):
        check_keywords(Child, [], "Child", advice="Write KEY=VALUE.")
