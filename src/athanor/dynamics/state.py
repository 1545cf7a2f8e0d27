"""Per-system state of an integrator: named tensors with one row per system.

First start and later arrivals go through the same `make_state` of the engine; this module only stores, selects and
aligns rows. Anything that a restart needs is in these tensors.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._values import is_real
from athanor.errors import ArgumentError, InputError, ShapeError


class IntegratorState:
    """Named tensors whose leading size is the number of systems.

    Parameters
    ----------
    **tensors
        Tensors [B, ...]; each becomes an attribute.

    Raises
    ------
    ShapeError
        If the leading sizes differ.
    """

    def __init__(self, **tensors: Tensor) -> None:
        sizes = {name: value.shape[0] for name, value in tensors.items()}
        if len(set(sizes.values())) > 1:
            raise ShapeError(f"integrator state rows differ: {sizes}. Give every tensor one row per system.")
        self.__dict__.update(tensors)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor: ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return dict(vars(self))

    def select(self, rows: Tensor) -> IntegratorState:
        """Return the state of the systems `rows` (int64 or bool), copied."""
        return IntegratorState(**{name: value[rows] for name, value in vars(self).items()})

    def assign_(self, mask: Tensor, fresh: IntegratorState) -> None:
        """Overwrite, in place, the rows where `mask` [B] is true with those of `fresh`."""
        for name, value in vars(self).items():
            rows = mask.reshape(-1, *([1] * (value.ndim - 1)))
            value.copy_(torch.where(rows, getattr(fresh, name), value))

    def aligned(self, old_ids: Tensor, new_ids: Tensor, fresh: IntegratorState) -> IntegratorState:
        """Return `fresh` with the rows of systems that were here before taken from this state, matched by id.

        Raises
        ------
        InputError
            If this is the state of another engine.
        """
        if vars(fresh).keys() != vars(self).keys():
            raise InputError(
                f"The state holds {', '.join(vars(self))}; this engine has {', '.join(vars(fresh))}. Load the state of "
                f"the same engine."
            )
        where_old = {int(number): row for row, number in enumerate(old_ids.flatten().tolist())}
        pairs = [
            (row, where_old[int(number)])
            for row, number in enumerate(new_ids.flatten().tolist())
            if int(number) in where_old
        ]
        if pairs:
            rows, source = (
                torch.tensor(side, dtype=torch.long, device=new_ids.device) for side in zip(*pairs, strict=True)
            )
            for name, value in vars(fresh).items():
                value[rows] = getattr(self, name)[source].to(value)
        return fresh

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the tensors by name."""
        return {name: value.clone() for name, value in vars(self).items()}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> IntegratorState:
        """Return a state with copies of `tensors`."""
        return cls(**{name: value.clone() for name, value in tensors.items()})


class Parameter:
    """A parameter that may be assigned while an engine is in use, as in ``heat.temperature = 600.0``.

    The rows of the state that bear its name are made again before the next step, for all systems.

    Parameters
    ----------
    check
        Called with value, name and `options`; raises if the value makes no sense.
    **options
        Keywords of `check`.
    """

    def __init__(self, check: Callable[..., Any], **options: Any) -> None:
        self._check, self._options = check, options

    @staticmethod
    def names_in(engine_class: type) -> list[str]:
        """Return the names of the parameters of a class of engines."""
        members = {name: entry for cls in engine_class.__mro__ for name, entry in vars(cls).items()}
        return [name for name, entry in members.items() if isinstance(entry, Parameter)]

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, engine: Any, owner: type) -> Any:
        if engine is None:
            return self
        try:
            return vars(engine)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None

    def __set__(self, engine: Any, value: Any) -> None:
        self._check(value, self._name, **self._options)
        vars(engine)[self._name] = value
        vars(engine).setdefault("_assigned", set()).add(self._name)


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


def is_scalar(value: float | Tensor) -> bool:
    """Whether `value` is one number, not one per system."""
    return not isinstance(value, Tensor) or value.ndim == 0


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
        raise ArgumentError(f"`{name}` is {_short(value)}; pass {number}, or a tensor with one for each system.")
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"`{name}` is {_short(value)}; it must be finite{in_unit}.")
    return tensor


def check_positive(value: Any, name: str, unit: str = "", *, zero_allowed: bool = False, most: float = inf) -> None:
    """Raise InputError unless every entry of `value` is finite, positive (or zero, if allowed) and at most `most`."""
    in_unit = f", in {unit}" if unit else ""
    wanted = "zero or positive" if zero_allowed else "positive"
    tensor = check_finite(value, name, unit)
    if not bool(((tensor >= 0) if zero_allowed else (tensor > 0)).all()):
        raise InputError(f"`{name}` is {_short(value)}; it must be finite and {wanted}{in_unit}.")
    if bool((tensor > most).any()):
        raise InputError(f"`{name}` is {_short(value)}; it must be at most {most:g}{in_unit}.")


def _short(value: Any) -> str:
    return reprlib.repr(value.tolist() if isinstance(value, Tensor) else value)
