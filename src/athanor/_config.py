"""What pydantic finds wrong, in athanor's words; and `Config`, the parent of configurations made in Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from athanor._values import did_you_mean, shown
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
            raise InputError(_explain(type(self), error)) from error

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise InputError(_explain(type(self), error)) from error


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    return " ".join(explain(row, ".".join(map(str, row["loc"])), cls.model_fields, cls.__name__) for row in problems)


def explain(problem: Any, name: str, known: Iterable[str], owner: str = "") -> str:
    """Say in one sentence what is wrong with one value.

    Parameters
    ----------
    problem
        An entry of `pydantic.ValidationError.errors`.
    name
        The value, as whoever gave it would call it; may be empty.
    known
        Names that could stand in its place.
    owner
        Class that it was given to, if the reader knows classes.
    """
    kind, found = problem["type"], shown(problem.get("input"))
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind in ("extra_forbidden", "no_such_attribute"):
        names, near = ", ".join(known), did_you_mean(name.rpartition(".")[2], known)
        if owner:
            return f"{owner} has no `{name}`.{near or f' It has {names}.'}"
        return f"`{name}` is not a key here.{near or (f' Known keys: {names}.' if names else '')}"
    if kind == "missing":
        return f"{owner} needs `{name}`." if owner else f"`{name}` is missing."
    if kind == "value_error":
        return f"`{name}`: {message}" if name and not owner else message
    if kind in ("frozen_field", "frozen_instance"):
        return f"`{name}` of {owner} is frozen; make a new {owner} to change it."
    if owner:
        return f"`{name}` of {owner} is {found}; it {message.removeprefix('Input ')}."
    return f"`{name}`: {message[0].lower()}{message[1:]}; got {found}."
