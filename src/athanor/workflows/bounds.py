"""Bounds of outputs of the model above which a system is stopped, as jobs, the command line and Python write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from athanor._values import did_you_mean, is_real, shown
from athanor.errors import InputError
from athanor.workflows.quantities import FORCE, PRESSURE, Quantity, format_quantity, parse_quantity

_QUANTITIES = {"eV/Å": FORCE, "eV/Å³": PRESSURE}
"""Unit of a field -> what its bound is read as; others are plain numbers."""


def parse_bounds(value: Any) -> Any:
    """Return name -> bound in the unit of the field.

    Parameters
    ----------
    value
        A mapping such as ``{"max_force_deviation": "300 meV/Å"}``, or texts ``NAME=BOUND``. A bare number is in the
        unit of the field; of a stress it is GPa.

    Raises
    ------
    InputError
        If it is neither, or a bound is no number.

    Examples
    --------
    >>> parse_bounds(["max_force_deviation=300 meV/Å"])
    {'max_force_deviation': 0.3}
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        value = dict(map(_name_and_bound, value))
    if not isinstance(value, Mapping):
        raise InputError(f"{shown(value)} names no bounds; write for example `{{max_force_deviation: 0.3}}`.")
    return {str(name): _bound(str(name), bound) for name, bound in value.items()}


def _name_and_bound(text: Any) -> tuple[str, str]:
    name, separator, bound = str(text).partition("=")
    if not separator or not name.strip():
        raise InputError(f"{shown(text)} is not NAME=BOUND, for example `max_force_deviation=0.3`.")
    return name.strip(), bound


def _bound(name: str, bound: Any) -> float:
    quantity = _quantity_of(name)
    if quantity is not None:
        return parse_quantity(bound, quantity)
    try:
        found = float(bound) if isinstance(bound, str) or is_real(bound) else None
    except ValueError:
        found = None
    if found is None or found != found:
        raise InputError(f"the bound of `{name}` is {shown(bound)}; it must be a number.")
    return found


def format_bounds(bounds: Mapping[str, float]) -> dict[str, float | str]:
    """Return bounds as `parse_bounds` reads them back."""
    quantities = {name: _quantity_of(name) for name in bounds}
    return {
        name: bound if (quantity := quantities[name]) is None else format_quantity(bound, quantity)
        for name, bound in bounds.items()
    }


def _quantity_of(name: str) -> Quantity | None:
    from athanor.data.fields import FIELDS  # here: who only reads settings does without torch

    return _QUANTITIES.get(FIELDS[name].unit) if name in FIELDS else None


def check_bounds(bounds: Mapping[str, float], model: Any) -> None:
    """Refuse bounds of what a model does not compute.

    Raises
    ------
    InputError
        With the name, the nearest one, and all there are.
    """
    outputs = model.model_config.outputs
    for name in bounds:
        if name not in outputs:
            called = model.model_card.name or type(model).__name__
            raise InputError(
                f"`stop_above` names {name!r}, which {called} does not compute.{did_you_mean(name, outputs)} "
                f"It computes {', '.join(sorted(outputs))}; a committee of models computes how far they disagree."
            )
