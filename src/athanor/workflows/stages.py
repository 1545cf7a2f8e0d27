"""The stages a run can have, relaxation and dynamics: their settings, units and limits."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from athanor.errors import InputError
from athanor.workflows.quantities import TIME, Force, Pressure, Rate, Temperature, Time, parse_quantity


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # YAML reads `yes` and `on` as one
        raise InputError(f"it must be an integer; got {value}.")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool), Field(lt=2**63)]
Count = Annotated[Whole, Field(ge=1)]


class Description(BaseModel):
    """Base of everything a job holds: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class RelaxSpec(Description):
    """Relax atoms, and the cell of periodic systems, with FIRE."""

    kind: Literal["relax"] = "relax"
    fmax: Force = 0.05
    """Largest force on an atom of a relaxed structure, eV/Å."""
    smax: Pressure = 0.05
    """Largest component of stress plus pressure of a relaxed structure; a bare number is GPa."""
    pressure: Pressure = 0.0
    """Target pressure, compression positive; a bare number is GPa."""
    fixed_cell: bool = False
    """Move atoms only."""
    steps: Count = 500
    """At most so many steps for each system."""
    quick_steps: Count | None = None
    """The same in a run with --quick; `steps` if null."""

    @field_validator("fmax", "smax")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0.0:
            raise InputError("a threshold must be positive.")
        return value


class MDSpec(Description):
    """Molecular dynamics at constant volume."""

    kind: Literal["md"] = "md"
    ensemble: Literal["nvt", "nve"] = "nvt"
    """nvt (Langevin, BAOAB) or nve (velocity Verlet)."""
    temperature: Temperature = 300.0
    """Of the thermostat, and of the velocities that systems start with, K."""
    timestep: Time = 1.0
    """Time step, fs."""
    friction: Rate = 0.01
    """Of the thermostat, 1/fs; 0.001 to 0.05 is usual."""
    steps: Count
    """Length in steps; or write `time` with a unit, for example 1 ps."""
    quick_steps: Count | None = None
    """The same in a run with --quick; `steps` if null."""

    @model_validator(mode="before")
    @classmethod
    def _time_to_steps(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "time" not in value:
            return value
        rest = {key: item for key, item in value.items() if key != "time"}
        if "steps" in rest:
            raise InputError("give `time` or `steps`, not both.")
        length, step = _positive_time(value["time"], "time"), _positive_time(rest.get("timestep", 1.0), "timestep")
        if not math.isfinite(length / step):
            raise InputError(f"`time` {value['time']!r} is too many steps of `timestep`.")
        return rest | {"steps": max(1, round(length / step))}

    @field_validator("timestep")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0.0:
            raise InputError("a time step must be positive.")
        return value

    @field_validator("temperature", "friction")
    @classmethod
    def _not_negative(cls, value: float) -> float:
        if value < 0.0:
            raise InputError("this must not be negative.")
        return value


Stage = Annotated[RelaxSpec | MDSpec, Field(discriminator="kind")]


def describe_stages(stages: Sequence[RelaxSpec | MDSpec]) -> str:
    """Return ``relaxation, at most 200 steps, then NVT at 300 K, 600 steps``."""
    words = []
    for stage in stages:
        if isinstance(stage, RelaxSpec):
            words.append(f"relaxation, at most {stage.steps} steps")
        else:
            at = f" at {stage.temperature:g} K" if stage.ensemble == "nvt" else ""
            words.append(f"{stage.ensemble.upper()}{at}, {stage.steps} steps")
    return ", then ".join(words)


def read_stage(place: int, item: Any) -> Any:
    """Read ``relax: {...}``, number `place` of a job, as ``{kind: relax, ...}``; what is neither is left to pydantic.

    Raises
    ------
    InputError
        If it names no stage, or more than one.
    """
    if isinstance(item, str):
        return {"kind": item}
    if isinstance(item, dict) and "kind" not in item:
        if len(item) != 1:
            raise InputError(f"stage {place} has the keys {', '.join(map(str, item))}; name one of `relax` and `md`.")
        kind, settings = next(iter(item.items()))
        if kind not in ("relax", "md"):
            raise InputError(f"stage {place} is {kind!r}; use `relax` or `md`.")
        if settings is not None and not isinstance(settings, dict):
            raise InputError(
                f"stage {place} (`{kind}`) must hold settings such as `steps: 100`; got {reprlib.repr(settings)}."
            )
        return {"kind": kind, **(settings or {})}
    return item


def _positive_time(value: Any, key: str) -> float:
    try:
        time = parse_quantity(value, TIME)
    except InputError as error:
        raise InputError(f"`{key}`: {error}") from None
    if time <= 0.0:
        raise InputError(f"`{key}` must be positive; got {value!r}.")
    return time
