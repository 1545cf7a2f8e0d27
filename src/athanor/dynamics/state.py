"""What engines remember: state variables, declared once, and parameters that users may assign.

A declared variable has a name, a level, a shape, a unit and a fresh value. Its rows ride on the batch: they are
selected, appended, replaced, saved and undone by the code that does so for fields (`athanor.data._followers`). Anything
that a restart needs is in these rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from athanor._values import is_real, shown
from athanor.data.fields import Level
from athanor.errors import ArgumentError, InputError, UnknownFieldError

if TYPE_CHECKING:
    from athanor.data.batch import Batch

Fresh = Callable[[Any, "Batch", dict[str, Tensor]], Tensor]
"""(engine, batch, variables made before) -> fresh rows."""


class IntegratorState:
    """The state of an engine: named tensors with one row for each system, or for each atom.

    Parameters
    ----------
    **tensors
        Tensors [B, ...], or [N, ...] for a variable that is declared with the level ``"node"``; each becomes an
        attribute.

    Raises
    ------
    ArgumentError
        If one is no tensor.
    """

    def __init__(self, **tensors: Tensor) -> None:
        for name, value in tensors.items():
            if not isinstance(value, Tensor):
                raise ArgumentError(
                    f"State `{name}` is a {type(value).__name__}; it is a tensor with one row for each system. Declare "
                    f"it in the class of the engine: `{name} = StateVariable()`."
                )
        self.__dict__.update(tensors)

    def __setattr__(self, name: str, value: Tensor) -> None:
        """Write `value` into the rows, in place: they ride on the batch, and are not exchanged."""
        if name not in vars(self):
            raise UnknownFieldError(
                f"The state has no `{name}`; it has {', '.join(vars(self)) or 'nothing'}. Declare it in the class of "
                f"the engine: `{name} = StateVariable()`."
            )
        vars(self)[name].copy_(value)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor: ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return dict(vars(self))

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the tensors by name."""
        return {name: value.clone() for name, value in vars(self).items()}


class StateVariable:
    """Declares, as an attribute of an engine's class, something that it remembers from step to step.

    Parameters
    ----------
    level
        ``"system"``: one row for each system; ``"node"``: one for each atom.
    shape
        Of one row.
    unit
        Unit as text.
    fresh
        What a system starts with: a number, or a function of engine, batch and the variables declared before, which
        returns rows for the whole batch.
    dtype
        dtype of the rows; that of the positions unless given.
    is_history
        A ring of past values, in which a step overwrites a slot that no step before it can need. It is not copied in
        every step: a step is undone by putting back the variable that says which slot is the last.
    turns
        What becomes of it when a system is turned in space: ``"vector"``, [..., 3] or rows of them, ``"tensor"``,
        [..., 3, 3]. None: it has no direction.

    Examples
    --------
    >>> from athanor.dynamics.state import StateVariable
    >>> StateVariable("node", (3,), "√(eV/amu)").level
    'node'
    """

    name = ""

    def __init__(
        self,
        level: Level = "system",
        shape: tuple[int, ...] = (),
        unit: str = "",
        fresh: float | Fresh = 0.0,
        dtype: torch.dtype | None = None,
        *,
        is_history: bool = False,
        turns: Literal["vector", "tensor"] | None = None,
    ) -> None:
        self.level, self.shape, self.unit, self.fresh = level, shape, unit, fresh
        self.dtype, self.is_history, self.turns = dtype, is_history, turns

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def make(self, engine: Any, batch: Batch, made: dict[str, Tensor]) -> Tensor:
        """Return fresh rows for every system of `batch`."""
        if callable(self.fresh):
            return self.fresh(engine, batch, made)
        rows = batch.num_nodes if self.level == "node" else batch.num_graphs
        dtype = batch.positions.dtype if self.dtype is None else self.dtype
        return torch.full((rows, *self.shape), self.fresh, dtype=dtype, device=batch.device)

    @classmethod
    def declared_in(cls, engine_class: type) -> dict[str, StateVariable]:
        """Return name -> variable of a class of engines, those of its parents first."""
        return dict(_declared(cls, engine_class))  # type: ignore[arg-type]


@lru_cache(maxsize=200)
def _declared(kind: Any, engine_class: Any) -> tuple[tuple[str, Any], ...]:
    members = {name: entry for one in reversed(engine_class.__mro__) for name, entry in vars(one).items()}
    return tuple((name, entry) for name, entry in members.items() if isinstance(entry, kind))


class Parameter(StateVariable):
    """A parameter that may be assigned while an engine is in use, as in ``heat.temperature = 600.0``.

    Its rows, one for each system, are made again before the next step.

    Parameters
    ----------
    check
        Called with value, name and `options`; raises if the value makes no sense.
    convert
        From the unit of the parameter to that of the rows; the same unless given.
    has_rows
        Whether it may differ between systems; a seed does not.
    shrinks
        Whether a system that tries again after a failure goes on with half of it. The class of the engine declares
        ``halvings = StateVariable(dtype=torch.long)`` then.
    **options
        Keywords of `check`.
    """

    def __init__(
        self,
        check: Callable[..., Any],
        *,
        convert: Callable[[Tensor], Tensor] | None = None,
        has_rows: bool = True,
        shrinks: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(unit=options.get("unit", ""), fresh=self._rows)
        self._check, self._convert, self.has_rows, self._options = check, convert, has_rows, options
        self.shrinks = shrinks

    @staticmethod
    def names_in(engine_class: type) -> list[str]:
        """Return the names of the parameters of a class of engines."""
        return list(Parameter.declared_in(engine_class))

    def _rows(self, engine: Any, batch: Batch, made: dict[str, Tensor]) -> Tensor:
        value = getattr(engine, self.name)
        if is_schedule(value):
            value = value.at(torch.zeros(len(batch), dtype=torch.float64, device=batch.device))
        return self.rows_of(engine, value, batch)

    def rows_of(self, engine: Any, value: Any, batch: Batch) -> Tensor:
        """Return `value` as one row per system, in the unit of the rows."""
        rows = per_system(value, self.name, batch.positions, batch.num_graphs)
        return rows if self._convert is None else self._convert(rows)

    def __get__(self, engine: Any, owner: type) -> Any:
        if engine is None:
            return self
        try:
            return vars(engine)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None

    def __set__(self, engine: Any, value: Any) -> None:
        for each in _values_of(value):
            self._check(each, self.name, **self._options)
        scheduled = vars(engine).setdefault("_scheduled", set())
        scheduled.discard(self.name)
        if is_schedule(value):
            if not (self.has_rows and "entered" in StateVariable.declared_in(type(engine))):
                raise InputError(
                    f"`{self.name}` of {type(engine).__name__} can not follow a schedule. Parameters of dynamics can."
                )
            scheduled.add(self.name)
        vars(engine)[self.name] = value
        vars(engine).setdefault("_assigned", set()).add(self.name)


def parameters_in_words(engine: Any) -> list[str]:
    """Return ``temperature=300 K`` of every parameter of an engine that is not at the default of its constructor."""
    makers = [vars(one)["__init__"] for one in reversed(type(engine).__mro__) if "__init__" in vars(one)]
    defaults = {name: entry.default for make in makers for name, entry in inspect.signature(make).parameters.items()}
    words = []
    for name, parameter in Parameter.declared_in(type(engine)).items():
        value = getattr(engine, name, None) if isinstance(parameter, Parameter) else None
        if value is None or (is_scalar(value) and not isinstance(value, Tensor) and value == defaults.get(name)):
            continue
        numbers = torch.cat([torch.as_tensor(each).double().reshape(-1) for each in _values_of(value)])
        ends = dict.fromkeys(f"{end:g}" for end in (float(numbers.min()), float(numbers.max())))
        unit = parameter.unit.partition(" (")[0]
        words.append(f"{name}={' to '.join(ends)}{unit and ' '}{unit}")
    return words


def _values_of(value: Any) -> list[Any]:
    return value.values if is_schedule(value) else [value]


def make_rows(engine: Any, batch: Batch) -> dict[str, Tensor]:
    """Return fresh rows of every variable that the class of `engine` declares, in the order of declaration."""
    made: dict[str, Tensor] = {}
    for name, variable in StateVariable.declared_in(type(engine)).items():
        if not isinstance(variable, Parameter) or variable.has_rows:
            made[name] = variable.make(engine, batch, made)
    return made


def per_system(value: float | Tensor, name: str, like: Tensor, num_systems: int) -> Tensor:
    """Return `value` as one row per system.

    Parameters
    ----------
    value
        Number, 0-d tensor, or tensor with leading size 1 or `num_systems`. A column [B, 1], the shape of a system
        field of a Batch, counts as [B].
    name
        What the value is called, for messages.
    like
        Tensor whose dtype and device the result takes.
    num_systems
        Number of systems B.

    Returns
    -------
    Tensor
        [B], freshly allocated.

    Raises
    ------
    InputError
        If the shape is none of these, or a value is not finite.
    """
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"`{name}` is not finite: {value}. Give a finite number.")
    if tensor.ndim == 0:
        return tensor.expand(num_systems).clone()
    if tensor.shape[1:] == (1,):
        tensor = tensor[:, 0]
    if tensor.shape[0] not in (1, num_systems):
        raise InputError(
            f"`{name}` has leading size {tensor.shape[0]}; the batch has {num_systems} systems. "
            f"Give one number, or one row per system."
        )
    if tensor.ndim > 1:
        raise InputError(
            f"`{name}` has shape {tuple(tensor.shape)}; it is one number of each of {num_systems} systems, shape "
            f"({num_systems},) or ({num_systems}, 1)."
        )
    return tensor.expand(num_systems).clone()


def is_scalar(value: Any) -> bool:
    """Whether `value` is one number, not one per system, nor a schedule."""
    return not is_schedule(value) and (not isinstance(value, Tensor) or value.ndim == 0)


def is_schedule(value: Any) -> bool:
    """Whether `value` changes while systems move, see `athanor.dynamics.Schedule`."""
    return hasattr(value, "at") and hasattr(value, "points")


def check_finite(value: Any, name: str, unit: str = "") -> Tensor:
    """Return `value` as float64 tensor if it is a number, or a tensor of numbers, and finite.

    Raises
    ------
    InputError
        If it is not; `ArgumentError` if it is something else, such as text or a list.
    """
    in_unit = f", in {unit}" if unit else ""
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bool:
        tensor = value.detach().double()
    elif is_real(value):
        tensor = torch.tensor(float(value), dtype=torch.float64)
    else:
        number = f"a number in {unit}" if unit else "a number"
        raise ArgumentError(f"`{name}` is {shortened(value)}; pass {number}, or a tensor with one for each system.")
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"`{name}` is {shortened(value)}; it must be finite{in_unit}.")
    return tensor


def check_positive(value: Any, name: str, unit: str = "", *, zero_allowed: bool = False, most: float = inf) -> None:
    """Raise InputError unless every entry of `value` is finite, positive (or zero, if allowed) and at most `most`."""
    in_unit = f", in {unit}" if unit else ""
    wanted = "zero or positive" if zero_allowed else "positive"
    tensor = check_finite(value, name, unit)
    if not bool(((tensor >= 0) if zero_allowed else (tensor > 0)).all()):
        raise InputError(f"`{name}` is {shortened(value)}; it must be finite and {wanted}{in_unit}.")
    if bool((tensor > most).any()):
        raise InputError(f"`{name}` is {shortened(value)}; it must be at most {most:g}{in_unit}.")


def shortened(value: Any) -> str:
    """Return `value` for a message: of a tensor its numbers, of many the first ones."""
    return shown(value.tolist() if isinstance(value, Tensor) else value)
