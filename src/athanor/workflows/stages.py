"""The stages a run can have, relaxation and dynamics, as validated descriptions made from the table of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_validator,
)

from athanor._values import shown
from athanor.errors import InputError
from athanor.workflows import methods
from athanor.workflows.courses import Course, format_course, parse_course, values_of
from athanor.workflows.methods import KINDS, MD, RELAX, TIMESTEP, Method, StageKind
from athanor.workflows.quantities import TIME, Quantity, format_quantity, parse_quantity
from athanor.workflows.settings import Setting


def no_bool(value: Any) -> Any:
    """Return `value`, as a validator of a whole number sees it; raises InputError if it is a bool."""
    if isinstance(value, bool):  # YAML reads `yes` and `on` as one
        raise InputError(f"it must be an integer; got {value}.")
    return value


Whole = Annotated[int, BeforeValidator(no_bool), Field(lt=2**63)]
Count = Annotated[Whole, Field(ge=1)]


class Description(BaseModel):
    """Base of everything a job holds: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class _Unset:
    """Default of a setting that was not given: the method has its own."""


class StageSpec(Description):
    """One stage: its method, and a value for each setting; None for those that only other methods take."""

    if TYPE_CHECKING:
        kind: str
        steps: int
        quick_steps: int | None

        def __getattr__(self, name: str) -> Any:
            """Settings are those of the table."""

    @property
    def method(self) -> Method:
        """Entry of the table."""
        kind = KINDS[self.kind]
        return methods.of_kind(kind)[getattr(self, kind.chooser)]

    def quick(self) -> Self:
        """Return this stage with its `quick_steps`, if it has them, and what changes during it as much quicker."""
        if self.quick_steps is None:
            return self
        share = self.quick_steps / self.steps if self.steps else 1.0
        courses = {name: value.squeezed(share) for name, value in self if isinstance(value, Course)}
        return self.model_copy(update={"steps": self.quick_steps, **courses})

    def in_words(self) -> str:
        """Return ``NVT at 300 K, 600 steps``."""
        settings = self.model_dump(mode="json", exclude_none=True)
        return f"{self.method.in_words(settings)}, {self.method.kind.length.format_map(settings)}"


def type_of(setting: Setting) -> Any:
    """Return the type with which pydantic checks a setting."""
    quantity = setting.quantity
    found: Any = Literal[setting.choices] if setting.choices else quantity
    if isinstance(quantity, Quantity):
        read, write = (parse_course, format_course) if setting.may_change else (parse_quantity, format_quantity)
        found = Annotated[
            float | Course if setting.may_change else float,
            BeforeValidator(partial(read, quantity=quantity)),
            AfterValidator(partial(_within_bounds, setting=setting, quantity=quantity)),
            PlainSerializer(partial(write, quantity=quantity), return_type=str, when_used="unless-none"),
        ]
    elif quantity is int:
        found = Annotated[Whole, Field(gt=setting.above, ge=setting.at_least)]
    return found | None if setting.only or setting.default is None else found


def _within_bounds(value: float | Course, setting: Setting, quantity: Quantity) -> float | Course:
    for each in values_of(value):
        _check_bounds(each, setting, quantity)
    return value


def _check_bounds(value: float, setting: Setting, quantity: Quantity) -> None:
    if setting.above is not None and value <= setting.above:
        least = "positive" if setting.above == 0 else f"above {setting.above:g}"
        raise InputError(f"this must be {least}; got {format_quantity(value, quantity)}.")
    if setting.at_least is not None and value < setting.at_least:
        least = "zero or positive" if setting.at_least == 0 else f"at least {setting.at_least:g}"
        raise InputError(f"this must be {least}; got {format_quantity(value, quantity)}.")
    if setting.at_most is not None and abs(value) > setting.at_most * quantity.units[quantity.default]:
        raise InputError(
            f"{format_quantity(value, quantity)} is too much; at most {setting.at_most:g}. "
            f"A bare number is read in {quantity.default}."
        )


def _setting_value(cls: Any, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Take the default of the method where nothing was given, and refuse a setting that it does not have."""
    kind, name = KINDS[cls.model_fields["kind"].default], str(info.field_name)
    is_given = value is not _Unset and (value is not None or not methods.all_settings(kind)[name].only)
    if kind.chooser not in info.data:  # it is wrong, which is said already
        return validate(value) if is_given else None
    method = methods.of_kind(kind)[info.data[kind.chooser]]
    taken = method.all_settings()
    if is_given:
        if name not in taken and name not in method.ignores:
            raise InputError(f"{kind.chooser} `{method.name}` does not take it. It takes {', '.join(taken)}.")
        return _of_method(method, taken.get(name), validate(value))
    default = taken[name].default if name in taken else None
    if default is ...:
        raise InputError(f"{kind.chooser} `{method.name}` needs it.")
    return None if default is None else validate(default)


def _of_method(method: Method, setting: Setting | None, value: Any) -> Any:
    """Return a value that fits the setting of its name, and refuse what that of the method at hand is narrower in."""
    if setting is not None and isinstance(setting.quantity, Quantity) and value is not None:
        _within_bounds(value, setting, setting.quantity)
        if isinstance(value, Course) and not setting.may_change:
            chooser = method.kind.chooser
            raise InputError(f"it can not change during a stage of {chooser} `{method.name}`; give one value.")
    return value


def _stage_of(kind: StageKind) -> Any:
    """Return the description of stages of one kind, its fields made from the table."""
    settings = [setting for setting in methods.all_settings(kind).values() if not setting.sets]
    fields: dict[str, Any] = {"kind": (Literal[kind.name], kind.name)}
    for setting in settings:
        needed = setting.default is ... and not setting.only
        default = ... if needed else kind.default if setting.name == kind.chooser else _Unset
        fields[setting.name] = (type_of(setting), Field(default, description=setting.comment))
    check = field_validator(*(setting.name for setting in settings[1:]), mode="wrap")(_setting_value)
    return create_model(
        f"_{kind.panel}", __base__=StageSpec, __module__=__name__, __validators__={"_setting_value": check}, **fields
    )


class RelaxSpec(_stage_of(RELAX)):  # type: ignore[misc]
    """Relax atoms, and the cell of periodic systems."""


class MDSpec(_stage_of(MD)):  # type: ignore[misc]
    """Molecular dynamics."""

    @model_validator(mode="after")
    def _courses_fit(self) -> Self:
        for name, value in self:
            if isinstance(value, Course):
                try:
                    value.within(self.steps * self.timestep)
                except InputError as error:
                    raise InputError(f"`{name}`: {error}") from None
        return self

    @model_validator(mode="before")
    @classmethod
    def _time_to_steps(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "time" not in value:
            return value
        rest = {key: item for key, item in value.items() if key != "time"}
        if "steps" in rest:
            raise InputError("give `time` or `steps`, not both.")
        step = rest.get("timestep", TIMESTEP.default)
        length, step = positive_time(value["time"], "time"), positive_time(step, "timestep")
        if not math.isfinite(length / step):
            raise InputError(f"`time` {shown(value['time'])} is too many steps of `timestep`.")
        return rest | {"steps": max(1, round(length / step))}


Stage = Annotated[RelaxSpec | MDSpec, Field(discriminator="kind")]


def describe_stages(stages: Sequence[StageSpec]) -> str:
    """Return ``relaxation, at most 200 steps, then NVT at 300 K, 600 steps``."""
    return ", then ".join(stage.in_words() for stage in stages)


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
        if kind not in KINDS:
            raise InputError(f"stage {place} is {shown(kind)}; use `relax` or `md`.")
        if settings is not None and not isinstance(settings, dict):
            raise InputError(
                f"stage {place} (`{kind}`) must hold settings such as `steps: 100`; got {shown(settings)}."
            )
        return {"kind": kind, **(settings or {})}
    return item


def positive_time(value: Any, key: str) -> float:
    """Return the time in fs that `key` was given as.

    Raises
    ------
    InputError
        If it is none, or not positive.
    """
    try:
        time = parse_quantity(value, TIME)
    except InputError as error:
        raise InputError(f"`{key}`: {error}") from None
    if time <= 0.0:
        raise InputError(f"`{key}` must be positive; got {shown(value)}.")
    return time
