"""What a calculation is, as one validated description: structures, model, stages, and where results go.

Jobs (YAML), the command line and Python all make a `RunSpec`; unknown keys and wrong units are refused with their
place. Defaults and comments of keys that are options too stand in `settings` and `methods`. Nothing here loads torch.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from athanor._values import shown
from athanor.errors import InputError
from athanor.io.pipes import STANDARD_INPUT
from athanor.workflows import settings
from athanor.workflows.bounds import format_bounds, parse_bounds
from athanor.workflows.methods import SILENCE, TOPICS
from athanor.workflows.problems import Origin, describe_problems
from athanor.workflows.quantities import format_supercell, parse_supercell
from athanor.workflows.stages import Count, Description, Stage, no_bool, read_stage, type_of
from athanor.workflows.yaml_file import read_yaml

if TYPE_CHECKING:
    Topic = str
else:
    Topic = Literal[TOPICS]
DEFAULT_MODEL = "chgnet"
"""Model of periodic systems when none is named."""


def _usable_path(path: Path) -> Path:
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} holds a zero byte, which no name of a file does.")
    return Path(os.path.expanduser(path))  # frames go to a store that takes `~` for the home folder: all go there


def _drawn(seed: Any) -> Any:
    """A seed from the entropy of the system where the word for it is given; the record holds the number."""
    if seed == settings.RANDOM:
        return secrets.randbits(31)
    if isinstance(seed, str) and not re.fullmatch(r"\s*[+-]?\d+\s*", seed):
        raise InputError(f"{shown(seed)} is no seed; write a whole number, or {settings.RANDOM}.")
    return no_bool(seed)  # here, as pydantic before 2.11 forgets one of two validators


Supercell = Annotated[
    tuple[int, int, int], BeforeValidator(parse_supercell), PlainSerializer(format_supercell, return_type=str)
]
Bounds = Annotated[
    dict[str, float], BeforeValidator(parse_bounds), PlainSerializer(format_bounds, return_type=dict[str, float | str])
]
PathText = Annotated[Path, AfterValidator(_usable_path), PlainSerializer(str, return_type=str)]


class ModelSpec(Description):
    """A potential by name, and the arguments of its wrapper; or several that add up.

    In a job: ``model: chgnet``, or ``model: {name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}``, or a
    list of these, or ``model: chgnet + lennard-jones``.
    """

    name: str
    """Name as `athanor models` lists it, or several joined by ``+``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the wrapper."""
    terms: tuple[ModelSpec, ...] = ()
    """Models that add up, each with its own arguments, instead of `options`."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, list | tuple):
            if not value:
                raise InputError("the list of models is empty; name at least one.")
            found = [cls.model_validate(term) for term in value]
            return {"name": " + ".join(term.name for term in found), "terms": found}
        if isinstance(value, dict) and not value.keys() & {"options", "terms"}:
            return {"name": value.get("name"), "options": {k: v for k, v in value.items() if k != "name"}}
        return value

    def to_job(self) -> Any:
        """Return the short form that a job would hold."""
        if self.terms:
            return [term.to_job() for term in self.terms]
        if "name" in self.options:  # CHGNet's argument is called so
            return {"name": self.name, "options": self.options}
        return self.name if not self.options else {"name": self.name, **self.options}


class SourceSpec(Description):
    """Where structures come from: one of a file or a named collection."""

    file: PathText | None = None
    """Anything ASE reads, or the results folder of a run; relative to the job."""
    index: str | int = ":"
    """Frames of the file: an integer or a slice such as "::10"."""
    time: type_of(settings.FROM_TIME) = None  # type: ignore[valid-type]
    """Of the results of a run instead of a file: the newest frames up to this time; how the run left them if null."""
    collection: str | None = None
    """A collection of ASE instead of a file, for example ase:dcdft."""
    names: tuple[str, ...] | None = None
    """Members of the collection; all if null."""
    compare_cell: bool = False
    """The cell in the source is a value from the literature: report the relaxed one against it."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str | os.PathLike) else value

    @field_validator("index", mode="before")
    @classmethod
    def _frames(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(f'{shown(value)} chooses no frames; write an integer, or a slice such as "::10".')
        return value

    @model_validator(mode="after")
    def _one_of_two(self) -> SourceSpec:
        if (self.file is None) == (self.collection is None):
            raise InputError("a source needs exactly one of `file` and `collection`.")
        if self.names is not None and self.collection is None:
            raise InputError("`names` picks members of a `collection`; for a file use `index`.")
        return self


class CalculationSpec(Description):
    """What an evaluation and a run share: systems, the model, and where and how it is computed."""

    title: str = settings.TITLE.field()
    structures: tuple[SourceSpec, ...] = ()
    """Where structures come from: files or collections, in order."""
    supercell: Supercell = settings.SUPERCELL.field()
    min_atoms: Count = settings.MIN_ATOMS.field()
    strict: bool = settings.STRICT.field()
    model: ModelSpec | None = settings.POTENTIAL.field()
    properties: tuple[str, ...] = settings.PROPERTIES.field()
    device: str = settings.DEVICE.field()
    dtype: Literal["float32", "float64"] = settings.DTYPE.field()
    threads: Count | None = settings.THREADS.field()
    max_atoms: Count | None = settings.MAX_ATOMS.field()
    silence: tuple[Topic, ...] = SILENCE.field()
    output: PathText | None = settings.OUT.field()

    @field_validator("structures", "properties", "silence", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype_by_name(cls, value: Any) -> Any:
        return str(value).removeprefix("torch.")

    @field_validator("device", mode="before")
    @classmethod
    def _known_device(cls, value: Any) -> Any:
        if not re.fullmatch(r"auto|cpu|(cuda|mps)(:\d+)?", str(value)):
            raise InputError(f"{shown(str(value))} is not a device; write cpu, cuda, cuda:1, mps, or auto.")
        return str(value)


class RunSpec(CalculationSpec):
    """A whole run."""

    stages: tuple[Stage, ...]
    """What every system goes through, in order, all in the same batch."""
    stop_above: Bounds = settings.STOP_ABOVE.field()
    on_error: Literal["quarantine", "retry"] = settings.ON_ERROR.field()
    max_retries: Count = settings.MAX_RETRIES.field()
    every: Count = settings.EVERY.field()
    checkpoint: type_of(settings.CHECKPOINT) = settings.CHECKPOINT.field()  # type: ignore[valid-type]
    status: PathText | None = settings.STATUS.field()
    time_limit: type_of(settings.TIME_LIMIT) = settings.TIME_LIMIT.field()  # type: ignore[valid-type]
    seed: Annotated[int, BeforeValidator(_drawn), Field(ge=0, lt=2**63)] = settings.SEED.field()
    allow_failures: bool = False
    """Systems that are set aside do not make the run a failure."""

    @field_validator("stages", mode="before")
    @classmethod
    def _from_named_stages(cls, value: Any) -> Any:
        """Read ``- relax: {...}`` as ``- {kind: relax, ...}``."""
        if not isinstance(value, list | tuple):
            return value
        if not value:
            raise InputError("at least one stage is needed, for example `- relax: {steps: 200}`.")
        return [read_stage(place, item) for place, item in enumerate(value)]

    @model_validator(mode="after")
    def _no_steps_in_one_stage_only(self) -> RunSpec:
        if len(self.stages) > 1 and not all(stage.steps for stage in self.stages):
            raise InputError("a stage with `steps: 0` evaluates structures as they are; let it be the only stage.")
        return self

    def quick(self) -> RunSpec:
        """Return this run with the `quick_steps` of every stage that has them."""
        return self.model_copy(update={"stages": tuple(stage.quick() for stage in self.stages)})

    @property
    def total_steps(self) -> int:
        """Largest number of steps that one system can take."""
        return sum(stage.steps for stage in self.stages)

    def to_job(self) -> dict[str, Any]:
        """Return plain values that, written as YAML, are a job that repeats this run."""
        plain = self.model_dump(mode="json", exclude_none=True)
        plain["stages"] = [{stage.pop("kind"): stage} for stage in plain["stages"]]
        if self.model is not None:
            plain["model"] = self.model.to_job()
        for key in ("title", "structures", "properties", "silence", "stop_above"):
            if not plain.get(key):
                plain.pop(key, None)
        return plain


_Kind = TypeVar("_Kind", bound=CalculationSpec)


def load_job(path: str | os.PathLike[str]) -> RunSpec:
    """Read a YAML job, or that of a run from its ``run.yaml``.

    Raises
    ------
    InputError
        If the file is missing or not YAML, or a key or value is wrong; the text has file, line and key path, what was
        found and what is expected.
    """
    file = Path(path)
    content, lines = read_yaml(file)
    if isinstance(content, dict) and "athanor" in content and isinstance(content.get("job"), dict):
        content, lines = content["job"], {key[1:]: line for key, line in lines.items() if key[:1] == ("job",)}
    if not isinstance(content, dict):
        found = "is empty" if content is None else "holds a list" if isinstance(content, list) else "holds only text"
        raise InputError(
            f"`{file}` {found}; a job is a mapping with the keys `structures` and `stages`. "
            f"`athanor init relax` writes one to start from."
        )
    spec = make_spec(content, Origin(str(file), lines))
    if not spec.structures:
        raise InputError(f"`{file}`: `structures` is missing. List files or collections, for example `- file: a.cif`.")
    return with_files(spec, lambda path: os.path.normpath(file.parent / path))  # an absolute path stays


def with_files(spec: RunSpec, move: Callable[[Path], str | os.PathLike[str]]) -> RunSpec:
    """Return `spec` with other paths of its structures; standard input stays what it is."""

    def moved(source: SourceSpec) -> SourceSpec:
        if source.file is None or str(source.file) == STANDARD_INPUT:
            return source
        return source.model_copy(update={"file": Path(move(source.file))})

    return spec.model_copy(update={"structures": tuple(moved(source) for source in spec.structures)})


def make_spec(values: dict[str, Any], origin: Origin | None = None) -> RunSpec:
    """Validate plain values as a run; see `validated`."""
    return validated(RunSpec, values, origin)


def validated(kind: type[_Kind], values: dict[str, Any], origin: Origin | None = None) -> _Kind:
    """Validate plain values as a description.

    Parameters
    ----------
    kind
        Its class.
    values
        As a job holds them.
    origin
        Where they came from, for messages.

    Raises
    ------
    InputError
        If a key or value is wrong; each problem on its own line with its place, and the nearest key that exists.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(describe_problems(error, kind, origin)) from error
