"""Values with a unit, as people write them in jobs and on the command line: ``300 K``, ``0.05 GPa``, ``1ps``.

A bare number means the default unit of the quantity. Everything is kept in the units of the engines (Å, eV, fs, K).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from athanor import units
from athanor._values import is_real
from athanor.errors import InputError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of quantity: default unit, a value for messages, and the size of every unit in that of the engines."""

    name: str
    default: str
    example: str
    units: dict[str, float]


_PRESSURE = {
    "GPa": units.GPa,
    "MPa": 1e-3 * units.GPa,
    "kPa": 1e-6 * units.GPa,
    "Pa": 1e-9 * units.GPa,
    "kbar": 1e3 * units.bar,
    "bar": units.bar,
    "atm": 1.01325 * units.bar,
    "eV/Å^3": 1.0,
}

TEMPERATURE = Kind("temperature", "K", "300", {"K": 1.0})
PRESSURE = Kind("pressure", "GPa", "1.5", _PRESSURE)
FORCE = Kind("force", "eV/Å", "0.05", {"eV/Å": 1.0, "meV/Å": 1e-3})
TIME = Kind("time", "fs", "1.0", {"fs": 1.0, "ps": units.ps, "ns": units.ns})
RATE = Kind("rate", "1/fs", "0.01", {"1/fs": 1.0, "1/ps": 1.0 / units.ps, "1/ns": 1.0 / units.ns})

_LARGEST = 1e15
"""Of every kind, in its default unit: far beyond any use, and far from what overflows."""
_PATTERN = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")


def parse_quantity(value: Any, kind: Kind) -> float:
    """Return `value` in the unit of the engines.

    Parameters
    ----------
    value
        A number (default unit of `kind`) or text such as ``"0.05 GPa"``.
    kind
        What the value is.

    Raises
    ------
    InputError
        If it is no number, not finite, or its unit is not one of the kind.
    """
    example = f"{kind.example} {kind.default}"
    if not (is_real(value) or isinstance(value, str)):
        raise InputError(f"{value!r} is not a {kind.name}; write a number and a unit, for example `{example}`.")
    if isinstance(value, str):
        match = _PATTERN.match(value)
        if match is None:
            raise InputError(f"{value!r} is not a {kind.name}; write a number and a unit, for example `{example}`.")
        number, unit = float(match[1]), _normal(match[2]) or kind.default
    else:
        number, unit = float(value), kind.default
    if unit not in kind.units:
        raise InputError(
            f"{value!r} has the unit {unit!r}, which is not one of {kind.name}: use {', '.join(kind.units)}."
        )
    if not math.isfinite(number):
        raise InputError(f"{value!r} is not finite; a {kind.name} must be a finite number, for example `{example}`.")
    if abs(number) * kind.units[unit] > _LARGEST * kind.units[kind.default]:
        raise InputError(f"{value!r} is beyond any {kind.name}; the largest is {_LARGEST:g} {kind.default}.")
    return number * kind.units[unit]


def _normal(unit: str) -> str:
    """Accept ``A`` and ``Ang`` for Å, ``A3``, ``A**3`` and ``Å³`` for Å^3, ``/ps`` for 1/ps."""
    unit = unit.replace("**", "^").replace("³", "^3").replace("angstrom", "Å").replace("Ang", "Å")
    unit = re.sub(r"/\s*A", "/Å", unit)
    unit = re.sub(r"Å\^?3$", "Å^3", unit)
    return f"1{unit}" if unit.startswith("/") else unit


def format_quantity(value: float, kind: Kind) -> str:
    """Return `value` (unit of the engines) with the default unit; `parse_quantity` reads it back."""
    return f"{value / kind.units[kind.default]:.10g} {kind.default}"


def _reads(kind: Kind) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, kind))


def _writes(kind: Kind) -> PlainSerializer:
    return PlainSerializer(lambda value: format_quantity(value, kind), return_type=str)


Temperature = Annotated[float, _reads(TEMPERATURE), _writes(TEMPERATURE)]
Pressure = Annotated[float, _reads(PRESSURE), _writes(PRESSURE)]
Force = Annotated[float, _reads(FORCE), _writes(FORCE)]
Time = Annotated[float, _reads(TIME), _writes(TIME)]
Rate = Annotated[float, _reads(RATE), _writes(RATE)]
