"""`Config`: the parent of configurations that are made in Python, whose errors are athanor's own."""

from __future__ import annotations

import reprlib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from athanor._values import did_you_mean
from athanor.errors import InputError


class Config(BaseModel):
    """Fields that are checked at construction and on assignment; a refused assignment leaves the old value.

    Raises
    ------
    InputError
        A `ValueError`: for an unknown keyword or field, a fixed field, or a value out of range.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InputError(_told(type(self), error)) from error

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise InputError(_told(type(self), error)) from error


def _told(cls: type[BaseModel], error: ValidationError) -> str:
    """Say what pydantic found in one sentence for each field."""
    return " ".join(_one(cls, problem) for problem in error.errors(include_url=False))


def _one(cls: type[BaseModel], problem: Any) -> str:
    name, kind, found = ".".join(map(str, problem["loc"])), problem["type"], problem.get("input")
    if kind in ("extra_forbidden", "no_such_attribute"):
        hint = did_you_mean(name, cls.model_fields) or f" It has {', '.join(cls.model_fields)}."
        return f"{cls.__name__} has no `{name}`.{hint}"
    if kind == "missing":
        return f"{cls.__name__} needs `{name}`."
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind in ("frozen_field", "frozen_instance"):
        return f"`{name}` of {cls.__name__} is frozen; make a new {cls.__name__} to change it."
    expected = problem["msg"].removeprefix("Input ")
    return f"`{name}` of {cls.__name__} is {reprlib.repr(found)}; it {expected}."
