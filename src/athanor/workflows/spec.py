"""What a run is, as one validated description: structures, model, stages, and where results go.

Jobs (YAML), the command line and Python all make a `RunSpec`; unknown keys and wrong units are refused with their
place. Nothing here loads torch.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, field_validator, model_validator

from athanor.errors import InputError
from athanor.workflows.quantities import TIME, Force, Pressure, Rate, Temperature, Time, parse_quantity

PathText = Annotated[Path, PlainSerializer(str, return_type=str)]
Steps = Annotated[int, Field(ge=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelSpec(_Spec):
    """A potential by name, and the arguments of its wrapper.

    In a job: ``model: chgnet``, or ``model: {name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}``.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "options" not in value:
            return {"name": value.get("name"), "options": {k: v for k, v in value.items() if k != "name"}}
        return value

    def to_job(self) -> Any:
        """Return the short form that a job would hold."""
        return self.name if not self.options else {"name": self.name, **self.options}


class SourceSpec(_Spec):
    """Where structures come from: one of a file or a named collection.

    Parameters
    ----------
    file
        Anything ASE reads; relative to the job file.
    index
        Frames of the file: an integer or a slice such as ``"::10"``.
    collection
        ``ase:NAME`` takes a collection of ASE, for example ``ase:dcdft``.
    names
        Members of the collection; all if absent.
    compare_cell
        The cell in the source is a value from the literature: report the relaxed one against it.
    """

    file: PathText | None = None
    index: str | int = ":"
    collection: str | None = None
    names: tuple[str, ...] | None = None
    compare_cell: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str | os.PathLike) else value

    @model_validator(mode="after")
    def _one_of_two(self) -> SourceSpec:
        if (self.file is None) == (self.collection is None):
            raise InputError("a source needs exactly one of `file` and `collection`.")
        if self.names is not None and self.collection is None:
            raise InputError("`names` picks members of a `collection`; for a file use `index`.")
        return self


class _StageSpec(_Spec):
    steps: Steps
    quick_steps: Steps | None = None


class RelaxSpec(_StageSpec):
    """Relax atoms, and the cell of periodic systems, with FIRE.

    Parameters
    ----------
    fmax
        Largest force norm of a relaxed structure, eV/Å.
    smax
        Largest component of stress plus pressure of a relaxed structure; a bare number is GPa.
    pressure
        Target pressure, compression positive; a bare number is GPa.
    steps
        At most so many steps for each system; `quick_steps` in a quick run.
    fixed_cell
        Move atoms only.
    """

    kind: Literal["relax"] = "relax"
    fmax: Force = 0.05
    smax: Pressure = 0.05
    pressure: Pressure = 0.0
    steps: Steps = 500
    fixed_cell: bool = False

    @field_validator("fmax", "smax")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0.0:
            raise InputError("a threshold must be positive.")
        return value


class MDSpec(_StageSpec):
    """Molecular dynamics at constant volume.

    Parameters
    ----------
    ensemble
        ``"nvt"`` (Langevin, BAOAB) or ``"nve"`` (velocity Verlet).
    temperature
        K; of the thermostat, and of the velocities that systems start with.
    time, steps
        Length; one of the two. A bare time is fs.
    timestep
        A bare number is fs.
    friction
        A bare number is 1/fs.
    """

    kind: Literal["md"] = "md"
    ensemble: Literal["nvt", "nve"] = "nvt"
    temperature: Temperature = 300.0
    timestep: Time = 1.0
    friction: Rate = 0.01

    @model_validator(mode="before")
    @classmethod
    def _time_to_steps(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "time" not in value:
            return value
        rest = {key: item for key, item in value.items() if key != "time"}
        if "steps" in rest:
            raise InputError("give `time` or `steps`, not both.")
        length, step = parse_quantity(value["time"], TIME), parse_quantity(rest.get("timestep", 1.0), TIME)
        if length <= 0.0 or step <= 0.0:
            raise InputError("`time` and `timestep` must be positive.")
        return rest | {"steps": max(1, round(length / step))}

    @model_validator(mode="after")
    def _sensible(self) -> MDSpec:
        if self.timestep <= 0.0:
            raise InputError("`timestep` must be positive.")
        if self.temperature < 0.0 or self.friction < 0.0:
            raise InputError("`temperature` and `friction` must not be negative.")
        return self


Stage = Annotated[RelaxSpec | MDSpec, Field(discriminator="kind")]


class RunSpec(_Spec):
    """A whole run.

    Parameters
    ----------
    structures
        Sources, in order. Empty when structures come from Python.
    model
        Potential; see `ModelSpec`.
    stages
        What every system goes through, in order, all in the same batch.
    min_atoms
        Repeat periodic cells until they hold at least so many atoms.
    every
        Steps between frames and between rows of the log.
    seed
        Seed of velocities and noise.
    dtype
        ``"float64"`` or ``"float32"``, of positions, forces and energies.
    threads
        CPU threads; all cores if absent.
    max_atoms
        Largest number of atoms in one batch; from the memory at hand if absent.
    allow_failures
        Systems that are set aside do not make the run a failure.
    output
        Folder for the results.
    """

    title: str = ""
    structures: tuple[SourceSpec, ...] = ()
    model: ModelSpec | None = None
    stages: tuple[Stage, ...]
    min_atoms: Annotated[int, Field(ge=1)] = 1
    every: Annotated[int, Field(ge=1)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    dtype: Literal["float32", "float64"] = "float64"
    threads: Annotated[int, Field(ge=1)] | None = None
    max_atoms: Annotated[int, Field(ge=1)] | None = None
    allow_failures: bool = False
    output: PathText | None = None

    @field_validator("structures", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value

    @field_validator("stages", mode="before")
    @classmethod
    def _from_named_stages(cls, value: Any) -> Any:
        """Read ``- relax: {...}`` as ``- {kind: relax, ...}``."""
        if not isinstance(value, list | tuple):
            return value
        if not value:
            raise InputError("at least one stage is needed, for example `- relax: {steps: 200}`.")
        return [_named_stage(place, item) for place, item in enumerate(value)]

    def quick(self) -> RunSpec:
        """Return this run with the `quick_steps` of every stage that has them."""
        stages = [
            stage if stage.quick_steps is None else stage.model_copy(update={"steps": stage.quick_steps})
            for stage in self.stages
        ]
        return self.model_copy(update={"stages": tuple(stages)})

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
        for key in ("title", "structures"):
            if not plain.get(key):
                plain.pop(key, None)
        return plain


def _named_stage(place: int, item: Any) -> Any:
    if isinstance(item, str):
        return {"kind": item}
    if isinstance(item, dict) and "kind" not in item:
        if len(item) != 1:
            raise InputError(f"stage {place} has the keys {', '.join(map(str, item))}; name one of `relax` and `md`.")
        kind, settings = next(iter(item.items()))
        if kind not in ("relax", "md"):
            raise InputError(f"stage {place} is {kind!r}; use `relax` or `md`.")
        if settings is not None and not isinstance(settings, dict):
            raise InputError(f"stage {place} (`{kind}`) must hold settings such as `steps: 100`; got {settings!r}.")
        return {"kind": kind, **(settings or {})}
    return item


def load_job(path: str | os.PathLike[str]) -> RunSpec:
    """Read a YAML job.

    Raises
    ------
    InputError
        If the file is missing or not YAML, or a key or value is wrong; the text has the file, the key path, what was
        found and what is expected.
    """
    import yaml

    file = Path(path)
    if not file.is_file():
        raise InputError(f"`{file}` does not exist or is not a file. Pass the path of a YAML job.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"`{file}` is not text (UTF-8): {error.reason} at byte {error.start}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"`{file}`{where}: not valid YAML: {problem}.") from error
    if not isinstance(content, dict):
        raise InputError(f"`{file}` holds {type(content).__name__}; a job is a mapping with `structures` and `stages`.")
    spec = make_spec(content, where=str(file))
    if not spec.structures:
        raise InputError(f"`{file}`: `structures` is missing. List files or collections, for example `- file: a.cif`.")
    sources = tuple(
        source
        if source.file is None or source.file.is_absolute()
        else source.model_copy(update={"file": file.parent / source.file})
        for source in spec.structures
    )
    return spec.model_copy(update={"structures": sources})


def make_spec(values: dict[str, Any], *, where: str = "") -> RunSpec:
    """Validate plain values.

    Raises
    ------
    InputError
        If a key or value is wrong; each problem on its own line with its key path, and the nearest key that exists.
    """
    try:
        return RunSpec.model_validate(values)
    except ValidationError as error:
        prefix = f"`{where}`: " if where else ""
        raise InputError(prefix + describe_problems(error)) from error


def describe_problems(error: ValidationError) -> str:
    """Return one line per problem: which key, what was expected, what came."""
    return ("\n" + " " * 2).join(_describe(problem) for problem in error.errors(include_url=False))


def _describe(problem: Any) -> str:
    place = problem["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    kind, found = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(problem["loc"])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(known)}."
        return f"`{path}` is not a key here. {hint}"
    if kind == "missing":
        return f"`{path}` is missing."
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"`{path}`: {message}" if path else message
    return f"`{path}`: {message[0].lower()}{message[1:]}; got {found!r}."


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    owners: dict[str, type[BaseModel]] = {"relax": RelaxSpec, "md": MDSpec, "structures": SourceSpec}
    owner = next((owners[part] for part in reversed(location[:-1]) if part in owners), RunSpec)
    keys = [name for name in owner.model_fields if name != "kind"]
    return keys + (["time"] if owner is MDSpec else [])
