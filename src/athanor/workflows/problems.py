"""What pydantic found wrong, said in the words of whoever wrote it: a job, the command line, or Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from athanor._config import explain
from athanor.workflows.methods import KINDS, all_settings
from athanor.workflows.settings import FROM_TIME, OUT

Location = tuple[str | int, ...]


def as_key(location: Location) -> str:
    """Return the path of a key in a job: ``stages[0].relax.fmax``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def as_argument(location: Location) -> str:
    """Return the argument of a Python call that a key comes from; empty if it is none."""
    location = tuple(part for part in location if isinstance(part, str))  # an item of a list is named by its list
    name = str(location[-1]) if location else ""
    return "" if name in (*KINDS, "stages") else _ARGUMENTS.get(location[-2:], _ARGUMENTS.get((name,), name))


def as_option(location: Location) -> str:
    """Return the option of the command line that a key comes from; empty if it is none."""
    name = as_argument(location)
    return f"--{name.replace('_', '-')}" if name else ""


_ARGUMENTS: dict[Location, str] = {
    (OUT.name,): OUT.argument,
    ("model", "name"): "model",
    ("structures", "time"): FROM_TIME.name,
    **{(kind.name, name): row.as_argument for kind in KINDS.values() for name, row in all_settings(kind).items()},
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where values came from.

    Parameters
    ----------
    file
        Job they stand in, if any.
    lines
        Line of every key path in it.
    spell
        How the place of a value is written there.
    """

    file: str = ""
    lines: Mapping[Location, int] = field(default_factory=dict)
    spell: Callable[[Location], str] = as_key

    def place(self, location: Location) -> str:
        """Return ```job.yaml`, line 3: ``, or nothing if there is no file."""
        if not self.file:
            return ""
        found: Location = ()
        for part in location:  # pydantic's paths have parts that the file has not, such as the kind of a stage
            if (*found, part) in self.lines:
                found = (*found, part)
        line = self.lines.get(found)
        return f"`{self.file}`: " if line is None else f"`{self.file}`, line {line}: "


def describe_problems(error: ValidationError, root: type[BaseModel] | None = None, origin: Origin | None = None) -> str:
    """Return one line per problem: where, which key, what was expected, what came.

    Parameters
    ----------
    error
        What pydantic raised.
    root
        Description that was being made; names the keys that exist when one is unknown.
    origin
        Where the values came from.
    """
    origin = origin or Origin()
    return "\n  ".join(
        origin.place(row["loc"]) + explain(row, origin.spell(row["loc"]), _known_keys(root, row["loc"][:-1]))
        for row in error.errors(include_url=False)
    )


def _known_keys(root: type[BaseModel] | None, location: Location) -> list[str]:
    """Keys of the description at `location`, found by walking down from `root`."""
    models = [root] if root is not None else []
    for part in location:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = _models_in(fields[0].annotation)
        elif isinstance(part, str):
            models = [model for model in models if part == _kind(model)] or models
    return [name for model in models for name in model.model_fields if name != "kind"]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None
