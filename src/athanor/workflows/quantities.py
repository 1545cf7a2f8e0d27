"""Values as people write them in jobs and on the command line: with a unit, ``300 K`` or ``1ps``, and ``2x2x1``.

A bare number means the default unit of the quantity. Everything is kept in the units of the engines (Å, eV, fs, K).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from athanor import units
from athanor._values import is_real, shown
from athanor.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
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

TEMPERATURE = Quantity("temperature", "K", "300", {"K": 1.0})
PRESSURE = Quantity("pressure", "GPa", "1.5", _PRESSURE)
FORCE = Quantity("force", "eV/Å", "0.05", {"eV/Å": 1.0, "meV/Å": 1e-3})
TIME = Quantity("time", "fs", "1.0", {"fs": 1.0, "ps": units.ps, "ns": units.ns})
CLOCK = Quantity("duration", "s", "60", {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0})
"""Time of the clock on the wall."""
RATE = Quantity("rate", "1/fs", "0.01", {"1/fs": 1.0, "1/ps": 1.0 / units.ps, "1/ns": 1.0 / units.ns})

COMPRESSIBILITY = Quantity(
    "compressibility", "1/GPa", "0.1", {f"1/{unit}": 1.0 / size for unit, size in _PRESSURE.items() if "eV" not in unit}
)

_LARGEST = 1e15
"""Of every quantity, in its default unit: far beyond any use, and far from what overflows."""
_PATTERN = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")


def parse_quantity(value: Any, quantity: Quantity) -> float:
    """Return `value` in the unit of the engines.

    Parameters
    ----------
    value
        A number (default unit of `quantity`) or text such as ``"0.05 GPa"``.
    quantity
        What the value is.

    Raises
    ------
    InputError
        If it is no number, not finite, or its unit is not one of the quantity.
    """
    example = f"{quantity.example} {quantity.default}"
    match = _PATTERN.match(value) if isinstance(value, str) else None
    if match is None and not is_real(value):
        raise InputError(
            f"{shown(value)} is not a {quantity.name}; write a number and a unit, for example `{example}`."
        )
    number, unit = (match[1], _standard_spelling(match[2])) if match else (value, "")
    number, unit = float(number), unit or quantity.default
    if unit not in quantity.units:
        raise InputError(
            f"{shown(value)} has the unit {shown(unit)}, which is not one of {quantity.name}: use "
            f"{', '.join(quantity.units)}."
        )
    if not math.isfinite(number):
        raise InputError(
            f"{shown(value)} is not finite; a {quantity.name} must be a finite number, for example `{example}`."
        )
    if abs(number) * quantity.units[unit] > _LARGEST * quantity.units[quantity.default]:
        raise InputError(
            f"{shown(value)} is beyond any {quantity.name}; the largest is {_LARGEST:g} {quantity.default}."
        )
    return number * quantity.units[unit]


def _standard_spelling(unit: str) -> str:
    """Accept ``A`` and ``Ang`` for Å, ``A3``, ``A**3`` and ``Å³`` for Å^3, ``/ps`` for 1/ps."""
    unit = unit.replace("**", "^").replace("³", "^3").replace("angstrom", "Å").replace("Ang", "Å")
    unit = re.sub(r"/\s*A", "/Å", unit)
    unit = re.sub(r"Å\^?3$", "Å^3", unit)
    return f"1{unit}" if unit.startswith("/") else unit


def format_quantity(value: float, quantity: Quantity) -> str:
    """Return `value` (unit of the engines) with the default unit; `parse_quantity` reads it back."""
    return f"{value / quantity.units[quantity.default]:.10g} {quantity.default}"


def parse_supercell(value: Any) -> tuple[int, int, int]:
    """Return the repeats along a, b and c.

    Parameters
    ----------
    value
        ``"2x2x1"``, ``"2,2,1"``, ``"2 2 1"``, three integers, or one integer (also as text) for all axes.

    Raises
    ------
    InputError
        If it is none of these, or a number is below 1.

    Examples
    --------
    >>> parse_supercell("2x2x1"), parse_supercell(3)
    ((2, 2, 1), (3, 3, 3))
    """
    parts = re.split(r"\s*[x×,]\s*|\s+", value.strip().lower()) if isinstance(value, str) else value
    try:
        parts = [parts] if is_real(parts) else list(parts)
        counts = [int(part) for part in parts if not isinstance(part, bool) and int(part) == float(part)]
    except (TypeError, ValueError, OverflowError):
        parts, counts = [], []
    if len(counts) not in (1, 3) or len(counts) != len(parts) or min(counts) < 1:
        raise InputError(
            f"{shown(value)} is not a supercell; write repeats of at least 1, for example `2x2x1`, or `2`."
        )
    if len(counts) == 1:
        counts *= 3
    return counts[0], counts[1], counts[2]


def format_supercell(counts: Sequence[int]) -> str:
    """Return ``2x2x1``; `parse_supercell` reads it back."""
    return "x".join(map(str, counts))
